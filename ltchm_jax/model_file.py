"""A trained model on disk: one safetensors file with its configuration, weights and integer tables."""

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ltchm_jax.devices import float64
from ltchm_jax.entropy.distributions import logistic_bin_bits
from ltchm_jax.entropy.tables import PmfTables, quantise_pmf, tables_digest
from ltchm_jax.files import atomic_write
from ltchm_jax.model import LTCHM, ModelConfig, abstract_variables
from ltchm_jax.weights import ModelError

FORMAT = "ltchm-model-1"
MAX_MODEL_BYTES = 1 << 31


class CoderMismatch(ModelError):
    """A model is for another entropy coder: what either writes, the other can't read."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model: `variables` hold float32 arrays; `notes` say where it comes from.

    The integer tables of z are part of it: computed anew on another machine, a last bit could differ.
    """

    config: ModelConfig
    variables: dict
    z_tables: PmfTables
    notes: dict[str, str]

    @functools.cached_property
    def digest(self) -> bytes:
        """8 bytes of SHA-256 over configuration, weights and tables: a stream names its model by this."""
        sha = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode() + tables_digest())
        for name, array in sorted(_to_arrays(self).items()):
            sha.update(
                f"{name}{array.shape}".encode() + array.astype(array.dtype.newbyteorder("<")).tobytes()
            )
        return sha.digest()[:8]


def make_model(
    config: ModelConfig, variables: dict, notes: dict[str, str] | None = None, half: bool = True
) -> Model:
    """A model from variables in memory; its tables of z are made here.

    Args:
      half: round the weights to float16, which halves the file, but for arrays with a value beyond its
        range; else they stay as they are.
    """
    round_ = _rounded if half else functools.partial(np.asarray, dtype=np.float32)
    variables = jax.tree.map(round_, jax.device_get(variables))
    return Model(config, variables, make_z_tables(config, variables), notes or {})


def _rounded(array: np.ndarray) -> np.ndarray:
    """float32 values as float16 has them; unchanged where it can't hold them all."""
    with np.errstate(over="ignore"):
        half = np.asarray(array, np.float16).astype(np.float32)
    return half if np.isfinite(half).all() else np.asarray(array, np.float32)


def make_z_tables(config: ModelConfig, variables: dict) -> PmfTables:
    """Integer tables of the factorised prior on as many integers as its tails need, at most +-Z_REACH."""
    with float64():
        edges = np.arange(-Z_REACH, Z_REACH + 2, dtype=np.float64) - 0.5
        tiled = jnp.asarray(np.repeat(edges[:, None], config.width, 1))
        logits: Any = LTCHM(config).apply(variables, tiled, method="z_cumulative_logits")
        pmf = np.exp2(-np.asarray(logistic_bin_bits(logits[:-1], logits[1:]))).T  # [C, 2 * Z_REACH + 1]
    used = np.flatnonzero((pmf > Z_TAIL).any(0))
    low, high = (used[0], used[-1]) if len(used) else (Z_REACH, Z_REACH)
    return quantise_pmf(np.maximum(pmf[:, low : high + 1], Z_TAIL), int(low) - Z_REACH)


Z_REACH = 1024
Z_TAIL = 2.0**-18  # an integer less likely than this in every channel is left to the escape
FLOATS = (np.float16, np.float32)  # of weights
Z_CDF, Z_OFFSET = "tables/z_cdf", "tables/z_offset"


def _to_arrays(model: Model) -> dict[str, np.ndarray]:
    """What a file holds: weights by path, float16 where that loses nothing, and int32 tables."""
    flat = {k: _narrow(np.asarray(v)) for k, v in flatten_dict(model.variables, sep="/").items()}
    flat |= {Z_CDF: model.z_tables.cdf, Z_OFFSET: np.array([model.z_tables.offset], np.int32)}
    return {k: np.ascontiguousarray(v) for k, v in flat.items()}  # the file format takes bytes as they lie


def _narrow(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array


def save_model(path: str | Path, model: Model) -> None:
    """Writes one safetensors file: float16 weights and tables; configuration, digest, notes as metadata."""
    metadata = {"format": FORMAT, "config": json.dumps(model.config.to_dict()), "digest": model.digest.hex()}
    metadata["coder"] = tables_digest().hex()
    with atomic_write(path) as file:
        content = save(_to_arrays(model), metadata | {f"note:{k}": v for k, v in model.notes.items()})
        file.write(_with_sorted_header(content))


def _with_sorted_header(content: bytes) -> bytes:
    """A model file with its header in a fixed order: the library writes the metadata in a random one."""
    size = int.from_bytes(content[:8], "little")
    text = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header = text + b" " * (-len(text) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def load_model(path: str | Path, *, check_shapes: bool = True) -> Model:
    """Reads what `save_model` wrote.

    Args:
      path: the file.
      check_shapes: compare names and shapes of the weights with those of the configuration, which takes
        seconds of tracing; not needed for a file that was compared before.

    Raises:
      ModelError: no such file, not a model, weights that don't fit the configuration, a wrong digest.
      CoderMismatch: it was made for other tables of the entropy coder than this package has.
    """
    try:
        if Path(path).stat().st_size > MAX_MODEL_BYTES:
            raise ModelError(f"A model has at most {MAX_MODEL_BYTES} bytes, {str(path)!r} has more.")
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise ModelError(
                f"A model file says format {FORMAT}, {str(path)!r} says {metadata.get('format')!r}."
            )
        ours = tables_digest().hex()
        theirs = metadata.get("coder", ours)
        if theirs != ours:
            raise CoderMismatch(
                f"{str(path)!r} is for entropy coder {theirs[:16]}, this package has {ours[:16]}: install "
                "the version that wrote it, or export the model anew."
            )
        config = ModelConfig.from_dict(json.loads(metadata["config"]))
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"A model is a safetensors file written by this package; {str(path)!r}: {error}."
        ) from error
    except ValueError as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"The configuration in {str(path)!r} can't be read: {error}") from error
    model = _from_arrays(
        config,
        flat,
        {k[5:]: v for k, v in metadata.items() if k.startswith("note:")},
        str(path),
        check_shapes,
    )
    if model.digest.hex() != metadata.get("digest"):
        raise ModelError(f"The digest of {str(path)!r} does not match its content; get the file again.")
    return model


def _from_arrays(
    config: ModelConfig, flat: dict[str, np.ndarray], notes: dict[str, str], name: str, check_shapes: bool
) -> Model:
    try:
        cdf, offset = flat.pop(Z_CDF), int(flat.pop(Z_OFFSET).item())
        tables = PmfTables(cdf, offset)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(
            f"The tables of z in {name!r} can't be used: {error}; export the model again."
        ) from error
    if check_shapes:
        check_weights(config, flat, name)
    last = offset + cdf.shape[1] - 2
    if len(cdf) != config.width or not -Z_REACH <= offset <= last <= Z_REACH:
        raise ModelError(
            f"The tables of z in {name!r} must have {config.width} rows of integers up to +-{Z_REACH}, "
            f"got {len(cdf)} of {offset} to {last}; export the model again."
        )
    try:
        variables = unflatten_dict({k: v.astype(np.float32) for k, v in flat.items()}, sep="/")
    except (IndexError, TypeError, ValueError) as error:
        raise ModelError(
            f"The names of the weights in {name!r} contradict each other: get the file again."
        ) from error
    return Model(config, variables, tables, notes)


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights of a configuration."""
    return {k: v.shape for k, v in flatten_dict(abstract_variables(config), sep="/").items()}


def check_weights(config: ModelConfig, flat: dict[str, np.ndarray], name: str) -> None:
    """Raises ModelError, all that is wrong in one line, unless the weights are those of `config`."""
    want, have = expected_shapes(config), {k: v.shape for k, v in flat.items()}
    wrong = [f"{k} missing" for k in sorted(want.keys() - have.keys())]
    wrong += [f"{k} unknown" for k in sorted(have.keys() - want.keys())]
    wrong += [
        f"{k} is {have[k]}, not {want[k]}" for k in sorted(want.keys() & have.keys()) if want[k] != have[k]
    ]
    wrong += [
        f"{k} is {v.dtype}, not float16 or float32" for k, v in sorted(flat.items()) if v.dtype not in FLOATS
    ]
    wrong += [f"{k} not finite" for k, v in sorted(flat.items()) if not np.isfinite(v).all()]
    if wrong:
        raise ModelError(f"The weights of {name!r} do not fit its configuration: {'; '.join(wrong[:8])}.")
