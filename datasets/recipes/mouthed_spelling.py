"""Spanish words spelled by hand while the mouth says them: `python -m mmx.datasets.recipes.mouthed_spelling OUT`.

Synthetic, of two sources that each leave something open. The hands are recorded letters of the Spanish manual alphabet
(spoken-to-signed), joined and varied as in `mmx.datasets.recipes.fingerspelling`; then a quarter of the frames are
taken away in stretches of about a letter, as where a hand is hidden or leaves the picture. The mouth is seven numbers a
frame (`mmx.datasets.recipes.talking_mouths`): it says each letter's sound while that is spelled, but p, b, v and m look
alike, as do t, d, n, s and r, and h is silent. What one hides the other may show, so that a reader of both has more.

| manifest | |
|---|---|
| `train`, `valid`, `test` | words of their own; those of the test by faces of their own as well |
| `train-swapped`, `valid-swapped`, `test-swapped` | the same hands, and the mouth says another word, as long |
| `test-hands`, `test-mouth` | the same recordings without the mouth, without the hands |

`pip install spoken-to-signed pose-format wordfreq scipy`.

Letters: T frames.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmx.datasets.hands import Hands, varied
from mmx.datasets.recipes.fingerspelling import (
    RATE,
    Letter,
    character_places,
    join,
    lexicon_folder,
    read_letters,
    save,
    words,
)
from mmx.datasets.recipes.talking_mouths import Face, Phone, mouth_track
from mmx.errors import prints_errors
from mmx.files import atomic_write

ALPHABET = "ssp"
COUNTS = {"train": 2400, "valid": 60, "test": 300}
HIDDEN = (0.1, 0.4)
"""Least and largest share of a word's frames in which the hands are hidden."""
PACE = (0.6, 1.2)
"""How fast letters follow each other; see `join`."""
STRETCH = (5, 14)
"""Frames that they are hidden at a time; a letter has about eight."""
AWAY = 0.2
"""Share of the words in which the mouth, too, is not seen for one such stretch."""
SOUNDS: Mapping[str, str] = {
    "a": "a", "b": "b", "c": "k", "ch": "ʧ", "d": "d", "e": "ɛ", "f": "f", "g": "ɡ", "h": "", "i": "i", "j": "h",
    "k": "k", "l": "l", "ll": "j", "m": "m", "n": "n", "o": "ɔ", "p": "p", "q": "k", "r": "ɾ", "rr": "ɾ", "s": "s",
    "t": "t", "u": "u", "v": "b", "w": "w", "x": "ks", "y": "j", "z": "θ", "ñ": "n",
}  # fmt: skip
"""The sound of each letter, in the symbols of `mmx.datasets.recipes.talking_mouths`."""
SOFT = {"c": "θ", "g": "h"}
"""... before e and i."""


def sounds(word: Sequence[str]) -> list[str]:
    """What the mouth says at each letter; the u of "que" and "gue" is silent."""
    out = []
    for i, letter in enumerate(word):
        before, after = word[i - 1] if i else "", word[i + 1] if i + 1 < len(word) else ""
        soft = after in ("e", "i")
        silent = letter == "u" and soft and before in ("q", "g")
        out.append("" if silent else SOFT[letter] if soft and letter in SOFT else SOUNDS[letter])
    return out


def mouthed(
    word: Sequence[str], places: NDArray[np.int64], face: Face, rng: np.random.Generator
) -> NDArray[np.float32]:
    """The mouth `(T, 7)` of who says a word while it is spelled, up to 120 ms earlier or 80 ms later.

    Args:
        word: its letters.
        places: which of them each frame shows, -1 for none.
        face: whose mouth it is.
        rng: of what differs.
    """
    begins = [int(np.flatnonzero(places == i)[0]) for i in range(len(word))]
    ends = [*begins[1:], int(np.flatnonzero(places == len(word) - 1)[-1]) + 1]
    later_s, phones = rng.uniform(-3, 2) / RATE, []
    for text, begin, end in zip(sounds(word), begins, ends, strict=True):
        bounds_s = np.linspace(begin, end, len(text) + 1) / RATE + later_s
        phones += [Phone(s, a, b) for s, a, b in zip(text, bounds_s, bounds_s[1:], strict=False)]
    return mouth_track(phones, len(places), face, rng).astype(np.float32)


def hidden(frames: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """`(T,)` where something is not seen: stretches that together are at least a share of all frames."""
    out = np.zeros(frames, bool)
    while out.mean() < share:
        at = int(rng.integers(-STRETCH[0], frames))
        out[max(0, at) : max(0, at + int(rng.integers(*STRETCH)))] = True
    return out


class Clip(NamedTuple):
    """A word: its hands, its mouth `(T, 7)`, another word's, and which character each frame is to say."""

    text: str
    hands: Hands
    mouth: NDArray[np.float32]
    other: NDArray[np.float32]
    labels: NDArray[np.int64]


def make_clip(
    word: Sequence[str], other: Sequence[str], letters: Mapping[str, Letter], rng: np.random.Generator, held_out: bool
) -> Clip:
    """A word; `other` is the one that the mouth says in the place of it in the control."""
    made = join([letters[c] for c in word], rng, rng.uniform(*PACE))
    face, n = Face.draw(rng, held_out), len(made.places)
    shown = varied(made.hands, rng, other_hand=0.0)
    seen = ~hidden(n, rng.uniform(*HIDDEN), rng)
    instead = np.minimum(np.arange(n) * len(other) // n, len(other) - 1)
    mouths = [mouthed(word, made.places, face, rng), mouthed(other, instead, face, rng)]
    if rng.random() < AWAY:
        away = hidden(n, 0.01, rng)
        mouths = [np.where(away[:, None], 0, mouth) for mouth in mouths]
    return Clip(
        "".join(word), Hands(shown.points, shown.present & seen[:, None]), *mouths, character_places(word, made.places)
    )


def prepare(out: Path, counts: Mapping[str, int] = COUNTS, seed: int = 0) -> None:
    """Write clips and manifests."""
    letters = read_letters(lexicon_folder())[ALPHABET]
    listed = {
        split: [w for w in found if all(c in SOUNDS for c in w)] for split, found in words(ALPHABET, letters).items()
    }
    for k, (split, count) in enumerate(counts.items()):
        rows: dict[str, list[tuple[str, ...]]] = {"": [], "-swapped": []}
        (out / split).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rng = np.random.default_rng([seed, k, i])
            word, other = (listed[split][int(j)] for j in rng.choice(len(listed[split]), 2, replace=False))
            clip = make_clip(word, other, letters, rng, held_out=split == "test")
            at = f"{split}/{i}"
            save(out / f"{at}.npz", clip.hands)
            for name, x in (("mouth", clip.mouth), ("other", clip.other), ("labels", clip.labels[:, None])):
                np.savez(out / f"{at}.{name}.npz", features=x.astype(np.float32), rate=np.float64(RATE))
            for kind, name in (("", "mouth"), ("-swapped", "other")):
                media = (f"{at}.npz", f"{at}.{name}.npz", f"{at}.labels.npz")
                rows[kind].append((f"{split}-{i}", clip.text, ALPHABET, f"{len(clip.labels) / RATE:.2f}", *media))
        for kind, found in rows.items():
            _write(out / f"{split}{kind}.tsv", found, ("pose", "features", "target_features"))
        if split == "test":
            for kind, column in (("hands", "pose"), ("mouth", "features")):
                _write(out / f"test-{kind}.tsv", rows[""], (column,))


COLUMNS = ("id", "text", "src_lang", "duration_s", "pose", "features", "target_features")


def _write(path: Path, rows: Sequence[Sequence[str]], media: Sequence[str]) -> None:
    """A manifest with some of the media."""
    kept = [i for i, name in enumerate(COLUMNS) if i < 4 or name in media]
    lines = ["\t".join(row[i] for i in kept) for row in (COLUMNS, *rows)]
    atomic_write(path, "\n".join(lines) + "\n")


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=int, nargs=3, metavar="N", help=f"of {', '.join(COUNTS)}")
    given = parser.parse_args(arguments)
    prepare(given.out, dict(zip(COUNTS, given.clips, strict=True)) if given.clips else COUNTS, given.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
