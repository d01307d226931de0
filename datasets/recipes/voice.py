"""Sentences that a voice learns to say: `python -m mmx.datasets.recipes.voice OUT.tsv WORDNET AUSTEN [COUNT]`.

| kind | from | licence |
|---|---|---|
| definitions and examples, short | `data.*` of Debian's `wordnet-base` | WordNet 3.0's, permissive |
| prose, long sentences | Jane Austen's novels in Debian's `r-cran-janeaustenr` | public domain |

Both packages are unpacked by `dpkg-deb -x`; WORDNET is `usr/share/wordnet` of the one, AUSTEN is the file `Rdata.rdb`
of the other. What a voice is tested on (`tests/data/voice_test.txt`) is in neither.
"""

import random
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmx.errors import InputError, MmxError
from mmx.files import atomic_write

WORDS = (4, 36)
"""Fewest and most of a sentence."""
PROSE_SHARE = 0.35
"""Of long sentences, or a voice learns only the melody of short ones."""
_SENTENCE = re.compile(r"[A-Z][A-Za-z ,;:'’—\-]*[a-z][.!?]")
_STRING = re.compile(rb"\x00\x04\x00\x09(.{4})", re.DOTALL)
"""The header of a string in R's serialization format (XDR, version 2): flags and type; its length follows."""


def wordnet(folder: Path) -> list[str]:
    """Examples in quotes, and definitions without brackets, of WordNet's `data.*`."""
    files = sorted(folder.glob("data.*"))
    if not files:
        raise InputError(f"expected WordNet's data.* in {folder}, got none: apt-get download wordnet-base")
    found: list[str] = []
    for line in (line for file in files for line in file.read_text("utf-8", "ignore").splitlines()):
        gloss = line.partition("|")[2]
        found += [q.strip().rstrip(";.") for q in re.findall(r'"([^"]+)"', gloss)]
        definition = re.sub(r"\([^)]*\)", "", gloss.split('"')[0]).strip(" ;")
        found += [definition] if ";" not in definition else []
    return [s[:1].upper() + s[1:] + ("" if s[-1:] in "!?" else ".") for s in found if s]


def r_strings(file: Path) -> Iterator[str]:
    """The strings of R's lazy-load data base `.rdb`: blocks of zlib, each with its length before it."""
    data, at = file.read_bytes(), 0
    while (start := data.find(b"\x78\x9c", at)) >= 0:
        try:
            block = zlib.decompressobj()
            text = block.decompress(data[start:])
        except zlib.error:
            at = start + 2
            continue
        at = len(data) - len(block.unused_data)
        for found in _STRING.finditer(text):
            length = int.from_bytes(found[1], "big", signed=True)
            yield text[found.end() : found.end() + max(0, length)].decode("utf-8", "replace")


def austen(file: Path) -> list[str]:
    """Sentences of the novels, which are strings of a line each, with empty ones between paragraphs."""
    paragraphs = "\n".join(r_strings(file)).split("\n\n")
    texts = (re.sub(r"\s+", " ", p.replace("--", "—").replace("_", "")) for p in paragraphs)
    return [s for text in texts for s in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text)]


def usable(sentences: Sequence[str]) -> list[str]:
    """Those of letters and marks only, each once, in a fixed order."""
    whole = {s.strip() for s in sentences}
    return sorted(s for s in whole if _SENTENCE.fullmatch(s) and WORDS[0] <= len(s.split()) <= WORDS[1])


def mixed(kinds: Sequence[tuple[Sequence[str], float]], count: int, seed: int = 0) -> list[str]:
    """`count` sentences in random order, a share of each kind; all that there are of a kind that has fewer."""
    rng = random.Random(seed)
    out = [s for pool, share in kinds for s in rng.sample(list(pool), min(len(pool), round(share * count)))]
    rng.shuffle(out)
    return out


def prepare(out: Path, wordnet_folder: Path, austen_file: Path, count: int) -> Path:
    """Write a table of `id`, `text` and `src_lang`."""
    prose = [s for s in usable(austen(austen_file)) if len(s.split()) >= 12]
    kinds = ((usable(wordnet(wordnet_folder)), 1 - PROSE_SHARE), (prose, PROSE_SHARE))
    rows = ["id\ttext\tsrc_lang", *(f"en-{i:06d}\t{s}\ten" for i, s in enumerate(mixed(kinds, count)))]
    return atomic_write(out, "\n".join(rows) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """`OUT.tsv WORDNET AUSTEN [COUNT]`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) not in (3, 4):
        print("usage: python -m mmx.datasets.recipes.voice OUT.tsv WORDNET AUSTEN [COUNT]", file=sys.stderr)
        return 2
    try:
        out, wordnet_folder, austen_file = map(Path, given[:3])
        print(prepare(out, wordnet_folder, austen_file, int(given[3]) if len(given) == 4 else 8000))
    except MmxError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
