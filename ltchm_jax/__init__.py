"""LTCHM in JAX: a remote-sensing image codec with real bitstreams.

`ltchm_jax.Codec` codes pictures, `Rect` is a window of one; `ltchm_jax.LTCHM` is the model, a Flax module.
None is loaded before it is asked for, so that the command line answers at once.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ltchm_jax.codec import Codec as Codec
    from ltchm_jax.container.grid import Rect as Rect
    from ltchm_jax.model import LTCHM as LTCHM
    from ltchm_jax.model import PRESETS as PRESETS
    from ltchm_jax.model import ModelConfig as ModelConfig

__version__ = "0.1.0"

_HOMES = {
    "Codec": "codec", "Rect": "container.grid",
    "LTCHM": "model", "ModelConfig": "model", "PRESETS": "model",
}  # fmt: skip
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ltchm_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ltchm_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
