"""The table of measurements: one row for each image, codec and setting, kept as CSV while it grows.

Rows are added picture by picture: a run that is killed loses at most those of the pictures that it was at.
"""

import csv
import dataclasses
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltchm_jax.files import atomic_write

Key = tuple[str, str, str, str]


class RowsError(ValueError):
    """A file that is not a table of measurements."""


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      dataset, image: where the picture is from: the last two parts of the folder, the path inside it.
      image_sha256: first 16 hexadecimal digits of the picture file's digest.
      height, width: in pixels.
      codec, setting: which curve and which point on it.
      codec_version: version of the library, or digest of the model, and version of this package; a row of
        another one is measured anew.
      num_bytes: size of the whole encoded file.
      bpp, psnr, ms_ssim, ms_ssim_db, vif_p, lpips: as `metrics` and `lpips` define them; lpips is nan
        where it was not asked for. psnr and ms_ssim_db are inf for an exact copy.
      lpips_version: backbone and weights of lpips, '' where it is nan.
      encode_seconds, decode_seconds: wall clock, array to bytes and bytes to array, after a warm-up, on the
        machine that wrote the row.
      workers: processes that measured at the same time; above 1 the seconds are not to be quoted.
    """

    dataset: str
    image: str
    image_sha256: str
    height: int
    width: int
    codec: str
    setting: str
    codec_version: str
    num_bytes: int
    bpp: float
    psnr: float
    ms_ssim: float
    ms_ssim_db: float
    vif_p: float
    lpips: float
    lpips_version: str
    encode_seconds: float
    decode_seconds: float
    workers: int

    @property
    def key(self) -> Key:
        """What a row is the only one of."""
        return self.dataset, self.image, self.codec, self.setting


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))
_TYPES: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Row)}


def read_rows(path: Path) -> list[Row]:
    """Rows of a file, the last one of each key, in the order of the file; none where there is no file.

    A last line without its end is what a killed run leaves, and is ignored.

    Raises:
      RowsError: the columns are others, or a line can't be read.
    """
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RowsError(f"{path} must be UTF-8 text; choose another output folder") from error
    whole = text[: text.rfind("\n") + 1]
    lines = list(csv.reader(io.StringIO(whole)))
    if lines and tuple(lines[0]) != COLUMNS:
        raise RowsError(
            f"{path} must start with the columns {','.join(COLUMNS)}; choose another output folder"
        )
    rows = (_parse(fields, path, number) for number, fields in enumerate(lines[1:], start=2))
    return list({row.key: row for row in rows}.values())


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Replaces the file by these rows, whole or not at all."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_fields(row) for row in rows)
    with atomic_write(path) as file:
        file.write(buffer.getvalue().encode())


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows to a file that `write_rows` made."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(_fields(row) for row in rows)
    with path.open("a", encoding="utf-8", newline="") as file:
        file.write(buffer.getvalue())


def _fields(row: Row) -> list[str]:
    values = dataclasses.astuple(row)
    return ["" if isinstance(value, float) and math.isnan(value) else str(value) for value in values]


def _parse(fields: list[str], path: Path, line: int) -> Row:
    if len(fields) != len(COLUMNS):
        raise RowsError(
            f"{path} needs {len(COLUMNS)} fields in line {line}, got {len(fields)}; remove that line"
        )
    try:
        return Row(**{name: _value(name, text) for name, text in zip(COLUMNS, fields, strict=True)})
    except ValueError as error:
        raise RowsError(f"{path} can't be read in line {line}: {error}; remove that line") from error


def _value(name: str, text: str) -> Any:
    return math.nan if _TYPES[name] is float and not text else _TYPES[name](text)
