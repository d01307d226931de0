"""Int8 linear layers for the CPU: int8 weights with one scale a row, activations quantized as they come.

The matrix products run in FBGEMM (x86 with AVX2 or better), where they are about twice as fast as float32 and read a
quarter of the memory. Elsewhere `supported` is False and float32 is used.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def supported() -> bool:
    """Whether this build of torch has an int8 engine for this CPU."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


class Int8Linear(nn.Module):
    """A drop-in for a trained `nn.Linear` at inference; its weight cannot be trained or saved.

    The weight is symmetric int8 with a scale for each output row. Each input row is shifted and scaled to 7 bits of its
    own, so that a row's result never depends on the rows beside it, and a large row does not coarsen the others. Seven
    bits keep the 16-bit sums of AVX2's multiply-add from saturating.
    """

    LEVELS = 63  # on each side of the middle

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127.0
        zero = torch.zeros(len(scale), dtype=torch.int64)
        with warnings.catch_warnings():  # deprecated past torch 2.13; our dependency is capped there
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(quantized, None)
        self.sums = quantized.dequantize().sum(1)
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """`(*, in)` to `(*, out)` float32."""
        return self.of(even(x))

    def of(self, rows: "Even") -> Tensor:
        """The layer's result for rows that are made even."""
        x, middle, reach = rows
        if not x.numel():
            return x.new_zeros(*x.shape[:-1], self.out_features)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, 1 / self.LEVELS, self.LEVELS + 1, self.packed
        )
        y = (middle * self.sums).addcmul_(y, reach)
        return y if self.bias is None else y.add_(self.bias)


class Even(NamedTuple):
    """Rows shifted and scaled to [-1, 1]: `x = even * reach + middle`."""

    even: Tensor
    middle: Tensor
    reach: Tensor


def even(x: Tensor) -> Even:
    """Each row of `x` made even."""
    if not x.numel():
        return Even(x, x, x)
    low, high = x.aminmax(dim=-1, keepdim=True)
    middle, reach = (high + low) / 2, ((high - low) / 2).clamp_(min=1e-30)
    return Even((x - middle).div_(reach), middle, reach)


def side_by_side(x: Tensor, *layers: nn.Module) -> Iterator[Tensor]:
    """What each of several layers makes of the same rows, one after the other; those in int8 share the work on the
    input."""
    shared = even(x) if any(isinstance(layer, Int8Linear) for layer in layers) else None
    return (layer.of(shared) if shared and isinstance(layer, Int8Linear) else layer(x) for layer in layers)


STEP = 8
MANY = 1024  # rows beyond which the copy costs more than it is worth: whole inputs of an encoder


def filled(product: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`product` of `x` `(*, D)` with its rows filled up by zeros to a multiple of `STEP`, so that the order in which it
    sums up does not depend on how many there are."""
    rows = math.prod(x.shape[:-1])
    rest = -rows % STEP
    if not rest or rows > MANY:
        return product(x)
    return product(F.pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, rest)))[:rows].unflatten(0, x.shape[:-1])


class Bf16Linear(nn.Module):
    """A drop-in for a trained `nn.Linear` at inference that multiplies in bfloat16 and adds up in float32; its weight
    cannot be trained or saved."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.product = bf16_product(linear.weight.detach().bfloat16())
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """`(*, in)` to `(*, out)` float32."""
        y = filled(self.product, x.to(torch.bfloat16)).float()
        return y if self.bias is None else y.add_(self.bias)


def bf16_product(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The product with a bfloat16 weight `(out, in)`: of rows `(*, in)` to `(*, out)`.

    A plain product lays the weight out anew for oneDNN in each call, which takes as long as multiplying a few rows.
    Where this torch has the operators that its compiler uses, it is laid out once; the results are the same bits.
    """
    ops, few = torch.ops.mkldnn, 16  # rows that the layout is chosen for: a step's hypotheses
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()
    if not (on_cpu and hasattr(ops, "_reorder_linear_weight") and hasattr(ops, "_linear_pointwise")):
        return lambda rows: F.linear(rows, weight)
    laid_out = ops._reorder_linear_weight(weight, few)
    return lambda rows: ops._linear_pointwise(rows, laid_out, None, "none", [], "")


def quantize_linears(module: nn.Module, narrow: torch.dtype = torch.float32) -> nn.Module:
    """Replace the `nn.Linear` layers below `module`, in place, and return it.

    Layers that narrow stay as they are: they follow an activation function, whose output has rows ten times larger than
    the others, and one scale for all would coarsen the rest (in Whisper's encoder these layers alone caused three
    quarters of the squared error). With `narrow` bfloat16 they multiply in that.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            quantize_linears(child, narrow)
        elif child.in_features <= child.out_features:
            setattr(module, name, Int8Linear(child))
        elif narrow == torch.bfloat16:
            setattr(module, name, Bf16Linear(child))
    return module
