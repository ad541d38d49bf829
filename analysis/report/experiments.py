"""The second part of the page, a section for each experiment: controls, coherence, ablation, shuffles, depth, text."""

from analysis.cells import parts, setups_of, short_name
from analysis.published import COHERENCE
from analysis.report.page import Data, Page
from analysis.report.result import BOOTSTRAP, FILE
from analysis.report.table import Column, Table, table
from analysis.scores.ablation import ablation_sentences
from analysis.scores.coherence import MEASURES
from analysis.scores.dose import dose_sentences, dose_table
from analysis.scores.neighbours import NEIGHBOURS
from analysis.scores.yardsticks import YARDSTICKS
from analysis.statistics.comparisons import compare_setups, yardstick_sentences
from analysis.statistics.contrasts import EQUIVALENCE_MARGIN, correlation
from analysis.study import POOLING, coherence_points


def yardsticks(page: Page) -> Data | None:
    """Every cell of the headline minus every yardstick; None where features are gone."""
    if not page.comparisons:
        return None
    return {
        "composed": any(c.yardstick == "composition" for c in page.comparisons),
        "gaps": _gaps(page),
        "neighbours": NEIGHBOURS,
        "purity": _purity(page),
        "sentences": yardstick_sentences(page.comparisons),
    }


def _gaps(page: Page) -> Table:
    known = page.study.contrasts
    tested = known[known["kind"] == "yardstick"].set_index(["setup", "above", "below"]).to_dict("index")
    rows = [
        {
            **tested[c.setup, c.cell, YARDSTICKS[c.yardstick]],
            "setup": c.setup,
            "name": c.cell,
            "yardstick": YARDSTICKS[c.yardstick],
            "f1": c.other_f1,
            "auc": c.other_auc[0],
            "auc_gap": c.auc_gap,
        }
        for c in page.comparisons
    ]
    columns = [
        page.setup,
        Column("condition", lambda row: (row["name"], f"minus {row['yardstick']}"), "noted"),
        Column("its F1", "f1"),
        Column("F1 difference", lambda row: (row["difference"], row["low"], row["high"]), "interval", sign=True),
        BOOTSTRAP,
        Column("its AUC", "auc", digits=2),
        Column("AUC difference", "auc_gap", "interval", digits=2, sign=True),
        Column("verdict on F1", "verdict", "prose"),
    ]
    caption = (
        "Exploratory: each condition minus each yardstick on the same held-out questions, mean of the differences over "
        "hypernyms, with its 95 % interval over hypernyms and, for F1, that of a bootstrap that draws hypernyms and "
        "seeds."
    )
    return table("yardsticks", caption, rows, columns, FILE)


def _purity(page: Page) -> Table | None:
    """Mean (SD) over hypernyms of neighbourhood purity per encoder, arm and space, with what chance gives."""
    known = page.study.purity
    known = known[known["map"].isin(page.shown["map"]) & (known["kind"] == "hypernym")]
    if known.empty:
        return None
    many = len(setups_of(page.shown)) > 1
    rows = []
    for (encoder, _, arm, space), here in known.groupby(["encoder", "cell_labels", "arm", "space"], sort=False):
        row = {"arm": arm, "encoder": short_name(encoder) if many else "", "space": space}
        for name in ("purity", "purity_other_leaves"):
            row[name] = (float(here[name].mean()), float(here[name].std()))
            row[name.replace("purity", "chance")] = float(here[name.replace("purity", "chance")].mean())
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
        Column("labels", lambda row: (row["arm"], row["encoder"]), "noted"),
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
    rows = []
    for (encoder, labels, arm, pooled), here in known.groupby(["encoder", "cell_labels", "arm", "pooled"], sort=False):
        maps = kept[(kept["encoder"] == encoder) & (kept["cell_labels"] == labels)]
        rows.append(
            {
                "arm": arm,
                "encoder": short_name(encoder) if many else "",
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
        rows.append({"cell": cell, "arm": page.study.names.labels(cell.labels), **fits})
    if not rows:
        return None
    columns = [
        page.setup,
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
        Column("condition", lambda row: page.study.names.condition(row["cell"]), "text"),
        Column("questions", lambda row: QUESTIONS[row["group"]], "text"),
        Column("over", "over", "text"),
        Column("runs", "n_runs", digits=0),
        Column("categories", "n_categories", digits=0),
        Column("F1", lambda row: (row["f1"], row["f1_low"], row["f1_high"]), "range"),
        Column("AUC", lambda row: (row["auc"], row["auc_low"], row["auc_high"]), "range", digits=2),
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
        page.setup_of_all,
        Column("rule", "rule", "text"),
        Column("LM weights", "lm_init", "text"),
        Column("shuffled", lambda row: row["dose"] / 100, "percent", digits=0),
        Column("runs", "n_runs", digits=0),
        Column("coherence, centred", "coherence_centred", digits=3),
        Column("coherence", "coherence", digits=3),
        Column("pairs kept", "pairs_kept", "percent", digits=0),
        Column("F1", lambda row: (row["f1"], row["f1_low"], row["f1_high"]), "range"),
        Column("AUC", lambda row: (row["auc"], row["auc_low"], row["auc_high"]), "range", digits=2),
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
        page.setup,
        Column("LM weights", "lm_init", "text"),
        Column("test", "test", "text"),
        Column("control", "control"),
        Column("swapped", "swapped"),
        Column("difference", lambda row: (row["difference"], row["low"], row["high"]), "interval", sign=True),
        Column("t", "statistic", digits=2),
        Column("df", "df"),
        Column("p", "p", "p"),
        Column("p of equivalence", "tost_p", "p"),
        Column("verdict", "verdict", "prose"),
    ]
    caption = (
        "Exploratory: held-out macro F1, control minus swap in points with its 95 % interval, by tests that differ in "
        f"what they take to be a sample. Equivalence: two one-sided tests at ±{EQUIVALENCE_MARGIN:g} points."
    )
    if tests.empty:
        return None
    notes = dict(zip(tests["test"], tests["differs"], strict=True))
    return {"tests": table("swap", caption, tests.to_dict("records"), columns, "swap.csv"), "notes": notes}


def setups(page: Page) -> Data | None:
    """Differences between setups; None where nothing can be compared."""
    gaps = compare_setups(page.study.runs, page.study.categories)
    if not gaps:
        return None
    known = page.study.contrasts
    tested = known[known["kind"] == "setup"].set_index(["above", "below"]).to_dict("index")
    rows = [
        {
            **tested[f"{gap.cell}, {gap.one}", f"{gap.cell}, {gap.other}"],
            "name": gap.cell,
            "one": gap.one,
            "other": gap.other,
            "f1": (gap.f1, gap.other_f1),
            "auc_gap": gap.auc_gap,
        }
        for gap in gaps
    ]
    columns = [
        Column("condition", "name", "text"),
        Column("setups", lambda row: (page.short(row["one"]), f"minus {page.short(row['other'])}"), "noted"),
        Column("F1", lambda row: row["f1"][0]),
        Column("the other’s F1", lambda row: row["f1"][1]),
        Column("F1 difference", lambda row: (row["difference"], row["low"], row["high"]), "interval", sign=True),
        BOOTSTRAP,
        Column("AUC difference", "auc_gap", "interval", digits=2, sign=True),
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("verdict on F1", "verdict", "prose"),
    ]
    caption = (
        "Exploratory: held-out macro F1 of the first setup and of another one with the same hypernyms, and their "
        "difference, paired by hypernym, with its 95 % interval over hypernyms and that of a bootstrap that draws "
        "hypernyms and seeds."
    )
    return {"gaps": table("setups", caption, rows, columns, FILE)}


def depth(page: Page) -> Data | None:
    """Means by depth; None unless the taxonomy has two depths."""
    if page.study.depth.empty:
        return None
    columns = [
        page.setup,
        Column("condition", lambda row: page.study.names.condition(row["cell"]), "text"),
        Column("depth", "depth", digits=0),
        Column("hypernyms", "n_hypernyms", digits=0),
        Column("F1", "f1"),
        Column("SD", "f1_sd"),
        Column("95 % interval", lambda row: (row["f1_low"], row["f1_high"]), "between"),
        Column("AUC", "auc", digits=2),
        Column("permuted", "permuted_f1"),
    ]
    caption = "Held-out test scores by depth; SD and 95 % interval over hypernyms."
    return {
        "means": table("depth", caption, page.study.depth.to_dict("records"), columns, "depth.csv"),
        "narrow": len(setups_of(page.study.depth)) < 2,
    }


MEANS = ("text_f1", "text_item_f1", "text_auc", "f1")
FITTED = ("text_f1", "text_item_f1")


def text(page: Page) -> Data | None:
    """Means and correlations per cell with a probe; None without probes."""
    cells = dict(iter(page.study.text.groupby("cell", sort=False)))
    rows = []
    for cell in page.shown["cell"].unique():
        if cell in cells:
            here = cells[cell]
            fits = {f"r_{name}": correlation(here[name].to_numpy(float), here["f1"].to_numpy(float)) for name in FITTED}
            means = {name: float(here[name].mean()) for name in MEANS}
            rows.append({"cell": cell, "name": page.study.names.condition(cell), **means, **fits})
    columns = [
        page.setup,
        Column("condition", "name", "text"),
        Column("text F1", "text_f1"),
        Column("text F1, items", "text_item_f1"),
        Column("text AUC", "text_auc", digits=2),
        Column("held-out F1", "f1"),
        Column("hypernyms", lambda row: row["r_text_f1"][3], digits=0),
        Column("r with text F1", lambda row: row["r_text_f1"][:3], "interval", digits=2),
        Column("r with items", lambda row: row["r_text_item_f1"][:3], "interval", digits=2),
    ]
    caption = (
        "Means over held-out hypernyms, and Pearson r over hypernyms with its 95 % interval. “Items”: each hypernym "
        "scored on its leaves’ questions, as the paper relates text to images."
    )
    return {"means": table("text", caption, rows, columns, "probe.csv")} if rows else None
