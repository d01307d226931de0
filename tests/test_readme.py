"""What the README and the guides say is run here, and the command line is held against the Python API."""

import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
FENCE = re.compile(
    r"(?:<!-- not run:(?P<reason>[^>]*)-->\s*\n)?```(?P<kind>bash|python)\n(?P<code>.*?)^```$", re.S | re.M
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `reason` says why it is not run, None that it is."""

    page: str
    line: int
    kind: str
    code: str
    reason: str | None


def blocks_of(page: str, text: str) -> list[Block]:
    return [
        Block(page, text[: m.start("kind")].count("\n") + 1, m["kind"], m["code"], m["reason"])
        for m in FENCE.finditer(text)
    ]


BLOCKS = [b for page in PAGES for b in blocks_of(page.relative_to(ROOT).as_posix(), page.read_text("utf-8"))]
RUN = [b for b in BLOCKS if b.reason is None]


def commands(block: Block) -> list[str]:
    """The single commands of a bash block, without comments."""
    lines = (line.split(" #")[0].strip() for line in block.code.splitlines())
    return [part.strip() for line in lines if line and not line.startswith("#") for part in line.split("&&")]


def is_setup(command: str) -> bool:
    words = shlex.split(command)
    return words[:3] == ["python3", "-m", "venv"] or "pip" in Path(words[0]).name or words[0].endswith("bin/pytest")


def name(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that has the demos, so that nothing is written into the repository."""
    shutil.copytree(ROOT / "demos", tmp_path / "demos")
    return tmp_path


def run(command: list[str], place: Path, **options: Any) -> str:
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    ran = subprocess.run(
        command,
        cwd=place,
        env=env,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
        check=False,
        **options,
    )
    assert ran.returncode == 0, f"{command}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


# ------------------------------------------------------------------------------------------------- the blocks


def test_the_pages_have_blocks():
    readme = [b for b in BLOCKS if b.page == "README.md"]
    assert {b.kind for b in readme} == {"bash", "python"}
    fences = sum(len(re.findall(r"^```(?:bash|python)", p.read_text("utf-8"), re.M)) for p in PAGES)
    assert len(BLOCKS) == fences  # none escapes the pattern


def test_every_block_that_is_not_run_says_why():
    for block in BLOCKS:
        assert block.reason is None or len(block.reason.split()) >= 3, name(block)


def test_a_reason_without_words_is_caught():
    (block,) = blocks_of("page", "<!-- not run: -->\n```bash\nrm -rf /\n```\n")
    assert block.reason is not None and not block.reason.strip()


@pytest.mark.parametrize("block", [b for b in RUN if b.kind == "bash"], ids=name)
def test_setup_lines_are_the_ones_that_are_known_to_work(block: Block):
    extras = PROJECT["optional-dependencies"]
    for command in filter(is_setup, commands(block)):
        wanted = re.fullmatch(r'\.venv/bin/pip install -e "\.\[([\w,]+)\]"', command)
        if wanted:
            assert set(wanted[1].split(",")) <= extras.keys(), command
        else:
            assert command in ("python3 -m venv .venv", ".venv/bin/pytest -n 2"), command


BASH = [b for b in RUN if b.kind == "bash" and not all(map(is_setup, commands(b)))]


@pytest.mark.slow
@pytest.mark.parametrize("block", BASH, ids=name)
def test_commands(block: Block, place: Path):
    """Each command with the installed `mmx`, in one shell, since they may be joined by pipes."""
    assert shutil.which("mmx", path=str(Path(sys.executable).parent)), "install first: pip install -e ."
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    script = [c.replace(".venv/bin/", "") for c in commands(block) if not is_setup(c)]
    assert all("mmx " in c for c in script), script
    out = run([bash, "-euo", "pipefail", "-c", "\n".join(script)], place)
    if "--output-dir" in block.code:
        assert list((place / "out").glob("dashwood.*"))
    elif "--to es" in block.code:
        assert out.split().count("de") > out.split().count("of")
    elif "dashwood" in block.code:
        assert "John Dashwood" in out and "amiable himself" in out


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in RUN if b.kind == "python"], ids=name)
def test_python(block: Block, place: Path):
    out = run([sys.executable, "-c", block.code], place)
    if "dashwood" in block.code:
        assert "John Dashwood" in out


def test_readme_opens_with_two_commands():
    first, second = [b for b in BLOCKS if b.page == "README.md"][:2]
    assert len(first.code.splitlines()) == len(second.code.splitlines()) == 1
    assert commands(first)[-1] == ".venv/bin/mmx transcribe demos/dashwood.flac"
    assert commands(second)[-1] == ".venv/bin/pytest -n 2"


def test_ci_runs_the_readmes_test_command():
    """`.ci/run` takes the first line that ends so; it must be the second block, and the only one."""
    ending = re.search(r"grep -m 1 '([^']+)' README.md", (ROOT / ".ci" / "run").read_text("utf-8"))
    assert ending
    hits = [line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if re.search(ending[1], line)]
    assert hits == [[b for b in BLOCKS if b.page == "README.md"][1].code.strip()]


def test_links_in_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_extras_in_the_readme_are_declared():
    text = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", text[text.index("| extra |") :], re.M)
    named = {e for row in rows for e in re.findall(r"`(\w+)`", row)}
    assert named == set(PROJECT["optional-dependencies"])


def test_a_dependency_that_was_asked_for_is_declared():
    every = PROJECT["dependencies"] + [d for e in PROJECT["optional-dependencies"].values() for d in e]
    named = {re.split(r"[^\w-]", d)[0] for d in every}
    eight = {
        "torch",
        "openai-whisper",
        "torchaudio",
        "speechbrain",
        "librosa",
        "opencv-python-headless",
        "decord",
    }
    assert eight | {"fairseq2"} <= named


# ---------------------------------------------------------------------------------------------- a quick start


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["transcribe", "--help"], ["bench", "asr", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]):
    code = (
        "import sys; from mmx.cli.app import main; rc = main(sys.argv[1:]);"
        "heavy = {'torch', 'numpy', 'av', 'rich', 'soxr', 'huggingface_hub'};"
        "print(heavy & set(sys.modules), file=sys.stderr);"
        "sys.exit(rc)"
    )
    ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.strip()) == (0, "set()")
    assert ran.stdout


def test_version(capsys: pytest.CaptureFixture[str]):
    import mmx
    from mmx.cli.app import main

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mmx {mmx.__version__}\n"
    assert f"[{mmx.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_import_costs_nothing():
    code = "import mmx, sys; print(mmx.__version__, {'torch', 'numpy', 'typer'} & set(sys.modules)); mmx.load"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split(maxsplit=1)[1] == "set()\n"


def test_what_the_architecture_names_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    named = sorted(set(re.findall(r"`(mmx(?:\.\w+)+)`", text)))
    assert len(named) > 30
    for full in named:
        assert pkgutil.resolve_name(full) is not None
