"""The cut into blocks: covers, shares, and wastes no more than it must."""

import random
from itertools import pairwise

import pytest

from ltchm_jax.container.grid import MAX_BLOCK, MIN_BLOCK, Axis, Grid, Rect

RANDOM = random.Random(20)
AXES = [
    Axis(RANDOM.randint(1, 3000), size, RANDOM.randint(0, size // 4))
    for size in (RANDOM.randint(MIN_BLOCK, 600) for _ in range(300))
]
TIGHT = [Axis(length, size, size // 4) for size in (16, 17, 19, 20, 64) for length in range(1, 200)]


@pytest.mark.parametrize("axes", [AXES, TIGHT], ids=["random", "widest overlap"])
def test_spans_cover_the_axis_and_share_the_overlap(axes):
    for axis in axes:
        starts = [axis.start(i) for i in range(axis.count)]
        assert starts[0] == 0
        assert axis.stop(axis.count - 1) == axis.length
        assert axis.size <= axis.block_size
        shared = [left + axis.size - right for left, right in pairwise(starts)]
        assert all(axis.overlap <= s <= axis.overlap + 2 for s in shared), axis


@pytest.mark.parametrize("axes", [AXES, TIGHT], ids=["random", "widest overlap"])
def test_a_pixel_lies_in_at_most_two_spans(axes):
    for axis in axes:
        assert all(axis.stop(i) <= axis.start(i + 2) for i in range(axis.count - 2)), axis


def test_fewer_or_smaller_spans_would_not_cover():
    for axis in AXES:
        reach = axis.count * axis.size - (axis.count - 1) * axis.overlap
        assert reach - axis.count < axis.length <= reach
        if axis.count > 1:
            assert (axis.count - 1) * (axis.block_size - axis.overlap) + axis.overlap < axis.length


def test_the_documented_example():
    axis = Axis(600, 512, 32)
    assert [(axis.start(i), axis.stop(i)) for i in range(axis.count)] == [(0, 316), (284, 600)]


def test_touching_spans_are_those_that_hold_a_pixel_of_the_interval():
    for axis in AXES[:100]:
        start = RANDOM.randrange(axis.length)
        stop = RANDOM.randint(start + 1, axis.length)
        slow = [i for i in range(axis.count) if axis.start(i) < stop and start < axis.stop(i)]
        assert list(axis.touching(start, stop)) == slow


def test_blocks_are_numbered_row_by_row():
    grid = Grid(100, 200, 64, 8)
    rects = [grid.rect(i) for i in range(grid.count)]
    assert rects == sorted(rects)
    assert {rect[2:] for rect in rects} == {grid.shape}
    assert list(grid.numbers_in(grid.whole)) == list(range(grid.count))


def test_a_picture_no_larger_than_a_block_is_one_block():
    for grid in (Grid(64, 20, 64, 16), Grid(64, 20), Grid(1, 1)):
        assert [grid.rect(i) for i in range(grid.count)] == [grid.whole]


def test_a_huge_grid_costs_nothing_until_asked():
    grid = Grid(2**31, 2**31, 16, 4)
    rect = grid.rect(grid.count - 1)
    assert (rect.top + rect.height, rect.left + rect.width) == (2**31, 2**31)
    rows, cols = grid.blocks_in(Rect(2**30, 5, 1, 1))
    assert (len(rows), len(cols)) in [(1, 1), (2, 1)]


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        ((0, 5), "at least one pixel"),
        ((5, -1), "at least one pixel"),
        ((5, 5, 15), "block size must be"),
        ((5, 5, MAX_BLOCK + 1), "block size must be"),
        ((5, 5, 64, 17), "overlap must be"),
        ((5, 5, 64, -1), "overlap must be"),
        ((5, 5, 0, 1), "overlap must be"),
        ((5, MAX_BLOCK + 1), "give a block size"),
    ],
)
def test_impossible_grids_are_refused(arguments, rule):
    with pytest.raises(ValueError, match=rule):
        Grid(*arguments)


@pytest.mark.parametrize("window", [(0, 0, 0, 1), (-1, 0, 2, 2), (0, 0, 101, 1), (0, 150, 1, 51)])
def test_windows_outside_the_picture_are_refused(window):
    with pytest.raises(ValueError, match="a window lies inside"):
        Grid(100, 200, 64, 8).blocks_in(Rect(*window))


@pytest.mark.parametrize("number", [-1, 8])
def test_blocks_that_are_not_there_are_refused(number):
    with pytest.raises(IndexError, match="0 to 7"):
        Grid(100, 200, 64, 8).rect(number)
