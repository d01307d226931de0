"""PHOENIX-2014T, in the three forms that it is passed around in: the official table, GFSLT's pickles and neccam's.

| form | annotations | media |
|---|---|---|
| official | `PHOENIX-2014-T.SPLIT.corpus.csv`, fields between bars, without quoting | frames in `SPLIT/NAME/*.png` |
| GFSLT | `labels.SPLIT`, a gzipped pickle of a dict of texts and `imgs_path` (Uni-Sign: `video_path`) | the frames |
| neccam | `phoenix14t.pami0.SPLIT`, a gzipped pickle of a list of texts and features | in the pickle |

References of the first two have no full stop; neccam's end in " .", which is worth 0.8 BLEU or more: see the presets
`phoenix-dot` and `phoenix-nodot` of `mmx evaluate`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmx.datasets.readers.plain_pickle import read_plain_pickle
from mmx.datasets.signing import Signed
from mmx.errors import InputError

COLUMNS = ("name", "video", "start", "end", "speaker", "orth", "translation")
LANGUAGES = ("gsg", "de")
ORIGIN = "phoenix-2014t"


def read_table(table: Path, frames: Path) -> Iterator[Signed]:
    """The official annotations of a split.

    Args:
        table: the csv.
        frames: the folder of the split's clips, `features/fullFrame-210x260px/SPLIT`.

    Raises:
        InputError: the table is missing, or has other columns.
    """
    try:
        lines = table.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected the annotations of PHOENIX-2014T at {table}, got {e}") from e
    header = lines[0].split("|") if lines else []
    for number, line in enumerate(lines[1:], 2):
        row = dict(zip(header, line.split("|"), strict=False))
        if len(row) != len(COLUMNS) or not set(COLUMNS) <= set(row):
            raise InputError(f"{table}, line {number}: expected {'|'.join(COLUMNS)}, got {line[:80]!r} under {header}")
        yield Signed(
            id=row["name"], text=row["translation"], src_lang=LANGUAGES[0], tgt_lang=LANGUAGES[1],
            media={"video": frames / row["name"]}, origin=ORIGIN, gloss=row["orth"], signer=row["speaker"],
        )  # fmt: skip


def read_labels(
    labels: Path, root: Path, languages: tuple[str, str] = LANGUAGES, origin: str = ORIGIN
) -> Iterator[Signed]:
    """The labels of GFSLT-VLP, and of Uni-Sign, which keeps other corpora in the same form.

    Args:
        labels: the pickle.
        root: the folder that its paths start from.
        languages: of the signing and of the texts.
        origin: the corpus.

    Raises:
        InputError: it is another pickle, or one that asks for more than data.
    """
    for key, entry in _rows(read_plain_pickle(labels), labels).items():
        name = str(entry.get("name", key))
        if "video_path" in entry:
            where = root / str(entry["video_path"])
        else:
            pictures = entry.get("imgs_path") or [f"{name}/none"]
            where = (root / str(pictures[0])).parent
        yield Signed(
            id=name, text=_text(entry, "text", labels), src_lang=languages[0], tgt_lang=languages[1],
            media={"video": where}, origin=origin, gloss=_joined(entry.get("gloss")),
        )  # fmt: skip


def read_features(pickle: Path) -> Iterator[Signed]:
    """The features of neccam/slt (Camgöz et al. 2020), at 25 frames a second."""
    entries = read_plain_pickle(pickle)
    if not isinstance(entries, list):
        raise InputError(f"expected a list of clips in {pickle}, got {type(entries).__name__}")
    for entry in entries:
        sign = entry.get("sign") if isinstance(entry, dict) else None
        if sign is None:
            raise InputError(f"expected clips with features under 'sign' in {pickle}, got {str(entry)[:80]}")
        yield Signed(
            id=str(entry["name"]), text=_text(entry, "text", pickle), src_lang=LANGUAGES[0], tgt_lang=LANGUAGES[1],
            arrays={"features": sign}, origin=ORIGIN, gloss=_joined(entry.get("gloss")),
            signer=str(entry.get("signer", "")),
        )  # fmt: skip


def _rows(found: Any, path: Path) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(found, dict) or not all(isinstance(row, dict) for row in found.values()):
        raise InputError(f"expected a dict of clips by name in {path}, got {type(found).__name__} of something else")
    return found


def _text(entry: Mapping[str, Any], name: str, path: Path) -> str:
    if not isinstance(entry.get(name), str):
        raise InputError(f"expected a text under {name!r} of each clip in {path}, got the fields {sorted(entry)}")
    return entry[name]


def _joined(gloss: Any) -> str:
    return " ".join(map(str, gloss)) if isinstance(gloss, list | tuple) else str(gloss or "")
