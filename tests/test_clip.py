"""Clips: modalities of unequal rates stay on one clock, however they are cut and joined."""

import random

import pytest
import torch
from torch import nn
from toys.folders import new_toy

from mmx.clip import Clip, Input, Rolling, cut, duration_s, frame_at, join, lay, pad
from mmx.errors import InputError
from mmx.model import Model
from mmx.seq import Seq

RATES = {"speech": 16_000.0, "lips": 25.0, "pose": 30_000 / 1001, "gaze": 29.97, "brain": 512.0}


def numbered(rate: float, seconds: float, first: int = 0) -> Seq:
    """Frames that are their own numbers, from one on."""
    n = frame_at(seconds, rate)
    return Seq(torch.arange(first + 1, first + n + 1)[None, :, None], torch.tensor([n]), rate)


def clip_of(seconds: float, **rates: float) -> dict[str, Seq]:
    return {name: numbered(rate, seconds) for name, rate in (rates or RATES).items()}


def spliced(clip: Clip, spans: list[tuple[float, float]]) -> dict[str, Seq]:
    """Stretches of a clip on one clock, of which never more than needed is held."""
    rolling, parts, at_s, read_s = Rolling(), [], 0.0, 0.0
    for a, b in spans:
        while read_s < b + 0.1:
            rolling.append(cut(clip, read_s, read_s + 0.7))
            read_s += 0.7
        parts.append(rolling.part(a, b, at_s))
        rolling.drop(b)
        at_s += b - a
    return lay(parts)


def same(a: Seq, b: Seq) -> bool:
    return torch.equal(a.x, b.x) and torch.equal(a.lengths, b.lengths) and a.rate == b.rate


def test_parts_that_meet_make_the_clip_again() -> None:
    clip, rng = clip_of(20.0), random.Random(0)
    for _ in range(50):
        # times of every kind: whole samples, whole frames, half frames, anything
        at = sorted({rng.uniform(0, 20), rng.randrange(40) / 2 / 25, rng.randrange(320_000) / 16_000, 10.01, 0.02})
        parts = [cut(clip, a, b) for a, b in zip([0.0, *at], [*at, 21.0], strict=True)]
        for name in clip:
            assert sum(int(part[name].lengths[0]) for part in parts) == int(clip[name].lengths[0])
        whole = join(parts)
        assert all(same(whole[name], clip[name]) for name in clip), at


def test_a_modality_that_ends_early_comes_back_when_it_should() -> None:
    early = {"speech": numbered(16_000.0, 3.0), "lips": numbered(25.0, 2.0)}
    assert duration_s(early) == 3.0
    parts = [cut(early, 0.0, 2.5), cut(early, 2.5, 3.0)]
    assert all(same(join(parts)[name], early[name]) for name in early), "nothing follows: nothing is filled in"
    whole = join([early, clip_of(1.0, speech=16_000.0, lips=25.0)])
    assert int(whole["lips"].lengths[0]) == 100 and int(whole["speech"].lengths[0]) == 64_000
    assert whole["lips"].x[0, 50:75].count_nonzero() == 0 and whole["lips"].x[0, 75] == 1
    late = join([clip_of(1.0, speech=16_000.0), clip_of(1.0, speech=16_000.0, lips=25.0)])
    assert late["lips"].x[0, :, 0].tolist() == [0] * 25 + list(range(1, 26))


def test_stretches_put_together_do_not_stray() -> None:
    clip, rng = clip_of(100.0), random.Random(1)
    starts = sorted(rng.sample(range(95), 40))
    spans = [(s + rng.random() / 2, s + 0.5 + rng.random() / 2) for s in starts]
    made, total_s = spliced(clip, spans), sum(b - a for a, b in spans)
    at_s = 0.0
    for name, seq in made.items():
        assert int(seq.lengths[0]) == frame_at(total_s, RATES[name]), name
    for a, b in spans:
        for name, seq in made.items():
            rate = RATES[name]
            i = frame_at(at_s, rate)
            if i < frame_at(at_s + b - a, rate):
                assert abs((int(seq.x[0, i, 0]) - 1) / rate - a) <= 0.5 / rate + 1e-9, "begins with the stretch"
        at_s += b - a
    short = {"speech": numbered(16_000.0, 4.0), "lips": numbered(25.0, 2.0), "pose": numbered(25.0, 0.5)}
    made = spliced(short, [(0.0, 1.0), (1.5, 2.5), (3.0, 4.0)])
    assert made["lips"].x[0, :, 0].tolist() == [*range(1, 26), *range(39, 51)], "nothing follows"
    assert int(made["speech"].lengths[0]) == 48_000 and int(made["pose"].lengths[0]) == 12
    assert "pose" not in spliced(short, [(1.0, 2.0)]), "nothing of it is there"
    late = join([clip_of(1.0, speech=16_000.0), clip_of(1.0, speech=16_000.0, lips=25.0)])
    assert spliced(late, [(0.5, 0.98), (1.5, 1.7)])["lips"].x[0, :, 0].tolist() == [0] * 12 + [14, 15, 16, 17, 18]


def test_rows_of_unequal_clips() -> None:
    batch = pad([clip_of(1.0, speech=16_000.0), clip_of(2.0, speech=16_000.0, lips=25.0)])
    assert batch["speech"].lengths.tolist() == [16_000, 32_000] and batch["lips"].lengths.tolist() == [0, 50]
    assert batch["lips"].x.shape == (2, 50, 1) and not batch["lips"].x[0].any()
    part = cut(batch, 0.5, 1.5)
    assert part["speech"].lengths.tolist() == [8_000, 16_000] and part["lips"].lengths.tolist() == [
        0,
        26 - 0 - 0 - 1 + 1,
    ]
    with pytest.raises(ValueError, match="one row"):
        join([batch])


def test_what_has_no_place_on_a_clock_is_refused() -> None:
    text = {"text": Seq(torch.zeros(1, 3), torch.tensor([3]))}
    for wrong in (lambda: cut(text, 0.0, 1.0), lambda: join([text, text]), lambda: duration_s(text)):
        with pytest.raises(ValueError, match="rate"):
            wrong()
    with pytest.raises(ValueError, match="start_s"):
        cut(clip_of(1.0), 1.0, 0.5)
    with pytest.raises(ValueError, match="lips"):
        join([clip_of(1.0, lips=25.0), clip_of(1.0, lips=50.0)])
    with pytest.raises(ValueError, match="medium"):
        Input("smell", 25.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rate"):
        Input("pose", None)


def test_a_model_says_what_it_reads() -> None:
    assert new_toy("pose_to_text").inputs == {"pose": Input("pose", 25.0, (4, 2))}
    assert new_toy("lips_with_speech").inputs == {
        "lips": Input("video", 25.0, (16, 16, 3)),
        "speech": Input("audio", 16_000.0),
    }
    assert new_toy("text_to_mel").inputs == {"text": Input("text", None)}
    silent = {name: nn.Linear(1, 1) for name in ("speech", "text")}
    known = Model(front={}, encoders=silent).inputs
    assert known == {"speech": Input("audio", 16_000.0), "text": Input("text", None)}
    with pytest.raises(InputError, match="medium"):
        _ = Model(front={}, encoders={"pose": nn.Linear(1, 1)}).inputs
