"""Several processes as one run: how they join, and how they agree on what only one of them knows."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ltchm_jax.errors import first_line


def join(text: str) -> None:
    """Joins the other processes of a run; to be called before anything is computed.

    Args:
      text: '' for a run of one process; 'auto' where the cluster says who is who (Slurm, Open MPI, Cloud TPU,
        Kubernetes); else 'HOST:PORT,COUNT,INDEX': where process 0 listens, how many there are, which is this.

    Raises:
      ValueError: the text is none of these, or the processes do not find each other.
    """
    if not text:
        return
    arguments = {} if text == "auto" else _parse(text)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # other devices have their own
    try:
        jax.distributed.initialize(**arguments)
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(
            f"The processes of a run must find each other with --distributed={text}: {first_line(error)}"
        ) from None


def _parse(text: str) -> dict:
    address, _, rest = text.partition(",")
    count, _, index = rest.partition(",")
    host, _, port = address.rpartition(":")
    if not (host and all(n.isdecimal() for n in (port, count, index)) and int(index) < int(count)):
        raise ValueError(
            f"--distributed must be auto or HOST:PORT,COUNT,INDEX with INDEX in 0 to COUNT - 1, got {text!r}."
        )
    return {"coordinator_address": address, "num_processes": int(count), "process_id": int(index)}


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def from_first(value: float) -> float:
    """The first process's value, in float32, for all of them: what follows from it must not differ."""
    if jax.process_count() == 1:
        return value
    return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def tree_from_first(tree: Any) -> Any:
    """The first process's arrays, on the host of all: what they computed alike may differ in a bit."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
    """All processes leave it when the last one does, whatever happened to each: JAX ends who is left behind.

    Within it none may ask another.
    """
    try:
        yield
    finally:
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("leaving together")


def any_of(flag: bool) -> bool:
    """Whether it is true in any process; all must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
