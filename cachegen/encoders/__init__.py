"""Frozen image encoders (paper section 3.2) by the names their ecosystem gives them, alone or fused.

`names` reads what the user wrote, `families` loads a model with timm or transformers, `encoder` runs it.
"""

from cachegen.encoders.encoder import Compute, Encoded, Encoder, choose_compute, load_encoder
from cachegen.encoders.families import weights_digest

__all__ = ["Compute", "Encoded", "Encoder", "choose_compute", "load_encoder", "weights_digest"]
