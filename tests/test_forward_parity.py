"""The forward pass against the authors' own tensors, and that the comparison notices what ports get wrong."""

from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from ltchm_jax.interop import MASKED, Imported, import_state
from ltchm_jax.model import causal_taps, hpham
from ltchm_jax.parity import forward_parity
from ltchm_jax.parity.forward_parity import forward_rows, h_s, priors
from ltchm_jax.parity.reference_files import read_arrays

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "released_n64.npz"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="the golden files are not here")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return read_arrays(GOLDEN)


@pytest.fixture(scope="module")
def imported(golden) -> Imported:
    return import_state(golden)


@pytest.fixture
def fresh_traces():
    """Forget traced functions, before and after a constant that they close over is replaced."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def changed(imported: Imported, path: tuple[str, ...], change) -> Imported:
    variables = jax.tree.map(lambda leaf: leaf, imported.variables)
    node = variables
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = change(node[path[-1]])
    return imported._replace(variables=variables)


def failed(imported: Imported, golden: dict[str, np.ndarray], stage) -> set[str]:
    return {row.tensor for row in forward_rows(imported, golden, (stage,)) if not row.ok}


def test_every_tensor_matches(imported, golden):
    rows = forward_rows(imported, golden)
    assert {row.tensor for row in rows} == {name[4:] for name in golden if name.startswith("out/")}
    assert all(row.ok for row in rows), rows
    assert max(row.relative for row in rows) < 1e-5


def test_what_hides_behind_the_mask_is_not_read(imported, golden):
    name = f"state/{MASKED}"
    dirty = golden[name] + 7 * (golden["state/entropy.maskedconv.mask"] == 0).astype(np.float16)
    assert failed(import_state(golden | {name: dirty}), golden, priors) == set()


def test_a_context_that_sees_its_own_position_fails(imported, golden, monkeypatch, fresh_traces):
    def unmasked(y_hat):
        return causal_taps(y_hat).at[..., -1, :].set(y_hat)

    monkeypatch.setattr(forward_parity, "causal_taps", unmasked)
    assert {"means", "scales", "weights", "bpp_y"} == failed(imported, golden, priors)


def test_another_packing_of_queries_keys_and_values_fails(imported, golden):
    def by_head(kernel):  # [C, (part, head, 32)] -> [C, (head, part, 32)]
        return kernel.reshape(64, 3, 2, 32).swapaxes(1, 2).reshape(64, 192)

    path = ("params", "h_s", "hpham32", "stage2", "attention", "qkv", "kernel")
    assert failed(changed(imported, path, by_head), golden, h_s) == {"psi"}


def test_a_transposed_kernel_that_is_not_flipped_fails(imported, golden):
    path = ("params", "h_s", "conv4", "kernel")
    assert failed(changed(imported, path, lambda kernel: kernel[::-1, ::-1]), golden, h_s) == {"psi"}


def test_the_default_epsilon_of_flax_in_the_layer_norm_fails(imported, golden, monkeypatch, fresh_traces):
    def layer_norm(x, name):
        return nn.LayerNorm(epsilon=1e-6, dtype=x.dtype, name=name)(x)

    monkeypatch.setattr(hpham, "layer_norm", layer_norm)
    assert failed(imported, golden, h_s) == {"psi"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("in/image", np.zeros((256, 64, 3), np.uint8), "sides in multiples of 128, got uint8"),
        ("in/image", np.zeros((256, 128, 4), np.uint8), r"uint8 \[..., H, W, 3\]"),
        ("in/image", np.zeros((256, 128, 3), np.float32), "got float32"),
        ("out/y", np.zeros((1, 64, 8, 16), np.float32), r"Golden y must be \(1, 16, 8, 64\)"),
        ("out/z", np.zeros((64, 4), np.float32), "got shape"),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(imported, golden, name, value, message):
    with pytest.raises(ValueError, match=message):
        forward_rows(imported, golden | {name: value})


def test_a_missing_tensor_is_named(imported, golden):
    with pytest.raises(ValueError, match="must hold out/psi"):
        forward_rows(imported, {name: value for name, value in golden.items() if name != "out/psi"})
