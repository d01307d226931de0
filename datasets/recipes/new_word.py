"""Speech with a word that a recognizer does not know, to teach it: `python -m mmx.datasets.recipes.new_word OUT`.

The speech is synthetic. It is spoken by flite (its voices `slt`, `rms`, `awb` and `kal16`, under a licence like BSD's)
and espeak-ng (GPL), which are programs of their own: `apt-get install flite espeak-ng`. Some voices, and all sentences
of the test, are held out. Sentences without the word are trained on too, so that it is not heard everywhere.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mmx.errors import InputError, prints_errors
from mmx.files import atomic_write

WORD = "Brindolva"
VOICES = {
    "train": ("flite:slt", "flite:awb", "flite:kal16", "espeak-ng:en-us"),
    "valid": ("flite:slt", "espeak-ng:en-us"),
    "test": ("flite:rms", "espeak-ng:en-gb-scotland", "flite:slt"),
}
"""Speakers of each set; of the test, all but the last are heard nowhere else."""

WITH_WORD = {
    "train": (
        "I met {} at the station this morning.",
        "The report was written by {} and sent to the office.",
        "Have you seen {} since the meeting ended?",
        "{} will call you back after lunch.",
        "Please give this letter to {} before you leave.",
        "My sister and {} went to school together.",
    ),
    "valid": ("Everyone at the table laughed when {} told the story.",),
    "test": (
        "Yesterday {} bought a new coat in the city.",
        "Can {} play the piano this evening?",
        "The teacher thanked {} for the flowers.",
        "In the end it was {} who found the key.",
    ),
}
"""Sentences with the word, by set; no set shares one."""

WITHOUT = {
    "train": (
        "The train was late again because of the snow.",
        "There is nothing to eat in the kitchen.",
    ),
    "valid": ("He opened the window and looked at the garden.",),
    "test": (
        "The children were playing in the park until dark.",
        "We drove along the coast for three hours.",
    ),
}


class Clip(NamedTuple):
    """A sentence and who says it."""

    name: str
    voice: str
    text: str
    has_word: bool


def clips(split: str, word: str = WORD) -> list[Clip]:
    """What is said in a set: every sentence by every one of its voices."""
    texts = [(t.format(word), True) for t in WITH_WORD[split]] + [(t, False) for t in WITHOUT[split]]
    return [
        Clip(f"{split}/{voice.replace(':', '-')}-{i:02d}.wav", voice, text, has_word)
        for voice in VOICES[split]
        for i, (text, has_word) in enumerate(texts)
    ]


def say(voice: str, text: str, path: Path) -> None:
    """Speak a text into a WAV file. Raises `InputError` where the voice's program is not installed."""
    program, _, name = voice.partition(":")
    commands = {
        "flite": ["flite", "-voice", name, "-t", text, "-o", str(path)],
        "espeak-ng": ["espeak-ng", "-v", name, "-s", "150", "-w", str(path), text],
    }
    try:
        subprocess.run(commands[program], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise InputError(f"expected {program} to speak, got {e}: apt-get install {program}") from e


def prepare(out: Path, word: str = WORD) -> list[Path]:
    """Write `train.tsv`, `valid.tsv` and `test.tsv` and their recordings, and return the manifests."""
    made = []
    for split in VOICES:
        (out / split).mkdir(parents=True, exist_ok=True)
        rows = ["\t".join(("id", "audio", "text", "src_lang", "origin"))]
        for clip in clips(split, word):
            say(clip.voice, clip.text, out / clip.name)
            origin = "word" if clip.has_word else "other"
            rows.append("\t".join((Path(clip.name).stem, clip.name, clip.text, "en", origin)))
        made.append(atomic_write(out / f"{split}.tsv", "\n".join(rows) + "\n"))
    return made


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """`OUT [WORD]`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) not in (1, 2):
        print("usage: python -m mmx.datasets.recipes.new_word OUT [WORD]", file=sys.stderr)
        return 2
    for path in prepare(Path(given[0]), *given[1:]):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
