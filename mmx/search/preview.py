"""Answers as a page or a sheet: words and a player that starts at the place; hands as they move, drawn.

Letters: T frames, J points, C coordinates, S side of a picture.
"""

import html
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmx.errors import MmxError
from mmx.files import atomic_write
from mmx.media.mouth_files import write_png
from mmx.media.pose import open_numbers
from mmx.media.source import FILMS, MEDIA
from mmx.media.video import open_video
from mmx.search.query import Hit

FRAMES = 6
"""Of a pose that are shown."""
HANDS = ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS")
FINGERS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (5, 9, 10, 11, 12), (9, 13, 14, 15, 16), (13, 17, 18, 19, 20), (0, 17))
"""Points of a hand that are joined, as MediaPipe numbers them."""
POINTS = 21
RATE = 25.0
SIDE, EDGE = 110, 5
"""Of a picture, and around what is drawn in it, in pixels."""
PAPER, INK = 244, 34
PAGE, SHEET = ".html", ".png"
KINDS = (PAGE, SHEET)
"""Of files that `write` writes."""


def write(path: Path, query: str, hits: Sequence[Hit]) -> Path:
    """A page or a sheet, by the ending of the path, one of `KINDS`."""
    return write_page(path, query, hits) if path.suffix.lower() == PAGE else write_sheet(path, hits)


def write_sheet(path: Path, hits: Sequence[Hit]) -> Path:
    """A PNG file: a row of pictures for each answer, from its first to its last; empty where none can be shown."""
    sheet = np.full((max(1, len(hits)) * SIDE, FRAMES * SIDE, 3), 255, np.uint8)
    for row, hit in enumerate(hits):
        try:
            tiles = _tiles(hit)
        except MmxError:  # a recording that has gone since is still an answer
            continue
        for column, tile in enumerate(tiles):
            sheet[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = tile
    return write_png(path, sheet)


def _tiles(hit: Hit) -> list[NDArray[np.uint8]]:
    """Pictures `(S, S, 3)`: of a film, or of hands; none of a sound."""
    ending = Path(hit.source).suffix.lower()
    if ending in FILMS:
        return _pictures(hit)
    return [] if ending in MEDIA else [_sketched(x_JC) for x_JC in _hands(hit)]


def _pictures(hit: Hit) -> list[NDArray[np.uint8]]:
    """Of a film, evenly spaced; only those are kept while it is read."""
    first, last = int(hit.start_s * RATE), max(int(hit.start_s * RATE), int(hit.end_s * RATE) - 1)
    wanted, out, at = sorted({*np.linspace(first, last, FRAMES).round().astype(int).tolist()}), [], 0
    with open_video(hit.source, rate=RATE, shape=(SIDE, SIDE, 3)) as reader:
        for block in reader:
            out += [block[t - at].copy() for t in wanted if at <= t < at + len(block)]
            at += len(block)
            if at > last:
                break
    return out


def write_page(path: Path, query: str, hits: Sequence[Hit]) -> Path:
    """An HTML page of answers; media are linked, not copied. Raises `OutputError`."""
    rows = "\n".join(_row(hit) for hit in hits)
    title = html.escape(query)
    return atomic_write(
        path,
        f'<!doctype html><html><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:16px sans-serif;margin:2em}section{margin:1em 0}svg{background:#f4f4f4;margin:2px}"
        f"video{{max-width:24em}}</style><h1>{title}</h1>\n{rows or '<p>nothing found</p>'}\n</html>\n",
    )


def _row(hit: Hit) -> str:
    name = html.escape(hit.source)
    head = f"<b>{name}</b> {hit.start_s:.2f}-{hit.end_s:.2f} s, {html.escape(hit.by)} {hit.score:.3f}"
    return f"<section>{head}<p>{html.escape(hit.text)}</p>{_shown(hit)}</section>"


def _shown(hit: Hit) -> str:
    ending = Path(hit.source).suffix.lower()
    if ending in MEDIA:
        kind = "video" if ending in FILMS else "audio"
        place = html.escape(f"{Path(hit.source).as_uri()}#t={hit.start_s:.2f},{hit.end_s:.2f}", quote=True)
        return f'<{kind} controls preload="none" src="{place}"></{kind}>'
    try:
        return "".join(_drawn(x_JC) for x_JC in _hands(hit))
    except MmxError as e:  # a recording that has gone since is still an answer
        return f"<p>cannot be shown: {html.escape(str(e))}</p>"


def _hands(hit: Hit) -> list[NDArray[np.float32]]:
    """Frames, evenly spaced, in which a hand was found."""
    with open_numbers(hit.source, medium="pose", rate=RATE, points=HANDS) as reader:
        x_TJC = np.concatenate(list(reader))[round(hit.start_s * RATE) : max(1, round(hit.end_s * RATE))]
    if x_TJC.ndim != 3 or x_TJC.shape[1] != 2 * POINTS:
        return []
    seen = np.flatnonzero((x_TJC != 0).any((1, 2)))
    return [x_TJC[t] for t in seen[np.linspace(0, len(seen) - 1, min(FRAMES, len(seen))).astype(int)]]


def _drawn(x_JC: NDArray[np.float32]) -> str:
    """A frame as SVG, fitted to what is in it."""
    lines = []
    for chain in _chains(x_JC):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in chain)
        lines.append(f'<polyline points="{points}" fill="none" stroke="#222" stroke-width="2"/>')
    return f'<svg viewBox="0 0 {SIDE} {SIDE}" width="{SIDE}" height="{SIDE}">{"".join(lines)}</svg>'


def _sketched(x_JC: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The same as a picture `(S, S, 3)`."""
    out = np.full((SIDE, SIDE, 3), PAPER, np.uint8)
    for a, b in (pair for chain in _chains(x_JC) for pair in itertools.pairwise(chain)):
        x, y = np.linspace(a, b, 2 * SIDE).round().astype(int).T
        for dx, dy in ((0, 0), (1, 0), (0, 1)):
            out[np.clip(y + dy, 0, SIDE - 1), np.clip(x + dx, 0, SIDE - 1)] = INK
    return out


def _chains(x_JC: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Fingers of the hands that are there, in pixels `(points, 2)`, fitted to a picture."""
    hands = [h[:, :2] for h in (x_JC[:POINTS], x_JC[POINTS:]) if (h != 0).any()]
    both = np.concatenate(hands)
    low, size = both.min(0), max(float(np.ptp(both, axis=0).max()), 1e-6)
    fitted = [(hand - low) / size * (SIDE - 2 * EDGE) + EDGE for hand in hands]
    return [hand[list(chain)] for hand in fitted for chain in FINGERS]
