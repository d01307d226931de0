"""Signing of one's own: a folder of films or poses with their texts, or the tables of multimodalhugs."""

import csv
from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.signing import Signed
from mmx.errors import InputError

FILMS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi"})
POSES = frozenset({".pose"})
COLUMNS = ("signal", "signal_start", "signal_end", "output")


def read_folder(folder: Path, src_lang: str, tgt_lang: str) -> Iterator[Signed]:
    """Every film or `.pose` file of a folder that has a `.txt` of the same name beside it.

    Raises:
        InputError: one of them has no text, or there is none.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in FILMS | POSES)
    if not files:
        raise InputError(f"expected films or .pose files in {folder}, got none")
    for file in files:
        try:
            text = file.with_suffix(".txt").read_text("utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(
                f"expected the text of {file} beside it in {file.with_suffix('.txt').name}, got {e}"
            ) from e
        yield Signed(
            id=file.relative_to(folder).with_suffix("").as_posix(), text=text, src_lang=src_lang, tgt_lang=tgt_lang,
            media={"pose" if file.suffix.lower() in POSES else "video": file}, origin=folder.resolve().name,
        )  # fmt: skip


def read_multimodalhugs(table: Path, src_lang: str, tgt_lang: str) -> Iterator[Signed]:
    """The rows of a table of multimodalhugs: signal, its start and end in milliseconds (0 for all of it), output.

    Raises:
        InputError: the table is missing, or has other columns.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected a table of multimodalhugs at {table}, got {e}") from e
    for number, row in enumerate(rows, 2):
        try:
            start_s, end_s = (float(row[name] or 0) / 1000 for name in COLUMNS[1:3])
            file, text = table.parent / row["signal"], row["output"]
        except (KeyError, ValueError, TypeError) as e:
            raise InputError(f"{table}, line {number}: expected {', '.join(COLUMNS)} between tabs, got {e}") from e
        kind = "pose" if file.suffix.lower() in POSES else "features" if file.suffix == ".npy" else "video"
        yield Signed(
            id=f"{file.stem}-{number}", text=text, src_lang=src_lang, tgt_lang=tgt_lang, media={kind: file},
            start_s=start_s, duration_s=end_s - start_s if end_s else None, origin=table.stem,
        )  # fmt: skip
