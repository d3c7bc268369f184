"""Every Python example of the documentation runs, and says what it says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
EXAMPLES = {
    f"{page.name} {number}": code
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL), start=1)
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name: str) -> None:
    if "Codec" in EXAMPLES[name]:
        pytest.importorskip("tensorflow")
    run = subprocess.run([sys.executable, "-c", EXAMPLES[name]], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parametrize("name", [name for name, code in EXAMPLES.items() if "# '" in code])
def test_examples_give_the_values_beside_them(name: str) -> None:
    scope: dict[str, object] = {}
    for line in EXAMPLES[name].splitlines():
        code, _, expected = line.partition("  # ")
        if expected.startswith("'"):
            assert repr(eval(code, scope)) == expected
        else:
            exec(code, scope)
