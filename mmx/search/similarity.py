"""Late interaction: two recordings, or a recording and a text, compared token by token (CiCo, CVPR 2023).

With E[i, j] the cosine of token i of the one and token j of the other, and tau a temperature,

    forth = mean_i sum_j softmax_j(E[i, :] / tau)[j] E[i, j]        back: the same with i and j exchanged

and the similarity is their mean. Cheng et al., "CiCo: Domain-Aware Sign Language Retrieval via Cross-Lingual
Contrastive Learning". Theirs also counts padding in the softmax; here there is none.

`mmx.nn.similarity.late_interaction` is the same of padded batches, with gradients.

Letters: M tokens of the query, N tokens of all documents, K documents, D width.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mmx.nn.similarity import TAU

Array = NDArray[np.float32]
CELLS = 2**16
"""Cosines at a time, so that they stay in a CPU's cache."""


def unit(x: NDArray[np.floating]) -> Array:
    """Rows of length 1; a row of zeros stays so."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def late_interaction(query_MD: Array, documents: Sequence[NDArray[np.floating]], tau: float = TAU) -> Array:
    """Similarities `(K,)` in [-1, 1] of one query and K documents `(N_k, D)`, none of them empty."""
    if not documents:
        return np.zeros(0, np.float32)
    query_MD = unit(query_MD)
    ends_K = np.cumsum([len(d) for d in documents])
    part_K = ends_K * len(query_MD) // CELLS
    edges = [0, *(np.flatnonzero(np.diff(part_K)) + 1).tolist(), len(documents)]
    return np.concatenate([_compared(query_MD, documents[a:b], tau) for a, b in itertools.pairwise(edges)])


def _compared(query_MD: Array, documents: Sequence[NDArray[np.floating]], tau: float) -> Array:
    """See above; of a query whose rows have the length 1."""
    lengths_K = np.array([len(d) for d in documents])
    starts_K = np.concatenate([[0], lengths_K.cumsum()[:-1]])
    E_MN = query_MD @ unit(np.concatenate([np.asarray(d, np.float32) for d in documents])).T
    weight_MN = np.exp((E_MN - 1) / tau)  # at most 1: no cosine overflows
    weighted_MN = weight_MN * E_MN
    forth_MK = np.add.reduceat(weighted_MN, starts_K, 1) / np.add.reduceat(weight_MN, starts_K, 1)
    back_N = weighted_MN.sum(0) / weight_MN.sum(0)
    return ((forth_MK.mean(0) + np.add.reduceat(back_N, starts_K) / lengths_K) / 2).astype(np.float32)
