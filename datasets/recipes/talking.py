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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from mmx.datasets.readers.av_tables import read_auto_avsr, read_av_hubert
from mmx.datasets.readers.grid import read_grid
from mmx.datasets.readers.lrs import read_lrs
from mmx.datasets.talking import Talk, write_manifest
from mmx.errors import MmxError

FORMS: Mapping[str, tuple[int, Callable[[Sequence[str]], Iterator[Talk]]]] = {
    "lrs": (1, lambda a: read_lrs(Path(a[0]))),
    "lrs-list": (2, lambda a: read_lrs(Path(a[0]), Path(a[1]), "lrs2")),
    "av-hubert": (3, lambda a: read_av_hubert(Path(a[0]), a[1], a[2])),
    "auto-avsr": (3, lambda a: read_auto_avsr(Path(a[0]), Path(a[1]), Path(a[2]))),
    "grid": (2, lambda a: read_grid(Path(a[0]), Path(a[1]))),
}
"""How many files each form has, and what reads them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`FORM OUT.tsv FILE...`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) < 2 or given[0] not in FORMS or len(given) - 2 != FORMS[given[0]][0]:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(write_manifest(FORMS[given[0]][1](given[2:]), Path(given[1])))
    except MmxError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
