"""A film gets a new sound: the pictures stay as they are, byte for byte, and the sound stands at its time."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_video import film

from mmx.errors import InputError, MediaError, OutputError
from mmx.files import replacing
from mmx.media.audio import read_audio
from mmx.media.film import replace_audio

av: Any = pytest.importorskip("av")
RATE = 24_000


def pictures(path: Path) -> list[tuple[bytes, float]]:
    """The packets of the pictures, and when they are shown."""
    with av.open(str(path)) as opened:
        stream = opened.streams.video[0]
        return [(bytes(p), float(p.pts * p.time_base)) for p in opened.demux(stream) if p.dts is not None]


def beep(at_s: float, long_s: float) -> np.ndarray:
    x = np.zeros(round(long_s * RATE), np.float32)
    n = round(0.2 * RATE)
    x[round(at_s * RATE) :][:n] = 0.5 * np.sin(np.arange(n) * 0.3)
    return x


@pytest.mark.parametrize(
    ("source", "target", "codec"),
    [("a.mkv", "b.mkv", "ffv1"), ("a.mp4", "b.mp4", "mpeg4"), ("a.mp4", "b.mkv", "mpeg4"), ("a.mkv", "b.mov", "mpeg4")],
)
def test_pictures_are_copied_and_the_sound_is_new(tmp_path: Path, source: str, target: str, codec: str):
    times_s = [k / 25 for k in range(50)]
    old = film(tmp_path / source, times_s, sound=(0.0, 2.0), codec=codec)
    new = replace_audio(old, tmp_path / target, beep(1.0, 2.5), RATE)
    for (a, a_s), (b, b_s) in zip(pictures(old), pictures(new), strict=True):
        assert a == b and b_s == pytest.approx(a_s, abs=0.002)
    with av.open(str(new)) as opened:
        assert [s.type for s in opened.streams] == ["video", "audio"]
    heard = np.abs(read_audio(new))
    assert np.flatnonzero(heard > 0.1)[0] / 16_000 == pytest.approx(1.0, abs=0.03), "at its time"
    assert len(heard) / 16_000 == pytest.approx(2.5, abs=0.1)
    assert [p.name for p in tmp_path.iterdir()].count(target) == 1 and not list(tmp_path.glob(".mmx-*"))


def test_a_film_whose_clock_begins_later_keeps_sound_and_pictures_together(tmp_path: Path):
    old = film(tmp_path / "a.mkv", [5 + k / 25 for k in range(50)], sound=(5.0, 7.0))
    new = replace_audio(old, tmp_path / "b.mkv", beep(1.0, 2.0), RATE)
    assert pictures(new)[0][1] == pytest.approx(0.0, abs=0.002)
    assert np.flatnonzero(np.abs(read_audio(new)) > 0.1)[0] / 16_000 == pytest.approx(1.0, abs=0.03)


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path):
    old = film(tmp_path / "a.mkv", [k / 25 for k in range(5)])
    kept = tmp_path / "kept.webm"
    kept.write_text("mine")
    with pytest.raises(InputError, match=r"holds, got ffv1: write an \.mkv"):
        replace_audio(old, kept, beep(0, 1), RATE)
    assert kept.read_text() == "mine" and not list(tmp_path.glob(".mmx-*"))
    with pytest.raises(InputError, match=r"expected a film among \.mp4"):
        replace_audio(old, tmp_path / "b.avi", beep(0, 1), RATE)
    import soundfile

    soundfile.write(tmp_path / "s.wav", np.zeros(1600), 16_000)
    with pytest.raises(MediaError, match="no moving pictures"):
        replace_audio(tmp_path / "s.wav", tmp_path / "b.mp4", beep(0, 1), RATE)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        replace_audio(old, tmp_path / "file" / "b.mkv", beep(0, 1), RATE)


def test_a_file_that_is_written_in_parts_is_whole_or_the_old_one(tmp_path: Path):
    path = tmp_path / "new" / "a.wav"
    with replacing(path) as part:
        part.write_text("one")
        assert part.suffix == ".wav" and not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(OutputError, match="disk is full"), replacing(path) as part:
        part.write_text("two")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "one" and [p.name for p in path.parent.iterdir()] == ["a.wav"]
