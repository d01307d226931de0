"""Whether pitch, its range and speed that are asked for are heard: F0 and length of speech against those without.

    python -m mmx.experiments.prosody tests/data/voice_test.txt --model flow-voice --lines 28

Line i is spoken by voice i as it is and with each change. F0 is measured on the sound: the frequency of the highest
peak of the autocorrelation, over that of the window (Boersma 1993). A change of pitch is that of the median, in
semitones; one of range, the ratio of the distances from the 10th to the 90th percentile of log F0; one of speed, the
ratio of the times from the first word to the last.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mmx
from mmx.model import Model
from mmx.tasks.options import SpeakOptions
from mmx.tasks.result import SpokenSegment
from mmx.tasks.synthesize import join, synthesize

WINDOW_S, HOP_S = 0.05, 0.01
FLOOR_HZ, CEILING_HZ = 60.0, 500.0
CLEAR = 0.6
"""Height of the peak from which on a frame is voiced, where that of a perfect period is 1."""
QUIET_DB = -30.0
"""Below the loudest frame, under which none is looked at."""
CHANGES = {"pitch": (-8.0, -4.0, -2.0, 2.0, 4.0, 8.0), "range": (0.5, 0.7, 1.4, 2.0), "speed": (0.7, 0.85, 1.2, 1.5)}


def log_f0(samples: NDArray[np.float32], rate: float) -> NDArray[np.float64]:
    """Base 2 logarithms of F0 in Hz in the voiced frames of a waveform `(N,)`."""
    size, hop = round(WINDOW_S * rate), round(HOP_S * rate)
    window = np.hanning(size)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    frames = (frames - frames.mean(1, keepdims=True)) * window
    own, of_window = _autocorrelation(frames), _autocorrelation(window[None])[0]
    loud = own[:, 0] > own[:, 0].max() * 10 ** (QUIET_DB / 10)
    first, last = int(rate / CEILING_HZ), int(rate / FLOOR_HZ)
    lags = np.arange(first, last)
    heights = own[loud][:, lags] / own[loud][:, :1] / (of_window[lags] / of_window[0])
    best = (heights - 0.02 * np.log2(lags / first)).argmax(1)  # of two octaves that are as good, the higher one
    voiced = heights[np.arange(len(best)), best] > CLEAR
    return np.log2(rate / lags[best[voiced]])


def _autocorrelation(frames: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row, for lags from 0 on."""
    size = frames.shape[1]
    return np.fft.irfft(np.abs(np.fft.rfft(frames, 2 * size)) ** 2)[:, :size]


def change(kind: str, plain: SpokenSegment, other: SpokenSegment) -> float:
    """What was heard of a change: semitones of pitch, or a ratio."""
    if kind == "speed":
        (before, after) = (one.words[-1].end_s - one.words[0].start_s for one in (plain, other))
        return before / after
    before, after = (log_f0(one.samples, one.rate) for one in (plain, other))
    if kind == "pitch":
        return 12 * float(np.median(after) - np.median(before))
    return float(np.subtract(*np.percentile(after, (90, 10))) / np.subtract(*np.percentile(before, (90, 10))))


def heard(
    model: Model, lines: Sequence[str], voices: Sequence[str], kinds: Sequence[str]
) -> dict[tuple[str, float], list[float]]:
    """What is heard of each change in each line."""
    found: dict[tuple[str, float], list[float]] = {}
    for i, line in enumerate(lines):
        options = SpeakOptions(voice=voices[i % len(voices)], language="en")
        plain = join(synthesize(model, line, options))
        for kind in kinds:
            for value in CHANGES[kind]:
                other = join(synthesize(model, line, replace(options, **{kind: value})))
                found.setdefault((kind, value), []).append(change(kind, plain, other))
    return found


def main() -> None:
    """Print a row for each change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--model", default="flow-voice")
    parser.add_argument("--lines", type=int, default=28)
    parser.add_argument("--changes", nargs="+", choices=tuple(CHANGES), default=tuple(CHANGES))
    asked = parser.parse_args()
    model = mmx.load(asked.model)
    lines = [line for line in asked.text.read_text("utf-8").splitlines() if line.strip()][: asked.lines]
    names = model.require_synth().voices("en")
    print(f"{'asked':<12} {'heard':>7}  {'spread':>6}  {'interval of the mean':>20}")
    for (kind, value), values in heard(model, lines, names, asked.changes).items():
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        half = 1.96 * deviation / math.sqrt(len(values))
        print(f"{kind:<6} {value:>5g} {mean:>7.2f}  {deviation:>6.2f}  {f'{mean - half:.2f} to {mean + half:.2f}':>20}")


if __name__ == "__main__":
    main()
