import re
import sys
import types
from pathlib import Path

import pytest
from toy_codec import ToyCodec, picture

from ltchm_jax import __version__
from ltchm_jax.evaluation import contenders


def test_single_rate_codec_is_one_point() -> None:
    contender = contenders.of_codec(ToyCodec("toy-16", step=16), curve="toys")
    assert (contender.curve, contender.settings, contender.version) == ("toys", ("toy-16",), "toy-16")
    x = picture(8, 9)
    assert contender.encode(x, "toy-16") == ToyCodec(step=16).compress(x)


def test_variable_rate_codec_has_its_qualities_or_those_given() -> None:
    codec, x = ToyCodec(qualities=(64.0, 16.0)), picture(8, 9)
    assert contenders.of_codec(codec).settings == ("64", "16")
    contender = contenders.of_codec(codec, qualities=(8.0,))
    assert contender.settings == ("8",)
    assert contender.encode(x, "8") == codec.compress(x, 8)
    assert contenders.of_codec(ToyCodec("single"), qualities=(8.0,)).settings == ("single",)


def test_model_is_loaded_by_file_or_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    class Loader:
        @staticmethod
        def load(source: str, effort: int) -> ToyCodec:
            asked.append((source, effort))
            return ToyCodec(f"toy {Path(source).name}")

    module = types.ModuleType("ltchm_jax.codec")
    module.Codec = Loader  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ltchm_jax.codec", module)
    weights = tmp_path / "low.safetensors"
    weights.write_bytes(b"abc")
    contender = contenders.model(f"mine={weights}")
    assert contender.curve == "mine"
    assert re.fullmatch(rf"sha256 ba7816bf8f01cfea, ltchm-jax {__version__} [0-9a-f]{{8}}", contender.version)
    assert contenders.model("known").curve == "toy known"
    assert [contenders.model(spec, effort=8).curve for spec in ("known", "mine=x")] == [
        "toy known effort 8",
        "mine effort 8",
    ]
    assert asked == [(str(weights), 0), ("known", 0), ("known", 8), ("x", 8)]


@pytest.mark.parametrize("quality", [9.0, -1.0])
def test_a_quality_that_a_model_has_not_is_refused_before_anything_is_measured(quality: float) -> None:
    pytest.importorskip("tensorflow_compression_ops")
    with pytest.raises(ValueError, match="`quality` must be 0 to 5"):
        contenders.gather(["rsscn7"], ["webp"], True, (1.0, quality))


def test_a_file_of_a_model_may_have_equals_signs_in_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=1e-4").mkdir()
    for name in ("lr=1e-4/m", "m"):
        Path(name).write_bytes(b"")
    found = {
        "lr=1e-4/m": ("", "lr=1e-4/m"),
        "mine=lr=1e-4/m": ("mine", "lr=1e-4/m"),
        "lr=1e-4=m": ("lr=1e-4", "m"),
        "mine=known": ("mine", "known"),
        "known": ("", "known"),
    }
    assert {spec: contenders._curve_and_source(spec) for spec in found} == found


def test_gather_skips_what_is_missing_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found, skipped = contenders.gather([], ["webp", "bpg", "webp"], wide=False)
    assert [contender.curve for contender in found] == ["webp"]
    assert list(skipped) == ["bpg"]
    with pytest.raises(ValueError, match="there must be a codec to evaluate, got none: BPG is skipped"):
        contenders.gather([], ["bpg"], wide=False)


def test_baseline_at_the_papers_settings_and_wide() -> None:
    assert contenders.baseline("webp", wide=False).settings == ("1", "4", "20", "35", "60", "80")
    wide = contenders.baseline("webp", wide=True)
    assert set(contenders.baseline("webp", wide=False).settings) < set(wide.settings)
    assert wide.decode(wide.encode(picture(8, 9), "80")).shape == (8, 9, 3)


def test_rows_of_two_contenders_must_differ() -> None:
    twins = [contenders.of_codec(ToyCodec("toy")), contenders.of_codec(ToyCodec("toy"))]
    with pytest.raises(ValueError, match="may occur once"):
        contenders.check_distinct(twins)


def test_a_model_must_not_be_called_like_a_conventional_codec() -> None:
    with pytest.raises(ValueError, match="no conventional codec has, got webp"):
        contenders.check_distinct([contenders.of_codec(ToyCodec("webp"))])
