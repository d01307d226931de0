"""Two speakers on two channels, and what a user is told of a recording in which nothing was heard."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import srt
import webvtt

import mmx
from mmx.bench.asr import word_error_rate
from mmx.clip import Input
from mmx.errors import InputError, MediaError
from mmx.media.audio import read_audio
from mmx.model import InputWindow
from mmx.models.whisper import recognizer as timed
from mmx.tasks import transcribe
from mmx.tasks.cascade import sentences
from mmx.tasks.no_speech import no_speech_note
from mmx.tasks.result import Note, Segment, Transcript, Word
from mmx.tasks.transcribe import Options, Progress
from mmx.tasks.window import Piece, Window
from mmx.tasks.windows import Decoded, File, Job

ROOT = Path(__file__).parents[1]
RATE = 16_000


# ------------------------------------------------------------------------------------- with a decoder that counts


class Counts:
    """A decoder that writes, of each window, how loud it is: one segment for each."""

    def __init__(self, *_: Any):
        pass

    def __call__(self, jobs: list[Job]) -> list[Decoded]:
        return [self._of(job.file, job.window) for job in jobs]

    def _of(self, file: File, window: Window) -> Decoded:
        file.language = "en"
        text = f" {np.abs(window.samples).max():.1f}"
        return Decoded(segments=[Segment(window.start_s, window.end_s, text, "en")], notes=[])


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(timed, "TimestampRecognizer", Counts)
    monkeypatch.setattr(transcribe, "fit", lambda model, options: options)

    class Model:
        name = "counts"
        tokenizer = type("T", (), {"recognizer": timed.__name__, "multilingual": True, "lesson": print})()
        fuse, encoders, recorded = None, {"speech": None}, {"speech": Input("audio", RATE)}

        def window(self, modality: str) -> InputWindow:
            return InputWindow(30 * RATE, True, 320, 30.0)

    return Model()


def told(model: Any, source: Any, progress: list[Progress] | None = None, **options: Any) -> Transcript:
    asked = Options(**{"vad": False, "language": "en", **options})
    return next(iter(transcribe.transcribe(model, [source], asked, None if progress is None else progress.append)))


def two(left: float, right: float, seconds: float = 50.0) -> np.ndarray:
    """Noise at two levels on two channels (n, 2)."""
    noise = np.random.default_rng(0).uniform(-1, 1, (round(seconds * RATE), 2)).astype(np.float32)
    return noise * np.array([left, right], np.float32)


def test_each_channel_is_heard_by_itself_and_both_are_in_order_of_time(model: Any, tmp_path: Path):
    path = tmp_path / "call.wav"
    soundfile.write(path, two(0.8, 0.2), RATE)
    for source in (path, path.read_bytes(), path.open("rb"), two(0.8, 0.2)):
        found = told(model, source, channels="each")
        assert {(s.channel, s.text) for s in found.segments} == {("left", " 0.8"), ("right", " 0.2")}
        assert [s.start_s for s in found.segments] == sorted(s.start_s for s in found.segments)
        assert [s.channel for s in found.segments[:2]] == ["left", "right"] and len(found.segments) == 4
        assert found.duration_s == 50.0 and found.notes == ()
    for channels, text in (("left", " 0.8"), ("right", " 0.2"), ("mix", " 0.5")):
        found = told(model, path, channels=channels)
        assert {(s.channel, s.text) for s in found.segments} == {("", text)}


def test_progress_of_two_channels_goes_once_to_the_end(model: Any):
    progress: list[Progress] = []
    told(model, two(0.8, 0.2), progress, channels="each", batch_size=1)
    done = [p.done_s for p in progress]
    assert done == sorted(done) and done[-1] == 50.0 and all(p.total_s == 50.0 for p in progress)
    assert not any(p.segments for p in progress), "what the other channel says may come before"


def test_a_short_recording_is_written_before_all_are_read(model: Any):
    """Of a folder of clips whose languages are not known, no more are held than a batch decodes."""
    read: list[int] = []

    def clips() -> Any:
        for n in range(9):
            read.append(n)
            yield two(0.5, 0.5, 1.0)

    done = transcribe.transcribe(model, clips(), Options(vad=False, batch_size=2))
    assert [next(done).text for _ in range(4)] == ["0.5"] * 4 and len(read) <= 5
    assert len(list(done)) == 5


def test_little_is_held_when_one_channel_says_little(model: Any, monkeypatch: pytest.MonkeyPatch):
    held: list[int] = []
    real = transcribe._Run._take

    def take(self: Any, *item: Any) -> None:
        real(self, *item)
        held.append(len(self.queue))

    def windows(blocks: Any, *_: Any) -> Any:
        loud = max(float(c["speech"].x.abs().max()) for c in blocks) > 0.5
        for n in range(2 if loud else 40):
            yield Window.of_sound(np.zeros(RATE, np.float32), (Piece(0.0, float(n), 1.0),), n)

    monkeypatch.setattr(transcribe._Run, "_take", take)
    monkeypatch.setattr(transcribe, "split", windows)
    found = next(iter(transcribe.transcribe(model, [two(0.8, 0.2, 2.0)], Options(channels="each", batch_size=2))))
    assert len(found.segments) == 42 and max(held) <= 6


def test_each_needs_two_channels(model: Any, tmp_path: Path):
    soundfile.write(tmp_path / "one.wav", two(0.8, 0.2, 1.0)[:, 0], RATE)
    soundfile.write(tmp_path / "six.wav", np.zeros((RATE, 6), np.float32), RATE)
    with pytest.raises(MediaError, match=r"one\.wav: expected two channels or more for the left one, got one"):
        told(model, tmp_path / "one.wav", channels="each")
    with pytest.raises(MediaError, match=r"six\.wav: expected two channels to transcribe one by one, got 6"):
        told(model, tmp_path / "six.wav", channels="each")
    failed: list[str] = []
    sources = [str(tmp_path / "one.wav"), str(tmp_path / "six.wav")]
    options = Options(vad=False, channels="each")
    assert list(transcribe.transcribe(model, sources, options, None, lambda name, _: failed.append(name))) == []
    assert len(failed) == 2


def test_what_is_wrong_with_the_file_is_told_once(model: Any, tmp_path: Path):
    path = tmp_path / "call.wav"
    soundfile.write(path, two(0.8, 0.2, 4.0), RATE)
    path.write_bytes(path.read_bytes()[:-40_000])
    notes = told(model, path, channels="each").notes
    assert len(notes) == 1 and "cut off" in notes[0].reason


def test_what_is_told_of_the_words_names_their_channel(model: Any, monkeypatch: pytest.MonkeyPatch):
    def doubted(self: Counts, file: File, window: Window) -> Decoded:
        said = Segment(window.start_s, window.end_s, " a", "en")
        why = "1.0 s of speech without text" if file.channel != "left" else "sounds like German"
        return Decoded(segments=[said], notes=[Note(1.0, 2.0, "warning", why)])

    monkeypatch.setattr(Counts, "_of", doubted)
    notes = told(model, two(0.8, 0.2, 5.0), channels="each").notes
    assert {n.reason for n in notes} == {
        "left channel: sounds like German",
        "right channel: 1.0 s of speech without text",
    }
    assert [n.reason for n in told(model, two(0.8, 0.2, 5.0)).notes] == ["1.0 s of speech without text"]


def test_a_channel_is_decoded_before_the_other_one_is_read_to_its_end(model: Any, monkeypatch: pytest.MonkeyPatch):
    queued: list[float] = []
    decode = transcribe._Run._decode

    def count(run: Any) -> None:
        queued.append(len(run.queue))
        decode(run)

    monkeypatch.setattr(transcribe._Run, "_decode", count)
    told(model, two(0.8, 0.2, 80.0), channels="each", language=None, batch_size=2)
    assert max(queued) <= 4, "the left channel has fewer windows than its language is told by"


def test_choices_that_there_are_not():
    choices: list[dict[str, Any]] = [{"channels": "middle"}, {"track": 0}]
    for wrong in choices:
        with pytest.raises(InputError, match="expected"):
            Options(**wrong)


# ----------------------------------------------------------------------------------------------- nothing was heard


def file(peak: float, *notes: Note, **more: Any) -> File:
    return File("a.wav", None, peak=peak, duration_s=10.0, notes=list(notes), **more)


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (file(0.0), ["no speech was detected: there is only silence"]),
        (file(1e-5), ["as good as silent", "-100 dB"]),
        (file(0.5, Note(0.0, 10.0, "skipped", "no speech")), ["no voice was found", "-6 dB", "--no-vad"]),
        (file(0.5, Note(1.0, 9.0, "dropped", "no speech (p=0.63)")), ["from 1.0 to 9.0 s was dropped", "p=0.63"]),
        (file(0.5), ["the model wrote nothing"]),
        (file(0.0, channel="right"), ["on the right channel"]),
    ],
)
def test_the_likely_reason_is_told(heard: File, words: list[str]):
    (note,) = no_speech_note(heard)
    assert (note.action, note.start_s, note.end_s) == ("warning", 0.0, 10.0)
    assert all(w in note.reason for w in words), note.reason


def test_nothing_is_told_of_what_was_heard():
    assert no_speech_note(file(0.5, segments=[Segment(0, 1, " a", "en")])) == []
    assert no_speech_note(file(0.5, segments=[Segment(0, 1, " ", "en")])) != []


def test_silence_and_noise_are_told_with_a_reason(model: Any):
    quiet = told(model, np.zeros(5 * RATE, np.float32), vad=True)
    assert quiet.text == "" and ["only silence" in n.reason for n in quiet.notes if n.action == "warning"] == [True]
    noise = told(model, two(0.1, 0.1, 5.0)[:, 0], vad=True)
    assert [n.reason[:43] for n in noise.notes if n.action == "warning"] == [
        "no speech was detected: no voice was found,"
    ]


# ---------------------------------------------------------------------------------------------------- in the formats


def call() -> Transcript:
    said = [("left", 0.0, 2.0, "Who is there?"), ("right", 1.2, 2.4, "It's me."), ("left", 3.0, 4.0, "Come <in>.")]
    segments = tuple(Segment(a, b, f" {t}", "en", channel=c, words=(Word(f" {t}", a, b, 1.0),)) for c, a, b, t in said)
    return Transcript("call.wav", segments, "en", 1.0, 4.0, "transcribe", "m")


def test_every_format_tells_who_speaks():
    t = call()
    assert t.to_txt() == "left: Who is there?\nright: It's me.\nleft: Come <in>.\n"
    cues = list(srt.parse(t.to_srt()))
    assert [c.content for c in cues] == ["left: Who is there?", "right: It's me.", "left: Come <in>."]
    assert cues[0].end.total_seconds() == 2.0 and cues[1].start.total_seconds() == 1.2, "both speak at once"
    assert "<v left>Who is there?\n" in t.to_vtt() and "<v left>Come &lt;in&gt;.\n" in t.to_vtt()
    assert [c.text for c in webvtt.from_string(t.to_vtt())] == ["Who is there?", "It's me.", "Come &lt;in&gt;."]
    rows = list(csv.DictReader(io.StringIO(t.to_tsv()), delimiter="\t"))
    assert [(r["channel"], r["text"]) for r in rows] == [(s.channel, s.text.strip()) for s in t.segments]
    assert [s["channel"] for s in json.loads(t.to_json())["segments"]] == ["left", "right", "left"]
    assert Transcript.from_dict(json.loads(t.to_json())).segments == t.segments


def test_sentences_go_on_within_a_channel():
    parts = [("left", 0.0, "I had"), ("right", 0.5, "Yes."), ("left", 1.0, "no idea."), ("right", 1.5, "No.")]
    segments = [Segment(a, a + 1.0, f" {t}", "en", channel=c) for c, a, t in parts]
    assert [[s.text for s in g] for g in sentences(segments)] == [[" I had", " no idea."], [" Yes."], [" No."]]


# ------------------------------------------------------------------------------------------- with the shipped model


@pytest.mark.slow
def test_two_people_who_talk_at_once_are_both_written(whisper_base: mmx.Model):
    talk = read_audio(ROOT / "demos" / "dashwood.flac")
    lines = (ROOT / "demos" / "dashwood.txt").read_text("utf-8").replace("mister", "mr").splitlines()
    left, right = talk[:113_600], talk[-60_640:]
    sound = np.zeros((len(left), 2), np.float32)
    sound[:, 0], sound[: len(right), 1] = left, right
    found = whisper_base.transcribe(sound, language="en", channels="each")
    by = {c: " ".join(s.text for s in found.segments if s.channel == c) for c in ("left", "right")}
    assert word_error_rate(lines[0], by["left"]) < 0.1, by
    assert word_error_rate(lines[-1], by["right"]) < 0.15, by
