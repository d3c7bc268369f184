"""What an error says, in one line."""

import pytest

from ltchm_jax.errors import first_line, one_line


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
