"""Mouths out of drawn faces with known points: where they land, who is followed, what is lost, and the files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from mmx.cli import app as cli
from mmx.errors import InputError, MediaError
from mmx.media import mouth as mouths
from mmx.media.audio import read_audio
from mmx.media.faces import Face, FaceMesh, Tracker
from mmx.media.mouth import choose, crop_mouth, find_faces, spans
from mmx.media.mouth_files import SEEN, contact_sheet, write_film, write_png
from mmx.media.speaker import speaking
from mmx.media.sync import loudness, offset
from mmx.media.video import open_video

RATE, SIZE = 25, (120, 160)
SHAPE = np.array(
    [[-36.5, -64], [-16, -63.5], [16, -63.5], [36.5, -64], [0, -21], [-22, 0], [22, 0], [0, -4], [0, 4]], np.float32
)
"""A face around its mouth, in the pixels of a crop."""


def face(x: float, y: float, scale: float = 0.5, turn: float = 0.0, open_: float = 4.0) -> Face:
    """The points of a face whose mouth is at a place; `open_` is half of its opening."""
    shape = SHAPE.copy()
    shape[7:, 1] = -open_, open_
    c, s = np.cos(turn), np.sin(turn)
    return (scale * shape @ np.array([[c, s], [-s, c]]) + (x, y)).astype(np.float32)


def picture(faces: Sequence[Face]) -> np.ndarray:
    """A grey picture with a bright spot at each mouth."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    out = np.full(SIZE, 60.0)
    for points in faces:
        at = points[5:9].mean(0)
        out += 180 * np.exp(-((x + 0.5 - at[0]) ** 2 + (y + 0.5 - at[1]) ** 2) / (2 * 2.0**2))
    return np.repeat(out.clip(0, 255).astype(np.uint8)[..., None], 3, -1)


def cropped(
    shown: Sequence[Sequence[Face]], found: Sequence[Sequence[Face]] | None = None, whose: str | int = "largest"
):
    """The mouth in pictures of the faces `shown`, of which a detector says those in `found`."""
    told = iter(shown if found is None else found)
    return crop_mouth(np.stack([picture(f) for f in shown]), whose, lambda _: next(told))[0]


def spot(crop_HW: np.ndarray) -> np.ndarray:
    """Where the bright spot is, from the middle, in pixels."""
    weight = np.maximum(crop_HW.astype(np.float64) - 90, 0)
    y, x = np.mgrid[: len(crop_HW), : len(crop_HW)] + 0.5 - len(crop_HW) / 2
    return np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()


def test_a_head_that_moves_turns_and_comes_closer_keeps_its_mouth_in_the_middle():
    t = np.arange(40) / RATE
    faces = [[face(60 + 15 * s, 70 + 4 * s, 0.4 + 0.1 * s, 0.3 * np.sin(3 * s))] for s in t]
    found = cropped(faces)
    assert found.crops.shape == (40, 96, 96) and found.seen.all() and not found.lost.any()
    places = np.array([spot(crop) for crop in found.crops])
    assert np.abs(places).max() < 1.5 and np.hypot(*np.diff(places, axis=0).T).max() < 0.7


def test_noise_of_the_detector_does_not_shake_the_crop():
    noise = np.random.default_rng(0).normal(0, 1.0, (50, 9, 2)).astype(np.float32)
    shown = [[face(80, 80)]] * 50
    found = cropped(shown, [[face(80, 80) + n] for n in noise])
    moves = np.diff(np.array([spot(crop) for crop in found.crops]), axis=0)
    raw = np.diff(noise[:, :5].mean(1), axis=0) / 0.5
    assert np.sqrt((moves[8:-8] ** 2).mean()) < 0.3 * np.sqrt((raw**2).mean())


def test_short_gaps_are_bridged_and_long_ones_are_black():
    faces = [[face(70 + k, 70)] for k in range(40)]
    gone = {*range(5, 10), *range(20, 30)}
    found = cropped(faces, [[] if k in gone else f for k, f in enumerate(faces)])
    assert spans(found.bridged) == [(5, 10)] and spans(found.lost) == [(20, 30)]
    assert not found.crops[20:30].any() and found.crops[5:10].min(axis=(1, 2)).all()
    assert np.abs([spot(c) for c in found.crops[5:10]]).max() < 1.5
    assert np.isnan(found.opening[5:10]).all() and found.face == 1


def test_a_mouth_that_leaves_the_picture_is_lost():
    found = cropped([[face(100 + 3 * k, 80)] for k in range(30)])
    assert found.seen[:5].all() and found.lost[-5:].all() and not found.crops[-1].any()


def test_of_two_people_one_is_followed():
    small, large = [face(35, 80, 0.3)], [face(110, 80, 0.5)]
    both = [[large[0], small[0]] if k % 2 else [small[0], large[0]] for k in range(12)]
    told = iter([small] * 3 + both)
    faces = find_faces(np.stack([picture(f) for f in [small] * 3 + both]), lambda _: next(told))
    assert [len(track.places) for track in faces.tracks] == [15, 12]
    assert [choose(faces, whose).number for whose in ("largest", "first", 2, "1")] == [2, 1, 2, 1]
    with pytest.raises(InputError, match="number from 1 to 2, got 'left'"):
        choose(faces, "left")


def test_a_face_that_comes_back_is_the_same_and_another_elsewhere_is_not():
    tracker = Tracker(RATE)
    for faces in [[face(50, 60)]] * 3 + [[]] * 40 + [[face(70, 60)]] * 2 + [[face(140, 60)]]:
        tracker.add(faces)
    assert [sorted(track.places) for track in tracker.tracks] == [[0, 1, 2, 43, 44], [45]]


def test_no_face_is_an_error_that_says_what_to_do():
    with pytest.raises(MediaError, match=r"expected a face, got none in 4 frames.*Come closer"):
        cropped([[]] * 4)


def speech(frames: int, seed: int) -> np.ndarray:
    """A loudness that comes and goes as syllables do, `(T,)` in 0..1."""
    drawn = np.random.default_rng(seed).normal(size=frames + 8)
    smooth = np.convolve(drawn, np.hanning(7), "valid")[:frames]
    return (smooth - smooth.min()) / np.ptp(smooth)


def sound(loud_T: np.ndarray, late: int = 0) -> np.ndarray:
    """Noise of that loudness, frames later."""
    level = np.repeat(10 ** (2 * np.roll(loud_T, late) - 2.5), 16_000 // RATE)
    return (level * np.random.default_rng(9).uniform(-0.5, 0.5, len(level))).astype(np.float32)


@pytest.mark.parametrize("late", [-5, 0, 5])
def test_sound_and_mouth_out_of_step_are_told(late: int):
    loud = speech(250, 1)
    told = offset(loud, loudness(sound(loud, late)))
    assert told is not None and told.sure and abs(told.seconds - late / RATE) < 0.02


def test_unrelated_sound_has_no_believable_offset_and_a_short_or_still_mouth_none():
    correlations = [offset(speech(500, s), loudness(sound(speech(500, s + 50)))).correlation for s in range(10)]
    assert max(correlations) < 0.5 and sum(c >= 0.3 for c in correlations) <= 3
    assert offset(speech(50, 1), loudness(sound(speech(50, 1)))) is None
    assert offset(np.ones(200), loudness(sound(speech(200, 1)))) is None


def test_who_speaks_is_whose_mouth_moves_with_the_sound():
    silent, talks = speech(150, 5), speech(150, 6)
    shown = [
        [face(35, 80, 0.4, open_=8 * a), face(115, 80, 0.3, open_=8 * b)] for a, b in zip(silent, talks, strict=True)
    ]
    told = iter(shown)
    faces = find_faces(np.stack([picture(f) for f in shown]), lambda _: next(told))
    assert speaking(faces, sound(talks)).number == 2 and speaking(faces, sound(silent)).number == 1
    with pytest.raises(MediaError, match="expected sound to tell who speaks"):
        speaking(faces, None)


def test_the_film_of_crops_is_read_back_as_it_was_with_its_sound(tmp_path: Path):
    crops = np.random.default_rng(0).integers(0, 255, (30, 96, 96), np.uint8)
    wave = sound(speech(30, 2))
    path = write_film(tmp_path / "a.mkv", crops, wave)
    with open_video(path, rate=25.0, shape=(96, 96)) as reader:
        assert np.array_equal(np.concatenate(list(reader)), crops)
    back = read_audio(path)
    assert abs(len(back) - len(wave)) <= 1 and np.abs(back[: len(wave)] - wave[: len(back)]).max() < 1e-4


def test_a_contact_sheet_shows_the_crops_in_frames_of_their_colour(tmp_path: Path):
    found = cropped([[face(80, 80)]] * 13)
    sheet = contact_sheet(found)
    assert sheet.shape == (2 * 104, 12 * 104, 3)
    assert tuple(sheet[0, 0]) == SEEN and np.array_equal(sheet[4:100, 4:100, 0], found.crops[0])
    with av.open(str(write_png(tmp_path / "a.png", sheet))) as file:
        shown = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(shown, sheet)


class _Spots:
    """In place of the mesh: a face wherever the picture is bright."""

    def __call__(self, picture_HW3: np.ndarray) -> list[Face]:
        grey = picture_HW3[..., 0].astype(np.float64)
        weight = np.maximum(grey - 120, 0)
        if weight.sum() < 100:
            return []
        y, x = np.mgrid[: grey.shape[0], : grey.shape[1]] + 0.5
        return [face(float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum()))]

    def close(self) -> None: ...


def talk(path: Path, rate: int, frames: int, gone: Sequence[int] = ()) -> Path:
    """A film of a head that moves to the right."""
    with av.open(str(path), "w") as out:
        film: Any = out.add_stream("ffv1", rate=rate)
        film.height, film.width, film.pix_fmt = *SIZE, "bgr0"
        for k in range(frames):
            shown = picture([] if k in gone else [face(50 + 30 * k / rate, 80)])
            out.mux(film.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
        out.mux(film.encode())
    return path


def test_the_verb_writes_film_numbers_and_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(mouths, "FaceMesh", _Spots)
    path = talk(tmp_path / "talk.mkv", 60, 90, range(48, 72))
    assert cli.main(["crop-mouth", str(path), "-o", str(tmp_path / "out"), "--preview", str(tmp_path / "s.png")]) == 0
    told = capsys.readouterr().out
    assert "mouth seen in 27 of 37 frames, lost in 10 (0.8-1.2 s); no sound" in told
    about = json.loads((tmp_path / "out" / "talk.mouth.json").read_text())
    assert about["lost_s"] == [[0.8, 1.2]] and about["faces"] == 1 and about["sound"] is False
    with open_video(tmp_path / "out" / "talk.mouth.mkv", rate=25.0, shape=(96, 96)) as reader:
        crops = np.concatenate(list(reader))
    assert len(crops) == 37 and not crops[20:30].any() and (tmp_path / "s.png").stat().st_size > 500


@pytest.mark.parametrize("arguments", [["--face", "7"], ["--preview", "sheet.gif"]])
def test_the_verb_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, arguments):
    monkeypatch.setattr(mouths, "FaceMesh", _Spots)
    assert cli.main(["crop-mouth", str(talk(tmp_path / "a.mkv", 25, 5)), *arguments]) != 0
    assert "expected a" in capsys.readouterr().err


def test_a_black_film_and_one_without_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(mouths, "FaceMesh", _Spots)
    assert cli.main(["crop-mouth", str(talk(tmp_path / "a.mkv", 25, 5, range(5)))]) == 1
    assert "expected a face, got none in 5 frames" in capsys.readouterr().err


def test_the_mesh_runs_and_finds_no_face_in_noise():
    pytest.importorskip("mediapipe", reason="MediaPipe's models are not installed: pip install 'mmx[landmarks]'")
    mesh = FaceMesh()
    drawn = torch.randint(0, 255, (120, 160, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert mesh(drawn.numpy()) == [] and mesh(np.zeros((64, 64, 3), np.uint8)) == []
    mesh.close()
