"""Quality against latency of live listening, over policies and their thresholds, on recordings with references.

Time is simulated: a step of sound is there as soon as the step before is computed, so a run takes as long as its
computing. What a listener in real time would have seen is derived from both clocks.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mmx.clip import SPEECH, Clip, Input, cut, duration_s
from mmx.errors import InputError
from mmx.evaluate import metrics
from mmx.evaluate.latency import Sentence, Timed, latency, stream_laal
from mmx.evaluate.options import Metric, StreamingOptions
from mmx.files import atomic_write
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.seq import Seq
from mmx.streaming.listener import Monotonic
from mmx.streaming.stream import Stream
from mmx.tasks.events import Event
from mmx.tasks.options import Task

DEFAULTS = StreamingOptions()
Quality = Metric | Literal[""]
SOUND = {SPEECH: Input("audio", float(RATE))}
QUALITIES = {"wer": "WER %", "cer": "CER %", "bleu": "BLEU", "chrf": "chrF"}
"""Of tables and plots."""


class Listening(Protocol):
    """What is measured: a `Stream`, or a peer that is driven like one."""

    def push(self, chunk: Any, final: bool = False) -> Sequence[Event]:
        """Hear or see more, samples or a clip; what may be written."""
        ...


@dataclass(frozen=True)
class Recording:
    """A test item.

    Attributes:
        name: for messages and logs.
        samples: of its sound, at 16 kHz; none where a model reads no sound.
        reference: what should be written.
        sentences: of the reference, where their times are known.
        others: pictures, poses or features on the same clock.
    """

    name: str
    samples: NDArray[np.float32]
    reference: str
    sentences: Sequence[Sentence] = ()
    others: Clip = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Length of the longest of it."""
        return max(len(self.samples) / RATE, duration_s(self.others))

    def part(self, at: int, until: int) -> "NDArray[np.float32] | Clip":
        """What comes between two samples of the clock."""
        samples = self.samples[at:until]
        if not self.others:
            return samples
        sound = {SPEECH: Seq(torch.from_numpy(samples)[None], torch.tensor([len(samples)]), float(RATE))}
        return {**cut(self.others, at / RATE, until / RATE), **(sound if len(self.samples) else {})}


@dataclass
class Figures:
    """What was measured of one policy.

    Attributes:
        system: the policy with its threshold, or the name of a peer.
        step_s: new sound between decoding steps.
        texts: of each recording, word by word, with the times of SimulEval.
        latency: see `mmx.evaluate.latency.latency`, in milliseconds; "StreamLAAL" where sentences have times.
        lag_s: median time from the end of a word in the sound to its writing; None for a system without word times.
        score: word error rate, or chrF of a translation.
        compute_s: CPU time of all looks.
        wall_s: time of all looks on the clock.
        audio_s: length of the sound.
        by_character: latency counts characters, as SimulEval's unit "char" does, and not words: for texts that are
            written letter by letter, of which a word is a whole recording.
        characters: of each recording, with the time of each; empty without `by_character`.
    """

    system: str
    step_s: float
    texts: list[Timed] = field(default_factory=list)
    latency: dict[str, float] = field(default_factory=dict)
    lag_s: float | None = None
    score: float = 0.0
    compute_s: float = 0.0
    wall_s: float = 0.0
    audio_s: float = 0.0
    lags: list[float] = field(default_factory=list, repr=False)
    by_character: bool = False
    characters: list[Timed] = field(default_factory=list, repr=False)

    @property
    def real_time_factor(self) -> float:
        """Computing time for each second of sound; below 1 it keeps up."""
        return self.wall_s / self.audio_s


def run(listener: Listening, recording: Recording, figures: Figures, step_s: float) -> Timed:
    """Let a listener hear a recording, step by step, and note when each word came.

    A word's `elapsed` is when it would have been seen in real time: its look began when its sound was there and the
    look before was done, and took as long as it took here.
    """
    words, delays, elapsed = [], [], []
    characters: list[tuple[str, float, float]] = []
    step, done_s, length = round(step_s * RATE), 0.0, round(recording.duration_s * RATE)
    for at in range(0, max(length, 1), step):
        heard_s = min(at + step, length) / RATE
        chunk = recording.part(at, at + step)
        cpu, wall = time.process_time(), time.perf_counter()
        events = listener.push(chunk, final=at + step >= length)
        took_s = time.perf_counter() - wall
        figures.compute_s += time.process_time() - cpu
        figures.wall_s += took_s
        done_s = max(heard_s, done_s) + took_s
        for e in events:
            figures.lags += [heard_s - e.end_s] if e.text.strip() else []
            characters += [(c, heard_s * 1000, done_s * 1000) for c in "".join(e.text.split())]
            for i, piece in enumerate(e.text.split()):
                if words and i == 0 and not e.text[0].isspace():  # the rest of a word
                    words[-1], delays[-1], elapsed[-1] = words[-1] + piece, heard_s * 1000, done_s * 1000
                else:
                    words.append(piece)
                    delays.append(heard_s * 1000)
                    elapsed.append(done_s * 1000)
    figures.audio_s += recording.duration_s
    if figures.by_character:
        figures.characters.append(_of_characters(characters, recording))
    return Timed(
        words=words,
        delays_ms=delays,
        elapsed_ms=elapsed,
        source_ms=recording.duration_s * 1000,
        reference=recording.reference.split(),
    )


def _of_characters(written: Sequence[tuple[str, float, float]], recording: Recording) -> Timed:
    """Characters with the sound heard by then and the time it was; spaces do not count."""
    return Timed(
        words=[c for c, *_ in written],
        delays_ms=[heard for _, heard, _ in written],
        elapsed_ms=[done for *_, done in written],
        source_ms=recording.duration_s * 1000,
        reference=list("".join(recording.reference.split())),
    )


def measure(
    make: Callable[[], Listening],
    recordings: Sequence[Recording],
    *,
    system: str,
    step_s: float,
    score: Callable[[Sequence[str], Sequence[str]], float],
    by_character: bool = False,
) -> Figures:
    """All figures of one system.

    Args:
        make: a listener that has heard nothing.
        recordings: what it is to hear, each in a session of its own.
        system: its name in the table.
        step_s: sound of one push.
        score: references and texts to one number.
        by_character: see `Figures`.
    """
    figures = Figures(system, step_s, by_character=by_character)
    figures.texts = [run(make(), r, figures, step_s) for r in recordings]
    figures.latency = latency(figures.characters or figures.texts)
    timed = [(t, r.sentences) for t, r in zip(figures.texts, recordings, strict=True) if r.sentences and t.words]
    if timed:
        figures.latency["StreamLAAL"] = float(np.mean([stream_laal(t, s) for t, s in timed]))
    figures.lag_s = float(np.median(figures.lags)) if figures.lags else None
    figures.score = score([r.reference for r in recordings], [" ".join(t.words) for t in figures.texts])
    return figures


def evaluate_streaming(
    model: Model,
    recordings: Sequence[Recording],
    *,
    policies: Sequence[str] = DEFAULTS.policies,
    steps_s: Sequence[float] = DEFAULTS.steps_s,
    language: str | None = None,
    task: Task = "transcribe",
    to: str | None = None,
    monotonic: Monotonic | None = None,
    quality: Quality = "",
    on_done: Callable[[Figures], None] | None = None,
) -> list[Figures]:
    """Every policy at every step.

    Args:
        model: as in `Stream`.
        recordings: see `read_recordings`.
        policies: names with thresholds; see `mmx.streaming.policies.find_policy`.
        steps_s: values of `Stream`'s `step_s`.
        language: as in `Stream`.
        task: as in `Stream`.
        to: as in `Stream`.
        monotonic: as in `Stream`.
        quality: what the texts are scored by; when empty, WER, or chrF of a translation. With CER, latency counts
            characters too.
        on_done: called as each is measured.
    """
    quality = quality or ("wer" if task == "transcribe" else "chrf")
    score = partial(scored, quality=quality, language=language or "en")
    out = []
    for policy in policies:
        for step_s in steps_s:

            def make(policy: str = policy, step_s: float = step_s) -> Stream:
                return Stream(
                    model, policy=policy, language=language, task=task, to=to, step_s=step_s, monotonic=monotonic
                )

            by_character = quality == "cer"
            out.append(measure(make, recordings, system=policy, step_s=step_s, score=score, by_character=by_character))
            if on_done:
                on_done(out[-1])
    return out


def scored(references: Sequence[str], texts: Sequence[str], quality: Metric = "wer", language: str = "en") -> float:
    """A measure of texts: of errors in percent, after the normalization of the language; of BLEU and chrF 0 to 100."""
    how = metrics.installed_normalization()
    return metrics.measure(quality, texts, references, language=language, normalize=how, bootstrap=0).value


def word_errors(references: Sequence[str], texts: Sequence[str], language: str = "en") -> float:
    """Word error rate in percent, after the normalization of the language."""
    return scored(references, texts, "wer", language)


# -------------------- recordings and their references


def read_recordings(files: Iterable[Path], language: str = "", inputs: Mapping[str, Input] = SOUND) -> list[Recording]:
    """Recordings with the reference that lies beside each: `talk.txt`, or `talk.tsv` with times; manifests of them.

    The latter has the start, the end (milliseconds) and the text of each sentence, with tabs between, as
    `mmx transcribe --output-format tsv` writes them.

    Args:
        files: recordings, or manifests (.tsv, .jsonl) of them.
        language: what is spoken where a manifest does not say it.
        inputs: what is read of them, see `Model.recorded`.

    Raises:
        InputError: there is none, or it is empty.
    """
    from mmx.train.manifest import Example, read_manifest
    from mmx.train.reading import read_recording

    def read(name: str, example: Example, reference: str, sentences: Sequence[Sentence] = ()) -> Recording:
        found = read_recording(example, inputs)
        samples = found.pop(SPEECH).numpy() if SPEECH in found else np.zeros(0, np.float32)
        others = {n: Seq(x[None], torch.tensor([len(x)]), inputs[n].rate) for n, x in found.items()}
        return Recording(name, samples, reference, sentences, others)

    media = {what.medium for what in inputs.values()}
    out = []
    for file in files:
        if file.suffix in (".tsv", ".jsonl"):
            for e in read_manifest(file, language=language):
                if media & e.media.keys():
                    out.append(read(next(iter(e.media.values())), e, e.target))
            continue
        timed, text = file.with_suffix(".tsv"), file.with_suffix(".txt")
        if timed.is_file():
            sentences = _sentences(timed)
        elif text.is_file():
            sentences = []
        else:
            raise InputError(f"expected the reference of {file} in {timed.name} or {text.name} beside it, got neither")
        reference = " ".join(" ".join(s.words) for s in sentences) or (
            text.read_text("utf-8") if text.is_file() else ""
        )
        if not reference.strip():
            raise InputError(f"expected a text in the reference of {file}, got an empty one")
        example = Example("", reference, "", "", str(file), media=dict.fromkeys(media, str(file)))
        out.append(read(str(file), example, " ".join(reference.split()), sentences))
    if not out:
        raise InputError("expected at least one recording, got none")
    return out


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


def _sentences(path: Path) -> list[Sentence]:
    out = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        if number == 1 and line.startswith("start\t"):
            continue
        parts = line.split("\t", 2)
        try:
            start_ms, end_ms = float(parts[0]), float(parts[1])
            out.append(Sentence(parts[2].split(), start_ms, end_ms))
        except (ValueError, IndexError) as e:
            raise InputError(f"expected start, end and text with tabs between in line {number} of {path}") from e
    return out


# -------------------- what is shown and kept


def table(figures: Sequence[Figures], quality: str = "WER %") -> str:
    """The figures as Markdown."""
    head = [quality, "LAAL s", "LAAL_CA s", "StreamLAAL s", "ATD s", "EndOffset s", "lag s", "RTF", "CPU s"]
    rows = ["| system | step s | " + " | ".join(head) + " |", "|---" * (len(head) + 2) + "|"]
    for f in figures:
        cells = [f"{f.score:.2f}"]
        for name in ("LAAL", "LAAL_CA", "StreamLAAL", "ATD", "EndOffset"):
            cells.append(f"{f.latency[name] / 1000:.2f}" if name in f.latency else "-")
        cells += ["-" if f.lag_s is None else f"{f.lag_s:.2f}", f"{f.real_time_factor:.2f}", f"{f.compute_s:.1f}"]
        rows.append(f"| {f.system} | {f.step_s:g} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def instances(figures: Figures, recordings: Sequence[Recording]) -> str:
    """The lines of SimulEval's `instances.log`: its tools read them."""
    lines = []
    for i, (timed, r) in enumerate(zip(figures.texts, recordings, strict=True)):
        line: dict[str, Any] = {
            "index": i,
            "prediction": " ".join(timed.words),
            "delays": list(timed.delays_ms),
            "elapsed": list(timed.elapsed_ms),
            "prediction_length": len(timed.words),
            "reference": r.reference,
            "source": [r.name],
            "source_length": timed.source_ms,
        }
        lines.append(json.dumps(line, ensure_ascii=False))
    return "".join(f"{line}\n" for line in lines)


def write(
    figures: Sequence[Figures], recordings: Sequence[Recording], folder: Path, quality: str = "WER %"
) -> list[Path]:
    """`table.md`, `quality-latency.png` where matplotlib is there, for each system a folder with `instances.log`."""
    folder.mkdir(parents=True, exist_ok=True)
    out = [folder / "table.md"]
    atomic_write(out[0], table(figures, quality) + "\n")
    for f in figures:
        path = folder / f"{f.system.replace(':', '-')}_{f.step_s:g}s" / "instances.log"
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, instances(f, recordings))
        out.append(path)
    picture = folder / "quality-latency.png"
    if plot(figures, picture, quality):
        out.append(picture)
    return out


def plot(figures: Sequence[Figures], path: Path, quality: str = "WER %") -> bool:
    """Quality over lateness, a line for each kind of policy; False without matplotlib (extra `plot`)."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    picture = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    kinds = dict.fromkeys(f.system.partition(":")[0] for f in figures)
    for kind in kinds:
        mine = [f for f in figures if f.system.partition(":")[0] == kind and "LAAL" in f.latency]
        points = sorted((f.latency["LAAL"] / 1000, f.score) for f in mine)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=kind)
    axes.set_xlabel("LAAL (s)")
    axes.set_ylabel(quality)
    axes.legend()
    picture.savefig(path, dpi=150)
    return True
