"""Build, cache and open worlds: one seed in, one folder of ordinary files out."""

import csv
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cachegen.common.errors import CrosstaxError, RunError
from cachegen.common.files import (
    CHOOSE,
    default_cache,
    digest_bytes,
    digest_file,
    fsync_directory,
    give_own_modes,
    read_json,
    reason_of,
    write_json,
    write_text,
)
from cachegen.common.locks import exclusive_lock
from cachegen.common.progress import progress_bar, quiet_transformers
from cachegen.common.rng import generator
from cachegen.data.splits import draw_split
from cachegen.microworld.contact_sheet import contact_sheet
from cachegen.microworld.corpus import Corpus
from cachegen.microworld.drawing import draw_image, make_looks
from cachegen.microworld.lexicon import Lexicon, make_lexicon
from cachegen.microworld.recipe import RANDOM_TWINS, SIZES, THREADS, CorpusRecipe, Size

MANIFEST = "world.json"
TWIN_SOURCES = ("twins.py", "siglip.py", "languages.py", "properties.py")
TWINS_FOLDER = "twins"
HOW_MADE = (
    "Drawn, trained and written by crosstax from one seed. The encoder saw the pixels of the training images only: "
    "no labels, no text. The language model saw generated text only: it never saw an image. In that text, leaf "
    "properties are words dealt at random that say nothing about how a leaf looks, and no text ties a picture to a "
    "leaf or a hypernym. Text and drawings agree in the taxonomy and in nothing else, and that on purpose: leaves of "
    "a family share a body plan, families of one parent share a part of the colour wheel, and nothing shows that a "
    "thing is food or a pet. The text asks questions in the very form that is later asked about images, about leaves "
    "and about hypernyms of every depth, so transfer of the question format is not in question here. Family words "
    "alone make this language model say yes to other leaves of the family (yes_to_siblings_from_family_words), which "
    "probably helps transfer."
)


@dataclass(frozen=True)
class World:
    """A world on disk."""

    path: Path
    manifest: dict[str, Any]
    size: Size

    @property
    def seed(self) -> int:
        return self.manifest["seed"]

    @property
    def dataset(self) -> Path:
        return self.path / "dataset"

    @property
    def encoder(self) -> Path:
        return self.path / "encoder"

    @property
    def lm(self) -> Path:
        return self.path / "lm"

    @property
    def contact_sheet(self) -> Path:
        return self.path / "contact_sheet.png"

    def twin(self, name: str) -> Path:
        """Folder of the twin `name`, built or not (see `twins.build_twin`)."""
        return self.path / TWINS_FOLDER / name

    def random_lm_seed(self, twin: int) -> int:
        """The `lm_seed` that makes this twin's weights from the LM's configuration."""
        return self.manifest["random_lm_seeds"][twin]


def recipe_digest(size: Size) -> str:
    """12 hex digits over the size's numbers and the source of everything that draws, writes or trains a world.

    What makes twins only is left out, so that work on a twin does not make every world anew.
    """
    here = Path(__file__).parent
    shared = [here.parent / name for name in ("common/random_init.py", "common/rng.py", "data/splits.py")]
    sources = [path for path in sorted(here.glob("*.py")) if path.name not in TWIN_SOURCES]
    return digest_bytes(repr(size).encode(), *(path.read_bytes() for path in [*sources, *shared]))[:12]


def build_world(size: str | Size, seed: int, cache: Path | None = None) -> World:
    """Return the world of `size` ("smoke", "demo") and `seed`, built now unless the cache holds it whole.

    Same size, seed, recipe, library versions and processor: same bytes. A build happens in a temporary folder and
    is renamed when complete; a damaged world is rebuilt. Of a whole one nothing is written, its lock neither. Raises
    `RunError` while another process builds it.
    """
    chosen = _size(size)
    digest = recipe_digest(chosen)
    home = (cache or default_cache()) / "worlds"
    path = home / f"{chosen.name}-{seed}-{digest}"
    if not is_whole(path):
        with building(path) as aside:
            if not is_whole(path):  # another process may have built it meanwhile
                shutil.rmtree(path, ignore_errors=True)
                _build(aside, chosen, seed, digest)
                give_own_modes(aside)
                aside.rename(path)
                fsync_directory(home)
    return World(path, read_json(path / MANIFEST), chosen)


@contextmanager
def building(path: Path) -> Iterator[Path]:
    """Hold the lock on the folder `path`, and yield a name beside it to build under; left-overs there are removed."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(path.with_name(f".{path.name}.lock"), f"world {path}"):
            for left_over in path.parent.glob(f".{path.name}.*.tmp"):
                shutil.rmtree(left_over, ignore_errors=True)
            yield aside
    except (OSError, RunError) as error:
        cause = error.__cause__ if isinstance(error, RunError) else error
        if not isinstance(cause, OSError):
            raise
        raise CrosstaxError(f"cannot build in {path.parent}: {reason_of(cause)}; {CHOOSE}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def is_whole(path: Path) -> bool:
    """Whether the world at `path` has exactly the files, with the contents, that its manifest lists."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        expected = read_json(path / MANIFEST)["files"]
    except (CrosstaxError, KeyError, TypeError):
        return False
    return expected == file_digests(path)


def _size(size: str | Size) -> Size:
    if isinstance(size, Size):
        return size
    if size not in SIZES:
        raise CrosstaxError(f"there is no world size {size!r}; choose one of {', '.join(sorted(SIZES))}")
    return SIZES[size]


def file_digests(path: Path) -> dict[str, str]:
    """Digest of every file of a world, or of a twin, by its path inside; manifest and twins do not count."""
    files = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    counted = (file for file in files if file != Path(MANIFEST) and file.parts[0] != TWINS_FOLDER)
    return {file.as_posix(): digest_file(path / file) for file in sorted(counted)}


def _build(path: Path, size: Size, seed: int, digest: str) -> None:
    """Write the whole world into the new folder `path`, manifest last."""
    path.mkdir(parents=True)
    seconds: dict[str, float] = {}
    lexicon = make_lexicon(size, seed)
    with timed(seconds, "images"):
        _write_dataset(path / "dataset", lexicon, size, seed)
        contact_sheet(lexicon, path / "dataset" / "images", size.encoder.image_px).save(path / "contact_sheet.png")
    with fixed_threads():
        with timed(seconds, "encoder"):
            encoder_facts = _write_encoder(path, size, seed)
        with timed(seconds, "lm"):
            twin_seeds = [1000 * seed + twin for twin in range(RANDOM_TWINS)]
            lm_facts = _write_lms(path, lexicon, size, seed, twin_seeds)
    manifest = {
        "schema": 1,
        "how_made": HOW_MADE,
        "size": asdict(size),
        "seed": seed,
        "recipe_digest": digest,
        "random_lm_seeds": twin_seeds,
        "leaf_words": {leaf.name: leaf.words for leaf in lexicon.leaves},
        "hypernyms": {
            h.name: {"kind": h.kind, "depth": h.depth, "words": h.words, "leaves": sorted(h.leaves)}
            for h in lexicon.hypernyms
        },
        "encoder": encoder_facts,
        "lm": lm_facts,
        "seconds": seconds,
        "versions": library_versions(),
        "files": file_digests(path),
    }
    write_json(path / MANIFEST, manifest)


def library_versions() -> dict[str, str]:
    """Versions that can change a world's bytes."""
    names = ("torch", "transformers", "numpy", "pillow", "tokenizers")
    return {name: version(name) for name in names} | {"python": platform.python_version()}


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Record how long the block took under `stage`."""
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 2)


@contextmanager
def fixed_threads() -> Iterator[None]:
    """Sums depend on the number of threads, so a world is always built with the recipe's."""
    import torch

    quiet_transformers()
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write_dataset(root: Path, lexicon: Lexicon, size: Size, seed: int) -> None:
    """Images, taxonomy.csv and split.csv (70/5/25 of each leaf, whatever a study's data seed)."""
    looks = make_looks(size, seed)
    rows = [["leaf", "leaf_phrase", "number", "hypernym", "hypernym_phrase", "depth"]]
    split = [["key", "split"]]
    with progress_bar("drawing images", len(lexicon.leaves) * size.images, "images") as advance:
        for i, leaf in enumerate(lexicon.leaves):
            rows += [[leaf.name, leaf.phrase, "singular", h.name, h.phrase, str(h.depth)] for h in lexicon.above(leaf)]
            folder = root / "images" / leaf.name
            folder.mkdir(parents=True)
            look = looks[i // size.leaves][i % size.leaves]
            parts = draw_split(size.images, generator(seed, "split", leaf.name))
            for n, part in enumerate(parts):
                name = f"{leaf.name}_{n:02d}.png"
                image = draw_image(leaf.family, look, size.encoder.image_px, generator(seed, "image", leaf.name, n))
                image.save(folder / name)
                split.append([f"{leaf.name}/{name}", part])
                advance(1)
    for name, table in (("taxonomy.csv", rows), ("split.csv", split)):
        write_text(root / name, "".join(",".join(row) + "\n" for row in table))


def training_images(dataset: Path) -> list[Path]:
    """Image files of the split "train", the only ones that an encoder may see."""
    with (dataset / "split.csv").open(encoding="utf-8", newline="") as handle:
        return [dataset / "images" / row["key"] for row in csv.DictReader(handle) if row["split"] == "train"]


def _write_encoder(path: Path, size: Size, seed: int) -> dict[str, Any]:
    from cachegen.microworld.encoder import save_encoder, train_encoder

    images = training_images(path / "dataset")
    with progress_bar("training the encoder", size.encoder.steps, "steps") as advance:
        model, facts = train_encoder(images, size.encoder, seed, advance)
    save_encoder(model, size.encoder, path / "encoder")
    return facts


def _write_lms(path: Path, lexicon: Lexicon, size: Size, seed: int, twin_seeds: list[int]) -> dict[str, Any]:
    from cachegen.common.random_init import random_init_lm
    from cachegen.microworld.language_model import lm_config, make_tokenizer, save_lm

    facts = write_lm(path / "lm", path / "corpus_sample.txt", lexicon, size, size.corpus, seed)
    tokenizer = make_tokenizer(lexicon)
    for twin, lm_seed in enumerate(twin_seeds):
        save_lm(random_init_lm(lm_config(size.language, tokenizer), lm_seed), tokenizer, path / f"lm-random-{twin}")
    return facts


def write_lm(folder: Path, sample: Path, lexicon: Lexicon, size: Size, text: CorpusRecipe, seed: int) -> dict[str, Any]:
    """Train a language model on `text` into `folder`, write a `sample` of its text, and return facts about it.

    It is examined on scenes and statements of its own kind, with hypernym questions even if it was trained on none.
    """
    from cachegen.microworld.language_model import examine_lm, lm_config, make_tokenizer, save_lm, train_lm

    tokenizer = make_tokenizer(lexicon)
    corpus = Corpus(lexicon, text, tokenizer.get_vocab())
    with progress_bar("training the language model", size.language.steps, "steps") as advance:
        model, facts = train_lm(lm_config(size.language, tokenizer), corpus, size.language, seed, advance)
    save_lm(model, tokenizer, folder)
    write_text(sample, corpus.sample(tokenizer.convert_ids_to_tokens, generator(seed, "corpus sample")))
    exam = replace(text, hypernym_questions=max(1, text.hypernym_questions))
    return facts | examine_lm(model, Corpus(lexicon, exam, tokenizer.get_vocab()), seed)
