"""The contract of blocks, and the contract itself: each planted bug is caught by the check named for it."""

import contextlib
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from contract import N_THREADS, ContractError, rows_of, verify_contract
from torch import Tensor, nn

from mmx.interfaces import Block
from mmx.media.silero_vad import FRAME, SileroVad
from mmx.models.whisper import Encoder, LogMel
from mmx.seq import Seq
from mmx.state import State, tensor

FEATURES = 3


def features(lengths: Sequence[int], seed: int) -> Seq:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), FEATURES, generator=random)
    return Seq(x, torch.tensor(lengths), 100.0)


def waveforms(lengths: Sequence[int], seed: int) -> Seq:
    random = torch.Generator().manual_seed(seed)
    x = 0.1 * torch.randn(len(lengths), max(lengths), generator=random)
    return Seq(x, torch.tensor(lengths), 16_000.0)


# -------------------- two sound blocks


class Conv(nn.Module):
    """A strided convolution: frame t sees `kernel` input frames, the last of them `lookahead` after its own.

    State: `tail` the last inputs, right-aligned; inputs `seen` and outputs `made` so far.
    """

    def __init__(self, stride: int = 1, kernel: int = 4, lookahead: int = 0):
        super().__init__()
        self.stride, self.lookahead, self.kernel = stride, lookahead, kernel
        self.width = kernel + stride + lookahead
        self.project = nn.Linear(kernel * FEATURES, 5)

    def init_state(self, batch: int, capacity: int) -> State:
        none = torch.zeros(batch, dtype=torch.int64)
        return {"tail": torch.zeros(batch, self.width, FEATURES), "seen": none, "made": none.clone()}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        state = self.init_state(len(seq.x), 0) if state is None else state
        seen, made = tensor(state, "seen"), tensor(state, "made")
        total = seen + seq.lengths
        ready = torch.maximum(made, self.ready(total, seq.final))
        source = torch.cat([tensor(state, "tail"), self.clean(seq)], dim=1)
        t = made[:, None] + torch.arange(max(0, int((ready - made).max())))
        last = self.last_seen(t)
        windows = last[..., None] + torch.arange(1 - self.kernel, 1)
        x = self.take(source, windows.flatten(1), seen, total).unflatten(1, windows.shape[1:])
        tail_at = total[:, None] + torch.arange(-self.tail_width, 0)
        state["tail"] = nn.functional.pad(
            self.take(source, tail_at, seen, total), (0, 0, self.width - self.tail_width, 0)
        )
        state["seen"], state["made"] = total, ready
        rate = None if seq.rate is None else seq.rate / self.stride
        return Seq(self.project(x.flatten(2)), ready - made, rate, seq.final)

    def clean(self, seq: Seq) -> Tensor:
        return seq.masked

    @property
    def tail_width(self) -> int:
        return self.width

    def ready(self, total: Tensor, final: bool) -> Tensor:
        return -(-total // self.stride) if final else (total - self.lookahead) // self.stride

    def last_seen(self, t: Tensor) -> Tensor:
        return (t + 1) * self.stride - 1 + self.lookahead

    def take(self, source: Tensor, at: Tensor, seen: Tensor, total: Tensor) -> Tensor:
        """Inputs at absolute positions, zero before the start and past the end."""
        index = (self.width + at - seen[:, None]).clamp(0, source.shape[1] - 1)
        x = source.gather(1, index[..., None].expand(-1, -1, FEATURES))
        return torch.where(((at >= 0) & (at < total[:, None]))[..., None], x, torch.zeros(()))


class Attend(nn.Module):
    """Attention of each frame to itself and the `window - 1` frames before it."""

    stride, lookahead = 1, 0

    def __init__(self, window: int = 4):
        super().__init__()
        self.window = window
        self.query, self.key, self.value = (nn.Linear(FEATURES, 6) for _ in range(3))

    def init_state(self, batch: int, capacity: int) -> State:
        past = torch.zeros(batch, self.window - 1, FEATURES)
        return {"inner": {"past": past, "seen": torch.zeros(batch, dtype=torch.int64)}}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        state = self.init_state(len(seq.x), 0) if state is None else state
        inner = state["inner"]
        assert isinstance(inner, dict)
        seen = self.position(tensor(inner, "seen"))
        x = self.clean(seq)
        source = torch.cat([tensor(inner, "past"), x], dim=1)
        frames = torch.arange(x.shape[1])
        at = frames[:, None] + torch.arange(self.window)
        k, v = self.key(source)[:, at], self.value(source)[:, at]
        position = seen[:, None, None] + at - (self.window - 1)
        scores = (self.query(x)[:, :, None] * k).sum(-1).masked_fill(position < 0, -math.inf)
        out = (scores.softmax(-1)[..., None] * v).sum(2)
        keep = seq.lengths[:, None] + torch.arange(self.window - 1)
        inner["past"] = source.gather(1, keep[..., None].expand(-1, -1, FEATURES))
        inner["seen"] = seen + seq.lengths
        return Seq(out, seq.lengths, seq.rate, seq.final)

    def clean(self, seq: Seq) -> Tensor:
        return seq.masked

    def position(self, seen: Tensor) -> Tensor:
        return seen


def build(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


SOUND = {
    "conv": Conv,
    "conv by 2": lambda: Conv(stride=2),
    "conv by 3 with look-ahead 2": lambda: Conv(stride=3, lookahead=2),
    "attention": Attend,
}


@pytest.mark.parametrize("make", SOUND.values(), ids=SOUND)
def test_sound_blocks_keep_the_contract(make: Callable[[], nn.Module]) -> None:
    block = build(make)
    assert isinstance(block, Block)
    verify_contract(block, features)


def test_silero_vad_keeps_the_contract() -> None:
    # Random weights, scaled so that the LSTM forgets: no speech detector, but a livelier one to compare.
    block = build(lambda: SileroVad(chunk_frames=2))
    assert isinstance(block, SileroVad)
    with torch.no_grad():
        block.stft.weight.mul_(4)
    verify_contract(block, waveforms, lengths=(4 * FRAME + 301, 2 * FRAME, FRAME + 1, 200))


def test_log_mel_keeps_the_contract_in_windows_of_one_length() -> None:
    """Its last frames see the end of the window, so the window's length is part of its input."""
    window = 4800

    def windows(lengths: Sequence[int], seed: int) -> Seq:
        seq = waveforms([window, *lengths], seed)
        return seq.rows(torch.arange(1, len(lengths) + 1))

    verify_contract(LogMel(8), windows, lengths=(4800, 3333, 1600, 159), fixed_length=True)


def test_encoder_keeps_the_contract_on_full_windows() -> None:
    """It attends to the whole window by design, so rows are full."""

    def mels(lengths: Sequence[int], seed: int) -> Seq:
        random = torch.Generator().manual_seed(seed)
        return Seq(torch.randn(len(lengths), max(lengths), 8, generator=random), torch.tensor(lengths), 100.0)

    encoder = build(lambda: Encoder(8, 20, 16, 2, 2))
    verify_contract(encoder, mels, lengths=(40, 40, 40), fixed_length=True, tolerance=5e-6)


# -------------------- planted bugs


class ShortContext(Conv):
    """Keeps one frame too few between chunks."""

    @property
    def tail_width(self) -> int:
        return self.kernel - 2


class KeptOnSelf(Conv):
    """Counts calls on the module."""

    calls = 0

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        self.calls += 1
        return super().forward(seq, state)


class KeptInList(Conv):
    """Collects on the module, in a list that stays the same object."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[int] = []

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        self.heard.append(len(seq.x))
        return super().forward(seq, state)


class ReadsPadding(Conv):
    """Takes the mean of all frames, the padding's too."""

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        out = super().forward(seq, state)
        return out._replace(x=out.x - 0.1 * seq.x.mean())


class MasksByProduct(Attend):
    """NaN times 0 is NaN."""

    def clean(self, seq: Seq) -> Tensor:
        return seq.x * seq.mask[..., None]

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        out = super().forward(seq, state)
        return out._replace(x=out.x + 0 * self.clean(seq).sum(1, keepdim=True)[..., :1])


class MasksTooLate(Attend):
    """The padding is selected away after a function that has no gradient there."""

    def clean(self, seq: Seq) -> Tensor:
        return torch.where(seq.mask[..., None], seq.x.abs().sqrt() * seq.x.sign(), torch.zeros(()))


class CutsPartialStride(Conv):
    """Makes only whole frames at the end, as many as the chunk itself holds."""

    def __init__(self) -> None:
        super().__init__(stride=3)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        out = super().forward(seq, state)
        return out._replace(lengths=seq.lengths // self.stride)


class SeesAhead(Conv):
    """Looks two frames ahead and declares one."""

    def __init__(self) -> None:
        super().__init__(lookahead=1)
        self.width += 1

    def ready(self, total: Tensor, final: bool) -> Tensor:
        return total if final else total - 2

    def last_seen(self, t: Tensor) -> Tensor:
        return t + 2


class NormalizesOffline(Conv):
    """Scales by the loudest frame of the whole call, without a gradient that would show it."""

    def clean(self, seq: Seq) -> Tensor:
        x = seq.masked
        return x / x.detach().abs().amax(dim=(1, 2), keepdim=True).clamp(min=1) if x.numel() else x


class RowsMixed(Conv):
    """One state for all rows."""

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        out = super().forward(seq, state)
        if state is not None:
            state["tail"] = tensor(state, "tail")[:1].expand(len(seq.x), -1, -1).clone()
        return out


class RowsNormalized(Conv):
    """Statistics over the batch."""

    def clean(self, seq: Seq) -> Tensor:
        x = seq.masked
        return x - x.sum((0, 1)) / 100


class MutableDefault(Attend):
    """One dict for every session."""

    def init_state(self, batch: int, capacity: int, _made: dict = {}) -> State:  # noqa: B006
        return _made.setdefault(batch, super().init_state(batch, capacity))

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        return super().forward(seq, super().init_state(len(seq.x), 0) if state is None else state)


class WaitsForTheEnd(Conv):
    """Is always right, and always too late."""

    def ready(self, total: Tensor, final: bool) -> Tensor:
        return super().ready(total, final) if final else torch.zeros_like(total)

    def __init__(self) -> None:
        super().__init__()
        self.width = 200  # room for all that waits


class OnePosition(Attend):
    """Takes the first row's position for all."""

    def position(self, seen: Tensor) -> Tensor:
        return seen[:1].expand(len(seen)) if len(seen) else seen


class CountsInPython(Attend):
    """A number where a tensor belongs."""

    def init_state(self, batch: int, capacity: int) -> State:
        count: Any = 0
        return {**super().init_state(batch, capacity), "count": count}


class WritesInput(Conv):
    """Centres the caller's tensor in place."""

    def clean(self, seq: Seq) -> Tensor:
        if not seq.x.requires_grad:
            seq.x.sub_(0.1)
        return seq.masked


class ForgetsRate(Conv):
    """Passes the input's rate on."""

    def __init__(self) -> None:
        super().__init__(stride=2)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        return super().forward(seq, state)._replace(rate=seq.rate)


class Scratch(Conv):
    """Hands values through the module, and cleans up behind itself: only another thread can see it."""

    def __init__(self) -> None:
        super().__init__()
        self.meet = threading.Barrier(N_THREADS)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        self.scratch = seq
        if threading.current_thread() is not threading.main_thread():
            with contextlib.suppress(threading.BrokenBarrierError):  # a thread that failed is not waited for
                self.meet.wait(1)
        out = super().forward(vars(self).get("scratch", seq), state)
        self.__dict__.pop("scratch", None)
        return out


class KeptInGlobal(Conv):
    """Remembers the last stream in a global, and starts afresh with a fresh state: right while alone."""

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        if state is not None and bool(tensor(state, "seen").any()):
            state["tail"] = _last["tail"]
        out = super().forward(seq, state)
        if state is not None:
            _last["tail"] = tensor(state, "tail")
        return out


_last: dict[str, Tensor] = {}


class _Hiding(dict):
    tail: Tensor | None = None


class HidesInDict(Conv):
    """Its state carries a tensor where no state operation finds it."""

    def init_state(self, batch: int, capacity: int) -> State:
        return _Hiding(super().init_state(batch, capacity))

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        state = self.init_state(len(seq.x), 0) if state is None else state
        hidden = getattr(state, "tail", None)
        state["tail"] = torch.zeros(len(seq.x), self.width, FEATURES) if hidden is None else hidden
        out = super().forward(seq, state)
        if isinstance(state, _Hiding):
            state.tail, state["tail"] = tensor(state, "tail"), torch.zeros(len(seq.x), 1)
        return out


BUGS = {
    ShortContext: "chunks",
    KeptOnSelf: "stateless",
    KeptInList: "stateless",
    ReadsPadding: "rows",
    MasksByProduct: "padding",
    MasksTooLate: "gradient",
    CutsPartialStride: "chunks",
    SeesAhead: "lookahead",
    NormalizesOffline: "lookahead",
    RowsMixed: "chunks",
    RowsNormalized: "rows",
    MutableDefault: "fresh_state",
    WaitsForTheEnd: "latency",
    OnePosition: "sessions",
    CountsInPython: "state_layout",
    WritesInput: "pure",
    ForgetsRate: "shapes",
    Scratch: "threads",
    KeptInGlobal: "interleave",
    HidesInDict: "save_resume",
}


@pytest.mark.parametrize(("make", "check"), BUGS.items(), ids=[b.__name__ for b in BUGS])
def test_planted_bugs_are_caught(make: Callable[[], nn.Module], check: str) -> None:
    block = build(make)
    with pytest.raises(ContractError) as caught:
        verify_contract(block, features)
    assert caught.value.check == check, str(caught.value)


def test_rows_of_gives_the_valid_frames() -> None:
    seq = features([3, 1], 0)
    assert [len(r) for r in rows_of(seq)] == [3, 1]


class Centre(nn.Module):
    """Looks at one frame at a time, as a normalizer of keypoints does, and remembers nothing."""

    stride, lookahead = 1, 0

    def init_state(self, batch: int, capacity: int = 0) -> State:
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        x = seq._replace(x=seq.masked - seq.masked.mean(-1, keepdim=True))
        return seq._replace(x=x.masked)


class Remembers(Centre):
    """The same, but what it adds depends on the rows that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        self.calls += 1
        return super().forward(seq)._replace(x=seq.masked * self.calls)


def test_a_block_without_a_state_keeps_the_law() -> None:
    verify_contract(Centre().eval(), features)
    with pytest.raises(ContractError):
        verify_contract(Remembers().eval(), features)
