"""Training monotonic heads: what they learn from prefixes, and the speech that is made for it."""

import json
import random
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmx.datasets.recipes.emma import RATE, read_by_a_person, roughen, sentences, spoken
from mmx.errors import InputError
from mmx.experiments import monotonic
from mmx.model import Model
from mmx.streaming.emma.heads import HeadsConfig, build_heads, read_heads
from mmx.streaming.emma.train import FitOptions, collate, fit, grid_energies, losses, validate

# -------------------- the speech


HEADER = "id\tsource\ttarget\torigin\tlicence\n"


def test_sentences_are_plain_words_each_once(tmp_path: Path) -> None:
    rows = ["The ship left the harbour at dawn.", "Press <b>OK</b> to go on now.", "Too short.", "It is 5 o'clock now.",
            "The ship left the harbour at dawn."]  # fmt: skip
    (tmp_path / "texts.tsv").write_text(HEADER + "".join(f"{i}\t{t}\tx\tgame\tZlib\n" for i, t in enumerate(rows)))
    found = sentences(tmp_path / "texts.tsv")
    assert [(x.text, x.origin, x.licence) for x in found] == [(rows[0], "game", "Zlib")]


def test_a_table_without_licences_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.tsv").write_text("id\tsource\n1\tThe ship left the harbour at dawn.\n")
    with pytest.raises(InputError, match="licence"):
        sentences(tmp_path / "texts.tsv")


def test_rough_speech_is_the_same_for_a_seed_and_has_silence_around() -> None:
    speech = np.sin(np.arange(RATE, dtype=np.float32) / 9)
    first, again, other = (roughen(speech, random.Random(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert len(first) != len(other)
    assert RATE * 1.15 <= len(first) <= RATE * 2.1
    assert 0.19 < np.abs(first).max() < 0.91
    assert np.abs(first[: RATE // 20]).max() < np.abs(first).max() / 2
    assert first[: RATE // 20].any()


def test_sentences_of_a_speaker_are_varied(tmp_path: Path) -> None:
    demo = Path(__file__).parents[1] / "demos" / "dashwood.flac"
    found = spoken(demo)
    assert [text for text, _ in found] == demo.with_suffix(".txt").read_text("utf-8").splitlines()
    assert [len(wave) for _, wave in found] == [113_600, 47_840, 84_800, 96_800, 52_640]
    rows = list(read_by_a_person(demo, tmp_path, copies=2, seed=0))
    assert [r["id"] for r in rows][:3] == ["emma-person-0-00", "emma-person-0-01", "emma-person-1-00"]
    assert {r["licence"] for r in rows} == {"public domain"}
    lengths = [soundfile.info(tmp_path / r["audio"]).frames for r in rows]
    assert len(set(lengths)) == len(lengths)


def test_a_person_s_recording_has_a_line_for_each_sentence(tmp_path: Path) -> None:
    wave = np.concatenate([np.ones(RATE), np.zeros(RATE), np.ones(RATE)]).astype(np.float32) / 2
    soundfile.write(tmp_path / "a.flac", wave, RATE)
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(InputError, match=r"2 sentences.*got 3"):
        spoken(tmp_path / "a.flac")


# -------------------- learning


def recording(seed: int, tokens: int = 4, prefixes: int = 5) -> dict[str, Tensor]:
    """Token i can be told from prefix i + 1 on, and the state says so."""
    c, generator = HeadsConfig(), torch.Generator().manual_seed(seed)
    heard = torch.arange(prefixes)[:, None] >= torch.arange(tokens)[None] + 1
    states = 0.3 * torch.randn(prefixes, len(c.layers), tokens, c.width, generator=generator)
    states[..., :128] += torch.where(heard, 1.0, -1.0)[:, None, :, None]
    keys = 0.3 * torch.randn(prefixes, c.width, generator=generator) + 0.3
    return {
        "states": states.half(), "keys": keys.half(), "logp": torch.where(heard, -0.1, -9.0),
        "ends_s": torch.arange(1.0, prefixes + 1), "tokens": torch.arange(tokens),
    }  # fmt: skip


def test_heads_learn_to_wait_for_what_they_need(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(16):
        save_file(recording(i, tokens=3 + i % 2), tmp_path / f"{i:02d}.safetensors")
    options = FitOptions(epochs=30, batch=4, lr=1e-3, latency=1.0, held_out=4)
    fit(tmp_path, tmp_path / "out" / "heads.safetensors", options)
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines() if x.startswith("{")]
    assert lines[-1]["total"] < lines[0]["total"]
    heads, config = read_heads(tmp_path / "out" / "heads.safetensors")
    assert tuple(config.layers) == HeadsConfig().layers
    found = validate(heads, [load_file(tmp_path / f"{i:02d}.safetensors") for i in (0, 1)], options)
    assert found["hard_nll"] < 0.3  # of a token that is written too early: 8
    assert found["hard_latency_s"] < 3  # of one that waits for the end: 5


def test_what_is_left_out_is_neither_trained_on_nor_validated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a-0", "a-1", "b-0", "b-1", "b-2"):
        save_file(recording(0), tmp_path / f"{name}.safetensors")
    fit(tmp_path, tmp_path / "heads.safetensors", FitOptions(epochs=1, held_out=3, leave_out="a-"))
    assert "2 recordings to train on, 1 to validate on" in capsys.readouterr().out
    with pytest.raises(InputError, match="got 0: run `cache` first"):
        fit(tmp_path / "none", tmp_path / "heads.safetensors", FitOptions())


def test_a_sentence_is_heard_by_heads_that_never_heard_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("emma-0", "emma-1", "emma-2", "emma-person-0-00", "emma-person-1-00", "emma-person-10-00"):
        save_file(recording(0), tmp_path / f"{name}.safetensors")
    fitted: list[FitOptions] = []
    monkeypatch.setattr(monotonic, "fit", lambda cache, out, o: (fitted.append(o), fit(cache, out, o)))
    options = FitOptions(epochs=1, held_out=2)
    first = monotonic.heads_without(tmp_path, tmp_path / "out", "emma-person-1-", options)
    assert monotonic.heads_without(tmp_path, tmp_path / "out", "emma-person-1-", options) == first, "made once"
    second = monotonic.heads_without(tmp_path, tmp_path / "out", "emma-person-", options)
    assert [o.leave_out for o in fitted] == ["emma-person-1-", "emma-person-"]
    monkeypatch.setattr(monotonic, "fit", lambda cache, out, o: (fit(cache, out, o), 1 / 0))
    with pytest.raises(ZeroDivisionError):
        monotonic.heads_without(tmp_path, tmp_path / "out", "emma-person-0-", options)
    kept = {p.name for p in (tmp_path / "out").glob("*.safetensors")}
    assert kept == {first.name, second.name}, "a training that was stopped is not taken for a whole one"

    heard: list[Path | None] = []
    monkeypatch.setattr(monotonic, "find_heads", lambda model, path: path)
    monkeypatch.setattr(monotonic, "Stream", lambda model, **kw: heard.append(kw["monotonic"]))
    make = monotonic.by_turns(cast("Model", None), "emma", [first, second, None])
    for _ in range(3):
        make()
    assert heard == [first, second, None]


def test_a_batch_gives_each_recording_what_it_gets_alone() -> None:
    torch.manual_seed(0)
    heads, o = build_heads(HeadsConfig()), FitOptions()
    clips = [recording(0), recording(1, tokens=2, prefixes=3)]
    energy = grid_energies(heads, collate(clips))
    alone = grid_energies(heads, collate(clips[1:]))
    torch.testing.assert_close(energy[1:, :, :2, :3], alone, atol=1e-5, rtol=1e-5)
    both = collate(clips)
    assert both.source_s.tolist() == [5.0, 3.0]
    per_token = [losses(heads, collate([c]), o)["nll"].item() * n for c, n in zip(clips, (4, 2), strict=True)]
    assert losses(heads, both, o)["nll"].item() == pytest.approx(sum(per_token) / 6, rel=1e-4)


def test_a_second_is_worth_what_the_options_say() -> None:
    torch.manual_seed(0)
    heads, batch = build_heads(HeadsConfig()), collate([recording(0)])
    found = losses(heads, batch, FitOptions(latency=0.5, variance=0.25))
    total = found["nll"] + 0.5 * found["latency_s"] + 0.25 * found["variance_s2"]
    torch.testing.assert_close(found["total"], total)
