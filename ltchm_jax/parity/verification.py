"""Checks this model against tensors of the authors' released one: `ltchm verify GOLDEN.npz [TRAIN.npz]`."""

from pathlib import Path

import jax

from ltchm_jax.interop import import_state
from ltchm_jax.parity.comparison import Row
from ltchm_jax.parity.forward_parity import forward_rows
from ltchm_jax.parity.reference_files import read_arrays
from ltchm_jax.parity.training_parity import training_rows


def verify(golden: str | Path, train: str | Path | None = None) -> list[Row]:
    """All rows of a forward file, then those of a training file; `comparison` says what they hold.

    Raises:
      OSError: a file can't be read.
      ValueError: a file is damaged, lacks what it must hold, or its state does not fit the model.
    """
    arrays = read_arrays(golden)
    step = None if train is None else read_arrays(train)
    imported = import_state(arrays)
    with jax.default_matmul_precision("highest"):  # accelerators would round the factors of products
        rows = forward_rows(imported, arrays)
        return rows if step is None else rows + training_rows(imported, step)
