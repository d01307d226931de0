"""Live sessions from sound to saved text, with a stand-in for the model; one with the real one at the end."""

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmx.cli import app as cli
from mmx.errors import InputError, MediaError, OutputError
from mmx.streaming.client import session as live
from mmx.streaming.client.microphone import Captured, FileSource
from mmx.streaming.client.options import LiveOptions
from mmx.streaming.client.session import Recorder, Saver, Session, run
from mmx.streaming.client.speech import Speaking, Spoken
from mmx.streaming.client.terminal import JsonDisplay, PlainDisplay, Status, TerminalDisplay
from mmx.streaming.lag import LagControl
from mmx.tasks.cascade import Translator
from mmx.tasks.events import Event
from mmx.tasks.result import Segment, Transcript, Word
from mmx.weights.options import LoadOptions

sf = pytest.importorskip("soundfile")
srt = pytest.importorskip("srt")

ROOT = Path(__file__).parents[1]
RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE)).astype(np.float32)


class Scribe:
    """Stands in for `Stream`: at each look it writes a numbered word for each half second; every fourth ends a
    sentence. The last half second before its end is only tentative."""

    def __init__(self, step_s: float = 1.0, look: Callable[[], None] = lambda: None, language: str = "en"):
        self.step, self.look = round(step_s * RATE), look
        self.heard: list[np.ndarray] = []
        self.events: list[Event] = []
        self.looks: list[float] = []
        self.listener = SimpleNamespace(language=language)
        self.waiting = self.total = 0
        self.ended = False

    def push(self, chunk: np.ndarray, final: bool = False) -> list[Event]:
        assert not self.ended
        self.ended = final
        self.heard.append(chunk)
        self.total += len(chunk)
        self.waiting += len(chunk)
        first = len(self.events)
        if self.waiting >= self.step or final:
            self.waiting = 0 if final else self.waiting % self.step
            self.looks.append(self.source_s)
            self.look()
            due = int(2 * self.source_s) - (0 if final else 1)
            while len(self.events) < due:
                n = len(self.events)
                ends = n % 4 == 3
                self.events.append(
                    Event(n, f" w{n}" + "." * ends, n / 2, n / 2 + 0.4, self.source_s, ends, self.listener.language)
                )
        return self.events[first:]

    @property
    def source_s(self) -> float:
        return self.total / RATE

    @property
    def lag_s(self) -> float:
        return self.source_s - len(self.events) / 2

    tentative = " perhaps"

    def transcript(self, source: str) -> Transcript:
        words = [Word(e.text, e.start_s, e.end_s, 1.0) for e in self.events]
        groups = [tuple(words[i : i + 4]) for i in range(0, len(words), 4)]
        segments = tuple(
            Segment(g[0].start_s, g[-1].end_s, "".join(w.text for w in g), self.listener.language, words=g)
            for g in groups
        )
        return Transcript(source, segments, "en", 1.0, self.source_s, "transcribe", "scribe")


class Log:
    """A view that remembers."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.translations: list[Event] = []
        self.speech: list[Spoken] = []
        self.statuses: list[Status] = []
        self.notes: list[str] = []
        self.closed = False
        self.spoken = self.speech.append
        self.written, self.translated = self.events.extend, self.translations.extend
        self.status, self.note = self.statuses.append, self.notes.append

    def close(self) -> None:
        self.closed = True


def words(n: int, first: int = 0) -> str:
    return "".join(f" w{i}" + "." * (i % 4 == 3) for i in range(first, n))


# -------------------- keeping up


def test_who_falls_behind_looks_less_often_and_says_so():
    control = LagControl(1.0)
    assert control.update(0.5, 0.9) == "" and control.step_s == 1.0
    assert control.update(1.5, 2.4) == "1.5 s behind: now looking every 2 s"
    assert [control.update(9.0, 9.0) and control.step_s for _ in range(3)] == [4.0, 5.0, ""]
    assert control.step_s == 5.0


def test_who_has_time_to_spare_looks_more_often_again():
    control = LagControl(1.0)
    control.update(1.5, 2.4)
    assert [control.update(0.0, 0.3) for _ in range(4)] == [""] * 4
    assert control.update(0.0, 0.3) == "caught up: looking every 1 s again"
    assert all(control.update(0.0, 0.0) == "" for _ in range(20)) and control.step_s == 1.0


def test_a_look_that_takes_most_of_a_step_leaves_no_time_to_spare():
    control = LagControl(1.0)
    control.update(1.5, 2.4)
    assert all(control.update(0.0, 0.9) == "" for _ in range(20)) and control.step_s == 2.0


def test_a_step_longer_than_the_longest_is_kept():
    control = LagControl(8.0)
    assert control.update(20.0, 9.0) == "" and control.step_s == 8.0


def paced(seconds: float, cost_s: Callable[[], float]) -> tuple[Session, Any, Any]:
    """A session in real time by a clock of its own, each look costing so much of it."""
    clock = SimpleNamespace(now=0.0)

    def spend(s: float) -> None:
        clock.now += s

    source = FileSource(noise(seconds), realtime=True, clock=lambda: clock.now, sleep=spend)
    scribe, view = Scribe(look=lambda: spend(cost_s())), Log()
    return Session(source, scribe, view, clock=lambda: clock.now), scribe, view  # type: ignore[arg-type]


def test_a_slow_model_keeps_up_by_larger_steps():
    session, scribe, view = paced(60.0, lambda: 1.8)
    session.run()
    assert view.notes == ["1.8 s behind: now looking every 2 s"]
    assert scribe.looks[0] == 1.0 and np.diff(scribe.looks)[1:-1] == pytest.approx(2.0, abs=0.11)
    late = [s for s in view.statuses if s.heard_s > 30]
    assert max(s.lag_s for s in late) < 5 and session.stream.source_s == 60
    np.testing.assert_array_equal(np.concatenate(scribe.heard), noise(60.0))


def test_a_model_that_becomes_fast_again_looks_as_often_as_asked():
    costs = iter([2.5] * 4 + [0.01] * 1000)
    session, scribe, view = paced(60.0, lambda: next(costs))
    session.run()
    assert "behind" in view.notes[0] and view.notes[-1] == "caught up: looking every 1 s again"
    assert np.diff(scribe.looks)[-15:-1] == pytest.approx(1.0, abs=0.11)


def test_a_file_that_is_not_paced_cannot_be_behind():
    scribe, view = Scribe(), Log()
    session = Session(FileSource(noise(5.0)), scribe, view)  # type: ignore[arg-type]
    session.control.update(9.0, 9.0)  # whatever it thinks
    session.run()
    assert scribe.step == RATE and view.notes == []


# -------------------- a session


def listen(seconds: float = 5.0, view: Any = None, **parts: Any) -> tuple[Session, Any]:
    view = view or Log()
    return Session(FileSource(noise(seconds)), Scribe(), view, **parts), view  # type: ignore[arg-type]


def test_all_that_is_heard_is_shown_and_returned():
    session, view = listen()
    transcript = session.run()
    assert "".join(e.text for e in view.events) == words(10)
    assert transcript.text == words(10).strip() and view.closed
    np.testing.assert_array_equal(np.concatenate(session.stream.heard), noise(5.0))  # type: ignore[attr-defined]
    last = view.statuses[-1]
    assert last.heard_s == 5.0 and last.level_db == pytest.approx(10 * np.log10(1 / 12), abs=0.3)
    assert last.real_time_factor > 0


def test_it_is_saved_in_the_format_of_each_ending(tmp_path: Path):
    savers = [Saver(tmp_path / "new" / n) for n in ("talk.srt", "talk.JSON", "other.txt")]
    listen(savers=savers)[0].run()
    cues = list(srt.parse((tmp_path / "new" / "talk.srt").read_text("utf-8")))
    assert " ".join(c.content.replace("\n", " ") for c in cues) == words(10).strip()
    assert cues[0].start.total_seconds() == 0 and cues[-1].end.total_seconds() == pytest.approx(4.9, abs=0.01)
    assert (tmp_path / "new" / "other.txt").read_text() == "w0 w1 w2 w3.\nw4 w5 w6 w7.\nw8 w9\n"
    assert not list((tmp_path / "new").glob(".mmx*"))


def test_it_is_saved_while_it_goes_on(tmp_path: Path):
    path = tmp_path / "talk.txt"
    session, _ = listen(60.0, savers=[Saver(path)])
    seen: list[str] = []
    real = session.stream.push

    def push(chunk: Any, final: bool = False) -> Any:
        if path.exists():
            seen.append(path.read_text())
        return real(chunk, final)

    session.stream.push = push  # type: ignore[method-assign]
    session.run()
    assert "w30" in seen[-1]


@pytest.mark.parametrize("name", ["talk", "talk.doc"])
def test_a_format_that_is_not_written_is_refused_before(tmp_path: Path, name: str):
    with pytest.raises(InputError):
        Saver(tmp_path / name)


@pytest.mark.parametrize("ending", ["wav", "flac"])
def test_the_sound_is_recorded(tmp_path: Path, ending: str):
    path = tmp_path / f"kept.{ending}"
    listen(3.21, recorder=Recorder(path))[0].run()
    got, rate = sf.read(path, dtype="float32")
    assert rate == RATE
    np.testing.assert_allclose(got, noise(3.21), atol=1 / 2**15)


def test_what_is_refused_leaves_no_folder_behind(tmp_path: Path):
    (tmp_path / "kept.wav").write_bytes(b"precious")
    job = LiveOptions(file=str(tmp_path / "kept.wav"), record=tmp_path / "kept.wav", save=(tmp_path / "new" / "a.srt",))
    with pytest.raises(InputError, match="expected a new file"):
        run(job, LoadOptions())
    assert not (tmp_path / "new").exists()


def test_what_is_said_overwrites_nothing(tmp_path: Path):
    kept, new = tmp_path / "kept.wav", tmp_path / "new.wav"
    kept.write_bytes(b"precious")
    (tmp_path / "sub").mkdir()
    again = tmp_path / "sub" / ".." / "new.wav"
    for message, job in {
        "expected a new file": LiveOptions(to="de", speak=str(kept)),
        "expected another file for --speak than for --file": LiveOptions(file=str(new), to="de", speak=str(again)),
        "expected another file for --speak than for --record": LiveOptions(to="de", speak=str(again), record=new),
        "expected another file for --save than for --record": LiveOptions(
            record=tmp_path / "a.wav", save=(tmp_path / "a.wav",)
        ),
        "expected another file for --save than for --file": LiveOptions(file="a.json", save=(Path("./a.json"),)),
    }.items():
        with pytest.raises(InputError, match=message):
            live._check_files(job)
    live._check_files(
        LiveOptions(file=str(kept), to="de", speak=str(new), save=(tmp_path / "a.srt", tmp_path / "a.srt"))
    )
    assert kept.read_bytes() == b"precious"


def test_a_recording_is_never_overwritten(tmp_path: Path):
    path = tmp_path / "kept.wav"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="expected a new file"):
        Recorder(path)
    with pytest.raises(InputError, match=r"\.wav or \.flac"):
        Recorder(tmp_path / "kept.mp3")
    with pytest.raises(OutputError, match="cannot record"):
        Recorder(path / "below.wav")
    assert path.read_bytes() == b"precious"


def test_a_full_disk_ends_the_recording_and_not_the_session(tmp_path: Path):
    recorder = Recorder(tmp_path / "kept.wav")

    def full(samples: Any) -> None:
        raise OSError(28, "No space left on device")

    recorder._file = SimpleNamespace(write=full, close=lambda: None)  # type: ignore[assignment]
    session, view = listen(recorder=recorder)
    assert session.run().text == words(10).strip()
    assert len(view.notes) == 1 and "No space left" in view.notes[0]


# -------------------- ends that come early


class Pressed:
    """A live source that sends this process a signal at one of its reads; stopped, it still has two blocks."""

    name, live, pending_s = "pressed", True, 0.0

    def __init__(self, at: int, number: int = signal.SIGINT):
        self.at, self.number, self.reads, self.left = at, number, 0, -1
        self.closed = False

    def read(self) -> Captured:
        self.reads += 1
        if self.reads == self.at:
            os.kill(os.getpid(), self.number)
        if self.left > 0:
            self.left -= 1
        assert self.reads < 1000, "nobody stopped it"
        return Captured(noise(0.1, self.reads), self.reads / 10, self.left == 0)

    def stop(self) -> None:
        self.left = 2 if self.left < 0 else self.left

    def close(self) -> None:
        self.closed = True

    def notes(self) -> list[str]:
        return []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_nothing_heard_is_lost_when_somebody_ends_it(tmp_path: Path, name: str):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip("not a signal of this system")
    source, scribe, path = Pressed(37, number), Scribe(), tmp_path / "t.txt"
    before = signal.getsignal(number)
    text = Session(source, scribe, Log(), savers=[Saver(path)]).run().text  # type: ignore[arg-type]
    assert source.reads == 39 and source.closed and scribe.ended
    assert text == words(7).strip()  # 3.9 s, to the last half second
    assert path.read_text().split() == text.split()
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_at_once_with_what_was_written(tmp_path: Path):
    path = tmp_path / "t.txt"
    source, presses = Pressed(25), iter([False] * 2 + [True] * 9)  # the first press is the source's

    def look() -> None:
        if next(presses):  # a look that would take long
            os.kill(os.getpid(), signal.SIGINT)

    session = Session(source, Scribe(look=look), Log(), savers=[Saver(path)])  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        session.run()
    assert path.read_text().split() == words(3).split() and source.closed


def test_a_source_that_breaks_off_loses_nothing(tmp_path: Path):
    path = tmp_path / "t.txt"
    source = Pressed(999)
    real = source.read

    def read() -> Captured:
        if source.reads == 26:
            raise MediaError("'USB' gives no more audio: was it unplugged?")
        return real()

    source.read = read  # type: ignore[method-assign]
    session = Session(source, Scribe(), Log(), savers=[Saver(path)])  # type: ignore[arg-type]
    with pytest.raises(MediaError, match="unplugged"):
        session.run()
    assert path.read_text().split() == words(5).split() and source.closed


@pytest.mark.parametrize("error", [MediaError("it plays no more"), RuntimeError("of the driver"), KeyboardInterrupt()])
def test_a_loudspeaker_that_fails_loses_no_text(tmp_path: Path, error: BaseException):
    path = tmp_path / "t.txt"

    def close(abort: bool) -> None:
        raise error

    output = SimpleNamespace(busy=False, play=lambda block: None, close=close)
    speaking = Speaking(lambda *of: iter(()), output)
    session, view = listen(savers=[Saver(path)], speaking=speaking)
    with pytest.raises(type(error)):
        session.run()
    assert path.read_text().split() == words(10).split() and view.closed


def test_a_saving_on_the_way_that_fails_is_told_and_the_last_must_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "t.txt"
    real, full = Transcript.write, ["some", "day"]

    def write(self: Transcript, *where: Any, **how: Any) -> Any:
        if full:
            full.pop()
            raise OutputError("Cannot write: the disk is full")
        return real(self, *where, **how)

    monkeypatch.setattr(Transcript, "write", write)
    session, view = listen(60.0, savers=[Saver(path)])
    assert session.run().text == words(120).strip() and path.read_text().split() == words(120).split()
    assert view.notes == ["not saved yet: Cannot write: the disk is full"] * 2
    full += ["always"] * 100
    with pytest.raises(OutputError, match="disk is full"):
        listen(60.0, savers=[Saver(path)])[0].run()


# -------------------- translation and voice


@pytest.fixture
def shouting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A text model that shouts; of German it knows nothing."""

    def translate_text(model: Any, texts: list[str], *, src: str, to: str, beam_size: int) -> list[Any]:
        if src == "de":
            raise InputError("expected a language that shouter has, got 'de'")
        segments = [SimpleNamespace(score=-0.1)]
        return [SimpleNamespace(text=t.upper(), segments=segments) for t in texts]

    monkeypatch.setattr("mmx.tasks.cascade.translate_text", translate_text)
    return SimpleNamespace(require_tokenizer=lambda: SimpleNamespace(language=lambda code: code), name="shouter")


def test_sentences_are_translated_as_they_end(shouting: Any, tmp_path: Path):
    path = tmp_path / "t.srt"
    session, view = listen(translator=Translator.of(shouting, "fr"), savers=[Saver(path)])
    transcript = session.run()
    assert [e.text for e in view.translations] == [" W0 W1 W2 W3.", " W4 W5 W6 W7.", " W8 W9"]
    assert [(e.start_s, e.end_s) for e in view.translations] == [(0.0, 1.9), (2.0, 3.9), (4.0, 4.9)]
    assert all(e.final and e.language == "fr" for e in view.translations)
    assert [e.seq for e in view.translations] == [0, 1, 2]
    assert view.translations[0].at_s < 4  # not only at the end
    assert transcript.task == "translate" and transcript.model == "scribe + shouter"
    assert transcript.segments[0].source_text == "w0 w1 w2 w3."
    assert "W8 W9" in path.read_text()


def test_what_cannot_be_translated_stays_and_is_told(shouting: Any):
    view = Log()
    scribe = Scribe(language="de")
    session = Session(FileSource(noise(5.0)), scribe, view, Translator.of(shouting, "fr"))  # type: ignore[arg-type]
    assert session.run().text == words(10).strip()
    assert "not translated: expected a language that shouter has" in view.notes[0]
    assert view.translations[0].language == "de"


# -------------------- views


def test_plain_lines_are_only_appended_to():
    out = io.StringIO()
    session, _ = listen(view=PlainDisplay(out))
    session.run()
    assert out.getvalue() == "w0 w1 w2 w3.\nw4 w5 w6 w7.\nw8 w9\n"


def test_plain_lines_of_a_translation(shouting: Any):
    out = io.StringIO()
    listen(view=PlainDisplay(out, bilingual=True), translator=Translator.of(shouting, "fr"))[0].run()
    assert out.getvalue().splitlines()[:4] == [
        "[en] w0 w1 w2 w3.", "[fr] W0 W1 W2 W3.", "[en] w4 w5 w6 w7.", "[fr] W4 W5 W6 W7.",
    ]  # fmt: skip


def test_json_lines_have_the_fields_of_events(shouting: Any):
    out = io.StringIO()
    listen(view=JsonDisplay(out), translator=Translator.of(shouting, "fr"))[0].run()
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    text = [r for r in rows if r["type"] == "text"]
    assert "".join(r["text"] for r in text) == words(10)
    assert [r["seq"] for r in text] == list(range(10))
    assert set(text[0]) == {"type", *Event.__dataclass_fields__}
    assert next(r["text"] for r in rows if r["type"] == "translation") == " W0 W1 W2 W3."


def terminal(**options: Any) -> tuple[TerminalDisplay, io.StringIO, Callable[[], str]]:
    from rich.console import Console

    out = io.StringIO()
    view = TerminalDisplay("talk.wav → scribe", Console(file=out, width=70, force_terminal=True), **options)

    def shown() -> str:
        console = Console(width=70, record=True, file=io.StringIO())
        console.print(view.render())
        return console.export_text()

    return view, out, shown


def test_the_terminal_shows_what_stays_what_may_change_and_the_gauges():
    view, out, shown = terminal(recording="kept.wav")
    view.status(Status(75.2, 1.25, 0.31, -18.0, 2.0, " sat on", "en"))
    view.written(
        [Event(0, " Hello.", 61.0, 61.5, 62.0, True, "en"), Event(1, " The cat", 62.0, 63.0, 64.0, False, "en")]
    )
    view.translated([Event(0, " Bonjour.", 61.0, 61.5, 62.0, True, "fr")])
    view.note("3.0 s behind: now looking every 2 s")
    now = shown()
    assert "01:02  The cat sat on" in now and "Hello" not in now
    for part in ("01:15", "-18 dB", "lag  1.2 s", "real-time factor 0.31", "look every 2 s", "kept.wav", "Ctrl-C"):
        assert part in now.replace("\n", " "), part
    view.close()
    printed = out.getvalue()
    for part in ("01:01", "Hello.", "Bonjour.", "3.0 s behind", "The cat"):
        assert part in printed, part


def test_a_long_sentence_is_wrapped_below_its_beginning():
    view, _, shown = terminal()
    view.written([Event(i, f" word{i}", i, i + 1, i + 1, False, "en") for i in range(40)])
    view.status(Status(40.0, 0.0, 0.1, -99.0, 1.0, "", "en"))
    lines = shown().splitlines()
    assert lines[0].startswith("00:00  word0 ") and lines[1].startswith("       word")
    assert all(f"word{i}" in shown() for i in range(40))
    view.close()


# -------------------- the command line


def run_cli(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str]:
    code = cli.main(["live", *args])
    return code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--policy", "alignat"], "Did you mean 'alignatt'"),
        (["--language", "germn"], "Did you mean 'german'"),
        (["--realtime"], "expected --file with --realtime"),
        (["--file", "x.wav", "--microphone", "1"], "expected --file or --microphone"),
        (["--file", "x.wav", "--text-model", "nllb"], "expected --to with --text-model"),
        (["--file", "x.wav", "--speak", "play"], "expected --to with --speak"),
        (["--file", "x.wav", "--to", "de", "--speak", "out.m3"], "expected a file for speech that ends in"),
        (["--file", "x.wav", "--save", "talk.doc"], "Unknown format"),
    ],
)
def test_what_cannot_be_is_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
):
    monkeypatch.chdir(tmp_path)
    code, err = run_cli(capsys, *args)
    assert code == 2 and message in err
    assert not list(tmp_path.iterdir())


def test_without_sounddevice_the_remedy_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    for args in ([], ["--list-devices"]):
        code, err = run_cli(capsys, *args)
        assert code == 2 and "pip install 'mmx[live]'" in err
    assert not list(tmp_path.iterdir())


def test_devices_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    devices = [
        {"name": "HDMI", "max_input_channels": 0, "default_samplerate": 48_000.0},
        {"name": "USB Headset", "max_input_channels": 1, "default_samplerate": 44_100.0},
    ]
    fake = SimpleNamespace(
        PortAudioError=RuntimeError, default=SimpleNamespace(device=[1, 0]), query_devices=lambda: devices
    )
    monkeypatch.setitem(sys.modules, "sounddevice", fake)  # type: ignore[arg-type]
    assert cli.main(["live", "--list-devices"]) == 0
    assert capsys.readouterr().out == "*  1  USB Headset  (1 ch, 44.1 kHz)\n"
    del devices[1]
    assert cli.main(["live", "--list-devices"]) == 1
    assert "found no microphone" in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_model_from_a_file_to_subtitles(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    sample = ROOT / "mmx" / "assets" / "sample.flac"
    text, sound = tmp_path / "t.srt", tmp_path / "t.flac"
    code = cli.main(["live", "--file", str(sample), "--save", str(text), "--record", str(sound)])
    got = capsys.readouterr()
    assert code == 0, got.err
    said = "".join(c for c in got.out.lower().replace("-", " ") if c.isalpha() or c.isspace()).split()
    wanted = ["he", "was", "not", "an", "ill", "disposed", "young", "man"]
    assert len(said) == len(wanted) and sum(a != b for a, b in zip(said, wanted, strict=True)) <= 1, said
    (cue,) = srt.parse(text.read_text("utf-8"))
    assert cue.content.split() == got.out.split()
    kept, original = sf.read(sound)[0], sf.read(sample)[0]
    np.testing.assert_allclose(kept, original[: len(kept)], atol=1 / 2**15)
