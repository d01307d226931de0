"""Signing is told from rest, long recordings are cut there, and ELAN reads what was found."""

import itertools
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from mmx.clip import Clip
from mmx.media.signing import BODY, HANDS, signing_spans
from mmx.seq import Seq
from mmx.tasks.eaf import to_eaf
from mmx.tasks.result import Note, Transcript
from mmx.tasks.segment import NO_SIGNING, SegmentOptions, split
from mmx.tasks.window import Gap
from mmx.tasks.words import Segment, Word

RATE = 25.0
GROUPS = (BODY, *HANDS)


def person(seconds: float, signing: list[tuple[float, float]], still: list[tuple[float, float]] = ()) -> np.ndarray:  # type: ignore[assignment]
    """A person of 75 points in pixels, whose right hand signs at some times, is held up still at others, else rests."""
    rng, n = np.random.default_rng(0), round(seconds * RATE)
    x = np.zeros((n, 75, 3), np.float32)
    x[:, 11, :2], x[:, 12, :2] = (360, 200), (240, 200)  # shoulders, 120 apart
    x[:, 23, :2], x[:, 24, :2] = (340, 420), (260, 420)
    t = np.arange(n) / RATE
    hand = np.stack([np.full(n, 250.0), np.full(n, 430.0)], 1)
    for start, end in [*signing, *still]:
        inside = (t >= start) & (t < end)
        hand[inside] = (280, 260)
    for start, end in signing:
        inside = (t >= start) & (t < end)
        hand[inside] += 40 * np.stack([np.sin(9 * t[inside]), np.cos(7 * t[inside])], 1)
    x[:, 54:, :2] = hand[:, None] + rng.normal(0, 10, (21, 2))
    x[..., :2] += np.where(x[..., :2] != 0, rng.normal(0, 0.7, x[..., :2].shape), 0)
    return x


def test_hands_that_rest_or_stand_still_do_not_sign() -> None:
    x = person(20, [(2, 5), (12, 15)], still=[(5, 9)])
    spans = signing_spans(x, RATE, GROUPS)
    assert len(spans) == 2
    assert spans[0] == pytest.approx((2, 5), abs=1.2) and spans[1] == pytest.approx((12, 15), abs=0.9)
    assert all(abs(a - b) < 1e-6 for p, q in zip(spans, signing_spans(3.7 * x, RATE, GROUPS), strict=True)
               for a, b in zip(p, q, strict=True))  # fmt: skip
    assert signing_spans(person(10, []), RATE, GROUPS) == []
    assert len(signing_spans(person(10, [(1, 4), (4.4, 8)]), RATE, GROUPS)) == 1  # a short pause
    lost = x.copy()
    lost[50:125:3, 54:] = 0  # the hand is not found in a third of the frames
    assert len(signing_spans(lost, RATE, GROUPS)) == 2


def test_hands_alone_and_points_that_are_not_known() -> None:
    x = person(20, [(2, 5), (12, 15)])[:, 33:]
    x[np.arange(len(x)) < 40] = 0  # not in the picture
    (first, *_) = signing_spans(x, RATE, HANDS)
    assert first[0] == pytest.approx(2, abs=0.9)
    assert signing_spans(x, RATE, ("FACE_LANDMARKS",)) == [(0.0, 20.0)]
    assert signing_spans(x[:0], RATE, ()) == []


def blocks(x: np.ndarray, size: int) -> list[Clip]:
    return [{"signs": Seq(torch.from_numpy(x[i : i + size])[None], torch.tensor([len(x[i : i + size])]), RATE)}
            for i in range(0, len(x), size)]  # fmt: skip


def test_long_recordings_are_cut_at_rest() -> None:
    x = person(60, [(3, 8), (20, 45)])
    options = SegmentOptions(max_window_s=10.0)
    for size in (50, 400):
        items = list(split(blocks(x, size), None, options, points={"signs": GROUPS}))
        kinds = ["gap" if isinstance(i, Gap) else "window" for i in items]
        assert kinds == ["gap", "window", "gap", "window", "window", "window", "gap"]
        assert items[0].start_s == 0 and items[-1].end_s == 60
        assert all(a.end_s == pytest.approx(b.start_s) for a, b in itertools.pairwise(items))
        assert all(i.reason == NO_SIGNING for i in items if isinstance(i, Gap))
        window = items[1]
        assert not isinstance(window, Gap)
        start = round(window.start_s * RATE)
        seen = window.clip["signs"]
        assert np.array_equal(seen.x[0].numpy(), x[start : start + int(seen.lengths[0])])
    assert len(list(split(blocks(x, 50), None, options))) == 6  # without points, by length


def transcript() -> Transcript:
    words = (Word(" guten", 3.0, 3.4), Word(" Tag", 3.4, 4.0))
    segments = (
        Segment(3.0, 4.0, " guten Tag", "de", words=words),
        Segment(3.9, 6.0, " <b> & so", "de"),
        Segment(6.0, 6.0, " nothing", "de"),
    )
    notes = (Note(0.0, 3.0, "skipped", NO_SIGNING), Note(1.0, 2.0, "warning", "no"))
    return Transcript("talk.mp4", segments, "gsg", 1.0, 60.0, "translate", "m", notes)


def test_elan_reads_what_was_found(tmp_path: Path) -> None:
    """By the rules of EAFv3.0.xsd that bear on it: order of elements, attributes, references, no overlap."""
    (path,) = transcript().write(tmp_path, ["eaf"])
    root = ElementTree.fromstring(path.read_text("utf-8"))
    assert root.tag == "ANNOTATION_DOCUMENT" and {"AUTHOR", "DATE", "VERSION"} <= set(root.attrib)
    assert [e.tag for e in root] == ["HEADER", "TIME_ORDER", "TIER", "TIER", "TIER", "LINGUISTIC_TYPE"]
    assert {"MEDIA_URL", "MIME_TYPE"} <= set(root[0][0].attrib) and root[0][0].get("MIME_TYPE") == "video/mp4"
    times = {slot.attrib["TIME_SLOT_ID"]: int(slot.attrib["TIME_VALUE"]) for slot in root[1]}
    assert list(times.values()) == sorted(times.values()) and len(times) == len(root[1])
    ids, tiers = [], {}
    for tier in root.findall("TIER"):
        assert tier.get("LINGUISTIC_TYPE_REF") == root[-1].get("LINGUISTIC_TYPE_ID")
        spans = tiers[tier.get("TIER_ID")] = []
        for a in tier.iter("ALIGNABLE_ANNOTATION"):
            ids.append(a.attrib["ANNOTATION_ID"])
            start, end = (times[a.attrib[f"TIME_SLOT_REF{k}"]] for k in (1, 2))
            assert start < end and (not spans or start >= spans[-1][1])
            spans.append((start, end, a.findtext("ANNOTATION_VALUE")))
    assert len(set(ids)) == len(ids)
    assert tiers == {
        "text": [(3000, 4000, "guten Tag"), (4000, 6000, "<b> & so")],
        "text words": [(3000, 3400, "guten"), (3400, 4000, "Tag")],
        "skipped": [(0, 3000, NO_SIGNING)],
    }
    assert "eaf" not in {p.suffix[1:] for p in transcript().write(tmp_path / "all")}
    assert to_eaf([], [], "a.pose").count("<TIER") == 1
