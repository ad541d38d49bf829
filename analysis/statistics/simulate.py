"""How often the intervals and decisions of `statistics.difference` are right: `python -m analysis.statistics.simulate`.

Tables are drawn with known standard deviations of seeds, hypernyms and residual, like those of the authors' release
(github.com/sally-xu-42/cross-modal-taxonomic-gen) at 100 % ablation: 0 to 4.5, 14 and 9 points within a cell; 0 to 5,
4 to 15 and 8 to 14 for differences. Whatever the truth, a 95 % interval should hold it in 95 % of studies, and a true
difference of zero, or of just the margin, be called different, or equivalent, in at most 5 %. Takes three minutes on
one core; docs/statistics.md shows the table.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from analysis.statistics.difference import ALPHA, EQUIVALENCE_MARGIN, Spread
from analysis.statistics.intervals import percentiles, resampled_difference, resampled_means
from cachegen.common.rng import generator

Array = NDArray[np.float64]
Sds = tuple[float, float, float]  # of seeds, hypernyms and residual, in points

CELL, SHARED, OTHER = "a cell’s mean", "difference, same seeds", "difference, other seeds"
SDS: dict[str, list[Sds]] = {
    CELL: [(4, 14, 9), (2, 14, 9), (0, 14, 9)],
    SHARED: [(4, 12, 11), (4, 5, 12), (4, 0, 11), (0, 12, 11), (0, 5, 12), (0, 0, 11)],
    OTHER: [(4, 12, 9), (4, 5, 9), (4, 0, 9), (0, 12, 9), (0, 5, 9), (0, 0, 9)],
}
SEEDS, HYPERNYMS = (3, 5, 10), (13, 53)
STUDIES, BOOTSTRAPPED = 8000, 300


def calibrate(
    studies: int = STUDIES,
    bootstrapped: int = BOOTSTRAPPED,
    seeds: tuple[int, ...] = SEEDS,
    hypernyms: tuple[int, ...] = HYPERNYMS,
) -> pd.DataFrame:
    """One row per kind, number of seeds and hypernyms, and sds; all rates in percent.

    Columns: kind, seeds, hypernyms, sd_seeds, sd_hypernyms, sd_residual; covers (the primary interval), t_covers
    (Student's t over hypernyms), satterthwaite_covers, bootstrap_covers; different (a true null is called so),
    equivalent (a true difference of the margin is called so).
    """
    return pd.DataFrame(
        _row(kind, S, H, sds, studies, bootstrapped)
        for kind, several in SDS.items()
        for S in seeds
        for H in hypernyms
        for sds in several
    )


def _row(kind: str, S: int, H: int, sds: Sds, studies: int, bootstrapped: int) -> dict[str, Any]:
    rng = generator(0, "simulate", kind, S, H, *map(str, sds))
    one, other = _tables(rng, kind, S, H, sds, studies)
    spread, mean_NH = Spread.of(one), one.mean(axis=-2)
    if other is not None:
        spread, mean_NH = spread.less(Spread.of(other), one, other), mean_NH - other.mean(axis=-2)
    error_N = mean_NH.mean(axis=-1)  # the truth is 0
    se_N, df_N = spread.standard_error()
    over_hypernyms_N = np.sqrt(spread.hypernyms)
    plain_se_N, plain_df_N = _satterthwaite(spread, S, H)
    p_N = 2 * stdtr(df_N, -np.abs(error_N) / se_N)
    # With a truth of +margin: the upper test rejects by luck, the lower one as a rule.
    below_N, above_N = stdtr(df_N, error_N / se_N), stdtr(df_N, -(error_N + 2 * EQUIVALENCE_MARGIN) / se_N)
    found = {
        "covers": np.abs(error_N) < stdtrit(df_N, 0.975) * se_N,
        "t_covers": np.abs(error_N) < stdtrit(H - 1, 0.975) * over_hypernyms_N,
        "satterthwaite_covers": np.abs(error_N) < stdtrit(plain_df_N, 0.975) * plain_se_N,
        "bootstrap_covers": np.array([low < 0 < high for low, high in _bootstrap(one, other, bootstrapped)]),
        "different": p_N < ALPHA,
        "equivalent": np.maximum(below_N, above_N) < ALPHA,
    }
    about = {"kind": kind, "seeds": S, "hypernyms": H}
    about |= dict(zip(("sd_seeds", "sd_hypernyms", "sd_residual"), sds, strict=True))
    return about | {name: 100 * float(np.mean(hits)) if len(hits) else np.nan for name, hits in found.items()}


def _tables(rng: np.random.Generator, kind: str, S: int, H: int, sds: Sds, studies: int) -> tuple[Array, Array | None]:
    """Tables (N, S, H) with a true mean, or a true difference, of zero."""
    seed, hypernym, residual = sds

    def own() -> Array:
        return seed * rng.normal(size=(studies, S, 1)) + residual * rng.normal(size=(studies, S, H))

    shared_N1H = hypernym * rng.normal(size=(studies, 1, H))
    return (own() + shared_N1H, own()) if kind == OTHER else (own() + shared_N1H, None)


def _satterthwaite(spread: Spread, S: int, H: int) -> tuple[Array, Array]:
    """The textbook's standard error and df, kept from falling below the larger factor's share."""
    variance = spread.seeds + spread.hypernyms - spread.residual
    largest = np.maximum(spread.seeds, spread.hypernyms)
    parts = (
        (spread.seeds, spread.df_seeds),
        (spread.hypernyms, spread.df_hypernyms),
        (spread.residual, (S - 1) * (H - 1)),
    )
    df = variance**2 / sum(part**2 / df for part, df in parts)
    weaker = np.where(spread.seeds > spread.hypernyms, spread.df_seeds, spread.df_hypernyms)
    return np.sqrt(np.maximum(variance, largest)), np.where(variance < largest, weaker, df)


def _bootstrap(one: Array, other: Array | None, studies: int) -> Iterator[tuple[float, float]]:
    for number in range(studies):
        mine = one[number]
        yield percentiles(resampled_means(mine) if other is None else resampled_difference(mine, other[number]))


def main() -> None:
    """Print the table, a summary of each kind first."""
    table = calibrate()
    rates = [name for name in map(str, table) if name.endswith("covers")]
    summary = table.groupby("kind", sort=False)[[*rates, "different", "equivalent"]].agg(["min", "max"])
    print(summary.round(1).T.to_string(), table.round(1).to_string(index=False), sep="\n\n")


if __name__ == "__main__":
    main()
