"""A corpus of signing to a manifest: `python -m mmx.datasets.recipes.signing FORM OUT.tsv FILE...`.

| form | files |
|---|---|
| `phoenix` | `PHOENIX-2014-T.SPLIT.corpus.csv`, folder of the split's frames |
| `gfslt` | `labels.SPLIT`, folder that its paths start from |
| `neccam` | `phoenix14t.pami0.SPLIT` |
| `csl-daily` | `csl2020ct_v2.pkl`, `split_1.txt`, folder of frames, split |
| `how2sign` | `how2sign_realigned_SPLIT.csv`, folder of uncut films |
| `how2sign-clips` | the same table, folder of clips |
| `folder` | folder, sign language, language of the texts |
| `multimodalhugs` | table, sign language, language of the texts |
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from mmx.datasets.forms import Forms, make_manifest
from mmx.datasets.readers.csl_daily import read_csl_daily
from mmx.datasets.readers.how2sign import read_how2sign
from mmx.datasets.readers.phoenix import read_features, read_labels, read_table
from mmx.datasets.readers.signed_folder import read_folder, read_multimodalhugs
from mmx.datasets.signing import Signed, write_manifest

FORMS: Forms[Signed] = {
    "phoenix": (2, lambda a: read_table(Path(a[0]), Path(a[1]))),
    "gfslt": (2, lambda a: read_labels(Path(a[0]), Path(a[1]))),
    "neccam": (1, lambda a: read_features(Path(a[0]))),
    "csl-daily": (4, lambda a: read_csl_daily(Path(a[0]), Path(a[1]), Path(a[2]), a[3])),
    "how2sign": (2, lambda a: read_how2sign(Path(a[0]), Path(a[1]))),
    "how2sign-clips": (2, lambda a: read_how2sign(Path(a[0]), Path(a[1]), clips=True)),
    "folder": (3, lambda a: read_folder(Path(a[0]), a[1], a[2])),
    "multimodalhugs": (3, lambda a: read_multimodalhugs(Path(a[0]), a[1], a[2])),
}
"""How many files each form has, and what reads them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """`FORM OUT.tsv FILE...`."""
    return make_manifest(FORMS, write_manifest, __doc__ or "", arguments)


if __name__ == "__main__":
    sys.exit(main())
