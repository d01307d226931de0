"""Adapters keep the contract of blocks, and CIF its own laws.

Letters: B rows, T frames, D width, K fired vectors.
"""

from collections.abc import Callable, Sequence

import pytest
import torch
from contract import verify_contract
from torch import Tensor, nn

from mmx.errors import InputError
from mmx.model import Model
from mmx.nn import adapters
from mmx.nn.adapters import CIF, Chain, Conv, Linear, QFormer, integrate, scaled_weights, teach
from mmx.seq import Seq
from mmx.state import tensor
from mmx.train.batch import IGNORED, Batch
from mmx.train.objectives.token import token_losses

IN, OUT = 6, 8


def features(lengths: Sequence[int], seed: int) -> Seq:
    random = torch.Generator().manual_seed(seed)
    return Seq(torch.randn(len(lengths), max(lengths), IN, generator=random), torch.tensor(lengths), 50.0)


def made(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """An adapter whose parameters are all of some size, so that none hides a mistake."""
    torch.manual_seed(seed)
    block = make().eval()
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.2 * torch.randn(p.shape))
    return block


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: Linear(IN, OUT, stride=3),
    "linear of single frames": lambda: Linear(IN, OUT, stride=1),
    "conv": lambda: Conv(IN, OUT),
    "conv without overlap": lambda: Conv(IN, OUT, layers=1, kernel=3, stride=3),
    "qformer by windows": lambda: QFormer(IN, OUT, queries=2, window=4, heads=2),
    "qformer by windows that do not divide": lambda: QFormer(IN, OUT, queries=3, window=4, heads=2),
    "qformer of the whole": lambda: QFormer(IN, OUT, queries=3, window=0, heads=2),
    "cif": lambda: CIF(IN, OUT, weight=0.3),
    "cif of single frames": lambda: CIF(IN, OUT, kernel=1, weight=0.6),
    "chain": lambda: Chain(Linear(IN, OUT, 2), Conv(OUT, OUT, layers=1)),
    "chain to cif": lambda: Chain(Linear(IN, OUT, 2), CIF(OUT, OUT, weight=0.5)),
}


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_adapters_keep_the_contract(make: Callable[[], nn.Module]) -> None:
    verify_contract(made(make), features, lengths=(37, 16, 9, 2))


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_every_parameter_learns(make: Callable[[], nn.Module]) -> None:
    block = made(make)
    teach(block, features([30, 17], 0), torch.tensor([7, 4])).masked.square().sum().backward()
    assert not [name for name, p in block.named_parameters() if p.grad is None or not p.grad.abs().sum()]


@pytest.mark.parametrize("make", BLOCKS.values(), ids=BLOCKS)
def test_a_row_without_frames_has_no_memory(make: Callable[[], nn.Module]) -> None:
    seq = features([12, 5], 0)._replace(lengths=torch.tensor([12, 0]))
    with torch.no_grad():
        out = made(make)(seq)
        assert out.lengths[1] == 0 < out.lengths[0]
        assert made(make)(seq._replace(x=seq.x[:, :0], lengths=torch.tensor([0, 0]))).lengths.tolist() == [0, 0]


@pytest.mark.parametrize(("make", "lengths"), [
    (BLOCKS["linear"], [4, 4, 3, 1]), (BLOCKS["conv"], [3, 3, 3, 1]),
    (BLOCKS["qformer by windows"], [6, 6, 6, 2]), (BLOCKS["qformer of the whole"], [3, 3, 3, 3]),
])  # fmt: skip
def test_lengths_count_a_last_frame_that_is_not_full(make: Callable[[], nn.Module], lengths: list[int]) -> None:
    assert made(make)(features([12, 11, 9, 1], 0)).lengths.tolist() == lengths


def test_linear_is_a_projection_of_the_frames_side_by_side() -> None:
    block, seq = made(lambda: Linear(IN, OUT, stride=2)), features([5], 0)
    assert isinstance(block, Linear)
    x_TD = torch.cat([block.ln(seq.x[0]), torch.zeros(1, IN)])
    want = torch.stack([block.project(torch.cat([x_TD[2 * m], x_TD[2 * m + 1]])) for m in range(3)])
    torch.testing.assert_close(block(seq).x[0], want, rtol=0, atol=1e-6)


def test_a_window_of_the_qformer_reads_its_own_frames_only() -> None:
    block, seq = made(lambda: QFormer(IN, OUT, queries=2, window=4, heads=2)), features([12], 0)
    other = seq._replace(x=torch.cat([seq.x[:, :4], features([4], 9).x, seq.x[:, 8:]], dim=1))
    changed = (block(seq).x - block(other).x).abs().amax(-1)[0] > 1e-6
    assert changed.tolist() == [False, False, True, True, False, False]


def test_a_qformer_does_not_stream() -> None:
    with pytest.raises(InputError, match="final=False"):
        made(BLOCKS["qformer by windows"])(features([8], 0)._replace(final=False))


# -------------------- CIF


def by_the_frame(x_TD: Tensor, alpha_T: Tensor, final: bool = True) -> list[Tensor]:
    """Integrate-and-fire as it is defined, one frame after the other (weights of at most 1)."""
    fired, level, held = [], 0.0, torch.zeros(x_TD.shape[1])
    for x, alpha in zip(x_TD, alpha_T.tolist(), strict=True):
        if level + alpha < 1:
            level, held = level + alpha, held + alpha * x
        else:
            used = 1 - level
            fired.append(held + used * x)
            level, held = alpha - used, (alpha - used) * x
    return [*fired, held] if final and level > 0.5 else fired


def weights(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("final", [True, False])
def test_integration_without_a_loop_is_integration_by_the_frame(seed: int, final: bool) -> None:
    x_BTD, alpha_BT = features([40, 40, 40], seed).x, weights((3, 40), seed)
    got = integrate(x_BTD, alpha_BT, torch.zeros(3).double(), torch.zeros(3, IN), final)
    for b in range(3):
        want = by_the_frame(x_BTD[b], alpha_BT[b], final)
        assert int(got.lengths[b]) == len(want)
        torch.testing.assert_close(got.x[b, : len(want)], torch.stack(want), rtol=0, atol=1e-5)


def test_no_weight_is_lost() -> None:
    """Of frames that are all one, a vector is the weight that it took: 1, and what is left for the next frames."""
    alpha_BT = weights((4, 30), 1)
    got = integrate(torch.ones(4, 30, 1), alpha_BT, torch.zeros(4).double(), torch.zeros(4, 1), final=False)
    for b in range(4):
        torch.testing.assert_close(
            got.x[b, : int(got.lengths[b]), 0], torch.ones(int(got.lengths[b])), rtol=0, atol=1e-5
        )
    torch.testing.assert_close(got.lengths + got.level, alpha_BT.double().sum(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.held[:, 0].double(), got.level, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("total", "count"), [(0.4, 0), (0.6, 1), (2.45, 2), (2.55, 3), (3.0, 3)])
def test_a_remainder_above_a_half_is_fired_at_the_end(total: float, count: int) -> None:
    alpha_BT = torch.full((1, 10), total / 10)
    none = torch.zeros(1).double(), torch.zeros(1, 1)
    got = integrate(torch.ones(1, 10, 1), alpha_BT, *none, final=True)
    assert int(got.lengths) == count
    assert int(integrate(torch.ones(1, 10, 1), alpha_BT, *none, final=False).lengths) == int(total + 1e-6)


def test_in_training_there_are_as_many_vectors_as_tokens() -> None:
    block = made(BLOCKS["cif"])
    targets = torch.tensor([1, 2, 9, 30])
    out = teach(block, features([30, 9, 11, 20], 0), targets)
    assert out.lengths.tolist() == targets.tolist()
    assert out.x.shape == (4, 30, OUT)
    scaled = scaled_weights(weights((4, 30), 0), targets)
    torch.testing.assert_close(scaled.sum(1), targets.float())


def test_the_quantity_loss_is_its_formula() -> None:
    block = CIF(IN, OUT, weight=0.25)
    nn.init.zeros_(block.weigh.weight)
    for part in (block, Chain(Linear(IN, IN, 1), block)):
        got = part.loss(features([20, 8], 0), torch.tensor([5, 4])).tolist()
        assert got == pytest.approx([0.0, 2.0], abs=1e-5)
    assert adapters.has_loss(Chain(Linear(IN, IN, 1), block))
    assert not adapters.has_loss(Chain(block, Linear(IN, IN, 1)))


def test_the_gradient_is_finite_where_there_is_hardly_any_weight() -> None:
    block, seq, targets = CIF(IN, OUT), features([12, 7], 0), torch.tensor([3, 2])
    nn.init.constant_(block.weigh.bias, -60.0)
    (block.teach(seq, targets).masked.sum() + block.loss(seq, targets).sum()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in block.parameters())


def test_a_stream_fires_as_soon_as_the_weight_is_there() -> None:
    """Nothing waits for the end: after each frame as many vectors have come as the weights so far allow."""
    block, seq = made(BLOCKS["cif"]), features([40], 3)
    assert isinstance(block, CIF)
    state, came, want = block.init_state(1), [], []
    with torch.no_grad():
        level = 0.0
        for t in range(40):
            before = float(tensor(state, "level"))
            out = block(Seq(seq.x[:, t : t + 1], torch.tensor([1]), 50.0, final=False), state)
            came.append(int(out.lengths))
            level = float(tensor(state, "level"))
            want.append(int(level < before))
    assert came == want
    assert 2 < sum(came) < 40


# -------------------- by name


def test_build_knows_every_kind() -> None:
    numbers = {"qformer": {"heads": 2}}
    for kind in adapters.KINDS:
        block = adapters.build(kind, numbers.get(kind, {}), IN, OUT)
        assert block(features([20, 9], 0)).x.shape[-1] == OUT


@pytest.mark.parametrize(("kind", "numbers", "words"), [
    ("convv", {}, "Did you mean 'conv'"), ("conv", {"kernels": 3}, "Did you mean 'kernel'"),
    ("linear", {"stride": 0}, "the adapter linear: .*stride >= 1"), ("conv", {"kernel": 1}, "at least the stride"),
    ("qformer", {"heads": 3}, "3 heads"), ("cif", {"weight": 1.0}, "between 0 and 1"),
])  # fmt: skip
def test_what_cannot_be_built_is_said(kind: str, numbers: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        adapters.build(kind, numbers, IN, OUT)


class Reader(nn.Module):
    """A decoder that remembers how long the memories were which it was taught with."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.dtype = nn.Linear(8, 11), torch.float32
        self.seen: list[list[int]] = []

    def hidden(self, tokens: Tensor, memory: Seq) -> Tensor:
        self.seen.append(memory.lengths.tolist())
        return memory.x.mean(1, keepdim=True).expand(-1, tokens.shape[1], -1)


def test_cif_knows_text_lengths_in_training_only() -> None:
    torch.manual_seed(0)
    reader = Reader()
    cif = CIF(6, 8, weight=0.05)
    model = Model(front={}, encoders={"speech": nn.Identity()}, adapters={"speech": cif}, decoder=reader)
    targets = torch.tensor([[1, 2, 3, 4, 5], [1, 2, IGNORED, IGNORED, IGNORED]])
    batch = Batch({"speech": Seq(torch.randn(2, 20, 6), torch.tensor([20, 12]), 50.0)}, targets.clamp(min=0), targets,
                  ("transcribe", "transcribe"))  # fmt: skip
    losses = token_losses(model.train(), batch)
    assert losses.adapters is not None and losses.adapters > 0
    token_losses(model.eval(), batch)
    taught, free = reader.seen
    assert taught == [5, 2]
    assert free != taught, "at a mean weight of 0.05, 20 frames are a vector or two"
