"""Pictures, poses and features of files: exact times, any rate, upright, lazily, and nothing hostile."""

import pickle
import sys
import types
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch

from mmx.clip import Input, join
from mmx.errors import InputError, MediaError
from mmx.media.blocks import BlockReader
from mmx.media.clips import endings, open_clip
from mmx.media.frames import at_rate
from mmx.media.pose import open_numbers
from mmx.media.video import open_video
from mmx.tasks.options import Options

RATE = 16_000
SIZE, WIDE = (32, 48), (32, 64)
SOUND, LIPS = Input("audio", RATE), Input("video", 25.0, (*SIZE, 3))


def picture(k: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A grey of its own for each k up to 50."""
    return np.full((*size, 3), 5 * k, np.uint8)


def film(
    path: Path,
    times_s: list[float],
    *,
    size: tuple[int, int] = SIZE,
    rate: int = 25,
    sound: tuple[float, float] | None = None,
    pictures: list[np.ndarray] | None = None,
    codec: str = "ffv1",
) -> Path:
    """A film whose k-th picture is shown from `times_s[k]` on, the last as long as one of `rate`; `sound` is a tone,
    from and to seconds."""
    opened: Any = av.open(str(path), "w")
    with opened as out:
        video = out.add_stream(codec, rate=rate)
        video.height, video.width, video.pix_fmt = *size, "bgr0" if codec == "ffv1" else "yuv420p"
        video.time_base = Fraction(1, 1000)
        audio = (
            out.add_stream("pcm_s16le" if path.suffix == ".mkv" else "aac", rate=RATE, layout="mono") if sound else None
        )
        packets: list[Any] = []
        for k, at_s in enumerate(times_s):
            frame = av.VideoFrame.from_ndarray(pictures[k] if pictures else picture(k, size), "rgb24")
            frame.pts, frame.time_base = round(1000 * at_s), Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode()
        if audio is not None and sound is not None:
            n = round((sound[1] - sound[0]) * RATE)
            wave = (8000 * np.sin(np.arange(n) * 0.3)).astype(np.int16)
            for at in range(0, n, 1024):
                frame = av.AudioFrame.from_ndarray(wave[None, at : at + 1024], "s16", "mono")
                frame.sample_rate, frame.pts, frame.time_base = RATE, round(sound[0] * RATE) + at, Fraction(1, RATE)
                packets += audio.encode(frame)
            packets += audio.encode()
        for packet in sorted(packets, key=lambda p: float(p.pts * p.time_base)):
            out.mux(packet)
    return path


def all_of(reader: BlockReader) -> np.ndarray:
    with reader:
        return np.concatenate(list(reader))


def greys(frames: np.ndarray) -> list[int]:
    """Which picture each frame is."""
    assert (frames == frames[:, :1, :1]).all(), "each picture is one grey"
    return (frames.reshape(len(frames), -1)[:, 0] // 5).tolist()


# -------------------- pictures and their times


@pytest.mark.parametrize("block_s", [0.04, 0.3, 10.0])
def test_pictures_are_where_their_times_say(tmp_path: Path, block_s: float) -> None:
    path = film(tmp_path / "a.mkv", [k / 25 for k in range(10)])
    reader = open_video(path, rate=25.0, shape=(*SIZE, 3), block_s=block_s)
    frames = all_of(reader)
    assert frames.dtype == np.uint8 and frames.shape == (10, *SIZE, 3) and greys(frames) == list(range(10))
    assert reader.name == "a.mkv" and reader.warnings == reader.remarks == []


def test_another_rate_and_one_that_varies(tmp_path: Path) -> None:
    even = film(tmp_path / "a.mkv", [k / 50 for k in range(20)], rate=50)
    assert greys(all_of(open_video(even, rate=25.0))) == [0, *range(2, 20, 2)], "every second one"
    assert greys(all_of(open_video(even, rate=100.0))) == [k for k in range(20) for _ in range(2)]
    odd = film(tmp_path / "b.mkv", [0.0, 0.04, 0.20, 0.21, 0.40])
    assert greys(all_of(open_video(odd, rate=25.0))) == [0, 1, 1, 1, 1, 3, 3, 3, 3, 3, 4]
    ntsc = film(tmp_path / "c.mkv", [k * 1001 / 30_000 for k in range(30)], rate=30)
    assert greys(all_of(open_video(ntsc, rate=30_000 / 1001))) == list(range(30)), "times of whole milliseconds"
    assert len(all_of(open_video(ntsc, rate=25.0))) == 25


def test_sound_and_pictures_of_a_file_are_on_one_clock(tmp_path: Path) -> None:
    late = film(tmp_path / "late.mkv", [0.4, 0.44, 0.48], sound=(0.0, 1.0))
    with open_clip(late, {"lips": LIPS, "speech": SOUND}) as reader:
        clip = join(list(reader))
    assert greys(clip["lips"].x[0].numpy()) == [0] * 10 + [0, 1, 2], "black until the pictures begin"
    assert clip["lips"].x[0, 12].float().mean() == 10.0 and int(clip["speech"].lengths[0]) == RATE
    early = film(tmp_path / "early.mkv", [k / 25 for k in range(30)], sound=(0.5, 0.9))
    with open_clip(early, {"lips": LIPS, "speech": SOUND}) as reader:
        clip = join(list(reader))
    speech = clip["speech"].x[0]
    assert not speech[: RATE // 2 - 16].any() and speech[RATE // 2 + 100 :].std() > 0.1
    assert int(clip["lips"].lengths[0]) == 30


def test_a_long_film_is_read_in_clips(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", [k / 25 for k in range(50)] + [599.96], sound=(0.0, 600.0))
    longest = total = 0
    with open_clip(path, {"lips": LIPS, "speech": SOUND}) as reader:
        assert reader.duration_s == pytest.approx(600.0, abs=0.1)
        for i, clip in enumerate(reader):
            longest = max(longest, int(clip["lips"].lengths[0]))
            total += longest and int(clip["lips"].lengths[0])
            assert i > 298 or (clip["lips"].x.shape[1], clip["speech"].x.shape[1]) == (50, 2 * RATE)
    assert longest == 50 and total == 15_000


def turned(path: Path, degrees: int) -> Path:
    """The film with a display matrix that turns it, as telephones write it: clockwise."""
    one = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (v * 65536 for v in one)
    for i, value in enumerate((a, b, 0, c, d, 0, 0, 0, 2**30)):
        data[at + 4 * i : at + 4 * i + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_pictures_are_upright_and_keep_their_proportions(tmp_path: Path, degrees: int) -> None:
    one = np.zeros((32, 64, 3), np.uint8)
    one[:16, :32] = 250  # bright in the corner at the top left
    path = turned(film(tmp_path / "a.mp4", [0.0], size=(32, 64), pictures=[one], codec="mpeg4"), degrees)
    corners = {0: (0, 0), 90: (0, 1), 180: (1, 1), 270: (1, 0)}[degrees]
    whole = all_of(open_video(path))[0]
    assert whole.shape == ((64, 32, 3) if degrees % 180 else (32, 64, 3))
    high, wide = whole.shape[0] // 2, whole.shape[1] // 2
    lit = [whole[i * high :, j * wide :][:high, :wide].mean() > 125 for i in (0, 1) for j in (0, 1)]
    assert lit == [(i, j) == corners for i in (0, 1) for j in (0, 1)]
    reader = open_video(path, shape=(40, 40))
    grey = all_of(reader)[0]
    assert grey.shape == (40, 40) and "black bars" in reader.remarks[0]
    bars = (grey[:, :10], grey[:, 30:]) if degrees % 180 else (grey[:10], grey[30:])
    assert all(bar.max() < 10 for bar in bars) and grey.max() > 230


def test_what_is_no_film_is_told(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    soundfile.write(sound, np.zeros(100), RATE)
    (tmp_path / "a.txt").write_text("hello, this is text")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "list.mp4").write_text("#EXTM3U\nother.mp4\n")
    for name, said in {"a.wav": "no moving", "a.txt": "text", "empty.mp4": "empty", "list.mp4": "playlist",
                       "none.mp4": "no such file"}.items():  # fmt: skip
        with pytest.raises(MediaError, match=said):
            open_video(tmp_path / name)
    with pytest.raises(InputError, match="shape"):
        open_video(sound, shape=(3, 4, 1))
    with pytest.raises(InputError, match="bytes"):
        open_video(np.zeros((3, 4, 4)), shape=(4, 4))


def test_a_damaged_film_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8) for _ in range(40)]
    path = film(tmp_path / "a.mkv", [k / 25 for k in range(40)], pictures=noise)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    reader = open_video(path, rate=25.0)
    frames = all_of(reader)
    assert 20 < len(frames) < 32 and "cut off" in " ".join(reader.warnings)
    np.testing.assert_array_equal(frames[:20], np.stack(noise[:20]))


@pytest.mark.parametrize("rate", [25.0, 10.0, 60.0])
def test_decord_reads_what_pyav_does(tmp_path: Path, rate: float) -> None:
    pytest.importorskip("decord")
    even = film(tmp_path / "even.mkv", [k / 25 for k in range(30)], size=WIDE, codec="mpeg4")
    odd = film(tmp_path / "odd.mkv", [0.0, 0.04, 0.2, 0.41], size=WIDE, codec="mpeg4")
    on_its_side = turned(film(tmp_path / "turned.mp4", [0.0, 0.04, 0.08], size=WIDE, codec="mpeg4"), 90)
    for path in (even, odd, on_its_side):
        ours, theirs = (all_of(open_video(path, rate=rate, shape=(40, 40), reader=r)) for r in ("pyav", "decord"))
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 2  # colours there and back


def cut_off(path: Path, count: int) -> Path:
    """The film without its first pictures, as telephones cut: they stay in the file, which says not to show them."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 16
    data[at : at + 4] = (count * 640).to_bytes(4, "big")  # 16,000 units a second
    path.write_bytes(data)
    return path


def test_what_decord_reads_wrongly_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    alike = [np.full((*WIDE, 3), 100 + 2 * k, np.uint8) for k in range(30)]  # so that few of them are key frames
    late = film(tmp_path / "late.mkv", [0.4, 0.44, 0.48], sound=(0.0, 1.0), size=WIDE, codec="mpeg4")
    cut = cut_off(film(tmp_path / "cut.mp4", [k / 25 for k in range(30)], pictures=alike, size=WIDE, codec="mpeg4"), 16)
    stream = film(tmp_path / "a.ts", [k / 25 for k in range(30)], size=WIDE, codec="mpeg4")
    other = film(tmp_path / "other.mp4", [0.0, 0.04], codec="mpeg4")  # 48 wide: it gives rows with their padding
    said = {late: "3 pictures, 0.4.* got 3, 0.000 to", cut: "cut off", stream: "MPEG-TS", other: "red, green and blue"}
    for path, match in said.items():
        with pytest.raises(MediaError, match=f"{match}.*read it with PyAV"):
            all_of(open_video(path, reader="decord"))
        assert len(all_of(open_video(path, rate=25.0)))
    whole = film(tmp_path / "a.mkv", [k / 25 for k in range(30)])
    with pytest.raises(InputError, match="path of a film for decord"):
        all_of(open_video(whole.read_bytes(), reader="decord"))
    with pytest.raises(InputError, match="a reader among pyav, decord"):
        open_video(whole, reader="opencv")


def test_the_reader_of_pictures_is_an_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, asked = film(tmp_path / "a.mkv", [0.0]), []

    def opening(source: Any, *, reader: str, **_: Any) -> BlockReader:
        asked.append(reader)
        return open_video(source)

    monkeypatch.setattr("mmx.media.clips.open_video", opening)
    for options in (Options(), Options(video_reader="decord")):
        with open_clip(path, {"lips": LIPS}, video_reader=options.video_reader):
            pass
    assert asked == ["pyav", "decord"]


# -------------------- poses and features


def test_poses_of_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(50, 4, 2)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x, rate=25.0)
    np.savez(tmp_path / "b.npz", pose=x, more=x[:1], fps=50)
    np.save(tmp_path / "flat.npy", x.reshape(50, 8))
    for name in ("a.npy", "a.npz", "flat.npy"):
        made = all_of(open_numbers(tmp_path / name, medium="pose", rate=25.0, shape=(4, 2), block_s=0.3))
        np.testing.assert_array_equal(made, x)
    half = all_of(open_numbers(tmp_path / "b.npz", medium="pose", rate=25.0, shape=(4, 2)))
    np.testing.assert_allclose(half, x[::2])
    holes = x.copy()
    holes[3, 1] = np.nan
    reader = open_numbers(torch.from_numpy(holes), medium="pose", rate=25.0)
    assert not all_of(reader)[3, 1].any() and "not finite" in reader.warnings[0]

    (tmp_path / "a.pose").write_bytes(b"pose")
    monkeypatch.setitem(sys.modules, "pose_format", None)
    with pytest.raises(InputError, match=r"mmx\[pose\]"):
        open_numbers(tmp_path / "a.pose", medium="pose", rate=25.0)
    body = types.SimpleNamespace(fps=50.0, data=np.ma.masked_array(np.stack([x, x + 1], 1), mask=False))
    body.data[0, 0, 0] = np.ma.masked
    package: Any = types.ModuleType("pose_format")
    groups = [types.SimpleNamespace(name=name, points=["A", "B"]) for name in ("BODY", "LEFT_HAND_LANDMARKS")]
    header = types.SimpleNamespace(components=groups, dimensions=types.SimpleNamespace(width=500))
    package.Pose = types.SimpleNamespace(read=lambda data: types.SimpleNamespace(body=body, header=header))
    monkeypatch.setitem(sys.modules, "pose_format", package)
    reader = open_numbers(tmp_path / "a.pose", medium="pose", rate=50.0, shape=(4, 2))
    made = all_of(reader)
    assert not made[0, 0].any() and np.array_equal(made[1:], x[1:]) and "2 people" in reader.remarks[0]
    with pytest.raises(MediaError, match=r"RIGHT_HAND_LANDMARKS.*got BODY, LEFT_HAND"):
        open_numbers(tmp_path / "a.pose", medium="pose", rate=50.0, points=("RIGHT_HAND_LANDMARKS",))


def test_points_of_a_pose_are_found_by_name_and_are_in_one_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(5, 1, 4, 3)).astype(np.float32)
    names = ("LEFT_HAND_LANDMARKS", "BODY")
    groups = [types.SimpleNamespace(name=name, points=["A", "B"]) for name in names]
    header = types.SimpleNamespace(components=groups, dimensions=types.SimpleNamespace(width=500))
    body = types.SimpleNamespace(fps=25.0, data=np.ma.masked_array(x, mask=False))
    package: Any = types.ModuleType("pose_format")
    package.Pose = types.SimpleNamespace(read=lambda data: types.SimpleNamespace(body=body, header=header))
    monkeypatch.setitem(sys.modules, "pose_format", package)
    (tmp_path / "a.pose").write_bytes(b"pose")

    def read(*points: str) -> np.ndarray:
        return all_of(open_numbers(tmp_path / "a.pose", medium="pose", rate=25.0, points=points))

    np.testing.assert_array_equal(read("BODY"), x[:, 0, 2:])
    np.testing.assert_allclose(read(*names[:1]), x[:, 0, :2] * (1, 1, 500), rtol=1e-6)
    assert read("BODY", "LEFT_HAND_LANDMARKS").shape == (5, 4, 3)


def test_numbers_at_another_rate_go_by_straight_lines() -> None:
    line = np.arange(10.0)[:, None]
    np.testing.assert_allclose(at_rate(line, 10.0, 20.0)[:, 0], [*np.arange(0, 9.5, 0.5), 9.0])
    np.testing.assert_allclose(at_rate(line, 10.0, 5.0)[:, 0], [0, 2, 4, 6, 8])
    assert at_rate(line, 29.97, 25.0).shape == (8, 1)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('a file was executed')",)


def test_a_hostile_file_executes_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", pose=np.array([Evil()], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.save(tmp_path / "wrong.npy", np.zeros((5, 3, 3)))
    np.savez(tmp_path / "two.npz", one=np.zeros((5, 4, 2)), other=np.zeros((5, 4, 2)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "wrong.npy").read_bytes()[:200])
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:200])
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftyp")
    expected = {
        "a.npy": "objects",
        "a.npz": "objects",
        "b.npy": "begins",
        "words.npy": "numbers",
        "wrong.npy": r"\(frames, 4, 2\)",
        "two.npz": "one named pose",
        "cut.npy": "expected an array",
        "cut.npz": "expected an array",
    }
    for name, said in expected.items():
        for source in (tmp_path / name, (tmp_path / name).read_bytes()):
            with pytest.raises(MediaError, match=said):
                open_numbers(source, medium="pose", rate=25.0, shape=(4, 2))
    with pytest.raises(MediaError, match="find the points"):
        open_numbers(tmp_path / "film.mp4", medium="pose", rate=25.0)
    with pytest.raises(MediaError, match="no such file"):
        open_numbers(tmp_path / "none.npy", medium="pose", rate=25.0)


# -------------------- clips


def test_a_medium_that_is_not_there(tmp_path: Path) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, np.sin(np.arange(RATE)), RATE)
    inputs = {"lips": LIPS, "speech": SOUND}
    with pytest.raises(MediaError, match="no moving pictures"):
        open_clip(wav, inputs)
    with open_clip(wav, inputs, partial=True) as reader:
        assert reader.modalities == ("speech",) and "lips is left out" in reader.remarks[0]
        assert join(list(reader))["speech"].x.shape == (1, RATE)
    silent = film(tmp_path / "silent.mkv", [0.0, 0.04])
    with open_clip(silent, inputs, partial=True) as reader:
        assert reader.modalities == ("lips",) and "speech is left out" in reader.remarks[0]
    with pytest.raises(MediaError, match="no such file"):
        open_clip(tmp_path / "none.mp4", inputs, partial=True)


def test_media_from_several_files_and_arrays(tmp_path: Path) -> None:
    wav, inputs = tmp_path / "a.wav", {"lips": LIPS, "speech": SOUND}
    soundfile.write(wav, np.sin(np.arange(RATE)), RATE)
    silent = film(tmp_path / "silent.mkv", [k / 25 for k in range(25)])
    with open_clip({"video": silent, "speech": wav}, inputs) as reader:
        clip = join(list(reader))
    assert (clip["lips"].x.shape[1], clip["speech"].x.shape[1]) == (25, RATE)
    arrays = {"lips": clip["lips"].x[0].numpy(), "speech": clip["speech"].x[0]}
    with open_clip(arrays, inputs) as reader:
        again = join(list(reader))
    assert all(torch.equal(again[n].x, clip[n].x) for n in inputs)
    for wrong, said in (({"smell": wav}, "smell"), (arrays["speech"], "arrays by modality")):
        with pytest.raises(InputError, match=said):
            open_clip(wrong, inputs)
    with pytest.raises(MediaError, match="expected video for lips"):
        open_clip({"audio": wav}, inputs)


def test_endings_by_what_is_read() -> None:
    assert ".wav" in endings({"speech": SOUND}) and ".npy" not in endings({"speech": SOUND})
    assert ".wav" not in endings({"lips": LIPS}) and ".mp4" in endings({"lips": LIPS})
    assert endings({"pose": Input("pose", 25.0, (4, 2))}) == {".npy", ".npz", ".pose"}
