"""The timing log of a sweep: what was carried out when, on what, and how fast. Outside the promise on bytes.

`timing.jsonl` in the sweep folder has one line for each of

    {"event": "begin", "group": first run, "from_step": n, "by": host and pid, "unix": time}
    {"event": "end", "group": first run, "seconds": s, "flops": work done in them, "device": name, "dtype": name, ...}
    {"event": "submitted", "group": first run, "job": id, "log": file in the sweep folder, "unix": time}
    {"event": "unplanned", "runs": [how many, of which LM, and why], "unix": time}
    {"event": "error", "message": why the sweep stopped, "unix": time}
"""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from cachegen.common.files import append_text

FILE = "timing.jsonl"


def append_event(out: Path, event: str, **facts: Any) -> None:
    """Add a line to the log of the sweep folder `out`."""
    append_text(out / FILE, json.dumps({"event": event, **facts, "unix": round(time.time(), 2)}) + "\n")


def read_events(out: Path) -> list[dict[str, Any]]:
    """All whole lines of the log; a line that is just being written is left out."""
    path = out / FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [event for event in map(_parse, lines) if event is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def measured_rate(
    events: Iterable[dict[str, Any]], device: str | None = None, dtype: str | None = None
) -> float | None:
    """Floating-point operations per second over all finished groups (of that device and precision); None without."""
    ended = [
        event
        for event in events
        if event["event"] == "end"
        and event["flops"]
        and device in (None, event["device"])
        and dtype in (None, event["dtype"])
    ]
    seconds = sum(event["seconds"] for event in ended)
    return sum(event["flops"] for event in ended) / seconds if seconds else None


def checkpoint_step(path: Path) -> int:
    """Steps taken at a group's checkpoint, read without its tensors; 0 if there is none (or none that can be read)."""
    try:
        with safe_open(path, framework="numpy") as file:
            return int(file.metadata()["step"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return 0


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3.4 h, 12 days."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.{0 if seconds >= 10 * size else 1}f} {unit}"
    return f"{seconds:.0f} s"
