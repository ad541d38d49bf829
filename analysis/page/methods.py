"""The methods section of a paper, from the study's settings."""

from analysis.methods import methods_of
from analysis.page.page import Data, Page


def methods(page: Page) -> Data:
    """Paragraphs and references."""
    return {"methods": methods_of(page.study, page.world)}
