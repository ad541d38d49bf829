"""A methods section in plain words, from a study's own settings, with the references it needs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from analysis.cells import seed_text
from analysis.items import Wording
from analysis.report.materials import (
    NUMBERS,
    Materials,
    Settings,
    cited_in,
    count,
    either,
    encoder_keys,
    in_text,
    lm_keys,
    materials_of,
)
from analysis.scores.neighbours import NEIGHBOURS
from analysis.statistics.difference import EQUIVALENCE_MARGIN, OVER_BOTH
from analysis.statistics.intervals import DRAWS
from analysis.study import Study
from cachegen.features.store import IMPORTED


def imported_encoders(study: Study) -> list[str]:
    """Names of encoders whose features were imported."""
    stores = [run.config["store"] for run in study.sweep.opened.values() if "store" in run.config]
    return sorted({str(store["encoder"]) for store in stores if store.get("layer") == IMPORTED})


def models_text(microworld: bool, about: Settings, imported: Sequence[str] = ()) -> str:
    """Encoder, LM and projector; the models of a microworld are described, others named and cited.

    `imported`: names of encoders whose features came from elsewhere.
    """
    extracted = [name for name in about.values("encoder") if name not in imported]
    if microworld:
        encoders, lms = _world_models(extracted, about)
    else:
        encoders = _cited(extracted, encoder_keys)
        lms = _cited(about.values("lm"), lm_keys)
    sentences = []
    if extracted or not imported:
        sentences.append(
            f"Image encoder: {encoders}, frozen. Patch features of every image were computed once, as the output of "
            "the penultimate block before the final norm, without class and register tokens."
        )
    if imported:
        sentences.append(
            f"Features of every image from {either(imported, 'and')} were computed elsewhere and imported."
        )
    sentences.append(f"Language model (LM): {lms}, frozen, with {_precision(about)}.")
    layers = either([NUMBERS[int(n)] for n in about.values("projector_layers")]) or "two"
    sentences.append(
        f"A projector of {layers} linear layers with GELU between them turned each patch feature into an input "
        "embedding of the LM; only the projector was trained."
    )
    if about.has("standardise", True):
        sentences.append("Features were standardised per dimension by the mean and SD of the training images.")
    if about.has("output_scale", "embedding_rms"):
        sentences.append("The projector’s outputs were scaled to the root mean square of the LM’s input embeddings.")
    seeds = about.values("lm_seed", lm_init="random")
    if seeds:
        sentences.append(
            "As a control, the same architecture was initialised at random instead of being pretrained "
            f"({count(len(seeds), 'initialisation')})."
        )
    return " ".join(sentences)


def _world_models(extracted: Sequence[str], about: Settings) -> tuple[str, str]:
    """Encoders and LMs of a microworld: its own, and its twins by their names."""
    encoders = [Path(str(name)).name for name in extracted]
    lms = [Path(str(name)).name for name in about.values("lm")]
    own_encoder = (
        f"a small vision transformer trained in the manner of DINOv2 {in_text('dinov2')} on the world’s training "
        "images, without labels or text"
    )
    own_lm = (
        f"a small model with the architecture of Qwen3 {in_text('qwen3')}, trained on the world’s generated text, "
        "which contains questions of the very form asked here"
    )
    siglip = f"a small encoder trained with captions of the same images in the manner of SigLIP {in_text('siglip')}"
    known_encoders = {"encoder": own_encoder, "encoder-siglip": siglip}
    known_lms = {
        "lm": own_lm,
        "lm-no-hypernym-questions": "a twin of it whose text asks about leaves only",
        "lm-no-family-words": "a twin of it whose text lacks the words that describe a family",
    }
    return (
        either([known_encoders.get(name, name) for name in encoders], "and"),
        either([known_lms.get(name, name) for name in lms], "and"),
    )


def _cited(names: list[Any], find: Callable[[str], list[str]]) -> str:
    said = []
    for name in names:
        found = find(str(name))
        short = Path(str(name)).name if Path(str(name)).is_absolute() else str(name)
        said.append(f"{short} {in_text(*found)}" if found else short)
    return either(said, "and")


def _precision(about: Settings) -> str:
    return f"matrix products in {either(about.values('dtype'))}" if about.values("dtype") else "its own precision"


def conditions_text(about: Settings) -> str:
    """What was withheld, how labels were shuffled, and the seeds."""
    sentences = [*_ablation(about), *_shuffles(about)]
    seeds = seed_text(about.table)
    shared = about.values("shared_initial_weights")
    drawn = "the order of the data" + (" and the projector’s initial weights" if shared == [False] else "")
    sentences.append(
        f"Seeds: {seeds}. The data seed fixes the choice of negatives, what is withheld and the permutations, and the "
        f"split where the data set brings none; the run seed fixes {drawn}."
    )
    return " ".join(sentences)


def _ablation(about: Settings) -> list[str]:
    sentences = []
    levels = sorted(about.values("ablation", ablation_kind="random"))
    if levels == [100]:
        sentences.append("All questions about hypernyms were withheld from training.")
    elif levels:
        sentences.append(
            f"Random ablation withheld questions about hypernyms for {either(levels)} % of the leaves of each hypernym."
        )
    removed = sorted(about.values("ablation", ablation_kind="systematic"))
    if removed:
        lists = about.values("removed_list", ablation_kind="systematic")
        which = {"drawn": "drawn by the data seed", "published": "those of Xu et al. (2026)"}
        sentences.append(
            f"Systematic ablation removed {either(removed)} hypernyms as wholes ({either([which[x] for x in lists])})."
        )
        kept = about.values("removed_as_negative", ablation_kind="systematic")
        if kept == ["keep"]:
            sentences.append("A removed hypernym still occurred in training questions whose answer is no.")
        elif kept == ["never"]:
            sentences.append("A removed hypernym occurred in no training question.")
    partial = [level for level in levels if 0 < level < 100] or removed
    scopes = about.values("scope")
    if partial and scopes == ["leaf"]:
        sentences.append("A leaf touched by an ablation lost all its questions about hypernyms.")
    elif partial and scopes == ["mapping"]:
        sentences.append("Only the (leaf, hypernym) pairs chosen were withheld, not the leaf’s other hypernyms.")
    return sentences


RULES = {
    ("across", "paper"): "by a random permutation of all leaves",
    ("across", "disjoint"): "by a random permutation that moves no label to a leaf with a hypernym in common",
    ("within", "paper"): "by a random permutation inside each group of leaves with the same hypernyms",
    ("within", "deranged"): "by a random permutation without fixed points inside each group of leaves with the same "
    "hypernyms (a leaf alone in its group stays)",
    ("within", "release"): "by a random permutation without fixed points inside each group of leaves with the same "
    "hypernyms, a leaf alone in its group having first joined the most specific larger group whose hypernyms are among "
    "its own",
}


def _shuffles(about: Settings) -> list[str]:
    sentences = []
    for shuffle in ("across", "within"):
        rules = about.values(f"{shuffle}_rule", shuffle=shuffle)
        if about.has("shuffle", shuffle):
            how = either([RULES[shuffle, rule] for rule in rules if (shuffle, rule) in RULES])
            sentences.append(f"Labels shuffled {shuffle} categories were dealt to the images of other leaves {how}.")
    doses = [dose for dose in sorted(about.values("shuffled", shuffle="across")) if dose < 100]
    if doses:
        sentences.append(f"Partial shuffles across categories moved {either(doses)} % of the leaves.")
    if about.has("shuffle", "swap"):
        sentences.append(
            "In the swap, pairs of hypernyms of nearly equal visual coherence exchanged the images of their leaves."
            if about.values("swap_rule", shuffle="swap") == ["coherence"]
            else "In the swap, the published pairs of hypernyms exchanged the images of their leaves."
        )
    if sentences:
        sentences.append("Under every shuffle, answers in training and in testing followed the labels.")
    return sentences


PROBED = {
    "question": "The LM was also asked in text alone whether each leaf is a kind of each hypernym.",
    "plausibility": (
        "The LM was also read in text alone: the log-probability of each hypernym after a sentence about the leaf, "
        "minus that after the same sentence without the leaf, mean over sentences."
    ),
}
LOSSES = {"vocabulary": "the whole vocabulary", "answers": "the two answers"}
SUPERVISED = {"answer": "the answer", "answer_eos": "the answer and the end-of-text token after it"}


def training_text(about: Settings) -> str:
    """Prompt, loss, optimiser and batches."""
    template = about.values("template")
    shown = either([f"“{text}”".replace("\n", "\\n") for text in template])
    sentences = [
        f"The prompt was {shown}, with the patches at the place of {{image}}"
        + ("." if all("{image}" in text for text in template) else ", or after the first token where it has none."),
        *_task_sentences(about),
        f"Projectors were trained with AdamW {in_text('adamw')} for {about.numbers('epochs')} epochs in batches of "
        f"{about.numbers('batch')} questions, at a learning rate of {about.numbers('learning_rate')} after a "
        f"linear warm-up over {_percent(about, 'warmup')} of the steps and with cosine decay to zero, weight decay "
        f"{about.numbers('weight_decay')}, and gradients clipped at a norm of {about.numbers('clip')}.",
    ]
    if any(pool > 1 for pool in about.values("pool")):
        sides = either([f"{pool} × {pool}" for pool in sorted(about.values("pool"))])
        sentences.append(f"The projector read means over {sides} neighbouring patches.")
    orders = about.values("order")
    if orders == ["images"]:
        sentences.append("Batches drew images, so that all training questions of an image followed one another.")
    elif orders == ["pairs"]:
        sentences.append("Batches drew (image, question) pairs at random.")
    sentences.append("The last weights were evaluated; nothing was chosen by validation scores of withheld questions.")
    return " ".join(sentences)


def _task_sentences(about: Settings) -> list[str]:
    """What was learned after an image: an answer, or a name."""
    tasks = about.values("task") or ["verify"]
    sentences = []
    if "verify" in tasks:
        only = {"task": "verify"} if "task" in about.table else {}
        yes, no = (either(about.values(name, **only)) for name in ("answer_yes", "answer_no"))
        over = either([LOSSES.get(value, value) for value in about.values("loss", **only)])
        at = either([SUPERVISED.get(value, value) for value in about.values("supervise", **only)])
        sentences.append(f"The answers were “{yes}” and “{no}”; the loss was the cross-entropy over {over} at {at}.")
    if "name" in tasks:
        carriers = dict.fromkeys(
            text for name in ("carrier_leaf", "carrier_hypernym") for text in about.values(name, task="name")
        )
        who = "Runs that name" if len(tasks) > 1 else "Runs"
        sentences.append(
            f"{who} had the sentence {either([f'“{text}”' for text in carriers])} in place of a question, only "
            "with categories true of the label, and the loss was the cross-entropy over the whole vocabulary at the "
            "tokens of the phrase and of what follows it. In testing, the score of a category was the log-probability "
            "of these tokens minus its mean over the test images asked about it, and the answer was yes from zero on. "
            "This reads no label, but is no answer that a model gives by itself, so that tasks are compared by AUC. "
            "For the choice among all names the mean is over all test images."
        )
    return sentences


def _percent(about: Settings, name: str) -> str:
    return either([f"{100 * value:g} %" for value in sorted(about.values(name))])


SPLIT_USE = {"train": "were for training", "validation": "for validation", "test": "for testing"}


@dataclass(frozen=True)
class Methods:
    """`paragraphs`: (heading, text); `references`: each in full, in the order of the alphabet."""

    paragraphs: tuple[tuple[str, str], ...]
    references: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it as plain text, to be copied."""
        body = [f"{heading}. {text}" for heading, text in self.paragraphs]
        return "\n\n".join([*body, "References", *self.references])


def methods_of(study: Study, world: Path | None = None) -> Methods:
    """Methods of a study; `world`: the microworld's folder, when the study is known to have run on one."""
    about = Settings(study.runs)
    materials = materials_of(study, world)
    paragraphs = (
        ("Materials", _materials(materials, about)),
        ("Models", models_text(materials.kind == "microworld", about, imported_encoders(study))),
        ("Conditions", conditions_text(about)),
        ("Training", training_text(about)),
        ("Measures", _measures(study)),
        ("Statistics", _statistics(study)),
    )
    wording = Wording(study)
    said = tuple((heading, wording(text)) for heading, text in paragraphs)
    return Methods(said, cited_in(" ".join(text for _, text in paragraphs)))


def _materials(materials: Materials, about: Settings) -> str:
    images = sum(materials.images.values())
    size = (
        f"{images:,} images of {materials.leaves:,} leaf categories (such as “{materials.example}”) under "
        f"{count(materials.hypernyms, 'hypernym')}"
    )
    if materials.kind == "things":
        sentences = [
            f"Images were photographs of THINGS {in_text('things')} with the higher-level categories of THINGSplus "
            f"{in_text('thingsplus')} as hypernyms: {size}."
        ]
    elif materials.kind == "microworld":
        sentences = [
            "Images, taxonomy, image encoder and language model were those of one synthetic world, which the software "
            f"crosstax draws and trains from a seed (here {materials.world_seed}): {size}, all images drawn by "
            "program. Results therefore describe this one world (n = 1), not photographs or published models."
        ]
    else:
        sentences = [f"The data set ({either(materials.names, 'and') or 'not named'}) had {size}."]
    parts = [f"{materials.images.get(name, 0):,} {use}" for name, use in SPLIT_USE.items()]
    rule = " (each leaf’s images, divided at 70 and 75 %, rounded down)" if materials.by_rule else ""
    sentences.append(f"Of these, {either(parts, 'and')}{rule}.")
    form = next(iter(about.values("question_singular")), "")
    asked = f", in the form “{form.replace('{phrase}', materials.example)}”" if form else ""
    sentences.append(
        f"Following Xu et al. (2026), every image was asked yes/no questions{asked}: one about its leaf whose answer "
        "is yes and one about another leaf whose answer is no, and likewise one of each for every hypernym of its "
        "leaf. Categories of the second kind were drawn uniformly among those not true of the leaf."
    )
    languages = {*about.values("train_language"), *about.values("test_language")} - {""}
    if languages:
        sentences.append(
            "In some runs the questions of training, or those of validation and test, were put in another language "
            f"({either(sorted(languages), 'and')}), with its own phrases and wording."
        )
    if about.has("homonyms", "drop"):
        some = " in some runs" if about.has("homonyms", "keep") else ""
        sentences.append(f"Leaves that carry the name of a hypernym were left out{some}.")
    if about.has("subset", "swap"):
        sentences.append(
            "The experiment on swapped hypernyms used samples of "
            f"{either(about.values('swap_leaves', subset='swap'))} leaves of each of its hypernyms and asked about "
            "these leaves and hypernyms only, in the swap and in its control."
        )
    return " ".join(sentences)


def _names(study: Study) -> bool:
    """Whether some runs name."""
    return "name" in set(study.runs["task"])


def _measures(study: Study) -> str:
    sentences = [
        "A question was answered yes where the logit of yes was at least that of no"
        + (", or the score of a name at least zero." if _names(study) else "."),
        "Scores are macro F1 over the two answers (over those that occur among the right or the given ones), computed "
        "per category on test images, averaged over categories and then over runs; and the area under the ROC curve "
        "(AUC) of the probability of yes, which a bias to one answer does not move.",
        "Three baselines were computed on exactly the same questions: the majority answer of each category, a fair "
        "coin, and the run’s own answers permuted within each category.",
    ]
    if not study.yardsticks.empty:
        sentences.append(
            f"As a control without an LM, the {NEIGHBOURS} nearest training images (cosine of mean patch features, "
            "with and without whitening; the image’s own label leaf left out) voted on each hypernym."
        )
    if not study.coherence.empty:
        sentences.append(
            "Visual coherence of a category is the mean pairwise cosine similarity of the mean patch features of its "
            "training images."
        )
    if study.probes:
        methods = {probe.method for own in study.probes.values() for probe in own}
        sentences += [sentence for method, sentence in PROBED.items() if method in methods]
    return " ".join(sentences)


def _statistics(study: Study) -> str:
    bases = dict.fromkeys(d.basis for d in (c.f1 for c in study.compared) if d.basis != OVER_BOTH)
    sentences = [
        "Contrasts on held-out hypernyms were fixed before any result. Seeds and hypernyms were treated as crossed "
        "random samples: the variance of a difference was estimated from the mean squares of seeds, hypernyms and "
        "their interaction, conditions with the same seeds were compared seed by seed, and 95 % intervals took the t "
        "quantile of each factor in proportion to its share.",
        f"Beside them stand percentile intervals of a bootstrap that draws hypernyms and seeds ({DRAWS:,} draws).",
        *(f"Where a condition has too few of either, intervals are about {basis}." for basis in bases),
        f"Equivalence was tested with two one-sided tests {in_text('tost')} at a margin of {EQUIVALENCE_MARGIN:g} "
        "points of F1. The tests fixed in advance (of difference for contrasts, of equivalence for chance checks) are "
        "one family, adjusted by Holm’s method; all other comparisons are exploratory and were not adjusted.",
    ]
    if study.fitted:
        sentences.append(
            "As a sensitivity analysis, linear mixed-effects models were fitted by REML as in lme4 "
            f"{in_text('lme4')}, with Satterthwaite’s degrees of freedom as in lmerTest {in_text('satterthwaite')}."
        )
    sentences.append(f"Training and analysis: crosstax{_version()}.")
    return " ".join(sentences)


def _version() -> str:
    try:
        return f" {version('crosstax')}"
    except PackageNotFoundError:
        return ""
