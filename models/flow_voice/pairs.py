"""What a vocoder learns from: latents of Kokoro-82M and the sound that its own generator makes of them.

The generator is slow: an hour of speech takes twenty minutes of a core. A fifth of the sentences is generated at
another F0 than their latent was made for, so that the vocoder follows the F0 that it is given. `prepare` runs it.

Letters: M frames of 25 ms.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.files import atomic_write
from mmx.media.write import write_audio
from mmx.models.flow_voice.frames import FRAME_S, with_pitch
from mmx.models.flow_voice.teacher import ACCENTS, F0, GENERATOR, HIDDEN, Latent, Take, Teacher, changed, cut, takes
from mmx.models.flow_voice.vocoder import FRAMES, HOP, RATE

MOVED, OCTAVES = 0.2, 0.25
"""Share of the sentences whose F0 is moved before the generator, and the most that it is moved by."""
VALID_EVERY = 30
HEAD = ("id", "src_lang", "tgt_lang", "source", "features", "target_audio", "origin")


class Generator:
    """The last part of Kokoro: decoder output, F0 and style to a waveform.

    Args:
        file: its ONNX file.
    """

    def __init__(self, file: Path):
        self.part: Any = cut(file, GENERATOR)["generator"]

    def sound(self, take: Take, f0_hz: NDArray[np.float32], style: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(600 M,)` samples at 24 kHz."""
        hidden = take.hidden.reshape(len(f0_hz), -1).T[None]
        (wave,) = self.part.run(None, {HIDDEN: hidden, F0: f0_hz[None], "style": style[None]})
        return wave.reshape(-1)[: len(f0_hz) * HOP]


def write_pair(
    take: Take, wave: NDArray[np.float32], f0_hz: NDArray[np.float32], latent: Latent, out: Path, voices: int
) -> str:
    """The files of a sentence by one of so many voices; its row of the manifest."""
    features, audio = f"features/{take.name}.npy", f"audio/{take.name}.wav"
    # Standardized by 0 and 1: the vocoder reads the logarithm of Hz itself.
    sound_MF = with_pitch(latent(take.hidden), f0_hz, 0.0, 1.0)
    shares_MV = np.tile(np.arange(voices) == take.voice, (len(sound_MF), 1))
    np.save(out / features, np.concatenate([sound_MF, shares_MV], 1).astype(np.float32))
    write_audio(out / audio, [wave.clip(-1, 1)], float(RATE))
    language = list(ACCENTS.values())[take.language].partition("-")[0]
    return "\t".join((take.name, language, language, take.text, features, audio, "kokoro"))


def prepare(
    teacher: Teacher, generator: Generator, rows: Sequence[Any], latent: Latent, out: Path, hours: float
) -> None:
    """Write `train.tsv`, `valid.tsv`, the vocoder's inputs and the sound at 24 kHz until there are so many hours."""
    for folder in ("features", "audio"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    lines = {name: ["\t".join(HEAD)] for name in ("train", "valid")}
    rng, total_s, n = random.Random(1), 0.0, 0
    for take in takes(teacher, rows):
        move = rng.uniform(-OCTAVES, OCTAVES) if rng.random() < MOVED else 0.0
        f0_hz = changed(take.f0_hz[None], move, 0.0)[0]
        style = teacher.style(teacher.names[take.voice], len(take.symbols) - 2)
        row = write_pair(take, generator.sound(take, f0_hz, style), f0_hz, latent, out, len(teacher.names))
        lines["valid" if n % VALID_EVERY == 0 else "train"].append(row)
        n, total_s = n + 1, total_s + len(f0_hz) / FRAMES * FRAME_S
        if total_s >= hours * 3600:
            break
    for name, written in lines.items():
        atomic_write(out / f"{name}.tsv", "\n".join(written) + "\n")
    print(f"{total_s / 3600:.2f} hours, {n} sentences")
