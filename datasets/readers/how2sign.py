"""How2Sign (Duarte et al. 2021): a table of sentences with times in long films.

The publisher's clips are cut by times of the voice; only the realigned times are those of the signing, and they are of
the uncut films. Some end after the film does, and some sentences are there twice: `mmx data check` names them.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.signing import Signed
from mmx.errors import InputError

COLUMNS = ("VIDEO_NAME", "SENTENCE_NAME", "START_REALIGNED", "END_REALIGNED", "SENTENCE")


def read_how2sign(table: Path, films: Path, clips: bool = False) -> Iterator[Signed]:
    """The sentences of a split.

    Args:
        table: `how2sign_realigned_SPLIT.csv`, with tabs.
        films: the folder of `VIDEO_NAME.mp4`; of `SENTENCE_NAME.mp4` with `clips`.
        clips: whether the films are cut into sentences already.

    Raises:
        InputError: the table is missing, or has other columns.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected a table of How2Sign at {table}, got {e}") from e
    for number, row in enumerate(rows, 2):
        try:
            start_s, end_s = float(row["START_REALIGNED"]), float(row["END_REALIGNED"])
            name, video, text = row["SENTENCE_NAME"], row["VIDEO_NAME"], row["SENTENCE"]
        except (KeyError, ValueError, TypeError) as e:
            wanted = ", ".join(COLUMNS)
            raise InputError(f"{table}, line {number}: expected {wanted} between tabs, got none of {e}") from e
        yield Signed(
            id=name, text=text, src_lang="ase", tgt_lang="en",
            media={"video": films / f"{name if clips else video}.mp4"},
            start_s=0.0 if clips else start_s, duration_s=None if clips else end_s - start_s, origin="how2sign",
        )  # fmt: skip
