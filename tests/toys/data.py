"""What the toys learn from: poses, pictures and sounds of a few words, in files beside a manifest.

A word is a pattern of its own in each medium: a movement of two hands, a shape of a mouth, a row of tones.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

WORDS = ("one", "two", "three", "four")
RATE = 16_000
FPS = 25
WORD_S = 0.4
"""For which a word lasts in poses and pictures."""
LETTER_S = 0.08
"""For which a letter is heard of the voice that `text_to_mel` learns."""


def texts(n: int) -> list[str]:
    """Texts of one or two words, all of them in turn."""
    pairs = [(a,) for a in WORDS] + [(a, b) for a in WORDS for b in WORDS]
    return [" ".join(pairs[(7 * i) % len(pairs)]) for i in range(n)]


def pose(text: str, seed: int) -> NDArray[np.float32]:
    """Four points in the plane, `(T, 4, 2)`: the body, the head, and two hands, which the words move."""
    rng, frames = np.random.default_rng(seed), round(WORD_S * FPS)
    at = np.arange(frames) / frames
    pieces = []
    for word in text.split():
        k = WORDS.index(word)
        body = np.zeros((frames, 4, 2))
        body[:, 1] = (0, 1)
        body[:, 2] = np.stack([np.sin(2 * np.pi * at) * (k % 2 * 2 - 1), np.full(frames, k / 2)], -1)
        body[:, 3] = np.stack([np.full(frames, 1 - k / 2), np.cos(2 * np.pi * at) * (k // 2 * 2 - 1)], -1)
        pieces.append(body)
    whole = np.concatenate(pieces) + rng.normal(0, 0.02, (len(pieces) * frames, 4, 2)) + rng.normal(0, 1, (1, 1, 2))
    return whole.astype(np.float32)


def lips(text: str, seed: int, pixels: int = 16) -> NDArray[np.uint8]:
    """A mouth that opens as wide and as high as the word says: `(T, pixels, pixels, 3)`."""
    rng, frames = np.random.default_rng(seed), round(WORD_S * FPS)
    pieces = []
    for word in text.split():
        k = WORDS.index(word)
        picture = rng.normal(60, 5, (frames, pixels, pixels))
        open_T = np.sin(np.pi * np.arange(frames) / frames)
        for t in range(frames):
            high, wide = 1 + round((2 + 2 * (k % 2)) * open_T[t]), 2 + 4 * (k // 2)
            picture[t, pixels // 2 - high : pixels // 2 + high, pixels // 2 - wide : pixels // 2 + wide] = 220
        pieces.append(picture)
    return np.repeat(np.concatenate(pieces)[..., None], 3, -1).clip(0, 255).astype(np.uint8)


def speech(text: str, seed: int) -> NDArray[np.float32]:
    """A tone for each word, at 16 kHz, as long as the pictures."""
    rng, n = np.random.default_rng(seed), round(WORD_S * RATE)
    at = np.arange(n) / RATE
    tones = [0.3 * np.sin(2 * np.pi * (700 + 800 * WORDS.index(word)) * at) for word in text.split()]
    return (np.concatenate(tones) + rng.normal(0, 0.01, n * len(tones))).astype(np.float32)


def voice(text: str) -> NDArray[np.float32]:
    """A tone for each letter between two silences as long as one, at 16 kHz."""
    n = round(LETTER_S * RATE)
    at = np.arange(n) / RATE
    letters = [0.3 * np.sin(2 * np.pi * (250 + 500 * (ord(letter) % 8)) * at) for letter in text]
    return np.concatenate([np.zeros(n), *letters, np.zeros(n)]).astype(np.float32)


def write_video(path: Path, frames_THWC: NDArray[np.uint8]) -> Path:
    """A film without loss, at 25 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = *frames_THWC.shape[1:3], "bgr0"
        for picture in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def _write_manifest(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    path.write_text("\n".join("\t".join(row) for row in (columns, *rows)) + "\n", "utf-8")
    return path


def signs(folder: Path, n: int, name: str = "train") -> Path:
    """A manifest of poses and their texts."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for i, text in enumerate(texts(n)):
        np.save(folder / name / f"{i}.npy", pose(text, seed_of(name, i)))
        rows.append((f"{name}{i}", f"{name}/{i}.npy", text, "en"))
    return _write_manifest(folder / f"{name}.tsv", ("id", "pose", "text", "src_lang"), rows)


def speakers(folder: Path, n: int, name: str = "train") -> Path:
    """A manifest of films of lips, recordings of their sound, and their texts."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for i, text in enumerate(texts(n)):
        write_video(folder / name / f"{i}.mkv", lips(text, seed_of(name, i)))
        soundfile.write(folder / name / f"{i}.wav", speech(text, seed_of(name, i)), RATE)
        rows.append((f"{name}{i}", f"{name}/{i}.mkv", f"{name}/{i}.wav", text, "en"))
    return _write_manifest(folder / f"{name}.tsv", ("id", "video", "audio", "text", "src_lang"), rows)


def voices(folder: Path, n: int, name: str = "train") -> Path:
    """A manifest of texts and what a voice makes of them."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for i, text in enumerate(texts(n)):
        soundfile.write(folder / name / f"{i}.wav", voice(text), RATE)
        rows.append((f"{name}{i}", text, f"{name}/{i}.wav", "en"))
    return _write_manifest(folder / f"{name}.tsv", ("id", "source", "target_audio", "src_lang"), rows)


def seed_of(name: str, i: int) -> int:
    """A seed for an example of a set."""
    return sum(map(ord, name)) * 1000 + i
