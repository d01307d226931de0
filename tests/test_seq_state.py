"""`Seq` and `State`: what travels between blocks, and what they remember."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmx import state as states
from mmx.seq import Seq, pad
from mmx.state import State, leaves


def ramp(*shape: int) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.float32).reshape(shape)


# -------------------- Seq


def test_mask_is_true_on_valid_frames() -> None:
    seq = Seq(torch.zeros(3, 4, 2), torch.tensor([0, 2, 4]))
    assert seq.mask.tolist() == [[False] * 4, [True, True, False, False], [True] * 4]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_masked_replaces_whatever_stands_in_the_padding(shape: tuple[int, ...], bad: float) -> None:
    x = ramp(*shape) + 1
    clean = x.clone()
    clean[0, 1:] = 0
    x[0, 1:] = bad
    got = Seq(x, torch.tensor([1, 3])).masked
    assert torch.equal(got, clean)
    assert not x[0, 1:].isfinite().any(), "the input is not written to"


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.bfloat16])
def test_masked_keeps_the_dtype(dtype: torch.dtype) -> None:
    got = Seq(torch.ones(2, 3, dtype=dtype), torch.tensor([1, 2])).masked
    assert got.dtype == dtype
    assert got.tolist() == [[1, 0, 0], [1, 1, 0]]


def test_masked_lets_no_gradient_into_the_padding() -> None:
    x = torch.full((2, 3), math.nan)
    x[0, 0] = x[1, :2] = 2.0
    x.requires_grad_()
    Seq(x, torch.tensor([1, 2])).masked.square().sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[4, 0, 0], [4, 4, 0]]


def test_durations_are_lengths_over_rate() -> None:
    seq = Seq(torch.zeros(2, 480_001), torch.tensor([480_001, 8_000]), 16_000.0)
    assert seq.durations_s.tolist() == [480_001 / 16_000, 0.5]


def test_durations_need_a_rate() -> None:
    with pytest.raises(ValueError, match="rate=None"):
        _ = Seq(torch.zeros(1, 2), torch.tensor([2])).durations_s


def test_pad_stacks_rows_of_any_length() -> None:
    items = [ramp(3, 2) + 1, torch.zeros(0, 2), ramp(1, 2) + 5]
    seq = pad(items, rate=50.0, final=False)
    assert seq.x.shape == (3, 3, 2)
    assert seq.lengths.tolist() == [3, 0, 1]
    assert seq.lengths.dtype == torch.int64
    assert (seq.rate, seq.final) == (50.0, False)
    for row, item in zip(seq.x, items, strict=True):
        assert torch.equal(row[: len(item)], item)
        assert not row[len(item) :].any()


def test_pad_keeps_the_dtype_and_copies() -> None:
    item = torch.tensor([1, 2])
    seq = pad([item])
    item[0] = 9
    assert seq.x.tolist() == [[1, 2]]
    assert seq.x.dtype == torch.int64


def test_pad_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one sequence"):
        pad([])


def test_rows_selects_repeats_and_reorders() -> None:
    seq = Seq(ramp(3, 2), torch.tensor([0, 1, 2]), 10.0, final=False)
    got = seq.rows(torch.tensor([2, 0, 2]))
    assert got.x.tolist() == [[4, 5], [0, 1], [4, 5]]
    assert got.lengths.tolist() == [2, 0, 2]
    assert (got.rate, got.final) == (10.0, False)


def test_to_casts_x_and_leaves_lengths_whole() -> None:
    got = Seq(torch.ones(2, 3), torch.tensor([1, 3]), 10.0, final=False).to(torch.float16)
    assert got.x.dtype == torch.float16
    assert got.lengths.dtype == torch.int64
    assert (got.rate, got.final) == (10.0, False)


# -------------------- State


def tree(batch: int = 2, seed: int = 0) -> State:
    random = torch.Generator().manual_seed(seed)
    return {
        "h": torch.randn(batch, 3, generator=random),
        "inner": {
            "position": torch.randint(0, 9, (batch,), generator=random),
            "deep": {"k": torch.randn(batch, 2, 4, generator=random).half()},
        },
        "empty": {},
    }


def assert_same(a: State, b: State) -> None:
    pairs = list(zip(leaves(a), leaves(b), strict=True))
    assert pairs
    for (name_a, leaf_a), (name_b, leaf_b) in pairs:
        assert name_a == name_b
        assert leaf_a.dtype == leaf_b.dtype
        assert torch.equal(leaf_a, leaf_b), name_a


def test_leaves_walks_in_a_fixed_order() -> None:
    assert [name for name, _ in leaves(tree())] == ["h", "inner.deep.k", "inner.position"]


def test_tensor_and_subtree_refuse_the_other_kind() -> None:
    state = tree()
    assert states.tensor(state, "h").shape == (2, 3)
    assert "deep" in states.subtree(state, "inner")
    with pytest.raises(AssertionError):
        states.tensor(state, "inner")
    with pytest.raises(AssertionError):
        states.subtree(state, "h")


def test_a_fork_is_independent_both_ways() -> None:
    state, twin = tree(), tree()
    forked = states.fork(state)
    for _, leaf in leaves(forked):
        leaf.zero_()
    states.subtree(forked, "inner")["new"] = torch.zeros(2)
    assert_same(state, twin)
    forked = states.fork(state)
    for _, leaf in leaves(state):
        leaf.zero_()
    assert_same(forked, twin)


def test_select_copies_rows() -> None:
    state = tree(3)
    got = states.select(state, torch.tensor([2, 0, 2, 2]))
    for (_, was), (_, now) in zip(leaves(state), leaves(got), strict=True):
        assert torch.equal(now, was[[2, 0, 2, 2]])
    for _, leaf in leaves(got):
        leaf.zero_()
    assert_same(state, tree(3))


def test_split_undoes_stack() -> None:
    parts = [tree(1, seed) for seed in range(3)]
    whole = states.stack(parts)
    assert states.tensor(whole, "h").shape == (3, 3)
    again = states.split(whole)
    assert len(again) == 3
    for part, back in zip(parts, again, strict=True):
        assert_same(part, back)


def test_stack_undoes_split() -> None:
    assert_same(states.stack(states.split(tree(4))), tree(4))


def test_stack_joins_batches_of_several_rows() -> None:
    whole = states.stack([tree(2, 0), tree(3, 1)])
    assert_same(states.select(whole, torch.tensor([2, 3, 4])), tree(3, 1))


def test_split_gives_copies() -> None:
    state = tree(2)
    for part in states.split(state):
        for _, leaf in leaves(part):
            leaf.zero_()
    assert_same(state, tree(2))


def test_stack_refuses_what_does_not_belong_together() -> None:
    with pytest.raises(ValueError, match="at least one state"):
        states.stack([])
    with pytest.raises(ValueError, match=r"equal keys.*other"):
        states.stack([tree(), {**tree(), "other": torch.zeros(2)}])
    with pytest.raises(ValueError, match="equal keys"):
        states.stack([tree(), {**tree(), "inner": {}}])


def test_save_and_load_give_the_same_tree(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    states.save(tree(), path)
    got = states.load(path)
    assert_same(got, tree())
    assert isinstance(got["inner"], dict)
    assert isinstance(got["inner"]["deep"], dict)


def test_save_takes_views_and_shared_leaves(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    base = ramp(2, 4)
    state: State = {"a": base[:, ::2], "b": base, "c": base.T.contiguous().T, "d": base[:, :2]}
    states.save(state, path)
    assert_same(states.load(path), state)


# -------------------- reorder


def test_reorder_moves_hypotheses_within_their_row() -> None:
    state: State = {"score": torch.tensor([[1, 2, 3], [4, 5, 6]]), "deep": {"h": ramp(2, 3, 2)}}
    index = torch.tensor([[2, 2, 0], [1, 0, 1]])
    got = states.reorder(state, index)
    assert states.tensor(got, "score").tolist() == [[3, 3, 1], [5, 4, 5]]
    h = states.tensor(states.subtree(got, "deep"), "h")
    for b in range(2):
        for k in range(3):
            assert torch.equal(h[b, k], ramp(2, 3, 2)[b, index[b, k]])
    assert states.tensor(state, "score").tolist() == [[1, 2, 3], [4, 5, 6]], "the old tree is not changed"


def test_reorder_may_keep_fewer_hypotheses() -> None:
    got = states.reorder({"h": ramp(2, 3)}, torch.tensor([[1], [2]]))
    assert states.tensor(got, "h").tolist() == [[1], [5]]


def test_reorder_leaves_the_memory_shared() -> None:
    memory: State = {"k": torch.zeros(2, 5)}
    state: State = {"memory": memory, "h": ramp(2, 3), "inner": {"memory": memory, "g": ramp(2, 3)}}
    got = states.reorder(state, torch.zeros(2, 3, dtype=torch.int64))
    assert got["memory"] is memory
    assert states.subtree(got, "inner")["memory"] is memory
    assert states.tensor(states.subtree(got, "inner"), "g").tolist() == [[0, 0, 0], [3, 3, 3]]


def test_reorder_repoints_a_cache_and_moves_none_of_it() -> None:
    keys = ramp(2, 4, 3, 2)
    ancestors = torch.tensor([[[0, 1], [1, 1], [2, 0]], [[0, 0], [1, 1], [2, 2]]])
    cache: State = {"ancestors": ancestors, "length": torch.tensor([2, 2]), "layers": {"0": {"k": keys}}}
    index = torch.tensor([[2, 2, 1], [0, 1, 0]])
    got = states.subtree(states.reorder({"self": cache}, index), "self")
    assert states.tensor(got, "ancestors").tolist() == [
        [[2, 0], [2, 0], [1, 1]],
        [[0, 0], [1, 1], [0, 0]],
    ]
    assert states.tensor(states.subtree(states.subtree(got, "layers"), "0"), "k") is keys
    assert states.tensor(got, "length").tolist() == [2, 2]
    assert torch.equal(states.tensor(cache, "ancestors"), ancestors), "the old tree is not changed"


def test_a_state_that_remembers_nothing_is_split_by_the_number_of_rows() -> None:
    assert states.split({}, 3) == [{}, {}, {}]
    assert states.split({"layer": {}}, 2) == [{"layer": {}}] * 2
    assert len(states.split(tree(2), 2)) == 2
    for state, rows in (({}, None), (tree(2), 3)):
        with pytest.raises(ValueError, match="number of rows"):
            states.split(state, rows)
