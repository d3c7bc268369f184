"""Pictures to streams and back with one model: the library's front door.

A picture is cut into overlapping blocks, each padded to the model's stride and coded on its own: transforms
in float32 on any device, the entropy model in float64, integers from there on (see `entropy`).
"""

import functools
import math
import zlib
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from ltchm_jax import bitstream
from ltchm_jax.bitstream import Block, Container, Header, Layout
from ltchm_jax.checkpoints import CheckpointError, Model, load_model
from ltchm_jax.container.blocks import blend
from ltchm_jax.container.grid import Rect
from ltchm_jax.entropy.latent_coder import CodedLatents, LatentCoder
from ltchm_jax.entropy.range_coder import RangeCoderError
from ltchm_jax.entropy.snapping import SYMBOL_LIMIT
from ltchm_jax.entropy.wavefront import float64
from ltchm_jax.imagery.files import atomic_write, open_input
from ltchm_jax.imagery.images import LAYOUTS, Image, read_image, write_image
from ltchm_jax.model import LTCHM, Mixture, padded_size

DEFAULT_MODEL = "rsscn7-c64"
BLOCK_SIZE, OVERLAP = 1024, 16
QUALITY_STEPS = 256  # a stream keeps the quality in steps of 1/256

Progress = Callable[[Iterable, int], Iterable]  # wraps the blocks of a picture, told how many there are


def _silent(blocks: Iterable, _: int) -> Iterable:
    return blocks


def find_model(name_or_path: str | Path | None = None) -> Path:
    """The file of a model: a path, or the name of one that ships with the package.

    Raises:
      CheckpointError: neither.
    """
    shipped = Path(str(resources.files("ltchm_jax") / "weights"))
    name = str(name_or_path or DEFAULT_MODEL)
    if Path(name).is_file():
        return Path(name)
    if (shipped / f"{name}.safetensors").is_file() and "/" not in name:
        return shipped / f"{name}.safetensors"
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.safetensors"))) or "none"
    raise CheckpointError(f"A model is a file or one of the names that ship ({names}), got {name!r}.")


class Codec:
    """One model, ready to code. May be shared by threads; functions compile once for each shape of block."""

    def __init__(self, model: Model, name: str = "unnamed") -> None:
        self.model, self.name = model, f"{name}@{model.digest.hex()}"
        self._apply: Any = LTCHM(model.config).apply
        self._variables = jax.device_put(model.variables)
        with float64():
            wide = {k: v for k, v in model.variables["params"].items() if k in ("h_s", "gain_z", "prior_y")}
            self._wide = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), {"params": wide})
        self._analyse, self._synthesise = jax.jit(self._analysis), jax.jit(self._synthesis)
        self._hyper = jax.jit(self._hyper_synthesis)
        self._coder = LatentCoder(
            self._entropy_parameters,
            self._wide,
            model.z_tables,
            model.config.mixture,
            model.config.context == "masked",
        )

    @classmethod
    def load(cls, name_or_path: str | Path | None = None) -> "Codec":
        """The codec of a model file, of a name that ships, or (no argument) of the default model.

        Raises:
          CheckpointError: it can't be found or read.
        """
        path = find_model(name_or_path)
        return cls(load_model(path), path.stem)

    @property
    def qualities(self) -> tuple[float, ...]:
        """The rates a variable-rate model was trained for, 0 to L-1; all between can be used. Else empty."""
        return tuple(float(i) for i in range(len(self.model.config.lmbdas)))

    def compress(self, pixels: np.ndarray, quality: float | None = None) -> bytes:
        """A picture as a stream.

        Args:
          pixels: uint8 [H, W, bands]; 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGB, alpha), the model's bands.
          quality: 0 (fewest bytes) to L-1 for a model of L rates, in steps of 1/256; by default its middle.

        Raises:
          ValueError: wrong type, shape, number of bands or quality.
        """
        layout = LAYOUTS.get(pixels.shape[-1] if pixels.ndim == 3 else 0, Layout.BANDS)
        return self.compress_image(Image(pixels, layout), quality)

    def compress_image(
        self,
        image: Image,
        quality: float | None = None,
        *,
        metadata: bool = False,
        progress: Progress = _silent,
    ) -> bytes:
        """The same for a picture with a layout; `metadata` keeps what else its file held."""
        colour, alpha = self._split_alpha(image)
        header = self._header(image, self._checked_quality(quality))
        rects = [header.grid.rect(i) for i in range(header.grid.count)]
        blocks = [self._encode(colour[rect.slices], header.quality) for rect in progress(rects, len(rects))]
        return bitstream.pack(
            header,
            blocks,
            metadata=image.metadata if metadata else None,
            alpha=None if alpha is None else alpha.tobytes(),
        )

    def decompress(self, data: bytes, window: Rect | None = None) -> np.ndarray:
        """The picture in a stream, uint8 [H, W, bands], or a window of it.

        Raises:
          BitstreamError: not a stream, damaged, of another model, or too large; see `bitstream`.
        """
        return self.decompress_image(data, window).pixels

    def decompress_image(
        self, source: bytes | BinaryIO, window: Rect | None = None, *,
        max_pixels: int = bitstream.MAX_PIXELS, progress: Progress = _silent,
    ) -> Image:  # fmt: skip
        """The same with its layout and metadata; reads only the blocks that a window needs."""
        container = bitstream.read(source, max_pixels=max_pixels)
        header = container.header
        header.check_model(self.model.digest)
        self._check_bands(header.layout, header.bands)
        self._check_header(header)
        window = window or header.grid.whole
        numbers = list(header.grid.numbers_in(window))
        blocks = (self._decode(container, i) for i in progress(numbers, len(numbers)))
        pixels = blend(header.grid, blocks, window)
        if header.layout.has_alpha:
            plane = np.frombuffer(container.alpha() or b"", np.uint8).reshape(header.height, header.width, 1)
            pixels = np.concatenate([pixels, plane[window.slices]], -1)
        return Image(pixels, header.layout, container.metadata)

    def compress_file(
        self, source: str | Path, target: str | Path, quality: float | None = None, **options: bool
    ) -> int:
        """Reads a picture file, writes a stream (whole or not at all), and returns its length in bytes."""
        data = self.compress_image(read_image(source), quality, **options)  # type: ignore[arg-type]
        with atomic_write(target) as file:
            file.write(data)
        return len(data)

    def decompress_file(self, source: str | Path, target: str | Path, window: Rect | None = None) -> None:
        """Reads a stream, writes a picture file (.png, .tif; whole or not at all)."""
        with open_input(source) as file:
            image = self.decompress_image(file, window)
        write_image(target, image)

    def clipped(self, pixels: np.ndarray, quality: float | None = None) -> int:
        """How many latents of a picture lie outside +-SYMBOL_LIMIT, and are clipped; 0 for any sane model."""
        y, z = self._latents(pixels, self._checked_quality(quality))
        return int(sum((np.abs(v) >= SYMBOL_LIMIT).sum() for v in (y, z)))

    def ideal_bytes(self, pixels: np.ndarray, quality: float | None = None) -> float:
        """Code length of y under the float model, in bytes, of a picture that is one block: for checks."""
        steps = self._checked_quality(quality)
        y, z = self._latents(pixels, steps)
        return self._coder.ideal_bits(y, self._psi(z, steps)) / 8

    def _header(self, image: Image, quality: int) -> Header:
        height, width = image.pixels.shape[:2]
        cut = (BLOCK_SIZE, OVERLAP) if max(height, width) > BLOCK_SIZE else (0, 0)
        bands = image.pixels.shape[2] - image.layout.has_alpha
        return Header(self.model.digest, width, height, image.layout, bands, quality, *cut)

    def _split_alpha(self, image: Image) -> tuple[np.ndarray, np.ndarray | None]:
        """Colour [H, W, model bands] and alpha [H, W, 1]; a grey picture is repeated into all bands."""
        bands = image.pixels.shape[2] - image.layout.has_alpha
        self._check_bands(image.layout, bands)
        colour, alpha = image.pixels[..., :bands], image.pixels[..., bands:]
        repeats = self.model.config.bands if bands == 1 else 1
        return np.repeat(colour, repeats, -1), alpha if image.layout.has_alpha else None

    def _check_bands(self, layout: Layout, bands: int) -> None:
        if bands not in (1, self.model.config.bands):
            want = self.model.config.bands
            raise ValueError(
                f"Model {self.name} codes {want} bands (or grey), got {bands} of layout {layout.label}."
            )

    def _checked_quality(self, quality: float | None) -> int:
        """In steps of 1/256."""
        top = len(self.model.config.lmbdas) - 1
        if top < 0:
            if quality not in (None, 0):
                raise ValueError(f"Model {self.name} has a single rate and takes no quality, got {quality}.")
            return 0
        value = top / 2 if quality is None else quality
        if not (math.isfinite(value) and 0 <= value <= top):
            raise ValueError(f"`quality` must be 0 to {top} for model {self.name}, got {quality}.")
        return round(value * QUALITY_STEPS)

    def _check_header(self, header: Header) -> None:
        top = max(len(self.model.config.lmbdas) - 1, 0) * QUALITY_STEPS
        if header.quality > top:
            raise bitstream.Malformed(
                f"the model has qualities up to {top} / 256, the stream says {header.quality}"
            )

    def _latents(self, pixels: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
        """y int32 [H/16, W/16, M] and z int32 [H/64, W/64, C] of uint8 [h, w, bands], padded by its edges."""
        pads = [(0, padded_size(n) - n) for n in pixels.shape[:2]]
        padded = np.pad(pixels, [*pads, (0, 0)], "edge")
        y, z = jax.device_get(self._analyse(self._variables, padded[None], self._rate(quality)))
        return y[0], z[0]

    def _encode(self, pixels: np.ndarray, quality: int) -> Block:
        y, z = self._latents(pixels, quality)
        coded = self._coder.encode(z, y, self._psi(z, quality))
        return Block(coded.payload, latents_crc(z, y), coded.guards)

    def _decode(self, container: Container, number: int) -> np.ndarray:
        """uint8 [h, w, bands] of a block."""
        block, header = container.block(number), container.header
        height, width = header.grid.shape
        rows, columns = padded_size(height) // 16, padded_size(width) // 16
        z_shape = (rows // 4, columns // 4, self.model.config.width)
        y_shape = (rows, columns, self.model.config.latent_channels)
        psi = functools.partial(self._psi, quality=header.quality)
        try:
            z, y = self._coder.decode(CodedLatents(block.payload, block.guards), z_shape, y_shape, psi)
        except RangeCoderError as error:
            raise bitstream.Malformed(f"block {number} can't be decoded: {error}") from error
        block.check_latents(latents_crc(z, y))
        pixels = np.asarray(self._synthesise(self._variables, y[None], self._rate(header.quality)))[
            0, :height, :width
        ]
        return pixels if header.bands > 1 else np.round(pixels.mean(-1, keepdims=True)).astype(np.uint8)

    def _rate(self, quality: int) -> np.ndarray:
        return np.array([quality / QUALITY_STEPS], np.float32)

    def _psi(self, z: np.ndarray, quality: int) -> jax.Array:
        """float64 [H/16, W/16, 2C], the same within 1e-12 on every machine."""
        with float64():
            return self._hyper(self._wide, z[None], self._rate(quality))[0]

    def _analysis(
        self, variables: dict, pixels: jax.Array, quality: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        latents = self._apply(variables, pixels.astype(jnp.float32) / 255, quality, method="analyse")
        limit = float(SYMBOL_LIMIT)
        y, z = (jnp.round(jnp.clip(jnp.nan_to_num(v), -limit, limit)).astype(jnp.int32) for v in latents)
        return y, z

    def _synthesis(self, variables: dict, y: jax.Array, quality: jax.Array) -> jax.Array:
        x_hat = self._apply(variables, y.astype(jnp.float32), quality, method="synthesise")
        return jnp.round(255 * jnp.clip(x_hat, 0, 1)).astype(jnp.uint8)

    def _entropy_parameters(self, variables: dict, taps: jax.Array, psi: jax.Array) -> Mixture:
        return self._apply(variables, taps, psi, method="entropy_parameters")

    def _hyper_synthesis(self, variables: dict, z: jax.Array, quality: jax.Array) -> jax.Array:
        return self._apply(variables, z.astype(jnp.float64), quality, method="hyper_synthesise")


def latents_crc(z: np.ndarray, y: np.ndarray) -> int:
    """CRC-32 of the integers of z, then of y, as little-endian int32 in C order."""
    return zlib.crc32(y.astype("<i4").tobytes(), zlib.crc32(z.astype("<i4").tobytes()))
