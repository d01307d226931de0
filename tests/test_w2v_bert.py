"""w2v-BERT 2.0 and the SeamlessM4T speech encoders: equal to transformers, streaming equal to offline.

Letters: B rows, N samples, T frames, F features, D width.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import verify_contract
from safetensors.torch import save_file
from torch import Tensor, nn

import mmx
from mmx.errors import CheckpointError, InputError
from mmx.media.kaldi import Fbank, standardize
from mmx.model import Model
from mmx.models.w2v_bert import KEYS, AdaptorLayer, Config, Encoder, adaptor, build, config_from, encoder, hf_rules
from mmx.nn.quantize import supported
from mmx.seq import Seq, after, concat, pad
from mmx.state import leaves
from mmx.weights.card import find_card
from mmx.weights.convert import convert
from mmx.weights.formats import open_checkpoint

TINY = Config(width=16, heads=2, layers=2, hidden=24, features=12, kernel=5, left=4, right=2)
V2 = dataclasses.replace(TINY, final_norm=True, adaptor_layers=1)
V1 = dataclasses.replace(V2, positions="relative", causal=False, conv_norm="batch")
CHUNKED = dataclasses.replace(TINY, chunk=4, left_chunks=2)
FULL_V2 = Config(final_norm=True, adaptor_layers=1)


def transformers_package() -> Any:
    return pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Every parameter and statistic anew, so that none has a value that hides a mistake (zero, one, equal)."""
    generator = random(1)
    with torch.no_grad():
        for name, value in [*module.named_parameters(), *module.named_buffers()]:
            if value.is_floating_point() and not name.endswith(".pe"):
                value.copy_(scale * torch.randn(value.shape, generator=generator))
                if name.endswith(("running_var", "variance")):
                    value.abs_().add_(0.5)
    return module.eval()


def features(lengths: Sequence[int], seed: int, width: int = TINY.features) -> Seq:
    x = torch.randn(len(lengths), max(lengths), width, generator=random(seed))
    return Seq(x, torch.tensor(lengths), 50.0)


def waveforms(lengths: Sequence[int], seed: int) -> Seq:
    x = 0.1 * torch.randn(len(lengths), max(lengths), generator=random(seed))
    return Seq(x, torch.tensor(lengths), 16_000.0)


def rows(seq: Seq) -> list[Tensor]:
    return [x[:n] for x, n in zip(seq.x, seq.lengths.tolist(), strict=True)]


def alone(seq: Seq) -> list[Seq]:
    """Each row as a batch of its own, without padding."""
    return [Seq(x[None], torch.tensor([len(x)]), seq.rate) for x in rows(seq)]


# -------------------- batches of unequal rows


def test_rows_are_joined_and_cut_each_at_its_own_place() -> None:
    first = pad([torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([], dtype=torch.int64)])
    second = pad([torch.tensor([4]), torch.tensor([5, 6, 7]), torch.tensor([8, 9])])
    second = second._replace(x=torch.where(second.mask, second.x, -1))
    joined = concat(first, second)
    assert [r.tolist() for r in rows(joined)] == [[1, 2, 4], [3, 5, 6, 7], [8, 9]]
    rest = after(joined, torch.tensor([3, 1, 0]), 3)
    assert [r.tolist() for r in rows(rest)] == [[], [5, 6, 7], [8, 9]]
    assert rest.x.tolist() == [[0, 0, 0], [5, 6, 7], [8, 9, 0]]


# -------------------- front end


LENGTHS = (16_000, 9_517, 560, 719, 720, 5_000)


def reference_features(wav_N: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Features and mask of transformers, in float64 inside."""
    extractor = transformers_package().SeamlessM4TFeatureExtractor()
    out = extractor(wav_N.numpy(), sampling_rate=16_000, return_tensors="pt", do_normalize_per_mel_bins=normalize)
    return out["input_features"][0], out["attention_mask"][0].bool()


@pytest.mark.parity
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("scale", [0.1, 1.0, 3e-4])
def test_fbank_gives_transformers_features(normalize: bool, scale: float) -> None:
    noise = waveforms(LENGTHS, 3)
    tone = 0.3 * torch.sin(torch.arange(noise.x.shape[1]) * 0.2)
    seq = noise._replace(x=scale * (noise.x + tone + 0.05))
    poisoned = seq._replace(x=torch.where(seq.mask, seq.x, math.nan))
    got = Fbank(normalize=normalize)(poisoned)
    assert got.rate == 50.0
    for mine, wav in zip(rows(got), rows(seq), strict=True):
        wanted, mask = reference_features(wav, normalize)
        torch.testing.assert_close(mine, wanted[mask].float(), rtol=1e-4, atol=1e-4 if normalize else 1e-6)


def test_silence_gives_finite_features() -> None:
    got = Fbank()(Seq(torch.zeros(2, 4000), torch.tensor([4000, 100]), 16_000.0))
    assert got.lengths.tolist() == [11, 0]
    assert got.x[0].abs().max() < 1e-3
    plain = Fbank(normalize=False)(Seq(torch.zeros(1, 4000), torch.tensor([4000]), 16_000.0))
    torch.testing.assert_close(plain.x, torch.full_like(plain.x, -23 * math.log(2)))  # Kaldi's floor


def test_statistics_are_of_the_valid_frames() -> None:
    seq = features([30, 7], 0)._replace(rate=None)
    shifted = Seq(torch.where(seq.mask[..., None], 5 * seq.x + 1000, math.nan), seq.lengths)
    for got in rows(seq._replace(x=standardize(shifted))):
        torch.testing.assert_close(got.mean(0), torch.zeros(12), atol=1e-5, rtol=0)
        torch.testing.assert_close(got.std(0), torch.ones(12), atol=1e-4, rtol=0)


def test_fbank_streams_without_statistics() -> None:
    block = Fbank(8, normalize=False)
    assert block.lookahead == 240
    verify_contract(block, waveforms, lengths=(3 * 320 + 241, 2000, 560, 300))


def test_fbank_with_statistics_needs_the_whole_recording() -> None:
    verify_contract(Fbank(8), waveforms, lengths=(3 * 320 + 241, 2000, 900, 700), tolerance=5e-5)
    with pytest.raises(InputError, match="normalize=False"):
        Fbank(8)(waveforms([4000], 0)._replace(final=False))


def test_fbank_refuses_another_rate() -> None:
    with pytest.raises(InputError, match="resample"):
        Fbank()(waveforms([4000], 0)._replace(rate=8000.0))


# -------------------- parity


def bert_config(config: Config = TINY, **changes: Any) -> Any:
    c = config
    return transformers_package().Wav2Vec2BertConfig(
        hidden_size=c.width, num_hidden_layers=c.layers, num_attention_heads=c.heads, intermediate_size=c.hidden,
        feature_projection_input_dim=c.features, conv_depthwise_kernel_size=c.kernel,
        position_embeddings_type=c.positions, left_max_position_embeddings=c.left,
        right_max_position_embeddings=c.right, max_source_positions=50, **changes,
    )  # fmt: skip


def bert(**changes: Any) -> Any:
    return randomize(transformers_package().Wav2Vec2BertModel(bert_config(**changes)))


def seamless_config(config: Config, **changes: Any) -> Any:
    package = transformers_package()
    c = config
    kind = package.SeamlessM4TConfig if c.positions == "relative" else package.SeamlessM4Tv2Config
    return kind(
        hidden_size=c.width, speech_encoder_layers=c.layers, speech_encoder_attention_heads=c.heads,
        speech_encoder_intermediate_size=c.hidden, feature_projection_input_dim=c.features,
        conv_depthwise_kernel_size=c.kernel, position_embeddings_type=c.positions,
        left_max_position_embeddings=c.left, right_max_position_embeddings=c.right, max_source_positions=50,
        add_adapter=True, **changes,
    )  # fmt: skip


def seamless(config: Config, **changes: Any) -> Any:
    transformers_package()
    from transformers.models.seamless_m4t import modeling_seamless_m4t as v1
    from transformers.models.seamless_m4t_v2 import modeling_seamless_m4t_v2 as v2

    kind = v1.SeamlessM4TSpeechEncoder if config.positions == "relative" else v2.SeamlessM4Tv2SpeechEncoder
    return randomize(kind(seamless_config(config, **changes)))


def ours(reference: nn.Module, config: Config) -> Model:
    """Our model with the reference's weights, through the conversion table."""
    model = build(config).eval()
    expected = {k: tuple(v.shape) for k, v in model.named_parameters()}
    rules = KEYS["hf"] if config.conv_norm == "layer" else hf_rules(conv_norm="batch_norm")
    model.load_state_dict(dict(convert(reference.state_dict(), rules, expected)))
    return model


def encode(model: Model, seq: Seq) -> Seq:
    return model.encode("speech", seq, "encoders")


def reference_rows(reference: Any, seq: Seq, together: bool) -> list[Tensor]:
    with torch.no_grad():
        if not together:
            return [reference(row.x).last_hidden_state[0] for row in alone(seq)]
        out = reference(seq.masked, attention_mask=seq.mask.long()).last_hidden_state
        return [x[:n] for x, n in zip(out, seq.lengths.tolist(), strict=True)]


def assert_rows(got: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert b.abs().max() > 0.1, "values that could tell a mistake"
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


ROWS = (41, 17, 9, 40)


@pytest.mark.parity
@pytest.mark.parametrize("together", [True, False], ids=["batch", "single"])
@pytest.mark.parametrize("positions", ["relative_key", "relative"])
def test_the_encoder_gives_w2v_berts_values(positions: Any, together: bool) -> None:
    config = dataclasses.replace(TINY, positions=positions)
    reference = bert(config=config)
    seq = features(ROWS, 2)
    with torch.no_grad():
        got = encode(ours(reference, config), seq._replace(x=torch.where(seq.mask[..., None], seq.x, math.nan)))
    assert_rows(rows(got), reference_rows(reference, seq, together))


@pytest.mark.parity
@pytest.mark.parametrize("config", [V2, V1], ids=["v2", "v1"])
def test_encoder_and_adaptor_give_seamless_values(config: Config) -> None:
    """Single rows: in a padded batch, transformers lets what it computed in the padding into the adaptor."""
    reference = seamless(config)
    seq = features(ROWS, 2)
    with torch.no_grad():
        got = encode(ours(reference, config), seq)
    assert got.lengths.tolist() == [n // 8 + 1 for n in ROWS]
    assert got.rate == 50.0 / 8
    assert_rows(rows(got), reference_rows(reference, seq, together=False))


@pytest.mark.parity
@pytest.mark.parametrize(("chunk", "left_chunks"), [(4, 0), (4, 2), (7, 1), (64, 0)])
@pytest.mark.parametrize("together", [True, False], ids=["batch", "single"])
def test_the_chunk_mask_is_seamless_own(chunk: int, left_chunks: int, together: bool) -> None:
    config = dataclasses.replace(V2, chunk=chunk, left_chunks=left_chunks, adaptor_layers=0)
    reference = seamless(V2, speech_encoder_chunk_size=chunk, speech_encoder_left_chunk_num=left_chunks)
    reference.adapter, reference.intermediate_ffn = None, nn.Module()
    reference.intermediate_ffn.forward = torch.zeros_like
    reference.inner_layer_norm = nn.Identity()
    seq = features(ROWS, 2)
    with torch.no_grad():
        got = encode(ours(reference, config), seq)
    assert_rows(rows(got), reference_rows(reference, seq, together))


@pytest.mark.parity
@pytest.mark.parametrize("mlp", [True, False])
def test_the_optional_adapter_of_w2v_bert(mlp: bool) -> None:
    changes = {"add_adapter": True, "num_adapter_layers": 2, "use_intermediate_ffn_before_adapter": mlp}
    reference = bert(**changes)
    config = Config(**config_from("hf", reference.config.to_dict(), {}))
    assert config == dataclasses.replace(
        TINY, adaptor_layers=2, adaptor_kernel=3, adaptor_stride=2, adaptor_mlp=mlp, adaptor_norm=False
    )
    seq = features(ROWS, 2)
    with torch.no_grad():
        assert_rows(rows(encode(ours(reference, config), seq)), reference_rows(reference, seq, together=False))


# -------------------- checkpoints


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is converted here is of no use to anyone later."""
    monkeypatch.setenv("MMX_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parity
@pytest.mark.parametrize("add_adapter", [False, True])
def test_a_published_checkpoint_is_loaded(tmp_path: Path, cache: None, add_adapter: bool) -> None:
    """By file: `config.json` and safetensors, as the hub has them; it needs no tokenizer."""
    reference = bert(add_adapter=add_adapter)
    reference.save_pretrained(tmp_path)
    model = mmx.load(tmp_path, dtype="float32", device="cpu")
    assert model.tokenizer is None
    seq = features(ROWS, 2)
    with torch.no_grad():
        got = encode(model, seq)
    assert_rows(rows(got), reference_rows(reference, seq, together=not add_adapter))


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_it_loads_in_less_precision_too(tmp_path: Path, cache: None, dtype: Any) -> None:
    if dtype == "int8" and not supported():
        pytest.skip("needs an x86 CPU")
    reference = bert(add_adapter=True)
    reference.save_pretrained(tmp_path)
    seq = features(ROWS, 2)
    with torch.no_grad():
        got = encode(mmx.load(tmp_path, dtype=dtype, device="cpu"), seq)
    assert got.x.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    for a, b in zip(rows(got), reference_rows(reference, seq, together=False), strict=True):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.1)


@pytest.mark.parity
def test_the_same_table_serves_under_a_prefix(tmp_path: Path) -> None:
    reference = seamless(V2)
    save_file({f"speech_encoder.{k}": v for k, v in reference.state_dict().items()}, tmp_path / "model.safetensors")
    model = build(V2)
    expected = {k: tuple(v.shape) for k, v in model.named_parameters()}
    got = dict(convert(open_checkpoint(tmp_path, "hf"), hf_rules(r"speech_encoder\."), expected))
    plain = dict(convert(reference.state_dict(), hf_rules(), expected))
    assert got.keys() == plain.keys()
    assert all(torch.equal(got[k], plain[k]) for k in got)
    with pytest.raises(CheckpointError, match="matched by none"):
        dict(convert(open_checkpoint(tmp_path, "hf"), hf_rules(), expected))


def test_a_config_with_other_parts_is_refused() -> None:
    meta = json.loads('{"hidden_size": 16, "position_embeddings_type": "rotary"}')
    with pytest.raises(CheckpointError, match="rotary"):
        config_from("hf", meta, {})
    with pytest.raises(CheckpointError, match="gelu"):
        config_from("hf", {**meta, "position_embeddings_type": "relative", "hidden_act": "gelu"}, {})


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_card_counts_its_parameters() -> None:
    card = find_card("w2v-bert-2.0")
    with torch.device("meta"):
        model = build(Config(**card.config))
    assert all(p.is_meta for p in model.parameters())
    assert count(model) == card.parameters == 580_492_096


@pytest.mark.parity
def test_full_size_counts_are_transformers_own() -> None:
    package = transformers_package()
    from transformers.models.seamless_m4t import modeling_seamless_m4t as v1
    from transformers.models.seamless_m4t_v2 import modeling_seamless_m4t_v2 as v2

    with torch.device("meta"):
        alone = package.Wav2Vec2BertModel(package.Wav2Vec2BertConfig())
        inside = v2.SeamlessM4Tv2SpeechEncoder(package.SeamlessM4Tv2Config())
        first = v1.SeamlessM4TSpeechEncoder(package.SeamlessM4TConfig())
        ours_first = build(dataclasses.replace(FULL_V2, positions="relative", causal=False, conv_norm="batch"))
        assert count(build(Config())) == count(alone) - alone.masked_spec_embed.numel()
        assert count(build(FULL_V2)) == count(inside) == 635_046_720
    statistics = 2 * 24 * 1024  # buffers there, parameters that do not train here
    assert count(ours_first) == count(first) + statistics


# -------------------- contract


def lively(module: Any) -> Any:
    """Random weights of a size that every path shows in the output."""
    return randomize(module)


@pytest.mark.parametrize(("chunk", "left_chunks"), [(4, 2), (1, 0), (3, 0), (1, 5)])
def test_the_chunked_encoder_keeps_the_contract(chunk: int, left_chunks: int) -> None:
    block = lively(encoder(dataclasses.replace(TINY, chunk=chunk, left_chunks=left_chunks)))
    assert block.lookahead == chunk - 1
    verify_contract(block, features, lengths=(27, 12, 5, 2))


def test_the_encoder_keeps_the_contract_offline() -> None:
    for config in (TINY, dataclasses.replace(V1, adaptor_layers=0)):
        verify_contract(lively(encoder(config)), features, lengths=(27, 12, 5, 2))


@pytest.mark.parametrize(("chunk", "left_chunks"), [(None, 0), (8, 1), (24, 2), (16, 0)])
def test_the_adaptor_keeps_the_contract(chunk: int | None, left_chunks: int) -> None:
    block = lively(adaptor(dataclasses.replace(V2, chunk=chunk, left_chunks=left_chunks)))
    verify_contract(block, lambda lengths, seed: features(lengths, seed, 16), lengths=(77, 64, 29, 3))


def test_two_adaptor_layers_keep_the_contract() -> None:
    config = dataclasses.replace(V2, adaptor_layers=2, adaptor_kernel=3, adaptor_stride=2, chunk=8, left_chunks=1)
    verify_contract(lively(adaptor(config)), lambda lengths, seed: features(lengths, seed, 16), lengths=(45, 32, 9, 3))


@pytest.mark.parametrize("chunk", [None, 8])
def test_the_adaptor_makes_nothing_of_nothing(chunk: int | None) -> None:
    """By the formula of its convolution a row without a frame would give one, of padding alone."""
    block = lively(adaptor(dataclasses.replace(V2, chunk=chunk)))
    seq = features([0, 9, 3, 4], 0, 16)
    assert block(seq).lengths.tolist() == [0, 2, 1, 1]
    assert block(seq, block.init_state(4, 0)).lengths.tolist() == [0, 2, 1, 1]


def test_the_two_together_stream() -> None:
    """Encoder and adaptor, chunk by chunk: a chunk of the one gives a chunk of the other at once."""
    model = lively(build(dataclasses.replace(V2, chunk=16, left_chunks=1)))
    seq = features([69], 1)
    with torch.no_grad():
        wanted = encode(model, seq)
        states = [model.encoders["speech"].init_state(1, 0), model.adapters["speech"].init_state(1, 0)]
        parts = []
        for at in range(0, 69, 16):
            piece = Seq(seq.x[:, at : at + 16], torch.tensor([min(16, 69 - at)]), 50.0, at + 16 >= 69)
            for block, state in zip((model.encoders["speech"], model.adapters["speech"]), states, strict=True):
                piece = block(piece, state)
            parts.append(piece.x[:, : int(piece.lengths)])
    assert [p.shape[1] for p in parts] == [2, 2, 2, 2, 1]
    torch.testing.assert_close(torch.cat(parts, 1), wanted.x, rtol=2e-6, atol=2e-6)


def test_a_stream_does_not_grow() -> None:
    block = lively(encoder(CHUNKED))
    state = block.init_state(2, 0)
    sizes = {k: v.shape for k, v in leaves(state)}
    with torch.no_grad():
        for i in range(40):
            block(features([7, 3], i)._replace(final=False), state)
    assert {k: v.shape for k, v in leaves(state)} == sizes
    assert int(state["filled"].max()) == 8


def test_a_long_input_is_worked_through_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attention matrix of the whole input is made under a chunk mask."""
    seen: list[tuple[int, int]] = []
    attend = nn.functional.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append((q.shape[2], k.shape[2]))
        return attend(q, k, v, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        lively(encoder(CHUNKED))(features([200], 0))
    assert max(t for t, _ in seen) == 12
    assert max(s for _, s in seen) == 20


@pytest.mark.parametrize("part", ["encoder", "adaptor"])
def test_without_a_chunk_mask_a_stream_is_refused(part: str) -> None:
    block, width = (encoder(V2), 12) if part == "encoder" else (adaptor(V2), 16)
    assert block is not None
    assert block.lookahead == math.inf
    piece = features([20], 0, width)
    with pytest.raises(InputError, match="chunk mask"):
        block(piece._replace(final=False), block.init_state(1, 0))
    torch.testing.assert_close(block(piece, block.init_state(1, 0)).x, block(piece).x)


def test_chunks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="causal"):
        encoder(dataclasses.replace(V1, chunk=4))
    with pytest.raises(ValueError, match="chunk >= 1"):
        encoder(dataclasses.replace(TINY, chunk=0))
    with pytest.raises(InputError, match="divisible"):
        adaptor(dataclasses.replace(V2, chunk=12))
    with pytest.raises(ValueError, match="kernel"):
        AdaptorLayer(16, 2, 24, 4, 8)


def test_relative_keys_need_no_tensor_of_frames_by_frames_by_width() -> None:
    """Of 300 frames: nothing larger than heads x frames x frames is kept for the gradient."""
    block: Encoder = lively(encoder(dataclasses.replace(TINY, layers=1)))
    sizes: list[int] = []

    def pack(t: Tensor) -> Tensor:
        sizes.append(t.untyped_storage().nbytes() // t.element_size())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        block(features([300], 0))
    assert max(sizes) <= TINY.heads * 300 * 300


# -------------------- the model


def test_embeddings_are_those_of_single_recordings() -> None:
    config = dataclasses.replace(TINY, features=160)
    model: Model = lively(build(config))
    seq = waveforms([9000, 4000, 6001], 0)
    poisoned = seq._replace(x=torch.where(seq.mask, seq.x, math.nan))
    with torch.no_grad():
        together = model.embed({"speech": poisoned})
        singles = torch.cat([model.embed({"speech": row}) for row in alone(seq)])
    torch.testing.assert_close(together, singles, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_a_model_without_decoder_says_so() -> None:
    model = build(TINY)
    assert model.name == "w2v_bert"
    with pytest.raises(InputError, match="no decoder"):
        model({"speech": waveforms([9000], 0)}, torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(InputError, match="no decoder"):
        model.transcribe(np.zeros(16_000, dtype=np.float32))
