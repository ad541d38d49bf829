"""A methods section in plain words, from a study's own settings, with the references it needs.

It says only what the runs' settings and files say; a setting that an old run lacks gives no sentence.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from analysis.contrasts import EQUIVALENCE_MARGIN
from analysis.intervals import DRAWS
from analysis.materials import Materials, materials_of
from analysis.methods_runs import conditions_text, models_text, training_text
from analysis.neighbours import NEIGHBOURS
from analysis.references import cited_in, in_text
from analysis.settings import Settings, count, either
from analysis.study import Study

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
        ("Models", models_text(materials.kind == "microworld", about)),
        ("Conditions", conditions_text(about)),
        ("Training", training_text(about)),
        ("Measures", _measures(study)),
        ("Statistics", _statistics(mixed_models=bool(study.fitted))),
    )
    return Methods(paragraphs, cited_in(" ".join(text for _, text in paragraphs)))


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
    rule = " (70, 5 and 25 % of each leaf’s images, rounded down)" if materials.by_rule else ""
    sentences.append(f"Of these, {either(parts, 'and')}{rule}.")
    form = next(iter(about.values("question_singular")), "")
    asked = f", in the form “{form.replace('{phrase}', materials.example)}”" if form else ""
    sentences.append(
        f"Following Xu et al. (2026), every image was asked yes/no questions{asked}: one about its leaf whose answer "
        "is yes and one about another leaf whose answer is no, and likewise one of each for every hypernym of its "
        "leaf. Categories of the second kind were drawn uniformly among those not true of the leaf."
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


def _measures(study: Study) -> str:
    sentences = [
        "A question was answered yes where the logit of yes was at least that of no.",
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
        sentences.append("The LM was also asked in text alone whether each leaf is a kind of each hypernym.")
    return " ".join(sentences)


def _statistics(mixed_models: bool) -> str:
    sentences = [
        "Contrasts on held-out hypernyms were fixed before any result. F1 was averaged over a condition’s runs and "
        "compared hypernym by hypernym, with 95 % intervals of Student’s t over hypernyms and p-values adjusted by "
        "Holm’s method for the number of contrasts; these speak of hypernyms, with the seeds as they are. Beside them "
        f"stand percentile intervals of a bootstrap that draws hypernyms and seeds with replacement ({DRAWS:,} draws).",
        f"Equivalence was tested with two one-sided tests {in_text('tost')} at a margin of {EQUIVALENCE_MARGIN:g} "
        "points of F1.",
    ]
    if mixed_models:
        sentences.append(
            "As a second test over hypernyms and seeds, linear mixed-effects models were fitted by REML as in lme4 "
            f"{in_text('lme4')}, with Satterthwaite’s degrees of freedom as in lmerTest {in_text('satterthwaite')}."
        )
    sentences.append(f"Training and analysis: crosstax{_version()}.")
    return " ".join(sentences)


def _version() -> str:
    try:
        return f" {version('crosstax')}"
    except PackageNotFoundError:
        return ""
