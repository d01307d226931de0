"""Training by several processes, one a device, on one machine or several: `torchrun --nproc-per-node 2 -m mmx.train`.

Each process keeps a part of every weight and of its optimizer's moments, and gathers a layer's whole weights while that
layer computes (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054; here by torch's `fully_shard`). The batches of an
update are dealt out among the processes, and what comes of them is added up: the result is that of one process with
the same recipe, to rounding. Checkpoints hold whole tensors, so that any number of processes can go on from them.

Files named in the recipe must be seen by all machines under the same paths.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mmx.errors import InputError
from mmx.model import tensors

T = TypeVar("T")
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class World:
    """The processes of a training. One alone is a world as well, in which nothing is sent.

    Attributes:
        device: that this process computes on.
        rank: number of this process; 0 is the one that writes files.
        size: how many there are.
    """

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def check(self, accumulate: int) -> None:
        """Raise `InputError` where the batches of an update cannot be dealt out evenly."""
        if accumulate % self.size:
            more = math.ceil(accumulate / self.size) * self.size
            raise InputError(
                f"expected accumulate to be a multiple of the {self.size} processes that share an update's batches, "
                f"got {accumulate}: take accumulate={more}, or as many processes as divide {accumulate}"
            )

    def share(self, items: Sequence[T]) -> tuple[list[T], bool]:
        """This process's part of the items, and whether others have one more, for which it has to wait."""
        mine = list(items[self.rank :: self.size])
        return mine, len(mine) < math.ceil(len(items) / self.size)

    def place(self, turn: int) -> int:
        """Where among all items the one is that `share` gave as number `turn`."""
        return self.rank + turn * self.size

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def rank_zero_first(self) -> Iterator[None]:
        """The first process does this before the others, which then find the files it wrote."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def total(self, counts: Mapping[str, N]) -> dict[str, N]:
        """Sums over the processes, by name; each may have names that others have not."""
        if self.size == 1:
            return dict(counts)
        found: list[Mapping[str, N]] = [{}] * self.size
        dist.all_gather_object(found, dict(counts))
        out: dict[str, N] = {}
        for part in found:
            for name, n in part.items():
                out[name] = out[name] + n if name in out else n
        return out


@contextmanager
def join(device: torch.device) -> Iterator[World]:
    """Take the place among the processes that torchrun gives this one in its environment; alone without torchrun.

    Args:
        device: "cuda" stands for the GPU of this process's number on its machine.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(device, dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def is_first_to_report(message: str) -> bool:
    """Whether this process is to say a message that others may have too: the first that asks is.

    With torchrun, whose store outlives the processes' own connection; without it there is one process, which says all.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    try:
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=10))
        return store.add(f"mmx/said/{hashlib.sha256(message.encode()).hexdigest()}", 1) == 1
    except (KeyError, ValueError, RuntimeError):
        return os.environ.get("RANK", "0") == "0"


def shard(root: nn.Module, world: World, bf16: bool = False, whole: Iterable[nn.Parameter] = ()) -> None:
    """Leave this process its part of every parameter, in place; each block of a stack is gathered by itself.

    Whatever is computed with them must be within `root.forward`, or the weights are not there. Gradients are added up
    over the processes.

    Args:
        root: its parameters are on the world's device.
        world: nothing is done where it is one process.
        bf16: gather weights in bfloat16 where the device is a GPU; the parts, the sums of gradients and the optimizer
            stay float32.
        whole: parameters of which every process keeps all, so that they can be used outside of `root.forward`: frozen
            ones.
    """
    if world.size == 1:
        return
    with torch.no_grad():
        for t in tensors(root).values():
            dist.broadcast(t, 0)  # the same random numbers may give others on another machine
    mesh = dist.init_device_mesh(world.device.type, (world.size,))
    low = bf16 and world.device.type == "cuda"
    # Inputs are left to autocast: a waveform would lose its quiet parts in bfloat16.
    policy = MixedPrecisionPolicy(*((torch.bfloat16, torch.float32) if low else ()), cast_forward_inputs=False)
    kept = set(whole)
    stacks = [m for m in root.modules() if isinstance(m, nn.ModuleList)]
    for block in (b for stack in reversed(stacks) for b in stack):  # inner ones first
        if kept.issuperset(block.parameters()):
            continue
        _add_up(fully_shard(block, mesh=mesh, mp_policy=policy, ignored_params=kept))
    _add_up(fully_shard(root, mesh=mesh, mp_policy=policy, ignored_params=kept))


def _add_up(module: FSDPModule) -> None:
    """Gradients are sums: the default, their mean, is not among gloo's operations."""
    module.set_gradient_divide_factor(1.0)
    if hasattr(module, "set_force_sum_reduction_for_comms"):  # else torch 2.8's NCCL multiplies by 1 on the way
        module.set_force_sum_reduction_for_comms(True)


@torch.no_grad()
def agree(statistics: Iterable[Tensor]) -> None:
    """Give all processes the mean of what each has found in its batches (batch norm's statistics), in place; counters
    are the same in all of them."""
    for t in statistics:
        if t.is_floating_point():
            dist.all_reduce(t)
            t /= dist.get_world_size()


def reshard(root: nn.Module) -> None:
    """Leave only the parts after forward passes without a backward one, which would have seen to it."""
    if isinstance(root, FSDPModule):
        root.reshard()  # of its blocks, each did it after its forward


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor of which each process has a part, whole on the CPU; others as they are. All processes must call it."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def shard_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor that every process has, where `like` is in parts; else the tensor."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
