"""The fixed fields at the front of a stream: which model, which picture, how it is cut."""

from dataclasses import dataclass
from enum import IntEnum

from ltchm_jax.container.grid import Grid
from ltchm_jax.container.wire import (
    LIMIT,
    Cursor,
    Malformed,
    ModelMismatch,
    NotAStream,
    UnsupportedSamples,
    UnsupportedVersion,
    varint,
)

VERSION = 2  # of what is written
READABLE = (1, 2)
MAGIC = b"\xccLT"  # 0xCC is not ASCII: a transfer that strips the top bit is noticed
CANARY = b"\r\n"  # a transfer that rewrites line endings is noticed
DIGEST_BYTES = 8
MAX_QUALITY = 2**16 - 1
MAX_BANDS = 2**16 - 1


class Layout(IntEnum):
    """What the samples of a pixel mean. Alpha is not coded by the model but stored losslessly."""

    GREY = 0
    GREY_ALPHA = 1
    RGB = 2
    RGBA = 3
    BANDS = 4

    @property
    def has_alpha(self) -> bool:
        """Whether the last sample of a pixel is its opacity."""
        return self in (Layout.GREY_ALPHA, Layout.RGBA)

    @property
    def label(self) -> str:
        """The name in running text."""
        return ("grey", "grey+alpha", "RGB", "RGBA", "bands")[self]

    def bands(self) -> int:
        """Samples of a pixel that the model codes; 0 where the layout leaves it open."""
        return (1, 1, 3, 3, 0)[self]


class SampleType(IntEnum):
    """Type of a sample. Only `UINT8` is coded today; the other names are reserved."""

    UINT8 = 0
    UINT16 = 1
    INT16 = 2


@dataclass(frozen=True)
class Header:
    """What a decoder must know before the first block.

    Attributes:
      digest: 8 bytes that name the model, weights and configuration together.
      width: pixels, 1 to 2**32 - 1.
      height: pixels, 1 to 2**32 - 1.
      layout: meaning of the samples.
      bands: samples of a pixel that the model codes, alpha not counted: 1 or 3 as the layout says, or any.
      quality: 0 to 65535 in steps of 1/256; the model gives it a meaning. 0 when the model has a single rate.
      block_size: largest side of a block in pixels, or 0 for a picture of one block (which saves two bytes).
      overlap: pixels that neighbouring blocks share at least.
      samples: type of a sample.
      version: of the format, one of `READABLE`. It says how far beyond a block's pixels its latents go.

    Raises:
      Malformed: the fields break these rules or those of `Grid`.
    """

    digest: bytes
    width: int
    height: int
    layout: Layout
    bands: int
    quality: int = 0
    block_size: int = 0
    overlap: int = 0
    samples: SampleType = SampleType.UINT8
    version: int = VERSION

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise Malformed(f"a model digest has {DIGEST_BYTES} bytes, got {len(self.digest)}")
        if max(self.width, self.height) >= LIMIT:
            raise Malformed(f"sides are below 2**32 pixels, got {self.width} x {self.height}")
        if not 0 <= self.quality <= MAX_QUALITY:
            raise Malformed(f"quality must be 0 to {MAX_QUALITY} (steps of 1/256), got {self.quality}")
        if not 1 <= self.bands <= MAX_BANDS or self.bands != (self.layout.bands() or self.bands):
            raise Malformed(
                f"layout {self.layout.label} can't have {self.bands} coded bands: use layout bands"
            )
        try:
            self.grid  # noqa: B018  (its rules are the header's)
        except ValueError as error:
            raise Malformed(str(error)) from None

    @property
    def grid(self) -> Grid:
        """The blocks of the picture."""
        return Grid(self.height, self.width, self.block_size, self.overlap)

    @property
    def samples_per_pixel(self) -> int:
        """Coded bands, and alpha where there is one."""
        return self.bands + self.layout.has_alpha

    def check_model(self, digest: bytes) -> None:
        """Refuses a stream of another model.

        Raises:
          ModelMismatch: `digest` is not the stream's.
        """
        if digest != self.digest:
            raise ModelMismatch(
                f"the stream needs model {self.digest.hex()}, got {digest.hex()}: load its weights"
            )

    def to_bytes(self) -> bytes:
        """The fields as `docs/bitstream.md` lays them out; 19 to 35 bytes."""
        shape = varint(self.width) + varint(self.height)
        form = bytes([self.layout | self.samples << 3])
        bands = varint(self.bands) if self.layout is Layout.BANDS else b""
        cut = varint(self.block_size) + (varint(self.overlap) if self.block_size else b"")
        return signature(self.version) + self.digest + shape + form + bands + varint(self.quality) + cut

    @classmethod
    def from_cursor(cls, cursor: Cursor) -> "Header":
        """Reads the fields from the start of a stream.

        Raises:
          BitstreamError: of the kind that fits what is wrong.
        """
        version = _read_signature(cursor)
        digest = cursor.take(DIGEST_BYTES, "model digest")
        width, height = cursor.varint("width"), cursor.varint("height")
        layout, samples = _parse_form(cursor.take(1, "sample form")[0])
        bands = layout.bands() or cursor.varint("bands")
        quality, block_size = cursor.varint("quality"), cursor.varint("block size")
        overlap = cursor.varint("overlap") if block_size else 0
        return cls(digest, width, height, layout, bands, quality, block_size, overlap, samples, version)


def signature(version: int = VERSION) -> bytes:
    """The first six bytes of every stream of a version."""
    return MAGIC + str(version).encode() + CANARY


def _read_signature(cursor: Cursor) -> int:
    """The version that a stream's first bytes name."""
    size = len(signature())
    found = cursor.take(min(size, cursor.remaining), "signature")
    if not found or found[:3] != MAGIC[: len(found)]:
        raise NotAStream(
            f"not an LTCHM stream: one starts with {signature().hex(' ')}, "
            f"got {found.hex(' ') or 'nothing'}; give a file that `ltchm compress` wrote"
        )
    if len(found) == size and found[4:] != CANARY:
        raise NotAStream("the stream's line endings were changed in transfer: fetch it again in binary mode")
    cursor.take(size - len(found), "signature")
    versions = {str(version).encode(): version for version in READABLE}
    if found[3:4] not in versions:
        readable = " and ".join(map(str, READABLE))
        raise UnsupportedVersion(
            f"this decoder reads format versions {readable}, got {found[3:4]!r}: update ltchm-jax"
        )
    return versions[found[3:4]]


def _parse_form(form: int) -> tuple[Layout, SampleType]:
    layout, samples = form & 7, form >> 3
    if layout > Layout.BANDS or samples > SampleType.INT16:
        raise Malformed(
            f"sample form must be a known layout and sample type, got 0x{form:02x}: the stream is damaged"
        )
    if samples != SampleType.UINT8:
        name = SampleType(samples).name.lower()
        raise UnsupportedSamples(
            f"samples of type {name} are reserved, only uint8 is coded: update ltchm-jax"
        )
    return Layout(layout), SampleType(samples)
