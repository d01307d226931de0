"""Speech as training data: what a manifest may say, and what of it reaches the model."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

import mmx
from mmx.errors import InputError
from mmx.media.audio import read_audio
from mmx.model import Model
from mmx.train.augment import mask_policy, masker
from mmx.train.batch import IGNORED
from mmx.train.data import Changes, Data, EncodedData, encodes_frozen, lesson
from mmx.train.manifest import Example, check_manifest, digest_manifest, read_manifest
from mmx.train.reading import read_recording
from mmx.train.sampling import Sampler

sf = pytest.importorskip("soundfile")
from tiny_speech import RATE, tiny_whisper, tone  # noqa: E402 - it needs soundfile


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return mmx.load(tiny_whisper(tmp_path_factory.mktemp("m") / "tiny"), device="cpu", dtype="float32")


def example(path: Path, text: str = "low", **fields: Any) -> Example:
    return Example(**{"source": "", "target": text, "src_lang": "en", "tgt_lang": "en", "task": "transcribe",
                      "media": {"audio": str(path)}, **fields})  # fmt: skip


# -------------------- manifests


def test_a_row_of_speech_needs_audio_text_and_language(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    path.write_text("audio\ttext\tsrc_lang\tstart_s\tduration_s\ttask\nsub/a.wav\tHallo.\tde\t1.5\t2\t\n"
                    "/b.wav\tHello.\tde\t\t\ttranslate\n")  # fmt: skip
    first, second = read_manifest(path)
    assert first == Example("", "Hallo.", "de", "de", task="transcribe", media={"audio": str(tmp_path / "sub/a.wav")},
                            start_s=1.5, duration_s=2.0)  # fmt: skip
    assert (second.audio, second.task, second.tgt_lang, second.start_s, second.duration_s) == (
        "/b.wav", "translate", "en", 0.0, None,
    )  # fmt: skip
    lines = [
        {"audio": "a.wav", "target": "Hallo.", "src_lang": "de", "tgt_lang": "fr", "start_s": 2, "duration_s": 0.5}
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    (only,) = read_manifest(path)
    assert (only.task, only.start_s, only.duration_s) == ("translate", 2.0, 0.5)


def test_mistakes_in_rows_of_speech_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    rows = ["audio\ttext\tsrc_lang\tduration_s\ttask", "a.wav\t \ten\t\t", "a.wav\tx\ten\t-1\t", "a.wav\tx\ten\tlong\t",
            "a.wav\tx\ten\t\tsing", "a.wav\tx\tklingonese\t\t", "\tx\ten\t\t", "a.wav\tx\t\t\t"]  # fmt: skip
    path.write_text("\n".join(rows))
    problems = check_manifest(path)
    expected = [
        "empty text",
        "duration_s",
        "duration_s",
        "transcribe or translate",
        "src_lang",
        "recording",
        "src_lang",
    ]
    for number, words in enumerate(expected, 2):
        mine = [p for p in problems if p.startswith(f"line {number}:")]
        assert mine and words in mine[0], problems
    path.write_text("audio\tsrc_lang\na\tb\n")
    assert check_manifest(path) == ["line 1: expected the columns audio, text, got none called ['text']"]


def test_two_spellings_of_a_language_are_no_translation(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    row = {"audio": "a.wav", "text": "low", "src_lang": "en"}
    path.write_text("".join(json.dumps({**row, "tgt_lang": to}) + "\n" for to in ("English", "eng_Latn", "de")))
    assert [e.task for e in read_manifest(path)] == ["transcribe", "transcribe", "translate"]


def test_a_folder_of_recordings_beside_texts(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for name in ("b", "sub/a"):
        tone(folder / f"{name}.wav", 300).with_suffix(".txt").write_text(f"said  {name}\n")
    examples = read_manifest(folder, language="en")
    assert [(e.target, e.src_lang, e.origin) for e in examples] == [
        ("said b", "en", "mine"),
        ("said sub/a", "en", "mine"),
    ]
    before = digest_manifest(folder)
    (folder / "._0.wav").touch()  # as macOS leaves them
    assert digest_manifest(folder) == before and len(read_manifest(folder, language="en")) == 2
    (folder / "c.AIFF").touch()
    (folder / "c.txt").write_text("said c")
    assert [e.target for e in read_manifest(folder, language="en")] == ["said b", "said c", "said sub/a"]
    before = digest_manifest(folder)
    (folder / "b.txt").write_text("said otherwise")
    assert digest_manifest(folder) != before
    with pytest.raises(InputError, match="got none called src_lang"):
        read_manifest(folder)
    (folder / "b.txt").unlink()
    with pytest.raises(InputError, match=r"b\.wav: expected its text in b\.txt"):
        read_manifest(folder, language="en")


# -------------------- what the decoder learns


def test_whisper_is_given_language_and_task_and_learns_text_and_end(model: Model) -> None:
    tok = model.tokenizer
    found = lesson(model, example(Path("x"), " low "), str)
    assert found == ([tok.sot, tok.no_timestamps], [*b" low", tok.eot])
    named = SimpleNamespace(multilingual=True, eot=9, encode=lambda text: [ord(c) for c in text])
    named.prompt = lambda language, task: [language, task]
    assert type(tok).lesson(named, "a", "de", "en", "translate") == (["de", "translate"], [32, 97, 9])


def test_others_are_given_the_language_that_they_write() -> None:
    tok = SimpleNamespace(eot=2, language=lambda text: f"{text}!", prompt=lambda spelling: [2, spelling])
    tok.encode = lambda text: list(text)
    model = cast("Model", SimpleNamespace(require_tokenizer=lambda: tok))
    assert lesson(model, example(Path("x"), "ab", tgt_lang="fr"), tok.language) == ([2, "fr!"], ["a", "b", 2])


def test_a_batch(model: Model, tmp_path: Path) -> None:
    examples = [example(tone(tmp_path / f"{i}.wav", 300, 0.2 + 0.1 * i), "low" * (i + 1)) for i in range(3)]
    data = Data(examples, model, max_tokens=30, group_by=("task",))
    assert data.groups == ["transcribe"] * 3
    assert data.lengths == [(50, 2 + 3 * (i + 1) + 2) for i in range(3)]  # frames of the window; prompt, space, end
    batch = data.batch([2, 0])
    assert batch.inputs["speech"].x.shape == (2, RATE) and batch.inputs["speech"].lengths.tolist() == [RATE, RATE]
    heard = torch.from_numpy(read_audio(examples[0].audio))
    assert torch.equal(batch.inputs["speech"].x[1, : len(heard)], heard)
    assert not batch.inputs["speech"].x[1, len(heard) :].any()
    for row, i in ((0, 2), (1, 0)):
        learned = batch.targets[row]
        assert learned[0] == IGNORED  # the prompt is given
        assert learned[learned != IGNORED].tolist() == [*b" ", *b"low" * (i + 1), model.tokenizer.eot]
        assert batch.tokens[row, 1 : 2 + len(examples[i].target)].tolist() == [
            model.tokenizer.no_timestamps, *b" ", *examples[i].target[:-1].encode()
        ]  # fmt: skip
    assert Sampler(data.lengths, data.groups, 200).epoch(0)


def test_a_stretch_of_a_recording_is_what_is_read(tmp_path: Path) -> None:
    whole = np.linspace(-0.5, 0.5, 25 * RATE, dtype=np.float32)  # more than two blocks
    sf.write(tmp_path / "long.wav", whole, RATE, subtype="FLOAT")
    got = read_recording(example(tmp_path / "long.wav", start_s=9.5, duration_s=11.0))["speech"]
    np.testing.assert_array_equal(got.numpy(), whole[round(9.5 * RATE) : round(20.5 * RATE)])
    assert len(read_recording(example(tmp_path / "long.wav", start_s=24.0))["speech"]) == RATE
    with pytest.raises(InputError, match="correct start_s and duration_s"):
        read_recording(example(tmp_path / "long.wav", start_s=24.0, duration_s=5.0))


def test_too_long_ones_are_left_out_and_counted(model: Model, tmp_path: Path) -> None:
    short, long = tone(tmp_path / "s.wav", 300, 0.5), tone(tmp_path / "l.wav", 300, 1.5)
    data = Data([example(short), example(long), example(short, "low" * 20)], model, max_tokens=30)
    assert (len(data.examples), data.left_out) == (1, 2)
    with pytest.raises(InputError, match="at most 1 s"):
        Data([example(long)], model, max_tokens=30)


def test_recordings_that_cannot_be_learned_from(model: Model, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.wav"):
        Data([example(tmp_path / "none.wav")], model, max_tokens=30)
    wave = np.zeros(4000, np.float32)
    wave[7] = np.nan
    sf.write(tmp_path / "nan.wav", wave, RATE, subtype="FLOAT")
    data = Data([example(tmp_path / "nan.wav", id="seven")], model, max_tokens=30)
    with pytest.raises(InputError, match=r"seven .*NaN.*remove its row"):
        data.batch([0])


# -------------------- frozen encoders, masks


def test_a_frozen_encoder_hears_each_recording_once(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tone(tmp_path / f"{i}.wav", 300 + 500 * i, 0.3) for i in range(3)]
    data = Data([example(p) for p in paths], model, max_tokens=30)
    assert data.is_fixed and encodes_frozen(model)
    plain, encoded = data.batch([0, 2]), EncodedData(data)
    batch = encoded.batch([0, 2])
    torch.testing.assert_close(
        model.memory(batch.inputs, batch.begin).x, model.memory(plain.inputs).x, rtol=1e-5, atol=1e-5
    )
    assert torch.equal(batch.tokens, plain.tokens) and torch.equal(batch.targets, plain.targets)
    for p in paths:
        p.unlink()  # what was heard is not read again
    assert torch.equal(encoded.batch([2, 0]).inputs["speech"].x, batch.inputs["speech"].x.flip(0))
    with pytest.raises(InputError):
        encoded.batch([1])


def test_no_more_is_kept_than_there_is_room_for(model: Model, tmp_path: Path) -> None:
    data = Data([example(tone(tmp_path / f"{i}.wav", 300, 0.3)) for i in range(3)], model, max_tokens=30)
    little = EncodedData(data, room=50 * 16 * 4)
    wanted = EncodedData(data).batch([0, 1, 2]).inputs["speech"].x
    assert torch.equal(little.batch([0, 1, 2]).inputs["speech"].x, wanted)
    assert len(little._kept) == 1


def test_masks_hide_the_same_in_the_same_epoch(model: Model, tmp_path: Path) -> None:
    examples = [example(tone(tmp_path / f"{i}.wav", 300, 0.8)) for i in range(4)]
    data = Data(examples, model, max_tokens=30, changes=Changes(features=masker(mask_policy("LD"))), seed=3)
    assert not data.is_fixed
    first, other_rows, later = data.batch([0, 1], 0), data.batch([1, 3], 0), data.batch([0, 1], 1)
    assert first.begin == "encoders"
    x = first.inputs["speech"].x
    assert x.shape == (2, 100, 80)
    assert torch.equal(other_rows.inputs["speech"].x[0], x[1])  # whatever else is in the batch
    assert not torch.equal(later.inputs["speech"].x, x)
    features = model.encode("speech", Data(examples, model, max_tokens=30).batch([0]).inputs["speech"], end="encoders")
    hidden = x[0] != features.x[0]
    assert 0 < hidden.float().mean() < 0.9


def test_a_model_that_does_not_hear_is_refused(tmp_path: Path) -> None:
    deaf = Model(front={}, encoders={"text": torch.nn.Linear(1, 1)})
    with pytest.raises(InputError, match="speech encoder"):
        Data([example(Path("x"))], deaf, max_tokens=9)
