"""Commands that use a model: ask a finished run, export it, probe an LM in text."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from commands.options import (
    Device,
    Dtype,
    EncoderPlace,
    Json,
    LMPlace,
    StorePlace,
    Threads,
    fix_threads,
    print_json,
    say,
)


def ask(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    words: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE... [QUESTION?]", help="Image files, or names of items; then a question."),
    ],
    question: Annotated[
        list[str] | None, typer.Option("--question", "-q", help="Another question; repeatable.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Ask about every hypernym in the run's questions.")] = False,
    lm: LMPlace = None,
    features: StorePlace = None,
    encoder: EncoderPlace = None,
    device: Device = "auto",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Ask a finished run about any image, and print p(yes); of a run that names, its best names.

    It needs the run, its encoder and its LM, but not the feature store. Questions are put into the run's own template.
    Where features were imported, it reads those of the named images or items from the run's store.

    Example: crosstax ask runs/RUN crow.jpg "Is there a bird in this image?" -q "Is there a tool in this image?"

    Example: crosstax ask runs/RUN crow.jpg owl.jpg --all
    """
    fix_threads(threads)
    from engine.ask import (
        answers_json,
        answers_text,
        names_pictures,
        names_text,
        open_asker,
        read_pictures,
        read_words,
    )
    from engine.runs.places import Places

    if names_pictures(run):
        images = read_pictures(words, question or [])
        names = open_asker(run, device, Places(features=features, lm=lm, encoder=encoder)).name(images)
        say(names_text(names))
        print_json({"run": str(run), "images": answers_json(names)}, as_json)
        return
    images, asked = read_words(words, question or [], everything)
    asker = open_asker(run, device, Places(features=features, lm=lm, encoder=encoder))
    if everything:
        asked += asker.taxonomy_questions()
    answers = asker.ask(images, asked)
    for text in asker.unknown(asked):
        say(f"note: this LM has no token for a word of {text!r}; ask as the run did (--all shows its wording)")
    say(answers_text(answers, ranked=everything))
    print_json({"run": str(run), "images": answers_json(answers)}, as_json)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the model.")],
    to: Annotated[
        Literal["llava"], typer.Option(help="Format; llava is LlavaForConditionalGeneration in transformers.")
    ] = "llava",
    lm: LMPlace = None,
    encoder: EncoderPlace = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write a finished run as one model that transformers loads.

    The folder holds the encoder, the projector and the LM.

    Example: crosstax export runs/RUN --to llava model
    """
    from analysis.scores.f1 import mean_macro_f1
    from engine.export.llava import export_llava
    from engine.runs.finished import open_run
    from engine.runs.places import Places

    assert to == "llava"
    scores = mean_macro_f1(open_run(run).answers("test"))
    given = Places(lm=lm, encoder=encoder)
    written = export_llava(run, out, scores, device=device, given=given)
    say(f"written: {out}; its README.md says how to load and ask it")
    if written["line"]:
        say(f"LLaVA cannot drop the encoder's {written['registers']} registers; after loading, run\n{written['line']}")
    print_json(written, as_json)


def probe(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder.")],
    lm: Annotated[list[str], typer.Option(help="Hugging Face id or local directory of the LM; repeatable.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .parquet file, or a folder for one file per LM.")] = Path(
        "probe"
    ),
    negatives: Annotated[
        Literal["image-level", "distinct", "all"] | None,
        typer.Option(
            help="Which false pairs to ask. image-level: counted as published, the default of questions; distinct: the "
            "same, each once; all: every one, the default of plausibility."
        ),
    ] = None,
    method: Annotated[
        Literal["question", "plausibility"],
        typer.Option(
            help="question: is a crow a bird, yes or no; plausibility: log-probability of the hypernym after "
            "a sentence about the leaf, minus that after a neutral one."
        ),
    ] = "question",
    phrasing: Annotated[
        list[str] | None,
        typer.Option(
            help="A question with {leaf_phrase} or {leaf_noun}, {hypernym_phrase} or {hypernym_noun}, and {is} or "
            "{Is}; repeatable. Default: four of them, the paper's first. For plausibility, a sentence that ends in "
            "the hypernym."
        ),
    ] = None,
    neutral: Annotated[
        list[str] | None,
        typer.Option(
            help="For plausibility: the sentence without a leaf, for all phrasings, or one for each; repeatable."
        ),
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Prompt without a chat template: a text with {question} that ends in {answer}.")
    ] = None,
    answer_yes: Annotated[str | None, typer.Option(help="Word that means yes.")] = None,
    answer_no: Annotated[str | None, typer.Option(help="Word that means no.")] = None,
    no_chat_template: Annotated[
        bool, typer.Option("--no-chat-template", help="Do not use the LM's chat template.")
    ] = False,
    lm_init: Annotated[
        Literal["pretrained", "random"],
        typer.Option(help="Pretrained weights, or random ones for the same configuration."),
    ] = "pretrained",
    lm_seed: Annotated[int, typer.Option(help="Seed of the random weights.", min=0)] = 0,
    data_seed: Annotated[int, typer.Option(help="data_seed of the runs whose negatives are asked.", min=0)] = 0,
    dtype: Annotated[Dtype, typer.Option(help="Precision of the LM.")] = "float32",
    device: Device = "auto",
    threads: Threads = None,
    max_tokens: Annotated[
        int, typer.Option(help="Tokens in one packed row; lower it when memory is short.", min=1)
    ] = 4096,
    as_json: Json = False,
) -> None:
    """Ask LMs about the taxonomy in text alone.

    "Is a crow a type of bird?" is asked for every pair of the dataset. With --method plausibility the LM answers
    nothing: its probability of "bird" after "A crow is a type of" is compared with that after "This is a type of".

    Example: crosstax probe birds --lm Qwen/Qwen3-0.6B --lm Qwen/Qwen3-1.7B --out probe
    """
    if out.suffix == ".parquet" and len(lm) > 1:
        raise typer.BadParameter("one .parquet file holds one LM; give a folder", param_hint="--out")
    fix_threads(threads)
    from analysis.scores.probe import describe_probe, probe_result
    from cachegen.data.dataset import load_dataset
    from engine.lm.probe import probe_path, run_probe, settings_for, write_probe

    wording = {"phrasings": phrasing and tuple(phrasing), "template": template}
    wording |= {"neutral": neutral and tuple(neutral), "negatives": negatives}
    wording |= {"answer_yes": answer_yes, "answer_no": answer_no}
    given = {name: value for name, value in wording.items() if value} | {"lm_init": lm_init, "lm_seed": lm_seed}
    given |= {"data_seed": data_seed, "dtype": dtype, "method": method}
    loaded, results = load_dataset(dataset), {}
    for name in lm:
        settings = settings_for(name, chat_template=not no_chat_template, **given)
        table, record = run_probe(loaded, name, settings, device, max_tokens)
        path = probe_path(out, record)
        write_probe(path, table, record)
        results[name] = probe_result(table, name) | {"file": str(path)}
        say(describe_probe(results[name], record))
    print_json({"lm": results}, as_json)
