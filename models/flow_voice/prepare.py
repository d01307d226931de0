"""All that a flow voice is trained on, in one command.

    python -m mmx.models.flow_voice.prepare data/voice --hours 8 --vocoder-hours 1
    python -m mmx.models.flow_voice.prepare data/romance --hours 4 --languages es,fr,it,pt

Gets the sentences (`mmx.datasets.recipes.voice`: Debian packages), has Kokoro-82M's front and decoder say them in
its voices of each language (extra `voices`, and `experiments`, which cuts the network), and writes

| | |
|---|---|
| `raw` | the packages |
| `sentences.tsv` | `id`, `text`, `src_lang`; one that is there is kept, so that other texts and languages can be said |
| `latent.npz` | mean, basis and scale of the latent, found from the sentences; one that is there is kept |
| `train.tsv`, `valid.tsv`, `features` | what `models/recipes/voice.toml` reads |
| `vocoder` | with `--vocoder-hours`: what `models/recipes/vocoder.toml` reads, with the generator's sound |

What goes on from shipped weights, or is joined with the shipped vocoder, needs their latent: copy
`models/weights/flow_voice/latent.npz` there first.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from mmx.datasets.recipes import voice as sentences
from mmx.errors import InputError, prints_errors
from mmx.models.flow_voice import pairs, teacher
from mmx.models.kokoro import Styles
from mmx.weights import hub
from mmx.weights.card import find_card


def prepare(
    out: Path,
    hours: float,
    vocoder_hours: float = 0.0,
    count: int = 8000,
    languages: Sequence[str] = sentences.LANGUAGES,
) -> None:
    """Write all of the above.

    Args:
        out: folder.
        hours: of speech, as far as the sentences go.
        vocoder_hours: of speech with sound.
        count: of sentences of each language.
        languages: of the sentences.

    Raises:
        InputError: a Debian package or the extra `experiments` is missing.
        ModelNotFoundError: Kokoro's packages are.
    """
    table = out / "sentences.tsv"
    if not table.is_file():
        sentences.prepare(table, out / "raw", count, languages)
    lines = [line.split("\t") for line in table.read_text("utf-8").splitlines()]
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    styles = Styles(hub.SHIPPED / "kokoro" / "voices.safetensors")
    with hub.joined(hub.locate(find_card("kokoro"))) as network:
        said = teacher.Teacher(network, styles)
        teacher.prepare(teacher.takes(said, rows), out / "latent.npz", out, hours)
        latent = teacher.read_latent(out / "latent.npz")
        if latent is None:
            raise InputError(f"expected sentences of {teacher.SYMBOLS[0]} symbols or more in {table}, got none")
        if vocoder_hours:
            mixed = random.Random(0).sample(rows, len(rows))  # a part of them has all languages
            pairs.prepare(said, pairs.Generator(network), mixed, latent, out / "vocoder", vocoder_hours)


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m mmx.models.flow_voice.prepare")
    parser.add_argument("out", type=Path)
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--vocoder-hours", type=float, default=0.0)
    parser.add_argument("--sentences", type=int, default=8000, help="of each language")
    parser.add_argument("--languages", default=",".join(sentences.LANGUAGES), help="with commas: %(default)s")
    given = parser.parse_args(arguments)
    prepare(given.out, given.hours, given.vocoder_hours, given.sentences, given.languages.split(","))
    return 0


if __name__ == "__main__":
    sys.exit(main())
