"""LTCHM in JAX: a remote-sensing image codec with real bitstreams.

`ltchm_jax.Codec` codes pictures; `ltchm_jax.LTCHM` is the model, as pure functions. Neither is loaded before
it is asked for, so that the command line answers at once.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {"Codec": "codec", "LTCHM": "model", "ModelConfig": "model", "PRESETS": "model"}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ltchm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ltchm_jax.{_HOMES[name]}"), name)
