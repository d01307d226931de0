"""Guards of live text on looks done by hand: repeats, silence, skipped speech, doubts, and words without length."""

import math

import pytest

from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.streaming.activity import SpeechActivity
from mmx.streaming.guards import AttendedWord, before_end_of_speech, certain, lengthened, onward, passed_over, recurs


def voice(*spans: tuple[float, float]) -> SpeechActivity:
    made = SpeechActivity(None)
    made.spans = [[round(a * RATE), round(b * RATE)] for a, b in spans]
    return made


def looks(*found: tuple[str, float]) -> list[AttendedWord]:
    return [AttendedWord(text, 1, at, at, mark=text in {".", ","}) for text, at in found]


SAID = voice((0.0, 1.0), (2.0, 3.0))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], 0),
        ([("Sit", 0.3), ("down", 0.7), ("Sit", 2.2), ("down", 2.7)], 4),
        ([("Sit", 0.3), ("down", 0.9), ("Sit", 0.2), ("down", 0.7)], 2),
        ([("Sit", 0.3), ("down", 0.9), ("Sit", 0.4)], 3),  # half a second back: attention does that
        ([("Sit", 0.3), ("down", 0.9), ("Sit", 1.5), ("down", 0.7)], 2),  # begins anew in silence
        ([("Sit", 0.3), ("down", 0.9), (".", 1.4), ("Sit", 1.5), ("down", 0.7)], 3),
        ([("Sit", 0.3), ("down", 2.9), (".", 0.5)], 3),  # a mark looks anywhere
        ([("Sit", 2.5), ("down", 2.9), ("Sit", 2.1)], 2),
    ],
)
def test_a_text_that_looks_back_repeats_itself(words: list[tuple[str, float]], expected: int):
    assert onward(looks(*words), 0.0, 0.7, SAID) == expected


def test_a_repeat_may_be_all_that_is_new():
    assert onward(looks(("Sit", 0.2), ("down", 0.7)), 1.0, 0.7, SAID) == 0
    assert onward(looks(("Sit", 0.2), ("down", 0.7)), 1.0, math.inf, SAID) == 2


def test_what_looks_past_all_speech_was_not_said():
    words = looks(("Sit", 2.3), ("down", 3.2), (".", 3.9), ("Thank", 3.5))
    assert before_end_of_speech(words, SAID) == 3
    assert before_end_of_speech(words[:3], SAID) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([("Sit", 0.3), ("down", 0.7)], None),
        ([("Sit", 0.3), ("down", 0.7), ("Sit", 2.2), ("Go", 4.2)], None),
        ([("Sit", 0.3), ("down", 0.7), ("Go", 4.3), ("on", 4.7)], (2, 1.7)),  # a stretch that nothing looks at
        ([("Sit", 0.3), ("down", 4.7), ("Sit", 2.2)], None),  # only attention that strayed
        ([("Go", 4.3), ("on", 4.7)], (0, -0.2)),
        ([("Go", 4.3), ("on", 6.3), ("again", 6.6)], (0, -0.2)),
    ],
)
def test_speech_that_no_word_looks_at(words: list[tuple[str, float]], expected: tuple[int, float] | None):
    said = voice((0.1, 1.0), (2.0, 3.0), (4.0, 5.0), (6.0, 7.0))
    found = passed_over(looks(*words), -0.2, said)
    assert found == (expected and (expected[0], round(expected[1] * RATE)))


def test_more_speech_without_a_pause_than_a_word_spans():
    said = voice((0.0, 6.0))
    assert passed_over(looks(("a", 0.4), ("b", 1.5)), 0.0, said) is None
    assert passed_over(looks(("a", 0.4), ("b", 2.4), ("c", 2.8)), 0.0, said) == (1, round(0.55 * RATE))
    assert passed_over(looks(("a", 0.4), ("342", 2.4), ("c", 3.8)), 0.0, said) is None, "three hundred and forty-two"


@pytest.mark.parametrize(
    ("text", "at", "expected"),
    [
        ("The door is open. the Door is open", 4, True),
        ("The door is open. The window is shut", 4, False),
        ("Come in. Come in", 2, True),
        ("Come in", 0, False),
        ("one two three four five one two", 5, True),
    ],
)
def test_words_that_recur(text: str, at: int, expected: bool):
    assert recurs(text.split(), at) == expected


def test_a_doubtful_token_waits_for_a_second_look():
    scores = [math.log(p) for p in (0.9, 0.2, 0.9)]
    assert certain([5, 6, 7], scores, []) == 1
    assert certain([5, 6, 7], scores, [5, 6]) == 3
    assert certain([5, 6, 7], scores, [9, 6, 7]) == 1
    assert certain([], [], [5]) == 0


@pytest.mark.parametrize(
    ("bounds", "end_s", "expected"),
    [
        ([0.0, 1.0, 2.0], 2.0, [0.0, 1.0, 2.0]),
        ([0.0, 1.0, 1.0, 2.0], 2.0, [0.0, 1.0, 1.1, 2.0]),
        ([0.0, 2.0, 2.0], 2.0, [0.0, 1.9, 2.0]),
        ([0.0, 2.0, 2.0], 3.0, [0.0, 2.0, 2.1]),
        ([1.9, 2.0, 2.0], 2.0, [1.9, 1.95, 2.0]),
        ([2.0], 2.0, [2.0]),
    ],
)
def test_every_word_lasts(bounds: list[float], end_s: float, expected: list[float]):
    assert lengthened(bounds, 0.1, end_s) == pytest.approx(expected)
