"""The second part of the page, a section for each experiment: controls, coherence, ablation, shuffles, depth, text."""

from analysis.cells import KEYED, encoder_names, parts, setups_of
from analysis.published import COHERENCE
from analysis.report.page import Data, Page
from analysis.report.result import FILE, GROUPS
from analysis.report.table import BASIS, BOOTSTRAP, SETUP, Column, Table, table
from analysis.scores.ablation import ablation_sentences
from analysis.scores.coherence import MEASURES
from analysis.scores.dose import dose_sentences, dose_table
from analysis.scores.neighbours import NEIGHBOURS
from analysis.scores.probe import METHODS
from analysis.scores.yardsticks import CONTROLS
from analysis.statistics.contrasts import Contrast
from analysis.statistics.difference import EQUIVALENCE_MARGIN, Decision
from analysis.statistics.intervals import correlation
from analysis.study import POOLING, coherence_points
from analysis.words import interval
from engine.runs.lens import ROLES


def yardsticks(page: Page) -> Data | None:
    """Every cell of the headline minus every yardstick; None where features are gone."""
    compared = _of_kind(page, "yardstick")
    if not compared:
        return None
    columns = [
        SETUP,
        Column("condition", lambda row: (row["above"], f"minus {row['below']}"), "noted"),
        Column("its F1", "below_f1"),
        *_GAPS,
    ]
    caption = (
        "Exploratory: each condition minus each yardstick on the same held-out questions, with 95 % intervals, p not "
        "adjusted."
    )
    return {
        "composed": any(c.other == "composition" for c in compared),
        "gaps": table("yardsticks", caption, [c.row for c in compared], columns, FILE),
        "neighbours": NEIGHBOURS,
        "purity": _purity(page),
        "sentences": yardstick_sentences(compared),
    }


def _of_kind(page: Page, kind: str) -> list[Contrast]:
    return [c for c in page.study.compared if c.kind == kind]


_GAPS = [
    Column("F1 difference", ("difference", "low", "high"), "interval", sign=True),
    BOOTSTRAP,
    Column("its AUC", "below_auc", digits=2),
    Column("AUC difference", ("auc_difference", "auc_low", "auc_high"), "interval", digits=2, sign=True),
    Column("hypernyms", "n_hypernyms", digits=0),
    BASIS,
    Column("verdict on F1", "verdict", "prose"),
]


def yardstick_sentences(compared: list[Contrast]) -> list[str]:
    """What the pretrained LM's answers are worth beside the stronger control without an LM, and the composition."""
    sentences = []
    for cell in dict.fromkeys(c.one for c in compared if c.one.pretrained):
        here = [c for c in compared if c.one == cell]
        controls = [c for c in here if c.other in CONTROLS]
        name = ", ".join(filter(None, [here[0].above, here[0].setup]))
        if controls:
            strong = max(controls, key=lambda c: c.means[1])
            sentences.append(_beside(name, strong, "the stronger control without an LM", _LOOKS))
            seen = max(controls, key=lambda c: c.auc_means[1])
            area = seen.other_auc
            if cell.labels.shuffle == "across" and area is not None and area.decision is Decision.ABOVE:
                sentences.append(
                    f"Caution: in {name} looks still tell hypernyms apart (AUC of the control {seen.auc_means[1]:.2f}, "
                    f"95 % interval {0.5 + area.low:.2f} to {0.5 + area.high:.2f}), "
                    "so an answer above chance may come from looks."
                )
        for composed in (c for c in here if c.other == "composition"):
            sentences.append(_beside(name, composed, "its leaf answers with the LM’s text answers", _HALVES))
    return sentences


_LOOKS = {
    Decision.ABOVE: "more than looking alike gives",
    Decision.BELOW: "less than looking alike gives",
    Decision.EQUIVALENT: "as much as looking alike gives",
    Decision.UNDECIDED: "not told apart from what looking alike gives",
}
_HALVES = {
    Decision.ABOVE: "better than its halves put together",
    Decision.BELOW: "worse than its halves put together",
    Decision.EQUIVALENT: "as good as its halves put together",
    Decision.UNDECIDED: "not told apart from its halves put together",
}


def _beside(name: str, c: Contrast, what: str, meaning: dict[Decision, str]) -> str:
    return (
        f"{name[0].upper()}{name[1:]}: held-out F1 {c.means[0]:.1f}, {what} {c.means[1]:.1f}; {c.f1.verdict}, "
        f"{interval(c.f1.low, c.f1.high)}: {meaning[c.f1.decision]}."
    )


def _purity(page: Page) -> Table | None:
    """Mean (SD) over hypernyms of neighbourhood purity per encoder, arm and space, with what chance gives."""
    known = page.study.purity
    known = known[known["map"].isin(page.shown["map"]) & (known["kind"] == "hypernym")]
    if known.empty:
        return None
    many = len(setups_of(page.shown)) > 1
    rows, encoders = [], encoder_names(page.study.runs["encoder"].unique())
    for (encoder, _, arm, space), here in known.groupby(["encoder", "cell_labels", "arm", "space"], sort=False):
        row = {"arm": arm, "encoder": encoders[str(encoder)] if many else "", "space": space}
        for name, chance in (("purity", "chance"), ("purity_other_leaves", "chance_other_leaves")):
            row[name], row[chance] = (float(here[name].mean()), float(here[name].std())), float(here[chance].mean())
        rows.append(row)
    columns = [
        Column("labels", lambda row: (row["arm"], row["encoder"]), "noted"),
        Column("features", "space", "text"),
        Column("all images", "purity", "bracketed", digits=2),
        Column("chance", "chance", digits=2),
        Column("other leaves only", "purity_other_leaves", "bracketed", digits=2),
        Column("chance, other leaves", "chance_other_leaves", digits=2),
    ]
    caption = (
        f"Share of an image’s {NEIGHBOURS} nearest training images that are of its hypernym, mean (SD) over hypernyms, "
        "and the share chance gives."
    )
    return table("purity", caption, rows, columns, "purity.csv")


MEASURE_NAMES = dict(
    zip(MEASURES, ("all pairs", "different leaves", "centred", "centred, different leaves"), strict=True)
)


def coherence(page: Page) -> Data | None:
    """Coherence and its correlation with held-out F1; None where features are gone."""
    rows = _rows(page)
    if not rows:
        return None
    columns = [
        Column("labels", ("arm", "encoder"), "noted"),
        Column("pooled over", "pooled", "text"),
        *(Column(label, name, "bracketed", digits=3) for name, label in MEASURE_NAMES.items()),
        Column("(leaf, hypernym) pairs kept", "pairs_kept", "percent", digits=0),
        Column("leaves in place", "leaves_fixed", "percent", digits=0),
    ]
    caption = (
        "Coherence: mean (SD) over hypernyms. “All pairs” is the paper’s definition. “Different leaves” leaves out "
        "pairs within one leaf; “centred” subtracts the mean of all training images. The paper reports "
        f"{COHERENCE['original']} original and {COHERENCE['across']} across."
    )
    return {"means": table("coherence", caption, rows, columns, "coherence.csv"), "fits": _fits(page)}


def _rows(page: Page) -> list[Data]:
    """Mean (SD) over hypernyms of every variant, per encoder, arm and pooling, and what the maps kept."""
    known, kept = page.study.coherence, page.study.kept
    known = known[(known["kind"] == "hypernym") & known["map"].isin(page.shown["map"])]
    many = len(setups_of(page.shown)) > 1
    rows, encoders = [], encoder_names(page.study.runs["encoder"].unique())
    for (encoder, labels, arm, pooled), here in known.groupby(["encoder", "cell_labels", "arm", "pooled"], sort=False):
        maps = kept[(kept["encoder"] == encoder) & (kept["cell_labels"] == labels)]
        rows.append(
            {
                "arm": arm,
                "encoder": encoders[str(encoder)] if many else "",
                "pooled": "patches" if pooled == POOLING else "all tokens",
                **{name: (float(here[name].mean()), float(here[name].std())) for name in MEASURES},
                "pairs_kept": float(maps["pairs_kept"].mean()),
                "leaves_fixed": float(maps["leaves_fixed"].mean()),
            }
        )
    return rows


def _fits(page: Page) -> Table | None:
    """Correlation of coherence (centred, and as the paper has it) and held-out F1 over hypernyms, per setup and arm."""
    rows: list[Data] = []
    for cell, here in parts(coherence_points(page.study), lambda cell: cell).items():
        f1 = here["f1"].to_numpy(float)
        fits = {name: correlation(here[name].to_numpy(float), f1) for name in ("centred", "all_pairs")}
        rows.append({**page.named(cell), **fits})
    if not rows:
        return None
    columns = [
        SETUP,
        Column("labels", "arm", "text"),
        Column("hypernyms", lambda row: row["centred"][3], digits=0),
        Column("r, centred", lambda row: row["centred"][:3], "interval", digits=2),
        Column("r, the paper’s definition", lambda row: row["all_pairs"][:3], "interval", digits=2),
    ]
    return table(
        "coherence-fit",
        "Pretrained LM: Pearson r of coherence and held-out F1 over hypernyms, with its 95 % interval.",
        rows,
        columns,
    )


QUESTIONS = {"leaf": "leaves", "seen": "seen", "heldout": "held-out"}


def ablation(page: Page) -> Data | None:
    """Ablation curves; None without two levels of one series."""
    curves = page.study.ablation
    if curves.empty:
        return None
    columns = [
        Column("setup", lambda row: page.study.names.series(row["cell"].setup), "text"),
        Column("ablation", "kind", "text"),
        Column("level", "ablation", digits=0),
        page.condition,
        Column("questions", lambda row: QUESTIONS[row["group"]], "text"),
        Column("over", "over", "text"),
        Column("runs", "n_runs", digits=0),
        Column("categories", "n_categories", digits=0),
        Column("F1", ("f1", "f1_low", "f1_high"), "range"),
        Column("AUC", ("auc", "auc_low", "auc_high"), "range", digits=2),
        Column("permuted", "permuted_f1"),
        Column("coin", "coin_f1"),
    ]
    caption = (
        "Test scores by level (percent of each hypernym’s leaves for random ablation, number of hypernyms for "
        "systematic ablation), mean over runs, lowest–highest where they differ. “No homonyms”: without hypernyms "
        "whose name a leaf has."
    )
    return {
        "points": table("ablation", caption, curves.to_dict("records"), columns, "ablation.csv"),
        "sentences": ablation_sentences(curves),
    }


def shuffles(page: Page) -> Data | None:
    """Present where shuffles were run at several levels; the numbers are those of the ablation curves."""
    names = [name for name in page.figures if name.startswith("shuffles")]
    return {"names": names} if names else None


def dose(page: Page) -> Data | None:
    """Dose-responses; None without a partial shuffle."""
    rows = dose_table(page.study.dose).to_dict("records")
    if not rows:
        return None
    columns = [
        SETUP,
        Column("rule", "rule", "text"),
        Column("LM weights", "lm_init", "text"),
        Column("shuffled", lambda row: row["dose"] / 100, "percent", digits=0),
        Column("runs", "n_runs", digits=0),
        Column("coherence, centred", "coherence_centred", digits=3),
        Column("coherence", "coherence", digits=3),
        Column("pairs kept", "pairs_kept", "percent", digits=0),
        Column("F1", ("f1", "f1_low", "f1_high"), "range"),
        Column("AUC", ("auc", "auc_low", "auc_high"), "range", digits=2),
        Column("permuted", "permuted_f1"),
        Column("coin", "coin_f1"),
    ]
    caption = "Held-out test scores by dose: mean over runs, lowest–highest where they differ."
    return {
        "points": table("dose", caption, rows, columns, "dose.csv"),
        "sentences": dose_sentences(page.study.dose),
    }


def swap(page: Page) -> Data | None:
    """Control minus swap by several tests; None where either was not run."""
    tests = page.study.swap
    columns = [
        SETUP,
        Column("LM weights", "lm_init", "text"),
        Column("test", "test", "text"),
        Column("control", "control"),
        Column("swapped", "swapped"),
        Column("difference", ("difference", "low", "high"), "interval", sign=True),
        Column("t", "statistic", digits=2),
        Column("df", "df"),
        Column("p", "p", "p"),
        Column("p of equivalence", "tost_p", "p"),
        Column("verdict", "verdict", "prose"),
    ]
    caption = (
        "Exploratory: held-out macro F1, control minus swap in points with its 95 % interval, by tests that differ in "
        f"what they take to be a sample; the first decides. Equivalence: two one-sided tests at "
        f"±{EQUIVALENCE_MARGIN:g} points."
    )
    if tests.empty:
        return None
    notes = dict(zip(tests["test"], tests["differs"], strict=True))
    return {"tests": table("swap", caption, tests.to_dict("records"), columns, "swap.csv"), "notes": notes}


def setups(page: Page) -> Data | None:
    """Differences between setups; None where nothing can be compared."""
    compared = _of_kind(page, "setup")
    if not compared:
        return None
    columns = [
        Column("condition", lambda row: (row["above"], f"minus {row['below']}"), "noted"),
        Column("F1", "above_f1"),
        Column("the other’s F1", "below_f1"),
        *_GAPS,
    ]
    caption = (
        "Exploratory: held-out macro F1 of the first setup and of another one with the same hypernyms, and their "
        "difference with 95 % intervals, p not adjusted."
    )
    return {"gaps": table("setups", caption, [c.row for c in compared], columns, FILE)}


def depth(page: Page) -> Data | None:
    """Means by depth; None unless the taxonomy has two depths."""
    if page.study.depth.empty:
        return None
    columns = [
        SETUP,
        page.condition,
        Column("depth", "depth", digits=0),
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("F1", "f1"),
        Column("SD", "f1_sd"),
        Column("95 % interval", ("f1_low", "f1_high"), "between"),
        Column("AUC", "auc", digits=2),
        Column("permuted", "permuted_f1"),
    ]
    caption = "Held-out test scores by depth; SD over hypernyms, 95 % interval over seeds and hypernyms."
    return {
        "means": table("depth", caption, page.study.depth.to_dict("records"), columns, "depth.csv"),
        "narrow": len(setups_of(page.study.depth)) < 2,
    }


def naming(page: Page) -> Data | None:
    """The best of all names, per cell and group; None where no run names."""
    found = page.study.names_found
    if found.empty:
        return None
    columns = [
        SETUP,
        page.condition,
        Column("names of", lambda row: GROUPS[row["group"]].lower(), "text"),
        Column("categories", "n_categories", digits=0),
        Column("candidates", "n_candidates", digits=0),
        Column("best is true, %", ("top1", "top1_low", "top1_high"), "interval"),
        Column("by chance, %", "chance_top1"),
        Column("AUC", ("auc", "auc_low", "auc_high"), "interval", digits=2),
        Column("AUC, as shown", ("auc_seen", "auc_seen_low", "auc_seen_high"), "interval", digits=2),
    ]
    caption = "Test images named by the best-scored of all candidates; 95 % intervals over seeds and categories."
    return {"found": table("naming", caption, found.to_dict("records"), columns, "naming.csv")}


MEANS = ("text_f1", "text_item_f1", "text_auc", "text_top1", "text_pairs", "f1")
FITTED = ("text_f1", "text_item_f1")


def text(page: Page) -> Data | None:
    """Means and correlations per cell with a probe and its method; None without probes."""
    cells = dict(iter(page.study.text.groupby(["cell", "method"], sort=False)))
    rows = []
    for cell in page.shown["cell"].unique():
        for method in (method for method in METHODS if (cell, method) in cells):
            here = cells[cell, method]
            fits = {f"r_{name}": correlation(here[name].to_numpy(float), here["f1"].to_numpy(float)) for name in FITTED}
            means = {name: float(here[name].mean()) for name in MEANS}
            rows.append({**page.named(cell), "method": method, **means, **fits})
    columns = [
        SETUP,
        Column("condition", "name", "text"),
        Column("probe", "method", "text"),
        Column("text F1", "text_f1"),
        Column("text F1, items", "text_item_f1"),
        Column("text AUC", "text_auc", digits=2),
        Column("above all wrong ones", lambda row: row["text_top1"], "percent", digits=0),
        Column("above one", lambda row: row["text_pairs"], "percent", digits=0),
        Column("held-out F1", "f1"),
        Column("hypernyms", lambda row: row["r_text_f1"][3], digits=0),
        Column("r with text F1", lambda row: row["r_text_f1"][:3], "interval", digits=2),
        Column("r with items", lambda row: row["r_text_item_f1"][:3], "interval", digits=2),
    ]
    caption = (
        "Means over held-out hypernyms, and Pearson r over hypernyms with its 95 % interval. “Items”: each hypernym "
        "scored on its leaves’ questions, as the paper relates text to images. “Above”: share of a hypernym’s leaves "
        "for which the LM puts it above every wrong hypernym, and share of single wrong ones."
    )
    return {"means": table("text", caption, rows, columns, "probe.csv")} if rows else None


KINDS = {"heldout": "held-out hypernyms", "seen": "seen hypernyms", "new": "other"}


def transfer(page: Page) -> Data | None:
    """One row per cell of the headline and question set; None where none were asked."""
    rows = [row for row in page.study.transfer.to_dict("records") if row["shown"]]
    columns = [
        SETUP,
        page.condition,
        Column("questions", "questions", "text"),
        Column("set", "set", "prose"),
        Column("groups", lambda row: KINDS[row["kind"]], "text"),
        Column("their number", "n_categories", digits=0),
        Column("seeds", "n_seeds", digits=0),
        Column("F1", ("f1", "low", "high"), "interval"),
        Column("AUC", "auc", digits=3),
        Column("said yes", "yes_share", "percent", digits=0),
        Column("permuted", "permuted_f1"),
        Column("against what is shown", "veridical_f1"),
        Column("F1, less trained wording", ("change", "change_low", "change_high"), "interval", sign=True),
        Column("decision", "change_verdict", "prose"),
        Column("AUC, less trained wording", ("change_auc", "change_auc_low", "change_auc_high"), "interval", digits=3),
    ]
    caption = (
        "Questions that no run was trained on: means over their groups with 95 % intervals, and differences to the "
        "same questions in the trained wording, group by group."
    )
    return {"means": table("transfer", caption, rows, columns, "transfer.csv")} if rows else None


def lens(page: Page) -> Data | None:
    """Where answers rise, and which names are nearest to patches; None where no run was read."""
    rises = [row for row in page.study.lens.to_dict("records") if row["shown"]]
    columns = [
        SETUP,
        page.condition,
        Column("questions", lambda row: GROUPS[row["group"]].lower(), "text"),
        Column("runs", "n_runs", digits=0),
        Column("AUC at the last layer", "auc", digits=2),
        Column("half of it at layer", ("rise", "rise_low", "rise_high"), "range"),
        Column("of layers", "layers", digits=0),
    ]
    caption = (
        "The layer, interpolated, from which on the AUC is above half of its way from chance to the last layer: mean "
        "and extremes of the runs. A dash: less than 0.6 at the last layer."
    )
    found = {"rises": table("lens", caption, rises, columns, "lens_layers.csv")}
    words = page.study.lens_words
    keys = ["lens", "layer", "about", "first"]
    rows = [
        {**dict(zip([*KEYED, *keys], key, strict=True)), **own.set_index("role")["share"].reindex(ROLES).to_dict()}
        for key, own in words[words["shown"].astype(bool)].groupby([*KEYED, *keys], sort=False)
    ]
    columns = [
        SETUP,
        page.condition,
        Column("lens", "lens", "text"),
        Column("layer", "layer", digits=0),
        Column("names of the", "about", "text"),
        Column("among the first", "first", digits=0),
        *(Column(f"{role}, %", role) for role in ROLES),
    ]
    caption = (
        "Percent of patches with a name among the nearest, a mean over the names of a role. Roles are those for the "
        "leaf that an image is labelled as, or that it shows."
    )
    return {**found, "words": table("lens_words", caption, rows, columns, "lens_words.csv")} if rises else None
