"""Int8 linear layers: close to the float ones, drop-in, and safe in threads."""

import threading

import pytest
import torch
from torch import Tensor, nn

from mmx.nn.quantize import Bf16Linear, Int8Linear, quantize_linears, supported

pytestmark = pytest.mark.skipif(not supported(), reason="this torch has no int8 engine for this CPU")


def linear(n_in: int = 96, n_out: int = 40, bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(n_in, n_out, bias=bias)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_error_stays_below_the_rounding_of_weights_and_inputs(bias: bool, scale: float) -> None:
    layer, x = linear(bias=bias), scale * noise(7, 96)
    with torch.no_grad():
        error = (Int8Linear(layer)(x) - layer(x)).abs()
    # Half a step of each weight (127 steps a side) times the input, and of each input (127 steps in all, one
    # for the zero point) times the weight.
    step_w = layer.weight.abs().amax(1) / 127
    step_x = (x.amax() - x.amin()) / 127
    bound = x.abs().sum(1, keepdim=True) * step_w / 2 + (layer.weight.abs().sum(1) + 96 * step_w / 2) * step_x
    assert bool((error <= bound * 1.001 + 1e-6).all())
    assert float(error.mean()) < 0.01 * scale, "and is much smaller on average"


def test_rows_of_very_different_size_keep_their_own_scale() -> None:
    layer = linear(bias=False)
    with torch.no_grad():
        layer.weight[0] *= 1e-4
        want = layer(noise(5, 96))
        got = Int8Linear(layer)(noise(5, 96))
    relative = (got - want).norm(dim=0) / want.norm(dim=0)
    assert float(relative.max()) < 0.05


def test_a_row_of_zeros_stays_zero() -> None:
    layer = linear()
    with torch.no_grad():
        layer.weight[3] = 0
    got = Int8Linear(layer)(noise(5, 96))
    assert torch.allclose(got[:, 3], layer.bias[3].detach().expand(5), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 96), (2, 5, 96), (2, 3, 4, 96), (0, 96), (2, 0, 96)])
def test_shapes_are_those_of_a_linear(shape: tuple[int, ...]) -> None:
    layer = linear()
    got = Int8Linear(layer)(noise(*shape))
    assert got.shape == layer(noise(*shape)).shape
    assert got.dtype == torch.float32


def test_strided_input_gives_the_same() -> None:
    layer, x = Int8Linear(linear()), noise(96, 6).T
    assert torch.equal(layer(x), layer(x.contiguous()))


def test_the_same_input_twice_gives_the_same() -> None:
    layer, x = Int8Linear(linear()), noise(2, 5, 96)
    assert torch.equal(layer(x), layer(x))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    layer, x = Int8Linear(linear()), noise(1, 96)
    loud = torch.cat([x, 1e3 * noise(3, 96, seed=2)])
    assert torch.equal(layer(x), layer(loud)[:1])


def test_a_constant_row_is_exact() -> None:
    layer = linear()
    x = torch.full((2, 96), 3.0)
    with torch.no_grad():
        sums = (layer.weight.abs().amax(1) / 127) * 96 * 3 / 2  # half a step of each weight
        assert bool(((Int8Linear(layer)(x) - layer(x)).abs() <= sums).all())


def test_the_trained_layer_is_left_as_it_was() -> None:
    layer = linear()
    before = layer.weight.detach().clone()
    Int8Linear(layer)(noise(2, 96))
    assert torch.equal(layer.weight, before)


def test_half_weights_are_taken() -> None:
    layer = linear()
    got = Int8Linear(linear().half())(noise(4, 96))
    with torch.no_grad():
        assert torch.allclose(got, layer(noise(4, 96)), atol=0.1)


def network() -> nn.Module:
    torch.manual_seed(0)
    inner = nn.ModuleDict({"a": nn.Linear(8, 8), "norm": nn.LayerNorm(8)})
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.ModuleList([nn.Conv1d(8, 8, 1), inner]), nn.Embedding(3, 8))


def test_every_linear_below_is_replaced_and_nothing_else() -> None:
    module = network()
    kinds = [type(m) for m in module.modules()]
    assert quantize_linears(module) is module
    after = [type(m) for m in module.modules()]
    assert after == [Int8Linear if k is nn.Linear else k for k in kinds]
    assert kinds.count(nn.Linear) == 2


def test_quantizing_twice_changes_nothing() -> None:
    module = quantize_linears(network())
    layers = list(module.modules())
    assert all(a is b for a, b in zip(quantize_linears(module).modules(), layers, strict=True))


def test_threads_share_one_layer() -> None:
    layer = Int8Linear(linear())
    inputs = [noise(3, 96, seed=k) for k in range(4)]
    wanted = [layer(x) for x in inputs]
    wrong: list[int] = []

    def work(k: int) -> None:
        if not all(torch.equal(layer(inputs[k]), wanted[k]) for _ in range(50)):
            wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_threads_quantize_at_once() -> None:
    layer = linear()
    wanted = Int8Linear(layer)(noise(3, 96))
    got: list[Tensor] = []
    threads = [threading.Thread(target=lambda: got.append(Int8Linear(layer)(noise(3, 96)))) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == 4
    assert all(torch.equal(g, wanted) for g in got)


@pytest.mark.parametrize("rows", [1, 10, 24])
def test_bfloat16_multiplies_rounded_rows_by_rounded_weights(rows: int) -> None:
    layer, x = linear(96, 40), noise(rows, 96)
    with torch.no_grad():
        want = x.bfloat16().float() @ layer.weight.bfloat16().float().T + layer.bias
    torch.testing.assert_close(Bf16Linear(layer)(x), want, atol=2e-2, rtol=1e-2)  # the result is rounded, too
