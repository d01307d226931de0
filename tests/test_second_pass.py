"""A second text for a stretch in doubt: the better of both stays, whatever order its parts come in."""

from collections.abc import Sequence

import numpy as np
import pytest

import mmx
from mmx.tasks.result import Note, Segment
from mmx.tasks.second_pass import SecondPass, Text, settle
from mmx.tasks.transcribe import Options, _Run
from mmx.tasks.window import Piece, Window, halves
from mmx.tasks.windows import Decoded, File, Job


def window(start_s: float, seconds: float) -> Window:
    samples = np.random.default_rng(0).standard_normal(int(seconds * 16_000)).astype(np.float32)
    return Window.of_sound(samples, (Piece(0.0, start_s, seconds),), 0)


def text(words: str, mean: float, start_s: float = 0.0, failed: bool = False) -> Text:
    n = len(words.split())
    segments = [Segment(start_s, start_s + n, words, "en")] if words else []
    return Text(segments, mean * n, n, failed, [Note(0.0, 1.0, "warning", words)])


def outcome(first: Text, *parts: Text) -> Text:
    second = SecondPass(first, [window(float(i), 1.0) for i in range(len(parts))])
    got = [settle(part, second) for part in parts]
    assert got[:-1] == [None] * (len(parts) - 1), "nothing is settled before the last part"
    assert got[-1] is not None
    return got[-1]


def words(t: Text) -> list[str]:
    return [s.text for s in t.segments]


@pytest.mark.parametrize(
    ("first", "parts", "stays"),
    [
        (text("call 5 5 0", -0.4), [text("all i am", -0.6), text("zero", -0.7)], True),
        (text("call 5 5 0", -0.4), [text("call 100", -0.35), text("five five oh", -0.35)], True),
        (text("call 5 5 0", -0.4), [text("call 5 5 0", -0.2), text("call 5 5 0", -0.2)], False),
        (text("he said", -0.4), [text("he said", -0.4), text("he said", -0.45)], False),
        (text("he said", -0.4), [text("", 0.0), text("", 0.0)], True),
        (text("he said", -0.4), [text("he he", -0.1, failed=True), text("he", -0.1)], True),
        (text("la la la", -0.05, failed=True), [text("one", -0.5), text("two", -0.6)], False),
        (text("la la la", -0.05, failed=True), [text("", 0.0), text("", 0.0)], False),
        (text("la la la", -0.05, failed=True), [text("na na", -0.7, failed=True)], True),
    ],
    ids=[
        "worse",
        "digits spelled out",
        "digits, twice",
        "like",
        "nothing",
        "fails",
        "loop",
        "loop of nothing",
        "both fail",
    ],
)
def test_the_better_text_stays(first: Text, parts: list[Text], stays: bool):
    expected = words(first) if stays else [w for p in parts for w in words(p)]
    got = outcome(first, *parts)
    assert words(got) == expected
    assert any("stays" in n.reason for n in got.notes) == stays
    if stays:
        assert len(got.notes) == 1, "what happened to a text that is not kept is of no interest"


def test_means_are_of_tokens_and_not_of_parts():
    long, short = text("a b c d e f g h", -0.2), text("i", -2.0, 8.0)
    assert words(outcome(text("a", -0.5), long, short)) == ["a b c d e f g h", "i"]  # -0.4 a token, -1.1 a part


def test_a_part_may_be_doubted_in_turn():
    outer = SecondPass(text("thin", -0.4), [window(0.0, 1.0), window(1.0, 1.0)])
    inner = SecondPass(text("one", -0.3, 0.0), [window(0.0, 0.5), window(0.5, 0.5)], outer)
    outer.open += 1
    assert settle(Text(), outer) is None  # the part itself, of which all is doubted
    assert settle(text("two", -0.3, 5.0), outer) is None
    assert settle(text("bad", -0.9), inner) is None
    got = settle(text("bad", -0.9), inner)
    assert got is not None and words(got) == ["one", "two"]


class Script:
    """Decodes windows as told: by start, what is written and how likely; a second text is asked for at 0 s."""

    def __init__(self, likely: float):
        self.likely = likely

    def __call__(self, jobs: Sequence[Job]) -> list[Decoded]:
        return [self.one(job) for job in jobs]

    def one(self, job: Job) -> Decoded:
        start_s, end_s = job.window.start_s, job.window.end_s
        if job.second is None and start_s == 0:
            first = Text([Segment(start_s, end_s, " first", "en")], -0.4, 1)
            return Decoded(seconds=[SecondPass(first, halves(job.window))])
        return Decoded([Segment(start_s, end_s, " part", "en")], log_prob=self.likely, tokens=1)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
@pytest.mark.parametrize(("likely", "expected"), [(-0.9, ["first", "part"]), (-0.3, ["part", "part", "part"])])
def test_a_run_keeps_the_better_text(monkeypatch: pytest.MonkeyPatch, batch_size: int, likely: float, expected: list):
    run = object.__new__(_Run)
    run.options, run.recognize, run.queue, run.on_progress = Options(batch_size=batch_size), Script(likely), [], None
    file = File("x", "en")
    run.queue = [Job(file, window(0.0, 8.0)), Job(file, window(10.0, 8.0))]
    file.waiting = 2
    while run.queue:
        run._decode()
    assert file.waiting == 0
    assert [s.text.strip() for s in sorted(file.segments, key=lambda s: s.start_s)] == expected


@pytest.mark.slow
def test_digits_count_as_the_words_they_are_spoken_as(whisper_base: mmx.Model):
    from mmx.models.whisper.recognizer import TimestampRecognizer
    from mmx.models.whisper.timed_text import TimedText, find_thin

    decoder = TimestampRecognizer(whisper_base, Options(language="en"))
    job = Job(File("x", "en"), window(0.0, 10.0))
    job.window = Window.of_sound(job.window.samples, job.window.pieces, 0, ((0.0, 9.0),))

    def is_thin(said: str) -> bool:
        return bool(find_thin(job.window, [TimedText(0.0, 9.0, tuple(decoder.tok.encode(said)))], decoder.tok))

    assert not is_thin(" Room 2217, code 904 551 83, floor 14.")
    assert is_thin(" The room is the second one on the right, with a code.")
