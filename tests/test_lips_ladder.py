"""The experiment with lips runs from the corpus to its tables and its picture, and judges the right words."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from mmx.experiments import lips, talking_mouths
from mmx.model import tensors
from mmx.models import lips_and_sound as family
from mmx.text import byte_tokenizer
from mmx.train.manifest import Example
from mmx.weights.folder import write_model


def test_words_are_judged_that_begin_late_enough(tmp_path: Path) -> None:
    labels = np.array([-1.0] * 10 + [0] * 20 + [1] * 20 + [2] * 3 + [3] * 20 + [4] * 20 + [-1] * 9)[:, None]
    np.save(tmp_path / "labels.npy", labels)
    makes = {"features": str(tmp_path / "labels.npy")}
    example = Example(source="", target="ab cd", src_lang="en", tgt_lang="en", makes=makes)
    found = [lips.later_words(example, after_s) for after_s in (0.1, 0.3, 1.0, 1.1, 1.9)]
    assert found == ["ab cd", "cd", "cd", "", ""]


def test_a_modality_is_lost_in_the_second_of_three_clips() -> None:
    shapes = {family.LIPS: (1, 2, 2), family.SOUND: (640,)}
    rows = [{name: torch.full((n * s[0], *s[1:]), 1.0 + n) for name, s in shapes.items()} for n in (2, 3)]
    made = lips.joined([*rows, rows[0]], family.LIPS)
    assert made[family.LIPS][:, 0, 0].tolist() == [3, 3, 0, 0, 0, 3, 3]
    assert made[family.SOUND].shape == (7 * 640,) and bool((made[family.SOUND] > 0).all())


class Spelling(lips.Reader):
    """Writes the same text of every row, a character in each frame, as if it were read."""

    def __init__(self, text: str):
        self.tok, self.lexicons, self.text_read = byte_tokenizer.byte_tokenizer(["eng_Latn"]), {lips.FREE: None}, text

    def paths(self, rows: lips.Rows):
        tokens = self.tok.encode(self.text_read)
        yield lips.FREE, [lips.Found(tokens, list(range(len(tokens))), 0.0) for _ in rows]


def test_of_three_clips_only_the_end_of_the_last_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = object.__new__(lips.Clips)
    clips.examples = [Example(id=str(i), source="", target="x", src_lang="en", tgt_lang="en") for i in range(3)]
    monkeypatch.setattr(lips, "later_words", lambda example, after_s: "late word")
    rows = [{family.LIPS: torch.ones(3, 2, 2), family.SOUND: torch.ones(3 * 640)}] * 3
    monkeypatch.setattr(lips.Clips, "rows", lambda self, how: rows)
    text = "a" * 61 + "b late word"  # the end begins at frame 12 + 50, in the middle of a word
    found = lips.recovered(Spelling(text), clips)[lips.FREE]
    assert list(found) == ["nothing", "face", "sound"] and {m.value for m in found.values()} == {0.0}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hibari")
    out = tmp_path_factory.mktemp("mouths")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(talking_mouths, "NOISE_S", 2.0)
        talking_mouths.prepare(out, {"test": 3, "unseen": 1}, noises={"babble": 1})
    return out


@pytest.mark.slow
def test_it_runs_to_its_end(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    torch.manual_seed(0)
    config = family.Config(channels=(2, 3), width=16, layers=1, heads=2, hidden=16, kernel=3, left=4, ahead=2)
    tok = tmp_path / "tokenizer"
    tok.mkdir()
    byte_tokenizer.make(["en"], tok)
    card = {"name": "x", "summary": "x", "license": "Apache-2.0", "commercial": True}
    weights, told = tensors(family.build(config)).items(), {"config": asdict(config), "card": card, "tokenizer": tok}
    write_model(tmp_path / "m", weights, family="lips_and_sound", **told)
    picture = tmp_path / "ladder.png"
    arguments: Sequence[str] = [str(corpus), "--model", str(tmp_path / "m"), "--plot", str(picture)]
    assert lips.main(arguments) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    for row in ("both, -5 dB", "lips, face still", "both, 0 dB against lips: ", "closed vocabulary", "nothing"):
        assert row in told
    assert picture.stat().st_size > 10_000
    assert lips.main([str(corpus), "--model", str(tmp_path / "m"), "--split", "unseen"]) == 0, capsys.readouterr().err
