"""One step of a stream at shapes that never change: hear a chunk, write a token, for many rows at once.

What the blocks do in a stream of any chunking, done for exactly one chunk of each row: no size depends on the data and
nothing is read back from the device, so that one CUDA graph serves every step. Rows whose sound ends have fewer frames.

Letters: B rows, K frames of a chunk, T frames before pooling, O frames after, M frames of the memory that are kept, U
tokens, P tokens of the prompt, D width, H heads, C head width, V vocabulary, S frames of the past.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmx.errors import InputError
from mmx.nn.block import attend, split_heads
from mmx.nn.conformer import look
from mmx.nn.decoder import DecoderLayer, TextDecoder
from mmx.seq import Seq
from mmx.state import State, leaves, map_leaves, subtree, tensor

# -------------------- hearing


class Ears:
    """The encoder and the adaptor of `mmx.models.w2v_bert`, a chunk at a time.

    Args:
        encoder: with a chunk mask.
        adaptor: of the same chunk, or None.
        chunks: chunks of the encoder's that make one step.

    Raises:
        InputError: the encoder has no chunk mask, or the adaptor waits for more than the chunk.
    """

    def __init__(self, encoder: Any, adaptor: Any | None, chunks: int = 1):
        if getattr(encoder, "chunk", None) is None:
            raise InputError("expected an encoder with a chunk mask, which hears a chunk without the rest: set `chunk`")
        self.encoder, self.layers = encoder, [] if adaptor is None else list(adaptor.layers)
        self.adaptor = adaptor
        for layer in self.layers:
            if layer.kernel - layer.pad > layer.stride:
                raise InputError(
                    f"expected an adaptor whose frames end with their chunk, got kernel {layer.kernel}, "
                    f"stride {layer.stride}: it looks into the next chunk"
                )
        self.frames = encoder.chunk * chunks
        self.widest = self.frames
        for layer in self.layers:
            self.widest = (self.widest + 2 * layer.pad - layer.kernel) // layer.stride + 1

    def init_state(self, batch: int) -> State:
        """Rows that have heard nothing."""
        heard = self.encoder.init_state(batch)
        state: State = {"encoder": {"layers": heard["layers"], "filled": heard["filled"]}}
        for i, layer in enumerate(self.layers):
            fresh = layer.init_state(batch)
            none = torch.zeros_like(tensor(fresh, "filled"))
            kept = tensor(fresh, "rest")[:, : layer.pad].clone()
            state[str(i)] = {"rest": kept, "heard": none, "filled": fresh["filled"], "k": fresh["k"], "v": fresh["v"]}
        return state

    def step(self, seq: Seq, final_B: Tensor, state: State) -> tuple[Seq, State]:
        """The memory of one more chunk.

        Args:
            seq: `(B, K, F)` features; rows have all K, fewer only where their sound ends.
            final_B: whether it ends.
            state: from `init_state`; it is not changed.

        Returns:
            `(B, O, D)` with O at most `widest`, and the state after it.
        """
        new = _copied(state)
        heard = subtree(new, "encoder")
        seq = seq._replace(x=seq.masked).to(self.encoder.features_ln.weight.dtype)
        filled_B, past = tensor(heard, "filled"), self.encoder.left_chunks * self.encoder.chunk
        view = look(seq, filled_B, past, self.encoder.chunk, self.encoder.left_chunks)
        seq = seq._replace(x=self.encoder.through(seq.x, view, subtree(heard, "layers")))
        heard["filled"] = (filled_B + seq.lengths).clamp(max=past)
        if self.adaptor is None:
            return seq, new
        if self.adaptor.mlp is not None:
            x_BTD = seq.masked
            seq = seq._replace(x=x_BTD + 0.5 * self.adaptor.mlp(x_BTD))
        for i, layer in enumerate(self.layers):
            seq = _pooled(layer, seq, final_B, subtree(new, str(i)))
        return (seq if self.adaptor.ln is None else seq._replace(x=self.adaptor.ln(seq.x))), new


def _pooled(layer: Any, seq: Seq, final_B: Tensor, state: State) -> Seq:
    """One layer of the adaptor. A frame sees `pad` inputs of the chunk before, which are kept, and the last frame of a
    row, past whole chunks, has zeros for what never comes."""
    pad, width = layer.pad, seq.x.shape[1]
    heard_B = tensor(state, "heard")
    joined = Seq(torch.cat([tensor(state, "rest"), seq.masked], dim=1), seq.lengths + pad)
    n_made = (width + 2 * pad - layer.kernel) // layer.stride + 1
    total_B = heard_B + seq.lengths
    last_B = (seq.lengths + 2 * pad - layer.kernel).div(layer.stride, rounding_mode="floor") + 1
    made_B = torch.where(final_B, torch.where(total_B > 0, last_B, 0).clamp(min=0), seq.lengths // layer.stride)

    at_T = torch.arange(width + pad, device=seq.x.device)
    real_BT1 = (joined.mask & (at_T >= torch.where(heard_B > 0, 0, pad)[:, None]))[..., None]
    x_BTD = joined.masked
    residual_BOD = layer.pool(layer.residual_ln, layer.residual_conv, x_BTD, real_BT1, n_made)
    made = Seq(layer.pool(layer.attn_ln, layer.attn_conv, x_BTD, real_BT1, n_made), made_B)
    past, filled_B = tensor(state, "k").shape[1], tensor(state, "filled")
    y_BOD = residual_BOD + layer.attn(made.x, look(made, filled_B, past, layer.chunk, layer.left_chunks), state)
    state["rest"] = x_BTD[:, width // layer.stride * layer.stride :][:, :pad]
    state["heard"], state["filled"] = total_B, (filled_B + made_B).clamp(max=past)
    return made._replace(x=y_BOD + layer.mlp(layer.mlp_ln(y_BOD)))


def _copied(state: State) -> State:
    """The same tensors in dicts of their own."""
    return map_leaves(state, lambda t: t)


def settle(state: State, new: State, rows_B: Tensor) -> None:
    """Let `rows_B` of a state advance to a new one, in place: its tensors stay where they are."""
    for (_, old), (_, value) in zip(leaves(state), leaves(new), strict=True):
        rows = rows_B.reshape(-1, *[1] * (old.dim() - 1))
        old.copy_(torch.where(rows, value, old))


# -------------------- writing


@dataclass(frozen=True, slots=True)
class Look:
    """What decides, for each row, whether its next token may be written now. All are `(B,)`.

    Attributes:
        written: tokens of this sentence.
        frames: of memory that the sentence has.
        probability: that the model gives the token, or that monotonic attention gives writing it.
    """

    written: Tensor
    frames: Tensor
    probability: Tensor


Decide = Callable[[Look], Tensor]
"""A `Look` to `(B,)` bool. Where a row's sound has ended it is not asked."""


def wait_k(k: int = 3, frames: int = 2) -> Decide:
    """One token for each `frames` of memory, k behind (Ma et al. 2019, arXiv 1810.08398)."""
    return lambda look: look.frames >= (look.written + k) * frames


def threshold(p: float = 0.5, frames: int = 1) -> Decide:
    """Write while the probability is at least p, and every token has some memory (as EMMA decides: Ma et al. 2023,
    arXiv 2312.04515)."""
    return lambda look: (look.probability >= p) & (look.frames >= (look.written + 1) * frames)


class Pen:
    """A `TextDecoder` that writes a token in each row, over a memory that is a ring.

    A sentence ends with the end token. If the sound has not ended then, the next sentence begins, over what is heard
    from there on. It is cut at `tokens`. A token is computed once, over the memory of that moment: what later sound
    would have made of it changes nothing.

    Args:
        decoder: writes.
        prompt: tokens before the text of each sentence, at least one.
        eot: the end token.
        never: tokens that are not written.
        decide: when.
        frames: M, the memory that is kept.
        tokens: U, the longest sentence, prompt included.
    """

    def __init__(
        self,
        decoder: TextDecoder,
        prompt: list[int],
        eot: int,
        never: list[int],
        decide: Decide,
        frames: int,
        tokens: int,
    ):
        if not len(prompt) < tokens <= decoder.ctx:
            raise InputError(f"expected tokens in {len(prompt) + 1} to {decoder.ctx}, got {tokens}")
        weight = decoder.token.weight
        self.decoder, self.eot, self.decide, self.frames, self.tokens = decoder, eot, decide, frames, tokens
        self.prompt_P = torch.tensor(prompt, device=weight.device)
        self.never_V = torch.zeros(weight.shape[0], device=weight.device)
        self.never_V[never] = -torch.inf

    def init_state(self, batch: int) -> State:
        """Rows that have written nothing."""
        like = self.decoder.ln.weight
        heads, width = self.decoder.heads, like.shape[0] // self.decoder.heads

        def room(n: int) -> State:
            return {str(i): {x: like.new_zeros(batch, heads, n, width) for x in "kv"} for i in range(self._depth)}

        count = torch.zeros(batch, dtype=torch.int64, device=like.device)
        flags = {name: torch.zeros_like(count, dtype=torch.bool) for name in ("ended", "done")}
        counts = {name: count.clone() for name in ("length", "last", "heard", "begun")}
        return {"text": room(self.tokens), "memory": room(self.frames), **counts, **flags}

    @property
    def _depth(self) -> int:
        return len(self.decoder.layers)

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.decoder.layers if isinstance(layer, DecoderLayer)]

    def remember(self, memory: Seq, state: State, rows_B: Tensor, final_B: Tensor) -> None:
        """Put new memory `(B, O, D)`, in the decoder's precision, of some rows into the ring, in place; `final_B`:
        their sound ends with it."""
        heard_B, n = tensor(state, "heard"), memory.x.shape[1]
        new_BO = memory.mask & rows_B[:, None]
        at_BO = (heard_B[:, None] + torch.arange(n, device=heard_B.device)) % self.frames
        x_BOD = memory.masked
        for i, layer in enumerate(self._layers()):
            held = subtree(subtree(state, "memory"), str(i))
            for name, project in (("k", layer.cross.key), ("v", layer.cross.value)):
                ring_BHMC, x_BHOC = tensor(held, name), split_heads(project(x_BOD), self.decoder.heads)
                index = at_BO[:, None, :, None].expand_as(x_BHOC)
                kept = torch.where(new_BO[:, None, :, None], x_BHOC, ring_BHMC.gather(2, index))
                ring_BHMC.scatter_(2, index, kept)
        heard_B += new_BO.sum(1)
        tensor(state, "ended").logical_or_(rows_B & final_B)

    def write(self, state: State, rows_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write at most one token in some rows, in place.

        Returns:
            The token of each row, -1 where none was written and the end token where a sentence ends; its probability;
            whether the row has written all that it will.
        """
        length_B, heard_B, begun_B = (tensor(state, n) for n in ("length", "heard", "begun"))
        ended_B, done_B, last_B = (tensor(state, n) for n in ("ended", "done", "last"))
        n_prompt = len(self.prompt_P)
        prompt_B = self.prompt_P[length_B.clamp(max=n_prompt - 1)]
        logits_BV = self._logits(torch.where(length_B < n_prompt, prompt_B, last_B), state)
        best = logits_BV.max(-1)
        probability_B = (best.values - logits_BV.logsumexp(-1)).exp()
        forced_B = length_B < n_prompt - 1
        seen = Look((length_B - n_prompt + 1).clamp(min=0), heard_B - begun_B, probability_B)
        may_B = rows_B & ~done_B & (seen.frames > 0) & (forced_B | ended_B | self.decide(seen))
        full_B = length_B == self.tokens - 1
        over_B = may_B & ~forced_B & ((best.indices == self.eot) | full_B)
        token_B = torch.where(full_B, self.eot, best.indices)
        done_B |= rows_B & ended_B & (over_B | (seen.frames == 0))
        begun_B.copy_(torch.where(over_B, heard_B, begun_B))
        last_B.copy_(torch.where(may_B, token_B, last_B))
        length_B.copy_(torch.where(over_B, 0, length_B + may_B))
        return torch.where(may_B & ~forced_B, token_B, -1), probability_B, done_B

    def _logits(self, token_B: Tensor, state: State) -> Tensor:
        """`(B, V)` after one more token, whose keys and values go to the place that `length` names: until `length`
        moves on, nobody sees them."""
        length_B, heard_B, begun_B = (tensor(state, n) for n in ("length", "heard", "begun"))
        text, memory = subtree(state, "text"), subtree(state, "memory")
        device = token_B.device
        before_BU = torch.arange(self.tokens, device=device) <= length_B[:, None]
        back_BM = (heard_B[:, None] - 1 - torch.arange(self.frames, device=device)) % self.frames
        inside_BM = back_BM < (heard_B - begun_B).clamp(min=1)[:, None]  # a row that saw nothing would be NaN
        rings = _Rings(text, memory, length_B[:, None, None, None], before_BU[:, None, None], inside_BM[:, None, None])
        x_B1D = self.decoder.through(self.decoder.embed(token_B[:, None], length_B[:, None]), rings)
        return self.decoder.head(x_B1D)[:, 0].float() + self.never_V


@dataclass(frozen=True)
class _Rings:
    """A `mmx.nn.decoder.Sight` of one new token a row, whose keys and values go to the place `at` of the text."""

    text: State
    ring: State
    at: Tensor
    before: Tensor
    inside: Tensor

    def own(self, layer: int, q_RHUC: Tensor, k_RHUC: Tensor, v_RHUC: Tensor) -> Tensor:
        held = subtree(self.text, str(layer))
        for name, new in (("k", k_RHUC), ("v", v_RHUC)):
            tensor(held, name).scatter_(2, self.at.expand_as(new), new)
        return attend(q_RHUC, tensor(held, "k"), tensor(held, "v"), self.before)

    def memory(self, layer: int, q_RHUC: Tensor) -> Tensor:
        held = subtree(self.ring, str(layer))
        return attend(q_RHUC, tensor(held, "k"), tensor(held, "v"), self.inside)
