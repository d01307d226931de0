"""Live sessions of pictures and poses: from files, from a camera, with points that are found in pictures."""

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_clips_to_text import film
from test_mouth import face, picture, spot
from toys import data
from toys.folders import new_toy, write_toy

import mmx
from mmx.cli.app import main
from mmx.clip import SPEECH, Input, frame_at
from mmx.errors import InputError, MediaError
from mmx.experiments.talking_mouths import write_pictures
from mmx.media import landmarks
from mmx.media.live_mouth import LiveMouth
from mmx.seq import Seq
from mmx.streaming.client import camera as cameras
from mmx.streaming.client import session
from mmx.streaming.client.camera import Camera, WithCamera, find_camera
from mmx.streaming.client.microphone import Captured, FileSource
from mmx.streaming.client.session import Session
from mmx.streaming.client.terminal import PlainDisplay
from mmx.streaming.stream import Stream

av = pytest.importorskip("av")

RATE = 16_000
LIPS = {"lips": Input("video", 25.0, (16, 16, 3))}


class Corners:
    """Finds as points how bright the four quarters of a picture are: what a model of poses is given in these tests."""

    def points(self, frames: np.ndarray) -> np.ndarray:
        t, h, w, _ = frames.shape
        quarters = frames.reshape(t, 2, h // 2, 2, w // 2, 3).mean((2, 4, 5)).reshape(t, 4)
        return np.stack([quarters, quarters], -1).astype(np.float32)


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def drained(source: FileSource) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """All that a source gives: samples, and the frames of each modality."""
    samples, others, final = [], {}, False
    while not final:
        got = source.read()
        samples.append(got.samples)
        for name, seq in got.others.items():
            others.setdefault(name, []).append(seq.x[0])
        final = got.final
    return np.concatenate(samples), {name: torch.cat(x) for name, x in others.items()}


# -------------------- files


@pytest.mark.parametrize("realtime", [False, True])
def test_a_film_plays_with_its_pictures_and_its_sound(tmp_path: Path, realtime: bool) -> None:
    path, clock, model = film(tmp_path / "talk.mkv"), Clock(), new_toy("lips_with_speech")
    source = FileSource(str(path), realtime, inputs=model.recorded, clock=clock, sleep=clock.sleep)
    assert set(source.modalities) == {"lips", SPEECH}
    samples, others = drained(source)
    assert np.array_equal(others["lips"].numpy(), data.lips("one two", 0))
    np.testing.assert_allclose(samples, data.speech("one two", 0), atol=1e-4)
    assert clock.now_s == pytest.approx(len(samples) / RATE if realtime else 0.0, abs=0.11)


def test_pictures_that_end_before_the_sound_are_lost_not_waited_for(tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.ones((25, 4, 2), np.float32))
    inputs = {SPEECH: Input("audio", float(RATE)), "pose": Input("pose", 25.0, (4, 2))}
    source = FileSource({"audio": np.zeros(2 * RATE, np.float32), "pose": str(tmp_path / "short.npy")}, inputs=inputs)  # type: ignore[arg-type]
    named = [set(source.read().others) for _ in range(20)]
    assert named == [{"pose"}] * 10 + [set()] * 10


def test_poses_of_a_film_come_from_an_extractor(tmp_path: Path) -> None:
    path, model = film(tmp_path / "talk.mkv"), new_toy("pose_to_text")
    _, others = drained(FileSource(str(path), inputs=model.recorded, extractor=Corners()))
    assert torch.equal(others["pose"], torch.from_numpy(Corners().points(data.lips("one two", 0))))


@pytest.mark.parametrize("toy", ["pose_to_text", "lips_with_speech"])
def test_the_command_writes_what_a_session_of_the_file_writes(
    toy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_toy(toy, tmp_path / "model")
    path = tmp_path / ("signs.npy" if toy == "pose_to_text" else "talk.mkv")
    if toy == "pose_to_text":
        np.save(path, data.pose("one two four", 0))
    else:
        film(path, "one two four")
    command = ["live", "--model", str(folder), "--file", str(path), "--language", "en", "--no-vad"]
    assert main([*command, "--save", str(tmp_path / "out.json"), "--step-s", "0.2", "--policy", "hold-n:0"]) == 0
    model = mmx.load(folder)
    stream = Stream(model, language="en", vad=None, step_s=0.2, policy="hold-n:0")
    source, final = FileSource(str(path), inputs=model.recorded), False
    while not final:
        got = source.read()
        sound = {SPEECH: Seq(torch.from_numpy(got.samples)[None], torch.tensor([len(got.samples)]), float(RATE))}
        stream.push({**got.others, **(sound if SPEECH in model.recorded else {})}, final := got.final)
    assert stream.text and capsys.readouterr().out.split() == stream.text.split()


def test_what_cannot_be_read_live_is_told_with_its_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = write_toy("pose_to_text", tmp_path / "model"), film(tmp_path / "talk.mkv")
    command = ["live", "--model", str(folder), "--language", "en"]
    for more, words in (
        (["--file", str(tmp_path / "no.npy")], "no.npy"),
        (["--file", str(path)], "find the points"),
        (["--camera", "0", "--file", str(path)], "got both"),
        (["--camera", "0"], "points of a body"),
    ):
        assert main([*command, *more]) != 0
        assert words in capsys.readouterr().err


def test_a_camera_of_a_model_of_poses_has_the_finder_that_the_model_learned_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(landmarks, "Landmarks", lambda *given: given)
    model = mmx.load("fingerspelling")
    (pose,) = model.recorded.values()
    assert session._extractor(model) == (pose.points, landmarks.EXTRACTOR)


# -------------------- cameras


def pretended(seconds: float, rate: int = 30) -> Callable[[Any], Any]:
    """Opens a camera that shows a test card, as fast as it is read."""
    return lambda _: av.open(f"testsrc=size=64x64:rate={rate}:duration={seconds}", format="lavfi")


def watched(camera: Camera) -> list[Captured]:
    """All that a camera gives until it is unplugged."""
    out = []
    with pytest.raises(MediaError, match="unplugged"):
        while True:
            out.append(camera.read())
    return out


def test_a_camera_gives_pictures_at_the_rate_and_in_the_shape_that_is_read() -> None:
    got = watched(Camera("0", inputs=LIPS, opening=pretended(2.0)))
    seen = torch.cat([g.others["lips"].x[0] for g in got])
    card = np.stack([f.to_ndarray(format="rgb24", width=16, height=16) for f in pretended(2.0)(0).decode(video=0)])
    at = [frame_at(i / 30, 25.0) for i in range(60)]  # the frame from which a picture on stands, the last of several
    want = np.stack([card[max(i for i in range(60) if at[i] <= t)] for t in range(49)])
    assert np.array_equal(seen.numpy(), want)
    assert got[0].start_s == 0.0 and not any(g.final for g in got)


def test_a_slow_listener_loses_pictures_and_no_time() -> None:
    camera = Camera("0", inputs=LIPS, opening=pretended(4.0, 25), buffer_s=0.4)
    camera._ended.wait(30)
    got = camera.take()["lips"]
    assert int(got.lengths[0]) == 10 and "89 pictures were lost" in camera.notes()[0]
    camera.close()


def test_poses_of_a_camera_come_from_an_extractor_and_become_text() -> None:
    model, out = new_toy("pose_to_text"), io.StringIO()
    camera = Camera("0", inputs=model.recorded, extractor=Corners(), opening=pretended(1.5))
    stream = Stream(model, language="en", step_s=0.2, policy="hold-n:0")
    with pytest.raises(MediaError, match="unplugged"):  # what was seen before is written
        Session(camera, stream, PlainDisplay(out)).run()
    assert stream.source_s == pytest.approx(1.48) and stream.text and out.getvalue().split() == stream.text.split()
    with pytest.raises(InputError, match="points of a body"):
        Camera("0", inputs=model.recorded, opening=pretended(1.0))


class Sound:
    """A microphone that gives a second, or more, in tenths."""

    name, live, pending_s = "microphone", True, 0.0

    def __init__(self, seconds: float = 1.0) -> None:
        self.read_s, self.seconds = 0.0, seconds

    def read(self) -> Captured:
        self.read_s += 0.1
        return Captured(np.full(1600, 0.01, np.float32), self.read_s - 0.1, self.read_s > self.seconds - 0.05)

    def stop(self) -> None: ...

    def close(self) -> None: ...

    def notes(self) -> list[str]:
        return []


def test_a_camera_that_breaks_off_leaves_the_sound() -> None:
    camera = Camera("0", inputs=LIPS, opening=pretended(0.4))
    camera._ended.wait(30)
    both, stream = WithCamera(Sound(), camera), Stream(new_toy("lips_with_speech"), language="en", vad=None)
    err = io.StringIO()
    Session(both, stream, PlainDisplay(err)).run()
    assert stream.source_s == pytest.approx(1.0) and set(stream.listener.encoder.names) == {"lips", SPEECH}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOENT, "there is none"), (errno.EBUSY, "busy"), (errno.EACCES, "may not use it")]
)
def test_a_camera_that_cannot_be_opened_says_what_helps(
    number: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, "no")

    monkeypatch.setattr(av, "open", fails)
    with pytest.raises(MediaError, match=f"{words}.*--file"):
        cameras.open_camera(find_camera("3", "linux"))


def test_cameras_have_the_names_of_their_system() -> None:
    assert find_camera("2", "linux") == ("v4l2", "/dev/video2")
    assert find_camera("1", "darwin") == ("avfoundation", "1:none")
    assert find_camera("HD Webcam", "win32") == ("dshow", "video=HD Webcam")
    with pytest.raises(InputError, match="name of a camera"):
        find_camera("0", "win32")


# -------------------- mouths


def bright(picture: np.ndarray) -> list[Any]:
    """A face whose mouth is the bright spot of a picture, as `test_mouth` draws it; none where there is no spot."""
    if picture.max() < 150:
        return []
    weight = np.maximum(picture[..., 0].astype(np.float64) - 90, 0)
    y, x = np.mgrid[: len(picture), : picture.shape[1]] + 0.5
    return [face(float((weight * x).sum() / weight.sum()), float((weight * y).sum() / weight.sum()))]


def filmed(tmp_path: Path, shown: list[list[Any]]) -> Callable[[Any], Any]:
    """Opens a camera that shows faces, 25 pictures a second."""
    write_pictures(tmp_path / "faces.mkv", np.stack([picture(faces)[..., 0] for faces in shown]))
    return lambda _: av.open(str(tmp_path / "faces.mkv"))


MOUTH = {"lips": Input("video", 25.0, (48, 48), shows="mouth")}


def test_a_camera_is_cut_to_the_mouth_of_a_face_that_moves(tmp_path: Path) -> None:
    shown = [[face(60 + k / 3, 70)] for k in range(30)] + [[]] * 12 + [[face(90, 70)]] * 8
    mouths = {"lips": LiveMouth((48, 48), bright)}
    got = watched(Camera("0", inputs=MOUTH, mouths=mouths, opening=filmed(tmp_path, shown)))
    crops = torch.cat([g.others["lips"].x[0] for g in got]).numpy()
    assert crops.shape[1:] == (48, 48) and len(crops) >= 48
    black = [not crop.any() for crop in crops]
    assert black == [False] * 35 + [True] * 7 + [False] * (len(crops) - 42)  # a short loss is cut at the last place
    places = np.array([spot(crop) for crop in crops[:30]])
    assert np.abs(places).max() < 1.5  # of 48; the place is the mean of those before


def test_of_two_faces_the_larger_is_followed_also_when_the_other_comes_closer() -> None:
    def looked(sizes: tuple[float, float]) -> list[Any]:
        return [face(40, 70, sizes[0]), face(115, 70, sizes[1])]

    told = [looked((0.5, 0.3))] * 3 + [looked((0.4, 0.6))] * 3 + [[]] * 6 + [looked((0.4, 0.6))]
    found = iter(told)
    mouth = LiveMouth((96, 96), lambda _: next(found))
    left = picture([face(40, 70)])
    assert [bool(c.max() > 150) for c in mouth.crops(np.stack([left] * len(told)))] == [True] * 11 + [False] * 2


def test_a_live_session_of_lips_and_sound_says_when_the_face_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mmx live --camera 0`, the microphone beside it: the mouth is cut out, and what is lost is told."""
    opening = filmed(tmp_path, [[face(80, 70)]] * 25 + [[]] * 50)

    class Seen(Camera):
        def __init__(self, *given: Any, **told: Any):
            super().__init__(*given, opening=opening, **told)
            self._ended.wait(30)

    monkeypatch.setattr(session, "Microphone", lambda device: Sound(3.0))
    monkeypatch.setattr(session, "Camera", Seen)
    monkeypatch.setattr(session, "LiveMouth", lambda shape: LiveMouth(shape, bright))
    command = ["live", "--camera", "0", "--modality", "av", "--save", str(tmp_path / "out.txt")]
    assert main(command) == 0
    assert "no picture for 1 s: goes on with the sound alone" in capsys.readouterr().err

    def missing(shape: Any) -> Any:
        raise InputError("expected mediapipe to be installed, got none: pip install 'mmx[landmarks]'")

    monkeypatch.setattr(session, "LiveMouth", missing)
    assert main(command) == 0
    told = capsys.readouterr().err
    assert "the sound is alone" in told and "mmx[landmarks]" in told
    assert main(["live", "--camera", "0", "--modality", "video", "--save", str(tmp_path / "out.txt")]) != 0
    assert "mmx[landmarks]" in capsys.readouterr().err
