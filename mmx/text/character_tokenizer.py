"""A tokenizer of characters: those that the training texts have, and no others; what is not among them is unknown.

For models that write each letter or phoneme as it is seen or heard, such as those of CTC: a letter of any script is one
token, where bytes (`mmx.text.byte_tokenizer`) make two or three of it.
"""

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from mmx.errors import CheckpointError
from mmx.files import atomic_write
from mmx.text.languages import find_language
from mmx.text.translation_tokenizer import Pieces, Specials, TranslationTokenizer

FILE = "characters.json"
"""The name under which tokenizers of this kind are found beside weights: lists of languages and characters."""

SPECIALS = Specials(bos=0, pad=1, eos=2, unk=3)
FIRST = 4
"""The id of the first character; the languages follow the last."""


def character_tokenizer(
    characters: Sequence[str], languages: Sequence[str], n_vocab: int | None = None
) -> TranslationTokenizer:
    """The tokenizer of some characters, for some languages.

    Args:
        characters: in the order of their ids, composed (NFC).
        languages: as the model spells them ("deu_Latn"), in the order of theirs.
        n_vocab: rows of the model's embedding; as many as there are tokens when None.
    """
    ids = {c: FIRST + i for i, c in enumerate(characters)}
    texts = ["", "", "", "", *("\u2581" if c == " " else c for c in characters)]
    first = FIRST + len(characters)
    pieces = Pieces(
        lambda text: [ids.get(c, SPECIALS.unk) for c in unicodedata.normalize("NFC", text)],
        lambda found: "".join(characters[i - FIRST] for i in found),
        texts,
    )
    return TranslationTokenizer(pieces, SPECIALS, {name: first + i for i, name in enumerate(languages)}, n_vocab)


def make(texts: Iterable[str], languages: Iterable[str], folder: Path) -> TranslationTokenizer:
    """Write the tokenizer of the characters of some texts into a folder.

    Args:
        texts: all that is to be written in training.
        languages: as `mmx.text.languages.find_language` takes them.
        folder: receives the file, and the `config.json` that says where the special tokens are.
    """
    found = map(find_language, languages)
    spelled = sorted({f"{language.code}_{language.script}" for language in found})
    characters = sorted({c for text in texts for c in unicodedata.normalize("NFC", text)})
    ids = {"bos_token_id": SPECIALS.bos, "pad_token_id": SPECIALS.pad, "eos_token_id": SPECIALS.eos}
    atomic_write(folder / "config.json", json.dumps(ids))
    held = {"languages": spelled, "characters": characters}
    atomic_write(folder / FILE, json.dumps(held, ensure_ascii=False))
    return character_tokenizer(characters, spelled)


def from_file(path: str | Path, n_vocab: int | None = None) -> TranslationTokenizer:
    """Read what `make` wrote.

    Raises:
        CheckpointError: the file is missing or damaged, or does not go with `n_vocab`.
    """
    try:
        held = json.loads(Path(path).read_text("utf-8"))
        languages, characters = held["languages"], held["characters"]
        if not languages or not all(isinstance(name, str) for name in (*languages, *characters)):
            raise ValueError(f"languages {languages!r} and characters {characters!r}")
        if len(set(characters)) < len(characters) or any(len(c) != 1 for c in characters):
            raise ValueError("characters that are not single, or twice there")
    except (OSError, KeyError, TypeError, ValueError) as e:
        raise CheckpointError(
            f"expected lists of languages and characters in {path}, got something else ({type(e).__name__}: {e}): take "
            "the file from where the weights are from"
        ) from e
    return character_tokenizer(characters, languages, n_vocab)
