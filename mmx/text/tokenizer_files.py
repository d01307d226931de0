"""Changing the vocabulary in a tokenizer's files: appending pieces and languages, or keeping only some.

Three kinds are known: SentencePiece's `.model` (unigram and BPE), `tokenizer.json` (to keep only some), and bytes,
which have no pieces. What is written is read by `mmx.load`, with its `config.json` and `tokenizer_config.json`.
"""

import io
import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmx.errors import InputError
from mmx.files import atomic_write
from mmx.text import byte_tokenizer
from mmx.text.sentencepiece_proto import Kind, Piece, is_bpe, read_pieces, with_pieces
from mmx.text.train_tokenizer import FILE
from mmx.text.translation_tokenizer import TranslationTokenizer, byte_of

JSON = "tokenizer.json"
Rank = Callable[[str, str], float | None]
"""When two pieces are merged: lower is earlier; None for two that never are."""


# -------------------- appending


def append(
    file: Path,
    tokenizer: TranslationTokenizer,
    languages: Sequence[str],
    texts: Iterable[str],
    limit: int,
    folder: Path,
) -> list[str]:
    """Write a tokenizer with more languages and, for characters that had no piece, more pieces.

    All old ids stay. As each new piece holds a character that no old one does, a text of old characters keeps its ids.
    The new ids follow the rows that the model has: first the languages, then the pieces.

    Args:
        file: of the tokenizer.
        tokenizer: read from it.
        languages: the new ones, spelled as they will be.
        texts: in the new languages.
        limit: pieces to add at most; each new character gets one in any case.
        folder: receives the files.

    Returns:
        The new pieces.

    Raises:
        InputError: the kind of tokenizer cannot be extended.
    """
    ids = {**tokenizer.language_ids, **{name: tokenizer.n_vocab + i for i, name in enumerate(languages)}}
    if tokenizer.pieces.bytes_only:
        _write_bytes(folder, ids)
        return []
    model = file.read_bytes()
    old = read_pieces(model)
    new = _learned(model, old, texts, limit)
    gap = tokenizer.n_vocab + len(languages) - 1 - len(old)  # a piece's id is its place plus one
    # No text holds a space once its spaces are "▁", so that a piece with one is never found.
    unused = [Piece(f" {i}", 0.0, Kind.UNUSED) for i in range(len(old), len(old) + gap)]
    _write_settings(folder, tokenizer, ids)
    atomic_write(folder / FILE, with_pieces(model, [*old, *unused, *new]) if new else model)
    return [piece.text for piece in new]


def _learned(model: bytes, old: Sequence[Piece], texts: Iterable[str], limit: int) -> list[Piece]:
    """Pieces for the words with characters that no old piece holds, by the old model's own method."""
    known = {c for piece in old if piece.kind in (Kind.NORMAL, Kind.USER_DEFINED) for c in piece.text}
    plain = (unicodedata.normalize("NFKC", text) for text in texts)
    words = [w for text in plain for w in text.split() if not known.issuperset(w)]
    characters = {c for word in words for c in word} - known
    if not characters:
        return []
    bpe = is_bpe(model)
    found = {p.text: p.score for p in _trained(words, "bpe" if bpe else "unigram", limit, len(characters))}
    found = {text: score for text, score in found.items() if not known.issuperset(text)}
    best = sorted((t for t in found if len(t) > 1), key=lambda t: -found[t])[: max(0, limit - len(characters))]
    lowest = min([0.0, *found.values()])
    new = [Piece(c, found.get(c, lowest)) for c in sorted(characters, key=lambda c: -found.get(c, lowest))]
    new += [Piece(t, found[t]) for t in best]
    if not bpe:
        return new
    floor = min(p.score for p in old)  # after all old merges, in the order of their own
    return [Piece(p.text, floor - 1 - i) for i, p in enumerate(_reachable(old, new))]


def _trained(words: Sequence[str], kind: str, limit: int, characters: int) -> list[Piece]:
    """A model of the words alone; none where they are too few for one, so that characters must do."""
    from sentencepiece import SentencePieceTrainer

    out = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(words),
            model_writer=out,
            vocab_size=max(limit, 2 * characters) + 100,  # some will be of old characters only
            model_type=kind,
            hard_vocab_limit=False,
            normalization_rule_name="nmt_nfkc",
            character_coverage=1.0,
            num_threads=1,  # the result depends on it
            minloglevel=2,
        )
    except RuntimeError:
        return []
    return [p for p in read_pieces(out.getvalue()) if p.kind == Kind.NORMAL]


def _reachable(old: Sequence[Piece], new: Sequence[Piece]) -> Iterator[Piece]:
    """Those of the new pieces that merges of old and new ones make."""
    scores = {p.text: p.score for p in old} | {p.text: -1e9 - i for i, p in enumerate(new)}
    for piece in new:
        if len(piece.text) == 1 or merges(piece.text, _by_score(scores))[-1:] == [piece.text]:
            yield piece


# -------------------- keeping


def keep(
    file: Path, tokenizer: TranslationTokenizer, pieces: Collection[int], languages: Sequence[str], folder: Path
) -> list[int]:
    """Write a tokenizer with some of its pieces and languages only.

    Args:
        file: of the tokenizer.
        tokenizer: read from it.
        pieces: ids of pieces to keep; those that they are merged from are kept with them.
        languages: those to keep.
        folder: receives the files.

    Returns:
        For each new id the old one.

    Raises:
        InputError: the special tokens are not the first four.
    """
    s = tokenizer.specials
    if sorted((s.bos, s.pad, s.eos, s.unk)) != [0, 1, 2, 3]:
        raise InputError(f"expected a tokenizer whose special tokens are the first four, got {s}")
    data = None if file.suffix != ".json" or tokenizer.pieces.bytes_only else json.loads(file.read_text("utf-8"))
    texts = tokenizer.pieces.texts
    wanted = set(pieces)
    if not tokenizer.pieces.bytes_only:
        rank = _rank_of_model(file.read_bytes()) if data is None else _rank_of_json(data)
        if rank is not None:
            place = {text: i for i, text in enumerate(texts) if text}
            wanted |= {place[made] for i in list(wanted) for made in merges(texts[i], rank) if made in place}
    kept = [0, 1, 2, 3, *sorted(wanted - {0, 1, 2, 3})]
    ids = {name: len(kept) + i for i, name in enumerate(languages)}
    if tokenizer.pieces.bytes_only:
        _write_bytes(folder, ids)
    elif data is None:
        model = file.read_bytes()
        old = read_pieces(model)
        _write_settings(folder, tokenizer, ids)
        atomic_write(folder / FILE, with_pieces(model, [*old[:3], *(old[i - 1] for i in kept[4:])]))
    else:
        _write_settings(folder, tokenizer, ids)
        atomic_write(folder / JSON, json.dumps(_kept_json(data, kept, ids, tokenizer), ensure_ascii=False))
    return [*kept, *(tokenizer.language_ids[name] for name in languages)]


def characters(tokenizer: TranslationTokenizer, texts: Iterable[str]) -> list[int]:
    """Ids of the pieces that are a byte, a character of printable ASCII, or one that occurs in texts."""
    seen = {c for text in texts for c in unicodedata.normalize("NFKC", text)} | set(map(chr, range(33, 127))) | {"▁"}
    return [i for i, p in enumerate(tokenizer.pieces.texts) if p in seen or byte_of(p) is not None]


def merges(piece: str, rank: Rank) -> list[str]:
    """The pieces that byte-pair encoding makes from a piece's characters, in order, the last being the piece."""
    parts, made = list(piece), []
    while len(parts) > 1:
        ranks = [(r, i) for i in range(len(parts) - 1) if (r := rank(parts[i], parts[i + 1])) is not None]
        if not ranks:
            break
        _, i = min(ranks)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        made.append(parts[i])
    return made


def _by_score(scores: Mapping[str, float]) -> Rank:
    return lambda a, b: -scores[a + b] if a + b in scores else None


def _rank_of_model(model: bytes) -> Rank | None:
    return _by_score({p.text: p.score for p in read_pieces(model)}) if is_bpe(model) else None


def _pairs(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The merges of a `tokenizer.json`, as texts with a space or as pairs."""
    found = (m.split(" ") if isinstance(m, str) else m for m in data["model"].get("merges", ()))
    return [(a, b) for a, b in found]


def _rank_of_json(data: Mapping[str, Any]) -> Rank | None:
    ranks = {pair: i for i, pair in enumerate(_pairs(data))}
    return (lambda a, b: ranks.get((a, b))) if ranks else None


def _kept_json(
    data: dict[str, Any], kept: Sequence[int], ids: Mapping[str, int], tokenizer: TranslationTokenizer
) -> dict[str, Any]:
    """A `tokenizer.json` with the pieces that are kept; what it puts around a text is left to who reads it."""
    model = data["model"]
    specials = {e["id"]: e["content"] for e in data["added_tokens"] if e["id"] < 4}
    texts = [specials.get(i) or tokenizer.pieces.texts[i] for i in kept]
    if isinstance(model["vocab"], list):
        scores = [model["vocab"][i][1] for i in kept]
        model["vocab"] = [[text, score] for text, score in zip(texts, scores, strict=True)]
    else:
        model["vocab"] = {text: i for i, text in enumerate(texts)}
        there = set(texts)
        model["merges"] = [[a, b] for a, b in _pairs(data) if {a, b, a + b} <= there]
    spelled = {e["id"]: e for e in data["added_tokens"]}
    added = [spelled[i] for i in sorted(specials)]
    added += [{**spelled[tokenizer.language_ids[name]], "id": i} for name, i in ids.items()]
    return {**data, "added_tokens": added, "post_processor": None}


# -------------------- the small files


def _write_settings(folder: Path, tokenizer: TranslationTokenizer, ids: Mapping[str, int]) -> None:
    s = tokenizer.specials
    specials = {"bos_token_id": s.bos, "pad_token_id": s.pad, "eos_token_id": s.eos}
    numbered = {str(i): {"content": name} for name, i in ids.items()}
    atomic_write(folder / "config.json", json.dumps(specials))
    atomic_write(folder / "tokenizer_config.json", json.dumps({"added_tokens_decoder": numbered}))


def _write_bytes(folder: Path, ids: Mapping[str, int]) -> None:
    ordered = sorted(ids, key=ids.__getitem__)
    if ids[ordered[-1]] != byte_tokenizer.LANGUAGES + len(ordered) - 1:
        raise InputError(f"expected languages right after the bytes, got their ids {sorted(ids.values())}")
    byte_tokenizer.write(ordered, folder)
