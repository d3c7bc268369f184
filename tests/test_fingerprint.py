"""One digest on every machine: threads, cores, compilers, versions of JAX, parallel pass and steps."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from drawn_model import drawn_model
from small_model import small_model

from ltchm_jax import block_coder
from ltchm_jax.block_coder import BlockCoder
from ltchm_jax.fingerprint import Tape, digest, fingerprint
from ltchm_jax.imagery.scenes import draw_scene

# What every machine must print for this model and this scene; a change here breaks every stream ever written.
EXPECTED = ("f769398a1959ec7b", "f769398a1959ec7b", "e974b59040734fe1")

PROGRAM = "import sys; sys.path.insert(0, 'tests'); import test_fingerprint as t; print(*t.of_this_process())"
BACKEND = "import jax; print(jax.default_backend())"
EIGEN, FAST = "--xla_cpu_multi_thread_eigen", "--xla_cpu_enable_fast_math"
FLAGS = [f"{EIGEN}=false", f"{FAST}=true", f"{FAST}=false", "--xla_backend_optimization_level=0"]


def portable_coder() -> BlockCoder:
    """Width 32 with hyper-attention: softmax, normalisation and GELU lie on the entropy path."""
    return BlockCoder(drawn_model(small_model(hyper_attention="hpham", hyper_attention_at=(32,))))


def of_this_process() -> tuple[str, str, str]:
    return fingerprint(portable_coder(), draw_scene(120, 180, 3), 0)


def of_another_process(prefix: list[str], flags: str, program: str = PROGRAM, **env: str) -> tuple[str, ...]:
    run = subprocess.run(
        [*prefix, sys.executable, "-c", program],
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": "."} | env,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return tuple(run.stdout.split())


def test_the_fingerprint_is_that_of_every_machine():
    found = of_this_process()
    assert found.encoder == found.decoder
    assert tuple(found) == EXPECTED


@pytest.mark.slow
@pytest.mark.parametrize("flags", FLAGS)
def test_compilers_and_threads_change_nothing(flags):
    assert of_another_process([], flags) == EXPECTED


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes can't be pinned here")
def test_one_core_is_as_good_as_all():
    core = str(min(os.sched_getaffinity(0)))
    assert of_another_process(["taskset", "--cpu-list", core], "") == EXPECTED


@pytest.mark.gpu
def test_an_accelerator_computes_what_a_cpu_does():
    env = {"JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if of_another_process([], "", BACKEND, **env) == ("cpu",):
        pytest.skip("no accelerator here")
    assert of_another_process([], "", **env) == EXPECTED


def pixels_of_this_process() -> np.ndarray:
    """Of latents that any machine draws alike."""
    coder, rng = portable_coder(), np.random.default_rng(4)
    y = rng.integers(-6, 7, (8, 12, coder.model.config.latent_channels)).astype(np.int32)
    return np.asarray(coder.synthesise(0, y, 0))


@pytest.mark.gpu
def test_an_accelerator_makes_the_pixels_of_a_cpu_but_for_a_few():
    env = {"JAX_PLATFORMS": "", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if of_another_process([], "", BACKEND, **env) == ("cpu",):
        pytest.skip("no accelerator here")
    program = PROGRAM.replace("*t.of_this_process()", "t.pixels_of_this_process().tobytes().hex()")
    (found,) = of_another_process([], "", program, **env)
    difference = np.frombuffer(bytes.fromhex(found), np.uint8) - pixels_of_this_process().astype(int).ravel()
    assert np.abs(difference).max() <= 1
    assert np.mean(difference != 0) < 1e-3


def test_transforms_ask_for_whole_float32(monkeypatch):
    """Which a GPU or a TPU does not compute in unasked."""
    asked = []

    def look(*given):
        asked.append(jax.config.jax_default_matmul_precision)
        return given[2], given[2]

    for name in ("analyse", "synthesise"):
        monkeypatch.setattr(block_coder, name, look)
    coder = portable_coder()
    coder.analyse(0, np.zeros((16, 16, 3), np.uint8), 0)
    coder.synthesise(0, np.zeros((1, 1, 64), np.int32), 0)
    assert asked == ["highest"] * 2


class Deviating(BlockCoder):
    """Its steps see another hyper-latent than its parallel pass: a device that can't read its own streams."""

    calls = 0

    def psi(self, z, quality, shape):
        self.calls += 1
        return super().psi(z, quality, shape) + (self.factor if self.calls > 1 else 0)


@pytest.mark.parametrize("factor", [0.5, 50.0])
def test_a_device_that_deviates_gets_two_digests(factor):
    coder = Deviating(portable_coder().model)
    coder.factor = factor
    found = fingerprint(coder, draw_scene(120, 180, 3), 0)
    assert (found.encoder, found.latents) == (EXPECTED[0], EXPECTED[2])
    assert found.decoder != found.encoder


def test_every_integer_counts():
    rng = np.random.default_rng(0)
    z, y = rng.integers(-3, 4, (2, 5)), rng.integers(-3, 4, (2, 7))
    indices, bits = rng.integers(0, 99, 20).astype(np.int32), rng.integers(0, 2, 20).astype(bool)

    def of(indices, bits, cut=20):
        tape = Tape()
        tape.encode(indices[:cut], bits[:cut])
        tape.encode(indices[cut:], bits[cut:])
        return digest(b"head", tape, z, y)

    reference = of(indices, bits)
    assert of(indices, bits, 7) == reference
    other = indices.copy()
    other[3] += 1
    assert of(other, bits) != reference
    assert of(indices, bits ^ (np.arange(20) == 19)) != reference
    y[1, 6] += 1
    assert of(indices, bits) != reference
