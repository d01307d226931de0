"""Answers as a page: words and a player that starts at the place; hands as they move, drawn.

Letters: T frames, J points, C coordinates.
"""

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmx.errors import MmxError
from mmx.files import atomic_write
from mmx.media.pose import open_numbers
from mmx.media.source import FILMS, MEDIA
from mmx.search.query import Hit

FRAMES = 6
"""Of a pose that are shown."""
HANDS = ("LEFT_HAND_LANDMARKS", "RIGHT_HAND_LANDMARKS")
FINGERS = ((0, 1, 2, 3, 4), (0, 5, 6, 7, 8), (5, 9, 10, 11, 12), (9, 13, 14, 15, 16), (13, 17, 18, 19, 20), (0, 17))
"""Points of a hand that are joined, as MediaPipe numbers them."""
POINTS = 21


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
    with open_numbers(hit.source, medium="pose", rate=25.0, points=HANDS) as reader:
        x_TJC = np.concatenate(list(reader))[round(hit.start_s * 25) : max(1, round(hit.end_s * 25))]
    if x_TJC.ndim != 3 or x_TJC.shape[1] != 2 * POINTS:
        return []
    seen = np.flatnonzero((x_TJC != 0).any((1, 2)))
    return [x_TJC[t] for t in seen[np.linspace(0, len(seen) - 1, min(FRAMES, len(seen))).astype(int)]]


def _drawn(x_JC: NDArray[np.float32]) -> str:
    """A frame as SVG, fitted to what is in it."""
    hands = [h[:, :2] for h in (x_JC[:POINTS], x_JC[POINTS:]) if (h != 0).any()]
    both = np.concatenate(hands)
    low, size = both.min(0), max(float(np.ptp(both, axis=0).max()), 1e-6)
    lines = []
    for hand in hands:
        at = (hand - low) / size * 100 + 5
        for chain in FINGERS:
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in at[list(chain)])
            lines.append(f'<polyline points="{points}" fill="none" stroke="#222" stroke-width="2"/>')
    return f'<svg viewBox="0 0 110 110" width="110" height="110">{"".join(lines)}</svg>'
