"""What an error says, in one line."""

import os
import sys

import pytest

from ltchm_jax.errors import first_line, one_line, tell


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("a\n  b"), "a b"),
        (KeyError(), "KeyError"),
        (FileNotFoundError(2, "No such file", "x.png"), "No such file: 'x.png'"),
        (OSError(28, "No space left"), "No space left"),
        (OSError("cut off"), "cut off"),
    ],
)
def test_one_line(error, line):
    assert one_line(error) == line


@pytest.mark.parametrize(("text", "line"), [("\n a b\nc", "a b"), (" ", "ValueError")])
def test_first_line(text, line):
    assert first_line(ValueError(text)) == line


def test_a_reader_who_is_gone_stops_nothing(monkeypatch, capsys):
    tell("heard")
    assert capsys.readouterr().err == "heard\n"
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as broken:
        monkeypatch.setattr(sys, "stderr", broken)
        tell("not heard")
        with pytest.raises(BrokenPipeError):
            print("not heard", file=broken, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), writing)  # closing it flushes
