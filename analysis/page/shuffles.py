"""Original, across- and within-category labels over the levels of an ablation (paper figures 6 and 11)."""

from analysis.page.page import Data, Page


def shuffles(page: Page) -> Data | None:
    """Present where shuffles were run at several levels; the numbers are those of the ablation curves."""
    names = [name for name in page.figures if name.startswith("shuffles")]
    return {"names": names} if names else None
