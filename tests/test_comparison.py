"""What counts as equal, and how a golden file is read."""

import numpy as np
import pytest

from ltchm_jax.model import PRESETS
from ltchm_jax.parity.comparison import check_names, compare, images, member, nchw, nhwc, rows_text, section


@pytest.mark.parametrize(("error", "ok"), [(0.9e-3, True), (1.1e-3, False), (np.nan, False)])
def test_the_tolerance_is_relative_to_the_largest_value(error, ok):
    want = np.array([0.5, -2.0, 0.0])
    row = compare("t", want + np.array([0, 0, 2 * error]), want, 1e-3)
    assert row.ok == ok
    if ok:
        assert row.relative == pytest.approx(error)


def test_other_shapes_fail_even_where_they_broadcast():
    assert not compare("t", np.zeros((1, 3)), np.zeros(3), 1.0).ok


def test_zeros_must_be_met_exactly():
    assert compare("t", 0.0, np.zeros(()), 1e-3).ok
    assert not compare("t", 1e-30, np.zeros(()), 1e-3).ok


def test_the_table_lists_failures_first_and_counts_them():
    rows = [compare("good", 1.0, np.ones(()), 1e-3), compare("bad", 2.0, np.ones(()), 1e-3)]
    lines = rows_text(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["tensor", "bad", "good", "2"]
    assert lines[1].endswith("FAILED")
    assert lines[-1] == "2 tensors compared, 1 failed."


def test_layouts_invert():
    array = np.arange(2 * 3 * 4 * 5 * 3).reshape(2, 3, 4, 5, 3)
    np.testing.assert_array_equal(nchw(nhwc(array)), array)
    assert nhwc(array).shape == (2, 4, 5, 3, 3)
    assert nchw(np.float32(3)) == 3


def test_images_become_floats_in_0_1():
    pixels = np.full((128, 256, 3), 255, np.uint8)
    x = images(pixels, PRESETS["released"])
    assert x.shape == (1, 128, 256, 3)
    assert float(x.min()) == 1.0
    with pytest.raises(ValueError, match="multiples of 128"):
        images(pixels[:0], PRESETS["released"])


def test_members_and_sections():
    arrays = {"out/y": np.ones(1), "grad/out/y": np.zeros(2)}
    assert list(section(arrays, "out")) == ["y"]
    with pytest.raises(ValueError, match="must hold in/image"):
        member(arrays, "in/image")
    with pytest.raises(ValueError, match="tensors of the model, got b"):
        check_names(["a", "b"], ["a"])
