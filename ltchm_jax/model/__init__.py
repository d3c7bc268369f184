"""The model as the paper describes it; nothing here knows of bits on disk."""

from ltchm_jax.model.config import PRESETS, ModelConfig
from ltchm_jax.model.ltchm import LTCHM, Output, abstract_variables, init_variables, pad_image, padded_size
from ltchm_jax.model.priors import Mixture, causal_taps

__all__ = [
    "LTCHM", "PRESETS", "Mixture", "ModelConfig", "Output", "abstract_variables", "causal_taps",
    "init_variables", "pad_image", "padded_size",
]  # fmt: skip
