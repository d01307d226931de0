"""LRS2 and LRS3 (Chung et al. 2017, Afouras et al. 2018): films of speakers with a text file beside each.

The first line is `Text:  WORDS`. In the parts called pretrain, which are long, a table `WORD START END ASDSCORE`
follows; such a film is cut at pauses.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.talking import Talk, lines_of
from mmx.errors import InputError

PAUSE_S, LONGEST_S = 0.4, 15.0
"""A film of more than `LONGEST_S` is cut at pauses of more than `PAUSE_S`."""

Word = tuple[str, float, float]
"""A word with its begin and end, in seconds."""


def read_lrs(root: Path, names: Path | None = None, origin: str = "lrs3") -> Iterator[Talk]:
    """The clips under a folder such as `test` or `pretrain`.

    Args:
        root: the folder of `SPEAKER/NUMBER.mp4` and `.txt`.
        names: a list of `SPEAKER/NUMBER`, one a line, as LRS2 has for its splits; all of the folder when None.
        origin: the corpus.

    Raises:
        InputError: a text that is missing or of another form.
    """
    if names is None:
        found = sorted(str(p.relative_to(root).with_suffix("")) for p in root.rglob("*.mp4"))
    else:
        found = [line.split()[0] for line in lines_of(names, "a list of clips") if line.strip()]
    for name in found:
        yield from _clips(root, name, origin)


def _clips(root: Path, name: str, origin: str) -> Iterator[Talk]:
    lines = lines_of(root / f"{name}.txt", "the text of a clip")
    if not lines or not lines[0].startswith("Text:"):
        raise InputError(f"{root / name}.txt: expected a first line 'Text:  ...', got {lines[:1]}")
    film, speaker = root / f"{name}.mp4", name.partition("/")[0]
    spans = _spans(lines, f"{root / name}.txt")
    if not spans:
        text = lines[0].removeprefix("Text:").strip().lower()
        yield Talk(id=name, text=text, video=film, audio=film, src_lang="en", origin=origin, speaker=speaker)
    for k, span in enumerate(spans):
        yield Talk(
            id=f"{name}/{k}", text=" ".join(w for w, _, _ in span).lower(), video=film, audio=film, src_lang="en",
            start_s=span[0][1], duration_s=span[-1][2] - span[0][1], origin=origin, speaker=speaker,
        )  # fmt: skip


def _spans(lines: list[str], where: str) -> list[list[Word]]:
    """The words of a table of times, in parts; none without a table."""
    head = next((i for i, line in enumerate(lines) if line.split()[:3] == ["WORD", "START", "END"]), None)
    if head is None:
        return []
    words: list[Word] = []
    for number, line in enumerate(lines[head + 1 :], head + 2):
        try:
            word, start, end = line.split()[:3]
            words.append((word, float(start), float(end)))
        except ValueError as e:
            if line.strip():
                raise InputError(f"{where}, line {number}: expected WORD START END, got {line!r}") from e
    if not words or words[-1][2] <= LONGEST_S:
        return [words] if words else []
    spans = [[words[0]]]
    for before, word in itertools.pairwise(words):
        if word[1] - before[2] > PAUSE_S:
            spans.append([])
        spans[-1].append(word)
    return spans
