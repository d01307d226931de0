"""Asterisk's prompts, short recordings of professional speakers with their texts, in five languages.

They come with Debian's packages asterisk-core-sounds-{en,es,fr,it,ru} for the texts and their -g722 for the sound, to
be unpacked by `dpkg-deb -x` into one folder. asterisk-moh-opsound-wav has music to play on hold.
"""

import gzip
from collections.abc import Iterator
from pathlib import Path


def prompts(folder: Path, language: str) -> dict[str, str]:
    """The texts of a language by their keys; without those that describe a sound in brackets."""
    (file,) = folder.rglob(f"core-sounds-{language}.txt.gz")
    lines = gzip.decompress(file.read_bytes()).decode("utf-8").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {key.strip(): text.strip() for key, text in pairs if "[" not in text and "(" not in text}


def sounds(folder: Path, language: str) -> dict[str, Path]:
    """The recordings of a language by their keys."""
    return {
        p.relative_to(base).with_suffix("").as_posix(): p
        for base in _bases(folder, language)
        for p in base.rglob("*.g722")
    }


def music(folder: Path) -> list[Path]:
    """The pieces of music on hold."""
    return sorted(folder.rglob("moh/*.wav"))


def _bases(folder: Path, language: str) -> Iterator[Path]:
    yield from (p for p in folder.rglob(f"sounds/{language}*") if p.is_dir())
