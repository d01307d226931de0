"""English-Spanish sentence pairs from public packages: `python -m mmx.datasets.recipes.en_es OUT`.

Writes `OUT/train.tsv`, `valid.tsv`, `test.tsv`, `test_other.tsv` (columns: id, source, target, src_lang, tgt_lang,
origin, licence), `STATEMENT.md` for people and `statement.json` for programs. The same raw files give the same bytes.

Raw files: Debian packages come through `apt-get download` (Debian 12, nothing is installed; only the few files that
are read are unpacked). All training data is from them. `test_other` is one package's dialogue that is held out whole.
Corpora that no package holds are for evaluation only, and are left out unless somebody has put them into the folder
for raw files (`EXTRAS` in `corpora_en_es.py`): each makes a `test_NAME.tsv` of its own.
"""

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmx.datasets.debian import fetch
from mmx.datasets.parallel import (
    SPLITS,
    Pair,
    bucket,
    capped,
    clean,
    deduplicate,
    follow,
    key,
    long_enough,
    normalised,
    split,
    without_texts,
)
from mmx.datasets.recipes.corpora_en_es import CORPORA, DOCUMENTS, EXTRAS, Corpus
from mmx.errors import InputError
from mmx.files import atomic_write

COLUMNS = ("id", "source", "target", "src_lang", "tgt_lang", "origin", "licence")
HELD_OUT_SHARE = 0.01
EXTRA_PAIRS = 3000  # kept of a corpus for evaluation only, chosen by hash; more only takes longer to translate
TECHNICAL_SHARE = 1 / 3  # of the training pairs at most: manuals have many sentences and few kinds of them


@dataclass
class Report:
    """What became of the raw pairs, for the statement."""

    read: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    extras: dict[str, int] = field(default_factory=dict)


def collect(raw: Path, skip: Sequence[str], report: Report) -> Iterator[Pair]:
    """Get and read all corpora but those skipped, clean.

    Args:
        raw: The folder for raw files.
        skip: Names of corpora to do without.
        report: Is filled in.

    Yields:
        The clean pairs.

    Raises:
        InputError: A corpus cannot be had or read.
    """
    for name, corpus in CORPORA.items():
        if name in skip:
            continue
        for package in corpus.packages:
            version = fetch(package, corpus.keep, raw)
            report.versions += [version] if version not in report.versions else []
        yield from _clean(name, corpus, raw, report)


def _clean(name: str, corpus: Corpus, raw: Path, report: Report) -> Iterator[Pair]:
    """Yield the clean pairs of a corpus."""
    dropped = report.dropped.setdefault(name, Counter())
    pairs = _counted(corpus.read(raw), name, report.read)
    good = normalised(pairs) if corpus.prose is None else clean(pairs, prose=corpus.prose, dropped=dropped)
    return long_enough(good, corpus.words)


def extras(raw: Path, trained: Sequence[Pair], report: Report) -> dict[str, list[Pair]]:
    """Read those corpora for evaluation that somebody has put into the raw folder.

    Args:
        raw: The folder for raw files.
        trained: The training pairs, of which no text is to be in an extra.
        report: Is filled in.

    Returns:
        Pairs by corpus; a corpus that is not there is left out.
    """
    found = {}
    for name, (where, _, corpus) in EXTRAS.items():
        if (raw / where).exists():
            pairs = deduplicate(_clean(name, corpus, raw, report), Counter())
            apart = without_texts(pairs, trained)
            found[name] = sorted(apart, key=lambda pair: bucket(key(pair.source)))[:EXTRA_PAIRS]
            report.extras[name] = len(found[name])
    return found


def read_manifest(path: Path) -> list[str]:
    """Return the texts of both languages in a file that `manifest` made.

    Args:
        path: The file.

    Returns:
        The texts.

    Raises:
        InputError: The file is not there or has other columns.
    """
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    if not lines or tuple(lines[0].split("\t")) != COLUMNS:
        raise InputError(f"Expected {str(path)!r} with the columns {', '.join(COLUMNS)}. What to do: name a folder "
                         "that this program wrote.")  # fmt: skip
    return [text for line in lines[1:] for text in line.split("\t")[1:3]]


def _counted(pairs: Iterator[Pair], name: str, counter: Counter[str]) -> Iterator[Pair]:
    """Pass pairs on and count them."""
    for pair in pairs:
        counter[name] += 1
        yield pair


def manifest(pairs: Sequence[Pair]) -> str:
    """Return the pairs as tab-separated text with a header; normalised text has no tab and no line end."""
    rows = ["\t".join(COLUMNS)]
    for pair in pairs:
        name = hashlib.sha256(f"{pair.source}\t{pair.target}".encode()).hexdigest()[:12]
        licence = (CORPORA.get(pair.origin) or EXTRAS[pair.origin][2]).licence
        rows.append("\t".join((f"{pair.origin}-{name}", pair.source, pair.target, "en", "es", pair.origin, licence)))
    return "\n".join(rows) + "\n"


def statement(sets: dict[str, list[Pair]], report: Report) -> dict[str, Any]:
    """Return counts, words and licence by origin, drops by flaw, and the packages' versions."""
    by_origin = {}
    for name, corpus in CORPORA.items():
        mine = {s: [p for p in sets[s] if p.origin == name] for s in SPLITS}
        words = sum(len(p.source.split()) for pairs in mine.values() for p in pairs)
        total = sum(map(len, mine.values()))
        by_origin[name] = {
            "licence": corpus.licence,
            "about": corpus.about,
            "technical": corpus.technical,
            "read": report.read[name],
            "dropped": dict(report.dropped.get(name, Counter()).most_common()),
            "pairs": {s: len(pairs) for s, pairs in mine.items()},
            "english_words": words,
            "words_per_pair": round(words / total, 1) if total else 0.0,
        }
    return {
        "pairs": {s: len(sets[s]) for s in SPLITS},
        "origins": by_origin,
        "packages": report.versions,
        "extras": report.extras,
    }


def markdown(facts: dict[str, Any]) -> str:
    """Return the statement for people."""
    origins, pairs = facts["origins"], facts["pairs"]
    head = "| origin | kind | licence | " + " | ".join(SPLITS) + " | words per pair |\n"
    head += "|" + " --- |" * (4 + len(SPLITS)) + "\n"
    rows = [
        f"| {name} | {o['about']} | {o['licence']} | "
        + " | ".join(str(o["pairs"][s]) for s in SPLITS)
        + f" | {o['words_per_pair']} |\n"
        for name, o in origins.items()
    ]
    total = "| all | | | " + " | ".join(str(pairs[s]) for s in SPLITS) + " | |\n"
    drops = "".join(
        f"- {name}: {o['read']} read; " + ", ".join(f"{flaw} {n}" for flaw, n in o["dropped"].items()) + "\n"
        for name, o in origins.items()
        if o["dropped"]
    )
    return (
        "# English-Spanish sentence pairs\n\n"
        "All pairs are by people as far as their packages say; none was made by a machine for this purpose. All are "
        "from Debian packages. Several origins are under the GPL, the GFDL or CC-BY-SA: these files may be passed on "
        "only under the terms of each row's licence, with the credit that these licences ask for. The licence is what "
        "the package's debian/copyright names for the texts, or for the program where it names none for the texts. "
        "Whether weights trained on them are bound by those terms is not settled; whoever publishes weights should "
        "name this table.\n\n"
        + head + "".join(rows) + total +
        "\n`test` and `valid` hold whole documents (" + ", ".join(f"{d}: {s}" for d, s in DOCUMENTS.items()) + ") and "
        f"{HELD_OUT_SHARE:.0%} each of the sentences that belong to no document, by hash. `test_other` is corpora held "
        "out whole. No source and no target in one set is in another, compared without case, accents, punctuation and "
        "the value of digits. Sentences that differ by one word may be in two sets; figures on `test_other` are the "
        f"ones to trust. Manuals and messages of programs are at most {TECHNICAL_SHARE:.0%} of `train`.\n\n"
        "## Evaluation only\n\n" + _extras_text(facts["extras"]) + "\n"
        "## Dropped\n\n" + drops + "\n## Packages\n\n" + "".join(f"- {p}\n" for p in facts["packages"])
    )  # fmt: skip


def _extras_text(found: dict[str, int]) -> str:
    """Return the statement's list of the corpora that no package holds."""
    lines = [
        "No package holds these, so nothing is trained on them. Texts that are in `train` are taken out of "
        f"them, and {EXTRA_PAIRS} pairs at most, by hash, are kept."
    ]
    for name, (where, what, corpus) in EXTRAS.items():
        use = f"{found[name]} pairs in `test_{name}.tsv`" if name in found else f"not used: RAW/{where} was not there"
        lines.append(f"- {name}: {corpus.about}, {corpus.licence}; {what}; {use}")
    return lines[0] + "\n\n" + "\n".join(lines[1:]) + "\n"


def prepare(out: Path, raw: Path, skip: Sequence[str] = (), former: Path | None = None) -> dict[str, Any]:
    """Make the data set.

    Args:
        out: The folder for the result; made if need be.
        raw: The folder for raw files; made if need be.
        skip: Names of corpora to do without.
        former: The folder of an earlier result, whose training and held-out texts are to stay on their sides.

    Returns:
        The statement, as written to `statement.json`.

    Raises:
        InputError: An unknown name in `skip`, or a corpus or `former` cannot be had or read.
        OutputError: The result cannot be written.
    """
    if unknown := set(skip) - set(CORPORA):
        raise InputError(f"Expected corpora out of {', '.join(CORPORA)} to skip, got {', '.join(sorted(unknown))}.")
    raw.mkdir(parents=True, exist_ok=True)
    report, repeated = Report(), Counter[str]()
    before = {name: read_manifest(former / f"{name}.tsv") for name in SPLITS} if former else {}
    pairs = deduplicate(collect(raw, skip, report), repeated)
    origins = {name: c.held_out for name, c in CORPORA.items() if c.held_out}
    sets = split(pairs, DOCUMENTS, origins, HELD_OUT_SHARE)
    if before:
        sets = follow(sets, before)
    sets["train"] = capped(sets["train"], [n for n, c in CORPORA.items() if c.technical], TECHNICAL_SHARE)
    others = extras(raw, sets["train"], report)
    facts = statement(sets, report) | {"repeated": dict(repeated)}
    for name in SPLITS:
        atomic_write(out / f"{name}.tsv", manifest(sets[name]))
    for name, pairs in others.items():
        atomic_write(out / f"test_{name}.tsv", manifest(pairs))
    atomic_write(out / "statement.json", json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    atomic_write(out / "STATEMENT.md", markdown(facts))
    return facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Run as a script."""
    parser = argparse.ArgumentParser(
        prog="python -m mmx.datasets.recipes.en_es", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("out", type=Path, help="folder for the result")
    parser.add_argument("--raw", type=Path, help="folder for raw files (default: OUT/raw)")
    parser.add_argument("--skip", action="append", default=[], metavar="CORPUS", help="do without this corpus")
    parser.add_argument("--former", type=Path, help="folder of an earlier result that a model was trained on")
    given = parser.parse_args(arguments)
    facts = prepare(given.out, given.raw or given.out / "raw", given.skip, given.former)
    print(json.dumps(facts["pairs"]))


if __name__ == "__main__":
    main()
