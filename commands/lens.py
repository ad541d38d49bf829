"""The command that looks inside the LM of finished runs."""

from pathlib import Path
from typing import Annotated

import typer

from commands.options import (
    DatasetPlace,
    Device,
    Json,
    LMPlace,
    RowTokens,
    StorePlace,
    Threads,
    fix_threads,
    say,
    tell_runs,
)


def lens(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, or sweep folders.")],
    images: Annotated[int, typer.Option(help="At most so many test images of a run, spread over its leaves.")] = 100,
    pictures: Annotated[int, typer.Option(help="How many of these images have maps.")] = 4,
    carrier: Annotated[
        list[str] | None,
        typer.Option(help="Sentence with {phrase} or {noun} whose words patches are compared with; repeatable."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    dataset: DatasetPlace = None,
    features: StorePlace = None,
    lm: LMPlace = None,
    as_json: Json = False,
) -> None:
    """See what the LM makes of projected images, layer by layer.

    Three lenses: the answer that each layer would give, the input embeddings nearest to the patches, and the names in
    text nearest to them. The tables of each run are kept in RUN/lens/, and are not made again. `analyze` and `report`
    show them.

    Example: crosstax lens runs --images 50
    """
    fix_threads(threads)
    from analysis.lens import lens_scores, lens_text
    from engine.design.condition import checked
    from engine.lens import look
    from engine.runs.lens import LensSettings
    from engine.runs.places import Places
    from engine.runs.planned import Execution
    from engine.transfer import run_folders

    fields = {"images": images, "pictures": pictures, "carriers": tuple(carrier or ())}
    settings, folders = checked(LensSettings, fields, "lens"), run_folders(runs)
    results = look(folders, settings, Execution(device=device, max_tokens=max_tokens), Places(dataset, features, lm))
    scores = lens_scores([each.run for each in results if not each.problem])
    say(lens_text(scores))
    say(f"{sum(each.now for each in results)} of {len(results)} runs read now")
    tell_runs(results, scores, as_json)
