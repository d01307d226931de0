"""The symbols of phonemes and pauses that the voices read: Kokoro's table (hexgrad, Apache-2.0), of 178 places."""

from collections.abc import Iterable

PUNCTUATION = ';:,.!?—…"()“”'
_RUNS = {
    1: ";:,.!?", 9: '—…"()“” \u0303ʣʥʦʨᵝꭧAI', 31: "O", 33: "Q", 35: "ST", 39: "W", 41: "Yᵊabcdef",
    50: "hijklmnopqrstuvwxyzɑɐɒæ", 75: "βɔɕç", 80: "ɖðʤə", 85: "ɚɛɜ", 90: "ɟ", 92: "ɡ", 99: "ɥ", 101: "ɨɪʝ",
    110: "ɯɰŋɳɲɴø", 118: "ɸθœ", 123: "ɹ",
    125: "ɾɻ", 128: "ʁɽʂʃʈʧ", 135: "ʊʋ", 138: "ʌɣɤ", 142: "χʎ", 147: "ʒʔ", 156: "ˈˌː", 162: "ʰ", 164: "ʲ", 169: "↓",
    171: "→↗↘", 177: "ᵻ",
}  # fmt: skip
SYMBOLS = {symbol: first + i for first, run in _RUNS.items() for i, symbol in enumerate(run)}
"""The number of each symbol; 0 stands for the beginning and the end of a text."""
COUNT = 178


def numbers(symbols: Iterable[str]) -> list[int]:
    """The numbers of symbols; what is none is left out."""
    return [SYMBOLS[s] for s in symbols if s in SYMBOLS]
