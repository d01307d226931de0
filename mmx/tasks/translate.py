"""Text into another language: any length, any number of texts, no sentence dropped.

A text is cut into sentences, a sentence that is too long into clauses; they are decoded in batches of similar length,
and put back with the line breaks between them.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from mmx.errors import InputError, MmxWarning
from mmx.generate import Hypothesis, SearchOptions
from mmx.interfaces import SourceTokenizer
from mmx.model import Model
from mmx.seq import pad
from mmx.tasks.text_search import TextSearch, has_loop
from mmx.tasks.words import SentenceTranslation, Translation
from mmx.text.languages import check_script, find_language
from mmx.text.sentences import Sentence, split_long, split_sentences
from mmx.weights.card import suggestion

MAX_SOURCE = 256
"""Tokens that a source sentence may have; the models were trained on sentences, and on longer ones they drop parts."""


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
    shortlist: Sequence[int] | str | None = None,
    max_source: int | None = None,
) -> list[Translation]:
    """Translate texts.

    Args:
        model: with a text encoder and a `SourceTokenizer`.
        texts: of any length; one that is only white space is returned as it is.
        src: language of the texts, as `mmx.text.languages.find_language` takes it.
        to: language to translate into.
        beam_size: hypotheses of the search; 1 is greedy.
        batch_size: sentences decoded at once.
        shortlist: ids of the tokens that may be written, or what `mmx.text.shortlist.read` takes; all when None.
        max_source: tokens past which a sentence is cut into clauses; what the model's card says when None.

    Raises:
        InputError: the model does not translate text, does not have a language, or was not trained in that direction.
    """
    if isinstance(texts, str):
        raise InputError("expected a list of texts, got one text: put it in a list")
    tok = model.tokenizer
    if "text" not in model.encoders or not isinstance(tok, SourceTokenizer):
        raise InputError(f"expected a model that translates text, got {model.name}: {suggestion('translate-text')}")
    if batch_size < 1:
        raise InputError(f"expected batch_size >= 1, got {batch_size}")
    source, target = tok.language(src), tok.language(to)
    _check_direction(model, source, target)
    _warn_of_wrong_script(texts, source, tok)
    max_source = max_source or (model.card.max_source if model.card else 0) or MAX_SOURCE
    longest = min(max_source, model.encoders["text"].ctx)  # pyright: ignore[reportArgumentType]
    pieces = [_pieces(text, lambda t, tok=tok: tok.source(t, source), longest) for text in texts]
    rows = [p for text_pieces in pieces for p in text_pieces if p.text]
    writer = _Sentences(model, TextSearch(model, target, shortlist), SearchOptions(beam_size=beam_size))
    done = iter(_in_batches(rows, batch_size, writer))
    joint = " " if find_language(target).spaced else ""
    return [_assembled(text_pieces, done, source, target, joint) for text_pieces in pieces]


def _check_direction(model: Model, source: str, target: str) -> None:
    """A model whose card says what it writes has learned to write nothing else, and to read the others."""
    writes = model.card.writes if model.card else ()
    reads_it, writes_it = (find_language(x).tag in writes for x in (source, target))
    if writes and (reads_it or not writes_it):
        raise InputError(
            f"expected a translation into {', '.join(writes)} from another language, got {source} to {target}: "
            f"{model.name} was trained for nothing else"
        )


def _warn_of_wrong_script(texts: Iterable[str], language: str, tokenizer: SourceTokenizer) -> None:
    own = find_language(language)
    wrong = [message for text in texts if (message := check_script(text, own) or _check_pieces(text, tokenizer))]
    if wrong:
        more = f" ({len(wrong)} texts are like this)" if len(wrong) > 1 else ""
        warnings.warn(wrong[0] + more, MmxWarning, stacklevel=3)


def _check_pieces(text: str, tokenizer: SourceTokenizer) -> str:
    """What is wrong with the letters of a text; a few that a model does not have are usual, in names."""
    foreign = tokenizer.foreign(text)
    if 4 * len(foreign) <= sum(c.isalpha() for c in text):
        return ""
    letters = "".join(dict.fromkeys(foreign))
    return (
        f"expected text in letters that the model has, got {text.strip()[:40]!r}: its vocabulary is for other "
        f"languages and lacks {letters[:20]!r}"
    )


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


class _Sentences:
    """Translates batches of sentences; a loop is searched again with repetition forbidden."""

    NO_REPEAT = 3

    def __init__(self, model: Model, write: TextSearch, options: SearchOptions):
        self.model, self.write, self.options = model, write, options

    def __call__(self, batch: Sequence[_Piece]) -> list[SentenceTranslation]:
        found = self.search(batch, self.options)
        looping = [i for i, h in enumerate(found) if has_loop(h.tokens) and not has_loop(batch[i].ids[1:-1])]
        if looping:
            calm = replace(self.options, no_repeat_ngram=self.NO_REPEAT)
            again = self.search([batch[i] for i in looping], calm)
            for i, h in zip(looping, again, strict=True):
                found[i] = h
        return [
            SentenceTranslation(
                piece.text,
                self.model.require_tokenizer().decode(h.tokens),
                h.avg_log_prob,
                repetition=i in looping,
                cut=not h.ended,
                divided=piece.divided,
            )
            for i, (piece, h) in enumerate(zip(batch, found, strict=True))
        ]

    def search(self, batch: Sequence[_Piece], options: SearchOptions) -> list[Hypothesis]:
        """The best translation of each piece of a batch of one limit."""
        device = self.model.require_decoder().device
        with torch.inference_mode():
            memory = self.model.memory({"text": pad([torch.tensor(p.ids, device=device) for p in batch])})
            return self.write(memory, replace(options, max_tokens=batch[0].limit))


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
