"""How alike the images of a hypernym look under each label map, and whether held-out F1 follows (paper section 5)."""

from analysis.coherence import MEASURES
from analysis.conditions import arms_of, setups_of, short_name
from analysis.contrasts import correlation
from analysis.page.page import Data, Page
from analysis.page.table import Column, Table, table
from analysis.published import COHERENCE
from analysis.study import POOLING, coherence_points

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
    many = page.shown["setup"].nunique() > 1
    rows = []
    for (encoder, arm, pooled), here in known.groupby(["encoder", "arm", "pooled"], sort=False):
        maps = kept[(kept["encoder"] == encoder) & (kept["arm"] == arm)]
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
    for (setup, arm), here in coherence_points(page.study).groupby(["setup", "arm"]):
        f1 = here["f1"].to_numpy(float)
        fits = {name: correlation(here[name].to_numpy(float), f1) for name in ("centred", "all_pairs")}
        rows.append({"setup": str(setup), "arm": str(arm), **fits})
    if not rows:
        return None
    order, arms = setups_of(page.shown), arms_of(page.study.runs)
    rows.sort(key=lambda row: (order.index(row["setup"]), arms.index(row["arm"])))
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
