"""Candidates by the pooled vector: all where they are few, approximate nearest neighbours where they are many.

Letters: K spans with vectors, D width.
"""

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import OutputError
from mmx.files import replacing
from mmx.search.index import Index

FEW = 4096
"""Spans up to which each is compared exactly."""

Rows = list[tuple[int, int]]
"""Segment and row of each candidate."""


def candidates(index: Index, pooled_D: NDArray[np.float32], count: int, few: int = FEW) -> Rows:
    """All spans with vectors where there are at most `few`, else about the `count` nearest by cosine.

    With usearch installed these come from a graph (HNSW, Malkov and Yashunin 2016) that is kept next to the segments
    and made again when others are in; without it, of a comparison with each pooled vector.
    """
    rows_K2 = _live(index)
    if len(rows_K2) <= max(few, count):
        chosen = rows_K2
    elif importlib.util.find_spec("usearch") is not None:
        chosen = rows_K2[_graph(index, rows_K2).search(pooled_D, count).keys.astype(int)]
    else:
        chosen = rows_K2[np.argpartition(-(_pooled(index, rows_K2) @ pooled_D), count)[:count]]
    return [(s, i) for s, i in chosen.tolist()]


def _live(index: Index) -> NDArray[np.int64]:
    """`(K, 2)`: segment and row of each span, in their order. As an array, for there may be very many."""
    parts = [np.zeros((0, 2), np.int64)]
    for s, segment in enumerate(index.segments):
        if segment.embedded:
            rows = np.delete(np.arange(len(segment.entries)), sorted(segment.removed))
            parts.append(np.stack([np.full_like(rows, s), rows], 1))
    return np.concatenate(parts)


def _pooled(index: Index, rows_K2: NDArray[np.int64]) -> NDArray[np.float32]:
    """`(K, D)`."""
    each = np.unique(rows_K2[:, 0]).tolist()
    return np.concatenate([index.segments[s].pooled[rows_K2[rows_K2[:, 0] == s, 1]] for s in each])


def _graph(index: Index, rows_K2: NDArray[np.int64]) -> Any:
    """The graph of these rows; what is on disk is one, or is made anew: it holds nothing that the segments do not."""
    import hashlib
    import warnings

    from usearch.index import Index as Graph

    held = [(s.name, sorted(s.removed)) for s in index.segments if s.embedded]
    path = index.folder / f"graph-{hashlib.sha256(repr(held).encode()).hexdigest()[:16]}.usearch"
    if path.exists() and (graph := Graph.restore(str(path), view=True)) is not None and len(graph) == len(rows_K2):
        return graph
    pooled_KD = _pooled(index, rows_K2)
    graph = Graph(ndim=pooled_KD.shape[1], metric="cos", dtype="f32")
    # Several threads at once leave some rows without a way to them: one in 200 of 300, one in 1,700 of 5,000.
    graph.add(np.arange(len(pooled_KD)), pooled_KD, threads=1)
    try:
        with replacing(path) as temporary:
            graph.save(str(temporary))
        for old in index.folder.glob("graph-*.usearch"):
            if old != path:
                old.unlink(missing_ok=True)
    except (OutputError, OSError) as e:  # an index on a read-only disk can be searched, only slower
        warnings.warn(f"the graph is made again for each search: {e}", stacklevel=2)
    return graph
