"""Whether this process may use the network: `crosstax --offline`, or HF_HUB_OFFLINE as everywhere around Hugging Face.

An environment variable, so that workers and jobs which a sweep starts keep to it too.
"""

import os
import sys

VARIABLE = "HF_HUB_OFFLINE"


def go_offline() -> None:
    """Keep this process and those it starts off the network."""
    os.environ[VARIABLE] = "1"
    if "huggingface_hub" in sys.modules:  # it has read the variable already
        sys.modules["huggingface_hub"].constants.HF_HUB_OFFLINE = True


def offline() -> bool:
    """Whether nothing may be downloaded; whoever downloads asks this first."""
    return os.environ.get(VARIABLE, "").upper() in ("1", "ON", "YES", "TRUE")
