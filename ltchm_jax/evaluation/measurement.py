"""Measures one picture: encodes, decodes, compares, and makes a row of every point."""

import math
import time
from dataclasses import dataclass, field

import numpy as np

from ltchm_jax import metrics
from ltchm_jax.errors import one_line
from ltchm_jax.evaluation.contenders import Contender
from ltchm_jax.evaluation.pictures import Picture
from ltchm_jax.evaluation.rows import Row
from ltchm_jax.imagery.images import ImageError
from ltchm_jax.lpips import Lpips


@dataclass(frozen=True)
class Failure:
    """A picture that was not measured, or not by one codec; `codec` is '' when no codec could."""

    dataset: str
    image: str
    codec: str
    setting: str
    reason: str


@dataclass
class Outcome:
    """What came of a piece of work."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """One picture and the points to measure on it: (contender, setting) for each."""

    picture: Picture
    image_sha256: str
    points: tuple[tuple[Contender, str], ...]


def measure_picture(
    job: Job,
    lpips: Lpips | None,
    warm: set[tuple[str, ...]],
    workers: int,
) -> Outcome:
    """Rows of one picture. What fails is noted and the rest goes on: one odd file must not stop a long run.

    Args:
      job: the picture and the points to measure.
      lpips: measures LPIPS; None leaves it out.
      warm: what has been coded before; grows.
      workers: how many processes measure at this time.
    """
    outcome, picture = Outcome(), job.picture
    try:
        pixels = picture.pixels()
    except (ImageError, OSError) as error:
        reason = one_line(error).removeprefix(f"{picture.path}: ")  # a table names no folder of one machine
        outcome.failures.append(Failure(picture.dataset, picture.name, "", "", reason))
        return outcome
    for contender, setting in job.points:
        try:
            _warm_up(contender, setting, pixels, warm)
            measured = measure(contender, setting, pixels)
            outcome.rows.append(_row(job, contender, setting, pixels, measured, lpips, workers))
        except Exception as error:  # an encoder of somebody else may raise anything, and a measure
            failure = Failure(picture.dataset, picture.name, contender.curve, setting, one_line(error))
            outcome.failures.append(failure)
    return outcome


@dataclass(frozen=True)
class Measured:
    """A reconstruction uint8 [H, W, 3] with what it cost."""

    x_hat: np.ndarray
    num_bytes: int
    encode_seconds: float
    decode_seconds: float


def measure(contender: Contender, setting: str, pixels: np.ndarray) -> Measured:
    """Encodes and decodes once, timed.

    Raises:
      ValueError: what comes back is not a picture of the same size.
    """
    start = time.perf_counter()
    data = contender.encode(pixels, setting)
    middle = time.perf_counter()
    x_hat = np.asarray(contender.decode(data))
    end = time.perf_counter()
    if x_hat.shape != pixels.shape or x_hat.dtype != np.uint8:
        raise ValueError(f"decoding must give uint8 {pixels.shape}, got {x_hat.dtype} {x_hat.shape}")
    return Measured(x_hat, len(data), middle - start, end - middle)


def _warm_up(contender: Contender, setting: str, pixels: np.ndarray, warm: set[tuple[str, ...]]) -> None:
    """Codes once, untimed: a model would be timed with its compilation, a baseline with its loading."""
    key = (contender.curve, *contender.settings, str(pixels.shape) if contender.is_model else "")
    if key not in warm:
        measure(contender, setting, pixels)
        warm.add(key)


def _row(
    job: Job,
    contender: Contender,
    setting: str,
    pixels: np.ndarray,
    measured: Measured,
    lpips: Lpips | None,
    workers: int,
) -> Row:
    height, width, _ = pixels.shape
    similarity = metrics.ms_ssim(pixels, measured.x_hat)
    return Row(
        dataset=job.picture.dataset,
        image=job.picture.name,
        image_sha256=job.image_sha256,
        height=height,
        width=width,
        codec=contender.curve,
        setting=setting,
        codec_version=contender.version,
        num_bytes=measured.num_bytes,
        bpp=metrics.bpp(measured.num_bytes, height, width),
        psnr=metrics.psnr(pixels, measured.x_hat),
        ms_ssim=similarity,
        ms_ssim_db=metrics.ms_ssim_db(similarity),
        vif_p=metrics.vif_p(pixels, measured.x_hat),
        lpips=math.nan if lpips is None else lpips(pixels, measured.x_hat),
        lpips_version="" if lpips is None else lpips.version,
        encode_seconds=measured.encode_seconds,
        decode_seconds=measured.decode_seconds,
        workers=workers,
    )
