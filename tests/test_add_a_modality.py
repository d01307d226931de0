"""The page for newcomers is the toy family, and what it shows works."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/guides/add_a_modality.md").read_text("utf-8"), re.S | re.M)


def test_the_page_shows_the_whole_module() -> None:
    shown = "".join("".join(BLOCKS[:-1]).split())
    assert shown == "".join((ROOT / "tests/toys/pose_to_text.py").read_text("utf-8").split())


@pytest.mark.slow
def test_what_the_page_does_learns_to_read_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[-1], "add_a_modality.md", "exec"), {})
    assert capsys.readouterr().out.splitlines()[-2:] == ["one", "one four"]
