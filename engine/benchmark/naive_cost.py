"""What the naive loop costs, on paper: the sizes of engine/cost.py, computed the plain way.

Every (image, question) pair is a row of its own: its image through the encoder, patches and question through the LM,
logits over the whole vocabulary at every position, and in training all of it but the encoder backward to the projector.
Attention is counted where it is causal, as for the engine; kernels that compute the whole square do more.
"""

from dataclasses import dataclass
from typing import Any, Self

from engine.condition import Condition
from engine.cost import Cost, Questions, Sizes


@dataclass(frozen=True)
class EncoderShape:
    """A vision transformer: blocks, width D, inner width of its MLPs, patches, values of a patch, tokens besides."""

    layers: int
    width: int
    mlp: int
    patches: int
    values: int
    others: int

    @classmethod
    def of(cls, model: Any) -> Self:
        """Shape of a timm vision transformer."""
        patch = model.patch_embed
        height, wide = patch.patch_size
        return cls(
            layers=len(model.blocks),
            width=model.embed_dim,
            mlp=model.blocks[0].mlp.fc1.out_features,
            patches=patch.num_patches,
            values=patch.proj.in_channels * height * wide,
            others=model.num_prefix_tokens,
        )

    @property
    def tokens(self) -> int:
        return self.patches + self.others

    @property
    def flops(self) -> float:
        """Operations of one image, without a pooling head."""
        block = 4 * self.width**2 + 2 * self.width * self.mlp
        attention = 4 * self.width * self.tokens**2
        return self.layers * (2 * self.tokens * block + attention) + 2 * self.patches * self.values * self.width


# Encoders of the presets at 224 px, patches of 14 x 14 px in three colours.
KNOWN_ENCODERS = {
    "vit_large_patch14_reg4_dinov2": EncoderShape(24, 1024, 4096, patches=256, values=588, others=5),
    "vit_so400m_patch14_siglip_224": EncoderShape(27, 1152, 4304, patches=256, values=588, others=0),
}


def naive_cost_of(condition: Condition, questions: Questions, sizes: Sizes, encoder: EncoderShape | None) -> Cost:
    """Cost of one run, as `cost_of` has it for the engine; without an encoder its features are cached.

    Order and batch do not matter, since nothing is shared.
    """
    eos = 1 if condition.supervise == "answer_eos" else 0
    trained = condition.epochs * questions.trained
    train_tokens, forward, backward = _row(condition, sizes, sizes.suffix + eos)
    tokens, answering, _ = _row(condition, sizes, sizes.suffix)
    encoding = encoder.flops if encoder else 0.0
    return Cost(
        trained * train_tokens,
        questions.evaluated * tokens,
        trained * (encoding + forward + backward),
        questions.evaluated * (encoding + answering),
    )


def _row(condition: Condition, sizes: Sizes, suffix: int) -> tuple[int, float, float]:
    """Tokens of one row, and its operations forward and backward behind the encoder."""
    lm = sizes.lm
    tokens = sizes.prefix + sizes.patches + suffix
    weights = lm.layers * (lm.attention_weights + lm.mlp_weights) + lm.vocabulary * lm.width
    products = 2 * tokens * weights
    attention = 4 * lm.layers * lm.query * tokens * (tokens + 1) / 2
    first, rest = sizes.projector_layers(condition)
    projector = 2 * sizes.patches * (first + rest)
    to_weights_and_inputs = 2 * sizes.patches * (first + 2 * rest)  # features take no gradient
    return tokens, products + attention + projector, products + 2 * attention + to_weights_and_inputs
