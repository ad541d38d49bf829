"""Frozen image encoders (paper section 3.2) by the names their ecosystem gives them, alone or fused.

`names` reads what the user wrote, `models` loads a model with timm or transformers, `preprocess` makes its pixels,
`layers` chooses the features and checks that they are patches, `encoder` runs it.
"""

from cachegen.encoders.encoder import Compute, Encoded, Encoder, choose_compute, load_encoder
from cachegen.encoders.models import weights_digest
from cachegen.encoders.preprocess import Preprocess

__all__ = ["Compute", "Encoded", "Encoder", "Preprocess", "choose_compute", "load_encoder", "weights_digest"]
