"""Round trips: speech in another language to English speech, recognized again, against the text that was to be spoken.

    python -m mmx.experiments.speech_to_speech --asterisk DIR --clips 8

Clips: those of the package pytest-audioeval, and Asterisk's prompts (see `mmx.datasets.asterisk`), whose English is
parallel.
WER is that of the recognized speech against the text translation: what the voice and the second recognition lose. chrF
of both against the English prompt says what that costs in the end.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import soxr

import mmx
from mmx.api import open_voice
from mmx.datasets import asterisk
from mmx.evaluate.metrics import measure
from mmx.media.audio import SAMPLE_RATE
from mmx.tasks import dub
from mmx.tasks.isochrony import dub as dubbed
from mmx.tasks.isochrony import sayer
from mmx.tasks.options import SpeakOptions

WORDS = 5
"""Words that a prompt has at least; shorter ones are names of digits and the like."""


@dataclass(frozen=True)
class Clip:
    """A recording, its language, and its English where that is known."""

    path: Path
    language: str
    english: str = ""


def audioeval(language: str) -> list[Clip]:
    """The clips of pytest-audioeval in a language."""
    spec = find_spec("pytest_audioeval")
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(spec.submodule_search_locations[0]) / "samples" / "audio" / language
    return [Clip(path, language) for path in sorted(folder.glob("*.wav"))]


def prompts(folder: Path, language: str, count: int) -> list[Clip]:
    """As many prompts in a language, spread over all that have English and enough words."""
    english, found = asterisk.prompts(folder, "en"), asterisk.sounds(folder, language)
    texts = asterisk.prompts(folder, language)
    keys = [k for k in texts if k in found and len(english.get(k, "").split()) >= WORDS]
    step = max(1, len(keys) // count)
    return [Clip(found[k], language, english[k]) for k in keys[::step][:count]]


def round_trip(clips: Sequence[Clip], isochrony: bool) -> tuple[list[str], list[str]]:
    """What was to be spoken, and what was recognized of it."""
    model = mmx.load()
    voice = sayer(*open_voice(SpeakOptions(language="en")))
    written, spoken = [], []
    sources = [str(c.path) for c in clips]
    for t in model.transcribe_many(sources, language=clips[0].language, task="translate", beam_size=1):
        track = dub.lay(dubbed(t, voice, isochrony).spoken)
        written.append(t.text)
        spoken.append(soxr.resample(track.samples, track.rate, SAMPLE_RATE))
    heard = model.transcribe_many(spoken, language="en", beam_size=1)
    return written, [t.text for t in heard]


def main() -> None:
    """Print a row for each language and set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asterisk", type=Path)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--languages", nargs="+", default=["fr", "es", "it", "pt"])
    parser.add_argument("--isochrony", action="store_true")
    asked = parser.parse_args()
    print("language  set        clips  WER %   chrF text  chrF speech", flush=True)
    for language in asked.languages:
        sets = {"audioeval": audioeval(language)}
        if asked.asterisk and language != "pt":
            sets["asterisk"] = prompts(asked.asterisk, language, asked.clips)
        for name, clips in sets.items():
            if not clips:
                continue
            written, heard = round_trip(clips, asked.isochrony)
            wer = measure("wer", heard, written, language="en", bootstrap=0).value
            row = f"{language:8}  {name:9}  {len(clips):5}  {wer:5.1f}"
            if all(c.english for c in clips):
                english = [c.english for c in clips]
                text, speech = (measure("chrf", x, english, bootstrap=0).value for x in (written, heard))
                row += f"   {text:9.1f}  {speech:11.1f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
