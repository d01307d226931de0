"""Mandarin: words by rjieba, their pinyin by pypinyin, its sounds by pinyin-to-ipa (all MIT), tones as arrows."""

import re
from collections.abc import Callable

from mmx.extras import import_extra
from mmx.text.phonemes.symbols import PUNCTUATION, SYMBOLS

_SPELLED = {
    "˧˩˧": "↓", "˧˥": "↗", "˥˩": "↘", "˥": "→", "ɻ̩": "ɨ", "ɹ̩": "ɨ", "ʈʂ": "ꭧ", "tɕ": "ʨ", "ts": "ʦ",
}  # fmt: skip
"""Kokoro's symbols of tones, syllabic consonants and affricates, the longer ones first."""
_MARKS = str.maketrans("。，！？、；：（）「」", ".,!?,;:()“”")


def make(tag: str, region: str) -> Callable[[str], list[tuple[str, str]]]:
    """The phonemizer; a text without spaces is one word."""
    cut, pinyin = import_extra("rjieba", "voices").cut, import_extra("pypinyin", "voices")
    sounds = import_extra("pinyin_to_ipa", "voices").pinyin_to_ipa

    def word(text: str) -> str:
        if not re.search(r"[\u3400-\u9fff]", text):
            return text.translate(_MARKS) if text.translate(_MARKS) in PUNCTUATION else ""
        syllables = pinyin.lazy_pinyin(text, style=pinyin.Style.TONE3, neutral_tone_with_five=True)
        return " " + "".join(map(syllable, syllables))

    def syllable(text: str) -> str:
        try:
            said = "".join(next(iter(sounds(text))))
        except ValueError:  # a character whose reading is not known
            return ""
        for sound, symbol in _SPELLED.items():
            said = said.replace(sound, symbol)
        return "".join(c for c in said if c in SYMBOLS)

    return lambda text: [(part, "".join(map(word, cut(part))).strip()) for part in text.split()]
