"""The law that every `Decoder` keeps: `verify_decoder` measures it and names the check that a decoder breaks.

Letters: B rows, R hypotheses over them, K hypotheses of a row, U tokens, M memory frames, D width, V vocabulary.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from contract import N_THREADS, ContractError, at_once, attributes, fill_padding
from torch import Tensor, nn

from mmx import state as states
from mmx.interfaces import Aligner, Decoder
from mmx.seq import Seq
from mmx.state import State, leaves, reorder, subtree

LENGTHS = (7, 4, 1)


def verify_decoder(decoder: Any, vocab: int, *, padding: float = 1e4, tolerance: float = 2e-5) -> None:
    """Raise `ContractError` unless `decoder` keeps the law.

    Args:
        decoder: in evaluation mode, with random weights.
        vocab: V, at least 8.
        padding: what stands beyond the memory's lengths: any number, for it must not be read.
        tolerance: absolute and relative.
    """
    _DecoderLaw(decoder, vocab, padding, tolerance).verify()


class _DecoderLaw:
    def __init__(self, decoder: Any, vocab: int, padding: float, tolerance: float):
        self.decoder, self.vocab, self.fill, self.tolerance = decoder, vocab, padding, tolerance
        self.demand("members", isinstance(decoder, Decoder), "expected all members of a Decoder")
        self.memory = self.make(LENGTHS, 0)
        self.tokens = self.draw(len(LENGTHS), 6, 1)
        with torch.no_grad():
            self.expected = decoder.forward(self.tokens, self.memory).float()

    def verify(self) -> None:
        checks = (
            self.members, self.stateless, self.at, self.rows, self.padding, self.gradient, self.steps, self.layout,
            self.shared, self.fork, self.reorder, self.owners, self.room, self.aligner, self.threads,
        )  # fmt: skip
        for check in checks:
            check()

    # -------------------- of one call

    def members(self) -> None:
        """What verbs ask of a decoder, and that `forward` is `head` of `hidden`."""
        d = self.decoder
        self.demand("members", d.width > 0 and d.ctx > 0, f"width {d.width}, ctx {d.ctx}")
        self.demand("members", isinstance(d.dtype, torch.dtype), f"dtype is {d.dtype!r}")
        self.demand("members", isinstance(d.device, torch.device), f"device is {d.device!r}")
        shape = (*self.tokens.shape, self.vocab)
        self.demand("members", tuple(self.expected.shape) == shape, f"logits {tuple(self.expected.shape)}, not {shape}")
        with torch.no_grad():
            parted = d.head(d.hidden(self.tokens, self.memory)).float()
        self.same("members", parted, self.expected, "head of hidden")

    def stateless(self) -> None:
        """No call writes to a module, not even to clean up behind itself."""
        before = dict(self.attributes())
        with watched(self.decoder) as written:
            self.step(self.decoder.init_state(3, 2), self.tokens, [2, 1])
            with torch.no_grad():
                self.decoder.forward(self.tokens, self.memory)
                if isinstance(self.decoder, Aligner):
                    self.decoder.cross_weights(self.tokens, self.memory, self.decoder.alignment_heads[:1])
        after = dict(self.attributes())
        moved = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        self.demand("stateless", not moved, f"forward changed {moved[:5]} of the module")
        self.demand("stateless", not written, f"forward wrote {sorted(written)[:5]} on the way")

    def attributes(self) -> Iterator[tuple[str, Any]]:
        """Of the module, or of a decoder that is none but holds one."""
        parts = {"": self.decoder} if isinstance(self.decoder, nn.Module) else vars(self.decoder)
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                yield from ((f"{name}{k}", v) for k, v in attributes(part))
            else:
                yield name, id(part)

    def at(self) -> None:
        """Logits of some positions are those of all."""
        with torch.no_grad():
            for new in (lambda: None, lambda: self.decoder.init_state(3, 6)):
                all_of_them = self.decoder.forward(self.tokens, self.memory, new()).float()
                some = self.decoder.forward(self.tokens, self.memory, new(), at=[1, -1]).float()
                self.same("at", some, all_of_them[:, [1, -1]], "positions 1 and -1")

    def rows(self) -> None:
        """A row does not know its neighbours."""
        with torch.no_grad():
            for b, n in enumerate(LENGTHS):
                one = self.memory.rows(torch.tensor([b]))
                one = one._replace(x=one.x[:, :n])
                alone = self.decoder.forward(self.tokens[b : b + 1], one).float()
                self.same("rows", alone, self.expected[b : b + 1], f"row {b} alone")

    def padding(self) -> None:
        """What lies beyond the memory's lengths changes nothing, with and without a state."""
        wide = fill_padding(self.memory._replace(x=nn.functional.pad(self.memory.x, (0, 0, 0, 2))), self.fill)
        with torch.no_grad():
            for state in (None, self.decoder.init_state(3, 6)):
                got = self.decoder.forward(self.tokens, wide, state).float()
                self.same("padding", got, self.expected, f"{self.fill:g} in the padding")

    def gradient(self) -> None:
        """Whole texts without a state are what training learns from."""
        x = self.memory.x.clone().requires_grad_()
        out = self.decoder.forward(self.tokens, self.memory._replace(x=x)).float()
        (grad,) = torch.autograd.grad(out.square().mean(), x)
        outside = grad.masked_select(~self.memory.mask[..., None])
        self.demand("gradient", bool(grad.isfinite().all() and grad.any()), "no finite gradient of the memory")
        self.demand("gradient", not outside.any(), "a gradient reaches the padding")

    # -------------------- with a state

    def step(self, state: State, tokens: Tensor, sizes: Sequence[int], memory: Seq | None = None) -> Tensor:
        """Logits of tokens that come in pieces; what the sizes leave over comes one by one."""
        sizes = [*sizes, *[1] * (tokens.shape[1] - sum(sizes))]
        with torch.no_grad():
            parts = [
                self.decoder.forward(part, self.memory if memory is None else memory, state)
                for part in tokens.split(sizes, 1)
            ]
        return torch.cat(parts, 1).float()

    def steps(self) -> None:
        """Any division of a text into steps gives what the whole gives, also past the room asked for."""
        for room, sizes in ((6, []), (6, [6]), (2, [1, 3]), (1, [4])):
            got = self.step(self.decoder.init_state(3, room), self.tokens, sizes)
            self.same("steps", got, self.expected, f"steps of {sizes or 1}, room for {room}")

    def reorder(self) -> None:
        """Hypotheses live on, twice or not at all, each with its own past."""
        k, b = 3, len(LENGTHS)
        first, then, last = self.draw(b, 2, 2), self.draw(b * k, 2, 3), self.draw(b * k, 1, 4)
        index_BK = torch.tensor([[2, 0, 0], [1, 1, 1], [0, 2, 1]])
        state = self.decoder.init_state(b, 8, k)
        memory, owner = self.memory, [r for r in range(b) for _ in range(k)]
        with torch.no_grad():
            self.decoder.forward(first, memory, state)  # one hypothesis a row
            state = reorder(state, torch.zeros(b, k, dtype=torch.int64))
            self.decoder.forward(then, memory, state, owner=owner)
            state = reorder(state, index_BK)
            got = self.decoder.forward(last, memory, state, owner=owner)[:, 0].float()
            kept = (index_BK + k * torch.arange(b)[:, None]).flatten()
            texts = torch.cat([first.repeat_interleave(k, 0), then[kept], last], 1)
            whole = self.decoder.forward(texts, memory.rows(torch.tensor(owner)))[:, -1].float()
        self.same("reorder", got, whole, "hypotheses in another order")

    def owners(self) -> None:
        """Rows may have any number of hypotheses, none included; at any time."""
        owner = [0, 0, 2]
        k, b = 2, len(LENGTHS)
        first, then = self.draw(b, 2, 5), self.draw(len(owner), 1, 6)
        state = self.decoder.init_state(b, 4, k)
        with torch.no_grad():
            self.decoder.forward(first, self.memory, state)
            state = reorder(state, torch.zeros(b, k, dtype=torch.int64))
            got = self.decoder.forward(then, self.memory, state, owner=owner)[:, 0].float()
            texts = torch.cat([first[owner], then], 1)
            whole = self.decoder.forward(texts, self.memory.rows(torch.tensor(owner)))[:, -1].float()
            loose = self.decoder.forward(texts, self.memory, owner=owner)[:, -1].float()
        self.same("owners", got, whole, "rows with 2, 0 and 1 hypotheses")
        self.same("owners", loose, whole, "whole texts of rows with 2, 0 and 1 hypotheses")

    def shared(self) -> None:
        """What a state holds of the memory serves another state over the same one, which need not read it again."""
        begun = self.decoder.init_state(3, 6)
        self.step(begun, self.tokens[:, :1], [])
        other = self.decoder.init_state(3, 6)
        other["memory"] = begun["memory"]
        gone = self.memory._replace(x=torch.zeros_like(self.memory.x))
        self.same("shared", self.step(other, self.tokens, [3], gone), self.expected, "a memory that was read before")
        self.demand("shared", bool(subtree(begun, "memory")), "nothing is kept under `memory`")

    def fork(self) -> None:
        """What is done to a fork never shows in the original."""
        state = self.decoder.init_state(3, 6)
        self.step(state, self.tokens[:, :3], [])
        other = states.fork(state)
        self.step(other, self.draw(3, 3, 7), [])
        got = self.step(state, self.tokens[:, 3:], [])
        self.same("fork", got, self.expected[:, 3:], "a text whose fork went elsewhere")

    def layout(self) -> None:
        """Every leaf is a tensor whose first dimension is the rows, before and after a call."""
        state = self.decoder.init_state(3, 4)
        for when in ("new", "used"):
            odd = [name for name, value in leaves(state) if value.shape[:1] != (3,)]
            self.demand("layout", not odd, f"{odd[:5]} of a {when} state have not 3 rows")
            self.step(state, self.tokens[:, :1], [])

    def room(self) -> None:
        """More tokens than `ctx` are refused, not read from beyond the positions."""
        if self.decoder.ctx > 4096:
            return
        many = torch.zeros(1, self.decoder.ctx + 1, dtype=torch.int64)
        for state in (None, self.decoder.init_state(1, 1)):
            try:
                with torch.no_grad():
                    self.decoder.forward(many, self.memory.rows(torch.tensor([2])), state)
            except ValueError:
                continue
            raise ContractError(
                "room", f"{len(many[0])} tokens were taken by a decoder with room for {many.numel() - 1}"
            )

    def aligner(self) -> None:
        """Scores of the named heads, and the probabilities that the logits say."""
        if not isinstance(self.decoder, Aligner):
            return
        heads = self.decoder.alignment_heads
        with torch.no_grad():
            scores, probs = self.decoder.cross_weights(self.tokens, self.memory, heads)
        shape = (3, len(heads), self.tokens.shape[1], self.memory.x.shape[1])
        self.demand("aligner", tuple(scores.shape) == shape, f"scores {tuple(scores.shape)}, not {shape}")
        wanted = self.expected[:, :-1].softmax(-1).gather(2, self.tokens[:, 1:, None])[..., 0]
        self.same("aligner", probs, wanted, "probabilities of the text")

    def threads(self) -> None:
        """Several texts are written by one module at once."""
        texts = [self.draw(3, 6, 20 + k) for k in range(N_THREADS)]
        with torch.no_grad():
            wanted = [self.decoder.forward(t, self.memory).float() for t in texts]

        def work(k: int) -> None:
            got = self.step(self.decoder.init_state(3, 6), texts[k], [2])
            self.same("threads", got, wanted[k], "a text")

        at_once(work)

    # -------------------- tools

    def make(self, lengths: Sequence[int], seed: int) -> Seq:
        random = torch.Generator().manual_seed(seed)
        x = torch.randn(len(lengths), max(lengths), self.decoder.width, generator=random).to(self.decoder.dtype)
        return fill_padding(Seq(x, torch.tensor(lengths), 50.0), 0.0)

    def draw(self, rows: int, n: int, seed: int) -> Tensor:
        return torch.randint(0, self.vocab, (rows, n), generator=torch.Generator().manual_seed(seed))

    def demand(self, check: str, holds: bool, message: str) -> None:
        if not holds:
            raise ContractError(check, message)

    def same(self, check: str, got: Tensor, wanted: Tensor, what: str) -> None:
        self.demand(check, got.shape == wanted.shape, f"{what}: {tuple(got.shape)}, not {tuple(wanted.shape)}")
        near = torch.allclose(got, wanted, rtol=self.tolerance, atol=self.tolerance)
        self.demand(check, near, f"{what}: differs by {float((got - wanted).abs().max()):.3g}")


@contextmanager
def watched(part: Any) -> Iterator[set[str]]:
    """Names of the attributes that are written to the modules of a part meanwhile, by this thread."""
    inside = [part] if isinstance(part, nn.Module) else [v for v in vars(part).values() if isinstance(v, nn.Module)]
    mine, written, me = {id(m) for module in inside for m in module.modules()}, set[str](), threading.get_ident()
    real: Callable[..., None] = nn.Module.__setattr__

    def noting(self: nn.Module, name: str, value: Any) -> None:
        if id(self) in mine and threading.get_ident() == me:
            written.add(f"{type(self).__name__}.{name}")
        real(self, name, value)

    nn.Module.__setattr__ = noting  # type: ignore[method-assign]
    try:
        yield written
    finally:
        nn.Module.__setattr__ = real  # type: ignore[method-assign]
