"""Speech in one language to speech in another, offline, by the default models: what is spoken is what is written."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from test_film import pictures

import mmx
from mmx.bench.asr import word_error_rate
from mmx.cli import app as cli
from mmx.media.audio import read_audio

pytest.importorskip("hibari", reason='needs the extra voices: pip install "mmx[voices]"')
av: Any = pytest.importorskip("av")
PACKAGE = find_spec("pytest_audioeval")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="needs pytest-audioeval (extra test)"),
]


@pytest.fixture(scope="module")
def french() -> Path:
    assert PACKAGE is not None and PACKAGE.submodule_search_locations
    return Path(PACKAGE.submodule_search_locations[0]) / "samples" / "audio" / "fr" / "comptage.wav"


@pytest.fixture(scope="module")
def model(whisper_base: mmx.Model) -> mmx.Model:
    return whisper_base


@pytest.fixture(scope="module")
def spoken(french: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film in which the French is spoken after a second of silence, and its folder with the translation."""
    folder = tmp_path_factory.mktemp("s2s")
    sound, rate = soundfile.read(french, dtype="float32")
    film_of(folder / "talk.mkv", np.concatenate([np.zeros(rate, np.float32), sound, np.zeros(rate, np.float32)]), rate)
    out = ["--output-dir", str(folder), "--output-format", "srt,txt"]
    assert cli.main(["translate", str(folder / "talk.mkv"), "--to", "en", "--speak", str(folder / "en.mp4"), *out]) == 0
    return folder


def film_of(path: Path, sound: np.ndarray, rate: int) -> None:
    """Grey pictures as long as the sound."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = out.add_stream("pcm_s16le", rate=rate, layout="mono")
        for k in range(round(10 * len(sound) / rate)):
            out.mux(video.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), k, np.uint8), "rgb24")))
        frame = av.AudioFrame.from_ndarray((sound[None] * 32767).astype(np.int16), "s16", "mono")
        frame.sample_rate = rate
        for packet in [*video.encode(), *audio.encode(frame), *audio.encode()]:
            out.mux(packet)


def test_french_becomes_english_speech_in_the_film_itself(spoken: Path, model: mmx.Model):
    written = (spoken / "talk.txt").read_text("utf-8")
    heard = model.transcribe(str(spoken / "en.mp4"), language="en", beam_size=1)
    assert len(written.split()) > 5
    assert word_error_rate(heard.text, written) <= 0.2, (written, heard.text)
    assert [p for p, _ in pictures(spoken / "talk.mkv")] == [p for p, _ in pictures(spoken / "en.mp4")]


def test_it_is_spoken_when_the_french_is(spoken: Path):
    before, after = (np.abs(read_audio(spoken / name)) for name in ("talk.mkv", "en.mp4"))
    first, last = (np.flatnonzero(x > 0.05)[[0, -1]] / 16_000 for x in (before, after))
    assert last[0] == pytest.approx(first[0], abs=0.35), "both begin together"
    assert last[1] <= first[1] + 1.0 and len(after) >= len(before) - 1600


def test_a_text_is_translated_and_spoken(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any):
    """Its translation has a voice of another model, which is told to be synthetic."""
    monkeypatch.setattr("mmx.cli.text._translated", lambda *of: Translated("Good morning. It is late."))
    out = tmp_path / "out.opus"
    args = ["--text", "Buenos días.", "--from", "es", "--to", "en", "--model", "en-es", "--speak", str(out)]
    assert cli.main(["translate", *args]) == 0
    told = capsys.readouterr()
    assert told.out == "Good morning. It is late.\n" and "spoken by hibari, voice heart: synthetic speech" in told.err
    assert 1.5 < len(read_audio(out)) / 16_000 < 5


class Translated:
    """A translation."""

    segments = ()

    def __init__(self, text: str):
        self.text = text
