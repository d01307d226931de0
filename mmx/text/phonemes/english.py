"""English by the rules and lexicons of misaki (Apache-2.0) as hibari-tts carries them, without espeak."""

import threading
from collections.abc import Callable

from mmx.extras import import_extra


def make(tag: str, region: str) -> Callable[[str], list[tuple[str, str]]]:
    """The phonemizer of American English, or of British English for the region GB."""
    g2p = import_extra("hibari.g2p", "voices").G2P(british=region == "GB")
    turn = threading.Lock()  # its network for unknown words is loaded when the first one comes

    def phonemes(text: str) -> list[tuple[str, str]]:
        with turn:
            tokens = g2p.phonemize_tokens(g2p.tokenize(text.replace("[", "(").replace("]", ")")))
        rows, word, symbols = [], "", ""
        for i, token in enumerate(tokens):
            word, symbols = word + token.text, symbols + (token.phonemes or "")
            if token.whitespace or i + 1 == len(tokens):
                rows.append((word, symbols))
                word = symbols = ""
        return rows

    return phonemes
