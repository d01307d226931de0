"""Fingerspelled words made from recorded letters: `python -m mmx.datasets.recipes.fingerspelling OUT [WORDS]`.

The package spoken-to-signed (MIT) carries one recording of each letter of the manual alphabets of 19 sign languages, as
points that MediaPipe found. Words are joined from them: the points of a letter at a drawn pace, then a transition to
the next; or, for most words, as the package joins them (`mmx.datasets.recipes.fingerspelling_joiner`), at more paces
than its own. What a person never does the same twice is varied: pace, tilt of the camera, size, proportions of the
bones, which hand spells, noise, and frames in which a hand was not found. Test words are joined
as the package does, or by the package itself.

The words are those of wordfreq (its data CC BY-SA 4.0); a tenth of them, by their spelling without accents, is held
out for tests, another for validation. `pip install spoken-to-signed pose-format wordfreq scipy`.

Letters: T frames, H hands (left, right), J points of a hand, C coordinates.
"""

import argparse
import contextlib
import csv
import io
import itertools
import sys
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmx.datasets.hands import OTHER_HAND, POINTS, Hands, varied
from mmx.datasets.recipes import fingerspelling_joiner as joiner
from mmx.errors import InputError, prints_errors
from mmx.files import atomic_write

RATE = 25.0
PICTURE = 512.0
"""Width of the package's picture, in which the depth of a hand is counted."""
TWO_HANDED = ("cse", "csq", "tsm")
WRIST, MIDDLE = 0, 9
"""The points of a hand that MediaPipe numbers so: the wrist, and where the middle finger begins."""
HANDS = ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS")
SPELLS = {
    "ase": "en", "asq": "de", "bzs": "pt", "cse": "cs", "csq": "hr", "eso": "fi", "gsg": "de", "gss": "el", "ise": "it",
    "jos": "ar", "lls": "lt", "mfs": "es", "psr": "pt", "sgg": "de", "ssp": "es", "svk": "sk", "swl": "sv", "tsm": "tr",
    "ukl": "uk",
}  # fmt: skip
"""The spoken language that each alphabet spells; words of Finnish stand for Estonian, which has no list."""
LONGEST, SHORTEST = 9, 3
WORDS = 1000
MORE = {"ase": 3, "gss": 2, "cse": 2, "csq": 2, "svk": 2, "jos": 1.5, "swl": 1.5, "ssp": 1.5, "tsm": 1.5}
"""How many times as many words some languages get: those with many letters, two hands or short recordings."""
PACKAGED = 0.65
"""Of the words to train on, those that are joined as the package does."""
DOUBLED = 0.3
"""Of the words to train on that are in a list, those that are drawn among the ones with a letter twice in a row."""
VALID = 20
"""Words for validation, of each language."""
TEST = 300
FLUENT, SLOW = (3.5, 8.0), (18.0, 30.0)
"""Frames a letter of words at other paces than they were joined at (about 16)."""
WITH_RESTS = 0.3
DELAY = 4
"""Frames after which a letter that is seen is to be written: how far the model, which looks only back, may wait."""
HELD_OUT = 10
"""One word in so many is held out for tests, and as many for validation."""


@dataclass(frozen=True)
class Letter:
    """A recorded letter at 25 frames a second; frames `start` to `stop` are without raising and lowering the hand."""

    text: str
    hands: Hands
    start: int
    stop: int
    moves: bool


def read_letters(folder: Path) -> dict[str, dict[str, Letter]]:
    """The recorded letters by sign language and text (lower case).

    Args:
        folder: `assets/fingerspelling_lexicon` of the package, with `data.csv`.
    """
    out: dict[str, dict[str, Letter]] = {}
    with (folder / "data.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            text = _lower(row["words"], row["signed_language"])
            letter = _letter(text, read_pose((folder / row["path"]).read_bytes()))
            out.setdefault(row["signed_language"], {})[text] = letter
    return out


def read_pose(data: bytes) -> Hands:
    """The hands of a .pose file, in widths of the shoulders, at 25 frames a second.

    MediaPipe gives the depth of a hand in widths of the picture, all else in pixels.
    """
    from pose_format import Pose  # type: ignore[import-not-found]

    return hands_of(Pose.read(data))


def hands_of(pose: object) -> Hands:
    """The hands of a pose of pose-format; see `read_pose`."""
    header, body = pose.header, pose.body  # type: ignore[attr-defined]
    x_TJC = np.ma.getdata(body.data)[:, 0].astype(np.float32)
    found_TJ = np.asarray(body.confidence)[:, 0] > 0
    sides = [header.get_point_index("POSE_LANDMARKS", f"{side}_SHOULDER") for side in ("LEFT", "RIGHT")]
    width = float(np.median(np.linalg.norm(x_TJC[:, sides[0], :2] - x_TJC[:, sides[1], :2], axis=-1)))
    width = width or header.dimensions.width / 3  # shoulders that were not found
    hands, present = [], []
    for side in ("LEFT", "RIGHT"):
        first = header.get_point_index(f"{side}_HAND_LANDMARKS", "WRIST")
        hand_TJC = np.nan_to_num(x_TJC[:, first : first + POINTS, :3].copy())
        hand_TJC[..., 2] = (hand_TJC[..., 2] - hand_TJC[:, :1, 2]) * header.dimensions.width  # files have 16 bits
        hands.append(hand_TJC / width)
        present.append(found_TJ[:, first : first + POINTS].mean(1) > 0.5)
    return _paced(Hands(np.stack(hands, 1), np.stack(present, 1)), RATE / float(body.fps))


def _lower(text: str, language: str) -> str:
    text = text.replace("I", "ı").replace("İ", "i") if language == "tsm" else text
    return text.lower()


def _paced(hands: Hands, factor: float) -> Hands:
    return hands if abs(factor - 1) < 0.02 else resampled(hands, max(2, round(len(hands) * factor)))


def resampled(hands: Hands, n: int) -> Hands:
    """As many frames as asked for, between which is interpolated; where a hand is absent it takes its nearest place."""
    at_N = np.linspace(0, len(hands) - 1, n)
    low_N = np.minimum(at_N.astype(int), max(0, len(hands) - 2))
    high_N = np.minimum(low_N + 1, len(hands) - 1)
    share_N = (at_N - low_N)[:, None, None, None]
    both_NH = hands.present[low_N] & hands.present[high_N]
    near_N = np.rint(at_N).astype(int)
    mixed = hands.points[low_N] * (1 - share_N) + hands.points[high_N] * share_N
    points = np.where(both_NH[..., None, None], mixed, hands.points[near_N])
    return Hands(points.astype(np.float32), hands.present[near_N])


def _letter(text: str, hands: Hands) -> Letter:
    """Where its sign begins and ends: after the hand that spells was raised, before it falls."""
    side = int(hands.present[:, 1].sum() >= hands.present[:, 0].sum())
    here_T, height_T = hands.present[:, side], -hands.points[:, side, WRIST, 1]
    rise_T, n = np.diff(height_T, prepend=height_T[0]), len(hands)
    start, stop = 0, n
    while start < min(8, n // 3) and (not here_T[start] or rise_T[min(start + 1, n - 1)] > 0.05):
        start += 1
    while stop > max(n - 8, 2 * n // 3) and (not here_T[stop - 1] or rise_T[stop - 1] < -0.06):
        stop -= 1
    return Letter(text, hands, start, stop, _moves(hands.part(start, stop), side))


def _moves(hands: Hands, side: int) -> bool:
    """Whether the movement is part of the letter: the wrist goes a quarter of the shoulders, or the shape changes."""
    if len(hands) < 3:
        return False
    wrist_NC = resampled(hands, 8).points[:, side, WRIST, :2]
    shape_TJC = hands.points[:, side] - hands.points[:, side, :1]
    change = np.abs(shape_TJC - np.median(shape_TJC, 0)).mean() / (np.abs(shape_TJC).mean() + 1e-6)
    return bool(np.linalg.norm(np.diff(wrist_NC, axis=0), axis=1).sum() > 0.25 or change > 0.35)


# -------------------- words


def spelled(word: str, letters: Mapping[str, Letter]) -> list[str] | None:
    """The letters of a word, the longest first ("sch"); an accent that the alphabet lacks is left out.

    None where a letter is missing.
    """
    word, out, at = unicodedata.normalize("NFC", word).replace("ς", "σ"), [], 0
    longest = max(map(len, letters))
    while at < len(word):
        found = next((word[at : at + n] for n in range(longest, 0, -1) if word[at : at + n] in letters), None)
        plain = unicodedata.normalize("NFD", word[at])[0]
        if found is None and plain not in letters:
            return None
        out.append(plain if found is None else found)
        at += 1 if found is None else len(found)
    return out


def split_of(text: str) -> str:
    """Whether words that are spelled so, accents apart, are to "train" on, or for "valid" or "test" alone."""
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))
    return {0: "test", 1: "valid"}.get(zlib.crc32(plain.encode()) % HELD_OUT, "train")


def words(language: str, letters: Mapping[str, Letter], most: int = 20_000) -> dict[str, list[list[str]]]:
    """Words of an alphabet, cut into letters, by `split_of`."""
    try:
        from wordfreq import top_n_list  # type: ignore[import-not-found]
    except ImportError as e:
        raise InputError("expected the package wordfreq, which has lists of words, got none: pip install it") from e
    out: dict[str, dict[str, list[str]]] = {"train": {}, "valid": {}, "test": {}}
    for word in top_n_list(SPELLS[language], most):
        found = spelled(word, letters)
        if found and SHORTEST <= len("".join(found)) <= LONGEST:
            out[split_of("".join(found))]["".join(found)] = found
    return {split: list(found.values()) for split, found in out.items()}


# -------------------- joining


class Word(NamedTuple):
    """A word as it is spelled, and the letter that each frame shows, `(T,)`: its place in the word, -1 for none."""

    hands: Hands
    places: NDArray[np.int64]


def join(letters: Sequence[Letter], rng: np.random.Generator, pace: float | None = None) -> Word:
    """Letters one after the other, as one spells a word.

    Args:
        letters: recordings.
        rng: what the word is varied by.
        pace: above 1 is faster; drawn when None. At 2 a letter that does not move has 3 to 6 frames.
    """
    pace = rng.uniform(0.6, 2.2) if pace is None else pace
    pieces: list[Hands] = []
    places: list[NDArray[np.int64]] = []

    def add(piece: Hands, place: int) -> None:
        pieces.append(piece)
        places.append(np.full(len(piece), place))

    for i, letter in enumerate(letters):
        held = _held(letter, rng, pace)
        if i == 0 and letter.start and rng.random() < 0.6:
            add(letter.hands.part(0, letter.start), -1)
        if i:
            doubled = letters[i - 1].text[-1:] == letter.text[:1]
            add(_transition(pieces[-1], held, doubled, rng, pace), -1)
        add(held, i)
        if i == len(letters) - 1 and letter.stop < len(letter.hands) and rng.random() < 0.6:
            add(letter.hands.part(letter.stop, len(letter.hands)), -1)
    hands = _chain(*pieces)
    hands = _kept_between(hands) if rng.random() < 0.4 else hands
    return Word(_smoothed(hands) if rng.random() < 0.5 else hands, np.concatenate(places))


def join_as_packaged(letters: Sequence[joiner.Recording], rng: np.random.Generator, plain: bool = False) -> Word:
    """Letters as the package joins them; half of the words with letters of other lengths and another pace.

    Args:
        letters: recordings.
        rng: what the word is varied by.
        plain: exactly as the package does.
    """
    is_other = not plain and rng.random() < 0.5
    longest_s = float(rng.uniform(0.35, 1.0)) if is_other else joiner.LONGEST_S
    points, present, places = joiner.join(letters, longest_s)
    points[..., 2] = (points[..., 2] - points[:, :, :1, 2]) * PICTURE
    hands = Hands(points.astype(np.float32), present)
    factor = RATE / letters[0].fps * (np.exp(rng.uniform(np.log(0.4), np.log(1.15))) if is_other else 1.0)
    n = max(4, round(len(places) * factor))
    if abs(factor - 1) < 0.02:
        return Word(hands, places)
    return Word(resampled(hands, n), places[np.rint(np.linspace(0, len(places) - 1, n)).astype(int)])


def _kept_between(hands: Hands) -> Hands:
    """A hand that is absent for a while is taken to go straight to where it is found again, as joiners of poses do."""
    points, present = hands.points.copy(), hands.present.copy()
    for side in range(2):
        found = np.flatnonzero(present[:, side])
        for a, b in itertools.pairwise(found):
            share = np.linspace(0, 1, b - a, endpoint=False)[1:, None, None]
            points[a + 1 : b, side] = points[a, side] * (1 - share) + points[b, side] * share
        if len(found):
            present[found[0] : found[-1] + 1, side] = True
    return Hands(points, present)


def _smoothed(hands: Hands) -> Hands:
    """A mean over three frames of which the middle one counts twice, where a hand is in all three."""
    here = hands.present
    all_three = np.zeros_like(here)
    all_three[1:-1] = here[:-2] & here[1:-1] & here[2:]
    points = hands.points.copy()
    points[1:-1] = (hands.points[:-2] + 2 * hands.points[1:-1] + hands.points[2:]) / 4
    return Hands(np.where(all_three[..., None, None], points, hands.points), here)


def character_places(word: Sequence[str], places: NDArray[np.int64], delay: int = DELAY) -> NDArray[np.int64]:
    """Which character of the text each frame is to say, `(T,)`, -1 for none; some frames after it is seen.

    It is said in the second half of its sign: in the first one, a letter whose sign moves is not yet told from the one
    whose sign begins alike. A sign of several characters ("sch") shows each for a part of that.
    """
    first = np.cumsum([0, *map(len, word)])
    out = np.full(len(places) + delay, -1)
    for i, text in enumerate(word):
        at = np.flatnonzero(places == i)
        at = at[min(len(at) // 2, max(0, len(at) - 2 * len(text))) :]
        for k, frames in enumerate(np.array_split(at, len(text))):
            twice = k > 0 and text[k - 1] == text[k]
            out[frames[int(twice) :] + delay] = first[i] + k
    return out[: len(places)]


def _chain(*pieces: Hands) -> Hands:
    return Hands(np.concatenate([p.points for p in pieces]), np.concatenate([p.present for p in pieces]))


def _held(letter: Letter, rng: np.random.Generator, pace: float) -> Hands:
    """The sign of a letter for as long as it is held, which is longer where it moves."""
    low, high, least = (9, 20, 7) if letter.moves else (4, 15, 2)
    n = int(np.clip(rng.uniform(low, high) / pace, least, 26))
    cut = (0, 0) if letter.moves or letter.stop - letter.start < 11 else rng.integers(0, 3, 2)
    held = resampled(letter.hands.part(letter.start + cut[0], letter.stop - cut[1]), n)
    shift = np.zeros((1, 2, 1, 3), np.float32)
    shift[..., :2] = rng.normal(0, 0.04, (1, 1, 1, 2))
    return Hands(held.points + shift, held.present)


def _transition(before: Hands, after: Hands, doubled: bool, rng: np.random.Generator, pace: float) -> Hands:
    """From the last frame of one letter to the first of the next; one that is spelled twice bounces or slides."""
    n = int(rng.integers(3, 7)) if doubled else max(1, round(rng.integers(1, 7) / max(1.0, pace)))
    rise_N = ((1 - np.cos(np.linspace(0, np.pi, n + 2)[1:-1])) / 2).astype(np.float32)
    a, b = before.points[-1].copy(), after.points[0].copy()
    here_a, here_b = before.present[-1], after.present[0]
    a[~here_a], b[~here_b] = b[~here_a], a[~here_b]
    points = a + rise_N[:, None, None, None] * (b - a)
    if doubled:
        arc_N = np.sin(np.linspace(0, np.pi, n)).astype(np.float32)
        points[..., int(rng.integers(2))] += (arc_N * rng.uniform(0.05, 0.25) * rng.choice([-1, 1]))[:, None, None]
        if rng.random() < 0.4:  # the hand opens a little between the two
            points += arc_N[:, None, None, None] * rng.normal(0, 0.02, (1, 2, POINTS, 3)).astype(np.float32)
    return Hands(points.astype(np.float32), np.where((rise_N < 0.5)[:, None], here_a, here_b))


# -------------------- files


def prepare(
    out: Path, words_each: int = WORDS, seed: int = 0, languages: Sequence[str] = (), paced: float = 0.0
) -> list[Path]:
    """Write `train.tsv` and `valid.tsv` with their poses, and `test.tsv` of words that the package itself joined.

    Args:
        out: folder.
        words_each: to train on, of each language; some get more (`MORE`).
        seed: of what is drawn.
        languages: sign languages; all when empty.
        paced: share of the words, those for validation too, that are fluent or slow, half and half.
    """
    folder = lexicon_folder()
    found = read_letters(folder)
    chosen = list(languages) or sorted(found)
    if unknown := sorted(set(chosen) - set(found)):
        raise InputError(f"expected sign languages among {', '.join(sorted(found))}, got {', '.join(unknown)}")
    rows: dict[str, list[tuple[str, ...]]] = {"train": [], "valid": []}
    for language in chosen:
        rng = np.random.default_rng([seed, zlib.crc32(language.encode())])
        alphabet = Alphabet(language, found[language], recordings(folder, language), words(language, found[language]))
        for split, n in (("train", round(words_each * MORE.get(language, 1))), ("valid", VALID)):
            (out / split / language).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                word = _drawn(split, alphabet, rng)
                hands, places = _made(word, split, alphabet, rng, paced)
                name, labels = f"{split}/{language}/{i}.npz", f"{split}/{language}/{i}.labels.npz"
                save(out / name, hands)
                shown = character_places(word, places)[:, None].astype(np.float32)
                np.savez(out / labels, features=shown, rate=np.float64(RATE))
                row = (f"{split}-{language}-{i}", name, "".join(word), language, f"{len(hands) / RATE:.2f}", labels)
                rows[split].append(row)
    return [_manifest(out / f"{split}.tsv", found_rows) for split, found_rows in rows.items()]


class Alphabet(NamedTuple):
    """A language's letters, their recordings as the package takes them, and its words of each split."""

    language: str
    letters: Mapping[str, Letter]
    recordings: Mapping[str, joiner.Recording]
    words: Mapping[str, list[list[str]]]


def _made(word: Sequence[str], split: str, alphabet: Alphabet, rng: np.random.Generator, paced: float) -> Word:
    """Joined, and varied to train on; of the words for validation, most are as the package joins them."""
    if rng.random() < PACKAGED:
        made = join_as_packaged([alphabet.recordings[c] for c in word], rng, plain=split == "valid")
    else:
        made = join([alphabet.letters[c] for c in word], rng)
    if paced and rng.random() < paced:
        made = at_pace(made, len(word) * rng.uniform(*(FLUENT if rng.random() < 0.5 else SLOW)))
    if split != "train":
        return made
    other_hand = 0.0 if alphabet.language in TWO_HANDED else OTHER_HAND
    return _with_rests(made._replace(hands=varied(made.hands, rng, other_hand)), rng)


def at_pace(word: Word, frames: float) -> Word:
    """A word that lasts so many frames."""
    count = max(4, round(frames))
    kept = np.rint(np.linspace(0, len(word.places) - 1, count)).astype(int)
    return Word(resampled(word.hands, count), word.places[kept])


def with_rest(word: Word, frames: int) -> Word:
    """A word behind which no hand is seen for some frames."""
    return Word(_chain(word.hands, _nothing(frames)), np.concatenate([word.places, np.full(frames, -1)]))


def _with_rests(word: Word, rng: np.random.Generator) -> Word:
    """Some words have frames without hands before and after them, and a few a moment without hands within."""
    hands, places = Hands(word.hands.points, word.hands.present.copy()), word.places
    if rng.random() < WITH_RESTS / 2:
        at, n = rng.integers(len(hands)), rng.integers(3, 8)
        hands.present[at : at + n] = False
    if rng.random() >= WITH_RESTS:
        return Word(hands, places)
    rests = [_nothing(int(n)) for n in rng.integers(0, 25, 2)]
    none = [np.full(len(rest), -1) for rest in rests]
    return Word(_chain(rests[0], hands, rests[1]), np.concatenate([none[0], places, none[1]]))


def _nothing(n: int) -> Hands:
    return Hands(np.zeros((n, 2, POINTS, 3), np.float32), np.zeros((n, 2), bool))


def prepare_test(
    out: Path, words_each: int = TEST, seed: int = 1, languages: Sequence[str] = (), by_package: bool = False
) -> Path:
    """Write `test.tsv`: words held out, joined from the recordings as the package's `concatenate_poses` does.

    Args:
        out: folder.
        words_each: of each language.
        seed: of the words that are drawn.
        languages: sign languages; all when empty.
        by_package: joined by the package itself, which takes a second a word.
    """
    folder, rows = lexicon_folder(), []
    found, files = read_letters(folder), _files(folder)
    for language in languages or sorted(found):
        rng = np.random.default_rng([seed, zlib.crc32(language.encode())])
        held, recorded = words(language, found[language])["test"], recordings(folder, language)
        (out / "test" / language).mkdir(parents=True, exist_ok=True)
        for i, k in enumerate(rng.permutation(len(held))[:words_each]):
            name = f"test/{language}/{i}.npz"
            if by_package:
                hands = _joined_by_package([files[language, c] for c in held[k]])
            else:
                hands = join_as_packaged([recorded[c] for c in held[k]], rng, plain=True).hands
            save(out / name, hands)
            rows.append((f"test-{language}-{i}", name, "".join(held[k]), language))
    return _manifest(out / "test.tsv", rows)


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """The recording of each letter, by language and text."""
    with (folder / "data.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {(r["signed_language"], _lower(r["words"], r["signed_language"])): folder / r["path"] for r in rows}


def _joined_by_package(files: Sequence[Path]) -> Hands:
    """All but a point of the face is left out, with which it takes ten times as long."""
    from pose_format import Pose  # type: ignore[import-not-found]
    from spoken_to_signed.gloss_to_pose import concatenate  # type: ignore[import-not-found]

    parts, few = ["POSE_LANDMARKS", "FACE_LANDMARKS", *HANDS], {"FACE_LANDMARKS": ["0"]}
    poses = [Pose.read(file.read_bytes()).get_components(parts, few) for file in files]
    concatenate.ConcatenationSettings.is_reduce_holistic = False
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        return hands_of(concatenate.concatenate_poses(poses))


def recordings(folder: Path, language: str) -> dict[str, joiner.Recording]:
    """The recordings of a language by their text."""
    return {text: joiner.read(file) for (of, text), file in _files(folder).items() if of == language}


def _drawn(split: str, alphabet: Alphabet, rng: np.random.Generator) -> list[str]:
    """A word; of those to train on, half are letters at random, with doubled ones among them.

    Some are one letter or two: from these CTC finds in minutes what it otherwise needs hours of words for.
    """
    listed = alphabet.words[split]
    if split != "train":
        return listed[int(rng.integers(len(listed)))]
    if rng.random() >= 0.5:
        doubled = [word for word in listed if is_doubled("".join(word))] if rng.random() < DOUBLED else []
        listed = doubled or listed
        return listed[int(rng.integers(len(listed)))]
    length = int(rng.choice((1, 1, 1, 2, 2, 3, 4, 6)))
    drawn = [str(list(alphabet.letters)[i]) for i in rng.integers(0, len(alphabet.letters), length)]
    for i in range(1, len(drawn)):
        if rng.random() < 0.2:
            drawn[i] = drawn[i - 1]
    text = "".join(drawn)
    is_free = len(text) < SHORTEST or split_of(text) == "train"
    return drawn if is_free else listed[int(rng.integers(len(listed)))]


def is_doubled(text: str) -> bool:
    """Whether a letter stands twice in a row."""
    return any(a == b for a, b in itertools.pairwise(text))


def lexicon_folder() -> Path:
    """The recordings in the package. Raises `InputError` where it is not installed."""
    try:
        package = files("spoken_to_signed")
    except ModuleNotFoundError as e:
        raise InputError(
            "expected the package spoken-to-signed, which has the recordings, got none: pip install spoken-to-signed"
        ) from e
    return Path(str(package)) / "assets" / "fingerspelling_lexicon"


def save(path: Path, hands: Hands) -> None:
    """Write a clip as `mmx.media.pose` reads it: 42 points a frame, the left hand first, zeros for an absent hand."""
    np.savez(path, pose=hands.filled.reshape(len(hands), 2 * POINTS, 3).astype(np.float16), rate=np.float64(RATE))


def _manifest(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    header = ("id", "pose", "text", "src_lang", "duration_s", "target_features")
    lines = ["\t".join(row) for row in (header[: len(rows[0])], *rows)]
    return atomic_write(path, "\n".join(lines) + "\n")


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See `--help`."""
    parser = argparse.ArgumentParser(prog="python -m mmx.datasets.recipes.fingerspelling")
    parser.add_argument("out", type=Path)
    parser.add_argument("words", type=int, nargs="?", default=WORDS, help="of each language, to train on")
    parser.add_argument("--test-words", type=int, default=TEST, help="of each language")
    parser.add_argument("--test-only", action="store_true")
    parser.add_argument("--by-package", action="store_true", help="test words joined by the package itself; slow")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn to train on")
    parser.add_argument("--paced", type=float, default=0.0, help="share of words at fluent and at slow paces")
    parser.add_argument("--languages", nargs="*", default=(), help="sign languages; all without it")
    given = parser.parse_args(arguments)
    made = [] if given.test_only else prepare(given.out, given.words, given.seed, given.languages, given.paced)
    test = prepare_test(given.out, given.test_words, languages=given.languages, by_package=given.by_package)
    print(*made, test, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
