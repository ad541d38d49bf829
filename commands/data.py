"""From images to a dataset folder, its statistics and its feature store."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cachegen.common.errors import first_of
from commands.options import (
    Device,
    ExecutorOption,
    Json,
    OutFolder,
    RayAddress,
    Slurm,
    Threads,
    Wait,
    fix_threads,
    print_json,
    say,
)


def data_things(
    images: Annotated[
        Path | None, typer.Option(help="Folder or zip of the THINGS images; without it, instructions are printed.")
    ] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="OSF's password_images.txt; default: $CROSSTAX_THINGS_PASSWORD, then a prompt.")
    ] = None,
    taxonomy: Annotated[
        Path | None, typer.Option(help="minimal_pair_sentences.jsonl or a category53 file; downloaded by default.")
    ] = None,
    out: OutFolder = Path("things"),
    partial: Annotated[
        bool, typer.Option("--partial", help="Build from what is there, even if it differs from the paper's data.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the paper's dataset from your copy of the THINGS images.

    The same command resumes after an interruption.

    Example: crosstax data things --images images_THINGS.zip --password-file password_images.txt --out things
    """
    from cachegen.things.build import HOW_TO_GET_IMAGES, build_things, passwords_from

    if images is None:
        say(HOW_TO_GET_IMAGES)
        raise typer.Exit(2)
    dataset, summary = build_things(
        images, out, taxonomy=taxonomy, passwords=lambda: passwords_from(password_file), partial=partial
    )
    say(dataset.summary())
    done = [f"{summary[how]:,} {how}" for how in ("unpacked", "linked", "copied", "present") if summary[how]]
    say("images: " + ", ".join(done))
    for line in [*summary["notes"], *(f"not the paper's data: {line}" for line in summary["differences"])]:
        say(line)
    print_json(summary, as_json)


def data_pictograms(
    packages: Annotated[
        Path | None,
        typer.Option(help="Folder with the .tgz files from npm; without it, instructions are printed."),
    ] = None,
    out: OutFolder = Path("pictograms"),
    partial: Annotated[
        bool, typer.Option("--partial", help="Build from the sets that are there, even if versions differ.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a dataset of everyday things as eleven emoji sets draw them.

    2,186 images of 176 leaves under 22 hypernyms in two levels. npm fetches the sets (43 MB); without --packages
    the command for that is printed. Drawing takes a minute or two, and needs the extra `pictograms`.

    Example: crosstax data pictograms --packages packages --out pictograms
    """
    from cachegen.pictograms.build import build_pictograms, how_to_get_packages

    if packages is None:
        say(f"The drawings are fetched by npm, 43 MB:\n  {how_to_get_packages()}")
        say("then: crosstax data pictograms --packages packages --out pictograms")
        raise typer.Exit(2)
    dataset, summary = build_pictograms(packages, out, partial=partial)
    say(dataset.summary())
    for line in summary["differences"]:
        say(f"not as recorded: {line}")
    say(f"licences and credits: {out / 'CREDITS.md'}; all images on one sheet: {out / 'contact_sheet.png'}")
    print_json(summary, as_json)


def data_cifar100(
    archive: Annotated[Path, typer.Argument(help="cifar-100-binary.tar.gz, 169 MB, or the folder unpacked from it.")],
    out: OutFolder = Path("cifar100"),
    per_leaf: Annotated[
        int,
        typer.Option(help="Images of each leaf: 5 of 6 for training and validation, the others for testing.", min=6),
    ] = 600,
    as_json: Json = False,
) -> None:
    """Make a dataset of CIFAR-100: 100 leaves under its 20 superclasses, 32 x 32 pixels.

    Its own test images are for testing, and one in fifteen of its training images is for validation. With fewer
    images of each leaf, the first ones of each part are taken.

    Example: crosstax data cifar100 cifar-100-binary.tar.gz --out cifar100 --per-leaf 60
    """
    from cachegen.data.cifar100 import build_cifar100

    dataset, summary = build_cifar100(archive, out, per_leaf=per_leaf)
    say(dataset.summary())
    print_json(summary, as_json)


def data_taxonomy(
    leaves: Annotated[
        Path,
        typer.Argument(help="Folder with a folder for each leaf, or a text file of names or WordNet ids (n01440764)."),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from", help="wordnet, as installed by Debian or NLTK, or a folder with its data.noun and index.noun."
        ),
    ] = "wordnet",
    out: Annotated[Path, typer.Option("--out", "-o", help="The taxonomy to write.")] = Path("taxonomy.csv"),
    as_json: Json = False,
) -> None:
    """Make a first taxonomy.csv for folders of your own, from WordNet.

    Names with several senses are listed with their glosses in a file beside OUT that ends in .senses.csv: mark one
    sense of each with an x, and give the same command again. Read the taxonomy before you use it.

    Example: crosstax data taxonomy birds/images --from wordnet --out birds/taxonomy.csv
    """
    from cachegen.data.wordnet import build_taxonomy

    summary = build_taxonomy(leaves, out, None if source == "wordnet" else Path(source))
    say(f"{summary['leaves']:,} leaves under {summary['hypernyms']:,} hypernyms ({summary['version']}): {out}")
    for line in first_of(summary["notes"]):
        say(f"note: {line}")
    print_json(summary, as_json)


def data_subset(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder to take leaves from.")],
    out: OutFolder,
    hypernym: Annotated[
        list[str] | None, typer.Option(help="Only leaves under this hypernym; repeatable. Default: all.")
    ] = None,
    leaves: Annotated[
        int | None, typer.Option(help="At most this many leaves of each most specific hypernym.", min=1)
    ] = None,
    images: Annotated[int | None, typer.Option(help="At most this many images of each leaf.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Make a smaller dataset: the leaves of some hypernyms, those with the most images, or fewer images of each.

    Images are copied. The feature store of the whole dataset serves for the smaller one.

    Example: crosstax data subset pictograms --hypernym bird --hypernym fruit --leaves 6 --out small
    """
    from cachegen.data.subset import build_subset

    made = build_subset(dataset, out, hypernym or (), leaves, images)
    say(made.summary())
    print_json({"dataset": str(out), "digest": made.digest, "leaves": list(made.leaves.index)}, as_json)


def extract(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder: taxonomy.csv and images/<leaf>/.")],
    encoder: Annotated[
        str,
        typer.Option(
            help="timm name, Hugging Face id or local directory. NAME@384 sets the image size in pixels, NAME#8 reads "
            "block 8 (or feature map 8 of a convolutional net), NAME#-1 the last; NAME@384+NAME@384 puts the features "
            "of two encoders side by side."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 feature store to write or resume.")],
    on_unreadable: Annotated[
        Literal["stop", "mark"], typer.Option(help="Stop at an unreadable image, or mark it and go on.")
    ] = "stop",
    batch: Annotated[int, typer.Option(help="Images in one batch of the encoder.", min=1)] = 64,
    device: Device = "auto",
    compute: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(
            help="Precision of the encoder's matrix products; auto is bfloat16 on CUDA, else float32. On CPUs with "
            "AVX512-BF16, bfloat16 is about 3 times as fast; it moves features by 2 to 4 times the store's rounding."
        ),
    ] = "auto",
    preprocess: Annotated[
        Literal["paper", "own"],
        typer.Option(
            help="paper: images are resized straight to a square, with the encoder's own filter, mean and deviation; "
            "own: as the encoder's own files say, with its crop."
        ),
    ] = "paper",
    background: Annotated[
        str | None,
        typer.Option(metavar="COLOUR", help="Colour behind transparent parts, #RRGGBB or a name; default: white."),
    ] = None,
    upright: Annotated[
        bool,
        typer.Option(
            "--upright",
            help="Rotate images as their EXIF data say; by default they are read as stored, as in the paper.",
        ),
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Encode only part I of N; other processes do the other parts, with the same --out."
        ),
    ] = None,
    tasks: Annotated[
        int,
        typer.Option(
            help="Split the work into this many parts; local ones run at once, each with --threads threads.", min=1
        ),
    ] = 1,
    executor: ExecutorOption = "local",
    slurm: Slurm = None,
    ray_address: RayAddress = None,
    wait: Wait = False,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Encode every image of a dataset once, into a feature store.

    The same command resumes after an interruption.

    Example: crosstax extract birds --encoder vit_large_patch14_reg4_dinov2.lvd142m --out birds.h5
    """
    from cachegen.features.writer import parse_part

    chosen = parse_part(part) if part else None
    in_parts = tasks > 1 or executor != "local"
    if in_parts and part:
        raise typer.BadParameter("--part is one part of a store, --tasks all of them; give one of the two")
    fix_threads(threads)
    from cachegen.data.dataset import load_dataset
    from cachegen.data.images import Decoding
    from cachegen.features.extract import extract as run

    encoding: dict[str, Any] = {
        "encoder": encoder,
        "batch": batch,
        "on_unreadable": on_unreadable,
        "device": device,
        "compute": compute,
        "decoding": Decoding.ask(background, upright),
        "preprocess": preprocess,
    }
    if in_parts:
        from engine.sweeps.executors import choose_executor
        from engine.sweeps.executors.extraction import extract_in_parts

        workers = tasks if executor == "local" else None
        carry_out = choose_executor(executor, slurm, ray_address, workers, wait=wait)
    loaded = load_dataset(dataset)
    say(loaded.summary())
    if in_parts:
        summary = extract_in_parts(loaded, out, encoding, tasks, carry_out)
    else:
        summary = run(loaded, out=out, part=chosen, **encoding)
    for line in first_of([f"unreadable: {key}: {reason}" for key, reason in summary["unreadable"].items()]):
        say(line)
    if in_parts:
        say(f"{summary['images'] - summary['pending']} of {summary['images']} images are encoded: {out}")
        print_json(summary, as_json)
        if summary["pending"] and (wait or executor != "slurm"):
            raise typer.Exit(1)
        return
    if summary["turned"] and not summary["decoding"].endswith("applied"):
        say(
            f"note: {summary['turned']:,} images are stored turned, as EXIF says, and were encoded as stored, as in "
            "the paper; to turn them upright, extract with --upright into another --out"
        )
    if summary["left_out"]:
        say(f"note: images are resized straight to a square, as in the paper, without the {summary['left_out']} "
            "that the encoder's own preprocessing has")  # fmt: skip
    say(f"decoding: {summary['decoding']}")
    say(f"{summary['encoded']} of {summary['images']} images encoded in {summary['seconds']:.1f} s: {out}")
    if summary["pending"]:
        say(f"{summary['pending']} images are left to the other parts")
    print_json(summary, as_json)


def features_import(
    array: Annotated[Path, typer.Argument(help="Features: .npy, .npz, .h5, .safetensors or .parquet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 feature store to write.")],
    keys: Annotated[
        Path | None,
        typer.Option(
            help="Names of the rows: .txt, .csv, .json or .npy. Default: the one column of text of a .parquet table."
        ),
    ] = None,
    dataset: Annotated[
        Path | None,
        typer.Option(help="Match the names with its images or items: paths, or file names without a folder or suffix."),
    ] = None,
    name: Annotated[str | None, typer.Option("--array", help="Which array, where the file has several.")] = None,
    called: Annotated[
        str | None, typer.Option("--name", help="What to call the encoder; default: the name of the file.")
    ] = None,
    channels_first: Annotated[
        bool, typer.Option("--channels-first", help="The array is (N, D, H, W) or (N, D, P).")
    ] = False,
    dtype: Annotated[
        Literal["auto", "bfloat16", "float16"],
        typer.Option(help="Type to store; auto is the array's own if it has 16 bits, else bfloat16."),
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Import features that were computed elsewhere, of images or of any other items.

    The array is (N, D), (N, P, D) or (N, H, W, D), with a name for each row, in any order.

    Example: crosstax features import clip.npy --keys file_names.txt --dataset birds --out clip.h5
    """
    from cachegen.data.dataset import load_dataset
    from cachegen.features.importing import import_features

    summary = import_features(
        array,
        keys,
        out,
        dataset=None if dataset is None else load_dataset(dataset),
        name=name,
        called=called,
        channels_first=channels_first,
        dtype=dtype,
    )
    rows, patches, width = summary["shape"]
    grid = f" ({summary['grid']})" if summary["grid"] else ""
    say(f"{rows:,} rows x {patches:,} patches{grid} x {width:,} as {summary['dtype']}: {out}")
    if summary["superfluous"]:
        say(f"note: {summary['superfluous']:,} rows belong to nothing in {dataset} and were left out")
    print_json(summary, as_json)


def stats(
    dataset: Annotated[Path, typer.Argument(help="Dataset folder; images are not decoded.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Fields of the condition, as NAME=VALUE.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the tables (CSV, JSON) and figures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count questions at each ablation level; describe the taxonomy.

    These are the paper's Tables 2 and 3, and its Figures 8 and 9.

    Example: crosstax stats things scope=mapping --out things-stats
    """
    from analysis.figures.counts import write_data_figures
    from cachegen.data.dataset import load_dataset
    from engine.design.condition import Condition, parse_settings
    from engine.design.stats import count_tables, distributions, table_rows, write_stats

    loaded = load_dataset(dataset)
    condition = Condition.of(parse_settings(settings or []), "stats")
    tables, counted = count_tables(loaded, condition), distributions(loaded)
    say(loaded.summary())
    say(table_rows(tables).to_string(index=False))
    for name, table in counted.items():
        say(f"\n{name}\n{table.to_string(index=False)}")
    if out is not None:
        write_stats(out, tables, counted)
        write_data_figures(out, counted)
        say(f"tables and figures: {out}")
    print_json({"dataset": str(dataset), "tables": tables, "notes": list(loaded.notes)}, as_json)
