"""The shapes of the pair: Qwen3 architecture, a few million weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int
    head_dim: int = 32


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is trained. At `keep_early_share` of its tokens a copy is set aside as NAME-early."""

    shape: Shape
    tokens: int
    seed: int = 11
    keep_early_share: float | None = None
    drills: bool = False
    """Whether single operations come before whole problems: the large model learns its sums from them."""
    batch_tokens: int = 6144
    matrix_rate: float = 4e-3
    other_rate: float = 4e-3
    compiled: bool = True


RECIPES = {
    "small": Recipe(
        Shape(layers=2, hidden=96, heads=3, kv_heads=3, feed_forward=256), tokens=10_000_000, keep_early_share=0.5
    ),
    "large": Recipe(Shape(layers=8, hidden=192, heads=6, kv_heads=3, feed_forward=512), tokens=19_000_000, drills=True),
}
CONTEXT_TOKENS = 2048
ROPE_THETA = 10_000.0
RMS_EPSILON = 1e-6


def build(shape: Shape, vocabulary: int, end_id: int) -> Any:
    """A Qwen3ForCausalLM with fresh weights (transformers' own class, so that every engine knows the architecture)."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.feed_forward,
        max_position_embeddings=CONTEXT_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        rms_norm_eps=RMS_EPSILON,
        tie_word_embeddings=True,
        eos_token_id=end_id,
        bos_token_id=None,
        attention_bias=False,
    )
    return Qwen3ForCausalLM(config)
