"""The demo study over fresh worlds: each has its own images, encoder, language models, permutations and negatives."""

from collections.abc import Sequence
from pathlib import Path

from cachegen.errors import RunError
from cachegen.files import read_json, write_json
from cachegen.progress import console
from engine.plan import Execution
from engine.study import Study, run_study

RECORD = "replication.json"


def replicate(out: Path, size: str, seeds: Sequence[int], twins: bool, execution: Execution) -> dict[int, Study]:
    """Carry out the study in the worlds `seeds`, each below `out/world-<seed>`; return world seed -> study.

    Whatever is done is kept, so the same call resumes, and one with more worlds or with `twins` goes on from there.
    Raises `RunError` if `out` holds worlds of another size.
    """
    record = out / RECORD
    started = read_json(record)["size"] if record.exists() else size
    if started != size:
        raise RunError(f"{out} holds worlds of size {started!r}, not {size!r}; choose another --out")
    write_json(record, {"schema": 1, "size": size})
    studies = {}
    for number, seed in enumerate(seeds, 1):
        console.print(f"[bold]world {seed}[/] ({number} of {len(seeds)})")
        studies[seed] = run_study(out / f"world-{seed}", size, seed, execution, twins)
    return studies
