"""Text into another language: any length, any number of texts, no sentence dropped.

A text is cut into sentences, a sentence that is too long into clauses; they are decoded in batches of similar length,
and put back with the line breaks between them.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmx.errors import InputError, MmxWarning
from mmx.generate import Hypothesis, SearchOptions, Suppress, search
from mmx.languages import check_script, find_language
from mmx.model import Model
from mmx.sentences import Sentence, split_long, split_sentences
from mmx.seq import pad
from mmx.shortlist import ShortlistDecoder

MAX_SOURCE = 256
"""Tokens that a source sentence may have; the models were trained on sentences, and on longer ones they drop parts."""


@dataclass(frozen=True)
class SentenceTranslation:
    """A sentence, or a part of one that was too long, and its translation.

    Attributes:
        source: the sentence.
        text: its translation.
        score: mean log-probability of the translation's tokens and its end.
        repetition: the search ran into a loop, and again with repetition forbidden; `text` is the second result.
        cut: the translation reached the limit of its length before its end.
        divided: the sentence was too long and this is a part of it.
    """

    source: str
    text: str
    score: float
    repetition: bool = False
    cut: bool = False
    divided: bool = False


@dataclass(frozen=True)
class Translation:
    """A text in another language.

    Attributes:
        text: the translation, with the line breaks of the source.
        segments: sentence by sentence, in order; none where the source has only white space.
        src: language of the source, as the model spells it.
        to: language of the translation, as the model spells it.
    """

    text: str
    segments: tuple[SentenceTranslation, ...]
    src: str
    to: str


@dataclass(frozen=True)
class _Piece:
    """One row of a batch: sentence, its tokens, what follows it in the source."""

    text: str
    ids: tuple[int, ...]
    gap: str
    divided: bool

    @property
    def limit(self) -> int:
        """Tokens that its translation may have. Of its own length alone, so that a batch equals single runs."""
        return 2 * (-(-len(self.ids) // 16) * 16) + 32


def translate_text(
    model: Model,
    texts: Sequence[str],
    *,
    src: str,
    to: str,
    beam_size: int = 5,
    batch_size: int = 16,
    shortlist: Sequence[int] | None = None,
    max_source: int = MAX_SOURCE,
) -> list[Translation]:
    """Translate texts.

    Args:
        model: with a text encoder and a `TranslationTokenizer`.
        texts: of any length; one that is only white space is returned as it is.
        src: language of the texts, as `mmx.languages.find_language` takes it.
        to: language to translate into.
        beam_size: hypotheses of the search; 1 is greedy.
        batch_size: sentences decoded at once.
        shortlist: ids of the tokens that may be written (see `mmx.shortlist`); all when None.
        max_source: tokens past which a sentence is cut into clauses.

    Raises:
        InputError: the model does not translate text, or does not have a language.
    """
    if isinstance(texts, str):
        raise InputError("expected a list of texts, got one text: put it in a list")
    if "text" not in model.encoders or not hasattr(model.tokenizer, "prompt"):
        raise InputError(f"expected a model that translates text, got {model.name}: use nllb-200-distilled-600m")
    if batch_size < 1:
        raise InputError(f"expected batch_size >= 1, got {batch_size}")
    tok = model.tokenizer
    source, target = tok.language(src), tok.language(to)
    _warn_of_wrong_script(texts, source)
    longest = min(max_source, model.encoders["text"].ctx)  # pyright: ignore[reportArgumentType]
    pieces = [_pieces(text, lambda t: tok.source(t, source), longest) for text in texts]
    rows = [p for text_pieces in pieces for p in text_pieces if p.text]
    writer = _Writer(model, target, SearchOptions(beam_size=beam_size), shortlist)
    done = iter(_in_batches(rows, batch_size, writer))
    joint = " " if find_language(target).spaced else ""
    return [_assembled(text_pieces, done, source, target, joint) for text_pieces in pieces]


def _warn_of_wrong_script(texts: Iterable[str], language: str) -> None:
    wrong = [message for text in texts if (message := check_script(text, find_language(language)))]
    if wrong:
        more = f" ({len(wrong)} texts are like this)" if len(wrong) > 1 else ""
        warnings.warn(wrong[0] + more, MmxWarning, stacklevel=3)


def _pieces(text: str, ids: Callable[[str], list[int]], longest: int) -> list[_Piece]:
    """A text as rows for the encoder, each of at most `longest` tokens."""
    out = []
    for sentence in split_sentences(text):
        if not sentence.text:
            out.append(_Piece("", (), sentence.gap, False))
            continue
        parts = split_long(sentence.text, lambda part: len(ids(part)) <= longest)
        parts[-1] = Sentence(parts[-1].text, sentence.gap)
        out += [_Piece(p.text, tuple(ids(p.text)), p.gap, len(parts) > 1) for p in parts]
    return out


def _in_batches(
    rows: Sequence[_Piece], size: int, write: Callable[[Sequence[_Piece]], list[SentenceTranslation]]
) -> list[SentenceTranslation]:
    """Segments in the order of the rows, decoded in batches of rows with one limit, by length."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    out: dict[int, SentenceTranslation] = {}
    while order:
        limit = rows[order[0]].limit
        n = sum(1 for i in order[:size] if rows[i].limit == limit)
        batch, order = order[:n], order[n:]
        out.update(zip(batch, write([rows[i] for i in batch]), strict=True))
    return [out[i] for i in range(len(rows))]


class _Writer:
    """Decodes batches into one language."""

    def __init__(self, model: Model, target: str, options: SearchOptions, shortlist: Sequence[int] | None):
        self.model, self.options, tok = model, options, model.tokenizer
        self.prompt = tok.prompt(target)
        controls = tok.control_ids
        kept = range(tok.n_vocab) if shortlist is None else sorted({*shortlist, *self.prompt, tok.eot})
        self.short = None if shortlist is None else ShortlistDecoder(model.decoder, kept)
        self.decoder: Any = model.decoder if self.short is None else self.short
        self.filters = [Suppress(self._to_search(controls))]
        self.eot = self._to_search([tok.eot])[0]

    def _to_search(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens if self.short is None else self.short.short(tokens)

    def _from_search(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens if self.short is None else self.short.long(tokens)

    def __call__(self, batch: Sequence[_Piece]) -> list[SentenceTranslation]:
        found = self._search(batch, self.options)
        looping = [i for i, h in enumerate(found) if has_loop(h.tokens) and not has_loop(batch[i].ids[1:-1])]
        if looping:
            again = self._search([batch[i] for i in looping], replace(self.options, no_repeat_ngram=3))
            for i, h in zip(looping, again, strict=True):
                found[i] = h
        return [
            SentenceTranslation(
                piece.text,
                self.model.tokenizer.decode(self._from_search(h.tokens)),
                h.avg_log_prob,
                repetition=i in looping,
                cut=not h.ended,
                divided=piece.divided,
            )
            for i, (piece, h) in enumerate(zip(batch, found, strict=True))
        ]

    def _search(self, batch: Sequence[_Piece], options: SearchOptions) -> list[Hypothesis]:
        device = self.model.decoder.token.weight.device
        room = self.model.decoder.ctx - len(self.prompt)
        options = replace(options, max_tokens=min(batch[0].limit, room))
        with torch.inference_mode():
            memory = self.model.memory({"text": pad([torch.tensor(p.ids, device=device) for p in batch])})
            dtype = self.model.decoder.ln.weight.dtype
            prefix = torch.tensor([self._to_search(self.prompt)] * len(batch), device=device)
            result = search(self.decoder, memory.to(dtype), prefix, self.eot, options, self.filters)
        return [hypotheses[0] for hypotheses in result.rows]


def has_loop(tokens: Sequence[int], times: int = 4, shortest: int = 8, longest_unit: int = 16) -> bool:
    """Whether a run of tokens repeats itself `times` in a row over at least `shortest` tokens."""
    for unit in range(1, longest_unit + 1):
        same = 0
        for a, b in zip(tokens, tokens[unit:], strict=False):
            same = same + 1 if a == b else 0
            if same + unit >= max(times * unit, shortest):
                return True
    return False


def _assembled(
    pieces: Sequence[_Piece], done: Iterator[SentenceTranslation], src: str, to: str, joint: str
) -> Translation:
    """One translation: line breaks of the source stay, other gaps are as the target language has them."""
    segments: list[SentenceTranslation] = []
    out = ""
    for piece in pieces:
        if piece.text:
            segments.append(next(done))
            out += segments[-1].text
        is_break = any(c in piece.gap for c in "\r\n\u2028\u2029")
        out += piece.gap if is_break or piece is pieces[-1] or not piece.text else joint
    return Translation(out, tuple(segments), src, to)
