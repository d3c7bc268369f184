"""Guard lists: they return, cost nothing when empty, and stay bounded."""

import pytest

from ltchm_jax.container import guards
from ltchm_jax.container.wire import Malformed, Truncated, counted, varint

LISTS = [(), ((0, 1),), (), (), ((5, 0), (6, 1), (700, 0), (2**31 - 1, 1)), ()]


def test_guards_return():
    found = guards.split(guards.to_bytes(LISTS), len(LISTS))
    assert {number: guards.parse(data) for number, data in found.items()} == {1: LISTS[1], 4: LISTS[4]}


def test_empty_lists_make_an_empty_body():
    assert guards.to_bytes([()] * 100) == b""
    assert guards.split(b"", 100) == {}
    assert guards.parse(b"") == ()


def test_a_guard_in_the_first_positions_costs_one_byte():
    assert guards.to_bytes([((63, 1),)]) == bytes([0, 1, 63 * 2 + 1])


@pytest.mark.parametrize(
    "bad", [((5, 0), (5, 1)), ((5, 0), (4, 1)), ((-1, 0),), ((3, 2),), ((2**31, 0),), ((0, -1),)]
)
def test_lists_out_of_order_or_range_are_not_written(bad):
    with pytest.raises(Malformed, match="rising positions"):
        guards.to_bytes([bad])


def test_a_list_too_long_is_neither_written_nor_read():
    long = tuple((i, 0) for i in range(guards.MAX_GUARDS + 1))
    assert guards.parse(bytes(guards.MAX_GUARDS)) == long[:-1]
    with pytest.raises(Malformed, match="at most 65536 guards"):
        guards.to_bytes([long])
    with pytest.raises(Malformed, match="at most 65536 guards"):
        guards.parse(bytes(guards.MAX_GUARDS + 1))


def test_lists_of_blocks_that_are_not_there_are_refused():
    with pytest.raises(Malformed, match="blocks 0 to 3, got 4"):
        guards.split(varint(4) + counted(b"\1"), 4)
    with pytest.raises(Truncated):
        guards.split(varint(1) + varint(5) + b"\1", 4)


def test_empty_lists_are_refused():
    with pytest.raises(Malformed, match="that of block 1 is empty"):
        guards.split(varint(1) + counted(b""), 4)


def test_positions_beyond_the_limit_are_refused():
    step = varint(2**32 - 1)
    assert guards.parse(step) == ((2**31 - 1, 1),)
    with pytest.raises(Malformed, match="the stream is damaged"):
        guards.parse(step + b"\0")
