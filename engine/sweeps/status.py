"""How far a sweep is: read from its files, without locking, changing or importing anything heavy.

Works while the sweep runs, after it was killed, and when it is done.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.locks import lock_holder
from engine.runs.directory import RunDirectory
from engine.sweeps.plan_file import FILE, Group, read_plan
from engine.sweeps.timing import checkpoint_step, duration, measured_rate, read_events

STATES = ("done", "running", "stopped", "failed", "pending")
TAIL = 4096  # bytes that surely hold the last line of a metrics log


@dataclass(frozen=True)
class _Run:
    """One run: its id, state, steps taken of all steps (0 before it has begun), and why it failed."""

    id: str
    state: str
    step: int
    steps: int
    reason: str | None


def sweep_status(out: Path) -> dict[str, Any]:
    """State of the sweep folder `out` as one JSON-ready object.

    `counts` of runs by state (done, running, stopped, failed, pending); `groups`: state, runs, step and steps of each,
    who holds it, and the last job and log of a scheduler that it was submitted to;
    `failed`: run and reason; `unplanned`: runs of the last command whose inputs cannot be read; `errors`: what stopped
    the sweep, newest last; `writer`: who holds the lock, or None; `seconds_left`: None where it cannot be told. A group
    is stopped if it has begun and no process works on it. Raises `RunError` if there is no sweep in `out`.
    """
    if not (out / FILE).is_file():
        raise RunError(f"{out}: no sweep has started there ({FILE} is missing); give the --out of `crosstax sweep`")
    plan, events, writer = read_plan(out), read_events(out), lock_holder(out / ".lock")
    holders = [lock_holder(group.lock(out)) for group in plan]
    groups = [(group, _runs(out, group, holder is not None)) for group, holder in zip(plan, holders, strict=True)]
    jobs: dict[str, dict[str, Any]] = {event["group"]: event for event in events if event["event"] == "submitted"}
    runs = [run for _, members in groups for run in members]
    return {
        "folder": str(out),
        "writer": writer,
        "counts": {state: sum(run.state == state for run in runs) for state in STATES},
        "groups": [
            _group(group, members)
            | {"holder": holder, **{name: jobs.get(group.runs[0], {}).get(name) for name in ("job", "log")}}
            for (group, members), holder in zip(groups, holders, strict=True)
        ],
        "failed": [{"run": run.id, "reason": run.reason} for run in runs if run.state == "failed"],
        "unplanned": next((event["runs"] for event in reversed(events) if event["event"] == "unplanned"), []),
        "errors": [event["message"] for event in events if event["event"] == "error"][-3:],
        "seconds_left": _seconds_left(out, groups, events, sum(holder is not None for holder in holders)),
    }


def _runs(out: Path, group: Group, is_current: bool) -> list[_Run]:
    saved = checkpoint_step(group.checkpoint(out))
    return [_run(RunDirectory(out / run_id), is_current, saved) for run_id in group.runs]


def _run(directory: RunDirectory, is_current: bool, saved: int) -> _Run:
    """State of one run; `saved`: steps at its group's checkpoint, where it resumes if no process works on it now."""
    name = directory.path.name
    try:
        steps = directory.steps
    except CrosstaxError:  # a damaged configuration is written again when the sweep resumes
        steps = 0
    if directory.failed:
        return _Run(name, "failed", 0, steps, directory.reason)
    if directory.looks_done:
        return _Run(name, "done", steps, steps, None)
    if is_current:
        return _Run(name, "running", min(_last_step(directory.file("metrics.jsonl")), steps), steps, None)
    return _Run(name, "stopped" if directory.begun else "pending", min(saved, steps), steps, None)


def _last_step(metrics: Path) -> int:
    """Steps in a metrics log, from its last whole line."""
    try:
        with metrics.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - TAIL))
            lines = handle.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"]) + 1
    except (OSError, IndexError, ValueError, KeyError):
        return 0


def _group(group: Group, runs: Sequence[_Run]) -> dict[str, Any]:
    states = {run.state for run in runs}
    state = next(state for state in ("running", "stopped", "pending", "done", "failed") if state in states)
    longest = max(runs, key=lambda run: run.steps)
    return {
        "first": group.runs[0],
        "runs": len(runs),
        "state": state,
        "done": sum(run.state == "done" for run in runs),
        "failed": sum(run.state == "failed" for run in runs),
        "step": max(run.step for run in runs),
        "steps": longest.steps,
        "max_tokens": group.max_tokens,
        "why": group.why,
    }


def _seconds_left(
    out: Path, groups: Sequence[tuple[Group, Sequence[_Run]]], events: Sequence[dict[str, Any]], at_once: int
) -> float | None:
    """Work that is left over the rate of finished groups, or else of the one that runs now; of `at_once` groups."""
    left = 0.0
    for group, runs in groups:
        for run, work in zip(runs, group.work, strict=True):
            if run.state in ("done", "failed"):
                continue
            if work is None:
                return None
            train, evaluate = work
            left += train * (1 - run.step / run.steps if run.steps else 1) + evaluate
    if not left:
        return 0.0
    device = next((event["device"] for event in reversed(events) if event["event"] == "end"), None)
    rate = measured_rate(events, device) or _current_rate(out, groups, events)
    return round(left / rate / max(1, at_once), 1) if rate else None


def _current_rate(
    out: Path, groups: Sequence[tuple[Group, Sequence[_Run]]], events: Sequence[dict[str, Any]]
) -> float | None:
    """Operations per second since the last group began, by the steps in its logs."""
    begun = next((event for event in reversed(events) if event["event"] == "begin"), None)
    for group, runs in groups:
        if begun is None or group.runs[0] != begun["group"]:
            continue
        works = [(work[0], run) for work, run in zip(group.work, runs, strict=True) if work and run.steps]
        taken = sum(train * max(0, run.step - begun["from_step"]) / run.steps for train, run in works)
        written = [path.stat().st_mtime for _, run in works if (path := out / run.id / "metrics.jsonl").is_file()]
        seconds = max(written, default=begun["unix"]) - begun["unix"]
        return taken / seconds if taken and seconds > 0 else None
    return None


def status_text(status: dict[str, Any]) -> str:
    """Lines for people."""
    counts = ", ".join(f"{count} {state}" for state, count in status["counts"].items() if count)
    writer = status["writer"]
    now = (
        f"written to by pid {writer['pid']} on {writer['host']} for {duration(writer['seconds'])}"
        if writer
        else "nobody works on it now"
    )
    held = [group["holder"] for group in status["groups"] if group["holder"]]
    if not writer and held:
        now = f"worked on by {len(held)} processes, of {len({holder['host'] for holder in held})} machines"
    left = status["seconds_left"]
    if left is None:
        eta = "time left not known yet"
    else:
        eta = f"about {duration(left)} left" if left else "all that was planned is over"
    lines = [f"{status['folder']}: {counts}; {eta}; {now}"]
    for group in status["groups"]:
        progress = (
            "trained, evaluating"
            if group["step"] == group["steps"] > 0
            else f"step {group['step']:,} of {group['steps']:,}"
        )
        over = f"{group['done']} done" + (f", {group['failed']} failed" if group["failed"] else "")
        doing = {"running": progress, "stopped": f"goes on from {progress}"}.get(group["state"], over)
        lines.append(f"  {group['state']:<8} {group['runs']:>3} runs, {doing}: {group['first']}, ...")
        if group["job"] and group["state"] != "done":
            lines.append(f"           job {group['job']}, log {status['folder']}/{group['log']}")
    lines += [f"failed: {entry['run']}: {entry['reason']}" for entry in status["failed"]]
    lines += [f"failed before they were planned: {run}" for run in status["unplanned"]]
    if status["failed"]:
        lines.append("`crosstax sweep ... --retry-failed` tries failed runs again")
    lines += [f"stopped by: {message}" for message in status["errors"][-1:] if not writer]
    return "\n".join(lines)
