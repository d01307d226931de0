"""Short and repeated speech live: each sentence as often as it was said, whatever the policy.

A scripted decoder repeats itself, skips and writes into silence as Whisper does; at the end the default model itself.
"""

from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from test_long import sentences
from test_stream import RATE, Detector, build, session

import mmx
from mmx.greedy import Continuation
from mmx.media.silero_vad import load as load_vad
from mmx.seq import Seq
from mmx.streaming.activity import FRAME
from mmx.streaming.policies import POLICIES
from mmx.streaming.stream import Stream

Script = Callable[[float, float], Sequence[tuple[int, float]]]
"""From where a window begins and what of the session was heard, in seconds: the tokens of its text, and where the
decoder looks as it writes each."""

COME, IN, SIT, DOWN = 4, 8, 12, 16  # of the toy tokenizer: each is a word


class Sure:
    """Monotonic heads that are sure of all that was heard."""

    def p_choose(self, decoder: Any, tokens: Any, memory: Seq, heard: Any = None, shared: Any = None) -> torch.Tensor:
        return torch.ones(1, 1, tokens.shape[1])


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> str:
    return "hold-n:1" if request.param == "hold-n" else request.param


def hear(
    monkeypatch: pytest.MonkeyPatch, policy: str, script: Script, spans: Sequence[tuple[float, float]], seconds: int
) -> Stream:
    """A session in which a decoder writes what a script says, look by look, while somebody speaks now and then."""
    spoken = [float(any(a <= i * FRAME / RATE < b for a, b in spans)) for i in range(seconds * RATE // FRAME)]
    model = build("whole")
    model.card = SimpleNamespace(name="scripted", alignment_heads=((0, 0),))  # type: ignore[assignment]
    stream = session(model, policy=policy, vad=Detector(spoken), step_s=1.0, monotonic=Sure())
    listener = stream.listener

    def now() -> Sequence[tuple[int, float]]:
        return script(listener.encoder.begin / RATE, listener.encoder.covered / RATE)

    def written(decoder: Any, memory: Any, prefix: Any, *_: Any) -> Continuation:
        tokens = [token for token, _ in now()][len(listener.committed) :]
        return Continuation(tokens, [-0.1] * len(tokens), True)

    def looked(tokens: torch.Tensor, memory: Seq, heads: Any, shared: Any = None) -> tuple[torch.Tensor, None]:
        end_s = listener.encoder.covered / RATE
        at_s = [0.0, *(t for _, t in now()[: tokens.shape[1] - 3]), end_s, end_s]  # prompt, text, end
        peaks_U1 = (torch.tensor(at_s)[:, None] - listener.encoder.begin / RATE) * (memory.rate or 50.0)
        shape = (len(at_s), memory.x.shape[1])
        elsewhere = torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 6
        scores_UM = torch.logaddexp(-0.5 * ((torch.arange(shape[1]) - peaks_U1) / 5).square(), elsewhere)
        return scores_UM[None, None], None

    monkeypatch.setattr("mmx.streaming.listener.continue_text", written)
    monkeypatch.setattr(type(stream.model.decoder), "cross_weights", lambda _, *rest: looked(*rest))
    for second in range(seconds):
        stream.push(np.zeros(RATE, np.float32), final=second == seconds - 1)
    return stream


def told(stream: Stream) -> list[str]:
    return stream.text.split()


def letters(*tokens: int) -> list[str]:
    return [chr(62 + t) for t in tokens]


SHORT = [(COME, 0.5), (IN, 0.8), (SIT, 1.1), (DOWN, 1.4)]


@pytest.mark.parametrize(
    "again",
    [
        [(COME, 0.4), (IN, 0.6), (SIT, 0.8), (DOWN, 1.0)],  # a second back
        [(COME, 2.5), (IN, 0.6), (SIT, 0.8), (DOWN, 1.0)],  # its first word looks into the silence
        [(COME, 2.6), (IN, 2.7), (SIT, 2.8), (DOWN, 2.9)],  # all of it does
    ],
    ids=["back", "anew", "silence"],
)
def test_what_is_said_once_is_written_once(
    monkeypatch: pytest.MonkeyPatch, policy: str, again: Sequence[tuple[int, float]]
):
    def script(begin_s: float, heard_s: float) -> Sequence[tuple[int, float]]:
        return [*SHORT, *again] if heard_s >= max(t for _, t in again) else [x for x in SHORT if x[1] < heard_s]

    stream = hear(monkeypatch, policy, script, [(0.3, 1.9)], 5)
    assert told(stream) == letters(COME, IN, SIT, DOWN)
    assert stream.tentative == ""


def test_what_is_said_twice_is_written_twice(monkeypatch: pytest.MonkeyPatch, policy: str):
    """The decoder leaves the repetition out until the window begins with it."""
    said = [(COME, 0.5), (IN, 0.9), (COME, 1.9), (IN, 2.2), (SIT, 3.1), (DOWN, 4.0)]

    def script(begin_s: float, heard_s: float) -> Sequence[tuple[int, float]]:
        mine = [x for x in said if begin_s <= x[1] < heard_s - 0.1]
        return [x for x in mine if begin_s > 0.5 or not 1.7 < x[1] < 2.4]

    stream = hear(monkeypatch, policy, script, [(0.3, 1.1), (1.7, 2.35), (2.9, 4.6)], 7)
    assert told(stream) == letters(COME, IN, COME, IN, SIT, DOWN)


def test_a_short_sentence_at_the_end_is_not_left_out(monkeypatch: pytest.MonkeyPatch, policy: str):
    said = [(COME, 0.5), (IN, 0.9), (COME, 2.3), (IN, 2.6)]

    def script(begin_s: float, heard_s: float) -> Sequence[tuple[int, float]]:
        return [x for x in said if begin_s <= x[1] < heard_s - 0.1 and (begin_s > 0.5 or x[1] < 2)]

    stream = hear(monkeypatch, policy, script, [(0.3, 1.1), (2.1, 2.75)], 6)
    assert told(stream) == letters(COME, IN, COME, IN)


def test_no_word_is_without_length(monkeypatch: pytest.MonkeyPatch, policy: str):
    """Attention that crowds at one moment, as at a loop, still leaves each word a while."""
    crowded = [(COME, 1.0), (IN, 1.0), (SIT, 1.0), (DOWN, 1.0)]
    stream = hear(monkeypatch, policy, lambda begin_s, heard_s: crowded, [(0.3, 1.7)], 4)
    words = [e for e in stream.events if e.text]
    assert len(words) == 4
    assert all(e.end_s - e.start_s >= 0.04 for e in words)
    assert [e.start_s for e in words] == sorted(e.start_s for e in words) and words[-1].end_s <= 4


# -------------------- the default model


@pytest.fixture(scope="module")
def real(whisper_base: mmx.Model) -> mmx.Model:
    return whisper_base


def clip(*parts: np.ndarray, pause_s: float = 0.6) -> np.ndarray:
    pause = np.zeros(round(pause_s * RATE), np.float32)
    return np.concatenate([pause, *(x for part in parts for x in (part, pause))])


def seconds(wave: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
    for at in range(0, len(wave), RATE):
        yield wave[at : at + RATE], at + RATE >= len(wave)


@pytest.mark.slow
@pytest.mark.long
def test_short_sentences_are_written_as_often_as_they_were_said(real: mmx.Model, policy: str):
    said = sentences()
    stream = Stream(real, policy=policy, language="en", vad=load_vad())
    for chunk, final in seconds(clip(said[4], said[4], said[3][:30_000], said[4])):
        stream.push(chunk, final)
    assert stream.text.lower().count("himself") == 3, stream.text
    words = [e for e in stream.events if e.text]
    assert all(e.end_s - e.start_s > 0.01 for e in words)


@pytest.mark.slow
def test_an_end_in_the_middle_of_a_sentence_repeats_nothing(real: mmx.Model):
    said = sentences()
    stream = Stream(real, language="en", vad=load_vad())
    for chunk, final in seconds(clip(said[1], said[2])[: round(4.6 * RATE)]):  # as by Ctrl-C
        stream.push(chunk, final)
    assert stream.text.lower().count("young man") == 1, stream.text
    assert all(e.end_s - e.start_s > 0.01 for e in stream.events if e.text)
