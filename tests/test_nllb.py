"""The NLLB family equals transformers: NLLB/M2M-100, mBART-50 and the text half of SeamlessM4T.

Letters: B rows, T source tokens, U target tokens, V vocabulary.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import verify_contract
from torch import Tensor

from mmx import api
from mmx.errors import CheckpointError
from mmx.model import Model
from mmx.models import nllb
from mmx.models.nllb import KEYS, Config, build, config_from, decoder_rules, embedding_rule, encoder_rules
from mmx.seq import Seq, pad
from mmx.weights.convert import Rule, convert
from mmx.weights.formats import open_checkpoint

VOCAB, WIDTH = 61, 16
NUMBERS = {
    "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24, "decoder_ffn_dim": 40,
}  # fmt: skip
TINY = Config(vocab=VOCAB, ctx=20, width=WIDTH, heads=(4, 2), layers=(2, 3), hidden=(24, 40))


def transformers_package() -> Any:
    return pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize(model: torch.nn.Module, scale: float = 0.3) -> None:
    """Every parameter anew, so that none has a value that hides a mistake (zero, one, equal to another)."""
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))


def texts(lengths: tuple[int, ...], seed: int = 2) -> Seq:
    """Random tokens; none of them is a padding token."""
    return pad([torch.randint(4, VOCAB, (n,), generator=random(seed + i)) for i, n in enumerate(lengths)])


# -------------------- parity


def m2m_100() -> Any:
    package = transformers_package()
    config = package.M2M100Config(vocab_size=VOCAB, d_model=WIDTH, max_position_embeddings=20, **NUMBERS)
    return package.M2M100ForConditionalGeneration(config)


def mbart() -> Any:
    package = transformers_package()
    config = package.MBartConfig(
        vocab_size=VOCAB, d_model=WIDTH, max_position_embeddings=20, scale_embedding=True,
        activation_function="gelu", **NUMBERS,
    )  # fmt: skip
    return package.MBartForConditionalGeneration(config)


def seamless() -> Any:
    package = transformers_package()
    config = package.SeamlessM4Tv2Config(
        vocab_size=VOCAB, hidden_size=WIDTH, max_position_embeddings=20, activation_function="relu",
        pad_token_id=0, bos_token_id=2, eos_token_id=3, **NUMBERS,
    )  # fmt: skip
    return package.SeamlessM4Tv2ForTextToText(config)


SEAMLESS_RULES: list[Rule] = [
    embedding_rule(r"shared|text_(?:en|de)coder\.embed_tokens|lm_head", "encoders.text.token"),
    *encoder_rules(r"text_encoder\.", "encoders.text.", nllb.SEAMLESS),
    *decoder_rules(r"text_decoder\.", "decoder.", nllb.SEAMLESS),
]
MBART = Config(**{**vars(TINY), "activation": "gelu", "positions": "learned", "embed_ln": True})
SEAMLESS = Config(**{**vars(TINY), "offset": 1})
KINDS = {
    "m2m_100": (m2m_100, KEYS["hf"], TINY),
    "mbart": (mbart, KEYS["hf"], MBART),
    "seamless": (seamless, SEAMLESS_RULES, SEAMLESS),
}


def converted(theirs: Any, rules: Any, config: Config) -> Model:
    """Our model with the reference's weights, built as `mmx.load` does."""
    with torch.device("meta"):
        ours = build(config)
    expected = {k: tuple(v.shape) for k, v in ours.named_parameters()}
    api.fill(ours, dict(convert(theirs.state_dict(), rules, expected)))
    return ours.eval()


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> tuple[Any, Model]:
    make, rules, config = KINDS[request.param]
    theirs = make().eval()
    randomize(theirs)
    return theirs, converted(theirs, rules, config)


def their_outputs(model: Any, source: Seq, tokens_BU: Tensor) -> tuple[Tensor, Tensor]:
    ids = torch.where(source.mask, source.x, model.config.pad_token_id)
    with torch.no_grad():
        out = model(input_ids=ids, attention_mask=source.mask.long(), decoder_input_ids=tokens_BU)
    return out.encoder_last_hidden_state, out.logits


@pytest.mark.parity
@pytest.mark.parametrize("lengths", [(7, 7), (9, 3, 1), (20, 2)], ids=str)
def test_values_are_the_references(pair: tuple[Any, Model], lengths: tuple[int, ...]) -> None:
    theirs, ours = pair
    source, tokens = texts(lengths), texts((11,) * len(lengths), 9).x
    states, logits = their_outputs(theirs, source, tokens)
    with torch.no_grad():
        memory = ours.memory({"text": source})
        got = ours.decoder(tokens, memory)
    assert states.abs().max() > 0.1, "values that could tell a mistake"
    torch.testing.assert_close(memory.x[source.mask], states[source.mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, logits, rtol=1e-5, atol=1e-5)


def test_a_padded_batch_equals_single_rows(pair: tuple[Any, Model]) -> None:
    _, ours = pair
    source, tokens = texts((9, 3, 1)), texts((6, 6, 6), 9).x
    with torch.no_grad():
        batch = ours({"text": source}, tokens)
        for row, n in enumerate(source.lengths.tolist()):
            single = Seq(source.x[row : row + 1, :n], source.lengths[row : row + 1])
            wanted = ours({"text": single}, tokens[row : row + 1])
            torch.testing.assert_close(batch[row : row + 1], wanted, rtol=1e-5, atol=1e-5)


def test_step_by_step_equals_one_forward(pair: tuple[Any, Model]) -> None:
    _, ours = pair
    source, tokens = texts((9, 3, 5)), texts((11, 11, 11), 9).x
    with torch.no_grad():
        memory = ours.memory({"text": source})
        wanted = ours.decoder(tokens, memory)
        state = ours.decoder.init_state(3, 2)
        steps = [ours.decoder(part, memory, state) for part in tokens.split([4, 1, 1, 3, 1, 1], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kind", "a", "b"),
    [
        ("m2m_100", "model.encoder.layers.0.self_attn.q_proj.weight", "model.encoder.layers.0.self_attn.k_proj.weight"),
        ("m2m_100", "model.encoder.layers.1.final_layer_norm.bias", "model.encoder.layers.1.self_attn_layer_norm.bias"),
        ("m2m_100", "model.decoder.layers.0.encoder_attn.v_proj.bias", "model.decoder.layers.0.self_attn.v_proj.bias"),
        ("mbart", "model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"),
        ("mbart", "model.encoder.layernorm_embedding.bias", "model.encoder.layer_norm.bias"),
    ],
)
def test_a_swapped_weight_is_noticed(kind: str, a: str, b: str) -> None:
    make, rules, config = KINDS[kind]
    theirs = make().eval()
    randomize(theirs)
    source, tokens = texts((9, 9)), texts((5, 5), 9).x
    _, wanted = their_outputs(theirs, source, tokens)
    state = theirs.state_dict()
    state[a], state[b] = state[b].clone(), state[a].clone()
    theirs.load_state_dict(state)
    with torch.no_grad():
        got = converted(theirs, rules, config)({"text": source}, tokens)
    assert not torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("make", [m2m_100, mbart])
def test_a_saved_checkpoint_names_its_own_numbers(make: Callable[[], Any], tmp_path: Path) -> None:
    theirs = make()
    theirs.save_pretrained(tmp_path)
    source = open_checkpoint(tmp_path, "hf")
    assert api.family_of("hf", source) == "nllb"
    assert Config(**config_from("hf", source.meta, source.shapes)) == KINDS[make.__name__][2]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("kind", "numbers", "count"),
    [
        ("M2M100", {"vocab_size": 256_206, "max_position_embeddings": 1024}, 615_073_792),
        ("MBart", {"vocab_size": 250_054, "scale_embedding": True, "activation_function": "relu"}, 610_879_488),
    ],
)
def test_parameter_counts_at_full_size(kind: str, numbers: dict[str, Any], count: int) -> None:
    package = transformers_package()
    with torch.device("meta"):
        theirs = getattr(package, f"{kind}ForConditionalGeneration")(getattr(package, f"{kind}Config")(**numbers))
        shapes = {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
        ours = build(Config(**config_from("hf", theirs.config.to_dict(), shapes)))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == count


# -------------------- ours


@pytest.fixture(scope="module")
def tiny() -> Model:
    model = build(TINY).eval()
    randomize(model)
    return model


def test_the_embedding_is_one_parameter(tiny: Model) -> None:
    encoder = tiny.encoders["text"]
    assert isinstance(encoder, nllb.Encoder)
    assert encoder.token.weight is tiny.decoder.token.weight is tiny.decoder.head.weight
    names = [n for n, p in tiny.named_parameters() if p is encoder.token.weight]
    assert names == ["encoders.text.token.weight"]


def test_the_embedding_is_still_one_parameter_after_loading(tiny: Model) -> None:
    with torch.device("meta"):
        loaded = build(TINY)
    api.fill(loaded, dict(tiny.named_parameters()))
    encoder = loaded.encoders["text"]
    assert isinstance(encoder, nllb.Encoder)
    assert encoder.token.weight is loaded.decoder.token.weight is loaded.decoder.head.weight
    assert not any(p.is_meta for p in loaded.parameters())


def test_the_encoder_keeps_the_contract(tiny: Model) -> None:
    encoder = tiny.encoders["text"]
    assert isinstance(encoder, nllb.Encoder)
    verify_contract(Embedded(encoder), feature_rows)


ONE_HOOK = threading.Lock()
"""The hook below hangs on the module, which the threads of the contract share."""


class Embedded(torch.nn.Module):
    """The encoder over numbers, which have gradients, where its own input is tokens."""

    stride, lookahead = 1, torch.inf

    encoder: nllb.Encoder

    def __init__(self, encoder: nllb.Encoder):
        super().__init__()
        self.encoder = encoder

    def init_state(self, batch: int, capacity: int) -> dict:
        return {}

    def forward(self, seq: Seq, state: Any = None) -> Seq:
        mixed_BTD = seq.masked.softmax(-1) @ self.encoder.token.weight
        tokens = torch.zeros(seq.x.shape[:2], dtype=torch.int64)
        with ONE_HOOK:
            handle = self.encoder.token.register_forward_hook(lambda *_: mixed_BTD)
            try:
                return self.encoder(seq._replace(x=tokens))
            finally:
                handle.remove()


def feature_rows(lengths: Any, seed: int) -> Seq:
    return Seq(torch.randn(len(lengths), max(lengths), VOCAB, generator=random(seed)), torch.tensor(lengths), 1.0)


def test_tokens_beyond_a_row_are_never_read(tiny: Model) -> None:
    source = texts((9, 3))
    poisoned = source._replace(x=source.x.clone())
    poisoned.x[1, 3:] = 10**9
    with torch.no_grad():
        wanted, got = (tiny.memory({"text": s}) for s in (source, poisoned))
    torch.testing.assert_close(got.x[1, :3], wanted.x[1, :3], rtol=0, atol=0)


def test_too_long_a_source_is_an_error(tiny: Model) -> None:
    with pytest.raises(ValueError, match="expected at most 20 tokens, got 21"):
        tiny.memory({"text": texts((21,))})


def test_the_encoder_may_be_narrower_than_the_decoder(tiny: Model) -> None:
    """`mmx.api.prepare` casts the encoder and then the decoder, which takes the shared embedding along. The memory
    comes in the decoder's precision, with the encoder's rounding."""
    import copy

    mixed = copy.deepcopy(tiny)
    mixed.encoders.to(torch.bfloat16)
    mixed.decoder.to(torch.float32)
    source = texts((9, 3))
    with torch.no_grad():
        got, wanted = mixed.memory({"text": source}), tiny.memory({"text": source})
    assert got.x.dtype == torch.float32 and torch.equal(got.x, got.x.bfloat16().float())
    torch.testing.assert_close(got.x.float(), wanted.x, rtol=0.1, atol=0.1)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(CheckpointError, match="'tanh'"):
        config_from("hf", {"activation_function": "tanh"}, {})
