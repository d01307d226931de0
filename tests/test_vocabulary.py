"""More languages in a model, and only some: what was there is computed as before, to the last bit.

Letters: U tokens, V vocabulary, D width.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mmx
from mmx.cli.app import main
from mmx.errors import CheckpointError, InputError, MmxWarning
from mmx.evaluate import forgetting
from mmx.experiments.numbers import write_manifest
from mmx.make.vocabulary import KEPT, extend, trim
from mmx.model import Model
from mmx.models import nllb
from mmx.seq import Seq
from mmx.text import byte_tokenizer, tokenizer_files
from mmx.text.sentencepiece_proto import Kind, Piece, is_bpe, read_pieces, with_pieces
from mmx.text.shortlist import count_pieces
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.train.manifest import Example
from mmx.weights.folder import write_model
from mmx.weights.formats import write_safetensors

ENGLISH = [
    "the cat sees the small dog", "a small tree hears the man", "the old house and the big bird", "one two three four",
    "there are three old cats in the house", "what the man sees is not what the bird hears",
    "five, six: seven (eight)!",
]  # fmt: skip
SPANISH = [
    "el gato ve al perro pequeño", "un árbol chico oye al hombre", "la casa vieja y el ave grande", "uno dos tres",
    "hay tres gatos viejos en la casa", "lo que ve el hombre no es lo que oye el ave",
    "¿cinco, seis: siete (ocho)?",
]  # fmt: skip
RUSSIAN = [
    "кошка видит маленькую собаку", "маленькое дерево слышит человека", "старый дом и большая птица", "раз два три",
    "в доме три старые кошки", "человек видит не то, что слышит птица", "пять, шесть: семь (восемь)!",
]  # fmt: skip
LANGUAGES = ["eng_Latn", "fra_Latn", "spa_Latn"]
KINDS = ("unigram", "bpe", "json unigram", "json bpe", "bytes")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """How threads share a matrix product depends on its size, and decides its last bits; conftest.py resets this."""
    torch.set_num_threads(1)


SPARE = 3
"""Rows that the embedding has beyond the tokens, as NLLB's."""


def make_tokenizer(kind: str, folder: Path) -> TranslationTokenizer:
    """A tokenizer of English and Spanish, as published ones are."""
    if kind == "bytes":
        return byte_tokenizer.write(LANGUAGES, folder)
    folder.mkdir(parents=True)
    if kind.startswith("json"):
        return _json_tokenizer(kind, folder / "tokenizer.json")
    import sentencepiece

    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter((ENGLISH + SPANISH) * 10), model_prefix=str(folder / "m"), vocab_size=400,
        model_type=kind, hard_vocab_limit=False, character_coverage=1.0, byte_fallback=kind == "unigram",
        normalization_rule_name="nmt_nfkc", minloglevel=2,
    )  # fmt: skip
    (folder / "m.vocab").unlink()
    (folder / "m.model").rename(folder / "sentencepiece.bpe.model")
    (folder / "config.json").write_text('{"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}')
    (folder / "tokenizer_config.json").write_text(json.dumps({"additional_special_tokens": LANGUAGES}))
    return TranslationTokenizer.from_file(folder / "sentencepiece.bpe.model")


def _json_tokenizer(kind: str, path: Path) -> TranslationTokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    specials: Any = ["<s>", "<pad>", "</s>", "<unk>"]
    if kind == "json bpe":
        tok, trainer = Tokenizer(models.BPE(unk_token="<unk>")), trainers.BpeTrainer(
            vocab_size=300, special_tokens=specials, show_progress=False
        )  # fmt: skip
    else:
        tok, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(
            vocab_size=150, special_tokens=specials, unk_token="<unk>", show_progress=False
        )  # fmt: skip
    whole: Any = tok
    whole.normalizer = normalizers.NFKC()
    whole.pre_tokenizer, whole.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tok.train_from_iterator((ENGLISH + SPANISH) * 10, trainer)
    names: Any = LANGUAGES
    tok.add_special_tokens(names)
    tok.save(str(path))
    return TranslationTokenizer.from_file(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Model folders by kind of tokenizer, with random weights; each is made once."""
    root = tmp_path_factory.mktemp("models")

    def make(kind: str) -> Path:
        out = root / kind
        if not out.exists():
            tok = make_tokenizer(kind, root / f"{kind} tokenizer")
            spare = 0 if kind == "bytes" else SPARE
            config = nllb.Config(
                vocab=tok.n_vocab + spare, ctx=256, width=16, heads=(2, 2), layers=(1, 1), hidden=(32, 32)
            )
            torch.manual_seed(0)
            model = nllb.build(config)
            card = {"name": "tiny", "summary": "s", "license": "CC0-1.0", "commercial": True, "parameters": 1}
            numbers = dataclasses.asdict(config)
            tensors = model.named_parameters()
            write_model(out, tensors, family="nllb", config=numbers, card=card, tokenizer=root / f"{kind} tokenizer")
        return out

    return make


def load(folder: Path) -> Model:
    return mmx.load(folder, device="cpu", dtype="float32")


def pairs(code: str, texts: list[str]) -> list[Example]:
    return [Example(a, b, "en", code) for a, b in zip(ENGLISH, texts, strict=True)]


@pytest.fixture
def russian(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "ru.tsv", pairs("ru", RUSSIAN) * 3)


@torch.no_grad()
def logits(model: Model, source: list[int], target: list[int]) -> Tensor:
    """`(U, V)`."""
    return model({"text": Seq(torch.tensor([source]), torch.tensor([len(source)]))}, torch.tensor([target]))[0]


def assert_same_logits(old: Model, new: Model, ids: dict[int, int]) -> None:
    """For texts in the old languages; `ids` is the new id of each old one that is still there."""
    was, now = old.tokenizer, new.tokenizer
    for src, to, texts, translations in (("en", "es", ENGLISH, SPANISH), ("es", "en", SPANISH, ENGLISH)):
        for text, translation in zip(texts, translations, strict=True):
            sides = []
            for tok in (was, now):
                target = [*tok.prompt(tok.language(to)), *tok.encode(translation)]
                sides.append((tok.source(text, tok.language(src)), target))
            assert [[ids[i] for i in part] for part in sides[0]] == list(sides[1])
            expected_UV, got_UV = logits(old, *sides[0]), logits(new, *sides[1])
            assert torch.equal(got_UV[:, list(ids.values())], expected_UV[:, list(ids)])


# -------------------- more languages


@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes"])
def test_old_languages_are_computed_bit_for_bit_as_before(
    kind: str, folders: Callable[[str], Path], russian: Path, tmp_path: Path
) -> None:
    old, new = load(folders(kind)), load(extend(folders(kind), ["Russian"], russian, tmp_path / "out", pieces=40))
    n_old = len(old.decoder.token.weight)
    assert set(new.tokenizer.language_ids) == {*LANGUAGES, "rus_Cyrl"}
    assert new.tokenizer.language_ids["rus_Cyrl"] == n_old
    assert_same_logits(old, new, {i: i for i in range(n_old)})
    assert new.card is not None and new.card.license == "CC0-1.0"
    assert new.card.parameters == sum(p.numel() for p in new.parameters())


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_new_letters_get_pieces_and_old_texts_keep_theirs(
    kind: str, folders: Callable[[str], Path], russian: Path, tmp_path: Path
) -> None:
    old, new = load(folders(kind)).tokenizer, load(extend(folders(kind), ["ru"], russian, tmp_path / "a")).tokenizer
    first = old.n_vocab + 1
    for text in RUSSIAN:
        assert new.decode(new.encode(text)) == text
        assert not new.foreign(text) and old.foreign(text)
        assert len(new.encode(text)) <= len(text) < len(text.encode())
    assert any(len(new.pieces.texts[i]) > 2 for text in RUSSIAN for i in new.encode(text) if i >= first)
    added = dict(enumerate(new.pieces.texts[first:], first))
    assert all(any("а" <= c <= "я" for c in piece) for piece in added.values())
    found = {i: new.encode(piece[1:]) == [i] for i, piece in added.items() if len(piece) > 2 and piece[0] == "▁"}
    assert any(found.values()) and (kind == "unigram" or all(found.values()))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_any_text_in_old_letters_keeps_its_ids(kind: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "ru.tsv", pairs("ru", RUSSIAN))
    old, new = load(folders(kind)).tokenizer, load(extend(folders(kind), ["ru"], manifest, tmp_path / "a")).tokenizer
    letters = sorted({c for piece in old.pieces.texts if not piece.startswith("<0x") for c in piece} - {"▁"})

    @settings(max_examples=60, deadline=None)
    @given(st.text(alphabet=[*letters, " "]))
    def check(text: str) -> None:
        assert new.encode(text) == old.encode(text)

    check()


def test_tokens_begin_as_the_mean_of_what_they_stand_for(
    folders: Callable[[str], Path], russian: Path, tmp_path: Path
) -> None:
    source = folders("unigram")
    old, mean, like = (load(p) for p in (
        source, extend(source, ["ru"], russian, tmp_path / "a", pieces=40),
        extend(source, ["ru"], russian, tmp_path / "b", like={"Russian": "es"}),
    ))  # fmt: skip
    old_VD, new_VD, tok = old.decoder.token.weight, mean.decoder.token.weight, old.tokenizer
    language = mean.tokenizer.language_ids["rus_Cyrl"]
    torch.testing.assert_close(new_VD[language], old_VD[list(tok.language_ids.values())].mean(0))
    assert torch.equal(like.decoder.token.weight[language], old_VD[tok.language_ids["spa_Latn"]])
    pieces = [i for i in range(language + 1, len(new_VD)) if len(mean.tokenizer.pieces.texts[i]) > 2]
    assert pieces
    for i in pieces:
        piece = mean.tokenizer.pieces.texts[i]
        text = piece.removeprefix("▁")
        spelled = [b for c in text.encode() for b in [tok.pieces.texts.index(f"<0x{c:02X}>")]]
        spelled += [tok.pieces.texts.index("▁")] if piece.startswith("▁") else []
        torch.testing.assert_close(new_VD[i], old_VD[spelled].mean(0))


def test_a_model_is_extended_twice(folders: Callable[[str], Path], russian: Path, tmp_path: Path) -> None:
    greek = write_manifest(
        tmp_path / "el.tsv", pairs("el", ["η γάτα", "το δέντρο", "σπίτι", "δύο", "τρία", "ένα", "και"])
    )
    one = extend(folders("unigram"), ["ru"], russian, tmp_path / "one")
    two = load(extend(one, ["el"], greek, tmp_path / "two"))
    assert_same_logits(load(one), two, {i: i for i in range(len(load(one).decoder.token.weight))})
    for text in ("η γάτα και το σπίτι", *RUSSIAN):
        assert two.tokenizer.decode(two.tokenizer.encode(text)) == text and not two.tokenizer.foreign(text)


def test_a_model_that_wrote_one_language_may_learn_another(tmp_path: Path) -> None:
    """The card of en-es says that it writes Spanish and nothing else: an extended model is not held to that."""
    manifest = write_manifest(
        tmp_path / "ca.tsv", pairs("ca", ["el gat", "la casa", "un", "dos", "tres", "sis", "set"])
    )
    new = mmx.load(extend("en-es", ["ca"], manifest, tmp_path / "out"), dtype="float32")
    assert new.card is not None and new.card.writes == ()
    assert len(new.translate_text(["One."], src="en", to="ca")) == 1


def test_known_letters_need_no_pieces(folders: Callable[[str], Path], tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path / "it.tsv", pairs("it", ["il gatto", "la casa", "un", "due", "tre", "sei", "sette"])
    )
    new = load(extend(folders("unigram"), ["it", "italian"], manifest, tmp_path / "out"))
    assert len(new.decoder.token.weight) == len(load(folders("unigram")).decoder.token.weight) + 1


def test_what_cannot_be_extended_says_why(folders: Callable[[str], Path], russian: Path, tmp_path: Path) -> None:
    source = folders("unigram")
    empty = tmp_path / "empty.tsv"
    empty.write_text("source\ttarget\tsrc_lang\ttgt_lang\n")
    cases: list[tuple[str, dict[str, Any]]] = [
        ("Unknown language 'russain'.* Did you mean 'russian'", {"languages": ["russain"]}),
        (r"does not have, got Spanish \(spa_Latn\)", {"languages": ["es", "ru"]}),
        ("list of new languages", {"languages": []}),
        ("every new language.*none of Greek", {"languages": ["ru", "el"]}),
        ("Russian", {"languages": ["el"]}),  # which the manifest has and the model then has not
        ("expected examples, got none", {"manifest": empty}),
        ("No such file", {"manifest": tmp_path / "none.tsv"}),
        ("exists: choose another", {"out": tmp_path}),
        ("one of the new languages rus_Cyrl, got 'el'", {"like": {"el": "es"}}),
        ("a language that this model has, got Greek", {"like": {"ru": "el"}}),
        ("sentencepiece.bpe.model .*got tokenizer.json", {"model": folders("json bpe")}),
    ]  # fmt: skip
    for match, changes in cases:
        arguments = {"model": source, "languages": ["ru"], "manifest": russian, "out": tmp_path / "x", **changes}
        with pytest.raises(InputError, match=match):
            extend(**arguments)
    assert not (tmp_path / "x").exists() and not list(tmp_path.glob(".making*"))


def test_other_families_and_numberings_are_refused(
    folders: Callable[[str], Path], russian: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="family whisper: its vocabulary cannot"):
        extend(whisper(tmp_path), ["ru"], russian, tmp_path / "x")
    m2m = shutil.copytree(folders("unigram"), tmp_path / "m2m")
    (m2m / "vocab.json").write_text("{}")
    for change in (
        lambda: extend(m2m, ["ru"], russian, tmp_path / "x"),
        lambda: trim(m2m, ["en"], [russian], tmp_path / "x"),
    ):
        with pytest.raises(InputError, match=r"whose vocab\.json renumbers"):
            change()


def whisper(folder: Path) -> Path:
    """A folder of another family: of its weights only the names are asked for."""
    from mmx.models import whisper

    config = whisper.Config(
        n_mels=80, audio_ctx=10, audio_width=8, audio_heads=1, audio_layers=1, vocab=100, text_ctx=10, text_width=8,
        text_heads=1, text_layers=1,
    )  # fmt: skip
    (folder / "w").mkdir()
    write_safetensors(folder / "w" / "model.safetensors", [("x", torch.zeros(1))])
    numbers = {"format": "mmx", "model_type": "whisper", "config": dataclasses.asdict(config)}
    (folder / "w" / "config.json").write_text(json.dumps(numbers))
    return folder / "w"


# -------------------- fewer


@pytest.fixture
def corpora(tmp_path: Path) -> list[Path]:
    """English and Spanish as plain text, of which the Spanish is half a text only."""
    paths = [tmp_path / "en.txt", tmp_path / "es.txt"]
    for path, texts in zip(paths, (ENGLISH, SPANISH), strict=True):
        path.write_text("\n".join([*texts, ""]), "utf-8")
    return paths


@pytest.mark.parametrize("kind", KINDS)
def test_kept_tokens_are_computed_bit_for_bit_as_before(
    kind: str, folders: Callable[[str], Path], corpora: list[Path], tmp_path: Path
) -> None:
    old, new = load(folders(kind)), load(trim(folders(kind), ["es", "en"], corpora, tmp_path / "out"))
    kept = json.loads((tmp_path / "out" / KEPT).read_text())
    assert len(kept) == len(new.decoder.token.weight) == new.tokenizer.n_vocab < len(old.decoder.token.weight)
    assert set(new.tokenizer.language_ids) == {"eng_Latn", "spa_Latn"}
    assert dataclasses.astuple(new.tokenizer.specials) == dataclasses.astuple(old.tokenizer.specials)
    texts = old.tokenizer.pieces.texts
    assert [texts[i] if i < len(texts) else "" for i in kept[: len(new.tokenizer.pieces.texts)]] == list(
        new.tokenizer.pieces.texts
    )
    assert_same_logits(old, new, {i: place for place, i in enumerate(kept)})
    assert new.card is not None and new.card.parameters == sum(p.numel() for p in new.parameters())


@pytest.mark.parametrize("kind", ["unigram", "bpe", "json unigram", "json bpe"])
def test_one_language_drops_pieces_of_the_other(
    kind: str, folders: Callable[[str], Path], corpora: list[Path], tmp_path: Path
) -> None:
    old, new = load(folders(kind)), load(trim(folders(kind), ["en"], corpora[:1], tmp_path / "out"))
    n_old, n_new = (sum(len(p) > 1 and p[0] != "<" for p in m.tokenizer.pieces.texts) for m in (old, new))
    assert n_new < 0.75 * n_old
    for text in ENGLISH:
        was, now = (m.tokenizer.encode(text) for m in (old, new))
        assert [old.tokenizer.pieces.texts[i] for i in was] == [new.tokenizer.pieces.texts[i] for i in now]
        assert new.tokenizer.decode(now) == text
    assert new.tokenizer.foreign("árbol año") == ["á", "ñ"] and not new.tokenizer.foreign("ve al gato viejo")
    with pytest.warns(MmxWarning, match="letters that the model has, got 'ñáñá'.*lacks 'ñá'"):
        new.translate_text(["ñáñá"], src="en", to="en", beam_size=1)


def test_rare_pieces_are_dropped_but_not_their_letters(
    folders: Callable[[str], Path], corpora: list[Path], tmp_path: Path
) -> None:
    old = load(folders("unigram")).tokenizer
    counts = count_pieces(old, [*ENGLISH])
    new = load(trim(folders("unigram"), ["en"], corpora[:1], tmp_path / "out", min_probability=0.02)).tokenizer
    common = {old.pieces.texts[i] for i, n in counts.items() if n >= 0.02 * counts.total()}
    assert common <= set(new.pieces.texts)
    assert all(len(p) == 1 or p.startswith("<0x") for p in set(new.pieces.texts) - common if p)
    for text in ENGLISH:
        assert new.decode(new.encode(text)) == text and not new.foreign(text)


def test_an_extended_model_is_trimmed(folders: Callable[[str], Path], russian: Path, tmp_path: Path) -> None:
    extended = extend(folders("unigram"), ["ru"], russian, tmp_path / "more")
    text = tmp_path / "ru.txt"
    text.write_text("\n".join(RUSSIAN), "utf-8")
    new, old = load(trim(extended, ["ru"], [text], tmp_path / "out")).tokenizer, load(extended).tokenizer
    assert list(new.language_ids) == ["rus_Cyrl"]
    for line in RUSSIAN:
        assert [new.pieces.texts[i] for i in new.encode(line)] == [old.pieces.texts[i] for i in old.encode(line)]


def test_what_cannot_be_trimmed_says_why(folders: Callable[[str], Path], corpora: list[Path], tmp_path: Path) -> None:
    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text(" \n\n")
    latin.write_bytes("año".encode("latin-1"))
    cases: list[tuple[str, dict[str, Any]]] = [
        ("a language that this model has, got Greek", {"languages": ["el"]}),
        ("Did you mean 'spanish'", {"languages": ["spansh"]}),
        ("list of languages", {"languages": []}),
        ("list of languages", {"text": []}),
        ("text in .*empty.txt, got none", {"text": [empty]}),
        ("UTF-8 at .*latin.txt", {"text": [latin]}),
        ("No such file", {"text": [tmp_path / "none.txt"]}),
        ("exists: choose another", {"out": tmp_path}),
        ("min_probability", {"min_probability": 2.0}),
    ]  # fmt: skip
    for match, changes in cases:
        arguments = {"model": folders("bpe"), "languages": ["en"], "text": corpora, "out": tmp_path / "x", **changes}
        with pytest.raises(InputError, match=match):
            trim(**arguments)
    with pytest.raises(InputError, match="family whisper"):
        trim(whisper(tmp_path), ["en"], corpora, tmp_path / "x")
    assert not (tmp_path / "x").exists()


# -------------------- the parts


def test_merges_are_those_of_byte_pair_encoding() -> None:
    ranks = {("a", "b"): 2, ("b", "c"): 1, ("a", "bc"): 3, ("d", "d"): 0}
    rank = lambda a, b: ranks.get((a, b))  # noqa: E731
    assert tokenizer_files.merges("abc", rank) == ["bc", "abc"]
    assert tokenizer_files.merges("ddd", rank) == ["dd"]
    assert tokenizer_files.merges("x", rank) == []


def test_sentencepiece_files_are_written_as_they_were_read(tmp_path: Path) -> None:
    for kind in ("unigram", "bpe"):
        make_tokenizer(kind, tmp_path / kind)
        model = (tmp_path / kind / "sentencepiece.bpe.model").read_bytes()
        pieces = read_pieces(model)
        assert with_pieces(model, pieces) == model
        assert is_bpe(model) == (kind == "bpe")
        assert [p.kind for p in pieces[:3]] == [Kind.UNKNOWN, Kind.CONTROL, Kind.CONTROL]
        more = Piece("▁ш" * 100, -3.5)
        assert read_pieces(with_pieces(model, [*pieces, more]))[-1] == more
        with pytest.raises(CheckpointError, match="SentencePiece model"):
            read_pieces(model[:50])
    with pytest.raises(CheckpointError, match="SentencePiece model"):
        read_pieces(b"\xff" * 20)


# -------------------- the command line and the report


def test_the_verbs(
    folders: Callable[[str], Path],
    russian: Path,
    corpora: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, more, less = str(folders("unigram")), str(tmp_path / "more"), str(tmp_path / "less")
    arguments = ["--languages", "ru", "--manifest", str(russian), "--like", "ru=es", "--pieces", "30"]
    assert main(["extend", model, *arguments, "--out", more]) == 0
    assert load(Path(more)).tokenizer.language("ru") == "rus_Cyrl"
    text = ["--text", str(corpora[0]), "--text", str(corpora[1])]
    assert main(["trim", more, "--languages", "en, es", *text, "--out", less]) == 0
    assert capsys.readouterr().out.split() == [more, less]
    assert set(load(Path(less)).tokenizer.language_ids) == {"eng_Latn", "spa_Latn"}
    assert main(["extend", model, *arguments[:4], "--like", "spa", "--out", str(tmp_path / "x")]) == 2
    assert "pairs such as cat=spa for --like, got 'spa'" in capsys.readouterr().err


def test_the_forgetting_report(folders: Callable[[str], Path], russian: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu", reason="needs sacrebleu: pip install 'mmx[eval]'")
    old, new = folders("unigram"), extend(folders("unigram"), ["ru"], russian, tmp_path / "more")
    rows = pairs("es", SPANISH)[:2]
    rows += [Example(e.target, e.source, "es", "en") for e in rows]
    test = write_manifest(tmp_path / "test.tsv", [*rows, *pairs("ru", RUSSIAN)[:2]])
    found = forgetting.report(old, new, test)
    assert [c.direction for c in found.changes] == ["en-es", "es-en", "en-ru"]
    assert found.changes[2].before is None and found.changes[2].after is not None
    # The softmax has more tokens to share among.
    assert all(c.after and c.before and c.after.loss > c.before.loss for c in found.changes[:2])
    assert found.worst == max(c.rise for c in found.changes[:2]) > 0
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == ["direction", "en-es", "es-en", "en-ru"]
    assert lines[3].split()[1] == "-" and f"{found.changes[0].rise:+.1%}" in lines[1]
    same = forgetting.report(load(old), old, test)
    assert same.worst == 0 and [c.direction for c in same.changes] == ["en-es", "es-en", "en-ru"]
    assert same.changes[2].after is None
    with pytest.raises(InputError, match="a model that translates text"):
        forgetting.score(mmx.Model(front={}, encoders={"speech": torch.nn.Identity()}), rows)
