"""How often the mark is found in 10 s of speech after what happens to recordings, and how often where there is none.

    python -m mmx.experiments.marking tests/data/voice_test.txt --voices heart,flow-voice/af_bella --speech FOLDER

The text is spoken by each voice and cut into excerpts; each goes through every attack, and the detector looks for the
mark without knowing what was done. `--speech` names recordings of people, in which no mark is to be found.
"""

import argparse
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from mmx.api import open_voice, speech
from mmx.errors import MediaError
from mmx.mark.detector import RATE as DETECTOR_RATE
from mmx.mark.detector import Detection, detect_blocks
from mmx.media.audio import read_audio
from mmx.tasks.options import SpeakOptions

Samples = NDArray[np.float32]
RATE = 24_000
LENGTH_S = 10.0
CROPPED = 0.3
"""Part of an excerpt that is cut off."""
MEDIA = (".wav", ".flac", ".mp3", ".opus", ".g722")


def through_codec(samples: Samples, codec: str, container: str, kbit_s: int) -> Samples:
    """Samples, encoded at a bit rate and decoded again."""
    out: Any = av.open(file := io.BytesIO(), "w", format=container)
    stream = out.add_stream(codec, rate=RATE, layout="mono")
    stream.bit_rate = kbit_s * 1_000
    stream.open()
    frame = av.AudioFrame.from_ndarray(np.clip(samples, -1, 1)[None], format="fltp", layout="mono")
    frame.sample_rate = RATE
    size = stream.codec_context.frame_size or 960
    for ready in [*av.AudioResampler(stream.format, "mono", RATE, size).resample(frame), None]:
        out.mux(stream.encode(ready))
    out.close()
    return read_audio(file.getvalue(), rate=RATE)


def resampled(samples: Samples, rate: int) -> Samples:
    """Samples at another rate, and back."""
    return soxr.resample(soxr.resample(samples, RATE, rate), rate, RATE)


def cropped(samples: Samples) -> Samples:
    """What is left when 30 % are cut off in front and behind, at a place that depends on the samples."""
    keep = round((1 - CROPPED) * len(samples))
    begin = int(np.random.default_rng(int(1e6 * np.abs(samples).sum())).integers(0, len(samples) - keep + 1))
    return samples[begin : begin + keep]


ATTACKS: dict[str, Callable[[Samples], Samples]] = {
    "none": lambda x: x,
    **{f"{rate} Hz": lambda x, rate=rate: resampled(x, rate) for rate in (8_000, 16_000, 44_100)},
    **{f"MP3 {kbit}": lambda x, kbit=kbit: through_codec(x, "libmp3lame", "mp3", kbit) for kbit in (64, 96, 128)},
    "Opus 24": lambda x: through_codec(x, "libopus", "ogg", 24),
    "cropped 30 %": cropped,
}


def looked(samples: Samples) -> Detection:
    """What the detector says of samples at `RATE`."""
    return detect_blocks([soxr.resample(samples, RATE, DETECTOR_RATE).astype(np.float32)])


def excerpts(waves: Iterable[Samples]) -> Iterator[Samples]:
    """Waveforms one behind the other, in pieces of 10 s; what is left over is dropped."""
    size, rest = round(LENGTH_S * RATE), np.zeros(0, np.float32)
    for wave in waves:
        rest = np.concatenate([rest, wave])
        while len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]


def spoken(text: str, voice: str) -> Iterator[Samples]:
    """A text in a voice, sentence by sentence, marked as all speech is."""
    model, options = open_voice(SpeakOptions(voice=voice))
    for one in speech(model, text, options):
        yield soxr.resample(one.samples, one.rate, RATE)


def recorded(folder: Path) -> Iterator[Samples]:
    """The recordings in a folder, those left out that cannot be read."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix in MEDIA):
        try:
            yield read_audio(path, rate=RATE)
        except MediaError:
            continue


def least_rate(found: int, of: int) -> float:
    """The rate that so many finds show with a certainty of 95 % (Wilson 1927, one-sided)."""
    rate, z2 = found / of, 1.645**2
    half = math.sqrt(z2 * (rate * (1 - rate) / of + z2 / (4 * of * of)))
    return (rate + z2 / (2 * of) - half) / (1 + z2 / of)


def table(pieces: Sequence[Samples], attacks: Iterable[str] = ATTACKS) -> Iterator[str]:
    """A row for each attack."""
    yield f"{'after':<14} {'found':>11}  {'at least %':>10}  {'payload %':>9}  {'worst bound':>11}"
    for name in attacks:
        got = [looked(ATTACKS[name](piece)) for piece in pieces]
        found = sum(d.found for d in got)
        read = 100 * sum(d.payload == 0 for d in got) / len(got)
        worst = max(d.false_alarm for d in got)
        least = 100 * least_rate(found, len(got))
        yield f"{name:<14} {f'{found} of {len(got)}':>11}  {least:>10.1f}  {read:>9.0f}  {worst:>11.0e}"


def main() -> None:
    """Print the table, and what was found in recordings of people."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, nargs="+", help="what is spoken")
    parser.add_argument("--voices", default="heart", help="as of mmx speak, with commas")
    parser.add_argument("--speech", type=Path, help="folder of recordings of people")
    parser.add_argument("--attacks", nargs="+", choices=tuple(ATTACKS), default=tuple(ATTACKS))
    asked = parser.parse_args()
    text = " ".join(path.read_text("utf-8").replace("\n", " ") for path in asked.text)
    pieces = [piece for voice in asked.voices.split(",") for piece in excerpts(spoken(text, voice))]
    for row in table(pieces, asked.attacks):
        print(row, flush=True)
    if asked.speech:
        got = [looked(piece) for piece in excerpts(recorded(asked.speech))]
        least = min((d.false_alarm for d in got), default=1.0)
        hours = len(got) * LENGTH_S / 3600
        print(f"{sum(d.found for d in got)} of {len(got)} excerpts of people ({hours:.2f} h), least bound {least:.2g}")


if __name__ == "__main__":
    main()
