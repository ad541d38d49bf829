"""What a run name of the authors' release says: `align-dinov2+500m-things+hyp-abl10cat-shuffled-42-random`."""

import re
from dataclasses import dataclass

ENCODERS = {"dinov2": "DINOv2", "siglip": "SigLIP", "dinosiglip": "DINOv2+SigLIP"}
LMS = {
    "500m": "Qwen3-0.6B",
    "1b": "Qwen3-1.7B",
    "8b": "Qwen3-8B",
    "1b-llama": "Llama-3.2-1B",
    "1b-llama-chat": "Llama-3.2-1B-Instruct",
}
SHUFFLES = {
    "": "Original",
    "-shuffled": "Across-category",
    "-local-shuffled": "Within-category",
    "-cat-shuffled": "Swap",
    "-cat-sampled": "Original",
}
_PATTERN = re.compile(
    r"align-(?P<encoder>[^+]+)\+(?P<lm>.+?)-things"
    r"(?:\+hyp-abl(?P<amount>\d+)(?P<systematic>cat)?)?"
    r"(?P<labels>-shuffled|-local-shuffled|-cat-shuffled|-cat-sampled|)"
    r"-(?P<seed>\d+)(?P<random>-random)?"
)


@dataclass(frozen=True)
class RunName:
    """One run.

    encoder, lm: as the paper names them, else the release's own code. shuffle: Original | Across-category |
    Within-category | Swap. ablation: Full (all hypernym questions withheld) | Random (amount: percent of leaves) |
    Systematic (amount: number of hypernyms). toy: one of the ten-hypernym swap experiment or its control.
    """

    encoder: str
    lm: str
    random_lm: bool
    shuffle: str
    ablation: str
    amount: int
    seed: int
    toy: bool


def parse_run_name(name: str) -> RunName | None:
    """The run behind `name`; None where it is none of the study's."""
    found = _PATTERN.fullmatch(name)
    if found is None:
        return None
    amount, labels = found["amount"], found["labels"]
    return RunName(
        encoder=ENCODERS.get(found["encoder"], found["encoder"]),
        lm=LMS.get(found["lm"], found["lm"]),
        random_lm=found["random"] is not None,
        shuffle=SHUFFLES[labels],
        ablation="Full" if amount is None else "Systematic" if found["systematic"] else "Random",
        amount=100 if amount is None else int(amount),
        seed=int(found["seed"]),
        toy=labels.startswith("-cat-"),
    )
