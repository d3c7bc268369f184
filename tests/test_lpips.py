from pathlib import Path

import numpy as np
import pytest
from lpips_weights import lpips_weights
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import save_file

from ltchm_jax.lpips import Lpips


def pictures(height: int = 33, width: int = 41) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(2)]


def correlate(
    image: np.ndarray, kernel: np.ndarray, bias: np.ndarray, stride: int, padding: int
) -> np.ndarray:
    image = np.pad(image, [(0, 0), (padding,) * 2, (padding,) * 2])
    patches = sliding_window_view(image, kernel.shape[2:], axis=(1, 2))[:, ::stride, ::stride]
    return np.maximum(np.einsum("chwij,ocij->ohw", patches, kernel, optimize=True) + bias[:, None, None], 0)


def pool(image: np.ndarray, side: int) -> np.ndarray:
    return sliding_window_view(image, (side, side), axis=(1, 2))[:, ::2, ::2].max((-1, -2))


def alexnet(image: np.ndarray, w: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The five ReLU outputs of torchvision's AlexNet, channels first."""

    def layer(h: np.ndarray, n: int, stride: int, padding: int) -> np.ndarray:
        return correlate(h, w[f"features.{n}.weight"], w[f"features.{n}.bias"], stride, padding)

    first = layer(image, 0, 4, 2)
    second = layer(pool(first, 3), 3, 1, 2)
    third = layer(pool(second, 3), 6, 1, 1)
    fourth = layer(third, 8, 1, 1)
    return [first, second, third, fourth, layer(fourth, 10, 1, 1)]


def vgg(image: np.ndarray, w: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The last ReLU output of each of VGG-16's five blocks, channels first."""
    outputs = []
    for block in ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)):
        image = pool(outputs[-1], 2) if outputs else image
        for n in block:
            image = correlate(image, w[f"features.{n}.weight"], w[f"features.{n}.bias"], 1, 1)
        outputs.append(image)
    return outputs


def distance(net: str, x: np.ndarray, y: np.ndarray, w: dict[str, np.ndarray], low: float) -> float:
    shift, scale = np.array([-0.03, -0.088, -0.188]), np.array([0.458, 0.448, 0.45])
    taps = []
    for image in (x, y):
        scaled = low + (1 - low) * image.astype(np.float64) / 255
        features = {"alex": alexnet, "vgg": vgg}[net](((scaled - shift) / scale).transpose(2, 0, 1), w)
        taps.append([f / np.sqrt((f**2).sum(0)) for f in features])
    squares = [(a - b) ** 2 for a, b in zip(*taps, strict=True)]
    return sum(
        float(np.einsum("chw,c->hw", s, w[f"lin{k}.model.1.weight"].ravel()).mean())
        for k, s in enumerate(squares)
    )


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_distance_is_that_of_another_implementation(net: str) -> None:
    x, y = pictures()
    w = lpips_weights(net)
    measure = Lpips(net, w)
    assert measure(x, y) == pytest.approx(distance(net, x, y, w, low=-1.0), rel=1e-4)
    assert measure(x, y, released=True) == pytest.approx(distance(net, x, y, w, low=0.0), rel=1e-4)
    assert measure(x, x) == pytest.approx(0.0, abs=1e-9)


def test_small_pictures_are_reflected() -> None:
    x, y = pictures(7, 40)
    wider = [np.pad(image, [(0, 25), (0, 0), (0, 0)], mode="symmetric") for image in (x, y)]
    measure = Lpips("alex", lpips_weights("alex"))
    assert measure(x, y) == pytest.approx(measure(*wider))


def test_weights_come_from_two_files(tmp_path: Path) -> None:
    w = lpips_weights("alex")
    backbone = {name: array for name, array in w.items() if name.startswith("features")}
    save_file(backbone, tmp_path / "alexnet.safetensors")
    np.savez(tmp_path / "linear.npz", **{name: array for name, array in w.items() if name not in backbone})
    x, y = pictures()
    loaded = Lpips.load("alex", tmp_path / "alexnet.safetensors", tmp_path / "linear.npz")
    assert loaded(x, y) == Lpips("alex", w)(x, y)
    with pytest.raises(ValueError, match=r"lin0.model.1.weight, which the files do not hold"):
        Lpips.load("alex", tmp_path / "alexnet.safetensors")


def test_weights_of_another_backbone_are_refused() -> None:
    with pytest.raises(ValueError, match=r"needs features.2.weight|floats"):
        Lpips("vgg", lpips_weights("alex"))
    with pytest.raises(ValueError, match="one of alex, vgg"):
        Lpips("squeeze", {})


@pytest.mark.parametrize("name", ["bad.npz", "bad.safetensors", "weights.pth"])
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04nothing that should be unpickled")
    with pytest.raises(ValueError, match=r"not a readable|must be \.safetensors or \.npz"):
        Lpips.load("alex", tmp_path / name)


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="not a readable"):
        Lpips.load("alex", tmp_path / "evil.npz")


def test_wrong_pictures_are_refused() -> None:
    x, _ = pictures()
    measure = Lpips("alex", lpips_weights("alex"))
    for y in (x[:-1], x.astype(float), x[..., :1]):
        with pytest.raises(ValueError, match="two uint8 arrays"):
            measure(x, y)


def test_version_tells_backbones_and_weights_apart() -> None:
    versions = [
        Lpips(net, lpips_weights(net, seed)).version for net, seed in (("alex", 1), ("alex", 2), ("vgg", 1))
    ]
    assert len(set(versions)) == 3
    assert Lpips("alex", lpips_weights("alex")).version == versions[0]
