"""The symbols of F5-TTS: characters as they are, Chinese as pinyin with tones, spaces where its training data had them.

The published models were trained on texts cut by jieba, a segmenter of Chinese, which put a space between a mark and
the letters after it: "(so" was shown as "( so". Texts without Chinese are cut here by the same rule; Chinese needs the
packages rjieba and pypinyin (extra `f5`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mmx.errors import CheckpointError, InputError
from mmx.text import languages

_ALIKE = str.maketrans({";": ",", "“": '"', "”": '"', "‘": "'", "’": "'"})
_NO_SPACE_AFTER = " :'\""
_PART = re.compile(r"[a-zA-Z0-9]+(?:[._\-][a-zA-Z0-9]+)*%?|[+#&._%\-]+|.", re.DOTALL)
"""What the segmenter cuts: words with their inner hyphens and points, numbers with their sign, runs of a few marks."""


def is_chinese(char: str) -> bool:
    """Whether a character is read as pinyin."""
    return "\u3100" <= char <= "\u9fff"


def symbols(text: str) -> list[str]:
    """A text as the model was shown it. Raises `InputError` for Chinese where its packages are not installed."""
    text = text.translate(_ALIKE)
    if any(map(is_chinese, text)):
        return _chinese(text)
    out: list[str] = []
    for part in _PART.findall(text):
        out += _latin(part, out)
    return out


def _latin(part: str, before: Sequence[str]) -> list[str]:
    spaced = part.isascii() and len(part) > 1 and before and before[-1] not in _NO_SPACE_AFTER
    return [*([" "] if spaced else []), *part]


def _chinese(text: str) -> list[str]:
    """As `symbols`, with words of Chinese in pinyin: the tone of a syllable may depend on the word."""
    try:
        import rjieba  # pyright: ignore[reportMissingImports]
        from pypinyin import Style, lazy_pinyin  # pyright: ignore[reportMissingImports]
    except ImportError as e:
        raise InputError(f"expected {e.name} to read Chinese aloud, got none: pip install 'mmx[f5]'") from e
    out: list[str] = []
    for part in rjieba.cut(text):
        if part.isascii():
            out += _latin(part, out)
            continue
        read = lazy_pinyin(part, style=Style.TONE3, tone_sandhi=True, errors=list)  # pyright: ignore
        for char, syllable in zip(part, read, strict=True):
            out += [" ", syllable] if is_chinese(char) else [char]
    return out


class PinyinTokenizer:
    """Text to ids and back; an `mmx.interfaces.SourceTokenizer` without prompt, end or language tokens.

    Args:
        vocabulary: symbol to id; the space is 0, which unknown symbols become.
    """

    eot = 0
    control_ids: Sequence[int] = ()

    def __init__(self, vocabulary: Mapping[str, int]):
        if vocabulary.get(" ") != 0:
            raise CheckpointError(
                "expected a vocabulary whose first symbol is the space, got another: take the model's"
            )
        self.vocabulary = dict(vocabulary)
        self.texts = {i: text for text, i in self.vocabulary.items()}
        self.n_vocab = max(self.vocabulary.values()) + 1
        self.language_ids = {"eng_Latn": 0, "zho_Hans": 0}

    @classmethod
    def from_file(cls, path: Path, n_vocab: int) -> "PinyinTokenizer":
        """Read `vocab.txt`, a symbol a line. Raises `CheckpointError` where it is not that of the model."""
        try:
            lines = path.read_text("utf-8").removesuffix("\n").split("\n")
            made = cls({line: i for i, line in enumerate(lines)})
        except (OSError, ValueError) as e:
            raise CheckpointError(
                f"expected a vocabulary, a symbol a line, in {path}, got {e}: take the model's"
            ) from e
        if made.n_vocab != n_vocab:
            raise CheckpointError(
                f"expected a vocabulary of {n_vocab} symbols in {path}, got {made.n_vocab}: take the model's own"
            )
        return made

    def language(self, text: str) -> str:
        """English or Chinese, as spelled here; see `mmx.text.languages.choose`."""
        return languages.choose(text, self.language_ids)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return [self.vocabulary.get(symbol, 0) for symbol in symbols(text)]

    def source(self, text: str, language: str) -> list[int]:
        """The same: the text does not say its language."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """What ids stand for; the spaces that were put in remain."""
        return "".join(self.texts[i] for i in ids)

    def prompt(self, language: str) -> list[int]:
        """Nothing."""
        return []

    def foreign(self, text: str) -> list[str]:
        """Letters of a text that the vocabulary lacks; Chinese is read as pinyin, which it has."""
        return sorted({c for c in text if c.isalpha() and not is_chinese(c) and c not in self.vocabulary})

    def split_words(self, ids: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Words with their leading spaces, and the ids of each."""
        words: list[list[int]] = []
        for i in ids:
            if not words or i == 0:
                words.append([])
            words[-1].append(i)
        return [(self.decode(word), word) for word in words]
