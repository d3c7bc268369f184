"""Times the forward pass of the released model beside its PyTorch twin, in turn, in one process each round.

    pip install torch            (a CPU build; only this benchmark and the parity tests use it)
    python benchmarks/forward.py --width 128 --size 256 --rounds 10

Prints the median of the ratios JAX / PyTorch over rounds, and the ratio of the fastest times. Compilation and
the first call of each are not counted; both use all cores. Random weights, float32, batch 1, evaluation mode.
Beside it stands how fast each does the pass's multiply-adds, as a share of what a plain product of two square
matrices reaches in the same rounds. PyTorch's share is the ratio that JAX would have at that product's rate.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from timing import seconds
from torch_reference import TorchLTCHM

from ltchm_jax.complexity import model_layers, total
from ltchm_jax.interop import import_state
from ltchm_jax.losses import rate_distortion
from ltchm_jax.model import LTCHM

SIDE = 2048  # of the matrices whose product is the measure


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 128), ("size", 256), ("rounds", 10)):
        options.add_argument(f"--{name}", type=int, default=default)
    given = options.parse_args()

    torch.manual_seed(0)
    twin = TorchLTCHM(given.width).eval()
    imported = import_state({name: value.numpy() for name, value in twin.state_dict().items()})
    x = np.random.default_rng(0).random((1, given.size, given.size, 3), np.float32)
    x_torch = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    model = LTCHM(imported.config)

    @jax.jit
    def forward(variables: dict, x: jax.Array) -> tuple:
        """All that the twin returns: tensors, bits of both latents, squared error."""
        output = model.apply(variables, x)
        return output, rate_distortion(output, x, jnp.ones(1), imported.config.mixture)

    variables, x_jax = jax.device_put(imported.variables), jnp.asarray(x)

    def run_torch() -> object:
        with torch.inference_mode():
            return twin(x_torch)

    def run_jax() -> object:
        return jax.block_until_ready(forward(variables, x_jax))

    square, product = jnp.ones((SIDE, SIDE)), jax.jit(jnp.matmul)

    def run_product() -> object:
        return jax.block_until_ready(product(square, square))

    jobs = run_jax, run_torch, run_product
    [job() for job in jobs]
    times = np.array([[seconds(job) for job in jobs] for _ in range(given.rounds)])
    ratios = times[:, 0] / times[:, 1]
    best = times.min(0)
    print(f"N = {given.width}, {given.size} x {given.size}, JAX / PyTorch:")
    print(f"{np.median(ratios):.2f} (median of rounds), {best[0] / best[1]:.2f} (fastest of each)")
    macs = total(model_layers(imported.config, given.size, given.size)).macs
    shares = np.median(macs / SIDE**3 * times[:, 2:] / times[:, :2], axis=0)
    print(f"rate of multiply-adds over that of a product of {SIDE} x {SIDE}: ", end="")
    print(f"JAX {shares[0]:.2f}, PyTorch {shares[1]:.2f}")


if __name__ == "__main__":
    main()
