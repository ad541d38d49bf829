"""Frozen image encoders (paper section 3.2) by the names their ecosystem gives them, alone or fused.

`names` reads what the user wrote, `families` loads a model with timm or transformers, `encoder` runs it.
"""

from cachegen.encoders.encoder import Encoded, Encoder, load_encoder
from cachegen.encoders.families import weights_digest

__all__ = ["Encoded", "Encoder", "load_encoder", "weights_digest"]
