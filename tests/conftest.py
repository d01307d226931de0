"""What every test leaves as it found it, and what the models compute in."""

from collections.abc import Iterator

import pytest
import torch

from mmx.api import FORCED, resolve_dtype


def pytest_report_header() -> str:
    plan = resolve_dtype("auto", torch.device("cpu"))
    return f"dtype auto on this CPU: encoder {plan.encoder}, decoder {plan.decoder} ({FORCED} forces another)"


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is written down of outputs is not mixed with the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Commands and trainings set the number of threads for the whole process, and with it the last bits of sums."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
