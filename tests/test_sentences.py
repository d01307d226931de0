"""Sentences: where they end in many languages, and that nothing is ever lost."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.text.sentences import split_long, split_sentences


def sentences(text: str) -> list[str]:
    return [s.text for s in split_sentences(text) if s.text]


SPLITS = {
    "plain": ["He left.", "She stayed!", "Why?", "No one knows"],
    "titles": ["Mr. and Mrs. Dashwood met Dr. Who.", "They spoke."],
    "initials": ["J. S. Bach wrote it.", "I agree."],
    "abbreviations": ["Use e.g. Python, i.e. the language.", "Done."],
    "us": ["He moved to the U.S. in May.", "It rained."],
    "time": ["It began at 5 p.m.", "He left."],
    "decimals": ["Pi is 3.14 or so.", "Version 2.0 is out."],
    "ellipsis": ["Well... maybe not.", "Wait…", "What?"],
    "quotes": ['"Go away!" he said.', "“Never.”", "She laughed."],
    "quoted question": ["«Pourquoi ?»", "Il ne savait pas."],
    "brackets": ["It works.", "(Mostly.)", "Good."],
    "numbers": ["See No. 5 and Fig. 2 there.", "No.", "It is not."],
    "german": ["Am 3. Oktober, z.B. in Bonn, war Hr. Maier da.", "Er ging."],
    "french": ["M. Dupont est là.", "Mme. Curie aussi."],
    "spanish": ["¿Qué hora es?", "¡No sé!", "El Sr. Ruiz vino."],
    "russian": ["Он жил в 1990 г. в Москве и т.д. до мая.", "Потом уехал."],
    "urls": ["Visit example.com today.", "Or mail a.b@c.de now."],
    "interrobang": ["What?!", "Really!!!", "Yes."],
    "dash": ["- Yes.", "- No."],
    "pronoun": ["So am I.", "Are you?"],
}


@pytest.mark.parametrize("wanted", SPLITS.values(), ids=SPLITS)
def test_sentences_with_spaces(wanted: list[str]) -> None:
    assert sentences(" ".join(wanted)) == wanted


TIGHT = {
    "chinese": ["你好。", "今天天气很好！", "你呢？"],
    "chinese quotes": ["他说：「走吧。」", "她笑了。"],
    "japanese": ["そうですか。", "はい！"],
}


@pytest.mark.parametrize("wanted", TIGHT.values(), ids=TIGHT)
def test_sentences_without_spaces(wanted: list[str]) -> None:
    assert sentences("".join(wanted)) == wanted


SPACED = {
    "hindi": ["नमस्ते दुनिया।", "आप कैसे हैं?", "मैं ठीक हूँ॥"],
    "arabic": ["كيف حالك؟", "أنا بخير.", "شكرا!"],
    "urdu": ["یہ ایک جملہ ہے۔", "دوسرا جملہ۔"],
    "armenian": ["Բարեւ։", "Ինչպես ես։"],
    "amharic": ["ሰላም።", "ደህና ነህ፧"],
    "khmer": ["សួស្តី។", "លាហើយ។"],
    "burmese": ["မင်္ဂလာပါ။", "နေကောင်းလား။"],
}


@pytest.mark.parametrize("wanted", SPACED.values(), ids=SPACED)
def test_sentences_of_other_scripts(wanted: list[str]) -> None:
    assert sentences(" ".join(wanted)) == wanted


def test_a_line_break_ends_a_sentence_and_is_kept() -> None:
    got = split_sentences("A title\n\nFirst line. Second\r\n  indented")
    assert [(s.text, s.gap) for s in got] == [
        ("A title", "\n\n"), ("First line.", " "), ("Second", "\r\n  "), ("indented", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n", "...", "。", "a", " a ", "\u2028", ".\n.", "))", "1.", "1. First. 2. b"]
)
def test_odd_texts_lose_nothing(text: str) -> None:
    assert "".join(s.text + s.gap for s in split_sentences(text)) == text


ALPHABET = st.sampled_from(list("aIé .,!?…\n\r\t\"'()»3中。？“”।؟ \u2028Dr😀"))


@given(st.text(ALPHABET, max_size=60))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_no_character_is_ever_lost(text: str) -> None:
    got = split_sentences(text)
    assert "".join(s.text + s.gap for s in got) == text
    assert all(s.text == s.text.strip() and not s.gap.strip() for s in got)
    assert all(s.text for s in got[1:])


@given(st.text(ALPHABET, min_size=1, max_size=80), st.integers(1, 12))
@settings(max_examples=400, deadline=None, derandomize=True)
def test_long_sentences_are_cut_into_parts_that_fit(text: str, limit: int) -> None:
    text = text.strip() or "x"
    parts = split_long(text, lambda part: len(part) <= limit)
    assert "".join(p.text + p.gap for p in parts) == text
    assert all(0 < len(p.text) <= limit for p in parts)


def test_long_sentences_are_cut_at_clauses_first() -> None:
    text = "one two three four, five six seven eight"
    assert [p.text for p in split_long(text, lambda p: len(p) < 30)] == ["one two three four,", "five six seven eight"]
    assert [p.text for p in split_long("一二三四，五六七八", lambda p: len(p) < 6)] == ["一二三四，", "五六七八"]
    assert [p.text for p in split_long("one two three four", lambda p: len(p) < 12)] == ["one two", "three four"]
