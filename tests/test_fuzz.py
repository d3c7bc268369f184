"""Hostile streams end in a named error or in the right picture; `fuzz.py` runs for longer."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tensorflow_compression_ops")

import fuzz

FUZZ = Path(fuzz.__file__)


def test_hostile_streams_end_in_an_error_or_the_right_picture():
    report = fuzz.run(fuzz.small_codec(), fuzz.pictures(), 1500)
    assert report.is_bounded, report  # in seconds of the processor; most take less than an honest one
    ends = report.ends
    assert {kind for kind, _ in ends} == {"edited", "cut", "spliced", "noise", "head", "payload", "guards"}
    assert sum(ends.values()) == 1500
    assert ends["payload", "LatentsMismatch"] + ends["payload", "Malformed"] > 100  # past every checksum


@pytest.mark.slow
def test_readers_agree_on_input_chosen_by_coverage():
    pytest.importorskip("atheris")
    done = subprocess.run(
        [sys.executable, str(FUZZ), "--guided", "20"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Done" in done.stderr  # libFuzzer's last line: no finding stopped it
