"""Times the training step of each preset, and that of the released one beside its PyTorch twin, in turn.

    pip install torch            (optional: a CPU build; without it there is no ratio)
    python benchmarks/train.py --presets released,paper --batch 2 --size 256 --rounds 5

For each preset one line: seconds to compile, the fastest and the median step, steps/s and images/s of the
median, and model FLOP utilisation where the peak of the device is known. For `released` also the median of
the ratios JAX / PyTorch over rounds. The first step of each is not timed; both use all cores, and random
images that lie in memory. Forward pass, loss, gradient, clip and Adam; the twin does the same in float32.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from timing import seconds

from configs import ltchm
from ltchm_jax.monitor import share_of_peak
from ltchm_jax.training import Trainer

Step = Callable[[], object]


def jax_step(trainer: Trainer, images: np.ndarray) -> Step:
    """A function that takes one step from where the last one ended."""
    state = trainer.replicate(trainer.init())

    def step() -> object:
        nonlocal state
        state, metrics = trainer.step(state, images)
        return jax.block_until_ready((state, metrics))

    return step


def torch_step(width: int, images: np.ndarray, lmbda: float) -> Step | None:
    """The same step of the twin; None where PyTorch is not installed."""
    try:
        import torch
        from torch_reference import TorchLTCHM
    except ImportError:
        return None
    twin = TorchLTCHM(width).train()
    adam = torch.optim.Adam(twin.parameters(), 1e-4)
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))) / 255
    batch, _, height, side = x.shape

    def step() -> object:
        shapes = [(batch, width, height // n, side // n) for n in (16, 64)]
        out = twin(x, tuple(torch.rand(shape) - 0.5 for shape in shapes))
        adam.zero_grad()
        (out["bpp_y"] + out["bpp_z"] + lmbda * out["mse"]).backward()
        torch.nn.utils.clip_grad_value_(twin.parameters(), 5.0)
        return adam.step()

    return step


def measure(preset: str, given: argparse.Namespace) -> str:
    """The line of one preset."""
    config = ltchm.get_config(preset)
    config.batch_size, config.data.crop, config.dtype = given.batch, given.size, given.dtype
    config.remat, config.accumulate = given.remat, given.accumulate
    if given.width:
        config.model.width = given.width
    images = np.random.default_rng(0).integers(0, 256, (given.batch, given.size, given.size, 3), np.uint8)
    trainer = Trainer(config)
    ours = jax_step(trainer, images)
    first = seconds(ours)
    twin = torch_step(config.model.width, images, config.lmbda) if preset == "released" else None
    if twin is not None:
        twin()
    times = np.array([(seconds(ours), seconds(twin) if twin else np.nan) for _ in range(given.rounds)])
    median = np.median(times[:, 0])
    rate = given.batch / median
    share = share_of_peak(config, trainer.recipe.model)
    line = (
        f"{preset}: C = {config.model.width}, batch {given.batch} of {given.size} x {given.size}, "
        f"{given.dtype}, compile {first - median:.1f} s, step {times[:, 0].min():.3f} s (fastest) "
        f"{median:.3f} s (median), {1 / median:.3f} steps/s, {rate:.3f} images/s"
    )
    line += "" if share is None else f", model FLOP utilisation {rate * share:.3f}"
    ratios = times[:, 0] / times[:, 1]
    return line + ("" if twin is None else f", JAX / PyTorch {np.median(ratios):.2f} (median of rounds)")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--presets", default="released,paper", help="names, separated by commas")
    for name, default in (("batch", 2), ("size", 256), ("rounds", 5), ("width", 0), ("accumulate", 1)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options.add_argument("--remat", action="store_true")
    given = options.parse_args()
    if given.batch < 2:
        options.error(f"--batch must be at least 2 for batch normalisation, got {given.batch}")
    device = jax.devices()[0]
    print(f"{jax.device_count()} x {device.device_kind}, JAX {jax.__version__}")
    for preset in given.presets.split(","):
        print(measure(preset, given), flush=True)


if __name__ == "__main__":
    main()
