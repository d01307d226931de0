"""Three families that no file outside tests/ knows go through what every family goes through.

Letters: B rows, T frames, D width.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from contract import MakeInput, verify_contract
from toys import data
from toys.folders import new_toy

from mmx.seq import Seq, pad

pytest.importorskip("soundfile")


def frames(*shape: int, rate: float = 25.0) -> MakeInput:
    """Makes rows of random frames of a shape."""

    def make(lengths: Sequence[int], seed: int) -> Seq:
        x = torch.randn(len(lengths), max(lengths), *shape, generator=torch.Generator().manual_seed(seed))
        return Seq(x, torch.tensor(lengths), rate)

    return make


# -------------------- their parts


def test_the_blocks_of_the_toys_keep_the_contract() -> None:
    signs, lips = new_toy("pose_to_text"), new_toy("lips_with_speech")
    verify_contract(signs.front["pose"], frames(4, 2))
    verify_contract(signs.encoders["pose"], frames(8))
    verify_contract(lips.front["lips"], frames(16, 16, 3))
    verify_contract(lips.encoders["lips"], frames(16, 16))
    verify_contract(lips.front["speech"], frames(rate=16_000.0), lengths=[1000, 640, 321])
    verify_contract(lips.encoders["speech"], frames(8, rate=50.0))


@pytest.mark.parametrize("present", [["lips"], ["speech"], ["lips", "speech"]])
@torch.no_grad()
def test_what_is_fused_of_a_stream_is_what_is_fused_of_the_whole(present: list[str]) -> None:
    fuse = new_toy("lips_with_speech").fuse
    assert fuse is not None
    made = {"lips": frames(32)([11], 0), "speech": frames(32, rate=50.0)([23], 1)}
    whole, state = fuse({name: made[name] for name in present}), fuse.init_state(1)  # type: ignore[operator]
    at, pieces = dict.fromkeys(present, 0), []
    plan = [{"lips": 3, "speech": 4}, {"lips": 0, "speech": 5}, {"lips": 4, "speech": 0}, {"lips": 4, "speech": 14}]
    for i, step in enumerate(plan):
        given = {}
        for name in present:
            x = made[name].x[:, at[name] : at[name] + step[name]]
            given[name] = Seq(x, torch.tensor([x.shape[1]]), made[name].rate, final=i == 3)
            at[name] += step[name]
        pieces.append(fuse(given, state).x)
    torch.testing.assert_close(torch.cat(pieces, 1), whole.x)


# -------------------- what they learn from


def test_files_hold_what_was_made(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    data.speakers(tmp_path, 2)
    with av.open(str(tmp_path / "train" / "1.mkv")) as container:
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert np.array_equal(pictures, data.lips(data.texts(2)[1], data.seed_of("train", 1)))


@torch.no_grad()
def test_features_of_a_voice_say_its_letters_and_sound_the_same() -> None:
    synth = new_toy("text_to_mel").synth
    assert synth is not None
    features = synth.features(pad([torch.from_numpy(data.voice("one"))], 16_000.0))  # type: ignore[operator]
    assert features.x.shape == (1, 20, 8) and features.rate == 50.0
    assert features.x[0, 4:16:4].argmax(-1).tolist() == [ord(letter) % 8 for letter in "one"]
    again = synth.features(synth.sound(features))  # type: ignore[operator]
    torch.testing.assert_close(again.x, features.x, atol=2e-2, rtol=0)
