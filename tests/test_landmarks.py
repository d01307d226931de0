"""Points found in films: what has no person, another extractor, and points at another rate."""

from pathlib import Path

import numpy as np
import pytest

from mmx.cli import choice
from mmx.cli.choice import fitting, is_signed
from mmx.errors import InputError, MediaError
from mmx.media.frames import points_at_rate
from mmx.media.landmarks import EXTRACTOR, Landmarks, open_landmarks
from mmx.weights.options import LoadOptions

HANDS = ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS")


def test_points_that_come_and_go_are_not_mixed_with_nothing() -> None:
    x = np.zeros((4, 1, 3), np.float32)
    x[2:] = 8.0
    x[3] = 10.0
    made = points_at_rate(x, 12.5, 25.0)[:, 0, 0]
    assert set(made[:4]) <= {0.0, 8.0} and made[4:7].tolist() == [8.0, 9.0, 10.0]


def test_a_film_without_a_person_says_so(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "grey.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for _ in range(4):
            picture = np.full((64, 64, 3), 90, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
    with (
        open_landmarks(str(tmp_path / "grey.mp4"), rate=25.0, groups=HANDS) as reader,
        pytest.raises(MediaError, match="hands are to be seen, got none in 4 pictures"),
    ):
        list(reader)
    assert any("10 pictures a second" in remark for remark in reader.remarks)


def test_points_of_another_extractor_are_refused() -> None:
    pytest.importorskip("mediapipe")
    with pytest.raises(InputError, match="as RTMPose 1 finds them, from which the model learned, got MediaPipe"):
        Landmarks(HANDS, "RTMPose 1")
    with pytest.raises(InputError, match="groups of points among"):
        Landmarks(["FEET"], EXTRACTOR)


def test_signing_is_known_by_its_language_or_its_file() -> None:
    assert is_signed(["x.mp4"], "asl") and is_signed(["x.pose"], None)
    assert not is_signed(["x.mp4"], None) and not is_signed(["x.pose"], "en")
    assert fitting(LoadOptions(), ["x.mp4"], "de").model == LoadOptions().model
    assert fitting(LoadOptions(model="mine"), ["x.pose"], "ase").model == "mine"


def test_lips_are_read_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting(LoadOptions(), ["x.mkv"], None, "audio") == fitting(LoadOptions(), ["x.mkv"], None) == LoadOptions()
    assert fitting(LoadOptions(model="mine"), ["x.mkv"], None, "video").model == "mine"
    monkeypatch.setattr(choice, "cards", dict)
    with pytest.raises(InputError, match=r"with lips, got none.*lips_and_sound\.toml"):
        fitting(LoadOptions(), ["x.mkv"], None, "av")
