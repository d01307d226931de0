"""Tables of clips by which lip readers are trained: those of AV-HuBERT and MuAViC, and those of auto-AVSR."""

from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.talking import Talk, lines_of
from mmx.errors import InputError

RATE = 25
"""Pictures a second, in both."""


def read_av_hubert(table: Path, src_lang: str = "en", tgt_lang: str = "") -> Iterator[Talk]:
    """AV-HuBERT's `SPLIT.tsv` with `SPLIT.wrd` (a text a line) beside it: the root, then a line a clip: id, film,
    sound (after a colon, an id), pictures, samples. MuAViC's have the same shape.

    Args:
        table: the `.tsv` file.
        src_lang: language that is spoken.
        tgt_lang: language of the texts; the spoken one when empty.

    Raises:
        InputError: a file that is missing or of another form, or texts that are not one for each clip.
    """
    root, *rows = lines_of(table, "a table of AV-HuBERT") or [""]
    texts = lines_of(table.with_suffix(".wrd"), "the texts of a table")
    if len(rows) != len(texts):
        raise InputError(f"expected a text for each of {len(rows)} clips of {table}, got {len(texts)} in the .wrd file")
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), 2):
        try:
            name, film, sound, frames, _ = row.split("\t")
            seconds = int(frames) / RATE
        except ValueError as e:
            raise InputError(
                f"{table}, line {number}: expected id, film, sound, pictures and samples between tabs, got {row!r}"
            ) from e
        path, colon, after = sound.rpartition(":")
        sound = path if colon and "/" not in after else sound
        yield Talk(
            id=name, text=text.strip(), video=Path(root) / film, audio=Path(root) / sound, src_lang=src_lang,
            tgt_lang=tgt_lang, duration_s=seconds, origin="av_hubert",
        )  # fmt: skip


def read_auto_avsr(table: Path, root: Path, units: Path) -> Iterator[Talk]:
    """auto-AVSR's label file: dataset, path, pictures and numbers of tokens, between commas, without a head.

    Args:
        table: the `.csv` file.
        root: the folder of `DATASET/PATH`, with the sound in a `.wav` beside each film.
        units: the list of tokens, `TOKEN NUMBER` a line.

    Raises:
        InputError: a file that is missing or of another form, or a token that the list lacks.
    """
    pieces: dict[str, str] = {}
    for line in lines_of(units, "a list of tokens"):
        token, _, number = line.rpartition(" ")
        pieces[number] = token
    for number, row in enumerate(lines_of(table, "a table of auto-AVSR"), 1):
        try:
            dataset, name, frames, tokens = row.split(",")
            text = "".join(pieces[t] for t in tokens.split()).replace("\u2581", " ").strip()
            seconds = int(frames) / RATE
        except (ValueError, KeyError) as e:
            raise InputError(
                f"{table}, line {number}: expected dataset, path, pictures and tokens of {units.name} between commas, "
                f"got {row!r}"
            ) from e
        film = root / dataset / name
        yield Talk(
            id=f"{dataset}/{name}", text=text.lower(), video=film, audio=film.with_suffix(".wav"), src_lang="en",
            duration_s=seconds, origin=dataset,
        )  # fmt: skip
