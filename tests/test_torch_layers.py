"""Layers against PyTorch's own primitives and against the twin's modules, where torch is installed."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flax.linen as nn  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import torch_reference as twin  # noqa: E402

from ltchm_jax.entropy.wavefront import float64  # noqa: E402
from ltchm_jax.interop import export_state, import_state  # noqa: E402
from ltchm_jax.model import LTCHM, dam, layers, pooling  # noqa: E402
from ltchm_jax.model.dam import IDConv  # noqa: E402
from ltchm_jax.model.hpham import layer_norm  # noqa: E402
from ltchm_jax.reference_table import _IDCONV, LAYOUTS  # noqa: E402

torch.set_num_threads(1)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 1)))


def nhwc(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(x.detach().numpy(), 1, -1)


def assert_close(got, want, scale: float = 1.0) -> None:
    np.testing.assert_allclose(np.asarray(got), want, rtol=1e-5, atol=2e-5 * scale)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2)])
def test_convolution(kernel, stride):
    x, weight = normal(0, 2, 6, 8, 3), normal(1, 5, 3, kernel, kernel)
    want = F.conv2d(nchw(x), torch.from_numpy(weight), stride=stride, padding=kernel // 2)
    pad = ((kernel // 2, kernel // 2),) * 2
    assert_close(layers.conv2d(x, LAYOUTS["conv"].to_flax(weight), stride, pad), nhwc(want))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_transposed_convolution(kernel, stride, dtype):
    """With stride 1 it is a plain convolution. In float64 another route through the code runs."""
    with float64() if dtype == "float64" else contextlib.nullcontext():
        x, weight = normal(0, 2, 5, 4, 3).astype(dtype), normal(1, 3, 2, kernel, kernel).astype(dtype)
        options = {"stride": stride, "padding": kernel // 2, "output_padding": stride - 1}
        want = F.conv_transpose2d(nchw(x), torch.from_numpy(weight), **options)
        flipped = jnp.asarray(LAYOUTS["deconv"].to_flax(weight))
        x = jnp.asarray(x)
        plain = layers.conv2d(x, flipped, 1, ((1, 1), (1, 1))) if stride == 1 else None
        assert_close(layers.upsample_conv2d(x, flipped) if plain is None else plain, nhwc(want))


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_depthwise_convolution(kernel):
    x, weight = normal(0, 2, 6, 8, 4), normal(1, 4, 1, kernel, kernel)
    want = F.conv2d(nchw(x), torch.from_numpy(weight), padding=kernel // 2, groups=4)
    assert_close(layers.depthwise_conv2d(x, LAYOUTS["depthwise"].to_flax(weight)[None]), nhwc(want))


@pytest.mark.parametrize("size", [(16, 8), (8, 10), (5, 7), (3, 4)])
@pytest.mark.parametrize("bins", [1, 3])
def test_adaptive_pooling(size, bins):
    x = normal(0, 2, *size, 3)
    assert_close(pooling.adaptive_average_pool(x, bins), nhwc(F.adaptive_avg_pool2d(nchw(x), bins)))


def test_exact_gelu_layer_norm_and_leaky_relu():
    x = normal(0, 2, 4, 4, 6) * 3
    assert_close(nn.gelu(x, approximate=False), F.gelu(torch.from_numpy(x)).numpy())
    assert_close(layers.leaky_relu(x), F.leaky_relu(torch.from_numpy(x)).numpy())

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return layer_norm(x, "norm")

    scale, bias = normal(1, 6), normal(2, 6)
    small = x / 300  # so that the epsilon matters
    want = F.layer_norm(torch.from_numpy(small), (6,), *map(torch.from_numpy, (scale, bias)), 1e-5)
    got = Norm().apply({"params": {"norm": {"scale": scale, "bias": bias}}}, small)
    assert_close(got, want.numpy())


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_and_its_gradient(inverse):
    x, module = normal(0, 1, 4, 4, 6), twin.GDN(6, inverse)
    with torch.no_grad():
        module.beta.copy_(torch.from_numpy(normal(1, 6)))  # some below the bound
        module.gamma.add_(torch.from_numpy(0.2 * normal(2, 6, 6)))
    params = {"beta": module.beta.detach().numpy(), "gamma": module.gamma.detach().numpy().T}
    cotangent = normal(3, 1, 4, 4, 6)
    want = module(nchw(x))
    want.backward(nchw(cotangent))
    got, pull = jax.vjp(lambda p: layers.GDN(inverse).apply({"params": p}, x), params)
    gradient = pull(jnp.asarray(cotangent))[0]
    assert_close(got, nhwc(want))
    for name, theirs in (("beta", module.beta.grad), ("gamma", module.gamma.grad.T)):
        assert_close(gradient[name], theirs.numpy(), float(theirs.abs().max()))


def idconv_pair(kernel: int) -> tuple[twin.IDConv, dict]:
    """The twin's module with large random weights, and the same as Flax variables."""
    generator = torch.Generator().manual_seed(kernel)
    module = twin.IDConv(16, kernel)
    with torch.no_grad():
        for tensor in (*module.parameters(), module.proj[0].bn.running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        module.proj[0].bn.running_var.uniform_(0.001, 0.01, generator=generator)
    state, variables = module.state_dict(), {"params": {}, "batch_stats": {}}
    for collection, path, name, layout in _IDCONV:
        node = variables[collection]
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = LAYOUTS[layout].to_flax(state[name].numpy().copy())
    return module, variables


@pytest.mark.parametrize("kernel", [1, 3])
def test_input_dependent_convolution_in_evaluation_mode(kernel):
    x, (module, variables) = normal(0, 2, 10, 8, 16), idconv_pair(kernel)
    got = IDConv(kernel, 4, "batch", train=False).apply(variables, x)
    assert_close(got, nhwc(module.eval()(nchw(x))), 10)


@pytest.mark.parametrize("kernel", [1, 3])
def test_batch_statistics_in_training_mode(kernel):
    """The reference normalises twice a call, so its running statistics move twice."""
    x, (module, variables) = normal(0, 4, 10, 8, 16), idconv_pair(kernel)
    apply = IDConv(kernel, 4, "batch", train=True).apply
    got, updated = apply(variables, x, mutable=["batch_stats"])
    assert_close(got, nhwc(module.train()(nchw(x))), 10)
    norm, stats = module.proj[0].bn, updated["batch_stats"]["proj"]["norm"]
    assert int(norm.num_batches_tracked) == 2
    assert_close(stats["mean"], norm.running_mean.numpy())
    assert_close(stats["var"], norm.running_var.numpy())


def test_another_batch_norm_epsilon_would_be_noticed(monkeypatch):
    x, (module, variables) = normal(0, 2, 10, 8, 16), idconv_pair(1)
    monkeypatch.setattr(dam, "BATCH_NORM_EPSILON", 1e-3)
    got = IDConv(1, 4, "batch", train=False).apply(variables, x)
    assert np.abs(got - nhwc(module.eval()(nchw(x)))).max() > 1e-2


@pytest.mark.slow
def test_a_state_of_another_width_and_size_computes_the_same_in_both():
    """The twin at N = 32 on 128 x 256; its state goes to Flax and comes back."""
    torch.manual_seed(0)
    model = twin.TorchLTCHM(32).eval()
    state = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    imported = import_state(state)
    twin.TorchLTCHM(32).load_state_dict(
        {name: torch.from_numpy(value) for name, value in export_state(imported.variables).items()}
    )
    x = np.random.default_rng(0).uniform(size=(2, 128, 256, 3)).astype(np.float32)
    with torch.no_grad():
        want = model(nchw(x))
    run = jax.jit(LTCHM(imported.config).apply, compiler_options={"xla_backend_optimization_level": 0})
    got = run(imported.variables, x)
    for name, value in {"y": got.y, "z": got.z, "x_hat_unclipped": got.x_hat}.items():
        assert_close(value, nhwc(want[name]), float(want[name].abs().max()))
    for name, value in got.mixture._asdict().items():
        assert_close(np.moveaxis(value, 3, 1), want[name].numpy(), float(want[name].abs().max()))
