"""Measures of lateness: against SimulEval's own figures, against cases done by hand, and on long recordings."""

import pytest

from mmx.errors import InputError
from mmx.evaluate.latency import Sentence, Timed, latency, resegment, stream_laal

# Logs and what SimulEval 1.1.4 says of them.
SIMULEVAL = [
    (
        Timed(words=["w"] * 6, delays_ms=[640, 640, 1280, 1920, 2560, 2560],
              elapsed_ms=[700, 720, 1400, 2100, 2810.5, 2830], source_ms=2560, reference=["r"] * 5),
        {"AL": 384.0, "LAAL": 554.666667, "AP": 0.75, "DAL": 711.111111, "ATD": 766.666667, "StartOffset": 640,
         "EndOffset": 0, "AL_CA": 522.1, "LAAL_CA": 692.766667, "AP_CA": 0.825039, "DAL_CA": 854.611111,
         "ATD_CA": 833.416667, "StartOffset_CA": 700, "EndOffset_CA": 270},
    ),
    (
        Timed(words=["w"] * 4, delays_ms=[300, 950, 950, 1700], elapsed_ms=[300, 1000, 1000, 1900], source_ms=2100,
              reference=["r"] * 6),
        {"AL": 450.0, "LAAL": 450.0, "AP": 0.309524, "DAL": 393.75, "ATD": 287.5, "StartOffset": 300,
         "EndOffset": -400, "AL_CA": 525.0, "LAAL_CA": 525.0, "AP_CA": 0.333333, "DAL_CA": 431.25, "ATD_CA": 350.0,
         "StartOffset_CA": 300, "EndOffset_CA": -200},
    ),
    (
        Timed(words=["w"], delays_ms=[900], elapsed_ms=[950], source_ms=900, reference=["r"]),
        {"AL": 900.0, "LAAL": 900.0, "AP": 1.0, "DAL": 900.0, "ATD": 600.0, "StartOffset": 900, "EndOffset": 0,
         "AL_CA": 950, "LAAL_CA": 950, "AP_CA": 1.055556, "DAL_CA": 950.0, "ATD_CA": 650.0, "StartOffset_CA": 950,
         "EndOffset_CA": 50},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("timed", "expected"), SIMULEVAL)
def test_figures_are_those_of_simuleval(timed: Timed, expected: dict[str, float]):
    assert latency([timed]) == pytest.approx(expected, abs=1e-5)


def spoken(words: str, *delays_ms: float, source_ms: float = 4000, reference: str = "") -> Timed:
    return Timed(words=words.split(), delays_ms=delays_ms, source_ms=source_ms, reference=reference.split())


def test_a_text_at_the_ideal_pace_lags_by_its_start():
    # Four words over 4 s, the first after 1 s, then one each second: behind an ideal writer by 1 s, always.
    found = latency([spoken("a b c d", 1000, 2000, 3000, 4000)])
    assert (found["AL"], found["LAAL"], found["DAL"]) == (1000, 1000, 1000)
    assert found["AP"] == (1 + 2 + 3 + 4) / (4 * 4)


def test_all_at_the_end_lags_by_the_whole_source():
    found = latency([spoken("a b c d", 4000, 4000, 4000, 4000)])
    assert (found["AL"], found["EndOffset"]) == (4000, 0)
    # The cost of a word that shares its moment is what an even pace would have spared: DAL lets nothing catch up.
    assert found["DAL"] == 4000


def test_writing_too_much_is_rewarded_by_al_and_not_by_laal():
    # Eight words where two were due: AL believes the ideal writer to be at its second word after 2 s.
    found = latency([spoken("a b c d e f g h", *(500 * i for i in range(1, 9)), reference="a b")])
    assert found["AL"] == pytest.approx((sum(500 * i for i in range(1, 9)) - 2000 * 28) / 8)
    assert found["AL"] < 0
    assert found["LAAL"] == 500


def test_token_delay_by_hand():
    # 600 ms heard are two pieces, ended at 300 and 600. Words 1, 2 stand for them: 600 - 300, 600 - 600.
    # At 900 ms a third piece: word 3 stands for it (900 - 900), and word 4 has none left but the same (900 - 900).
    assert latency([spoken("a b c d", 600, 600, 900, 900, source_ms=900)])["ATD"] == 300 / 4


def test_recordings_without_text_do_not_count():
    one = spoken("a b", 1000, 4000)
    assert latency([one, spoken("")]) == latency([one])
    assert latency([spoken("")]) == {}


def test_figures_that_cannot_be():
    with pytest.raises(InputError, match="a delay for each of 2 words, got 1"):
        spoken("a b", 1)
    with pytest.raises(InputError, match="longer than 0"):
        spoken("a", 1, source_ms=0)


SENTENCES = [
    Sentence(["the", "cat", "sat"], 0, 3000),
    Sentence(["a", "dog", "ran", "home"], 3000, 7000),
    Sentence(["nobody", "spoke"], 7000, 9000),
]


def test_a_long_text_is_cut_where_its_alignment_says():
    text = ["The", "cat,", "um,", "sat", "a", "hog", "ran", "home"]
    delays = [1000, 2000, 2000, 3500, 4500, 5000, 6500, 7000]
    parts = resegment(Timed(words=text, delays_ms=delays, source_ms=9000), SENTENCES)
    assert [list(p.words) for p in parts] == [["The", "cat,", "um,", "sat"], ["a", "hog", "ran", "home"], []]
    assert list(parts[1].delays_ms) == [1500, 2000, 3500, 4000]
    assert [p.source_ms for p in parts] == [3000, 4000, 2000]


def test_stream_laal_is_the_mean_over_sentences_on_their_own_clocks():
    text, delays = ["the", "cat", "sat", "a", "dog", "ran", "home"], [1000, 2000, 3000, 4000, 5000, 6000, 7000]
    timed = Timed(words=text, delays_ms=delays, source_ms=9000)
    assert stream_laal(timed, SENTENCES) == 1000  # each sentence at the ideal pace, 1 s behind; the third has no text
    late = Timed(words=text, delays_ms=[*delays[:3], 5000, 6000, 7000, 8000], source_ms=9000)
    # The second sentence two seconds behind: its third word already has all of its source.
    assert stream_laal(late, SENTENCES) == pytest.approx((1000 + 2000) / 2)
    with pytest.raises(InputError, match="some text"):
        stream_laal(Timed(words=[], delays_ms=[], source_ms=9000), SENTENCES)


def test_the_cut_makes_the_fewest_word_errors():
    def errors(text: list[str], reference: list[str]) -> int:
        row = list(range(len(reference) + 1))
        for i, a in enumerate(text, 1):
            last, row[0] = row[0], i
            for j, b in enumerate(reference, 1):
                last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (a != b))
        return row[-1]

    import random

    rng = random.Random(3)
    for _ in range(30):
        sentences = [Sentence([rng.choice("abcd") for _ in range(rng.randint(1, 4))], 0, 1000) for _ in range(3)]
        text = [rng.choice("abcd") for _ in range(rng.randint(0, 9))]
        timed = Timed(words=text, delays_ms=[0.0] * len(text), source_ms=1000)
        parts = resegment(timed, sentences)
        assert [w for p in parts for w in p.words] == text
        whole = errors(text, [w for s in sentences for w in s.words])
        assert sum(errors(list(p.words), list(s.words)) for p, s in zip(parts, sentences, strict=True)) == whole
