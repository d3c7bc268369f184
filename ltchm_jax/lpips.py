"""LPIPS, the learned perceptual distance of Zhang et al. 2018 (version 0.1), on AlexNet or VGG-16 features.

The weights are not part of this project. They are read from files the user names, safetensors or npz, that
hold the tensors of the public PyTorch releases under their own names: `features.N.weight` and
`features.N.bias` of the backbone, `linK.model.1.weight` of the linear layers, K from 0 to 4.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from safetensors.numpy import load_file

# What the backbone subtracts and divides by, for input in -1..1 (the ImageNet statistics, rescaled).
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_SMALLEST = 32


@dataclass(frozen=True)
class Conv:
    """One convolution with ReLU, its number in the state dict, and whether LPIPS looks at its output."""

    index: int
    channels: int
    side: int = 3
    stride: int = 1
    padding: int = 1
    pool: int = 0  # side of the stride-2 max pooling before it; 0 is none
    tapped: bool = True


BACKBONES: dict[str, tuple[Conv, ...]] = {
    "alex": (
        Conv(0, 64, side=11, stride=4, padding=2),
        Conv(3, 192, side=5, padding=2, pool=3),
        Conv(6, 384, pool=3),
        Conv(8, 256),
        Conv(10, 256),
    ),
    "vgg": (
        Conv(0, 64, tapped=False),
        Conv(2, 64),
        Conv(5, 128, pool=2, tapped=False),
        Conv(7, 128),
        Conv(10, 256, pool=2, tapped=False),
        Conv(12, 256, tapped=False),
        Conv(14, 256),
        Conv(17, 512, pool=2, tapped=False),
        Conv(19, 512, tapped=False),
        Conv(21, 512),
        Conv(24, 512, pool=2, tapped=False),
        Conv(26, 512, tapped=False),
        Conv(28, 512),
    ),
}


class Lpips:
    """LPIPS with one backbone. Call it on a pair of images; smaller is more alike, 0 for equal images.

    Attributes:
      version: backbone and digest of the weights, 'alex@0123456789abcdef'; distances of two versions are
        not to be compared.
    """

    def __init__(self, net: str, tensors: Mapping[str, np.ndarray]) -> None:
        """Checks and keeps the weights.

        Args:
          net: 'alex' or 'vgg'.
          tensors: float arrays in PyTorch layout, [out, in, k, k] for a convolution, under the names in
            the module's docstring; others are left alone.

        Raises:
          ValueError: the backbone is unknown, or a tensor is missing or has another shape.
        """
        if net not in BACKBONES:
            raise ValueError(f"LPIPS backbone must be one of {', '.join(BACKBONES)}, got {net!r}")
        weights = {
            name: _tensor(tensors, name, shape, net).astype("<f4")
            for name, shape in _shapes(BACKBONES[net]).items()
        }
        sha = hashlib.sha256()
        for array in weights.values():
            sha.update(array.tobytes())
        self.net, self.version = net, f"{net}@{sha.hexdigest()[:16]}"
        self._weights = jax.tree.map(jnp.asarray, weights)
        self._distance = jax.jit(self._compute, static_argnames="released")

    @classmethod
    def load(cls, net: str, *paths: str | Path) -> "Lpips":
        """Reads the weights from one or more files (.safetensors or .npz; nothing is unpickled).

        Raises:
          ValueError: a file is of another kind or damaged, or tensors are missing.
          OSError: a file can't be read.
        """
        tensors: dict[str, np.ndarray] = {}
        for path in paths:
            tensors |= _read_tensors(Path(path))
        return cls(net, tensors)

    def __call__(self, x: ArrayLike, x_hat: ArrayLike, released: bool = False) -> float:
        """Distance between `x` and `x_hat`, uint8 [H, W, 3], 0 upwards.

        The network takes -1..1. Sides below 32 are first extended to 32 by reflection. Each size of image is
        compiled once.

        Args:
          x: original.
          x_hat: reconstruction, the same shape.
          released: what the released code computes: 0..1 goes in where the network was fitted to -1..1,
            so contrast is halved and the level is off, and distances come out different, mostly lower.

        Raises:
          ValueError: shapes differ, or an array is not uint8 [H, W, 3].
        """
        pair = [np.asarray(image) for image in (x, x_hat)]
        if any(a.dtype != np.uint8 or a.ndim != 3 or a.shape[2] != 3 or not a.size for a in pair) or (
            pair[0].shape != pair[1].shape
        ):
            given = " and ".join(f"{a.dtype} {a.shape}" for a in pair)
            raise ValueError(f"LPIPS needs two uint8 arrays of one shape [H, W, 3], got {given}")
        pads = [(0, max(0, _SMALLEST - side)) for side in pair[0].shape[:2]]
        batch = np.stack([np.pad(image, [*pads, (0, 0)], mode="symmetric") for image in pair])
        return float(self._distance(self._weights, batch, released=released))

    def _compute(self, weights: dict[str, jax.Array], batch: jax.Array, released: bool) -> jax.Array:
        unit = jnp.asarray(batch, jnp.float32) / 255.0
        features = (unit if released else 2.0 * unit - 1.0) - _per_channel(_SHIFT)
        features, total, layer = features / _per_channel(_SCALE), jnp.zeros(()), 0
        for conv in BACKBONES[self.net]:
            features = _apply(conv, features, weights)
            if conv.tapped:
                total += _layer_distance(features, weights[f"lin{layer}.model.1.weight"])
                layer += 1
        return total


def _shapes(convs: tuple[Conv, ...]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors of a backbone and its linear layers."""
    shapes: dict[str, tuple[int, ...]] = {}
    inputs, layer = 3, 0
    for conv in convs:
        shapes[f"features.{conv.index}.weight"] = (conv.channels, inputs, conv.side, conv.side)
        shapes[f"features.{conv.index}.bias"] = (conv.channels,)
        if conv.tapped:
            shapes[f"lin{layer}.model.1.weight"] = (1, conv.channels, 1, 1)
            layer += 1
        inputs = conv.channels
    return shapes


def _tensor(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...], net: str) -> np.ndarray:
    if name not in tensors:
        raise ValueError(
            f"LPIPS on {net} needs the tensor {name}, which the files do not hold; name both the file of the "
            "backbone and the file of the linear layers"
        )
    array = np.asarray(tensors[name])
    if array.shape != shape or array.dtype.kind != "f":
        raise ValueError(
            f"LPIPS on {net} needs {name} as floats {shape}, got {array.dtype} {array.shape}; check that the "
            "files belong to this backbone"
        )
    return array


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except OSError:
        raise
    except Exception as error:  # a damaged archive fails in many ways
        raise ValueError(f"{path} is not a readable {path.suffix} file: {error}") from error
    raise ValueError(f"LPIPS weights must be .safetensors or .npz, got {path}; convert the file first")


def _apply(conv: Conv, features: jax.Array, weights: dict[str, jax.Array]) -> jax.Array:
    """Pooling where there is any, convolution, ReLU: [B, H, W, C] -> [B, H', W', C']."""
    if conv.pool:
        window = (1, conv.pool, conv.pool, 1)
        features = jax.lax.reduce_window(features, -jnp.inf, jax.lax.max, window, (1, 2, 2, 1), "VALID")
    features = jax.lax.conv_general_dilated(
        features,
        weights[f"features.{conv.index}.weight"],
        (conv.stride, conv.stride),
        [(conv.padding, conv.padding)] * 2,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(features + _per_channel(weights[f"features.{conv.index}.bias"]))


def _per_channel(values: ArrayLike) -> jax.Array:
    """[C] to [1, 1, 1, C], to go with [B, H, W, C]."""
    return jnp.asarray(values, jnp.float32)[None, None, None, :]


def _layer_distance(features: jax.Array, linear: jax.Array) -> jax.Array:
    """Weighted squared difference of unit-length features, averaged over positions: [2, H, W, C] -> []."""
    length = jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True))
    first, second = features / (length + 1e-10)
    weights = linear.reshape(1, 1, -1)
    return jnp.mean(jnp.sum(jnp.square(first - second) * weights, axis=-1))
