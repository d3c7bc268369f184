"""Random weights for LPIPS."""

import numpy as np

from ltchm_jax import lpips


def lpips_weights(net: str, seed: int = 1) -> dict[str, np.ndarray]:
    """Random tensors, scaled so that activations neither die nor explode."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in lpips._shapes(lpips.BACKBONES[net]).items():
        scale = np.sqrt(2 / np.prod(shape[1:])) if name.endswith("weight") else 0.1
        tensors[name] = (rng.normal(size=shape) * scale).astype(np.float32)
        if name.startswith("lin"):
            tensors[name] = np.abs(tensors[name])
    return tensors
