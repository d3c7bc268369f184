import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from result_summary import result
from toy_codec import picture

from ltchm_jax.evaluation.plots import rate_distortion, save
from ltchm_jax.evaluation.report import write_report
from ltchm_jax.evaluation.tiles import Tile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--virtual-time-budget=3000", "--dump-dom",
)  # fmt: skip
PROBE = """<script>
addEventListener("load", () => {
  const [slider, chooser] = ["input", "select"].map(tag => document.querySelector(".compare " + tag));
  const seen = [];
  const note = () => {
    const images = [...document.querySelectorAll(".compare .decoded")].filter(image => !image.hidden);
    const words = [...document.querySelectorAll(".compare figcaption span")].filter(span => !span.hidden);
    const cut = getComputedStyle(images[0]).clipPath;
    seen.push([images.length, cut, images[0].naturalWidth, words[0].textContent]);
  };
  note();
  slider.value = 25;
  slider.dispatchEvent(new Event("input"));
  note();
  chooser.value = "1";
  chooser.dispatchEvent(new Event("change"));
  note();
  document.title = seen.map(part => part.join("; ")).join(" / ");
});
</script>"""


def report(folder: Path, name: str = "set/p.png", title: str = "Toy") -> Path:
    x = picture(30, 40)
    tiles = [Tile("original", x), Tile(title, x // 2, 0.25, 31.456), Tile("WebP", x // 3, 0.3, 30.0)]
    save(rate_distortion(result(title), "set/test"), folder / "rd.svg")
    write_report(folder / "report.html", result(title), [folder / "rd.svg"], {name: tiles})
    return folder / "report.html"


class Reader(html.parser.HTMLParser):
    """Collects tags, and the values of attributes that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text())
    return reader


def test_report_is_one_file_and_asks_the_network_for_nothing(tmp_path: Path) -> None:
    path = report(tmp_path)
    reader = read(path)
    assert len(reader.sources) == 1 + 3
    assert all(source.startswith("data:image/") for source in reader.sources)
    assert "default-src 'none'" in path.read_text()
    assert not re.search(r"https?://", path.read_text())


def test_names_are_never_markup(tmp_path: Path) -> None:
    evil = '"><script>alert(1)</script>'
    reader = read(report(tmp_path, name=evil, title=evil))
    assert reader.tags.count("script") == 1
    assert "b" not in reader.tags  # from the failure's reason


def test_tables_and_command_are_there(tmp_path: Path) -> None:
    text = report(tmp_path, title="Toy | codec").read_text()
    assert "<td>Toy | codec</td><td>-12.35 [0.75]</td><td>too far apart</td>" in text
    assert "<code>python eval.py</code>" in text
    assert "<li>set/test/notes.txt is not a picture</li>" in text


def test_without_pictures_there_is_no_slider(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", result(), [], {})
    assert "input" not in read(tmp_path / "report.html").tags


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium browser")
def test_slider_moves_the_line_and_the_list_changes_the_codec(tmp_path: Path) -> None:
    path = report(tmp_path)
    path.write_text(path.read_text().replace("</body>", PROBE + "</body>"))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [str(CHROMIUM), *FLAGS, profile, path.as_uri()]
    page = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    title = re.search("<title>(.*?)</title>", page)
    assert title is not None
    assert title[1].split(" / ") == [
        "1; inset(0px 0px 0px 50%); 40; Toy: 0.250 bpp, 31.46 dB",
        "1; inset(0px 0px 0px 25%); 40; Toy: 0.250 bpp, 31.46 dB",
        "1; inset(0px 0px 0px 25%); 40; WebP: 0.300 bpp, 30.00 dB",
    ]
