"""Sentences that a voice learns to say, from Debian packages; `mmx.models.flow_voice.prepare` starts with them.

| language | kind | from | licence |
|---|---|---|---|
| English | definitions and examples, short | `data.*` of `wordnet-base` | WordNet 3.0's, permissive |
| English | prose, long sentences | Jane Austen's novels in `r-cran-janeaustenr` | public domain |
| Spanish, French, Italian, Portuguese | instructions, see `help_texts` | `libreoffice-help-*` | MPL 2.0 |

What a voice is tested on (`tests/data/voice_test*.txt`) is in none of them.
"""

import random
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from mmx.datasets.debian import fetch
from mmx.datasets.recipes import help_texts
from mmx.errors import InputError
from mmx.files import atomic_write

PACKAGES = {"wordnet-base": "*/wordnet/data.*", "r-cran-janeaustenr": "*/Rdata.rdb"}
"""Debian packages, and the files that are read of them."""
LANGUAGES = ("en", *help_texts.PACKAGES)
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


def english(raw: Path, count: int) -> list[str]:
    """Up to `count` sentences of the two packages, in random order."""
    for package, files in PACKAGES.items():
        fetch(package, [files], raw)
    (novels,) = (raw / "r-cran-janeaustenr").rglob("Rdata.rdb")
    prose = [s for s in usable(austen(novels)) if len(s.split()) >= 12]
    glosses = usable(wordnet(next((raw / "wordnet-base").rglob("data.noun")).parent))
    return mixed(((glosses, 1 - PROSE_SHARE), (prose, PROSE_SHARE)), count)


def prepare(out: Path, raw: Path, count: int = 8000, languages: Sequence[str] = LANGUAGES) -> Path:
    """Write a table of `id`, `text` and `src_lang`, in which the languages take turns.

    Args:
        out: the table.
        raw: folder for the packages, which are got unless they are there.
        count: sentences of each language, as far as there are so many.
        languages: of `LANGUAGES`.

    Raises:
        InputError: a package cannot be had.
    """
    raw.mkdir(parents=True, exist_ok=True)
    pools = {
        tag: english(raw, count) if tag == "en" else help_texts.varied(help_texts.sentences(tag, raw), count)
        for tag in languages
    }
    turns = zip_longest(*([(f"{tag}-{i:06d}", s, tag) for i, s in enumerate(pool)] for tag, pool in pools.items()))
    rows = ("\t".join(row) for turn in turns for row in turn if row)
    return atomic_write(out, "\n".join(["id\ttext\tsrc_lang", *rows]) + "\n")
