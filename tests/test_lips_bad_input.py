"""What lips-and-sound makes of films that are not as they should be: the right words, or a word about what is wrong.

Of two speakers and faces out of view, the mouth's crop is in `test_mouth.py`.

Letters: T frames, H height, W width, N samples.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_mouth import sound, speech

import mmx
from mmx.cli.app import main
from mmx.clip import join
from mmx.media.clips import open_clip
from mmx.model import Model

av = pytest.importorskip("av")

DEMOS = Path(__file__).parent.parent / "demos"
FILM, WORDS = DEMOS / "talking_mouth.mkv", DEMOS / "talking_mouth_words.txt"
SAID = "teacher egg turtle used"
RATE, FPS = 16_000, 25
Parts = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def model() -> Model:
    return mmx.load("lips-and-sound", dtype="float32")


@pytest.fixture(scope="module")
def parts(model: Model) -> Parts:
    """Pictures `(T, H, W)` and samples `(N,)` of the film."""
    with open_clip(str(FILM), model.recorded) as reader:
        clip = join(list(reader))
    return clip["lips"].x[0].numpy(), clip["speech"].x[0].numpy()


def read(model: Model, pictures: np.ndarray, samples_N: np.ndarray) -> str:
    found = model.transcribe({"video": pictures, "audio": samples_N}, vad=False, vocabulary=str(WORDS))
    return " ".join(found.text.split())


def film(path: Path, pictures: np.ndarray, samples_N: np.ndarray | None, fps: int = FPS) -> Path:
    """A film with these, without loss."""
    opened: Any = av.open(str(path), "w")
    with opened as out:
        video = out.add_stream("ffv1", rate=fps)
        video.height, video.width, video.pix_fmt = *pictures.shape[1:], "gray"
        audio = None if samples_N is None else out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for picture in pictures:
            out.mux(video.encode(av.VideoFrame.from_ndarray(picture, "gray")))
        out.mux(video.encode())
        if audio is not None and samples_N is not None:
            frame = av.AudioFrame.from_ndarray((samples_N * 32767).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate = RATE
            out.mux(audio.encode(frame))
            out.mux(audio.encode())
    return path


def transcribed(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What `mmx transcribe --modality av` writes, and what it says."""
    asked = ["transcribe", str(path), "--modality", "av", "--vocabulary", str(WORDS), "--output-format", "txt"]
    assert main(asked) == 0
    out = capsys.readouterr()
    return " ".join(out.out.split()), out.err


def test_a_film_of_60_pictures_a_second_is_read_as_one_of_25(
    tmp_path: Path, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    lips, sound = parts
    fast = lips[np.arange(len(lips) * 60 // FPS) * FPS // 60]
    assert transcribed(film(tmp_path / "fast.mkv", fast, sound, 60), capsys)[0] == SAID


def test_a_film_without_sound_is_read_from_the_lips_and_that_is_said(
    tmp_path: Path, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    text, told = transcribed(film(tmp_path / "mute.mkv", parts[0], None), capsys)
    assert len(set(text.split()) & set(SAID.split())) >= 2
    assert "speech is left out" in told


def test_eight_black_seconds_before_the_face_invent_and_lose_no_word(
    tmp_path: Path, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    lips, sound = parts
    black, hush = np.zeros((8 * FPS, *lips.shape[1:]), lips.dtype), np.zeros(8 * RATE, sound.dtype)
    path = film(tmp_path / "late.mkv", np.concatenate([black, lips]), np.concatenate([hush, sound]))
    assert transcribed(path, capsys)[0] == SAID


def test_a_face_that_leaves_the_picture_half_way_leaves_the_sound(model: Model, parts: Parts) -> None:
    lips, sound = parts
    gone = lips.copy()
    gone[len(gone) // 2 :] = 0  # as `mmx crop-mouth` writes a mouth that is not in the picture
    assert len(set(read(model, gone, sound).split()) & set(SAID.split())) >= 3


def test_pictures_longer_than_the_sound_are_read_to_their_end(model: Model, parts: Parts) -> None:
    lips, sound = parts
    text = read(model, lips, sound[: len(sound) // 2])
    assert text.startswith("teacher egg") and len(text.split()) >= 3


def live(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What a session of the file writes, and what it says."""
    assert main(["live", "--file", str(path), "--modality", "av"]) == 0
    out = capsys.readouterr()
    return out.out, out.err


def test_a_session_says_what_is_lost_and_when_it_is_back(
    tmp_path: Path, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    lips, sound = np.tile(parts[0], (3, 1, 1)), np.tile(parts[1], 3)
    third = len(parts[0])
    lips[third : 2 * third] = 0
    written, told = live(film(tmp_path / "lost.mkv", lips, sound), capsys)
    assert written.count("used") >= 2
    assert told.index("no picture for 1 s: goes on with the sound alone") < told.index("the picture is back")


def test_a_session_of_a_film_without_sound_says_so(
    tmp_path: Path, parts: Parts, capsys: pytest.CaptureFixture[str]
) -> None:
    written, told = live(film(tmp_path / "mute.mkv", parts[0], None), capsys)
    assert written.strip() and "speech is left out" in told


@pytest.mark.parametrize("late", [5, 0])
def test_sound_that_is_out_of_step_is_told(late: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mouth that is dark inside as it opens, and sound as loud as it is open, five pictures (200 ms) later."""
    opening_T = speech(400, seed=2)
    mouths = np.full((400, 48, 48), 180, np.uint8)
    mouths[:, 16:32, 12:36] -= (opening_T / opening_T.max() * 100).astype(np.uint8)[:, None, None]
    path = film(tmp_path / "long.mkv", mouths, sound(opening_T, late).astype(np.float32))
    for _, told in (transcribed(path, capsys), live(path, capsys)):
        assert ("0.20 s too late for the mouth: an estimate" in told) == bool(late)
