"""The model as the paper describes it; nothing here knows of bits on disk."""

from ltchm_jax.model.config import PRESETS, ModelConfig
from ltchm_jax.model.ltchm import (
    LTCHM,
    ROUNDINGS,
    Y_STRIDE,
    Z_STRIDE,
    Output,
    abstract_variables,
    init_variables,
    pad_sides,
)
from ltchm_jax.model.priors import Mixture, causal_taps

__all__ = [
    "LTCHM", "PRESETS", "ROUNDINGS", "Y_STRIDE", "Z_STRIDE", "Mixture", "ModelConfig", "Output",
    "abstract_variables", "causal_taps", "init_variables", "pad_sides",
]  # fmt: skip
