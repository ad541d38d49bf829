"""How many hypernyms a leaf has, and how many leaves a hypernym (paper figures 8 and 9)."""

from analysis.page.page import Data, Page

FIGURES = ("hypernyms_per_leaf", "leaves_per_hypernym")


def taxonomy(page: Page) -> Data | None:
    """Present where the figures are."""
    names = [name for name in FIGURES if name in page.figures]
    return {"names": names} if names else None
