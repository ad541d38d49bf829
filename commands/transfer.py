"""Commands that put any questions to finished runs, or make such questions."""

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
    TransferMaker,
    fix_threads,
    print_json,
    say,
    tell_runs,
)


def transfer_ask(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs, or sweep folders.")],
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
    say(f"{sum(each.asked for each in results)} question sets asked now, over {len(results)} runs")
    tell_runs(results, scores, as_json)


def transfer_make(
    maker: Annotated[TransferMaker, typer.Argument(help="What to make.")],
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
