"""`TranslationTokenizer`: SentencePiece pieces with language tokens, as NLLB, SeamlessM4T, mBART-50 and M2M-100 have.

A source is `[language] pieces </s>`, and a translation starts from `</s> [language]`, in all of these families; they
differ in numbers, which are read from the checkpoint's own files: the ids of the four special tokens and of the
languages. Text never turns into a control token, whatever it spells: "</s>" in a text is four characters.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmx.errors import CheckpointError, InputError
from mmx.text import languages

_LANGUAGE = re.compile(r"(?:__)?([a-z]{2,3}(?:_[A-Za-z]{2,4})?)(?:__)?")
"""How a language token is spelled: eng_Latn, en_XX, __eng__, __cmn_Hant__."""

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece spells a piece that is one byte."""

_BESIDE = "config.json, tokenizer_config.json, special_tokens_map.json, generation_config.json"


@dataclass(frozen=True)
class Specials:
    """Ids of the tokens that all families have."""

    bos: int
    pad: int
    eos: int
    unk: int


@dataclass(frozen=True)
class Pieces:
    """Text to the model's ids and back, without control tokens.

    Attributes:
        encode: text to ids.
        decode: ids of pieces to text.
        texts: each piece by id, as it is spelled ("▁the", "<0xC3>" for a byte); empty for an id that is no text.
        bytes_only: whether every piece is a byte, so that all scripts are written alike.
    """

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    texts: Sequence[str]
    bytes_only: bool = False


def byte_of(piece: str) -> int | None:
    """The byte that a piece writes; None for a piece that writes characters."""
    found = _BYTE.fullmatch(piece)
    return int(found[1], 16) if found else None


class TranslationTokenizer:
    """Text to ids and back, with language tokens.

    Args:
        pieces: how text is cut.
        specials: ids of the special tokens.
        language_ids: id of each language by its spelling in the model ("deu_Latn").
        n_vocab: rows of the model's embedding, which may be more than there are tokens.
    """

    def __init__(self, pieces: Pieces, specials: Specials, language_ids: Mapping[str, int], n_vocab: int | None = None):
        self.pieces, self.specials, self.language_ids = pieces, specials, dict(language_ids)
        self.eot = specials.eos
        last = max([len(pieces.texts) - 1, *self.language_ids.values()])
        self.n_vocab = last + 1 if n_vocab is None else n_vocab
        if last >= self.n_vocab:
            raise CheckpointError(
                f"expected a tokenizer for a vocabulary of {self.n_vocab}, got one with token {last}: "
                "take the tokenizer's files from where the weights are from"
            )

    @classmethod
    def from_file(cls, path: str | Path, n_vocab: int | None = None) -> "TranslationTokenizer":
        """Read `tokenizer.json`, or a SentencePiece `.model` with the small JSON files that come beside it.

        Raises:
            CheckpointError: a file is missing or damaged, or does not go with `n_vocab`.
        """
        path = Path(path)
        try:
            read = _from_json if path.suffix == ".json" else _from_sentencepiece
            pieces, specials, language_ids = read(path)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, AttributeError) as e:
            raise CheckpointError(
                f"expected a translation tokenizer at {path}, got something else ({type(e).__name__}: {e}): "
                f"download it again, with {_BESIDE} beside it"
            ) from e
        if not language_ids:
            raise CheckpointError(f"expected language tokens in the files beside {path}, got none: needs {_BESIDE}")
        return cls(pieces, specials, language_ids, n_vocab)

    def language(self, text: str) -> str:
        """The model's spelling of a language; see `mmx.text.languages.choose`."""
        return languages.choose(text, self.language_ids)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without language and end."""
        # Lone surrogates have no bytes: they become U+FFFD, and pairs of them their character.
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return self.pieces.encode(whole)

    def source(self, text: str, language: str) -> list[int]:
        """What the encoder reads; `language` is one of `language_ids`."""
        return [self._language_id(language), *self.encode(text), self.specials.eos]

    def prompt(self, language: str) -> list[int]:
        """What the decoder starts from, to write `language`, one of `language_ids`."""
        return [self.specials.eos, self._language_id(language)]

    def _language_id(self, language: str) -> int:
        if language not in self.language_ids:
            raise InputError(f"expected one of the model's languages, got {language!r}: ask `language` for it")
        return self.language_ids[language]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; control tokens and the unknown token leave nothing."""
        return self.pieces.decode([i for i in map(int, ids) if self.is_text(i)])

    def split_words(self, ids: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Group ids into words: each word's text, with its leading space, and its ids; together they are the input.

        Where a script has no spaces, each piece that begins with one of its letters counts as a word.
        """
        words: list[list[int]] = []
        for i in ids:
            piece = self._piece(i)
            if not words or piece.startswith("\u2581") or languages.is_unspaced(piece[:1]):
                words.append([])
            words[-1].append(i)
        return [(b"".join(map(self._bytes, word)).decode("utf-8", "replace"), word) for word in words]

    def _piece(self, i: int) -> str:
        return self.pieces.texts[i] if self.is_text(i) else ""

    def _bytes(self, i: int) -> bytes:
        piece = self._piece(i)
        byte = byte_of(piece)
        return piece.replace("\u2581", " ").encode() if byte is None else bytes([byte])

    def foreign(self, text: str) -> list[str]:
        """The letters of a text that no piece holds: they are read as bytes or as unknown, and badly."""
        if self.pieces.bytes_only:
            return []
        plain = unicodedata.normalize("NFKC", text)  # as the pieces are
        return [c for c in plain if c.isalpha() and c not in self._alphabet]

    @cached_property
    def _alphabet(self) -> frozenset[str]:
        return frozenset(c for piece in self.pieces.texts if byte_of(piece) is None for c in piece)

    def is_text(self, i: int) -> bool:
        """Whether an id writes something."""
        return 0 <= i < len(self.pieces.texts) and bool(self.pieces.texts[i])

    @property
    def control_ids(self) -> Sequence[int]:
        """Ids that a translation never holds: all but pieces of text and the end."""
        return self._control_ids

    @cached_property
    def _control_ids(self) -> list[int]:
        return [i for i in range(self.n_vocab) if not self.is_text(i) and i != self.eot]


# -------------------- reading the files


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _languages(tokens: Mapping[str, int]) -> dict[str, int]:
    return {m[1]: int(i) for content, i in tokens.items() if (m := _LANGUAGE.fullmatch(content))}


def _from_json(path: Path) -> tuple[Pieces, Specials, dict[str, int]]:
    """Read a `tokenizer.json`, and build from it one that knows no control tokens."""
    from tokenizers import Tokenizer

    data = json.loads(path.read_text("utf-8"))
    added = {entry["content"]: int(entry["id"]) for entry in data["added_tokens"]}
    model = data["model"]
    controls = set(added.values())
    if isinstance(model["vocab"], list):
        # Unigram would find a control token in a text that spells it. No text holds a space once its spaces are "▁",
        # so that a piece with one is never found.
        model["vocab"] = [[f" {p}" if i in controls else p, score] for i, (p, score) in enumerate(model["vocab"])]
        texts = ["" if i in controls else p for i, (p, _) in enumerate(model["vocab"])]
    else:
        texts = [""] * (max(model["vocab"].values()) + 1)
        for piece, i in model["vocab"].items():
            texts[i] = "" if i in controls else piece
    data |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    tok = Tokenizer.from_str(json.dumps(data))
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>"}
    specials = Specials(**{field: added[name] for field, name in names.items()})
    pieces = Pieces(
        lambda text: tok.encode(text.strip(), add_special_tokens=False).ids,
        lambda ids: tok.decode(ids, skip_special_tokens=False),
        texts,
    )
    return pieces, specials, _languages(added) or _listed_languages(path.parent, len(texts))


def _from_sentencepiece(path: Path) -> tuple[Pieces, Specials, dict[str, int]]:
    """Read a `.model`, whose pieces fairseq moved up by one to make room for a padding token."""
    from sentencepiece import SentencePieceProcessor

    sp = SentencePieceProcessor()
    sp.LoadFromSerializedProto(path.read_bytes())
    size, folder = sp.get_piece_size(), path.parent
    own = _read(folder / "vocab.json")  # M2M-100 numbers the pieces anew
    specials = _specials(folder, own)
    is_text = [not (sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i)) for i in range(size)]
    ids = [own.get(sp.id_to_piece(i), specials.unk) if own else i + 1 for i in range(size)]
    ids = [i if text else specials.unk for i, text in zip(ids, is_text, strict=True)]
    texts = [""] * (len(own) if own else size + 1)
    place = {i: n for n, i in enumerate(ids) if i != specials.unk}
    for i, n in place.items():
        texts[i] = sp.id_to_piece(n)
    pieces = Pieces(
        lambda text: [ids[n] for n in sp.encode(text.strip())],
        lambda wanted: sp.decode([place[i] for i in wanted]),
        texts,
    )
    return pieces, specials, _listed_languages(folder, len(texts))


def _specials(folder: Path, vocab: Mapping[str, int]) -> Specials:
    """From the numbering of the pieces, else from `config.json`: of the first four ids, unknown is what is left."""
    if vocab:
        return Specials(vocab["<s>"], vocab["<pad>"], vocab["</s>"], vocab["<unk>"])
    config = _read(folder / "config.json")
    bos, pad, eos = (int(config[f"{name}_token_id"]) for name in ("bos", "pad", "eos"))
    (unk,) = set(range(4)) - {bos, pad, eos}
    return Specials(bos, pad, eos, unk)


def _listed_languages(folder: Path, first: int) -> dict[str, int]:
    """The languages' ids from whichever of the small files has them; a bare list is numbered from `first`."""
    config = _read(folder / "tokenizer_config.json")
    numbered = {entry["content"]: int(i) for i, entry in config.get("added_tokens_decoder", {}).items()}
    numbered |= _read(folder / "added_tokens.json")
    if found := _languages(numbered):
        return found
    if found := _languages(_read(folder / "generation_config.json").get("text_decoder_lang_to_code_id", {})):
        return found
    listed = _read(folder / "special_tokens_map.json").get("additional_special_tokens")
    listed = listed or config.get("additional_special_tokens") or []
    names = [entry if isinstance(entry, str) else entry["content"] for entry in listed]
    return _languages({name: first + i for i, name in enumerate(n for n in names if _LANGUAGE.fullmatch(n))})
