"""Scores are those of jiwer and sacrebleu on the same text; intervals cover; chance is not called a difference."""

import random
import sys
from collections.abc import Sequence

import jiwer
import numpy as np
import pytest

from mmx.errors import InputError
from mmx.evaluate import metrics
from mmx.evaluate.metrics import basic, mean, measure, normalizer, paired_p, suited

_LINE = "the a house tree Dog cats, sees hears of over Under. big small bird's woman 42 years"
WORDS = _LINE.split()


def texts(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(n)]


def spoiled(references: Sequence[str], share: float, seed: int) -> list[str]:
    """The references with a share of their words replaced, dropped or doubled."""
    rng = random.Random(seed)
    out = []
    for text in references:
        words = []
        for word in text.split():
            words += rng.choice([[], [word, word], ["something"]]) if rng.random() < share else [word]
        out.append(" ".join(words))
    return out


REFERENCES = texts(60, 1)
HYPOTHESES = [*spoiled(REFERENCES, 0.25, 2)[:-1], ""]


def value(metric: str, hypotheses: Sequence[str] = HYPOTHESES, references: Sequence[str] = REFERENCES, **how) -> float:
    return measure(metric, hypotheses, references, bootstrap=0, **{"normalize": "none", **how}).value


# -------------------- the figures


def test_word_and_character_errors_are_jiwers():
    assert value("wer") == pytest.approx(100 * jiwer.wer(REFERENCES, HYPOTHESES), abs=1e-12)
    assert value("cer") == pytest.approx(100 * float(jiwer.cer(REFERENCES, HYPOTHESES)), abs=1e-12)
    clean, _ = normalizer("basic")
    plain = [clean(t) for t in REFERENCES], [clean(t) for t in HYPOTHESES]
    assert value("wer", normalize="basic") == pytest.approx(100 * jiwer.wer(*plain), abs=1e-12)
    assert value("wer", normalize="basic") < value("wer", [t.lower() for t in HYPOTHESES])


@pytest.mark.parametrize(
    "language, tokenize", [("", "13a"), ("de", "13a"), ("zh", "zh"), ("Thai", "char")]
)  # fmt: skip
def test_bleu_and_chrf_are_sacrebleus(language: str, tokenize: str):
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    judge = sacrebleu.BLEU(tokenize=tokenize)
    expected = judge.corpus_score(HYPOTHESES, [REFERENCES]).score
    got = measure("bleu", HYPOTHESES, REFERENCES, language=language, bootstrap=0)
    assert got.value == pytest.approx(expected, abs=1e-12) and 10 < expected < 90
    assert got.signature == judge.get_signature().format() and f"tok:{tokenize}" in got.signature
    expected = sacrebleu.CHRF().corpus_score(HYPOTHESES, [REFERENCES]).score
    assert value("chrf", language=language) == pytest.approx(expected, abs=1e-12)


def test_japanese_is_scored_by_characters_where_mecab_is_missing(monkeypatch: pytest.MonkeyPatch):
    sacrebleu = pytest.importorskip("sacrebleu.metrics")
    for name in ("MeCab", "ipadic"):
        monkeypatch.setitem(sys.modules, name, None)
    hypotheses, references = ["今日は天気がいい", "猫がいます"], ["今日は天気が良い", "犬がいます"]
    got = measure("bleu", hypotheses, references, language="ja", bootstrap=0)
    judge = sacrebleu.BLEU(tokenize="char")
    assert got.value == judge.corpus_score(hypotheses, [references]).score
    assert "tok:char" in got.signature


def test_empty_references_count_what_is_written_as_errors():
    assert value("wer", ["a b", "c d"], ["", "c d"]) == pytest.approx(100 * jiwer.wer(["", "c d"], ["a b", "c d"]))
    assert value("wer", [""], [""]) == 0
    assert value("wer", ["a b"], [""]) == 200


def test_signatures_say_what_was_disregarded():
    assert "norm:basic" in measure("wer", ["a"], ["a"], normalize="basic", bootstrap=0).signature
    assert "norm:none|tok:characters" in measure("cer", ["a"], ["a"], normalize="none", bootstrap=0).signature


# -------------------- normalization


def test_basic_keeps_what_makes_a_word():
    assert basic("Don’t — STOP, now!") == "don't stop now"
    assert basic("हिन्दी में।") == "हिन्दी में"  # vowel signs are marks, not letters
    assert basic("ＡＢＣ１２") == "abc12"


def test_whispers_normalizers_are_used():
    pytest.importorskip("whisper")
    assert value("wer", ["it's twenty colours"], ["It is 20 colors."], language="en", normalize="whisper") == 0
    assert value("wer", ["das haus"], ["Das Haus!"], language="de", normalize="whisper") == 0
    assert value("wer", ["it's twenty"], ["It is 20"], language="de", normalize="whisper") > 0


def test_languages_without_spaces_have_characters_for_words():
    assert suited(["wer", "bleu"], "zh") == ("cer", "bleu")
    assert suited(["wer", "cer"], "Japanese") == ("cer",)
    assert suited(["wer", "cer"], "ko") == suited(["wer", "cer"], "") == ("wer", "cer")
    assert value("cer", ["今天 天气 好"], ["今天天气好。"], language="zh", normalize="basic") == 0
    assert value("cer", ["a b"], ["ab"], language="en", normalize="basic") > 0


# -------------------- the bootstrap


def test_the_bootstrap_repeats_by_seed():
    one, same, other = (measure("wer", HYPOTHESES, REFERENCES, normalize="none", seed=s) for s in (3, 3, 4))
    assert np.array_equal(one.samples, same.samples) and len(one.samples) == 1000
    assert not np.array_equal(one.samples, other.samples)
    assert one.interval == same.interval != other.interval
    assert measure("wer", HYPOTHESES, REFERENCES, normalize="none", bootstrap=0).interval is None


@pytest.mark.parametrize("metric", ["wer", "bleu"])
def test_a_resample_is_scored_as_the_sentences_it_holds(metric: str):
    if metric == "bleu":
        pytest.importorskip("sacrebleu")
    got = measure(metric, HYPOTHESES, REFERENCES, normalize="none", bootstrap=2, seed=5)
    rng = np.random.default_rng(5)
    for sample in got.samples:
        chosen = rng.integers(len(REFERENCES), size=len(REFERENCES))
        expected = value(metric, [HYPOTHESES[i] for i in chosen], [REFERENCES[i] for i in chosen])
        assert sample == pytest.approx(expected, abs=1e-9)


def test_the_interval_covers():
    """Of many test sets of one kind, about 95 % have the true rate within their interval."""
    share, sets = 0.3, 200
    rng = np.random.default_rng(0)
    covered = 0
    for i in range(sets):
        wrong = rng.random((100, 5)) < share
        hypotheses = [" ".join("x" if w else "a" for w in row) for row in wrong]
        low, high = measure(
            "wer", hypotheses, ["a a a a a"] * 100, normalize="none", bootstrap=300, seed=i
        ).interval or (0, 0)
        covered += low <= 100 * share <= high
    assert 0.89 * sets <= covered <= 0.99 * sets


def test_equal_systems_and_different_ones():
    one = measure("wer", HYPOTHESES, REFERENCES, normalize="none")
    assert paired_p(one, measure("wer", list(HYPOTHESES), REFERENCES, normalize="none")) == 1.0
    far = measure("wer", spoiled(REFERENCES, 0.8, 3), REFERENCES, normalize="none")
    assert paired_p(one, far) == paired_p(far, one) == 1 / 1001


def test_the_paired_test_errs_as_often_as_it_says():
    """Of pairs of equally good systems, about one in ten differs with p <= 0.1."""
    rng = np.random.default_rng(1)
    false = 0
    for i in range(200):
        systems = [[" ".join("x" if w else "a" for w in row) for row in rng.random((80, 5)) < 0.3] for _ in range(2)]
        one, other = (measure("wer", s, ["a a a a a"] * 80, normalize="none", bootstrap=200, seed=i) for s in systems)
        false += paired_p(one, other) <= 0.1
    assert 7 <= false <= 36


def test_pairs_must_be_of_the_same_test():
    one = measure("wer", HYPOTHESES, REFERENCES, normalize="none")
    for other in (
        measure("wer", HYPOTHESES, REFERENCES, normalize="none", bootstrap=10),
        measure("wer", HYPOTHESES, REFERENCES, normalize="basic"),
        measure("cer", HYPOTHESES, REFERENCES, normalize="none"),
    ):
        with pytest.raises(InputError, match="same metric"):
            paired_p(one, other)


def test_the_mean_is_over_test_sets_and_surer_than_each():
    parts = [measure("wer", spoiled(REFERENCES, 0.25, i), REFERENCES, normalize="none", seed=i) for i in range(6)]
    got = mean(parts)
    assert got.value == pytest.approx(np.mean([p.value for p in parts]))
    assert got.interval and parts[0].interval
    assert got.interval[1] - got.interval[0] < 0.6 * (parts[0].interval[1] - parts[0].interval[0])
    assert got.interval[0] < got.value < got.interval[1]


# -------------------- mistakes


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match=r"got 'beu'\. Did you mean 'bleu'"):
        measure("beu", ["a"], ["a"])
    with pytest.raises(InputError, match="got 1 and 2"):
        measure("wer", ["a"], ["a", "b"], normalize="none")
    with pytest.raises(InputError, match="got 'loud'"):
        measure("wer", ["a"], ["a"], normalize="loud")  # pyright: ignore[reportArgumentType]
    for module, metric, extra in (("sacrebleu.metrics", "bleu", "eval"), ("jiwer", "wer", "eval")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"pip install 'mmx\[{extra}\]'"):
            measure(metric, ["a"], ["a"], normalize="none")
    monkeypatch.undo()
    metrics._whisper.cache_clear()
    monkeypatch.setitem(sys.modules, "whisper.normalizers", None)
    with pytest.raises(InputError, match=r"--normalize basic.*mmx\[whisper\]"):
        measure("wer", ["a"], ["a"], normalize="whisper")
