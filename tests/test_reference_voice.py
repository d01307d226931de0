"""Voices from recordings: what is cut, what is refused, what is kept, and the verbs.

Letters: N samples.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import soundfile
import torch

from mmx.cli.app import main
from mmx.errors import InputError, MediaError, OutputError
from mmx.files import SAMPLE, SAMPLE_TEXT
from mmx.media.audio import read_audio
from mmx.model import Model
from mmx.tasks import reference
from mmx.tasks.options import Options
from mmx.tasks.reference import Reference, ended, excerpt, from_tensors, levelled, make
from mmx.tasks.voices import choose

RATE = 24_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMX_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "voices"


def speech(*spans: tuple[float, float], seed: int = 0) -> np.ndarray:
    """Noise of some loudness (0 for silence) for some seconds, one after the other."""
    g = np.random.default_rng(seed)
    parts = [level * g.standard_normal(round(seconds * RATE)) for seconds, level in spans]
    return np.concatenate(parts).astype(np.float32)


# -------------------- what is kept of a recording


def test_silent_ends_go_and_long_pauses_are_a_second() -> None:
    kept, whole = excerpt(speech((2, 0), (3, 0.1), (4, 0), (2, 0.1), (1, 0)), RATE)
    assert whole and len(kept) / RATE == pytest.approx(3 + 1 + 2 + 0.05, abs=0.03)
    assert np.abs(kept[: RATE // 10]).max() > 0.05 and not kept[-RATE // 25 :].any()


def test_a_long_one_ends_in_the_last_pause_before_12_seconds() -> None:
    kept, whole = excerpt(speech((4, 0.1), (0.3, 0), (5, 0.1), (0.3, 0), (9, 0.1)), RATE)
    assert not whole and len(kept) / RATE == pytest.approx(9.3 + 0.15 + 0.05, abs=0.03)


def test_one_without_pauses_ends_at_12_seconds() -> None:
    kept, whole = excerpt(speech((30, 0.1)), RATE)
    assert not whole and len(kept) / RATE == pytest.approx(12.05, abs=0.02)


def test_silence_is_told_from_speech_in_a_room_that_is_not_quiet() -> None:
    kept, _ = excerpt(speech((1, 0.002), (3, 0.3), (1, 0.002)), RATE)
    assert len(kept) / RATE == pytest.approx(3.05, abs=0.03)


@pytest.mark.parametrize(
    ("spans", "said"),
    [(((1, 0.1),), "at least 2 s of speech, got 1.0 s"), (((5, 0),), "5.0 s of silence"), ((), "0.0 s of silence"),
     (((9, 0), (0.4, 0.1), (9, 0)), "got 0.4 s")],
)  # fmt: skip
def test_what_gives_no_voice_is_told(spans: tuple[tuple[float, float], ...], said: str) -> None:
    samples = speech(*spans) if spans else np.zeros(0, np.float32)
    with pytest.raises(MediaError, match=said):
        excerpt(samples, RATE)


def test_a_quiet_recording_is_made_louder_and_a_loud_one_is_left() -> None:
    quiet, loud = levelled(speech((1, 0.01))), speech((1, 0.2))
    assert float(np.sqrt(np.square(quiet).mean())) == pytest.approx(0.1, rel=1e-3)
    np.testing.assert_array_equal(levelled(loud), loud)
    click = speech((1, 0.001))
    click[100] = 0.5
    assert np.abs(levelled(click)).max() == pytest.approx(1.0)


def test_the_text_ends_with_a_mark_and_a_space() -> None:
    assert [ended(t) for t in (" one\ntwo", "done.", "really?", "so,", "好。")] == [
        "one two. ", "done. ", "really? ", "so. ", "好。",
    ]  # fmt: skip


# -------------------- consent, text


def test_without_consent_nothing_is_copied(folder: Path) -> None:
    with pytest.raises(InputError, match="--consent"):
        make(SAMPLE, None, text="a text")
    assert not folder.exists()


def test_a_text_for_a_recording_that_is_cut_is_refused() -> None:
    """It would say more than is heard, and the voice would be taken for a fast one."""
    with pytest.raises(InputError, match=r"at most 12 s"):
        make(torch.from_numpy(speech((30, 0.1))), None, text="all that is said", consent=True)


def test_a_text_is_needed_or_a_recognizer() -> None:
    with pytest.raises(InputError, match="neither"):
        make(SAMPLE, None, consent=True)


def test_only_the_beginning_of_a_long_recording_is_read(tmp_path: Path) -> None:
    long = tmp_path / "ten_minutes.flac"
    soundfile.write(long, np.tile(speech((5, 0.1), (1, 0)), 100), RATE)
    assert len(reference.read_beginning(long, RATE)) == 120 * RATE


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF\x10\x00\x00\x00WAVEfmt nothing")
    with pytest.raises(MediaError, match=r"broken\.wav"):
        make(tmp_path / "broken.wav", None, text="a text", consent=True)


# -------------------- the file


def kept(name: str = "me") -> Reference:
    made = make(SAMPLE, None, text=SAMPLE_TEXT, consent=True)
    reference.save(name, made)
    return made


def test_a_voice_is_a_small_file_that_is_read_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    made = kept()
    found = reference.read("me")
    assert torch.equal(found.mels, made.mels) and found.text == made.text == f"{SAMPLE_TEXT}. "
    assert found.about["consent"] and found.about["source"] == SAMPLE.name and found.about["added"]
    assert (folder / "me.safetensors").stat().st_size < 500_000
    elsewhere = (folder / "me.safetensors").rename(tmp_path / "copied.safetensors")
    assert torch.equal(reference.read(str(elsewhere)).mels, made.mels)
    assert from_tensors(found.tensors()).text == made.text
    seconds = len(read_audio(SAMPLE)) / 16_000
    assert 100 < len(made.mels) <= (seconds + 0.1) * 93.75


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 65, "nul\0"])
def test_a_name_that_is_no_file_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="name of letters"):
        reference.save(name, Reference(torch.zeros(3, 4), "a. "))


def test_a_damaged_voice_is_told(folder: Path) -> None:
    kept()
    path = folder / "me.safetensors"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="add it again"):
        reference.read("me")
    with pytest.raises(InputError, match=r"Did you mean 'me'\?"):
        reference.read("mee")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_folder_that_cannot_be_written_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("mmx.files._sync", full)
    with pytest.raises(OutputError, match="disk is full"):
        reference.save("me", Reference(torch.zeros(3, 4), "a. "))
    assert not list(folder.iterdir())


# -------------------- the verbs


def test_add_list_choose_and_remove(capsys: pytest.CaptureFixture[str]) -> None:
    add = ["voice", "add", str(SAMPLE), "--name", "me", "--text", SAMPLE_TEXT]
    assert main(add) == 2
    assert "--consent" in capsys.readouterr().err
    assert main([*add, "--consent"]) == 0
    assert "3.0" in capsys.readouterr().err
    assert main([*add, "--consent"]) == 2
    assert "taken" in capsys.readouterr().err
    assert main(["voice", "list"]) == 0
    assert capsys.readouterr().out.startswith("me\t3.")
    chosen = choose("me")
    assert chosen.card.tasks == ("clone",) and not chosen.card.commercial
    assert "me" not in {choose(language="en").name}
    assert main(["voice", "remove", "me"]) == 0
    assert main(["voice", "remove", "me"]) == 2
    assert reference.names() == []


def test_what_is_written_is_of_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recognizer hears the part of the recording that becomes the voice, at its own rate."""
    heard: list[np.ndarray] = []

    def transcribe(_model: object, sources: Sequence[np.ndarray], options: Options) -> Iterator[SimpleNamespace]:
        heard.extend(sources)
        assert options.language == "en"
        yield SimpleNamespace(text=" What was said" if len(heard) == 1 else " ♪")

    monkeypatch.setattr(reference, "transcribe", transcribe)
    recording, model = torch.from_numpy(speech((1, 0), (9, 0.1), (1, 0), (9, 0.1))), cast("Model", object())
    made = make(recording, model, language="en", consent=True)
    assert made.text == "What was said. " and made.about["language"] == "en"
    assert len(heard[0]) / 16_000 == pytest.approx(len(made.mels) / 93.75, abs=0.02)
    with pytest.raises(MediaError, match="without words"):
        make(recording, model, language="en", consent=True)
