"""Int8 linear layers for the CPU: int8 weights with one scale a row, activations quantized as they come.

The matrix products run in FBGEMM (x86 with AVX2 or better), where they are about twice as fast as float32 and read a
quarter of the memory. Elsewhere `supported` is False and float32 is used.
"""

import warnings

import torch
from torch import Tensor, nn


def supported() -> bool:
    """Whether this build of torch has an int8 engine for this CPU."""
    return torch.backends.quantized.engine in ("x86", "fbgemm")


OUTLIERS = 16
"""One row in so many is quantized with the largest ones, apart from the rest."""


class Int8Linear(nn.Module):
    """A drop-in for a trained `nn.Linear` at inference; its weight cannot be trained or saved.

    The weight is symmetric int8 per output row. Activations are quantized per call to 7 bits, which keeps the 16-bit
    sums of AVX2's multiply-add from saturating. A few rows of a Transformer's activations are ten times larger than
    the others and would coarsen them all, so in large inputs the largest rows are multiplied apart.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-8) / 127.0
        zero = torch.zeros(len(scale), dtype=torch.int64)
        with warnings.catch_warnings():  # deprecated past torch 2.13; our dependency is capped there
            warnings.simplefilter("ignore", UserWarning)
            quantized = torch.quantize_per_channel(weight, scale.double(), zero, 0, torch.qint8)
        bias = None if linear.bias is None else linear.bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features)
        if len(rows) < 4 * OUTLIERS:
            if x.dim() == 3 and x.shape[1] > 1:  # a prompt, whose first position is the large one
                return torch.cat([self(position) for position in x.split(1, dim=1)], dim=1)
            return torch.ops.quantized.linear_dynamic(x, self.packed, True)
        low, high = torch.aminmax(rows, dim=1)
        large = torch.maximum(high, -low).topk(len(rows) // OUTLIERS).indices
        rest = rows.index_fill(0, large, 0.0)
        out = torch.ops.quantized.linear_dynamic(rest, self.packed, True)
        out[large] = torch.ops.quantized.linear_dynamic(rows[large], self.packed, True)
        return out.view(*x.shape[:-1], self.out_features)


def quantize_linears(module: nn.Module) -> nn.Module:
    """Replace every `nn.Linear` below `module`, in place, and return it."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantize_linears(child)
    return module
