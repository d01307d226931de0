"""Live sessions: append-only, the same however the sound is cut, saved and resumed, many at once; and what they hear.

Most tests use tiny random models: what those write means nothing, that nothing is lost or mixed up does.
"""

import math
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_long import sentences

import mmx
from mmx.bench.asr import word_error_rate
from mmx.errors import CheckpointError, InputError, OutputError
from mmx.generate import SearchOptions, search
from mmx.greedy import Continuation, continue_text
from mmx.media.kaldi import Fbank
from mmx.media.silero_vad import load as load_vad
from mmx.model import Model
from mmx.models import w2v_bert, whisper
from mmx.nn.decoder import DecoderLayer, LearnedPositions, TextDecoder
from mmx.seq import Seq
from mmx.state import State
from mmx.streaming.activity import FRAME, SpeechActivity
from mmx.streaming.encoders import IncrementalEncoder, WindowEncoder, stream_encoder
from mmx.streaming.guards import AttendedWord
from mmx.streaming.listener import Listener, _Mark
from mmx.streaming.policies import View
from mmx.streaming.stream import Stream
from mmx.tasks.events import Event

ROOT = Path(__file__).parents[1]
RATE, VOCAB, EOT = 16_000, 40, 1
FEW, MOST = 12, Listener.TOKENS_PER_S
"""Tokens a second that a random model writes here, and that a model may write."""


def long(value: object) -> Any:
    """A case that CI runs, and a bare `pytest` does not."""
    return pytest.param(value, marks=pytest.mark.long)


class Letters:
    """A toy tokenizer: each id is a letter, every fourth one begins a word."""

    eot = EOT
    control_ids = (0, 2)

    def language(self, text: str) -> str:
        return "eng"

    def prompt(self, language: str) -> list[int]:
        return [0, 2]

    def split_words(self, ids: Any) -> list[tuple[str, list[int]]]:
        out: list[tuple[str, list[int]]] = []
        for i in ids:
            if i % 4 == 0 or not out:
                out.append((f" {chr(62 + i)}" if i % 4 == 0 else chr(62 + i), [i]))
            else:
                out[-1] = (out[-1][0] + chr(62 + i), [*out[-1][1], i])
        return out

    def decode(self, ids: Any) -> str:
        return "".join(text for text, _ in self.split_words(ids))


def decoder(width: int) -> TextDecoder:
    """Random, with opinions strong enough that the text varies with the sound and with what was written."""
    made = TextDecoder(VOCAB, [DecoderLayer(width, 2, 32) for _ in range(2)], LearnedPositions(300, width))
    made.head.weight = torch.nn.Parameter(torch.randn(VOCAB, width))  # not the embedding's, which would repeat itself
    torch.nn.init.normal_(made.token.weight)
    layers: Any = made.layers
    for layer in layers:
        for part in (layer.attn, layer.cross):
            for linear in part.children():
                torch.nn.init.normal_(linear.weight, std=0.6)
    return made


def build(kind: str) -> Model:
    """A random model, always the same, whose encoder has a finite look-ahead ("causal") or none ("whole")."""
    torch.manual_seed(5)
    if kind == "whole":
        front, encoder, adapters = whisper.LogMel(80), whisper.Encoder(80, 1500, 16, 2, 1), {}
    else:
        numbers = w2v_bert.Config(width=16, heads=2, layers=2, hidden=32, kernel=5, chunk=16, left_chunks=2,
                                  adaptor_layers=1, adaptor_stride=4, adaptor_kernel=4, normalize=False)  # fmt: skip
        front, encoder = Fbank(80, normalize=False), w2v_bert.encoder(numbers)
        made = w2v_bert.adaptor(numbers)
        assert made is not None
        adapters = {"speech": made}
    parts = {"front": {"speech": front}, "encoders": {"speech": encoder}, "adapters": adapters}
    model = Model(**parts, decoder=decoder(16)).eval()  # type: ignore[arg-type]
    model.tokenizer = Letters()
    return model


@pytest.fixture(scope="module", params=["whole", "causal"])
def model(request: pytest.FixtureRequest) -> Model:
    return build(request.param)


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness comes and goes, so that windows differ."""
    rng = np.random.default_rng(seed)
    swell = np.repeat(rng.uniform(0.01, 0.3, int(seconds * 10) + 1), RATE // 10)[: int(seconds * RATE)]
    return (rng.standard_normal(len(swell)) * swell).astype(np.float32)


def session(model: Model, **options: Any) -> Stream:
    return Stream(model, **{"policy": "hold-n:2", "language": "en", "vad": None, "step_s": 0.5, **options})


@pytest.fixture(autouse=True)
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """A random model looks anywhere in the sound, back and forth, and writes as long as it may."""
    if "real" not in request.fixturenames:
        monkeypatch.setattr(Listener, "TOKENS_PER_S", FEW)
        monkeypatch.setattr(Listener, "BACK_S", math.inf)
        monkeypatch.setattr(WindowEncoder, "AFTER_S", 2.0)  # it has nothing to gain from more silence


def listen(stream: Stream, wave: np.ndarray, sizes: tuple[int, ...] = (8000,), final: bool = True) -> list[Event]:
    out: list[Event] = []
    at = turn = 0
    while at < len(wave):
        size = sizes[turn % len(sizes)]
        at, turn, chunk = at + size, turn + 1, wave[at : at + size]
        out += stream.push(chunk, final=final and at >= len(wave))
    return out


@pytest.fixture(scope="module")
def alone(model: Model) -> list[list[Event]]:
    """What sessions of the model write of `WAVES`, each by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Listener, "TOKENS_PER_S", FEW)
        patch.setattr(Listener, "BACK_S", math.inf)
        patch.setattr(WindowEncoder, "AFTER_S", 2.0)
        return [listen(session(model), wave) for wave in WAVES]


WAVES = [sound(4.3, seed=i) for i in range(3)]


# -------------------- a session


def test_events_only_append(model: Model):
    stream = session(model)
    wave, seen = sound(6), ""
    for at in range(0, len(wave), 4000):
        for event in stream.push(wave[at : at + 4000], final=at + 4000 >= len(wave)):
            seen += event.text
            assert event.at_s <= stream.source_s
        assert stream.text == seen.strip()
    assert seen
    assert [e.seq for e in stream.events] == list(range(len(stream.events)))
    assert [e.at_s for e in stream.events] == sorted(e.at_s for e in stream.events)
    assert all(0 <= e.start_s <= e.end_s for e in stream.events)
    assert stream.events[-1].final
    assert stream.tentative == ""
    assert len({e.at_s for e in stream.events}) > 3, "text must come while the sound does"


@pytest.mark.parametrize("sizes", [long((100_000,)), long((1, 7999, 12_345)), (333, 16_000, 5)])
def test_how_the_sound_is_cut_into_pushes_changes_nothing(
    model: Model, alone: list[list[Event]], sizes: tuple[int, ...]
):
    assert listen(session(model), WAVES[0], sizes) == alone[0]


def test_what_is_tentative_is_not_written_yet(model: Model):
    stream = session(model, policy=lambda view: 0)
    assert not listen(stream, sound(3), final=False)
    tentative = stream.tentative
    assert tentative
    assert stream.text == ""
    assert stream.lag_s == 3
    end = stream.push(np.zeros(0, np.float32), final=True)
    assert "".join(e.text for e in end).startswith(tentative[:1])
    assert stream.lag_s == 0


def test_two_sessions_at_a_time_give_what_each_gives_alone(model: Model, alone: list[list[Event]]):
    assert alone[0] != alone[1]
    both = [session(model), session(model)]
    found: list[list[Event]] = [[], []]
    for at in range(0, len(WAVES[0]), 3000):
        for i, wave in enumerate(WAVES[:2]):
            found[i] += both[i].push(wave[at : at + 3000], final=at + 3000 >= len(wave))
    assert found == alone[:2]


def test_one_model_serves_threads(model: Model, alone: list[list[Event]]):
    found: dict[int, list[Event]] = {}

    def work(i: int) -> None:
        found[i] = listen(session(model), WAVES[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(WAVES))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert [found[i] for i in range(len(WAVES))] == alone


@pytest.mark.parametrize("at_s", [long(0.0), 0.7, 5.75])
def test_a_saved_session_goes_on_as_if_nothing_had_been(
    model: Model, tmp_path: Path, at_s: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Listener, "TRIM_S", 2.0)  # so that the window moves on before the later cut
    monkeypatch.setattr(Listener, "LONGEST_S", 3.0)
    wave, cut = sound(max(at_s + 2.25, 4.5)), int(at_s * RATE)
    whole = listen(session(model), wave)
    first = session(model)
    before = listen(first, wave[:cut], final=False)
    assert at_s < 5 or first.listener.encoder.begin, "the window has moved on"
    first.save(tmp_path / "session.safetensors")
    listen(first, sound(2, seed=9))  # what it hears later is no part of the file
    kind = "causal" if isinstance(first.listener.encoder, IncrementalEncoder) else "whole"
    again = Stream.restore(build(kind), tmp_path / "session.safetensors", vad=None)
    assert again.text == "".join(e.text for e in before).strip()
    assert before + listen(again, wave[cut:]) == whole
    assert again.events == whole


def test_events_after_those_that_were_forgotten_keep_their_numbers(tmp_path: Path):
    model = build("causal")
    stream = session(model)
    listen(stream, WAVES[0][:48_000], final=False)
    forgotten = len(stream.events)
    stream.forget()
    listen(stream, WAVES[0][48_000:], final=False)
    assert forgotten and [e.seq for e in stream.events[:1]] == [forgotten]
    stream.save(tmp_path / "session")
    assert Stream.restore(model, tmp_path / "session", vad=None).events == stream.events


_ELSEWHERE = """
import sys, json, numpy as np
sys.path.insert(0, sys.argv[1])
from test_stream import FEW, WAVES, Listener, build, listen, math
from mmx.streaming.stream import Stream
Listener.BACK_S, Listener.TOKENS_PER_S = math.inf, FEW
stream = Stream.restore(build(sys.argv[2]), sys.argv[3], vad=None)
listen(stream, WAVES[0][40_000:])
print(json.dumps([[e.text, e.start_s, e.at_s] for e in stream.events]))
"""


@pytest.mark.slow
def test_a_session_moves_to_another_process(tmp_path: Path):
    import json

    model, wave = build("causal"), WAVES[0]
    first = session(model)
    listen(first, wave[:40_000], final=False)
    first.save(tmp_path / "session")
    command = [sys.executable, "-c", _ELSEWHERE, str(Path(__file__).parent), "causal", str(tmp_path / "session")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    expected = [[e.text, e.start_s, e.at_s] for e in listen(session(model), wave)]
    assert json.loads(out) == expected


def test_a_session_that_cannot_be_written_is_told_as_ours(tmp_path: Path):
    stream = session(build("whole"))
    with pytest.raises(OutputError, match="Cannot write"):
        stream.save(tmp_path / "nowhere" / "session.safetensors")
    assert stream.push(sound(1.0)) is not None, "it goes on"


def test_files_that_are_no_session_of_the_model(tmp_path: Path):
    model, path = build("whole"), tmp_path / "session"
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"Stream\.save"):
        Stream.restore(model, path, vad=None)
    session(build("causal")).save(path)
    with pytest.raises(CheckpointError, match="load that model"):
        model.card = type("Card", (), {"name": "other", "alignment_heads": ()})()  # type: ignore[assignment]
        Stream.restore(model, path, vad=None)
    session(model, policy=lambda view: 0).save(path)
    with pytest.raises(InputError, match="pass it to restore"):
        Stream.restore(model, path, vad=None)


@pytest.mark.parametrize(
    ("chunk", "words"),
    [(np.zeros((2, 5), np.float32), "mono"), (np.zeros(5, np.int16), "float")],
)
def test_sound_of_another_kind_is_refused(chunk: np.ndarray, words: str):
    with pytest.raises(InputError, match=words):
        session(build("whole")).push(chunk)


def test_nothing_comes_after_the_end():
    stream = session(build("whole"))
    stream.push(sound(1), final=True)
    with pytest.raises(InputError, match="make a new Stream"):
        stream.push(sound(1))


def test_numbers_that_are_none_do_not_stay():
    wave, broken = sound(4), sound(4)
    wave[20_000:20_100] = 0
    broken[20_000:20_100] = np.nan
    model = build("causal")
    assert listen(session(model), broken) == listen(session(model), wave)


def test_a_listener_that_fell_behind_looks_less_often():
    looks: list[View] = []

    def policy(view: View) -> int:
        looks.append(view)
        return 0

    model = build("whole")
    listen(session(model, policy=policy), sound(4), (64_000,))
    often = len(looks)
    looks.clear()
    listen(session(model, policy=policy, catch_up=True), sound(4), (64_000,))
    assert len(looks) == 1
    assert often >= 7


def test_the_transcript_holds_all_that_was_written():
    stream = session(build("causal"))
    listen(stream, sound(5))
    got = stream.transcript("talk")
    assert got.text == stream.text
    assert got.duration_s == 5
    assert [w.text for w in got.words] == [e.text for e in stream.events if e.text]
    assert "-->" in got.to_srt()


# -------------------- monotonic heads


class Unsure:
    """Heads of which one is sure of every token, the other only of the first `sure`."""

    def __init__(self, sure: int):
        self.sure = sure

    def p_choose(self, decoder: Any, tokens: Any, memory: Seq, heard: Any = None, shared: Any = None) -> torch.Tensor:
        p = torch.ones(1, 2, tokens.shape[1])
        p[:, 1, 2 + self.sure - 1 :] = 0.1  # two tokens of prompt; the last of them is asked for the first word
        return p


def test_emma_writes_what_the_least_sure_head_allows():
    views: list[View] = []

    def policy(view: View) -> int:
        views.append(view)
        return 0

    listen(session(build("whole"), policy=policy, monotonic=Unsure(3)), sound(2), final=False)
    for view in views:
        assert view.p_choose is not None
        assert len(view.p_choose) == len(view.hypothesis)
        assert [p > 0.5 for p in view.p_choose] == [i < 3 for i in range(len(view.hypothesis))]
    with pytest.raises(InputError, match="monotonic attention"):
        listen(session(build("whole"), policy="emma"), sound(2))


# -------------------- encoders


def test_a_streaming_encoder_hears_what_it_hears_offline():
    model, wave = build("causal"), sound(11)
    heard = stream_encoder(model)
    assert isinstance(heard, IncrementalEncoder)
    rng = np.random.default_rng(0)
    at = 0
    while at < len(wave):
        size = int(rng.integers(1, 9000))
        heard.push(wave[at : at + size], final=at + size >= len(wave))
        at += size
    with torch.inference_mode():
        whole = model.memory({"speech": Seq(torch.from_numpy(wave)[None], torch.tensor([len(wave)]), RATE)})
    torch.testing.assert_close(heard.memory().x, whole.x, atol=2e-6, rtol=0)
    assert heard.memory().rate == whole.rate


def test_what_a_streaming_encoder_keeps_does_not_grow():
    heard = IncrementalEncoder(build("causal"))

    def kept() -> int:
        tensors, _ = heard.saved()
        return sum(t.numel() for t in tensors.values())

    heard.push(sound(10), False)
    heard.drop(9 * RATE)
    before = kept()
    for i in range(5):
        heard.push(sound(10, seed=i), False)
        heard.drop(heard.covered - RATE)
    assert abs(kept() - before) <= 16 * 2, "more than a frame or two beside the window"
    assert heard.frames is not None
    assert heard.frames.x.untyped_storage().nbytes() == heard.frames.x.numel() * 4


def test_what_is_dropped_is_forgotten_and_the_rest_is_not():
    for kind in (WindowEncoder, IncrementalEncoder):
        heard = kind(build("whole" if kind is WindowEncoder else "causal"))
        heard.push(sound(4), False)
        covered = heard.covered
        heard.drop(2 * RATE)
        assert heard.covered == covered
        assert 0 <= 2 * RATE - heard.begin < 4 * 320, "to the frame"
        heard.drop(RATE)  # nothing comes back
        assert heard.begin > RATE


# -------------------- greedy text


def test_a_draft_changes_the_cost_and_not_the_text():
    model = build("whole")
    memory = Seq(torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([9]), 50.0)
    how = SearchOptions(beam_size=1, max_tokens=24)
    best = search(model.decoder, memory, torch.tensor([[0, 2]]), EOT, how).rows[0][0]
    plain = continue_text(model.decoder, memory, [0, 2], [], EOT, 24)
    assert tuple(plain.tokens) == best.tokens
    assert len(set(plain.tokens)) >= 5
    assert sum(plain.scores) == pytest.approx(best.log_prob, abs=1e-3) or plain.ended
    rng = np.random.default_rng(0)
    for cut in range(0, 26, 3):
        wrong = rng.integers(3, VOCAB, 5).tolist()
        for draft in (plain.tokens[:cut], [*plain.tokens[:cut], *wrong], [*plain.tokens, *wrong]):
            found = continue_text(model.decoder, memory, [0, 2], draft, EOT, 24)
            assert found.tokens == plain.tokens
            assert found.ended == plain.ended
            assert found.scores == pytest.approx(plain.scores, abs=1e-5)


# -------------------- silence


def test_silence_costs_nothing_and_says_nothing(monkeypatch: pytest.MonkeyPatch):
    model = build("whole")
    monkeypatch.setattr(model.encoders["speech"], "forward", lambda *_: pytest.fail("silence was encoded"))
    stream = session(model, vad=load_vad())
    noise = np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32) * 1e-4
    assert listen(stream, noise) == []
    assert stream.listener.encoder.covered - stream.listener.encoder.begin < RATE
    assert stream.lag_s == 0


class Detector:
    """Voice activity as told: one probability for each frame."""

    def __init__(self, probabilities: list[float]):
        self.probabilities = probabilities

    def init_state(self, batch: int) -> State:
        return {}

    def forward(self, x: Seq, state: State) -> Seq:
        n = int(x.lengths[0]) // FRAME
        now, self.probabilities = self.probabilities[:n], self.probabilities[n:]
        return Seq(torch.tensor([now]), torch.tensor([n]), 31.25)


def test_speech_is_known_by_its_spans():
    voice = SpeechActivity(Detector([0, 0, 1, 1, 0.4, 0, 1, 0, 0, 1]))
    for frames in (4, 3, 3):
        voice.push(np.zeros(frames * FRAME, np.float32))
    assert [[a // FRAME, b // FRAME] for a, b in voice.spans] == [[2, 5], [6, 7], [9, 10]]
    assert [voice.onset(n * FRAME) // FRAME for n in (0, 3, 5, 7, 10)] == [2, 3, 6, 9, 10]
    assert [round(voice.speech_within(n * FRAME) * RATE / FRAME) for n in (0, 3, 7, 10)] == [5, 4, 1, 0]
    pauses = {(0, 0.06): 2, (2, 0.06): 9, (2, 0.03): 6, (9, 0.0): 10}  # a frame has 0.032 s
    assert {(n, s): voice.after_pause(n * FRAME, s) // FRAME for n, s in pauses} == pauses
    voice.forget(7 * FRAME)
    assert voice.spans == [[9 * FRAME, 10 * FRAME]]
    voice.forget(20 * FRAME)
    assert voice.speech_until == 10 * FRAME


def test_a_flicker_of_the_detector_hides_no_speech(monkeypatch: pytest.MonkeyPatch):
    model = build("whole")
    begins = []
    monkeypatch.setattr(Listener, "_look", lambda self, *_: begins.append(self.encoder.begin / RATE) or [])
    # In one push of two seconds: speech from 0.5 s on, and after a moment without from 1.5 s on.
    stream = session(model, vad=Detector([float(16 <= n < 40 or n >= 48) for n in range(62)]), step_s=2.0)
    stream.push(np.zeros(2 * RATE, np.float32))
    assert begins == [pytest.approx(16 * FRAME / RATE - Listener.PAD_S, abs=1e-3)]


@pytest.mark.parametrize(
    ("written", "source_s", "room"),
    [(0, 2.0, 8 + 64), (50, 2.0, 8 + 64 - 50), (200, 30.0, 300 - 2 - 200 - 2), (298, 30.0, 0)],
)
def test_a_text_has_room_for_29_tokens_a_second_in_its_context(
    monkeypatch: pytest.MonkeyPatch, written: int, source_s: float, room: int
):
    monkeypatch.setattr(Listener, "TOKENS_PER_S", MOST)
    listener = session(build("whole")).listener
    asked: list[int] = []

    def told(decoder: Any, memory: Any, prefix: Any, draft: Any, eot: int, most: int, *_: Any) -> Continuation:
        asked.append(most)
        return Continuation([], [], True)

    monkeypatch.setattr("mmx.streaming.listener.continue_text", told)
    monkeypatch.setattr("mmx.streaming.listener.has_loop", lambda tokens: False)
    listener.committed = [4] * written
    listener._continue(None, {}, [0, 2], source_s)  # type: ignore[arg-type]
    assert asked == [room]  # of a decoder of 300 positions


def test_speech_that_a_decoder_leaves_out_at_the_end_is_found():
    listener = session(build("whole"), vad=Detector([])).listener
    pad, said = round(Listener.PAD_S * RATE), [4]  # a word

    def left(finished: bool = False) -> Any:
        found = listener._passed_over(0, True, finished)
        return None if found is None else found[1]

    listener.voice.heard, listener.voice.spans = 6 * RATE, [[0, 2 * RATE], [3 * RATE, 5 * RATE]]
    listener.committed, listener.marks = said, [_Mark(1, 2.0, False)]
    listener.looks = [AttendedWord(" B", 1, 3.2, 3.2)]
    assert left() is None, "a word is to be written"
    listener.looks = [AttendedWord(".", 1, 2.0, 2.0, mark=True)]
    assert left() == 3 * RATE - pad, "speech after a pause"
    assert listener._passed_over(0, False, False) is None, "the decoder would go on"
    listener.prompter.task, listener.wrote = "translate", 4 * RATE
    assert left() is None, "heard before the last word of a translation was written"
    listener.wrote = 2 * RATE
    assert left() == 3 * RATE - pad
    listener.prompter.task, listener.voice.spans = "transcribe", [[0, 5 * RATE]]
    assert [left(finished) for finished in (False, True)] == [None, 2 * RATE]
    listener.committed, listener.marks, listener.context = [], [], said
    assert [left(finished) for finished in (False, True)] == [None, listener.encoder.begin]
    listener._begin_at(listener.encoder.begin)
    assert listener.context == [] and left(True) is None, "nothing is left to try"


def test_what_is_not_credible_is_neither_written_nor_tentative(monkeypatch: pytest.MonkeyPatch):
    model = build("whole")
    whole = listen(session(model), sound(4))
    assert len(whole) > 4
    monkeypatch.setattr("mmx.streaming.listener.onward", lambda *_: 0)
    monkeypatch.setattr("mmx.streaming.listener.recurs", lambda *_: False)
    stream = session(model)
    assert listen(stream, sound(4), final=False) == [] and stream.tentative == ""
    assert listen(session(model), sound(4)), "at the end nothing can be waited for: what is new is written"
    monkeypatch.setattr("mmx.streaming.listener.recurs", lambda *_: True)
    assert not [e for e in listen(session(model), sound(4)) if e.text], "... and what was said before is not"


def test_a_window_without_stops_is_cut_at_a_pause():
    listener = session(build("whole"), vad=Detector([])).listener
    listener.encoder.push(np.zeros(9 * RATE, np.float32), False)
    listener.voice.heard, listener.voice.spans = 9 * RATE, [[0, 3 * RATE], [4 * RATE, 6 * RATE], [7 * RATE, 9 * RATE]]
    listener.committed, listener.context = [4, 8, 12, 16], [20]
    listener.marks = [_Mark(1, 2.0, False), _Mark(2, 3.3, False), _Mark(3, 5.0, False), _Mark(4, 8.0, False)]
    listener._trim()
    assert listener.committed == [12, 16] and listener.context == [] and listener.encoder.begin == round(3.3 * RATE)


# -------------------- the default model on real sound


@pytest.fixture(scope="module")
def real(whisper_base: mmx.Model) -> mmx.Model:
    return whisper_base


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return soundfile.read(ROOT / "demos" / "dashwood.flac", dtype="float32")[0]


# "mr" as the model writes it, for the normalization that is there without Whisper's.
TEXT = (ROOT / "demos" / "dashwood.txt").read_text("utf-8").replace("mister", "mr")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["alignatt", pytest.param("local-agreement", marks=pytest.mark.long)])
def test_word_error_rate_and_lag_of_the_shipped_recording(real: mmx.Model, wave: np.ndarray, policy: str):
    stream = Stream(real, policy=policy)
    pause = np.zeros(8 * RATE, np.float32)
    listen(stream, np.concatenate([pause, wave, pause]))
    assert word_error_rate(TEXT, stream.text) < 0.05
    assert stream.transcript().language == "en"
    words = [e for e in stream.events if e.text]
    assert all(7.7 < e.start_s <= e.end_s < 8.3 + len(wave) / RATE for e in words), "on the clock of the session"
    assert float(np.median([e.at_s - e.end_s for e in words])) < 3
    assert sum(e.final for e in stream.events) >= 4
    assert not any(e.final and e.text.strip() == "Mr." for e in stream.events)


@pytest.mark.slow
@pytest.mark.parametrize("pause_s", [0.8, 1.8])
def test_what_is_said_again_is_written_again(real: mmx.Model, pause_s: float):
    sentence = sentences()[TEXT.split("\n").index("he might even have been made amiable himself")]
    pause = np.zeros(round(pause_s * RATE), np.float32)
    stream = Stream(real, language="en")
    listen(stream, np.concatenate([x for _ in range(4) for x in (sentence, pause)]))
    assert stream.text.count("made amiable himself.") == 4, stream.text
