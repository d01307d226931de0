"""What every test leaves as it found it."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Commands and trainings set the number of threads for the whole process, and with it the last bits of sums."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
