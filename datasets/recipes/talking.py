"""A corpus of lips and sound to a manifest: `python -m mmx.datasets.recipes.talking FORM OUT.tsv FILE...`.

| form | files |
|---|---|
| `lrs` | folder of a split of LRS3, or of LRS2's `main` |
| `lrs-list` | the same, list of `SPEAKER/NUMBER` |
| `av-hubert` | `SPLIT.tsv`, with `SPLIT.wrd` beside it; language spoken, language of the texts |
| `auto-avsr` | label `.csv`, folder of the datasets, list of tokens |
| `grid` | folder of films, folder of alignments |
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mmx.datasets.forms import Forms, make_manifest
from mmx.datasets.readers.av_tables import read_auto_avsr, read_av_hubert
from mmx.datasets.readers.grid import read_grid
from mmx.datasets.readers.lrs import read_lrs
from mmx.datasets.talking import Talk, write_manifest

FORMS: Forms[Talk] = {
    "lrs": (1, lambda a: read_lrs(Path(a[0]))),
    "lrs-list": (2, lambda a: read_lrs(Path(a[0]), Path(a[1]), "lrs2")),
    "av-hubert": (3, lambda a: read_av_hubert(Path(a[0]), a[1], a[2])),
    "auto-avsr": (3, lambda a: read_auto_avsr(Path(a[0]), Path(a[1]), Path(a[2]))),
    "grid": (2, lambda a: read_grid(Path(a[0]), Path(a[1]))),
}
"""How many files each form has, and what reads them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`FORM OUT.tsv FILE...`."""
    return make_manifest(FORMS, write_manifest, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(main())
