"""The law that every `Block` keeps: `verify_contract` measures it and names the check that a block breaks.

    verify_contract(block, make_input)

`make_input(lengths, seed)` gives a `Seq` of random rows of these lengths, on one clock, whatever `T`.

Letters: B rows, N input frames, T output frames.
"""

import math
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmx import state as states
from mmx.interfaces import Block
from mmx.seq import Seq
from mmx.state import State, leaves

MakeInput = Callable[[Sequence[int], int], Seq]

TOLERANCE = 2e-6
N_THREADS = 4
N_ROUNDS = 3


class ContractError(AssertionError):
    """A block breaks the law; `check` names the part of it."""

    def __init__(self, check: str, message: str):
        super().__init__(f"{check}: {message}")
        self.check = check


def verify_contract(
    block: nn.Module,
    make_input: MakeInput,
    *,
    lengths: Sequence[int] | None = None,
    fixed_length: bool = False,
    tolerance: float = TOLERANCE,
) -> None:
    """Raise `ContractError` unless `block` keeps the law.

    A block of infinite look-ahead cannot stream: of it, only the checks of the offline call are made.

    Args:
        block: a module that is a `Block`, in evaluation mode.
        make_input: see above.
        lengths: of the rows; chosen around multiples of the stride when None.
        fixed_length: the padded length is part of the input (a window that is always full): it stays.
        tolerance: absolute and relative.
    """
    assert isinstance(block, Block), "expected forward, init_state, stride and lookahead"
    _Law(block, make_input, lengths, fixed_length, tolerance).verify()


def at_once(work: Callable[[int], None]) -> None:
    """`work(k)`, several times over, in `N_THREADS` threads that take turns as often as they can.

    Raises:
        ContractError: what one of them raised.
    """
    failures: list[BaseException] = []
    start = threading.Barrier(N_THREADS)

    def repeated(k: int) -> None:
        try:
            start.wait()
            for _ in range(N_ROUNDS):
                work(k)
        except BaseException as e:  # whatever it was, the caller's thread reports it
            failures.append(e)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=repeated, args=(k,)) for k in range(N_THREADS)]
        for w in workers:
            w.start()
        for w in workers:
            w.join()
    finally:
        sys.setswitchinterval(interval)
    if failures:
        raise ContractError("threads", f"several at once: {failures[0]}") from failures[0]


class _Law:
    def __init__(
        self, block: Any, make: MakeInput, lengths: Sequence[int] | None, fixed_length: bool, tolerance: float
    ):
        self.block, self.fixed_length, self.tolerance = block, fixed_length, tolerance
        self.stride = block.stride or 1
        s = self.stride
        self.lengths = list(lengths or (9 * s + s // 2 + 1, 4 * s, 2 * s + 1, max(1, s - 1)))
        self.make = make
        self.seq = make(self.lengths, 0)
        self.capacity = 2 * max(self.lengths) + 4
        with torch.no_grad():
            self.expected = rows_of(block(zero_padding(self.seq)))

    def verify(self) -> None:
        offline = (self.shapes, self.stateless, self.pure, self.rows, self.padding, self.gradient)
        streaming = (
            self.lookahead, self.state_layout, self.fresh_state, self.chunks, self.chunk_padding,
            self.latency, self.interleave, self.fork, self.save_resume, self.sessions, self.select,
        )  # fmt: skip
        for check in offline:
            check()
        if self.block.lookahead != math.inf:
            for check in streaming:
                check()
        self.threads()

    # -------------------- of the offline call

    def shapes(self) -> None:
        """Lengths, rate and `final` never leave the data."""
        with torch.no_grad():
            out = self.block(zero_padding(self.seq))
        self.demand("shapes", isinstance(out, Seq), f"expected a Seq, got {type(out).__name__}")
        n_rows = len(self.lengths)
        self.demand("shapes", out.x.shape[0] == n_rows, f"expected {n_rows} rows, got {tuple(out.x.shape)}")
        self.demand("shapes", tuple(out.lengths.shape) == (n_rows,), f"lengths {out.lengths.shape}")
        self.demand("shapes", out.lengths.dtype == torch.int64, f"lengths are {out.lengths.dtype}")
        inside = bool(((out.lengths >= 0) & (out.lengths <= out.x.shape[1])).all())
        self.demand("shapes", inside, f"lengths {out.lengths.tolist()} leave x {tuple(out.x.shape)}")
        self.demand("shapes", out.final == self.seq.final, "final was not carried over")
        if self.block.stride and self.seq.rate is not None:
            rate = self.seq.rate / self.block.stride
            right = out.rate is not None and math.isclose(out.rate, rate)
            self.demand("shapes", right, f"rate {out.rate}, not {rate}")
        self.demand("shapes", all(bool(r.isfinite().all()) for r in self.expected), "output is not finite")

    def stateless(self) -> None:
        """Nothing is kept on the module: no attribute moves, and a call forgets the calls before it."""
        before = dict(attributes(self.block))
        with torch.no_grad():
            self.block(zero_padding(self.make(self.lengths, 1)))
            again = rows_of(self.block(zero_padding(self.seq)))
            if self.block.lookahead != math.inf:
                self.stream(self.seq, [self.stride + 1] * 3, finish=False)
        after = dict(attributes(self.block))
        moved = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        self.demand("stateless", not moved, f"forward changed {moved[:5]} of the module")
        self.same("stateless", again, "the same input a second time")

    def pure(self) -> None:
        """The input belongs to the caller."""
        seq = zero_padding(self.seq)
        x, lengths = seq.x.clone(), seq.lengths.clone()
        with torch.no_grad():
            self.block(seq)
        same = torch.equal(seq.x, x) and torch.equal(seq.lengths, lengths)
        self.demand("pure", same, "the input was written to")

    def rows(self) -> None:
        """A row does not know its neighbours: alone, and in another order, it comes out the same."""
        with torch.no_grad():
            seq = zero_padding(self.seq)
            alone = []
            for row, n in enumerate(self.lengths):
                one = seq.rows(torch.tensor([row]))
                one = one if self.fixed_length else one._replace(x=one.x[:, :n])
                alone += rows_of(self.block(one))
            self.same("rows", alone, "each row alone")
            order = torch.arange(len(self.lengths)).flip(0)
            self.same("rows", rows_of(self.block(seq.rows(order)))[::-1], "the rows reversed")

    def padding(self) -> None:
        """What lies beyond a row's length is undefined: NaN there, or more of it, changes nothing."""
        with torch.no_grad():
            self.same("padding", rows_of(self.block(nan_padding(self.seq))), "NaN in the padding")
            if not self.fixed_length:
                wide = nan_padding(widen(self.seq, self.stride + 3))
                self.same("padding", rows_of(self.block(wide)), "more padding")

    def gradient(self) -> None:
        """Training survives NaN in the padding: gradients are finite, and none reaches the padding."""
        seq = nan_padding(self.seq)
        x = seq.x.clone().requires_grad_()
        out = self.block(seq._replace(x=x))
        loss = torch.stack([r.square().sum() for r in rows_of(out)]).sum()
        wanted = [p for p in self.block.parameters() if p.requires_grad]
        if not loss.requires_grad:
            return
        in_x, *in_weights = torch.autograd.grad(loss, [x, *wanted], allow_unused=True)
        if in_x is not None:
            outside = torch.where(frame_mask(seq), torch.zeros(()), in_x)
            self.demand("gradient", bool(in_x.isfinite().all()), "NaN in the gradient of the input")
            self.demand("gradient", not bool(outside.any()), "a gradient reaches the padding")
        finite = all(g is None or bool(g.isfinite().all()) for g in in_weights)
        self.demand("gradient", finite, "NaN in the gradient of the weights")

    # -------------------- of the stream

    def lookahead(self) -> None:
        """No output frame depends on more than the declared look-ahead: by gradient and by replacement.

        Where the data decide which frame is a frame's own, `chunks` shows that none waited for was needed.
        """
        if self.block.stride is None:
            return
        n = max(self.lengths)
        row = self.seq.rows(torch.tensor([self.lengths.index(n)]))
        x = row.x[:, :n].clone().requires_grad_()
        out = self.block(row._replace(x=x))
        weights = torch.randn(out.x[0, 0].shape, generator=torch.Generator().manual_seed(0))
        n_out = int(out.lengths[0])
        for t in sorted({*range(min(n_out, 8)), n_out // 2, n_out - 1}):
            # The first input frame that t must not see.
            limit = (t + 1) * self.stride + int(self.block.lookahead)
            (grad,) = torch.autograd.grad((out.x[0, t] * weights).sum(), x, retain_graph=True)
            seen = grad[0].reshape(n, -1).ne(0).any(1).nonzero()  # NaN is not 0 either
            last = int(seen.max()) if len(seen) else -1
            message = f"output frame {t} depends on input frame {last}, declared is {limit - 1} at most"
            self.demand("lookahead", last < limit, message)
            if limit >= n:
                continue
            with torch.no_grad():
                other = x.detach().clone()
                other[:, limit:] = self.make([n], 2).x[:, limit:n]
                again = self.block(row._replace(x=other)).x[:, : t + 1]
            self.same("lookahead", [again[0]], f"a new future after frame {t}", [out.x[0, : t + 1].detach()])

    def state_layout(self) -> None:
        """Every leaf is a tensor whose first dimension is the batch, before and after a call."""
        state = self.init(3)
        for when in ("new", "used"):
            odd = [k for k, v in _entries(state) if not isinstance(v, Tensor) or v.shape[:1] != (3,)]
            self.demand("state_layout", not odd, f"{odd[:5]} of a {when} state are no tensors with 3 rows")
            with torch.no_grad():
                self.block(self.seq.rows(torch.tensor([0, 0, 0]))._replace(final=False), state)

    def fresh_state(self) -> None:
        """`init_state` gives a state of its own each time."""
        first, pristine = self.init(2), states.fork(self.init(2))
        self.stream(self.seq.rows(torch.tensor([0, 1])), [self.stride + 1], first, finish=False)
        for (name, was), (_, now) in zip(leaves(pristine), leaves(self.init(2)), strict=True):
            self.demand("fresh_state", torch.equal(was, now), f"{name!r} of a new state is not new")

    def chunks(self) -> None:
        """Any chunking gives what the offline call gives."""
        for sizes in self.plans():
            self.same("chunks", self.stream(self.seq, sizes), f"chunks of {_brief(sizes)}")

    def chunk_padding(self) -> None:
        """NaN in the padding of the chunks changes nothing."""
        for sizes in self.plans():
            got = self.stream(self.seq, sizes, pad_with=math.nan)
            self.same("chunk_padding", got, f"NaN in the padding of chunks of {_brief(sizes)}")

    def latency(self) -> None:
        """A frame whose look-ahead is complete comes out at once; nothing waits for the end."""
        if self.block.stride is None:
            return
        n = max(self.lengths) - 1
        out = self.stream(self.seq.rows(torch.tensor([self.lengths.index(n + 1)])), [n], finish=False)
        due = max(0, (n - int(self.block.lookahead)) // self.stride)
        self.demand("latency", len(out[0]) >= due, f"{n} frames in, {due} are due, {len(out[0])} came")

    def interleave(self) -> None:
        """Two sessions that take turns on one module hear only themselves."""
        inputs = [self.seq, self.make(self.lengths, 3)]
        with torch.no_grad():
            wanted = [self.expected, rows_of(self.block(zero_padding(inputs[1])))]
        size = self.stride + self.stride // 2 + 1
        streams = [self.chunked(seq, [size] * (max(self.lengths) // size)) for seq in inputs]
        got: list[list[list[Tensor]]] = [[], []]
        for pair in zip(*streams, strict=True):
            for parts, part in zip(got, pair, strict=True):
                parts.append(part)
        for k in (0, 1):
            self.same("interleave", _glue(got[k]), f"session {k} of two in turns", wanted[k])

    def fork(self) -> None:
        """What is done to a fork never shows in the original."""
        middle, state, done = self.half_way(self.seq)
        other = states.fork(state)
        self.stream(self.tail(self.make(self.lengths, 4), middle), [self.stride + 1], other)
        rest = self.stream(self.tail(self.seq, middle), [self.stride + 2], state)
        self.same("fork", _glue([done, rest]), "a stream whose fork went elsewhere")

    def save_resume(self) -> None:
        """A session survives the process."""
        middle, state, done = self.half_way(self.seq)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "session.safetensors"
            states.save(state, path)
            resumed = states.load(path)
        rest = self.stream(self.tail(self.seq, middle), [self.stride + 2], resumed)
        self.same("save_resume", _glue([done, rest]), "a stream saved and resumed")

    def sessions(self) -> None:
        """Sessions at different positions share a batch and part again."""
        singles = [self.seq.rows(torch.tensor([i])) for i in range(len(self.lengths))]
        singles = [s._replace(x=s.x[:, :n]) for s, n in zip(singles, self.lengths, strict=True)]
        begun = []
        for k, one in enumerate(singles):  # each stands elsewhere, the last has not begun
            at = min(self.lengths[k], (len(singles) - 1 - k) * (self.stride + 1))
            state = self.init(1)
            begun.append((at, state, self.stream(one, [at], state, finish=False)[0]))
        rests = [self.tail(one, at).x[0] for one, (at, _, _) in zip(singles, begun, strict=True)]
        batch = self.batch(rests)
        together = states.stack([state for _, state, _ in begun])
        half = max(1, batch.x.shape[1] // 2)
        first = self.stream(batch, [half], together, finish=False, pad_with=math.nan)
        got = _glue([[done for _, _, done in begun], first])
        for k, state in enumerate(states.split(together, len(singles))):
            row = batch.rows(torch.tensor([k]))
            rest = self.stream(self.tail(row, half), [self.stride], state, pad_with=math.nan)
            got[k] = torch.cat([got[k], rest[0]])
        self.same("sessions", got, "sessions at different positions in one batch")

    def select(self) -> None:
        """Rows of a state may be dropped, repeated and put in another order."""
        middle, state, done = self.half_way(self.seq)
        order = torch.tensor([len(self.lengths) - 1, 0, 0])
        chosen = states.select(state, order)
        rest = self.stream(self.tail(self.seq, middle).rows(order), [self.stride + 1], chosen)
        got = [torch.cat([done[i], r]) for i, r in zip(order.tolist(), rest, strict=True)]
        self.same("select", got, "selected rows", [self.expected[i] for i in order.tolist()])

    # -------------------- of threads

    def threads(self) -> None:
        """Several threads use one module at once."""
        inputs = [self.make(self.lengths, 10 + k) for k in range(N_THREADS)]
        with torch.no_grad():
            wanted = [rows_of(self.block(zero_padding(seq))) for seq in inputs]
        size = self.stride + 1

        def work(k: int) -> None:
            with torch.no_grad():
                got = rows_of(self.block(zero_padding(inputs[k])))
            self.same("threads", got, "offline", wanted[k])
            if self.block.lookahead != math.inf:
                got = self.stream(inputs[k], [size] * (max(self.lengths) // size))
                self.same("threads", got, "streaming", wanted[k])

        at_once(work)

    # -------------------- tools

    def init(self, batch: int) -> State:
        return self.block.init_state(batch, self.capacity)

    def plans(self) -> Iterator[list[int]]:
        """Chunk sizes; what they leave over is the last chunk, which may be empty."""
        n, s = self.seq.x.shape[1], self.stride
        yield []
        yield [n]
        for size in sorted({1 if n <= 64 else s // 3 + 1, max(1, s - 1), s, s + 1, 2 * s + 1}):
            yield [size] * (n // size)
        due = s + int(self.block.lookahead)  # one frame before the first output is due, at it, and one after it
        yield from ([size] for size in range(max(1, due - 1), due + 2))
        random = torch.Generator().manual_seed(5)
        for _ in range(2):
            yield torch.randint(0, 2 * s + 2, (max(1, n // (s + 1)),), generator=random).tolist()

    def chunked(
        self,
        seq: Seq,
        sizes: Sequence[int],
        state: State | None = None,
        finish: bool = True,
        pad_with: float = 0.0,
    ) -> Iterator[list[Tensor]]:
        """The valid output of each chunk, row by row; the last one is final unless `finish` is False."""
        state = self.init(len(seq.x)) if state is None else state
        at, n = 0, seq.x.shape[1]
        plan = [*sizes, *([max(0, n - sum(sizes))] if finish else [])]
        for i, size in enumerate(plan):
            x = seq.x[:, at : at + size]
            lengths = (seq.lengths - at).clamp(0, x.shape[1])
            piece = fill_padding(Seq(x, lengths, seq.rate, finish and i == len(plan) - 1), pad_with)
            with torch.no_grad():
                out = rows_of(self.block(piece, state))
            yield out  # outside of no_grad, which would leak into the caller's turn
            at += size

    def stream(
        self,
        seq: Seq,
        sizes: Sequence[int],
        state: State | None = None,
        finish: bool = True,
        pad_with: float = 0.0,
    ) -> list[Tensor]:
        return _glue(list(self.chunked(seq, sizes, state, finish, pad_with)))

    def half_way(self, seq: Seq) -> tuple[int, State, list[Tensor]]:
        """Position, state and output of a stream that has heard about half, off the stride."""
        middle = max(1, max(self.lengths) // 2 // self.stride * self.stride + self.stride // 2)
        state = self.init(len(seq.x))
        return middle, state, self.stream(seq, [middle], state, finish=False)

    @staticmethod
    def tail(seq: Seq, at: int) -> Seq:
        return seq._replace(x=seq.x[:, at:], lengths=(seq.lengths - at).clamp(min=0))

    def batch(self, rows: Sequence[Tensor]) -> Seq:
        lengths = torch.tensor([len(r) for r in rows])
        x = self.seq.x.new_zeros(len(rows), int(lengths.max()), *self.seq.x.shape[2:])
        for row, item in zip(x, rows, strict=True):
            row[: len(item)] = item
        return Seq(x, lengths, self.seq.rate)

    def demand(self, check: str, holds: bool, message: str) -> None:
        if not holds:
            raise ContractError(check, message)

    def same(self, check: str, got: Sequence[Tensor], what: str, wanted: Sequence[Tensor] | None = None) -> None:
        wanted = self.expected if wanted is None else wanted
        for row, (a, b) in enumerate(zip(got, wanted, strict=True)):
            shapes = f"{what}: row {row} has shape {tuple(a.shape)}, offline {tuple(b.shape)}"
            self.demand(check, a.shape == b.shape, shapes)
            if not torch.allclose(a, b, rtol=self.tolerance, atol=self.tolerance):
                off = (a - b).abs().flatten(1).amax(1) if a.dim() > 1 else (a - b).abs()
                first = int((~(off <= self.tolerance)).nonzero()[0])
                by = f"differs by {float(off[first]):.3g} at frame {first}"
                raise ContractError(check, f"{what}: row {row} {by}")


def rows_of(seq: Seq) -> list[Tensor]:
    """The valid frames of each row."""
    return [x[:n] for x, n in zip(seq.x, seq.lengths.tolist(), strict=True)]


def frame_mask(seq: Seq) -> Tensor:
    """The mask with as many dimensions as x."""
    return seq.mask.reshape(*seq.mask.shape, *([1] * (seq.x.dim() - 2)))


def fill_padding(seq: Seq, value: float) -> Seq:
    """Put a value beyond each length, in a copy."""
    if not seq.x.is_floating_point():
        value = 0 if math.isnan(value) else value
    return seq._replace(x=seq.x.clone().masked_fill_(~frame_mask(seq).expand_as(seq.x), value))


def zero_padding(seq: Seq) -> Seq:
    """Zeros beyond each length, in a copy."""
    return fill_padding(seq, 0.0)


def nan_padding(seq: Seq) -> Seq:
    """NaN beyond each length, in a copy."""
    return fill_padding(seq, math.nan)


def widen(seq: Seq, frames: int) -> Seq:
    """More padding."""
    more = seq.x.new_zeros(len(seq.x), frames, *seq.x.shape[2:])
    return seq._replace(x=torch.cat([seq.x, more], dim=1))


def _glue(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.cat(list(row)) for row in zip(*parts, strict=True)]


def _entries(state: State, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _entries(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What identifies each attribute of a module and its children, and tells whether it was written to."""
    for prefix, child in module.named_modules():
        held = vars(child)
        for name, value in {**held, **held["_parameters"], **held["_buffers"]}.items():
            version = value._version if isinstance(value, Tensor) else None
            size = len(value) if isinstance(value, Sized) and not isinstance(value, Tensor) else None
            simple = value if isinstance(value, int | float | str | bool | None) else id(value)
            yield f"{prefix}.{name}", (simple, version, size)


def _brief(sizes: Sequence[int]) -> str:
    return f"{list(sizes[:6])}{'...' if len(sizes) > 6 else ''}" if sizes else "everything at once"
