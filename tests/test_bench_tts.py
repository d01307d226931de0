"""`mmx bench tts`: both sides are given the same work and held against each other, and every figure is written.

The package f5-tts is not needed: in its place stands our own field behind the package's calls, so that whatever the
bench gives to one side alone (text, recording, noise, steps) makes a difference.
"""

import json
from copy import deepcopy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mmx.bench import tts as bench
from mmx.errors import InputError, MmxError
from mmx.models import f5_tts
from mmx.models.f5_tts.sampling import Sampling, noise, sample
from mmx.seq import Seq

SMALL = {"vocab": 40, "width": 32, "heads": 2, "hidden": 64, "text_width": 16, "text_layers": 1}


class Network(nn.Module):
    """In place of the package's DiT, by the names of its arguments."""

    def __init__(self, dim: int, depth: int, text_num_embeds: int, **_: object):
        super().__init__()
        assert (dim, text_num_embeds) == (SMALL["width"], SMALL["vocab"])
        self.field = f5_tts.build_field(f5_tts.Config(layers=depth, **SMALL))


class Solver:
    """In place of its CFM."""

    louder = 1.0

    def __init__(self, network: Network, num_channels: int, mel_spec_module: nn.Module):
        self.field, self.mels = network.field, num_channels

    def sample(
        self, prompt: torch.Tensor, text: torch.Tensor, n: int, *, steps: int, seed: int, **how: float
    ) -> tuple[None, list[torch.Tensor]]:
        known = torch.zeros(1, n, self.mels)
        known[:, : prompt.shape[1]] = prompt
        given = Seq(known, torch.tensor([n]), bench.RATE_HZ), Seq(text, torch.tensor([text.shape[1]]))
        told, untold = (self.field.condition(*given, drop) for drop in (False, True))
        sampling = Sampling(steps=steps, guidance=how["cfg_strength"], sway=how["sway_sampling_coef"])
        return None, [
            self.louder * sample(self.field, noise([n], self.mels, [seed], known.device), told, untold, sampling)
        ]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench at a tiny size, with one voice."""
    known = [v for v in bench.voices() if v.card.name == "flow-voice"]
    replaced: dict[str, Any] = {
        "import_package": lambda name: SimpleNamespace(DiT=Network, CFM=Solver),
        "_converted": lambda theirs, config: deepcopy(theirs.field).eval(),
        "Config": partial(f5_tts.Config, **SMALL),
        "LENGTHS": (1, 2),
        "PART": 1,
        "SENTENCE": "The boats come back.",
        "voices": lambda: known,
    }
    for name, value in replaced.items():
        monkeypatch.setattr(bench, name, value)


@pytest.mark.usefixtures("package")
def test_it_measures_both_sides_the_lengths_and_the_voices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    found = bench.tts(size="tiny", seconds=1.0, steps=2, device="cpu", rounds=1, output=file)
    assert json.loads(file.read_text()) == json.loads(json.dumps(found))
    own = found["f5_tts"]
    assert own["difference"] <= 1e-6
    assert {len(own[name]["cpu_s"]) for name in ("f5-tts float32", "mmx float32", "mmx bfloat16")} == {1}
    assert list(found["length"]["cost"]) == [1, 2] and found["length"]["cost"][1] == 1.0
    assert found["voices"]["flow-voice"]["cpu_factor"] > 0
    shown = capsys.readouterr().out
    assert "F5-TTS, 2 layers, 4.0 s with the recording, 2 steps" in shown and "flow-voice" in shown


@pytest.mark.usefixtures("package")
def test_other_mels_than_the_package_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Solver, "louder", 1.01)
    with pytest.raises(MmxError, match="expected the mels of f5-tts within"):
        bench.tts(size="tiny", seconds=1.0, steps=2, device="cpu", rounds=1)


@pytest.mark.usefixtures("package")
def test_a_voice_whose_weights_are_missing_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str, download: bool) -> None:
        raise MmxError("expected weights, got none\nmore")

    monkeypatch.setattr(bench, "load", load)
    assert bench._voices(1) == {}
    assert capsys.readouterr().out == "flow-voice: left out (expected weights, got none)\n"


def test_sizes_are_known_and_rounds_are_in_turn() -> None:
    with pytest.raises(InputError, match="size among base, half, tiny, got 'huge'"):
        bench.tts(size="huge")
    order: list[str] = []
    runs = [bench.Run(name, partial(order.append, name)) for name in "ab"]
    bench._interleaved(runs, torch.device("cpu"), 2)
    assert "".join(order) == "baabba" and [len(run.wall_s) for run in runs] == [2, 2]
