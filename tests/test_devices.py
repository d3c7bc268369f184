"""Where things are computed on machines that this one is not."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from ltchm_jax import devices

CPU = jax.local_devices(backend="cpu")[0]


def test_float64_is_on_within_its_context_alone():
    with devices.float64():
        assert jnp.ones(2, jnp.float64).dtype == jnp.float64
    assert jnp.ones(2).dtype == jnp.float32


@pytest.mark.parametrize("backend", ["tpu", "gpu"])
def test_another_device_than_the_default_computes_on_the_host(backend, monkeypatch):
    """Seen by the second device of this machine, which plays the accelerator."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    with jax.default_device(jax.local_devices()[1]):
        with devices.on_host():
            assert jnp.ones(2).devices() == {CPU}
        with devices.float64():
            wide = jnp.ones(2, jnp.float64)
        assert wide.devices() == {CPU if backend == "tpu" else jax.local_devices()[1]}
        assert wide.dtype == jnp.float64


def test_a_host_that_jax_may_not_use_is_done_without(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", refuse)
    with devices.on_host():
        assert jnp.ones(2).sum() == 2


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_there_is_named(platform):
    code = "from ltchm_jax.devices import check_platforms; check_platforms()"
    environment = os.environ | {"JAX_PLATFORMS": platform}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"ValueError: JAX must find a device of JAX_PLATFORMS='{platform}'" in done.stderr
