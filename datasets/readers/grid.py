"""GRID (Cooke et al. 2006): 34 speakers with 1,000 short commands each; films, and words with times in `.align` files.

Times are in 1/25,000 s. `sil` and `sp` are silence.
"""

from collections.abc import Iterator
from pathlib import Path

from mmx.datasets.talking import Talk, lines_of
from mmx.errors import InputError

TICKS = 25_000
SILENCE = ("sil", "sp")
FILMS = (".mpg", ".mp4", ".mkv", ".avi")


def read_grid(films: Path, alignments: Path, speakers: tuple[str, ...] = ()) -> Iterator[Talk]:
    """The clips that have a film and an alignment.

    Args:
        films: the folder of `SPEAKER/.../CLIP.mpg`.
        alignments: the folder of `SPEAKER/.../CLIP.align`; it may be the same.
        speakers: names of those that are wanted ("s1"); all when empty.

    Raises:
        InputError: an alignment of another form.
    """
    known = {(p.relative_to(films).parts[0], p.stem): p for p in sorted(films.rglob("*")) if p.suffix in FILMS}
    for path in sorted(alignments.rglob("*.align")):
        speaker = path.relative_to(alignments).parts[0]
        film = known.get((speaker, path.stem))
        if film is None or (speakers and speaker not in speakers):
            continue
        words, end_s = [], 0.0
        for number, line in enumerate(lines_of(path, "an alignment"), 1):
            try:
                _, end, word = line.split()
                end_s = max(end_s, int(end) / TICKS)
            except ValueError as e:
                raise InputError(f"{path}, line {number}: expected begin, end and word, got {line!r}") from e
            words += [word] if word not in SILENCE else []
        yield Talk(
            id=f"{speaker}/{path.stem}", text=" ".join(words), video=film, audio=film, src_lang="en",
            duration_s=end_s, origin="grid", speaker=speaker,
        )  # fmt: skip
