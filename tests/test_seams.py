"""Where a silence was cut out of a window, its texts are cut, too: models with time tokens and without."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmx.generate import Hypothesis
from mmx.models.whisper import recognizer as whisper
from mmx.models.whisper.recognizer import _Attempt
from mmx.models.whisper.timed_text import TimedText
from mmx.tasks import recognizer as plain
from mmx.tasks.options import Options
from mmx.tasks.window import Piece, Window
from mmx.tasks.windows import File, Job, between_seams
from mmx.tasks.words import Word

# 4 s from 10 s on and 4 s from 40 s on; speech all through but for the pads at the seam.
WINDOW = Window.of_sound(
    np.random.default_rng(0).standard_normal(8 * 16_000).astype(np.float32),
    (Piece(0.0, 10.0, 4.0), Piece(4.0, 40.0, 4.0)),
    0,
    ((0.2, 3.7), (4.3, 7.8)),
)


def timed(*said: tuple[str, float, float]) -> list[Word]:
    return [Word(text, a, b, 0.9, tokens=(i,)) for i, (text, a, b) in enumerate(said)]


WORDS = timed((" Wait", 0.3, 1.0), (" here", 1.0, 4.2), (" for", 4.1, 5.0), (" me.", 5.0, 7.7))


def test_words_are_parted_at_the_seam():
    assert [[w.text for w in run] for run in between_seams(WINDOW, WORDS)] == [[" Wait", " here"], [" for", " me."]]
    slips = timed((" a", 0.3, 1.0), (" b", 5.0, 6.0), (" c", 2.0, 3.0), (" d", 6.0, 7.0))
    assert [len(run) for run in between_seams(WINDOW, slips)] == [1, 3], "one that slips back is no new run"
    assert between_seams(WINDOW, []) == []


@pytest.mark.parametrize("word_timestamps", [False, True])
def test_a_piece_over_a_seam_is_two_segments(word_timestamps: bool):
    decoder = object.__new__(whisper.TimestampRecognizer)
    decoder.options = Options(language="en", word_timestamps=word_timestamps)
    texts = [w.text for w in WORDS]
    decoder.tok = SimpleNamespace(decode=lambda tokens: "".join(texts[t] for t in tokens))  # type: ignore[assignment]
    attempt = _Attempt(Hypothesis((), -0.1, True), "", 0.0, 1.0, 0.0)
    piece = TimedText(0.0, 8.0, (0, 1, 2, 3))
    assert piece.over_a_seam(WINDOW) and not TimedText(0.0, 4.4, (0,)).over_a_seam(WINDOW)
    assert TimedText(3.4, 4.4, (0,)).over_a_seam(WINDOW) and not TimedText(2.0, 4.4, (0,)).over_a_seam(WINDOW), (
        "a short one"
    )
    first, second = decoder._on_clock(Job(File("x", "en"), WINDOW), attempt, piece, WORDS)
    assert (first.text, second.text) == (" Wait here", " for me.") and (first.tokens, second.tokens) == ((0, 1), (2, 3))
    assert 10.0 <= first.start_s < first.end_s <= 14.0 and 40.0 <= second.start_s < second.end_s <= 48.0
    assert bool(first.words) == bool(second.words) == word_timestamps


@pytest.mark.parametrize("task", ["transcribe", "translate"])
def test_a_sentence_without_time_tokens_over_a_seam_is_two_segments(task: Any):
    decoder = object.__new__(plain.PlainRecognizer)
    decoder.options, decoder.target = Options(language="en", task=task), "en"
    decoder.tok = SimpleNamespace(decode=lambda tokens: " Wait here for me.")  # type: ignore[assignment]
    first, second = decoder._segments(Job(File("x", "en"), WINDOW), Hypothesis((0, 1, 2, 3), -0.1, True), WORDS)
    assert (first.text, second.text) == (" Wait here", " for me.")
    assert 10.0 <= first.start_s < first.end_s <= 14.0 and 40.0 <= second.start_s < second.end_s <= 48.0
