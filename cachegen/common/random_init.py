"""Language models with random weights: the control of section 3 (lm_init = "random").

One function for the whole project, so that a twin saved by the microworld and one made by the engine from
the same configuration and seed are the same bytes.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig

from cachegen.common.rng import stream_seed


def random_init_lm(config: PretrainedConfig, lm_seed: int) -> Any:
    """Return a float32 causal LM of `config` whose weights depend on `lm_seed` only; no global random state moves."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(lm_seed, "lm init"))
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
