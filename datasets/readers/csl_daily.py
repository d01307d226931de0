"""CSL-Daily (Zhou et al. 2021): a pickle of sentences, a table of splits, and folders of frames at 25 a second."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmx.datasets.readers.plain_pickle import read_plain_pickle
from mmx.datasets.signing import Signed
from mmx.errors import InputError

LANGUAGES = ("csl", "zh")


def read_csl_daily(sentences: Path, splits: Path, frames: Path, split: str) -> Iterator[Signed]:
    """The clips of a split.

    Args:
        sentences: `sentence_label/csl2020ct_v1.pkl` or `v2`, whose texts differ.
        splits: `split_1.txt`: a header, then `name|split`.
        frames: `sentence/frames_512x512`, or a folder of films `NAME.mp4`.
        split: train, dev or test.

    Raises:
        InputError: a file is missing or another, a clip of the split has no sentence, or the split has no clip.
    """
    found = read_plain_pickle(sentences)
    rows: Any = found.get("info") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) and {"name", "label_char"} <= set(r) for r in rows):
        raise InputError(f"expected sentences with name and label_char under 'info' in {sentences}, got something else")
    by_name = {str(row["name"]): row for row in rows}
    for name in _names(splits, split):
        if name not in by_name:
            raise InputError(f"expected a sentence of {name} in {sentences}, got none: are both files of one release?")
        row, film = by_name[name], frames / f"{name}.mp4"
        yield Signed(
            id=name, text="".join(row["label_char"]), src_lang=LANGUAGES[0], tgt_lang=LANGUAGES[1],
            media={"video": film if film.is_file() else frames / name}, origin="csl-daily",
            gloss=" ".join(row.get("label_gloss", ())), signer=_signer(name),
        )  # fmt: skip


def _names(splits: Path, split: str) -> list[str]:
    try:
        pairs = [line.strip().split("|") for line in splits.read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected the splits of CSL-Daily at {splits}, got {e}") from e
    names = [pair[0] for pair in pairs if len(pair) == 2 and pair[1] == split]
    if not names:
        there = sorted({pair[1] for pair in pairs if len(pair) == 2} - {"split"})
        raise InputError(f"expected clips of {split!r} in {splits}, got {there or 'no name|split'}")
    return names


def _signer(name: str) -> str:
    """`S000020_P0000_T00` is a recording of the person P0000."""
    parts = name.split("_")
    return parts[1] if len(parts) == 3 and parts[1].startswith("P") else ""
