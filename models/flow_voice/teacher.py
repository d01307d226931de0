"""What a flow voice learns from: Kokoro-82M's own durations, F0 and decoder output for sentences in many voices.

The network is cut in three, bit for bit the same: a front (phonemes to durations, F0 and energy), a decoder, and a
generator of sound, which takes 94 % of the time and is not run. Between front and decoder F0 is moved and stretched, so
that the student can be asked to. `prepare` runs it.

Letters: M frames of 25 ms, F features.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmx.extras import import_extra
from mmx.files import atomic_write
from mmx.models.flow_voice.frames import FRAME_S, LATENT, VOICED_HZ, columns, with_pitch
from mmx.models.kokoro import Styles
from mmx.tasks.word_times import joined
from mmx.text.phonemes import phonemes
from mmx.text.phonemes.symbols import numbers

FRAMES, ASR = "/encoder/Gather_output_0", "/encoder/MatMul_1_output_0"
F0, ENERGY = "/encoder/Reshape_output_0", "/encoder/Reshape_1_output_0"
HIDDEN = "/decoder/decoder/decode.3/Div_4_output_0"
PARTS = {
    "front": (["tokens", "style", "speed"], [FRAMES, ASR, F0, ENERGY]),
    "decoder": ([ASR, F0, ENERGY, "style"], [HIDDEN]),
}
"""Inputs and outputs of the parts that are cut out of the network."""
GENERATOR = {"generator": ([HIDDEN, F0, "style"], ["audio"])}
"""Of the part that is left."""
ACCENTS = {"a": "en-US", "b": "en-GB", "e": "es", "f": "fr", "i": "it", "p": "pt"}
"""What the first letter of a voice's name says of its language; in the order of the model's numbers."""
SPANS = {"pitch": 0.35, "range": 0.6, "speed": 0.35}
"""How far prosody is changed, in octaves: these are the widest of a draw that is even between them."""
CHANGED = 0.5
"""Share of sentences whose pitch, range or speed is changed, each for itself."""
VALID_EVERY = 60
SYMBOLS = (6, 400)
"""Fewest and most of a sentence."""
PCA_FRAMES = 40_000
"""From which mean, basis and scale of the latent are found."""


class Latent(NamedTuple):
    """How the decoder's output, two frames of 512 channels side by side, becomes the latent."""

    mean: NDArray[np.float32]
    basis: NDArray[np.float32]
    scale: NDArray[np.float32]
    f0_mean: float
    f0_std: float

    def __call__(self, hidden_MF: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(M, 1024)` to `(M, LATENT)` of unit variance."""
        return ((hidden_MF - self.mean) @ self.basis / self.scale).astype(np.float32)

    @classmethod
    def of(cls, hidden_MF: NDArray[np.float32], f0_hz: NDArray[np.float32]) -> "Latent":
        """By principal components."""
        mean = hidden_MF.mean(0)
        values, vectors = np.linalg.eigh(np.cov((hidden_MF - mean).T))
        basis, log = vectors[:, ::-1][:, :LATENT], np.log(f0_hz[f0_hz > VOICED_HZ])
        scale = np.sqrt(values[::-1][:LATENT])
        return cls(mean, basis.astype(np.float32), scale.astype(np.float32), float(log.mean()), float(log.std()))


class Take(NamedTuple):
    """A sentence as the teacher says it."""

    name: str
    text: str
    symbols: list[int]
    frames: NDArray[np.int64]
    f0_hz: NDArray[np.float32]
    hidden: NDArray[np.float32]
    voice: int
    language: int
    asked: tuple[float, float, float]


class Teacher:
    """Kokoro without its generator.

    Args:
        file: its ONNX file.
        styles: of its voices.
    """

    def __init__(self, file: Path, styles: Styles):
        self.styles, self.parts = styles, cut(file)
        self.names = sorted(name for name in styles.names if name[0] in ACCENTS)

    def say(self, symbols: Sequence[int], name: str, asked: tuple[float, float, float]) -> Any:
        """Frames of each symbol, F0 `(2M,)` in Hz, decoder output `(M, 1024)`."""
        pitch, spread, speed = asked
        style = self.style(name, len(symbols))[None]
        inputs = {"tokens": np.array([[0, *symbols, 0]]), "style": style, "speed": np.array([2**speed], np.float32)}
        frames, asr, f0, energy = self.parts["front"].run([FRAMES, ASR, F0, ENERGY], inputs)
        f0 = changed(f0, pitch, spread)
        (hidden,) = self.parts["decoder"].run([HIDDEN], {ASR: asr, F0: f0, ENERGY: energy, "style": style})
        return frames.reshape(-1), f0[0], hidden[0].T.reshape(-1, 1024)

    def style(self, name: str, n_symbols: int) -> NDArray[np.float32]:
        """`(256,)` of a voice, for a sentence of so many symbols."""
        return self.styles(name, n_symbols).numpy()


def changed(f0_hz: NDArray[np.float32], pitch: float, spread: float) -> NDArray[np.float32]:
    """F0 moved by `pitch` octaves, and stretched around its geometric mean by `spread` as a binary logarithm."""
    voiced = f0_hz > VOICED_HZ
    if not voiced.any() or not (pitch or spread):
        return f0_hz
    log = np.log2(f0_hz, where=voiced, out=np.zeros_like(f0_hz))
    mean = log[voiced].mean()
    return np.where(voiced, 2 ** (mean + (log - mean) * 2**spread + pitch), f0_hz).astype(np.float32)


def cut(file: Path, parts: Mapping[str, tuple[Sequence[str], Sequence[str]]] = PARTS) -> dict[str, Any]:
    """Parts of the network, as sessions of one thread."""
    onnx, runtime = import_extra("onnx", "experiments"), import_extra("onnxruntime", "voices")
    from onnx.utils import Extractor

    kinds = {
        FRAMES: (7, ["n"]),
        ASR: (1, [1, 512, "T"]),
        F0: (1, [1, "F"]),
        ENERGY: (1, [1, "F"]),
        HIDDEN: (1, [1, 512, "F"]),
    }
    options, found = runtime.SessionOptions(), {}
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, (inputs, outputs) in parts.items():
        model = onnx.load(file)
        del model.graph.value_info[:]  # the extractor wants to know the tensors that it cuts at, and no others
        model.graph.value_info.extend(onnx.helper.make_tensor_value_info(t, k, s) for t, (k, s) in kinds.items())
        part = Extractor(model).extract_model(list(inputs), list(outputs))
        found[name] = runtime.InferenceSession(part.SerializeToString(), options)
    return found


def draw(rng: random.Random) -> tuple[float, float, float]:
    """Pitch, range and speed that are asked for."""
    return tuple(rng.uniform(-s, s) if rng.random() < CHANGED else 0.0 for s in SPANS.values())  # type: ignore[return-value]


def takes(teacher: Teacher, rows: Sequence[Mapping[str, str]], seed: int = 0) -> Iterator[Take]:
    """The sentences, each by a voice of its language."""
    rng, languages = random.Random(seed), list(ACCENTS.values())
    for row in rows:
        able = [v for v in teacher.names if ACCENTS[v[0]].partition("-")[0] == row["src_lang"]]
        name, asked = rng.choice(able), draw(rng)
        accent = ACCENTS[name[0]]
        symbols = numbers(joined(phonemes(row["text"], accent)))
        if not SYMBOLS[0] <= len(symbols) <= SYMBOLS[1]:
            continue
        frames, f0_hz, hidden_MF = teacher.say(symbols, name, asked)
        who = teacher.names.index(name), languages.index(accent)
        yield Take(row["id"], row["text"], [0, *symbols, 0], frames, f0_hz, hidden_MF, *who, asked)


def prepare(found: Iterator[Take], latent_file: Path, out: Path, hours: float) -> None:
    """Write `train.tsv`, `valid.tsv` and features (the columns of `frames`) of takes until there are so many hours.

    Args:
        found: sentences.
        latent_file: mean, basis and scale of the latent, found from the sentences where there is no such file.
        out: folder.
        hours: of speech.
    """
    (out / "features").mkdir(parents=True, exist_ok=True)
    head = "\t".join(("id", "source", "src_lang", "target_features", "origin"))
    rows: dict[str, list[str]] = {"train": [head], "valid": [head]}
    latent, waiting, total = read_latent(latent_file), [], 0
    for take in found:
        waiting.append(take)
        total += len(take.hidden)
        done = total * FRAME_S >= hours * 3600
        if latent is None and (done or total >= PCA_FRAMES):
            latent = Latent.of(*(np.concatenate(x) for x in zip(*((t.hidden, t.f0_hz) for t in waiting), strict=True)))
            np.savez(latent_file, **latent._asdict())
        if latent is not None:
            for ready in waiting:
                which = "valid" if (len(rows["train"]) + len(rows["valid"])) % VALID_EVERY == 0 else "train"
                rows[which].append(_write(ready, latent, out))
            waiting = []
        if done:
            break
    for name, lines in rows.items():
        atomic_write(out / f"{name}.tsv", "\n".join(lines) + "\n")
    print(f"{total * FRAME_S / 3600:.2f} hours, {len(rows['train']) - 1} and {len(rows['valid']) - 1} sentences")


def _write(take: Take, latent: Latent, out: Path) -> str:
    sound = with_pitch(latent(take.hidden), take.f0_hz, latent.f0_mean, latent.f0_std)
    file = f"features/{take.name}.npy"
    np.save(out / file, columns(sound, take.frames.tolist(), take.symbols, (take.voice, take.language), take.asked))
    language = list(ACCENTS.values())[take.language].partition("-")[0]
    return "\t".join((take.name, take.text, language, file, language))


def read_latent(file: Path) -> Latent | None:
    """What a file holds; None where there is no such file."""
    if not file.is_file():
        return None
    with np.load(file) as held:
        return Latent(held["mean"], held["basis"], held["scale"], float(held["f0_mean"]), float(held["f0_std"]))
