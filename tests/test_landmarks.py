"""Points found in films: what has no person, another extractor, and points at another rate."""

import dataclasses
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from mmx.api import load
from mmx.cli import choice
from mmx.cli.choice import fitting, is_signed
from mmx.errors import InputError, MediaError, MmxError
from mmx.media import landmarks
from mmx.media.clips import endings, open_clip
from mmx.media.frames import points_at_rate
from mmx.media.landmarks import EXTRACTOR, Landmarks, open_landmarks
from mmx.model import tensors
from mmx.models import fingerspelling, gfslt, signing_experts
from mmx.text import character_tokenizer
from mmx.weights.folder import write_model
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


class TwoPeople:
    """In place of MediaPipe: the body of one person, then that of another, a hand raised."""

    def __init__(self, *_: Any):
        self.at = 0

    def __call__(self, x_HWC: np.ndarray) -> dict[str, list[np.ndarray]]:
        self.at += 1
        body = np.full((33, 3), 0.2 if self.at < 4 else 0.8, np.float32)
        body[12, 0] += 0.1  # from shoulder to shoulder
        return {"pose_landmarks": [body], "right_hand_landmarks": [np.full((21, 3), 0.5, np.float32)]}

    def close(self) -> None: ...


def test_of_two_people_one_at_a_time_is_read_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landmarks, "Graph", TwoPeople)
    monkeypatch.setattr(landmarks, "require_extractor", lambda _: None)
    film = np.zeros((6, 48, 64, 3), np.uint8)
    with open_landmarks(film, rate=25.0, groups=HANDS) as reader:
        points_TJC = np.concatenate(list(reader))
    assert points_TJC.shape == (6, 42, 3) and points_TJC[:, 21:].all() and not points_TJC[:, :21].any()
    assert reader.remarks == ["the person who is followed changed 1 times: several people? One at a time is read"]


def test_points_of_another_extractor_are_refused() -> None:
    pytest.importorskip("mediapipe")
    with pytest.raises(InputError, match="as RTMPose 1 finds them, from which the model learned, got MediaPipe"):
        Landmarks(HANDS, "RTMPose 1")
    with pytest.raises(InputError, match="groups of points among"):
        Landmarks(["FEET"], EXTRACTOR)


def test_a_checkpoint_keeps_what_found_its_points_and_refuses_another(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe")
    card = {"name": "x", "summary": "a test", "license": "Apache-2.0", "commercial": True}
    character_tokenizer.make(["ab"], ["ase"], tmp_path)
    for folder, extractor in (("ours", EXTRACTOR), ("theirs", "RTMPose 1")):
        config = fingerspelling.Config(vocab=7, width=8, dilations=(1,), extractor=extractor)
        held, numbers = tensors(fingerspelling.build(config)).items(), dataclasses.asdict(config)
        write_model(tmp_path / folder, held, family="fingerspelling", config=numbers, card=card, tokenizer=tmp_path)
    with av.open(str(tmp_path / "grey.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 90, np.uint8), format="rgb24")))
        file.mux(stream.encode())
    said = {"ours": "hands are to be seen", "theirs": "as RTMPose 1 finds them.*install the version"}
    for folder, match in said.items():
        model = load(tmp_path / folder, device="cpu", dtype="float32")
        with pytest.raises(MmxError, match=match), open_clip(str(tmp_path / "grey.mp4"), model.recorded) as reader:
            list(reader)


@pytest.mark.parametrize("reader", ["signs", "signing"])
def test_models_of_bodies_read_films_too(reader: str) -> None:
    sizes: dict[str, Any] = {"vocab": 8, "width": 8}
    if reader == "signs":
        model = gfslt.build(gfslt.Config(reads="pose", heads=2, hidden=8, layers=(1, 0, 1), **sizes))
    else:
        model = signing_experts.build(signing_experts.Config(experts=("signing",), dilations=(1,), **sizes))
    assert model.recorded[reader].extractor == EXTRACTOR
    assert {".pose", ".mp4"} <= endings(model.recorded)


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
