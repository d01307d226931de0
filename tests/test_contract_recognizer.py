"""Recognizers under their contract, and faults that the contract must find."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from contract import ContractError
from contract_recognizer import verify_recognizer
from test_lips_and_sound import tiny
from toys.folders import new_toy

import mmx
from mmx.media.audio import read_audio
from mmx.models.whisper import recognizer as whisper
from mmx.seq import Seq
from mmx.tasks import ctc_recognizer, recognizer
from mmx.tasks.options import Options
from mmx.tasks.window import Piece, Window
from mmx.tasks.windows import Decoded, Job


def poses(i: int, start_s: float) -> Window:
    """Of 40, 65 and 90 frames."""
    n = 40 + 25 * i
    x = torch.randn(1, n, 4, 2, generator=torch.Generator().manual_seed(i))
    return Window({"pose": Seq(x, torch.tensor([n]), 25.0)}, (Piece(0.0, start_s, n / 25),), i)


def noise(i: int, start_s: float) -> Window:
    n = 16_000 + 6_400 * i
    samples = 0.1 * np.random.default_rng(i).standard_normal(n).astype(np.float32)
    return Window.of_sound(samples, (Piece(0.0, start_s, n / 16_000),), i)


def test_the_recognizer_of_any_decoder() -> None:
    model = new_toy("pose_to_text")
    options = recognizer.fit(model, Options(language="en", beam_size=2, max_tokens=12))
    verify_recognizer(recognizer.recognizer(model, options), poses)


def test_the_recognizer_of_a_ctc_head() -> None:
    model = tiny().eval()
    options = ctc_recognizer.fit(model, Options(language="en"))
    verify_recognizer(ctc_recognizer.recognizer(model, options), noise)


@pytest.mark.long
def test_the_recognizer_of_texts_with_timestamps(whisper_base: mmx.Model) -> None:
    spans = [(0, 113_600), (121_600, 169_440)]
    wave = read_audio("demos/dashwood.flac")

    def said(i: int, start_s: float) -> Window:
        samples = wave[slice(*spans[i])]
        return Window.of_sound(samples, (Piece(0.0, start_s, len(samples) / 16_000),), i)

    options = whisper.fit(whisper_base, Options(language="en", beam_size=2, word_timestamps=True))
    verify_recognizer(whisper.recognizer(whisper_base, options), said, 2)


# -------------------- faults


class Spoilt:
    """The recognizer of a toy, whose answers are changed."""

    def __init__(self, check: str):
        model = new_toy("pose_to_text")
        self.options = recognizer.fit(model, Options(language="en", beam_size=1, max_tokens=12))
        self.good, self.check, self.calls = recognizer.recognizer(model, self.options), check, 0

    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        self.calls += 1
        found = self.good(jobs)
        if self.check == "answers":
            return found[:-1]
        for i, (job, one) in enumerate(zip(jobs, found, strict=True)):
            one.segments = [self.changed(s, i, len(jobs), job) for s in one.segments]
            if self.check == "order":
                one.segments += [replace(s, start_s=s.start_s - 0.1) for s in one.segments]
        return found

    def changed(self, s: Any, i: int, count: int, job: Job) -> Any:
        """A segment with the fault."""
        if self.check == "clock":
            return replace(s, end_s=s.end_s + 3)
        if self.check == "moved" and job.window.start_s >= 100:
            return replace(s, start_s=s.start_s + 0.05, end_s=s.end_s + 0.05)
        if self.check == "alone":
            return replace(s, text=f"{s.text} {count}", words=())
        return replace(s, text=f"{s.text} {self.calls}", words=()) if self.check == "again" and self.calls > 6 else s


@pytest.mark.parametrize("check", ["answers", "clock", "order", "moved", "alone", "again"])
def test_a_fault_is_found_and_named(check: str) -> None:
    with pytest.raises(ContractError) as found:
        verify_recognizer(Spoilt(check), poses)
    assert found.value.check == check, found.value
