"""Speech into other languages: by one model with text decoder and voice, and in two steps.

The model is SeamlessM4T-shaped, tiny and random: what it writes means nothing, that nothing is lost or mixed up does.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import srt
import torch
from test_seamless_m4t import folder, theirs  # noqa: F401 (fixtures)

import mmx
from mmx.cli import app as cli
from mmx.errors import InputError, MmxError
from mmx.generate import Hypothesis
from mmx.model import Model
from mmx.tasks import dub
from mmx.tasks.cascade import Route, cascade, sentences
from mmx.tasks.recognizer import PlainRecognizer
from mmx.tasks.result import Segment, SpokenSegment, Transcript, Word
from mmx.tasks.speak import speak_text
from mmx.tasks.transcribe import Options, fit
from mmx.tasks.window import Piece, Window
from mmx.tasks.windows import File, Job, attach_source_text
from mmx.tasks.words import SentenceTranslation, Translation

SAMPLE = Path(__file__).parents[1] / "demos" / "dashwood.flac"
pytestmark = pytest.mark.parity


@pytest.fixture
def model(folder: Path) -> Model:  # noqa: F811
    return mmx.load(folder, dtype="float32")


@pytest.fixture(scope="module")
def wave() -> np.ndarray:
    return soundfile.read(SAMPLE, dtype="float32")[0]


def test_a_translation_has_its_language_and_times_in_order(model: Model, wave: np.ndarray) -> None:
    got = model.transcribe(wave, task="translate", to="German", word_timestamps=True, beam_size=2)
    assert got.segments and {s.language for s in got.segments} == {"de"}
    assert got.task == "translate"
    for s in got.segments:
        assert 0 <= s.start_s <= s.end_s <= got.duration_s + 0.2
        assert s.words and s.words[0].start_s == s.start_s
    assert [s.start_s for s in got.segments] == sorted(s.start_s for s in got.segments)
    assert max(s.end_s for s in got.segments) > 20, "every window is decoded, the last one too"


def test_windows_are_no_longer_than_the_model_hears_at_once(
    model: Model, wave: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[float] = []
    real = Model.memory

    def memory(self: Model, inputs: Any) -> Any:
        heard.extend((inputs["speech"].lengths / 16_000).tolist())
        return real(self, inputs)

    monkeypatch.setattr(Model, "memory", memory)
    model.transcribe(wave, task="translate", to="de", beam_size=1, speak=True, bilingual=True, language="en")
    assert max(heard) <= 20
    assert sum(heard) < len(wave) / 16_000 + 1, "one pass of the encoder serves both texts and the voice"


def test_a_batch_writes_what_single_windows_do(model: Model, wave: np.ndarray) -> None:
    one = model.transcribe(wave, task="translate", to="de", beam_size=2, batch_size=1)
    all_at_once = model.transcribe(wave, task="translate", to="de", beam_size=2, batch_size=8)
    assert one.text == all_at_once.text
    assert [s.start_s for s in one.segments] == [s.start_s for s in all_at_once.segments]


def test_a_shortlist_holds_for_speech_too(model: Model, wave: np.ndarray, tmp_path: Path) -> None:
    """Greedy search writes the same where the list covers it, and nothing but what is on it where it does not."""
    options: Any = {"task": "translate", "to": "de", "beam_size": 1}
    whole = model.transcribe(wave, **options).text
    corpus = tmp_path / "german.txt"
    corpus.write_text(whole, "utf-8")
    assert model.transcribe(wave, shortlist=str(corpus), **options).text == whole
    fewer = whole.split()[0]
    corpus.write_text(fewer, "utf-8")
    short = model.transcribe(wave, shortlist=str(corpus), **options).text
    assert short != whole
    assert set(model.tokenizer.encode(short)) <= {*model.tokenizer.encode(fewer)}


def test_a_translation_is_said_and_laid_on_the_clock(model: Model, wave: np.ndarray) -> None:
    got = model.transcribe(wave, task="translate", to="de", beam_size=1, speak=True)
    assert got.spoken and all(len(s.samples) for s in got.spoken)
    track = dub.lay(got.spoken, got.duration_s)
    assert len(track.samples) / track.rate >= len(wave) / 16_000


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "auto"])
def test_a_voice_speaks_in_single_precision_what_any_precision_wrote(
    folder: Path,  # noqa: F811
    wave: np.ndarray,
    dtype: Any,
) -> None:
    model = mmx.load(folder, dtype=dtype)
    got = model.transcribe(wave[: 5 * 16_000], task="translate", to="de", beam_size=1, speak=True)
    assert got.spoken and all(np.isfinite(s.samples).all() for s in got.spoken)
    assert model.synth is not None and {p.dtype for p in model.synth.parameters()} == {torch.float32}
    assert speak_text(model, "The cat sat.", src="en", to="de", beam_size=1)[1].samples.size


def test_sentences_without_spaces_stay_in_order(model: Model, wave: np.ndarray) -> None:
    """Their words are pieces; a sentence that stands whole in the last piece of another follows it, with no length."""
    written = "你好。今天好。我们去。"

    class Tokenizer:
        def decode(self, ids: Sequence[int]) -> str:
            return written

    pieces = ["你好", "。今", "天", "好。我们去。"]
    timed = [Word(t, i * 1.0, i + 1.0, 0.5, tokens=(i,)) for i, t in enumerate(pieces)]
    decoder = PlainRecognizer(model, fit(model, Options(task="translate", to="de")))
    decoder.tok = Tokenizer()
    job = Job(File("x", "en"), Window.of_sound(wave[: 5 * 16_000], (Piece(0.0, 0.0, 5.0),), 0))
    found = decoder._segments(job, Hypothesis((0,), 0.0, True), timed)
    assert [s.text for s in found] == [" 你好。", " 今天好。", " 我们去。"]
    assert [(s.start_s, s.end_s) for s in found] == [(0, 2), (2, 4), (4, 4)]


def test_both_languages_stand_in_the_subtitles(model: Model, wave: np.ndarray) -> None:
    got = model.transcribe(wave, task="translate", to="de", language="en", beam_size=1, bilingual=True)
    assert any(s.source_text for s in got.segments)
    cues = list(srt.parse(got.to_srt()))
    assert len(cues) == len(got.segments)
    assert Transcript.from_dict(got.to_dict()).segments == got.segments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "transcribe"}, "expected --language"),
        ({"task": "translate", "to": "fr"}, r"(?s)French.*deu"),
        ({"task": "transcribe", "language": "en", "speak": True}, "translation"),
        ({"task": "translate", "to": "de", "bilingual": True}, "expected --language"),
    ],
)
def test_what_the_model_cannot_do_is_told_before_it_runs(model: Model, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(model, Options(**options))


def test_a_text_is_said(model: Model) -> None:
    done, track = speak_text(model, "The cat sat. A cat on the hat.", src="en", to="de", beam_size=1)
    assert len(done.segments) == 2
    assert model.synth is not None and track.rate == model.synth.rate != 16_000, "the tiny voice has a rate of its own"
    assert track.samples.dtype == np.float32 and 0 < np.abs(track.samples).max() <= 1


def test_what_computes_other_numbers_is_not_timed() -> None:
    pytest.importorskip("transformers")
    from mmx.bench.s2tt import Part, _require_same

    _require_same([Part("same", list, list, 1e-5), Part("alone", list, None)], torch.float32)
    for difference in (0.5, float("nan")):
        with pytest.raises(MmxError, match="same numbers of both sides for vocoder"):
            _require_same([Part("vocoder", list, list, difference)], torch.float32)


def test_a_speaker_that_is_not_there_is_told_before_the_work(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmx.tasks.speak.translate_text", lambda *args, **options: pytest.fail("it worked first"))
    with pytest.raises(InputError, match="speaker from 0 to"):
        speak_text(model, "The cat sat.", src="en", to="de", speaker=100_000)


@pytest.mark.parametrize("args", [["--to", "de", "--language", "de"], ["--to", "en"]])
def test_an_impossible_direction_is_refused_before_reading(
    folder: Path,  # noqa: F811
    model: Model,
    args: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert model.card is not None
    model.card = replace(model.card, writes=("de",))
    monkeypatch.setattr("mmx.api.load", lambda *args, **options: model)
    monkeypatch.setattr("mmx.tasks.transcribe.transcribe", lambda *args: pytest.fail("it worked first"))
    assert cli.main(["translate", str(SAMPLE), *args, "--model", str(folder), "--text-model", str(folder)]) == 2
    assert "trained for nothing else" in capsys.readouterr().err


def test_a_text_model_that_fails_is_told(
    folder: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [("A.", "a", False), ("B.", "b", True), ("C.", "", False)]
    done = Translation("a b", tuple(SentenceTranslation(s, t, 0.0, cut=c) for s, t, c in rows), "eng", "deu")
    monkeypatch.setattr(Model, "translate_text", lambda *args, **options: [done])
    assert cli.main(["translate", "--text", "A. B. C.", "--from", "en", "--to", "de", "--model", str(folder)]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "note" in line]
    assert [line.split(" warning")[0].strip() for line in told] == ["note: sentence 2", "note: sentence 3"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["live", str(SAMPLE), "--reference", "nope.txt"], "--reference"),
        (["asr", str(SAMPLE), "--reference", "nope.txt"], "--reference"),
        (["s2tt", "--size", "tiny", "--dtype", "float64x"], "dtype"),
    ],
)
def test_a_bench_that_cannot_be_is_told(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", *args]) == 2
    assert message in capsys.readouterr().err


def test_the_command_line_writes_and_speaks(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    code = cli.main(
        ["translate", str(SAMPLE), "--to", "de", "--from", "en", "--model", str(folder), "--beam-size", "1",
         "--speak", str(out / "said.wav"), "--bilingual", "--output-format", "srt", "--output-dir", str(out)]
    )  # fmt: skip
    assert code == 0, capsys.readouterr().err
    assert list(srt.parse((out / "dashwood.srt").read_text("utf-8")))
    assert soundfile.info(out / "said.wav").duration >= soundfile.info(SAMPLE).duration
    capsys.readouterr()
    args = ["translate", "--text", "the cat. a hat.", "--from", "en", "--to", "German", "--model", str(folder),
            "--shortlist", "script"]  # fmt: skip
    assert cli.main(args) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--text", "x", "--to", "de"], "--from"),
        (["--text", "x", "--from", "en"], "--to"),
        (["a.wav", "--text", "x", "--to", "de"], "both"),
        (["--to", "de"], "neither"),
        (["--text", "x", "--from", "en", "--to", "de", "--speak", "x.txt"], r"ends in \.wav, \.flac"),
        ([str(SAMPLE), "--to", "de", "--speak", "x.txt"], r"ends in \.wav, \.flac"),
        ([str(SAMPLE), "--to", "de"], "English only"),
        ([str(SAMPLE), "--to", "en", "--speak", "x.wav", "--voice", "nobody"], "expected a voice"),
        ([str(SAMPLE), "--to", "en", "--voice", "heart", "--no-isochrony"], "--speak with --voice, --isochrony"),
        (["--text", "x", "--from", "en", "--to", "es", "--speak", "x.wav", "--no-isochrony"], "--isochrony"),
        (["--text", "x", "--from", "en", "--to", "es", "--speak", "x.mp4"], "ends in .*, got 'x.mp4'"),
        (["-", "--to", "en", "--speak", "x.mp4"], "to take the pictures from, got standard input"),
        ([str(SAMPLE), "--to", "germn"], "(?i)german"),
        (
            ["--text", "x", "--from", "en", "--to", "de", "--bilingual", "--output-dir", "x"],
            "--bilingual, --output-dir",
        ),
        (["a.wav", "b.wav", "--to", "de", "--speak", "x.wav"], "expected a folder"),
    ],
)
def test_bad_requests(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    import re

    assert cli.main(["translate", *args]) != 0
    assert re.search(message, capsys.readouterr().err)


# -------------------- two steps


def said(*texts: str, gap_s: float = 0.1) -> list[Segment]:
    return [Segment(i * (1 + gap_s), i * (1 + gap_s) + 1, f" {t}", "en") for i, t in enumerate(texts)]


def test_a_text_model_never_sees_half_a_sentence() -> None:
    groups = sentences(said("the cat", "sat.", "a hat", " ", "on", "the mat", gap_s=0.1))
    assert ["".join(s.text for s in g) for g in groups] == [" the cat sat.", " a hat on the mat"]
    apart = sentences(said("the cat", "sat.", gap_s=3.0))
    assert len(apart) == 2, "after a long pause no sentence goes on"


@pytest.mark.parametrize("first", ["بلی بیٹھی۔", "Կատուն նստեց։", "ድመቷ ተቀመጠች።", "ကြောင်ထိုင်တယ်။"])
def test_sentences_of_all_scripts_end_at_their_own_stops(first: str) -> None:
    assert len(sentences(said(first, "a hat"))) == 2


def test_two_steps_keep_times_and_the_first_text(model: Model) -> None:
    segments = (*said("the cat", "sat on there."), Segment(7.0, 8.0, " a hat.", "en"))
    first = Transcript("x.wav", segments, "fr", 1.0, 9.0, "translate", "whisper-base")
    (got,) = cascade([first], model, "German", beam_size=1, bilingual=True)
    assert [(s.start_s, s.end_s, s.source_text) for s in got.segments] == [
        (0.0, 2.1, "the cat sat on there."), (7.0, 8.0, "a hat."),
    ]  # fmt: skip
    assert got.model == f"whisper-base + {model.name}" and got.task == "translate"
    assert {s.language for s in got.segments} == {"de"}
    (plain,) = cascade([first], model, "German", beam_size=1)
    assert not any(s.source_text for s in plain.segments), "only when it is asked for"


def test_a_cascade_goes_through_english_only_where_it_must(model: Model) -> None:
    def first(**options: Any) -> tuple[str, str, str]:
        route = Route.through(model, Options(task="translate", **options))
        assert route.text_model is model
        return route.first.task, route.first.to, route.written

    assert first(language="en", to="de") == ("transcribe", "en", "en")
    assert first(language="de", to="en")[::2] == ("transcribe", "de")
    assert first(to="de") == ("translate", "en", "en"), "a language that is to be detected may not be one that it reads"
    assert first(language="fr", to="de") == ("translate", "en", "en")
    with pytest.raises(InputError, match="Welsh"):
        Route.through(model, Options(task="translate", to="cy"))


def test_nothing_overlaps_and_nothing_is_cut() -> None:
    said = [SpokenSegment(1.0, np.full(32_000, 0.1, np.float32)), SpokenSegment(1.5, np.full(16_000, 0.2, np.float32))]
    track = dub.lay(said, 2.0).samples
    assert np.count_nonzero(np.isclose(track, 0.1)) == 32_000
    assert np.count_nonzero(np.isclose(track, 0.2)) == 16_000
    assert track[15_999] == 0 and track[16_000] != 0
    assert len(dub.lay([], 2.0).samples) == 32_000
    fast = dub.lay([SpokenSegment(0.5, np.ones(10, np.float32), 24_000.0)], 1.0)
    assert fast.rate == 24_000 and len(fast.samples) == 24_000 and fast.samples[12_000] == 1


def test_every_spoken_word_stands_beside_a_segment() -> None:
    words = [Word(f" {t}", i, i + 0.5, 1.0) for i, t in enumerate("abcdef")]
    segments = [Segment(0.0, 1.6, " eins", "de"), Segment(3.2, 4.0, " zwei", "de")]
    assert [s.source_text for s in attach_source_text(segments, words)] == ["a b c", "d e f"]
