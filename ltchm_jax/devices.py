"""Where JAX computes what need not, or can't, be computed on an accelerator."""

import contextlib
import os
from collections.abc import Iterator

import jax

from ltchm_jax.errors import first_line


def check_platforms() -> None:
    """Raises ValueError where JAX finds none of the devices that it is told to use."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # of which the second says nothing
        why = f" ({first_line(error)})" if str(error) else ""
        raise ValueError(
            f"JAX must find a device of JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')!r}, got none{why}:"
            " unset it, or install JAX for that device."
        ) from None


def on_host() -> contextlib.AbstractContextManager:
    """A context in which JAX computes on the CPU, unless JAX_PLATFORMS leaves it out.

    There hundreds of small functions compile in no time, and draw the same numbers wherever they run.
    """
    if jax.default_backend() == "cpu":
        return contextlib.nullcontext()
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:
        return contextlib.nullcontext()


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """A context in which JAX computes in float64, to be held while tracing and while calling.

    On a TPU, which has none, that is done by the CPU.
    """
    with on_host() if jax.default_backend() == "tpu" else contextlib.nullcontext(), _float64_is(True):
        yield


def whole_float32() -> contextlib.AbstractContextManager:
    """A context in which products of float32 are made of float32, to be held while tracing and while calling.

    Unasked a GPU rounds their factors to TF32, a TPU to bfloat16: a thousand times the error and more.
    """
    return jax.default_matmul_precision("highest")


def float32() -> contextlib.AbstractContextManager:
    """A context in which JAX computes in float32 at most, whatever the environment says."""
    return _float64_is(False)


def _float64_is(on: bool) -> contextlib.AbstractContextManager:
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64  # older JAX

    return enable_x64(on)
