"""What the sound does not speak for: a decoder that repeats itself, writes on in silence, or passes speech over.

A decoder that runs out of sound goes on all the same, usually with what it wrote before, and one that would only repeat
itself leaves speech out. Both show in where it looks. The guards are the same for every policy: each takes the words of
a hypothesis and tells how many of them may be believed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.streaming.activity import SpeechActivity

SLACK_S = 0.3
"""By which attention and voice activity differ: attention turns to a word before it is said, detectors are late."""
PAUSE_S = 0.3
"""Of silence around a stretch of speech, which one word does not span."""
STRETCH_S = 0.35
"""The shortest stretch of speech that holds a word for certain."""
JUMP_S = 1.3
"""Of speech, which one word does not span."""
DIGIT_S = 0.4
"""... and what each digit of a number takes beside."""
RECURRING = 4
"""Words that stand in a text twice when it repeats itself."""
DOUBT = 0.3
"""Probability below which a token waits until two looks agree on it."""


@dataclass(frozen=True, slots=True)
class AttendedWord:
    """Where the decoder looks as it writes a word.

    Attributes:
        text: the word.
        tokens: number of its tokens.
        first_s: the earliest that one of them looks at, in seconds of the session.
        last_s: the latest.
        mark: whether it is but a punctuation mark, which looks anywhere.
    """

    text: str
    tokens: int
    first_s: float
    last_s: float
    mark: bool = False


def onward(words: Sequence[AttendedWord], since_s: float, back_s: float, voice: SpeechActivity) -> int:
    """How many words come before one that looks `back_s` behind what was looked at before it.

    What such a word says was said before: the text ran out of sound. A text that begins anew first looks into the
    silence after the last word; what does so directly before a word that looks back belongs to it.

    Args:
        words: of the hypothesis.
        since_s: where the text before the hypothesis ends.
        back_s: that a text may look back.
        voice: what is speech.
    """
    furthest_s = since_s
    for i, word in enumerate(words):
        if not word.mark and word.first_s <= furthest_s - back_s:
            while i and (words[i - 1].mark or _silent(words[i - 1], voice)):
                i -= 1
            return i + 1 if i < len(words) and words[i].mark else i
        if not word.mark:
            furthest_s = max(furthest_s, word.last_s)
    return len(words)


def before_end_of_speech(words: Sequence[AttendedWord], voice: SpeechActivity) -> int:
    """How many words come before one that looks past the end of all speech."""
    end_s = voice.speech_until / RATE + SLACK_S
    return next((i for i, word in enumerate(words) if not word.mark and word.first_s > end_s), len(words))


def _silent(word: AttendedWord, voice: SpeechActivity) -> bool:
    """Whether nobody speaks where a word looks."""
    first_s, last_s = word.first_s - SLACK_S / 2, word.last_s + SLACK_S / 2
    return not voice.speech_within(round(first_s * RATE), round(last_s * RATE))


def passed_over(words: Sequence[AttendedWord], since_s: float, voice: SpeechActivity) -> tuple[int, int] | None:
    """Speech that no word looks at, before one that looks at what was said after it.

    It is a whole stretch between pauses, or more of one than a word spans. A single word that looks ahead is an error
    of the attention's; with the next one there, too, it is the text that has gone on.

    Args:
        words: of the hypothesis.
        since_s: where the text before the hypothesis ends.
        voice: what is speech.

    Returns:
        The number of words before it, and the sample with which it begins; None where there is none.
    """
    at_s = since_s
    for i, word in enumerate(words):
        if word.mark:
            continue
        to_s = min([word.first_s, *(w.first_s for w in words[i + 1 : i + 3] if not w.mark)])
        begin = _unheeded(at_s, to_s, JUMP_S + DIGIT_S * _digits(words, i), voice)
        if begin is not None:
            return i, begin
        at_s = max(at_s, word.last_s)
    return None


def _digits(words: Sequence[AttendedWord], at: int) -> int:
    """Digits of a word and of the one before it, which both may last."""
    return sum(c.isdigit() for w in words[max(0, at - 1) : at + 1] for c in w.text)


def _unheeded(from_s: float, to_s: float, most_s: float, voice: SpeechActivity) -> int | None:
    """Sample with which speech between two moments begins that is more than the words there hold; None without."""
    begin, end = round(from_s * RATE), round(to_s * RATE)
    slack = round(SLACK_S * RATE)
    for first, last in voice.stretches(PAUSE_S):
        whole = first > begin + slack / 2 and last < end - slack / 2
        if whole and last - first >= STRETCH_S * RATE:
            return first - slack  # in the pause: no word before it is in there
        if first <= begin < last and voice.speech_within(begin, min(end, last)) > most_s:
            return begin + slack // 2  # past most of the word that is there
    return None


def certain(tokens: Sequence[int], scores: Sequence[float], previous: Sequence[int]) -> int:
    """How many tokens come before one that the model doubts and did not write at its last look.

    Args:
        tokens: of the hypothesis.
        scores: natural log-probability of each.
        previous: tokens of the last hypothesis, from the same place on.
    """
    agreed = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(tokens, previous, strict=False)))
    doubted = (i for i, score in enumerate(scores) if i >= agreed and score < math.log(DOUBT))
    return next(doubted, len(tokens))


def recurs(words: Sequence[str], at: int, run: int = RECURRING) -> bool:
    """Whether the few words from a place on stand before it, too, whatever their capitals and marks."""
    plain = [p for i, w in enumerate(words) if (p := _plain(w)) or i == at]
    at = sum(bool(_plain(w)) for w in words[:at])
    few = plain[at : at + run]
    return any(plain[i : i + len(few)] == few for i in range(at - len(few) + 1))


def _plain(word: str) -> str:
    return "".join(c for c in word.casefold() if c.isalnum())


def lengthened(bounds_s: Sequence[float], least_s: float, end_s: float) -> list[float]:
    """Boundaries of words such that each lasts `least_s`, or what there is for each before `end_s`.

    Args:
        bounds_s: start of each word, and the end of the last; they never fall.
        least_s: length of a word.
        end_s: what no word ends after, unless it began there.
    """
    out = list(bounds_s)
    if len(out) < 2:
        return out
    end_s = max(end_s, out[-1], out[0] + 1e-3 * (len(out) - 1))
    least_s = min(least_s, (end_s - out[0]) / (len(out) - 1))
    for i in range(1, len(out)):
        out[i] = max(out[i], out[i - 1] + least_s)
    out[-1] = min(out[-1], end_s)
    for i in range(len(out) - 2, 0, -1):
        out[i] = min(out[i], out[i + 1] - least_s)
    return out
