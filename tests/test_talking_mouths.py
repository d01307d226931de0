"""Synthetic talking mouths: shapes follow the phonemes, what is for tests stays apart, and all comes of the seed.

Letters: T frames, P numbers of a mouth, H height, W width.
"""

from pathlib import Path

import numpy as np
import pytest

from mmx.datasets.recipes import talking_mouths as recipe
from mmx.datasets.recipes.talking_mouths import (
    UNSEEN,
    WORDS,
    Face,
    Phone,
    homophene_floor,
    mouth_track,
    render,
    visemes,
)


def word(symbols: str, each_s: float = 0.16) -> list[Phone]:
    """Phonemes one after the other, from 0.2 s on."""
    return [Phone(s, 0.2 + i * each_s, 0.2 + (i + 1) * each_s) for i, s in enumerate(symbols)]


def middle(track: np.ndarray, phone: Phone) -> np.ndarray:
    """The mouth in the middle of a phoneme."""
    return track[int((phone.start_s + phone.stop_s) / 2 * recipe.RATE)]


def a_face(seed: int = 0) -> Face:
    return Face.draw(np.random.default_rng(seed), held_out=False)


def test_lips_shut_on_p_and_open_on_a_and_round_on_u() -> None:
    for seed in range(8):
        phones = word("pɑpuf")
        track = mouth_track(phones, 30, a_face(seed), np.random.default_rng(seed))
        shut, wide, again, rounded, tucked = (middle(track, p) for p in phones)
        assert min(shut[recipe.PRESSED], again[recipe.PRESSED]) > 0.6
        assert wide[recipe.OPENING] > 0.35 > 2 * again[recipe.OPENING]
        assert rounded[recipe.ROUNDING] > 0.4 > wide[recipe.ROUNDING] + 0.2
        assert tucked[recipe.TUCKED] > 0.5


def test_a_weak_phoneme_is_coloured_by_its_neighbours() -> None:
    """k before u is rounder than k before i: coarticulation."""
    face = a_face()
    rounded, spread = (
        middle(mouth_track(word(s), 30, face, np.random.default_rng(0)), word(s)[1])[recipe.ROUNDING]
        for s in ("uku", "iki")
    )
    assert rounded > spread + 0.15


def test_an_open_mouth_is_darker_than_a_shut_one_and_pictures_repeat() -> None:
    tracks = {}
    for name, opening in (("shut", 0.0), ("open", 1.0)):
        track = np.zeros((30, 7), np.float32)
        track[:, recipe.OPENING] = opening
        track[:, recipe.PRESSED] = 1 - opening
        tracks[name] = track
    for seed in range(6):
        face = a_face(seed)
        shut, wide = (render(tracks[name], face).astype(float) for name in ("shut", "open"))
        assert shut.shape == (30, recipe.SIZE, recipe.SIZE)
        below = np.s_[:, 24:34, 20:28]
        assert wide[below].mean() < shut[below].mean() - 12
        assert np.array_equal(render(tracks["open"], face), wide.astype(np.uint8))


def test_homophenes_cannot_be_told_apart_and_the_floor_counts_them() -> None:
    assert visemes("pˈæt") == visemes("bˈæd") == visemes("mˈɛn") != visemes("fˈæt")
    assert homophene_floor({"pat": "pæt", "bat": "bæt", "mat": "mæt", "fat": "fæt"}) == 0.5
    assert homophene_floor({"pat": "pæt", "fat": "fæt"}) == 0.0


def test_words_of_tests_are_not_trained_on() -> None:
    known, unseen = WORDS.split(), UNSEEN.split()
    assert len(set(known)) == len(known) and 200 <= len(known) <= 500
    assert not set(known) & set(unseen)


def test_held_out_bands_are_never_drawn_in_training() -> None:
    rng = np.random.default_rng(0)
    train, test = ({int(recipe.drawn(rng, 2.0, 9.0, held) - 2.0) for _ in range(400)} for held in (False, True))
    assert test == set(recipe.HELD_OUT) and train == set(range(recipe.BANDS)) - test


def test_a_clip_has_its_sound_pictures_and_labels_and_comes_of_its_seed(tmp_path: Path) -> None:
    pytest.importorskip("hibari")
    from mmx.experiments import talking_mouths as corpus
    from mmx.train.manifest import read_manifest

    counts = {"train": 1, "test": 1, "wide": 0}
    voice = corpus.Voice()
    clip = corpus.make_clip(voice, ["mouth", "bat"], (0, 0, 0), held_out=False)
    assert len(clip.wave) == 640 * len(clip.pictures) and len(clip.labels) == 2 * len(clip.pictures)
    spoken = [int(u) for u in dict.fromkeys(clip.labels[:, 0].tolist()) if u >= 0]
    assert spoken == sorted(spoken) and set(spoken) >= {0, 5, 6, 8}
    loud = np.abs(clip.wave).reshape(-1, 320).max(1) > 0.05
    assert (clip.labels[loud, 0] >= 0).mean() > 0.8
    again = corpus.make_clip(voice, ["mouth", "bat"], (0, 0, 0), held_out=False)
    assert np.array_equal(clip.wave, again.wave) and np.array_equal(clip.pictures, again.pictures)
    floors = corpus.prepare(tmp_path, counts, noises={"babble": 1, "music": 1, "white": 1})
    assert 0.15 < floors["words"] < 0.25
    assert read_manifest(tmp_path / "train_wide.tsv") == read_manifest(tmp_path / "train.tsv")
    (row,) = read_manifest(tmp_path / "test.tsv")
    assert set(row.media) == {"audio", "video"} and all(Path(p).is_file() for p in row.paths)


def test_frequent_words_are_none_of_those_that_are_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they sound like one, and digits, accents, short and long words are left out."""
    import sys
    import types

    listed = ["the", "map", "cafe\u0301", "mapp", "of", "wonderful", "soon", "b2b", "wondrous"]
    package = types.SimpleNamespace(top_n_list=lambda language, most: listed[:most])
    monkeypatch.setitem(sys.modules, "wordfreq", package)  # type: ignore[arg-type]
    assert recipe.frequent_words(lambda word: word.replace("pp", "p")) == ["the", "soon", "wondrous"]


def test_wide_clips_are_of_frequent_words_in_voices_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hibari")
    from mmx.experiments import talking_mouths as corpus
    from mmx.train.manifest import read_manifest

    monkeypatch.setattr(corpus, "frequent_words", lambda phonemes: ["sunlight"])
    drawn: list[bool] = []
    made = corpus.Speaker.draw
    monkeypatch.setattr(corpus.Speaker, "draw", lambda rng, held_out: drawn.append(held_out) or made(rng, held_out))
    corpus.prepare(tmp_path, {"train": 1, "test": 1, "wide": 1}, words=["pat", "bat"], noises={})
    both = read_manifest(tmp_path / "train_wide.tsv")
    assert [e.id for e in both] == ["train-0", "wide-0"] and drawn == [False, True, False]
    assert set(both[0].target.split()) <= {"pat", "bat"} and set(both[1].target.split()) == {"sunlight"}
    assert (tmp_path / "words.txt").read_text().split() == ["bat", "pat"]
