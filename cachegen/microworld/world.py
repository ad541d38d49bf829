"""Build, cache and open worlds: one seed in, one folder of ordinary files out."""

import csv
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cachegen.errors import CrosstaxError
from cachegen.files import digest_bytes, digest_file, exclusive_lock, fsync_directory, read_json, write_json, write_text
from cachegen.microworld.contact_sheet import contact_sheet
from cachegen.microworld.corpus import Corpus
from cachegen.microworld.drawing import draw_image, make_looks
from cachegen.microworld.lexicon import Lexicon, make_lexicon
from cachegen.microworld.recipe import RANDOM_TWINS, SIZES, THREADS, TRAIN_SHARE, VALIDATION_SHARE, Size
from cachegen.progress import progress_bar, quiet_transformers
from cachegen.rng import generator

MANIFEST = "world.json"
HOW_MADE = (
    "Drawn, trained and written by crosstax from one seed. The encoder saw the pixels of the training images only: "
    "no labels, no text. The language model saw generated text only: it never saw an image. In that text, leaf "
    "properties are words dealt at random that say nothing about how a leaf looks, and no text ties a picture to a "
    "leaf or a hypernym. The text asks questions in the very form that is later asked about images, so transfer of "
    "the question format is not in question here. Family words alone make this language model say yes to other leaves "
    "of the family (yes_to_siblings_from_family_words), which probably helps transfer."
)


@dataclass(frozen=True)
class World:
    """A world on disk."""

    path: Path
    manifest: dict[str, Any]

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

    def random_lm(self, twin: int) -> Path:
        """Folder of the randomly initialised twin number `twin` (0, 1, 2)."""
        return self.path / f"lm-random-{twin}"

    def random_lm_seed(self, twin: int) -> int:
        """The `lm_seed` that makes this twin's weights from the LM's configuration."""
        return self.manifest["random_lm_seeds"][twin]


def default_cache() -> Path:
    """$CROSSTAX_CACHE, or ~/.cache/crosstax."""
    chosen = os.environ.get("CROSSTAX_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "crosstax"


def recipe_digest(size: Size) -> str:
    """12 hex digits over the size's numbers and the source of everything that draws, writes or trains a world."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), here.parent / "random_init.py", here.parent / "rng.py"]
    return digest_bytes(repr(size).encode(), *(path.read_bytes() for path in sources))[:12]


def build_world(size: str | Size, seed: int, cache: Path | None = None) -> World:
    """Return the world of `size` ("smoke", "demo") and `seed`, built now unless the cache holds it whole.

    Same size, seed, recipe, library versions and processor: same bytes. A build happens in a temporary folder and
    is renamed when complete; a damaged world is rebuilt. Raises `RunError` while another process builds it.
    """
    chosen = _size(size)
    digest = recipe_digest(chosen)
    home = (cache or default_cache()) / "worlds"
    path = home / f"{chosen.name}-{seed}-{digest}"
    with exclusive_lock(home / f".{path.name}.lock", f"world {path}"):
        if not is_whole(path):
            for left_over in (path, *home.glob(f".{path.name}.*.tmp")):
                shutil.rmtree(left_over, ignore_errors=True)
            building = home / f".{path.name}.{os.getpid()}.tmp"
            try:
                _build(building, chosen, seed, digest)
                building.rename(path)
                fsync_directory(home)
            except OSError as error:
                raise CrosstaxError(
                    f"cannot build the world in {home}: {error.strerror or error}; set CROSSTAX_CACHE to another folder"
                ) from error
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return World(path, read_json(path / MANIFEST))


def is_whole(path: Path) -> bool:
    """Whether the world at `path` has exactly the files, with the contents, that its manifest lists."""
    if not (path / MANIFEST).is_file():
        return False
    try:
        expected = read_json(path / MANIFEST)["files"]
    except (CrosstaxError, KeyError, TypeError):
        return False
    return expected == _file_digests(path)


def _size(size: str | Size) -> Size:
    if isinstance(size, Size):
        return size
    if size not in SIZES:
        raise CrosstaxError(f"there is no world size {size!r}; choose one of {', '.join(sorted(SIZES))}")
    return SIZES[size]


def _file_digests(path: Path) -> dict[str, str]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != MANIFEST)
    return {file.relative_to(path).as_posix(): digest_file(file) for file in sorted(files)}


def _build(path: Path, size: Size, seed: int, digest: str) -> None:
    """Write the whole world into the new folder `path`, manifest last."""
    path.mkdir(parents=True)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[stage] = round(time.perf_counter() - start, 2)

    lexicon = make_lexicon(size, seed)
    with timed("images"):
        _write_dataset(path / "dataset", lexicon, size, seed)
        contact_sheet(lexicon, path / "dataset" / "images", size.encoder.image_px).save(path / "contact_sheet.png")
    with _fixed_threads():
        with timed("encoder"):
            encoder_facts = _write_encoder(path, size, seed)
        with timed("lm"):
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
        "family_words": lexicon.family_words,
        "encoder": encoder_facts,
        "lm": lm_facts,
        "seconds": seconds,
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy", "pillow", "tokenizers")}
        | {"python": platform.python_version()},
        "files": _file_digests(path),
    }
    write_json(path / MANIFEST, manifest)


@contextmanager
def _fixed_threads() -> Iterator[None]:
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
    rows = [["leaf", "leaf_phrase", "number", "hypernym", "hypernym_phrase"]]
    split = [["key", "split"]]
    with progress_bar("drawing images", len(lexicon.leaves) * size.images, "images") as advance:
        for i, leaf in enumerate(lexicon.leaves):
            rows.append([leaf.name, leaf.phrase, "singular", leaf.family, lexicon.family_phrases[leaf.family]])
            folder = root / "images" / leaf.name
            folder.mkdir(parents=True)
            names = [f"{leaf.name}_{n:02d}.png" for n in range(size.images)]
            look = looks[i // size.leaves][i % size.leaves]
            for n, name in enumerate(names):
                image = draw_image(leaf.family, look, size.encoder.image_px, generator(seed, "image", leaf.name, n))
                image.save(folder / name)
                advance(1)
            split += [
                [f"{leaf.name}/{name}", part] for name, part in zip(names, _parts(leaf.name, size, seed), strict=True)
            ]
    for name, table in (("taxonomy.csv", rows), ("split.csv", split)):
        write_text(root / name, "".join(",".join(row) + "\n" for row in table))


def _parts(leaf: str, size: Size, seed: int) -> list[str]:
    """The part of each image of `leaf`, by number."""
    order = generator(seed, "split", leaf).permutation(size.images)
    rank = np.empty(size.images, dtype=int)
    rank[order] = np.arange(size.images)
    train, validation = int(TRAIN_SHARE * size.images), int(VALIDATION_SHARE * size.images)
    return ["train" if r < train else "validation" if r < validation else "test" for r in rank]


def _training_images(dataset: Path) -> list[Path]:
    with (dataset / "split.csv").open(encoding="utf-8", newline="") as handle:
        return [dataset / "images" / row["key"] for row in csv.DictReader(handle) if row["split"] == "train"]


def _write_encoder(path: Path, size: Size, seed: int) -> dict[str, Any]:
    from cachegen.microworld.encoder import save_encoder, train_encoder

    images = _training_images(path / "dataset")
    with progress_bar("training the encoder", size.encoder.steps, "steps") as advance:
        model, facts = train_encoder(images, size.encoder, seed, advance)
    save_encoder(model, size.encoder, path / "encoder")
    return facts


def _write_lms(path: Path, lexicon: Lexicon, size: Size, seed: int, twin_seeds: list[int]) -> dict[str, Any]:
    from cachegen.microworld.language_model import lm_config, make_tokenizer, save_lm, train_lm
    from cachegen.random_init import random_init_lm

    tokenizer = make_tokenizer(lexicon)
    config = lm_config(size.language, tokenizer)
    corpus = Corpus(lexicon, size.corpus, tokenizer.get_vocab())
    with progress_bar("training the language model", size.language.steps, "steps") as advance:
        model, facts = train_lm(config, corpus, size.language, seed, advance)
    save_lm(model, tokenizer, path / "lm")
    for twin, lm_seed in enumerate(twin_seeds):
        save_lm(random_init_lm(config, lm_seed), tokenizer, path / f"lm-random-{twin}")
    sample = corpus.sample(tokenizer.convert_ids_to_tokens, generator(seed, "corpus sample"))
    write_text(path / "corpus_sample.txt", sample)
    return facts
