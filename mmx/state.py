"""`State`: what a block remembers between calls; a nested dict of batch-first tensors that the caller owns.

Nothing is ever kept on a module during `forward`, so one model serves many threads and many sessions. The operations
that every state needs exist once, here: fork, reorder, select, stack, split, save, load.

Every leaf is `(B, *)`. During a search each of the B rows carries K hypotheses; then a leaf is `(B, K, *)`, with two
exceptions that make a search cheap: what stands under the key `memory` is shared by the hypotheses of a row, and a
dict with a leaf `ancestors` holds a preallocated cache that is addressed through it, so that re-ordering hypotheses
re-points one small integer tensor and never moves the cache.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

State: TypeAlias = dict[str, "Tensor | State"]

POINTER = "ancestors"
SHARED = "memory"


def leaves(state: State, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the tree with its dotted path, in a fixed order."""
    for key in sorted(state):
        value = state[key]
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def tensor(state: State, key: str) -> Tensor:
    """The leaf `key` of a state; it must be a tensor."""
    value = state[key]
    assert isinstance(value, Tensor), key
    return value


def subtree(state: State, key: str) -> State:
    """The branch `key` of a state; it must be a dict."""
    value = state[key]
    assert isinstance(value, dict), key
    return value


def map_leaves(state: State, fn: Callable[[Tensor], Tensor]) -> State:
    """A new tree with `fn` applied to every tensor."""
    return {k: map_leaves(v, fn) if isinstance(v, dict) else fn(v) for k, v in state.items()}


def fork(state: State) -> State:
    """An independent copy: what is done to it never shows in the original."""
    return map_leaves(state, torch.clone)


def reorder(state: State, index_BK: Tensor) -> State:
    """Hypothesis `k` of row `b` in the result is hypothesis `index_BK[b, k]` of that row in `state`.

    Args:
        state: the tree. It is not changed, but a cache addressed through `ancestors` is shared with the result, so the
            old tree must not be advanced afterwards: `fork` first to keep both.
        index_BK: `(B, K)` int64. An entry may repeat (a hypothesis that lives on twice) or be absent (one that died).
    """
    if POINTER in state:
        pointer = state[POINTER]
        assert isinstance(pointer, Tensor)
        return {**state, POINTER: _gather(pointer, index_BK)}
    out: State = {}
    for key, value in state.items():
        if key == SHARED:
            out[key] = value
        else:
            out[key] = reorder(value, index_BK) if isinstance(value, dict) else _gather(value, index_BK)
    return out


def _gather(value_BK: Tensor, index_BK: Tensor) -> Tensor:
    rows = torch.arange(index_BK.shape[0], device=index_BK.device)[:, None]
    return value_BK[rows, index_BK]


def select(state: State, index: Tensor) -> State:
    """Row `i` of the result is a copy of row `index[i]` of `state`; `index` `(N,)` int64."""
    return map_leaves(state, lambda t: t.index_select(0, index))


def stack(states: Sequence[State]) -> State:
    """Put sessions side by side in one batch. The trees must have equal keys and equal shapes past the batch."""
    if not states:
        raise ValueError("expected at least one state to stack, got none")
    keys = states[0].keys()
    for other in states[1:]:
        if other.keys() != keys:
            raise ValueError(
                f"expected states with equal keys, got {sorted(keys)} and {sorted(other)}: "
                "stack only states made by the same model"
            )
    out: State = {}
    for key in keys:
        parts = [s[key] for s in states]
        if isinstance(parts[0], dict):
            out[key] = stack([p for p in parts if isinstance(p, dict)])
        else:
            out[key] = torch.cat([p for p in parts if isinstance(p, Tensor)])
    return out


def split(state: State, rows: int | None = None) -> list[State]:
    """The reverse of `stack`: one state of batch size 1 for each row.

    Args:
        state: the tree.
        rows: how many there are; a state that remembers nothing does not know it.

    Raises:
        ValueError: the state has no tensor, and `rows` is not given; or it has another number of them.
    """
    sizes = {t.shape[0] for _, t in leaves(state)} | ({rows} if rows is not None else set())
    if len(sizes) != 1:
        raise ValueError(
            f"expected the number of rows of a state without tensors, or of all alike, got {sorted(sizes)}"
        )
    return [map_leaves(state, lambda t, i=i: t[i : i + 1].clone()) for i in range(sizes.pop())]


def save(state: State, path: str | Path) -> None:
    """Write the tree as one flat safetensors file (no pickle)."""
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in leaves(state)}, str(path))


def load(path: str | Path, device: str | torch.device = "cpu") -> State:
    """Read a tree that `save` wrote."""
    from safetensors.torch import load_file

    return put({}, load_file(str(path), device=str(device)))


def put(state: State, held: Mapping[str, Tensor], device: str | torch.device | None = None) -> State:
    """Put leaves, under the dotted paths that `leaves` gives them, into a tree, in place; branches that lack are made.

    So what `init_state` made is brought to where a saved stream was, also where some of its branches remember nothing.
    """
    for dotted, value in held.items():
        *parents, leaf = dotted.split(".")
        node = state
        for p in parents:
            child = node.setdefault(p, {})
            assert isinstance(child, dict), dotted
            node = child
        node[leaf] = value if device is None else value.to(device)
    return state
