"""Twins of a world's models, each different in one respect; made on request, since a study can do without them.

A language-model twin has the world's own initial weights, recipe and stream of text, but another text.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from cachegen.common.errors import CrosstaxError
from cachegen.common.files import digest_bytes, fsync_directory, give_own_modes, read_json, write_json
from cachegen.common.progress import progress_bar
from cachegen.microworld.languages import BRIDGE, write_languages, write_two_language_lm
from cachegen.microworld.lexicon import make_lexicon
from cachegen.microworld.properties import write_property_lm
from cachegen.microworld.recipe import CorpusRecipe
from cachegen.microworld.world import (
    TWIN_SOURCES,
    World,
    building,
    file_digests,
    fixed_threads,
    library_versions,
    timed,
    training_images,
    write_lm,
)

SAMPLE = "corpus_sample.txt"
CAPTIONS = "captions.csv"


def build_twin(world: World, name: str) -> Path:
    """Return the folder of the twin `name` of `world`, built now unless it is there whole.

    `name`: one of TWINS, LANGUAGES and PROPERTIES. `<name>.json` beside the folder says how it was made and is written
    last. Raises `RunError` while another process builds a part of this world.
    """
    known = TWINS | LANGUAGES | PROPERTIES
    if name not in known:
        raise CrosstaxError(f"there is no twin {name!r}; choose one of {', '.join(known)}")
    how_made, make = known[name]
    folder, record = world.twin(name), _record(world, name)
    if _is_whole(world, name):
        return folder
    with building(world.path) as aside:
        if _is_whole(world, name):  # another process has built it meanwhile
            return folder
        record.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        seconds: dict[str, float] = {}
        with fixed_threads(), timed(seconds, name):
            facts = make(world, aside)
        give_own_modes(aside)
        folder.parent.mkdir(exist_ok=True)
        aside.rename(folder)
        fsync_directory(folder.parent)
        manifest = {
            "schema": 1,
            "how_made": how_made,
            "recipe_digest": _recipe_digest(world),
            "facts": facts,
            "seconds": seconds,
            "versions": library_versions(),
            "files": file_digests(folder),
        }
        write_json(record, manifest)
    return folder


def twin_manifest(world: World, name: str) -> dict[str, Any]:
    """How a built twin was made: how_made, facts, seconds, versions and digests of its files."""
    return read_json(_record(world, name))


def _record(world: World, name: str) -> Path:
    return world.twin(name).with_name(f"{name}.json")


def _is_whole(world: World, name: str) -> bool:
    """Whether the twin has the files that its manifest lists and was made by this very recipe."""
    try:
        manifest = twin_manifest(world, name)
        expected = manifest["recipe_digest"], manifest["files"]
    except (CrosstaxError, KeyError, TypeError):
        return False
    return expected == (_recipe_digest(world), file_digests(world.twin(name)))


def _recipe_digest(world: World) -> str:
    """12 hex digits over the world's recipe and everything that makes twins."""
    here = Path(__file__).parent
    parts = [world.manifest["recipe_digest"], repr(world.size.siglip)]
    return digest_bytes(*(p.encode() for p in parts), *((here / name).read_bytes() for name in TWIN_SOURCES))[:12]


def no_hypernym_questions(text: CorpusRecipe) -> CorpusRecipe:
    """The world's text but for questions about hypernyms."""
    return replace(text, hypernym_questions=0)


def no_family_words(text: CorpusRecipe) -> CorpusRecipe:
    """The world's text but for the property words of hypernyms: leaf names and properties are said in their place."""
    return replace(text, hypernym_words=False)


def _language_twin(change: Callable[[CorpusRecipe], CorpusRecipe]) -> Callable[[World, Path], dict[str, Any]]:
    def make(world: World, folder: Path) -> dict[str, Any]:
        lexicon = make_lexicon(world.size, world.seed)
        text = change(world.size.corpus)
        return write_lm(folder, folder / SAMPLE, lexicon, world.size, text, world.seed)

    return make


def _siglip_twin(world: World, folder: Path) -> dict[str, Any]:
    from cachegen.microworld.language_model import make_tokenizer
    from cachegen.microworld.siglip import save_siglip, train_siglip, write_captions

    lexicon = make_lexicon(world.size, world.seed)
    tokenizer = make_tokenizer(lexicon)
    images = training_images(world.dataset)
    with progress_bar("training the SigLIP encoder", world.size.siglip.steps, "steps") as advance:
        model, facts = train_siglip(images, lexicon, tokenizer, world.size.siglip, world.seed, advance)
    save_siglip(model, tokenizer, world.size.siglip, folder)
    write_captions(images, lexicon, folder / CAPTIONS)
    return facts


# Name -> (how it was made, for people; what makes it in a new folder and returns facts).
TWINS: dict[str, tuple[str, Callable[[World, Path], dict[str, Any]]]] = {
    "lm-no-hypernym-questions": (
        "As the world's language model, but its text asks about leaves only. Hypernyms occur in statements (“a crow is "
        "a bird”, “a bird is winged and beaked”), and their property words in scenes; no hypernym is ever asked about, "
        "so an answer about one has to be inferred in text too. The facts' hypernym_accuracy_by_words tells how far it "
        "is.",
        _language_twin(no_hypernym_questions),
    ),
    "lm-no-family-words": (
        "As the world's language model, but no property word of a family, parent or other hypernym is ever said: the "
        "text says leaf names and leaf properties in their place, and no statement describes a hypernym. The taxonomy "
        "itself stays in the text (“a crow is a bird”, and questions about hypernyms), since without any of it there "
        "would be nothing to transfer and chance would prove nothing. What is gone is what leaves of one hypernym have "
        "in common besides its name.",
        _language_twin(no_family_words),
    ),
    "encoder-siglip": (
        "An image tower trained together with a text tower on captions of the training images only. A caption names "
        "the leaf (“there is a crow”) or, as often, one of its hypernyms (“there is a bird”), so this encoder has been "
        "told the taxonomy that the projector is not told: it has seen language, as the paper's SigLIP has.",
        _siglip_twin,
    ),
}

# The same for the second language.
LANGUAGES: dict[str, tuple[str, Callable[[World, Path], dict[str, Any]]]] = {
    "two-languages": (
        "The world's dataset with phrases in a second language, made up word by word (languages/second.csv).",
        write_languages,
    ),
    "lm-two-languages": (
        "A language model of the world's architecture that has read two languages, half of its text in either. In "
        f"{BRIDGE:.0%} of the scenes both are mixed, word by word, and as many statements are entries of a dictionary; "
        "mixed scenes ask about leaves only, so no hypernym is asked about in a scene with words of the other "
        "language.",
        partial(write_two_language_lm, bridge=BRIDGE),
    ),
    "lm-two-languages-no-bridge": (
        "As lm-two-languages, but no scene and no statement has words of both languages.",
        partial(write_two_language_lm, bridge=0.0),
    ),
}

# And for properties.
PROPERTIES: dict[str, tuple[str, Callable[[World, Path], dict[str, Any]]]] = {
    "lm-property-questions": (
        "As the world's language model, but its scenes also ask about properties of leaves and of hypernyms (“is there "
        "a winged”).",
        write_property_lm,
    ),
}
