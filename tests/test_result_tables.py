from result_summary import result

from ltchm_jax.evaluation.result_tables import _number, details, markdown, overview


def lines_with(text: str, part: str) -> list[str]:
    return [line for line in text.splitlines() if part in line]


def test_delta_table_has_value_and_overlap_or_a_refusal() -> None:
    (line,) = lines_with(overview(result()), "-12.3")
    assert line == "| Toy \\| codec | -12.35 [0.75] | too far apart |"


def test_times_are_medians_over_the_curve() -> None:
    assert "| Toy \\| codec | set/test | 0.100 | 0.020 | 1 |" in overview(result())


def test_shared_machine_is_said() -> None:
    assert "not to be quoted" not in overview(result())
    assert "not to be quoted" in overview(result(workers=4))


def test_averages_rise_with_the_rate_and_show_infinity() -> None:
    rates = [line.split("|")[3].strip() for line in lines_with(details(result()), "JPEG 2000")]
    assert rates == ["0.2000", "1.0000"]
    assert "infinite" in lines_with(details(result()), "3.0000")[0]
    assert _number(None, "lpips") == ""  # not measured


def test_what_was_left_out_is_listed() -> None:
    text = details(result())
    assert "- BPG is skipped: not on PATH" in text
    assert "- set/test/notes.txt is not a picture" in text
    assert "- set/test/b.png: <b>broken</b>" in text


def test_markdown_is_both_parts() -> None:
    text = markdown(result())
    assert text.startswith("# Evaluation")
    assert text.index("## Coding time") < text.index("## Averages on set/test") < text.index("## Left out")
