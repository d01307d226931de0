"""A tokenizer of pieces in the order of a list, for models that write one language and are told none.

ESPnet and fairseq cut text by a SentencePiece model and number its pieces by a list of their own beside it, a piece and
a number a line: `NAME_units.txt`, `dict.NAME.txt`. Where the list begins, and which tokens stand around it, is for the
family to say.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mmx.errors import CheckpointError, InputError
from mmx.text.languages import find_language
from mmx.text.translation_tokenizer import Pieces, Specials, TranslationTokenizer

FILE, MODEL = "pieces.txt", "pieces.model"
"""The names of the two in a folder that mmx wrote."""
UNKNOWN = "<unk>"


class PieceTokenizer:
    """The `mmx.interfaces.Tokenizer` of a model that writes one language, which its files do not name.

    Args:
        pieces: how text is cut.
        specials: ids of the special tokens; a text begins from the one that ends it.
        n_vocab: rows of the model's embedding.
    """

    def __init__(self, pieces: Pieces, specials: Specials, n_vocab: int):
        self._text = TranslationTokenizer(pieces, specials, {}, n_vocab)
        self.language_ids: dict[str, int] = {}
        self.eot, self.n_vocab, self.control_ids = specials.eos, n_vocab, self._text.control_ids
        self.encode, self.decode, self.split_words = self._text.encode, self._text.decode, self._text.split_words

    def language(self, text: str) -> str:
        """The tag of a language, whichever it is: what the model was trained to write stands in no file."""
        return find_language(text).tag

    def prompt(self, language: str) -> list[int]:
        """The end of the text before."""
        return [self.eot]


def beside(folder: Path, pattern: str) -> Path | None:
    """The list of pieces in a folder: ours, else the one of a pattern; None where there is none.

    Raises:
        CheckpointError: there are several.
    """
    found = [folder / FILE] if (folder / FILE).is_file() else sorted(folder.glob(pattern))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(
            f"expected one list of pieces next to the weights in {folder}, got {names}: leave there the one that came "
            "with them"
        )
    return found[0] if found else None


def copy(list_file: Path, folder: Path) -> None:
    """Keep both files in a folder under our names; without a SentencePiece model, the list alone, which writes text."""
    shutil.copyfile(list_file, folder / FILE)
    model = _model_of(list_file)
    if model is not None:
        shutil.copyfile(model, folder / MODEL)


def from_list(list_file: Path, before: Sequence[str], after: Sequence[str], n_vocab: int) -> PieceTokenizer:
    """Read a list of pieces, and the SentencePiece model beside it where there is one.

    Args:
        list_file: a piece and a number a line.
        before: the tokens before the first of the list.
        after: those behind its last; `</s>` is in one of the two, as `<unk>` may be in the list.
        n_vocab: rows of the model's embedding.

    Raises:
        CheckpointError: a file is missing or damaged, or has another number of pieces.
    """
    listed = _read_list(list_file)
    tokens = [*before, *listed, *after]
    if len(tokens) != n_vocab:
        raise CheckpointError(
            f"expected {n_vocab - len(before) - len(after)} pieces in {list_file} for a vocabulary of {n_vocab}, got "
            f"{len(listed)}: take the list from where the weights are from"
        )
    if UNKNOWN not in tokens:
        raise CheckpointError(f"expected {UNKNOWN} in {list_file}, got none: take the list from where the weights are")
    place = {token: i for i, token in enumerate(tokens)}
    if len(place) < len(tokens):
        twice = next(token for i, token in enumerate(tokens) if place[token] != i)
        raise CheckpointError(f"expected each piece once in {list_file}, got {twice!r} twice: download it again")
    special = {*before, *after, UNKNOWN}
    texts = ["" if token in special else token for token in tokens]
    specials = Specials(bos=place["</s>"], pad=place.get("<pad>", 0), eos=place["</s>"], unk=place[UNKNOWN])
    ids = {token: i for i, token in enumerate(texts) if token}
    pieces = Pieces(_encoder(_model_of(list_file), list_file, ids, specials.unk), _decoder(texts), texts)
    return PieceTokenizer(pieces, specials, n_vocab)


def _read_list(list_file: Path) -> list[str]:
    try:
        rows = [line.rstrip("\r").rpartition(" ") for line in list_file.read_text("utf-8").split("\n") if line.strip()]
        if not rows or any(not token or not number.isdecimal() for token, _, number in rows):
            raise ValueError(f"{len(rows)} lines, not all of them a piece and a number")
    except (OSError, ValueError) as e:
        raise CheckpointError(
            f"expected a list of pieces at {list_file}, a piece and a number a line, got something else "
            f"({type(e).__name__}: {e}): take the file from where the weights are from"
        ) from e
    return [token for token, _, _ in rows]


def _model_of(list_file: Path) -> Path | None:
    """The SentencePiece model that goes with a list: ours, the one of its name, or the only one beside it."""
    folder = list_file.parent
    named = folder / list_file.name.replace("_units.txt", ".model")
    if list_file.name == FILE:
        named = folder / MODEL
    if named != list_file and named.is_file():
        return named
    found = list(folder.glob("*.model"))
    return found[0] if len(found) == 1 else None


def _encoder(model: Path | None, list_file: Path, ids: dict[str, int], unk: int) -> Callable[[str], list[int]]:
    """Cuts text; where all pieces are of one case, as those of much-used corpora are, text is brought to it."""
    if model is None:
        return _refuse(list_file)
    from sentencepiece import SentencePieceProcessor

    cut = SentencePieceProcessor()
    try:
        cut.LoadFromSerializedProto(model.read_bytes())
    except (OSError, RuntimeError) as e:
        raise CheckpointError(
            f"expected a SentencePiece model at {model}, got something else: download it again"
        ) from e
    letters = "".join(ids)
    fold = str.upper if letters == letters.upper() else str.lower if letters == letters.lower() else str
    return lambda text: [ids.get(piece, unk) for piece in cut.encode(fold(text.strip()), out_type=str)]


def _refuse(list_file: Path) -> Callable[[str], list[int]]:
    def encode(text: str) -> list[int]:
        raise InputError(
            f"expected a SentencePiece model next to {list_file} to cut text by, got none or several: put the one of "
            "the weights there"
        )

    return encode


def _decoder(texts: Sequence[str]) -> Callable[[Iterable[int]], str]:
    return lambda found: "".join(texts[i] for i in found).replace("\u2581", " ").removeprefix(" ")
