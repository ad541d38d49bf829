"""A sweep: from a list of runs to finished run directories, in lockstep groups, resumable at any point."""

from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cachegen.device import choose_device
from cachegen.errors import RunError
from cachegen.files import exclusive_lock, read_json
from cachegen.progress import progress_bar
from engine.condition import Condition, Inputs, Sweep
from engine.evaluation import evaluate
from engine.group import Opener, make_projector, run_group
from engine.plan import Execution, group_runs, plan_runs
from engine.run_directory import RunDirectory


def run_sweep(sweep: Sweep, out: Path, execution: Execution) -> list[Path]:
    """Carry out all runs below `out` and return their directories, in the sweep's order.

    Runs that are done are skipped; an interrupted group goes on from its checkpoint. A run whose weights are no
    longer finite is marked FAILED, and the sweep goes on. Raises `RunError` if another process writes to `out`.
    """
    runs = {run.id: run for run in plan_runs(sweep)}
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out / ".lock", f"sweep {out}"):
        plan = group_runs(runs, out, execution)
        opener = Opener(choose_device(execution.device))
        for group in plan["groups"]:
            directories = [RunDirectory(out / run_id) for run_id in group]
            if not set(group) & set(runs) or all(d.failed or d.done for d in directories):
                continue
            if missing := sorted(set(group) - set(runs)):
                raise RunError(
                    f"{out}: {missing[0]} was planned in one group with runs of this sweep but is not asked for now; "
                    "start the sweep as it was, or choose another --out"
                )
            members = [runs[run_id] for run_id in group]
            try:
                run_group(members, directories, opener.open(members[0]), plan["max_tokens"], execution)
            except torch.OutOfMemoryError:
                raise RunError(
                    f"{out}: the device is out of memory with {len(group)} runs in lockstep; start again in another "
                    "--out with a lower --group-size or --max-tokens"
                ) from None
    return [out / run_id for run_id in runs]


def evaluate_run(folder: Path, split: str, execution: Execution) -> pd.DataFrame:
    """Ask a trained run its questions of one split again: its question table with the answers' columns beside it.

    Raises `RunError` if the run has no projector or its inputs are no longer the ones it was trained on.
    """
    directory = RunDirectory(folder)
    config = read_json(directory.file("config.json"))
    condition = {name: value for name, value in config["condition"].items() if name in Condition.model_fields}
    (run,) = plan_runs(Sweep(runs=((Inputs(**config["paths"]), Condition(**condition)),)))
    changed = [name for name in run.digests if run.digests[name] != config["digests"].get(name)]
    if changed:
        raise RunError(f"{folder}: its {changed[0]} has changed since training; restore it or train again")
    shared = Opener(choose_device(execution.device)).open(run)
    questions = pd.read_parquet(directory.file("questions.parquet"))
    projector = make_projector(run, questions[questions["split"] == "train"], shared)
    try:
        projector.load_state_dict(load_file(directory.file("projector.safetensors"), device=str(shared.lm.device)))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{folder}: its projector cannot be read ({error}); train the run again") from None
    asked = questions[questions["split"] == split].reset_index(drop=True)
    arrays, limit = shared.arrays(asked), execution.max_tokens
    with progress_bar("evaluate", len(asked), "questions") as advance:
        answers = evaluate(
            projector, shared.lm, shared.features, shared.tokens, arrays, max_tokens=limit, advance=advance
        )
    return pd.concat([asked, answers], axis=1)
