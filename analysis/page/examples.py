"""Test images with the model's answers."""

from analysis.examples import pick_examples
from analysis.page.page import Data, Page


def examples(page: Page) -> Data | None:
    """Examples drawn by a fixed seed; None without a run to take answers from."""
    picked = pick_examples(page.study)
    return {"examples": picked, "compared": len(picked[0].panels) > 1} if picked else None
