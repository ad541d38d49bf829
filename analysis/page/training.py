"""Training curves."""

from analysis.page.page import Data, Page


def training(page: Page) -> Data | None:
    """Present where the runs kept a log; its figure is all there is."""
    return {} if "loss" in page.figures else None
