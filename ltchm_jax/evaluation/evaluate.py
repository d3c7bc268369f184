"""Measures codecs on folders of pictures: every picture, codec and setting becomes one row of a table.

The bytes counted are those of a complete file. Work already in the table is not done again, as long as the
picture and the codec are the same. Only the seconds depend on how many processes measure at the same time.
"""

import dataclasses
import functools
import itertools
import multiprocessing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import jax
from tqdm import tqdm

from ltchm_jax.errors import one_line
from ltchm_jax.evaluation import contenders, rows
from ltchm_jax.evaluation.contenders import Contender
from ltchm_jax.evaluation.measurement import Failure, Job, Outcome, measure_picture
from ltchm_jax.evaluation.pictures import Picture
from ltchm_jax.evaluation.rows import Row
from ltchm_jax.lpips import Lpips


@dataclass(frozen=True)
class LpipsFiles:
    """Which LPIPS to measure: the backbone, 'alex' or 'vgg', and the files with its weights."""

    net: str
    paths: tuple[str, ...]


@dataclass(frozen=True)
class BaselineJob:
    """A `Job` of baselines that can be sent to another process: contenders by name."""

    picture: Picture
    image_sha256: str
    points: tuple[tuple[str, str], ...]
    lpips: LpipsFiles | None
    workers: int


def evaluate(
    table: Path,
    pictures: Sequence[Picture],
    competitors: Sequence[Contender],
    lpips: LpipsFiles | None = None,
    workers: int = 1,
) -> Outcome:
    """Measures what the table lacks, adds it row by row, and leaves the table complete and sorted.

    Baselines come first, in `workers` processes; then the models, one after the other in this process, so
    that nothing else of ours runs while they are timed.

    Args:
      table: CSV file, made if there is none. Rows of other pictures and codecs in it are kept.
      pictures: what to measure on.
      competitors: what to measure.
      lpips: weights for LPIPS; None leaves its column empty.
      workers: number of processes for the baselines.

    Returns:
      The rows of these pictures and competitors, sorted by picture, curve and setting as given, and what
      failed.

    Raises:
      RowsError: `table` is not such a table.
      ValueError: LPIPS weights are not usable.
    """
    measure = load_lpips(lpips)
    known = {row.key: row for row in rows.read_rows(table)}
    rows.write_rows(table, known.values())
    result = Outcome()
    jobs = _jobs(pictures, competitors, known, "" if measure is None else measure.version, result.failures)
    for outcome in _with_progress(jobs, lpips, workers):
        rows.append_rows(table, outcome.rows)
        known |= {row.key: row for row in outcome.rows}
        result.failures += outcome.failures
    order = _order(pictures, competitors)
    result.rows = sorted((row for row in known.values() if row.key in order), key=lambda row: order[row.key])
    others = sorted((row for row in known.values() if row.key not in order), key=lambda row: row.key)
    rows.write_rows(table, [*result.rows, *others])
    return result


def _jobs(
    pictures: Sequence[Picture],
    competitors: Sequence[Contender],
    known: dict[rows.Key, Row],
    lpips_version: str,
    failures: list[Failure],
) -> list[Job]:
    """What is left to measure, which is known no more; pictures that can't be opened go to `failures`."""
    points = [(contender, setting) for contender in competitors for setting in contender.settings]
    jobs = []
    for picture in pictures:
        digest = None
        try:
            digest = picture.sha256()
        except OSError as error:
            failures.append(Failure(picture.dataset, picture.name, "", "", one_line(error)))
        todo = [point for point in points if not _is_done(picture, digest, *point, known, lpips_version)]
        for contender, setting in todo:  # of another picture or codec: no result of these, should they fail
            known.pop((picture.dataset, picture.name, contender.curve, setting), None)
        if digest:
            jobs.append(Job(picture, digest, tuple(todo)))
    return jobs


def _is_done(
    picture: Picture,
    digest: str | None,
    contender: Contender,
    setting: str,
    known: dict[rows.Key, Row],
    lpips_version: str,
) -> bool:
    """Whether the table has this point for this very file, codec and LPIPS; of any LPIPS if '' is given."""
    row = known.get((picture.dataset, picture.name, contender.curve, setting))
    if row is None or (row.image_sha256, row.codec_version) != (digest, contender.version):
        return False
    return lpips_version in ("", row.lpips_version)


def _order(pictures: Sequence[Picture], competitors: Sequence[Contender]) -> dict[rows.Key, int]:
    keys = (
        (picture.dataset, picture.name, contender.curve, setting)
        for picture, contender in itertools.product(pictures, competitors)
        for setting in contender.settings
    )
    return {key: place for place, key in enumerate(keys)}


def _with_progress(jobs: Sequence[Job], lpips: LpipsFiles | None, workers: int) -> Iterator[Outcome]:
    """Does the jobs, one outcome a picture and kind, behind a progress bar that counts points."""
    for is_model, name in ((False, "baselines"), (True, "models")):
        parts = [dataclasses.replace(job, points=_of_kind(job, is_model)) for job in jobs]
        parts = [part for part in parts if part.points]
        total = sum(len(part.points) for part in parts)
        with tqdm(total=total, desc=name, unit="point", disable=None if total else True) as bar:
            done = _in_turn(parts, lpips) if is_model or workers == 1 else _in_pool(parts, lpips, workers)
            for outcome in done:
                bar.update(len(outcome.rows))
                yield outcome


def _of_kind(job: Job, is_model: bool) -> tuple[tuple[Contender, str], ...]:
    return tuple(point for point in job.points if point[0].is_model == is_model)


def _in_turn(jobs: Iterable[Job], lpips: LpipsFiles | None) -> Iterator[Outcome]:
    measure, warm = load_lpips(lpips), set[tuple[str, ...]]()
    for job in jobs:
        yield measure_picture(job, measure, warm, workers=1)


def _in_pool(jobs: Sequence[Job], lpips: LpipsFiles | None, workers: int) -> Iterator[Outcome]:
    """Outcomes as they come. Few jobs wait in the pool at a time, so an interrupt is heard soon."""
    # A fork would copy JAX's threads in whatever state they are.
    context = multiprocessing.get_context("spawn")
    waiting = (_sendable(job, lpips, workers) for job in jobs)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=leave_accelerators) as pool:
        running: set[Future[Outcome]] = set()
        while True:
            running |= {
                pool.submit(_measure_sent, job)
                for job in itertools.islice(waiting, 2 * workers - len(running))
            }
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def leave_accelerators() -> None:
    """Conventional codecs need none, and each process would take a share of its memory."""
    jax.config.update("jax_platforms", "cpu")


def _sendable(job: Job, lpips: LpipsFiles | None, workers: int) -> BaselineJob:
    points = tuple((contender.curve, setting) for contender, setting in job.points)
    return BaselineJob(job.picture, job.image_sha256, points, lpips, workers)


def _measure_sent(job: BaselineJob) -> Outcome:
    points = tuple((_baseline(name), setting) for name, setting in job.points)
    whole = Job(job.picture, job.image_sha256, points)
    return measure_picture(whole, load_lpips(job.lpips), _warm_here, job.workers)


_warm_here: set[tuple[str, ...]] = set()


@functools.cache
def _baseline(name: str) -> Contender:
    return contenders.baseline(name, wide=True)


@functools.cache
def load_lpips(files: LpipsFiles | None) -> Lpips | None:
    """The LPIPS measure of these files; None for None. Raises ValueError or OSError for unusable files."""
    return None if files is None else Lpips.load(files.net, *files.paths)
