"""A live session speaks what it commits: at its time, without hearing itself, and whatever fails it goes on."""

import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from test_live import RATE, Log, Scribe, noise, words

import mmx
from mmx.errors import InputError, MediaError, OutputError
from mmx.files import SAMPLE
from mmx.media.audio import read_audio
from mmx.streaming.client import session
from mmx.streaming.client.microphone import Captured, FileSource
from mmx.streaming.client.options import LiveOptions
from mmx.streaming.client.session import Session, run
from mmx.streaming.client.speech import (
    AFTER_S,
    BEFORE_S,
    FASTEST,
    SourceClock,
    Speaking,
    SpeechFile,
    SpeechWriter,
    Spoken,
)
from mmx.streaming.client.terminal import JsonDisplay
from mmx.tasks.dub import PAUSE_S
from mmx.tasks.events import Event
from mmx.tasks.result import SpokenSegment
from mmx.weights.options import LoadOptions

LOUD = np.full(RATE // 2, 0.25, np.float32)


def halves(text: str, language: str, speed: float) -> Iterator[SpokenSegment]:
    """Half a second for each text, in two blocks."""
    yield SpokenSegment(0.0, LOUD[: RATE // 4])
    yield SpokenSegment(0.0, LOUD[RATE // 4 :])


class Ear:
    """An output that remembers what it played; `wait` for a number of blocks."""

    def __init__(self) -> None:
        self.blocks: list[SpokenSegment] = []
        self.closed: list[bool] = []
        self.busy = False
        self._changed = threading.Condition()

    def play(self, block: SpokenSegment) -> None:
        with self._changed:
            self.blocks.append(block)
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.blocks) >= count, 20)

    def close(self, abort: bool = False) -> None:
        self.closed.append(abort)


def sentence(text: str = " He came.", end_s: float = 3.0, at_s: float = 3.5) -> list[Event]:
    return [Event(0, text, end_s - 1, end_s, at_s, True, "en")]


def speaking(utter: Any = halves, now: Callable[[], float] | None = None) -> tuple[Speaking, Ear]:
    ear = Ear()
    return Speaking(utter, ear, now), ear


# -------------------- at its time


def test_each_sentence_of_a_file_is_spoken_once_at_its_time(tmp_path: Path):
    path = tmp_path / "said.wav"
    said: list[tuple[str, str, float]] = []

    def utter(*asked: Any) -> Iterator[SpokenSegment]:
        said.append(asked)
        return halves(*asked)

    speaker = Speaking(utter, SpeechFile(SpeechWriter(path, RATE), RATE))
    Session(FileSource(noise(5.0)), Scribe(), Log(), speaking=speaker).run()  # type: ignore[arg-type]
    assert said == [("w0 w1 w2 w3.", "en", 1.0), ("w4 w5 w6 w7.", "en", 1.0), ("w8 w9", "en", 1.0)]
    track, rate = sf.read(path, dtype="float32")
    assert rate == RATE and np.abs(track[: 2 * RATE]).max() == 0, "not before it was heard"
    assert (track > 0.2).sum() == 3 * RATE // 2


def test_the_first_audio_of_a_sentence_is_timed_and_the_blocks_follow_each_other():
    speaker, ear = speaking(now=lambda: 5.0)
    speaker.say(sentence(end_s=3.0))
    speaker.say(sentence(" It was late.", end_s=4.5))
    speaker.close()
    assert [b.start_s for b in ear.blocks] == pytest.approx([5.0, 5.25, 5.5, 5.75 + PAUSE_S])
    assert len(ear.blocks[2].samples) == RATE // 4 + round(PAUSE_S * RATE), "a pause between two sentences"
    told = list(speaker.told())
    assert told == [Spoken("He came.", 5.0, 2.0), Spoken("It was late.", pytest.approx(5.65), pytest.approx(1.15))]
    assert speaker.summary() == (
        "2 sentences spoken, the first audio 2.0 s after the sentence's end (median; at most 2.0 s)"
    )
    assert ear.closed == [False]


def test_who_is_behind_speaks_faster():
    speeds: list[float] = []

    def long(text: str, language: str, speed: float) -> Iterator[SpokenSegment]:
        speeds.append(speed)
        yield SpokenSegment(0.0, np.ones(5 * RATE, np.float32))

    speaker, _ = speaking(long, now=lambda: 1.0)
    for _ in range(4):
        speaker.say(sentence())
    speaker.close()
    assert speeds[0] == 1.0 and speeds[1] == pytest.approx(1.15) and speeds[2:] == [FASTEST, FASTEST]


def test_the_clock_of_the_source_is_read_off_audio_that_comes_late():
    now = [100.0]
    clock = SourceClock(lambda: now[0])
    for arrived, end_s in ((100.35, 0.1), (100.4, 0.2), (100.55, 0.3)):  # the second came without delay
        now[0] = arrived
        clock.heard(end_s)
    now[0] = 101.2
    assert clock() == pytest.approx(1.2)


# -------------------- it does not hear itself


class Room:
    """A microphone in a room with a loudspeaker: half a second after the session began somebody speaks for half a
    second, over and over, and what `ear` plays is heard a tenth of a second later."""

    name, live = "room", True

    def __init__(self, ear: Ear, seconds: float):
        self.ear, self.seconds, self.now_s = ear, seconds, 0.0
        t = np.arange(round(seconds * RATE))
        self.speech = np.where(t // (RATE // 2) % 2 == 1, noise(seconds), 0).astype(np.float32)

    def read(self) -> Captured:
        start = round(self.now_s * RATE)
        self.now_s = round(self.now_s + 0.1, 6)
        heard = self.speech[start : round(self.now_s * RATE)].copy()
        for block in list(self.ear.blocks):
            at = round((block.start_s + 0.1) * RATE) - start
            for i in range(max(at, 0), min(at + len(block.samples), len(heard))):
                heard[i] += block.samples[i - at]
        return Captured(heard, start / RATE, self.now_s >= self.seconds)

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def notes(self) -> list[str]:
        return []

    pending_s = 0.0


@pytest.mark.parametrize("mutes", [True, False])
def test_what_it_speaks_is_not_heard_and_what_others_say_is(mutes: bool):
    ear = Ear()
    room = Room(ear, 8.0)
    speaker = Speaking(halves, ear, lambda: room.now_s)
    real, said = speaker.say, [0]

    def say(words: Any) -> None:  # the room's time stands still meanwhile
        real(words)
        said[0] += 2
        ear.wait(said[0])

    speaker.say = say  # type: ignore[method-assign]
    scribe, view = Scribe(), Log()
    Session(room, scribe, view, speaking=speaker, mutes=mutes).run()  # type: ignore[arg-type]
    heard = np.concatenate(scribe.heard)
    changed = np.flatnonzero(heard != room.speech)
    spans = [(b.start_s - BEFORE_S, b.start_s + 0.25 + AFTER_S) for b in ear.blocks]
    if not mutes:
        assert (heard - room.speech).max() > 0.2, "the echo is there"
        return
    assert len(heard) == len(room.speech), "silence stands for it: times stay true"
    assert not heard[changed].any() and len(changed), "what is changed is silence"
    outside = [i / RATE for i in changed[:: RATE // 100] if not any(a - 0.01 <= i / RATE <= b for a, b in spans)]
    assert not outside, "only what was said meanwhile is lost"
    assert speaker.muted_s > 0.5 and "were not listened to" in view.notes[-1]
    assert [s.text for s in view.speech] == [
        words(4).strip(),
        words(8, 4).strip(),
        words(12, 8).strip(),
        words(16, 12).strip(),
    ]


def test_a_loudspeaker_that_plays_longer_than_it_should_is_not_listened_to_either():
    speaker, ear = speaking(now=lambda: 9.9)
    x = np.ones(RATE // 10, np.float32)
    assert speaker.without_echo(x, 9.8) is x, "nothing is copied where nothing is muted"
    ear.busy = True
    assert not speaker.without_echo(x, 9.8).any()
    ear.busy = False
    assert not speaker.without_echo(x, 9.9 + AFTER_S - 0.1).any() and speaker.without_echo(x, 11.0).all()
    speaker.close()


# -------------------- what fails


def test_a_sentence_that_cannot_be_spoken_is_told_and_the_others_are():
    def utter(text: str, language: str, speed: float) -> Iterator[SpokenSegment]:
        if "late" in text:
            raise InputError("expected letters that are spoken")
        yield from halves(text, language, speed)

    speaker, ear = speaking(utter, now=lambda: 1.0)
    for text in (" He came.", " It was late.", " He went."):
        speaker.say(sentence(text))
    speaker.close()
    assert len(ear.blocks) == 4
    assert [t for t in speaker.told() if isinstance(t, str)] == [
        "not spoken: 'It was late.': expected letters that are spoken"
    ]


def test_a_driver_that_fails_is_told_at_the_end_and_holds_up_nobody():
    speaker, ear = speaking(now=lambda: 1.0)

    def play(block: SpokenSegment) -> None:
        raise RuntimeError("of the driver")

    ear.play = play  # type: ignore[method-assign]
    speaker.say(sentence())
    speaker.say(sentence())
    with pytest.raises(RuntimeError, match="of the driver"):
        speaker.close()
    assert ear.closed == [True]


def test_ctrl_c_does_not_wait_for_what_is_unspoken():
    hold = threading.Event()

    def endless(text: str, language: str, speed: float) -> Iterator[SpokenSegment]:
        hold.wait(20)
        yield from halves(text, language, speed)

    speaker, ear = speaking(endless, now=lambda: 1.0)
    speaker.say(sentence())

    def join(timeout: float) -> None:
        raise KeyboardInterrupt

    thread = speaker._thread
    assert thread is not None
    real, thread.join = thread.join, join  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        speaker.close()
    assert ear.closed == [True]
    hold.set()
    real(20)


def test_a_full_disk_is_told_and_the_text_goes_on(tmp_path: Path):
    class Full:
        def write(self, samples: Any) -> None:
            raise OutputError("recording to said.wav stopped: the disk is full; what it has is kept")

        def close(self) -> None: ...

    view = Log()
    session = Session(FileSource(noise(5.0)), Scribe(), view, speaking=Speaking(halves, SpeechFile(Full(), RATE)))  # type: ignore[arg-type]
    assert session.run().text == words(10).strip()
    assert "the disk is full" in view.notes[0]


# -------------------- options and views


def test_headphones_are_for_what_is_played():
    with pytest.raises(InputError, match="expected --speak play with --headphones"):
        LiveOptions(to="en", speak="out.wav", headphones=True)
    assert LiveOptions(to="en", speak="play", headphones=True).headphones
    with pytest.raises(InputError, match="expected --speak with --voice"):
        LiveOptions(to="en", voice="heart")


@pytest.mark.parametrize("ending", ["flac", "mp3", "opus"])
def test_speech_is_kept_in_the_format_of_its_file(tmp_path: Path, ending: str):
    path = tmp_path / "new" / f"said.{ending}"
    speaker = Speaking(halves, SpeechFile(SpeechWriter(path, RATE), RATE))
    speaker.say(sentence(at_s=1.0))
    speaker.close()
    heard = np.abs(read_audio(path))
    assert len(heard) / RATE == pytest.approx(1.5, abs=0.15)
    assert heard[: round(0.9 * RATE)].max() < 0.02 and heard[RATE:].max() > 0.1
    with pytest.raises(OutputError, match=ending):
        SpeechWriter(path, RATE)


@pytest.mark.slow
def test_a_recording_in_real_time_is_spoken_by_the_default_voice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The clock of the session is the test's: each read of it is later by what the source waits for."""
    pytest.importorskip("hibari", reason='needs the extra voices: pip install "mmx[voices]"')
    now = [0.0]

    def paced(media: Any, realtime: bool) -> FileSource:
        return FileSource(media, realtime, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))

    monkeypatch.setattr(session, "FileSource", paced)
    monkeypatch.setattr(session, "SourceClock", lambda: SourceClock(lambda: now[0]))
    out = tmp_path / "said.wav"
    run(LiveOptions(file=str(SAMPLE), realtime=True, to="en", speak=str(out), step_s=2.0), LoadOptions())
    assert "sentences spoken, the first audio" in capsys.readouterr().err
    track, rate = sf.read(out, dtype="float32")
    assert rate == 24_000 and np.abs(track[:rate]).max() == 0 and np.abs(track).max() > 0.1
    assert mmx.detect(out).found, "what it says is marked as synthetic, sentence by sentence"


def test_json_tells_when_a_sentence_is_heard():
    out = io.StringIO()
    JsonDisplay(out).spoken(Spoken("He came.", 5.01234, 2.0))
    assert json.loads(out.getvalue()) == {"type": "speech", "text": "He came.", "start_s": 5.012, "lag_s": 2.0}


def test_an_unplugged_loudspeaker_is_told(monkeypatch: pytest.MonkeyPatch):
    speaker, ear = speaking(now=lambda: 1.0)

    def close(abort: bool = False) -> None:
        raise MediaError("'HDMI' plays no more")

    ear.close = close  # type: ignore[method-assign]
    with pytest.raises(MediaError, match="plays no more"):
        speaker.close()
