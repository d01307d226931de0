"""Scores of texts against references: WER, CER, BLEU, chrF, ROUGE-L, how sure they are, and what was computed.

Thin over jiwer and sacrebleu, whose figures these are. Every metric is a function of counts that add up over sentences
(errors and words, matching n-grams), so a resample of a test set is a sum of rows and a thousand of them cost little.

Letters: N sentences, S counts of a sentence, R resamples.
"""
# sacrebleu's counts by sentence have no public name; its own significance tests take them from the same methods.

import importlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np

from mmx.errors import InputError, nearest
from mmx.evaluate.options import Metric, Normalize
from mmx.evaluate.presets import Preset, find_preset
from mmx.evaluate.rouge import BETAS, rouge_l
from mmx.text.languages import find_language

ERRORS = ("wer", "cer")
"""Metrics of which less is better."""
METRICS = get_args(Metric)
USUAL = ("wer", "cer", "bleu", "chrf")
"""Metrics of texts of which nothing is known."""

_MECAB = {"jpn": "ja-mecab", "kor": "ko-mecab"}


@dataclass(frozen=True)
class Measurement:
    """A score of a test set.

    Attributes:
        metric: one of `METRICS`.
        value: in percent, as jiwer (times 100) and sacrebleu give it.
        samples: `(R,)` the same of every resample of the sentences; empty without a bootstrap.
        signature: all that the value depends on but the texts, as sacrebleu writes it.
        sentences: that were scored.
    """

    metric: str
    value: float
    samples: np.ndarray
    signature: str
    sentences: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where 95 % of the resamples lie (the percentile bootstrap); None without a bootstrap."""
        if not len(self.samples):
            return None
        low, high = np.quantile(self.samples, (0.025, 0.975))
        return float(low), float(high)


def measure(
    metric: str,
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    language: str = "",
    normalize: Normalize = "whisper",
    bootstrap: int = 1000,
    seed: int = 0,
    preset: str = "none",
) -> Measurement:
    """Score texts.

    Args:
        metric: one of `METRICS`.
        hypotheses: what a system wrote, one text a sentence.
        references: what it should have written.
        language: of the texts: chooses the normalization and BLEU's tokenizer. Without one, words lie between spaces.
        normalize: what WER and CER disregard: `whisper` what Whisper's normalizers do (spelling and numbers in English,
            punctuation and marks elsewhere), `basic` case and punctuation, `none` nothing. BLEU and chrF are of the
            texts as they are, as they are published.
        bootstrap: resamples R; 0 for none.
        seed: of the resampling. The same for two systems pairs them: both are judged on the same resamples.
        preset: a protocol of `mmx.evaluate.presets`, which goes before `language`.

    Raises:
        InputError: there are not as many hypotheses as references, or a package is missing.
    """
    check_metrics([metric])
    if len(hypotheses) != len(references) or not references:
        raise InputError(f"expected as many hypotheses as references, got {len(hypotheses)} and {len(references)}")
    how = _kind(metric, language, normalize, None if preset == "none" else find_preset(preset))
    if preset != "none":
        clean = find_preset(preset).clean
        hypotheses, references = [clean(t) for t in hypotheses], [clean(t) for t in references]
    counts_NS = np.asarray(how.count(hypotheses, references), dtype=np.float64)
    sums_RS = _resampled(counts_NS, bootstrap, seed)
    samples = np.array([how.score(row) for row in sums_RS])
    signature = how.signature() if preset == "none" else f"preset:{preset}|{how.signature()}"
    return Measurement(metric, how.score(counts_NS.sum(0)), samples, signature, len(references))


def mean(measurements: Sequence[Measurement]) -> Measurement:
    """The unweighted mean of one metric over several test sets, whose resamples are independent."""
    first = measurements[0]
    signatures = list(dict.fromkeys(m.signature for m in measurements))
    return Measurement(
        first.metric,
        float(np.mean([m.value for m in measurements])),
        np.mean([m.samples for m in measurements], axis=0),
        f"mean of {len(measurements)}: " + "; ".join(signatures),
        sum(m.sentences for m in measurements),
    )


def paired_p(one: Measurement, other: Measurement) -> float:
    """How probable a difference this large is between systems that are equally good.

    The paired bootstrap (Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation"), two-sided,
    with the differences of the resamples centred on 0 (Riezler and Maxwell 2005). Both measurements are of the same
    sentences and the same seed.

    Raises:
        InputError: they are not, or were made without a bootstrap.
    """
    if one.samples.shape != other.samples.shape or not len(one.samples) or one.signature != other.signature:
        raise InputError("expected two measurements of the same metric, sentences and bootstrap, got others")
    differences = one.samples - other.samples
    chance = np.abs(differences - differences.mean())
    # As large as the observed one but for rounding: two equal systems differ by 0 everywhere.
    hits = int((chance >= abs(one.value - other.value) - 1e-9).sum())
    return (hits + 1) / (len(chance) + 1)


def check_metrics(metrics: Sequence[str]) -> None:
    """Raise `InputError` for an unknown metric, or where there is none."""
    for name in metrics:
        if name not in METRICS:
            raise InputError(f"expected metrics among {', '.join(METRICS)}, got {name!r}.{nearest(name, METRICS)}")
    if not metrics:
        raise InputError(f"expected metrics among {', '.join(METRICS)}, got none")


def suited(metrics: Sequence[str], language: str) -> tuple[str, ...]:
    """The metrics with CER in the place of WER where a language is written without spaces, and so has no words."""
    spaced = not language or find_language(language).spaced
    return tuple(dict.fromkeys("cer" if m == "wer" and not spaced else m for m in metrics))


# -------------------- what is counted


@dataclass(frozen=True)
class _Metric:
    """A metric by its parts: counts of sentences, the score of their sum, and, after counting, what was done."""

    count: Callable[[Sequence[str], Sequence[str]], list[list[float]]]
    score: Callable[[np.ndarray], float]
    signature: Callable[[], str]


def _resampled(counts_NS: np.ndarray, times: int, seed: int) -> np.ndarray:
    """Sums of the counts of `times` samples of N sentences with replacement, `(R, S)`."""
    rng, n = np.random.default_rng(seed), len(counts_NS)
    sums = [counts_NS[rng.integers(n, size=n)].sum(0) for _ in range(times)]
    return np.array(sums).reshape(times, counts_NS.shape[1])


def _kind(metric: str, language: str, normalize: Normalize, preset: Preset | None) -> _Metric:
    if metric in ERRORS:
        return _errors(metric, language, normalize)
    return _sequences(metric, preset) if metric in BETAS else _matches(metric, language, preset)


def _errors(metric: str, language: str, normalize: Normalize) -> _Metric:
    """Edits and reference length of each sentence, in words or characters."""
    jiwer = _package("jiwer", "eval")
    clean, name = normalizer(normalize, language)
    process = jiwer.process_words if metric == "wer" else jiwer.process_characters
    tokens = "words" if metric == "wer" else "characters"

    def count(hypotheses: Sequence[str], references: Sequence[str]) -> list[list[float]]:
        rows = []
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            found = process(clean(reference), clean(hypothesis))
            edits = found.substitutions + found.deletions + found.insertions
            rows.append([edits, found.hits + found.substitutions + found.deletions])
        return rows

    return _Metric(
        count,
        lambda sums: float(100 * sums[0] / max(1.0, sums[1])),
        lambda: f"nrefs:1|norm:{name}|tok:{tokens}|version:jiwer-{version('jiwer')}",
    )


def _matches(metric: str, language: str, preset: Preset | None) -> _Metric:
    """Matching n-grams of each sentence, of words or characters."""
    metrics = _package("sacrebleu.metrics", "eval")
    lowercase = preset is not None and preset.lowercase
    if metric == "chrf":
        judge = metrics.CHRF(lowercase=lowercase)
    else:
        order = int(metric.partition("-")[2] or 4)
        tokenize = _tokenizer(metrics, language) if preset is None else preset.tokenize
        judge = metrics.BLEU(tokenize=tokenize, max_ngram_order=order, lowercase=lowercase)
    return _Metric(
        lambda hypotheses, references: judge._extract_corpus_statistics(hypotheses, [references]),
        lambda sums: float(judge._compute_score_from_stats(sums.astype(int).tolist()).score),
        lambda: judge.get_signature().format(),
    )


def _tokenizer(metrics: Any, language: str) -> str | None:
    """BLEU's tokenizer that sacrebleu gives a language; single characters where that one is not installed."""
    if not language:
        return None
    found = find_language(language)
    if found.code == "zho":
        return "zh"
    if found.code in _MECAB:
        try:
            return metrics.BLEU(tokenize=_MECAB[found.code]) and _MECAB[found.code]
        except RuntimeError:  # a dictionary that is not part of sacrebleu; the signature says tok:char
            return "char"
    return "13a" if found.spaced else "char"


def _sequences(metric: str, preset: Preset | None) -> _Metric:
    """ROUGE-L of each sentence, and that it is one."""
    beta, tokens = BETAS[metric], str.split if preset is None else preset.tokens
    lowercase = preset is not None and preset.lowercase

    def count(hypotheses: Sequence[str], references: Sequence[str]) -> list[list[float]]:
        pairs = zip(hypotheses, references, strict=True)
        cased = ((h.lower(), r.lower()) if lowercase else (h, r) for h, r in pairs)
        return [[rouge_l(tokens(h), tokens(r), beta), 1.0] for h, r in cased]

    case, tok = "lc" if lowercase else "mixed", "char" if tokens is list else "spaces"
    return _Metric(
        count,
        lambda sums: float(100 * sums[0] / max(1.0, sums[1])),
        lambda: f"nrefs:1|case:{case}|tok:{tok}|beta:{beta:g}|mean:sentences",
    )


# -------------------- normalization


def normalizer(kind: Normalize, language: str = "") -> tuple[Callable[[str], str], str]:
    """What WER and CER see of a text, and its name for a signature; arguments as in `measure`.

    In a language without spaces between words, those that a system writes do not count.

    Raises:
        InputError: an unknown kind, or openai-whisper is missing.
    """
    if kind not in get_args(Normalize):
        raise InputError(f"expected normalize among {', '.join(get_args(Normalize))}, got {kind!r}")
    if kind == "none":
        return str, kind
    found = find_language(language) if language else None
    clean, name = basic, "basic"
    if kind == "whisper":
        clean, name = _whisper(found is not None and found.code == "eng")
    if found is None or found.spaced:
        return clean, name
    return lambda text: "".join(clean(text).split()), f"{name}-unspaced"


def installed_normalization() -> Normalize:
    """`whisper` where openai-whisper is installed, else `basic`."""
    return "whisper" if find_spec("whisper") else "basic"


def basic(text: str) -> str:
    """Lower case without punctuation and symbols. Letters keep their marks, which in many scripts are the vowels."""
    kept = (c if unicodedata.category(c)[0] in "LMN" or c == "'" else " " for c in _plain(text))
    return " ".join("".join(kept).split())


def _plain(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")


@lru_cache(maxsize=2)
def _whisper(english: bool) -> tuple[Callable[[str], str], str]:
    normalizers = _package("whisper.normalizers", "whisper", "openai-whisper, or choose --normalize basic")
    made = normalizers.EnglishTextNormalizer() if english else normalizers.BasicTextNormalizer()
    return made, f"whisper-{'english' if english else 'basic'}-{version('openai-whisper')}"


def _package(name: str, extra: str, what: str = "") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as e:
        what = what or name.partition(".")[0]
        raise InputError(f"expected the package {what}, got none: pip install 'mmx[{extra}]'") from e
