"""A tuning study: batches of trials, each an ordinary sweep, until the file's number of trials is reached."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cachegen.common.errors import ConditionError, RunError
from cachegen.common.locks import exclusive_lock
from cachegen.common.progress import tell
from engine.design.condition import Condition, Inputs, Sweep
from engine.runs.directory import RunDirectory
from engine.runs.finished import open_run
from engine.runs.planned import Execution
from engine.sweeps.plan import plan_runs
from engine.sweeps.sweep import Executor, in_this_process, run_sweep
from engine.sweeps.tune.objective import run_scores
from engine.sweeps.tune.record import FILE, Record, Rung, Trial, read_tune_record, write_record
from engine.sweeps.tune.sampler import importance, load_optuna, propose
from engine.sweeps.tune.table import Params, TuneTable

RunsOf = Callable[[Params], Sweep]
"""The runs that one setting of the searched fields means."""


def run_tune(
    table: TuneTable, runs_of: RunsOf, out: Path, execution: Execution, executor: Executor = in_this_process
) -> Record:
    """Carry out a study below `out`, or go on with it, and return its record, which stands in `tune.json`.

    A batch is one sweep (with `prune` one for each rung), so that its trials train in lockstep, or wherever
    `executor` puts them; `executor` must wait for its tasks. A trial of which a run fails has failed, and the study
    goes on. Raises `ConditionError` before anything runs for a space that the fields do not take, and `RunError` if
    `out` holds another study, or runs are not over when the executor returns.
    """
    load_optuna()
    _check_space(table, runs_of)
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out / ".tune.lock", f"tuning study {out}"):
        record = read_tune_record(out) or Record(table=table.identity)
        _check_same(record, table, runs_of, out)
        while len(record.trials) < table.count:
            batch = _Batch(table, out, record.trials, list(_candidates(table, runs_of, record.trials)))
            batch.carry_out(execution, executor)
            trials = (*record.trials, *(candidate.trial() for candidate in batch.candidates))
            record = Record(table=table.identity, trials=trials, importance=importance(table, trials))
            write_record(out, record)
            _tell(record, len(batch.candidates))
    return record


@dataclass
class _Candidate:
    """A trial that is under way; `sweep` is None where its setting contradicts itself."""

    number: int
    params: Params
    sweep: Sweep | None
    state: Any = "running"
    rungs: list[Rung] = field(default_factory=list)
    reason: str | None = None

    def fail(self, reason: str) -> None:
        self.state, self.reason = "failed", reason

    def trial(self) -> Trial:
        value = self.rungs[-1].value if self.state == "complete" else None
        return Trial(
            number=self.number,
            params=self.params,
            state=self.state,
            value=value,
            rungs=tuple(self.rungs),
            reason=self.reason,
        )


def _candidates(table: TuneTable, runs_of: RunsOf, trials: Sequence[Trial]) -> Iterator[_Candidate]:
    """The next batch."""
    for number, params in enumerate(propose(table, trials), len(trials)):
        try:
            yield _Candidate(number, params, runs_of(params))
        except ConditionError as error:
            yield _Candidate(number, params, None, "failed", reason=str(error))


@dataclass(frozen=True)
class _Batch:
    """Trials that are carried out together, after `before`."""

    table: TuneTable
    out: Path
    before: Sequence[Trial]
    candidates: list[_Candidate]

    def carry_out(self, execution: Execution, executor: Executor) -> None:
        """Take every candidate to the end of its last rung."""
        rungs = self.table.prune.epochs if self.table.prune else ()
        for place, epochs in enumerate([*rungs, None]):
            alive = [candidate for candidate in self.candidates if candidate.state == "running"]
            if not alive:
                return
            self._climb(alive, epochs, execution, executor)
            self._sift([candidate for candidate in alive if candidate.state == "running"], place)

    def _climb(self, alive: list[_Candidate], epochs: int | None, execution: Execution, executor: Executor) -> None:
        """Train candidates for this many epochs, as one sweep, and score them."""
        runs_of = {candidate.number: for_epochs(candidate.sweep, epochs) for candidate in alive if candidate.sweep}
        everything = Sweep(runs=tuple(dict.fromkeys(run for runs in runs_of.values() for run in runs)))
        ids = dict(zip(everything.runs, (run.id for run in plan_runs(everything)), strict=True))
        run_sweep(everything, self.out, execution, executor=executor)
        if left := [name for name in dict.fromkeys(ids.values()) if not RunDirectory(self.out / name).over]:
            raise RunError(f"{self.out}: {len(left)} runs are not over ({left[0]}, ...); the same command goes on")
        for candidate in alive:
            runs = runs_of[candidate.number]
            self._score(candidate, [ids[run] for run in runs], max(condition.epochs for _, condition in runs))

    def _score(self, candidate: _Candidate, names: list[str], epochs: int) -> None:
        """Add a rung to a candidate, or let it fail with the first of its runs that did."""
        found = []
        for name in names:
            directory = RunDirectory(self.out / name)
            if not directory.failed:
                open_run(directory.path)  # checks its seal
            scores = {} if directory.failed else run_scores(directory.path, self.table.objective)
            if not scores:
                reason = directory.reason if directory.failed else "logits that are not finite"
                candidate.fail(f"{name}: {reason}")
                return
            found.append(scores)
        groups = {group: _mean([scores[group] for scores in found if group in scores]) for group in found[0]}
        value = _mean([_mean(list(scores.values())) for scores in found])
        candidate.rungs.append(Rung(epochs=epochs, value=value, groups=groups, runs=tuple(names)))

    def _sift(self, alive: list[_Candidate], place: int) -> None:
        """After a rung: let the best share of all trials that have come so far go on; after the last all are over."""
        prune = self.table.prune
        if prune is None or place == len(prune.epochs):
            for candidate in alive:
                candidate.state = "complete"
            return
        climbed = [*(trial.rungs for trial in self.before), *(candidate.rungs for candidate in alive)]
        reached = [rungs[place].value for rungs in climbed if len(rungs) > place]
        if not reached:
            return
        bar = sorted(reached, reverse=True)[math.ceil(prune.keep * len(reached)) - 1]
        for candidate in alive:
            if candidate.rungs[place].value < bar:
                candidate.state = "pruned"


def for_epochs(sweep: Sweep, epochs: int | None) -> tuple[tuple[Inputs, Condition], ...]:
    """Runs of a sweep, trained for `epochs` only; None: as they are."""
    if epochs is None:
        return sweep.runs
    return tuple((inputs, condition.model_copy(update={"epochs": epochs})) for inputs, condition in sweep.runs)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _check_space(table: TuneTable, runs_of: RunsOf) -> None:
    """Raise `ConditionError` if a bound or value is none that its field takes, or does not reach the runs."""
    for params in table.extremes:
        for _, condition in runs_of(params).runs:
            for name, value in params.items():
                if getattr(condition, name, value) != value:
                    raise ConditionError(f"{name} is searched, but [[grid]] has it in `together`; take it out there")
            if table.prune and table.prune.epochs[-1] >= condition.epochs:
                raise ConditionError(
                    f"[tune]: prune: {table.prune.epochs[-1]} epochs are no less than those of the whole training "
                    f"({condition.epochs}); shorten the rungs or raise epochs"
                )


def _check_same(record: Record, table: TuneTable, runs_of: RunsOf, out: Path) -> None:
    """Raise `RunError`, naming the first difference, if the study in `out` is another one than this file's."""
    ours, theirs = _flat(table.identity), _flat(record.table)
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise RunError(
                f"{out / FILE} is another study: {name} was {theirs.get(name, 'absent')}, now it is "
                f"{ours.get(name, 'absent')}; use that file again, or another --out"
            )
    runs: list[tuple[Inputs, Condition]] = []
    names: list[str] = []
    for trial in record.trials:
        for rung, epochs in zip(trial.rungs, [*(table.prune.epochs if table.prune else ()), None], strict=False):
            runs += for_epochs(runs_of(trial.params), epochs)
            names += rung.runs
    if not runs:
        return
    ids = dict(zip(dict.fromkeys(runs), plan_runs(Sweep(runs=tuple(dict.fromkeys(runs)))), strict=True))
    for run, name in zip(runs, names, strict=True):
        if ids[run].id != name:
            raise RunError(
                f"{out / FILE} is another study: {name} is now {ids[run].id}; its fixed fields, dataset, features or "
                "LM have changed, so restore them, or use another --out"
            )


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """The table with each searched field an entry of its own."""
    space = {f"space.{name}": values for name, values in table["space"].items()}
    return {name: value for name, value in table.items() if name != "space"} | space


def _tell(record: Record, count: int) -> None:
    """Say how far the study is."""
    states = [trial.state for trial in record.trials[-count:]]
    over = ", ".join(f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states)
    best = record.best
    at = "none is complete yet" if best is None else f"best {best.value:.1f}, trial {best.number}"
    tell(f"{len(record.trials)} trials, the last {count}: {over}; {at}")
