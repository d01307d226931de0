"""Greedy text over a memory, written from a draft: what was written at the last look is only checked, in one pass.

A stream looks at nearly the same sound again and again, so most of its text is known before. Tokens of the draft are
kept as long as each is what the model would choose anyway (the exact case of speculative decoding, Leviathan et al.
2023, arXiv 2211.17192); the rest is written token by token.

Letters: U tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmx.generate import Filter
from mmx.interfaces import Decoder
from mmx.seq import Seq
from mmx.state import State, subtree, tensor


@dataclass(frozen=True)
class Continuation:
    """What follows a prefix: tokens without the end token, their log-probabilities, and whether the end came."""

    tokens: list[int]
    scores: list[float]
    ended: bool


@torch.inference_mode()
def continue_text(
    decoder: Decoder,
    memory: Seq,
    prefix: Sequence[int],
    draft: Sequence[int],
    eot: int,
    max_tokens: int,
    filters: Sequence[Filter] = (),
    shared: State | None = None,
) -> Continuation:
    """The most probable token at each step, after `prefix`.

    Args:
        decoder: scores tokens.
        memory: `(1, M, D)`.
        prefix: forced tokens, at least one.
        draft: a guess of what follows; it changes the cost, never the result.
        eot: token that ends the text.
        max_tokens: longest continuation.
        filters: see `mmx.generate`; what is written counts from the end of the prefix.
        shared: `state["memory"]`, kept for later calls with the same memory.
    """
    device, draft = memory.x.device, list(draft[:max_tokens])
    state = decoder.init_state(1, len(prefix) + max_tokens + 1)
    if shared is not None:
        state["memory"] = shared
    known = torch.tensor([[*prefix, *draft]], device=device)
    logits_UV = decoder.forward(known, memory, state, at=range(len(prefix) - 1, known.shape[1]))[0]
    out = Continuation([], [], False)
    for guess, logits_V in zip([*draft, None], logits_UV, strict=True):
        token, score = _best(logits_V, out.tokens, filters)
        if token == eot:
            return Continuation(out.tokens, out.scores, True)
        if len(out.tokens) == max_tokens:
            return out
        out.tokens.append(token)
        out.scores.append(score)
        if token != guess:
            break
    own = subtree(state, "self")
    own["length"] = torch.full_like(tensor(own, "length"), len(prefix) + len(out.tokens) - 1)  # forget the wrong rest
    while len(out.tokens) < max_tokens:
        last = torch.tensor([[out.tokens[-1]]], device=device)
        token, score = _best(decoder.forward(last, memory, state)[0, 0], out.tokens, filters)
        if token == eot:
            return Continuation(out.tokens, out.scores, True)
        out.tokens.append(token)
        out.scores.append(score)
    return out


def _best(logits_V: Tensor, written: Sequence[int], filters: Sequence[Filter]) -> tuple[int, float]:
    logits_1V = logits_V[None].float()
    so_far = torch.tensor([list(written)], dtype=torch.int64, device=logits_V.device)
    for f in filters:
        f(logits_1V, so_far)
    token = int(logits_1V[0].argmax())
    return token, float(logits_1V[0, token] - logits_1V[0].logsumexp(0))
