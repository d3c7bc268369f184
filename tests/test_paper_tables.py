"""Which of the printed complexity numbers come out, and what comes out where they do not."""

import pytest

from ltchm_jax.parity.paper_tables import PaperValue, paper_text, paper_values


@pytest.fixture(scope="module")
def values() -> list[PaperValue]:
    return paper_values()


def test_all_but_one_of_the_printed_numbers_come_out(values):
    assert len(values) == 19
    assert [(v.table, v.row, round(v.published, 3)) for v in values if not v.reproduced] == [
        (4, "+HPHAM without GCA", 11.346)  # printed: 11.24
    ]


def test_the_attention_fragment_is_what_was_printed_for_wam(values):
    wam = [v for v in values if v.row == "WAM"]
    assert [round(v.published, 3) for v in wam] == [19.528, 0.148]


def test_wam_as_a_whole_is_told(values):
    whole = [v for v in values if v.row == "WAM, all of it"]
    assert [(v.unit, v.printed, round(v.true, 3)) for v in whole] == [
        ("G", None, 121.601),
        ("M", None, 0.908),
    ]


def test_a_number_that_does_not_come_out_is_marked(values):
    text = paper_text(values).splitlines()
    assert len(text) == 20
    assert [line.split()[1] for line in text if "not reproduced" in line] == ["+HPHAM"]
