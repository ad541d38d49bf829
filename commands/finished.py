"""Commands that ask finished runs again: their own questions, any others, or the layers of their LM."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    print_json,
    say,
)

if TYPE_CHECKING:
    import pandas as pd

    from engine.transfer import Outcome

RunFolders = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, or sweep folders.")]


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained run.")],
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which questions to ask.")] = "test",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Parquet file for the answers.")] = None,
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    dataset: DatasetPlace = None,
    features: StorePlace = None,
    lm: LMPlace = None,
    as_json: Json = False,
) -> None:
    """Ask a trained run its questions again, and print macro F1.

    Example: crosstax evaluate runs/RUN --split validation
    """
    fix_threads(threads)
    from analysis.scores.f1 import mean_macro_f1
    from cachegen.common.files import write_atomically
    from engine.runs.places import Places
    from engine.runs.planned import Execution
    from engine.transfer import evaluate_run

    given = Places(dataset, features, lm)
    answers = evaluate_run(run, split, Execution(device=device, max_tokens=max_tokens), given)
    if out is not None:
        write_atomically(out, lambda temporary: answers.to_parquet(temporary, index=False))
    scores = mean_macro_f1(answers)
    for group, score in scores.items():
        say(f"{group}: macro F1 {score:.1f}")
    print_json({"run": str(run), "split": split, "questions": len(answers), "macro_f1": scores}, as_json)


def transfer_ask(
    runs: RunFolders,
    questions: Annotated[
        list[Path],
        typer.Option("--questions", "-q", help="CSV with columns leaf or key, text, answer, group, set; repeatable."),
    ],
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: RowTokens = None,
    dataset: DatasetPlace = None,
    features: StorePlace = None,
    lm: LMPlace = None,
    as_json: Json = False,
) -> None:
    """Put any questions to finished runs, and print how they are answered.

    Questions about a leaf are put to all test images with this label, in shared passes. The answers of each run are
    kept in RUN/transfer/. Sets that have answers are not asked again. `analyze` and `report` score them, by group.

    Example: crosstax transfer ask runs --questions paraphrases.csv
    """
    fix_threads(threads)
    from analysis.transfer import transfer_scores, transfer_text
    from engine.design.question_sets import question_source
    from engine.runs.places import Places
    from engine.runs.planned import Execution
    from engine.transfer import run_folders, transfer

    asked = [question_source(f"--questions {path}", {"questions": path}) for path in questions]
    folders = run_folders(runs)
    results = transfer(folders, asked, Execution(device=device, max_tokens=max_tokens), Places(dataset, features, lm))
    scores = transfer_scores([each.run for each in results if not each.problem], [each.called for each in asked])
    say(transfer_text(scores))
    say(f"{sum(each.now for each in results)} question sets asked now, over {len(results)} runs")
    _tell_runs(results, scores, as_json)


def transfer_make(
    maker: Annotated[Literal["paraphrases", "properties", "language"], typer.Argument(help="What to make.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run whose dataset and wording are used.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="CSV file to write.")],
    phrasing: Annotated[
        list[str] | None,
        typer.Option(help="For paraphrases: a question with {phrase} or {noun}, and {is} or {Is}; repeatable."),
    ] = None,
    negation: Annotated[
        list[str] | None, typer.Option(help="For paraphrases: the same, with the opposite answer; repeatable.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(
            help="CSV. paraphrases: synonyms (hypernym, phrase); properties: leaf, and a column for each question, "
            "with yes and no; language: name of a leaf or hypernym, phrase."
        ),
    ] = None,
    question: Annotated[str | None, typer.Option(help="For language: the question, with {phrase}.")] = None,
    dataset: DatasetPlace = None,
    as_json: Json = False,
) -> None:
    """Make questions for runs like this one: its own in other words, about properties, or in another language.

    Example: crosstax transfer make paraphrases runs/RUN --out paraphrases.csv
    """
    from engine.design.question_sets import question_source
    from engine.runs.places import Places
    from engine.transfer import write_question_set

    wording = {"phrasings": phrasing, "negations": negation, "table": table, "question": question}
    given = {name: value for name, value in wording.items() if value}
    asked = question_source(f"transfer make {maker}", {"maker": maker, "name": out.stem} | given)
    made = write_question_set(run, asked, out, Places(dataset))
    counts = {str(name): int(count) for name, count in made.table.groupby("set", sort=False).size().items()}
    for name, count in counts.items():
        say(f"{count:>7,}  {name}")
    say(f"written: {out}")
    print_json({"out": str(out), "sets": counts}, as_json)


def lens(
    runs: RunFolders,
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
    _tell_runs(results, scores, as_json)


def _tell_runs(results: Sequence["Outcome"], scores: "pd.DataFrame", as_json: bool) -> None:
    """End a command that has read finished runs: how many failed, the JSON object, and exit code 1 if any did."""
    from analysis.words import json_rows

    failed = {each.run.name: each.problem for each in results if each.problem}
    say(f"{len(failed)} of {len(results)} runs failed")
    runs = [str(each.run) for each in results]
    print_json({"runs": runs, "scores": json_rows(scores), "failed": failed}, as_json)
    if failed:
        raise typer.Exit(1)
