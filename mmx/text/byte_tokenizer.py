"""A tokenizer without a vocabulary to learn: the bytes of UTF-8 (ByT5, Xue et al. 2021, arXiv 2105.13626; MonoByte).

No text in any script is unknown, a new language needs no new pieces, and the embedding has 260 rows and one for each
language. Texts are longer: a byte is a quarter of a word in English, and a third of a letter in Hindi.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmx.errors import CheckpointError
from mmx.files import atomic_write
from mmx.text.languages import find_language
from mmx.text.translation_tokenizer import Pieces, Specials, TranslationTokenizer

FILE = "bytes.json"
"""The name under which tokenizers of this kind are found beside weights: they are a list of languages."""

SPECIALS = Specials(bos=0, pad=1, eos=2, unk=3)
FIRST = 4
"""The id of byte 0; that of byte b is b more."""
LANGUAGES = FIRST + 256
"""The id of the first language; the others follow in the order of the file."""


def byte_tokenizer(languages: Sequence[str], n_vocab: int | None = None) -> TranslationTokenizer:
    """The tokenizer of bytes for some languages.

    Args:
        languages: as the model spells them ("deu_Latn"), in the order of their ids.
        n_vocab: rows of the model's embedding; as many as there are tokens when None.
    """
    texts = ["", "", "", "", *map(_spelled, range(256))]
    ids = {language: LANGUAGES + i for i, language in enumerate(languages)}
    return TranslationTokenizer(Pieces(_encode, _decode, texts, bytes_only=True), SPECIALS, ids, n_vocab)


def _encode(text: str) -> list[int]:
    return [FIRST + byte for byte in text.encode("utf-8")]


def _decode(ids: Iterable[int]) -> str:
    """Bytes that are no UTF-8, such as half a character, become U+FFFD."""
    return bytes(i - FIRST for i in ids).decode("utf-8", "replace")


def _spelled(byte: int) -> str:
    """As SentencePiece spells pieces: a space begins a word."""
    char = chr(byte)
    return "\u2581" if char == " " else char if char.isascii() and char.isprintable() else f"<0x{byte:02X}>"


def make(languages: Iterable[str], folder: Path) -> TranslationTokenizer:
    """Write the tokenizer of some languages into a folder.

    Args:
        languages: as `mmx.text.languages.find_language` takes them.
        folder: receives the file, and the `config.json` that says where the special tokens are.
    """
    found = map(find_language, languages)
    return write(sorted({f"{language.code}_{language.script}" for language in found}), folder)


def write(languages: Sequence[str], folder: Path) -> TranslationTokenizer:
    """As `make`, for languages that are spelled as they should be and in the order of their ids."""
    ids = {"bos_token_id": SPECIALS.bos, "pad_token_id": SPECIALS.pad, "eos_token_id": SPECIALS.eos}
    atomic_write(folder / "config.json", json.dumps(ids))
    atomic_write(folder / FILE, json.dumps({"languages": list(languages)}))
    return byte_tokenizer(languages)


def from_file(path: str | Path, n_vocab: int | None = None) -> TranslationTokenizer:
    """Read what `make` wrote.

    Raises:
        CheckpointError: the file is missing or damaged, or does not go with `n_vocab`.
    """
    try:
        languages = json.loads(Path(path).read_text("utf-8"))["languages"]
        if not languages or not all(isinstance(name, str) for name in languages):
            raise ValueError(f"languages {languages!r}")
    except (OSError, KeyError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"expected a list of languages in {path}, got something else ({type(e).__name__}: {e}): take the file from "
            "where the weights are from"
        ) from e
    return byte_tokenizer(languages, n_vocab)
