"""The contract of decoders, and the contract itself: each planted bug is caught by the check named for it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from contract import ContractError
from contract_decoder import verify_decoder
from torch import Tensor, nn

from mmx.models import monotonic
from mmx.models.seamless_m4t.units import AutoregressiveConfig, build_autoregressive
from mmx.nn.decoder import DecoderLayer, LearnedPositions, SinusoidalPositions, TextDecoder
from mmx.seq import Seq
from mmx.state import State, subtree, tensor
from mmx.text.shortlist import ShortlistDecoder

VOCAB = 11


def seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = make()
        for p in decoder.parameters():
            nn.init.normal_(p, std=0.4)
    return decoder.eval()


def layers() -> list[DecoderLayer]:
    return [DecoderLayer(8, 2, 12) for _ in range(2)]


def text(kind: type[TextDecoder] = TextDecoder) -> TextDecoder:
    return seeded(lambda: kind(VOCAB, layers(), LearnedPositions(24, 8)))


def emma() -> nn.Module:
    config = monotonic.Config(vocab=VOCAB, ctx=24, width=8, heads=2, layers=2, hidden=12)
    return seeded(lambda: monotonic.build(config).decoder)


def unit() -> nn.Module:
    config = AutoregressiveConfig(
        width=8, heads=2, encoder_layers=1, encoder_hidden=12, decoder_layers=2, decoder_hidden=12, vocab=VOCAB, ctx=24
    )
    return seeded(lambda: build_autoregressive(config).decoder)


def short() -> ShortlistDecoder:
    whole = text()
    return ShortlistDecoder(whole, whole.token.weight, [0, 1, 2, 4, 5, 7, 8, 10])


SOUND = {
    "learned positions": (text, VOCAB),
    "sinusoids, normalized": (
        lambda: seeded(lambda: TextDecoder(VOCAB, layers(), SinusoidalPositions(24, 8, 2), 3.0, True)), VOCAB
    ),
    "monotonic": (emma, VOCAB),
    "units": (unit, VOCAB),
    "shortlist": (short, 8),
}  # fmt: skip


@pytest.mark.parametrize(("make", "vocab"), SOUND.values(), ids=SOUND)
def test_decoders_keep_the_contract(make: Callable[[], Any], vocab: int) -> None:
    verify_decoder(make(), vocab)


@pytest.mark.parity
@pytest.mark.parametrize("before", [(), (3, 4)])
def test_a_language_model_keeps_the_contract(before: tuple[int, ...]) -> None:
    transformers = pytest.importorskip("transformers")
    from mmx.models.causal_lm import CausalLM

    settings = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    verify_decoder(seeded(lambda: CausalLM(transformers.LlamaForCausalLM(settings), before)), VOCAB)


# -------------------- planted bugs


class KeepsCrossKeys(TextDecoder):
    """Keeps the memory's keys on the module."""

    kept: Any = None

    def memory_keys(self, memory: Seq, state: State) -> Any:
        self.kept = super().memory_keys(memory, state)
        return self.kept


class HandsThroughSelf(TextDecoder):
    """Passes positions through the module, and cleans up behind itself: only another thread can see it."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        self.where = positions
        out = super().embed(tokens, self.where)
        del self.where
        return out


class CountsSteps(TextDecoder):
    """Counts in a buffer."""

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.register_buffer("steps", torch.zeros(1))

    def hidden(self, *args: Any, **options: Any) -> Tensor:
        self.steps.add_(1)  # type: ignore[operator]
        return super().hidden(*args, **options)


class ForgetsLengths(TextDecoder):
    """Attends to the memory's padding, with a state."""

    def memory_keys(self, memory: Seq, state: State) -> Any:
        return [keys._replace(lengths=None) for keys in super().memory_keys(memory, state)]


class ForgetsLengthsWhole(TextDecoder):
    """Attends to the memory's padding, in training."""

    def hidden(self, tokens: Tensor, memory: Seq, state: State | None = None, *args: Any, **options: Any) -> Tensor:
        if state is None:
            memory = memory._replace(lengths=torch.full_like(memory.lengths, memory.x.shape[1]))
        return super().hidden(tokens, memory, state, *args, **options)


class ForgetsAncestors(TextDecoder):
    """Takes each hypothesis for its own ancestor."""

    def hidden(self, tokens: Tensor, memory: Seq, state: State | None = None, *args: Any, **options: Any) -> Tensor:
        if state is not None:
            slots = tensor(subtree(state, "self"), "ancestors")
            slots.copy_(torch.arange(slots.shape[1])[None, :, None].expand_as(slots))
        return super().hidden(tokens, memory, state, *args, **options)


class FirstRowsOwner(TextDecoder):
    """Shares the rows out evenly, whoever owns them."""

    def hidden(  # type: ignore[override]
        self,
        tokens: Tensor,
        memory: Seq,
        state: State | None = None,
        owner: Sequence[int] | None = None,
        **options: Any,
    ) -> Tensor:
        if owner is not None and len(tokens) == len(memory.x):
            owner = None
        return super().hidden(tokens, memory, state, owner, **options)


class PositionsFromZero(TextDecoder):
    """Counts positions anew in each call."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return super().embed(tokens, positions - positions.min())


class KeepsNothing(TextDecoder):
    """Reads the memory anew in each call."""

    def memory_keys(self, memory: Seq, state: State) -> Any:
        return super().memory_keys(memory, {"memory": {}})


class RowsMixed(TextDecoder):
    """Centres tokens over the batch."""

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = super().embed(tokens, positions)
        return x - 0.1 * x.mean(0, keepdim=True)


class Unheaded(TextDecoder):
    """Scales the logits behind `head`."""

    def forward(self, *args: Any, **options: Any) -> Tensor:
        return 2 * super().forward(*args, **options)


class NeverEnds(TextDecoder):
    """Cuts what it has no positions for, and does not say so."""

    def hidden(self, tokens: Tensor, *args: Any, **options: Any) -> Tensor:
        return super().hidden(tokens[:, : self.ctx], *args, **options)


class FlatState(TextDecoder):
    """A leaf without rows."""

    def init_state(self, *args: Any, **options: Any) -> State:
        return {**super().init_state(*args, **options), "count": torch.zeros(1)}


class SharesState(TextDecoder):
    """Its fork and the original write to one place that no state operation finds."""

    def init_state(self, *args: Any, **options: Any) -> State:
        hidden = super().init_state(*args, **options)
        return _Hiding(hidden, hidden)

    def hidden(self, tokens: Tensor, memory: Seq, state: State | None = None, *args: Any, **options: Any) -> Tensor:
        held = _Hiding.last if state is not None and not isinstance(state, _Hiding) else state
        return super().hidden(tokens, memory, held, *args, **options)


class _Hiding(dict):
    last: Any = None

    def __init__(self, values: State, hidden: State):
        super().__init__(values)
        _Hiding.last = hidden


BUGS = {
    KeepsCrossKeys: "stateless",
    HandsThroughSelf: "stateless",
    CountsSteps: "stateless",
    ForgetsLengths: "padding",
    ForgetsLengthsWhole: "rows",
    ForgetsAncestors: "reorder",
    FirstRowsOwner: "owners",
    PositionsFromZero: "steps",
    KeepsNothing: "shared",
    RowsMixed: "rows",
    Unheaded: "members",
    NeverEnds: "room",
    FlatState: "layout",
    SharesState: "fork",
}


@pytest.mark.parametrize(("kind", "check"), BUGS.items(), ids=[b.__name__ for b in BUGS])
def test_planted_bugs_are_caught(kind: type[TextDecoder], check: str) -> None:
    with pytest.raises(ContractError) as caught:
        verify_decoder(text(kind), VOCAB)
    assert caught.value.check == check, str(caught.value)


def test_a_part_that_only_scores_is_no_decoder() -> None:
    class Scores(nn.Module):
        def forward(self, tokens: Tensor, memory: Seq) -> Tensor:
            return tokens

        def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State:
            return {}

    with pytest.raises(ContractError, match="members"):
        verify_decoder(Scores(), VOCAB)
