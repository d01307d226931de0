"""fairseq2's checkpoints and asset cards, read without fairseq2; its own modules are compared by `nox -s fairseq2`.

Letters: B rows, T source tokens or frames, U target tokens.
"""

import builtins
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from test_convert import Evil
from test_seamless_m4t import TINY as SEAMLESS
from test_seamless_m4t_v1 import V1
from torch import Tensor

from mmx import api
from mmx.errors import CheckpointError, InputError, ModelNotFoundError
from mmx.models import nllb, seamless_m4t, seamless_m4t_v1, w2v_bert
from mmx.weights import fairseq2 as asset_card
from mmx.weights import hub
from mmx.weights.convert import convert
from mmx.weights.family import import_family
from mmx.weights.formats import open_checkpoint

WIDTH, VOCAB, HIDDEN = 16, 61, 24


def random(shapes: Mapping[str, tuple[int, ...]], seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {k: 0.3 * torch.randn(s, generator=generator) for k, s in shapes.items()}


def linear(name: str, rows: int = WIDTH, columns: int = WIDTH) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def norm(name: str, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def attention(name: str) -> dict[str, tuple[int, ...]]:
    parts = [linear(f"{name}.{p}") for p in ("q_proj", "k_proj", "v_proj", "output_proj")]
    return {k: v for part in parts for k, v in part.items()}


def mlp(name: str) -> dict[str, tuple[int, ...]]:
    return linear(f"{name}.inner_proj", HIDDEN, WIDTH) | linear(f"{name}.output_proj", WIDTH, HIDDEN)


def nllb_shapes() -> dict[str, tuple[int, ...]]:
    """What `state_dict()` of fairseq2 0.8.1's NLLB lists, with one layer a side."""
    out: dict[str, tuple[int, ...]] = {}
    for side in ("encoder", "decoder"):
        layer = f"{side}.layers.0"
        out |= {f"{side}_frontend.embed.weight": (VOCAB, WIDTH)} | norm(f"{side}.layer_norm")
        out |= norm(f"{layer}.self_attn_layer_norm") | attention(f"{layer}.self_attn")
        out |= norm(f"{layer}.ffn_layer_norm") | mlp(f"{layer}.ffn")
    cross = "decoder.layers.0.encoder_decoder_attn"
    return out | norm(f"{cross}_layer_norm") | attention(cross) | {"final_proj.weight": (VOCAB, WIDTH)}


def conformer_layer(layer: str) -> dict[str, tuple[int, ...]]:
    """A Conformer layer with Transformer-XL positions, which fairseq2's w2v-BERT has."""
    out = attention(f"{layer}.self_attn")
    for n in ("1", "2"):
        out |= norm(f"{layer}.ffn{n}_layer_norm") | mlp(f"{layer}.ffn{n}")
    for name in ("self_attn_layer_norm", "conv_layer_norm", "layer_norm", "conv.batch_norm"):
        out |= norm(f"{layer}.{name}")
    return out | {
        f"{layer}.self_attn.sdpa.u_bias": (2, WIDTH // 2),
        f"{layer}.self_attn.sdpa.v_bias": (2, WIDTH // 2),
        f"{layer}.self_attn.sdpa.r_proj.weight": (WIDTH, WIDTH),
        f"{layer}.conv.pointwise_conv1.weight": (2 * WIDTH, WIDTH, 1),
        f"{layer}.conv.depthwise_conv.weight": (WIDTH, 1, 5),
        f"{layer}.conv.batch_norm.running_mean": (WIDTH,),
        f"{layer}.conv.batch_norm.running_var": (WIDTH,),
        f"{layer}.conv.batch_norm.num_batches_tracked": (),
        f"{layer}.conv.pointwise_conv2.weight": (WIDTH, WIDTH, 1),
    }


def bert_shapes() -> dict[str, tuple[int, ...]]:
    """What `state_dict()` of fairseq2 0.8.1's w2v-BERT lists, with two layers."""
    inner = norm("encoder_frontend.post_extract_layer_norm", 12)
    inner |= linear("encoder_frontend.model_dim_proj", WIDTH, 12)
    inner |= conformer_layer("encoder.layers.0") | conformer_layer("encoder.layers.1")
    inner |= {"masker.temporal_mask_embed": (WIDTH,), "quantizer.entries": (1, 6, 8), "quantizer.num_updates": ()}
    inner |= linear("quantizer.entry_proj", 6, 12) | linear("final_proj", 8, WIDTH) | linear("final_target_proj", 8, 8)
    return {f"w2v2_model.{k}": v for k, v in inner.items()} | linear("final_bert_proj", 6, WIDTH)


def nllb_tensors() -> dict[str, Tensor]:
    tensors = random(nllb_shapes())
    embedding = tensors["final_proj.weight"]
    return tensors | dict.fromkeys(("encoder_frontend.embed.weight", "decoder_frontend.embed.weight"), embedding)


def read(path: Path, numbers: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Family, numbers and tensors by our names, as `mmx.load` finds them."""
    found = hub.at_path(path)
    source = open_checkpoint(path, found.format)
    family = import_family(api.family_of(found.format, source))
    shapes = family.prepare_source(found.format, source).shapes
    config = family.config_from(found.format, {**source.meta, **(numbers or {})}, shapes)
    with torch.device("meta"):
        model = family.build(family.Config(**config))
    return family.name, config, dict(api.converted(model, family, found))


# -------------------- names


def test_nllb_by_its_names(tmp_path: Path) -> None:
    theirs = nllb_tensors()
    torch.save({"model": theirs}, tmp_path / "nllb.pt")
    heads = {"num_encoder_attn_heads": 2, "num_decoder_attn_heads": 4, "max_seq_len": 20}
    family, config, ours = read(tmp_path / "nllb.pt", heads)
    assert family == "nllb"
    assert config == {
        "vocab": VOCAB, "ctx": 20, "width": WIDTH, "heads": (2, 4), "layers": (1, 1), "hidden": (HIDDEN, HIDDEN),
        "offset": 2,
    }  # fmt: skip
    assert torch.equal(
        ours["decoder.layers.0.cross.out.bias"], theirs["decoder.layers.0.encoder_decoder_attn.output_proj.bias"]
    )
    assert torch.equal(ours["encoders.text.layers.0.mlp.2.weight"], theirs["encoder.layers.0.ffn.output_proj.weight"])
    assert torch.equal(ours["decoder.ln.weight"], theirs["decoder.layer_norm.weight"])


def test_special_tokens_take_the_places_that_the_tokenizer_gives_them(tmp_path: Path) -> None:
    theirs = nllb_tensors()
    torch.save(theirs, tmp_path / "nllb.pt")  # without the dict around it, too
    _, _, ours = read(tmp_path / "nllb.pt")
    pad, unk, bos, eos = theirs["final_proj.weight"][:4]
    rows = ours["encoders.text.token.weight"]
    assert torch.equal(rows[:4], torch.stack([bos, pad, eos, unk]))
    assert torch.equal(rows[4:], theirs["final_proj.weight"][4:])
    assert rows[nllb.TOKEN_IDS["eos_token_id"]].equal(eos) and rows[nllb.TOKEN_IDS["pad_token_id"]].equal(pad)


def test_embeddings_that_differ_are_refused(tmp_path: Path) -> None:
    theirs = nllb_tensors()
    theirs["encoder_frontend.embed.weight"] = theirs["encoder_frontend.embed.weight"] + 1
    torch.save({"model": theirs}, tmp_path / "nllb.pt")
    with pytest.raises(CheckpointError, match="encoder_frontend"):
        read(tmp_path / "nllb.pt")


def test_nllb_in_the_older_names_of_fairseq(tmp_path: Path) -> None:
    """The model of before, renamed as fairseq had it: its rows are in our order."""
    renames = (
        ("encoder_decoder_attn", "encoder_attn"), ("ffn.inner_proj", "fc1"), ("ffn.output_proj", "fc2"),
        ("ffn_layer_norm", "final_layer_norm"), ("output_proj", "out_proj"),
        ("final_proj", "decoder.output_projection"), ("coder_frontend.embed", "coder.embed_tokens"),
    )  # fmt: skip
    theirs = nllb_tensors()
    older = {"encoder.version": torch.ones(1), "decoder.embed_positions._float_tensor": torch.ones(1)}
    for key, value in theirs.items():
        for a, b in renames:
            key = key.replace(a, b)
        older[key] = value
    torch.save({"model": theirs}, tmp_path / "new.pt")
    torch.save({"model": older}, tmp_path / "old.pt")
    assert hub.at_path(tmp_path / "old.pt").format == "fairseq"
    family, config, ours = read(tmp_path / "old.pt")
    _, wanted_config, wanted = read(tmp_path / "new.pt")
    assert family == "nllb" and config == wanted_config
    embedding = "encoders.text.token.weight"
    assert torch.equal(ours.pop(embedding), theirs["final_proj.weight"])
    wanted.pop(embedding)
    assert ours.keys() == wanted.keys() and all(torch.equal(ours[k], wanted[k]) for k in ours)


@pytest.mark.parametrize("prefix", ["", "module."], ids=["plain", "data parallel"])
def test_w2v_bert_by_its_names(tmp_path: Path, prefix: str) -> None:
    theirs = random(bert_shapes())
    torch.save({"model": {prefix + k: v for k, v in theirs.items()}}, tmp_path / "bert.pt")
    family, config, ours = read(tmp_path / "bert.pt")
    assert family == "w2v_bert"
    assert w2v_bert.Config(**config) == w2v_bert.Config(
        width=WIDTH, heads=2, layers=2, hidden=HIDDEN, features=12, kernel=5, positions="relative", causal=False,
        conv_norm="batch",
    )  # fmt: skip
    layer, own = "w2v2_model.encoder.layers.1.", "encoders.speech.layers.1."
    for a, b in (
        ("self_attn.sdpa.u_bias", "attn.positions.content"), ("self_attn.sdpa.v_bias", "attn.positions.position"),
        ("conv.batch_norm.running_var", "conv.norm.variance"), ("conv_layer_norm.bias", "conv.ln.bias"),
        ("ffn2.output_proj.weight", "mlp2.2.weight"), ("layer_norm.bias", "ln.bias"),
    ):  # fmt: skip
        assert torch.equal(ours[own + b], theirs[layer + a]), a


def test_a_missing_and_an_extra_tensor_are_named(tmp_path: Path) -> None:
    theirs = nllb_tensors()
    del theirs["decoder.layers.0.ffn.output_proj.bias"]
    torch.save({"model": theirs}, tmp_path / "nllb.pt")
    with pytest.raises(CheckpointError, match=r"missing \(1\): decoder.layers.0.mlp.2.bias"):
        read(tmp_path / "nllb.pt")
    torch.save({"model": nllb_tensors() | {"decoder.layers.0.film.weight": torch.ones(2)}}, tmp_path / "nllb.pt")
    with pytest.raises(CheckpointError, match=r"matched by none \(1\): decoder.layers.0.film.weight"):
        read(tmp_path / "nllb.pt")


def test_a_shape_that_the_numbers_need_is_named(tmp_path: Path) -> None:
    torch.save({"model": {"encoder_frontend.model_dim_proj.weight": torch.ones(2, 2)}}, tmp_path / "some.pt")
    with pytest.raises(CheckpointError, match=r"u_bias"):
        api.locate(tmp_path / "some.pt")


def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    torch.save({"model": nllb_tensors(), "cfg": Evil(touched)}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match="nothing was executed"):
        open_checkpoint(tmp_path / "evil.pt", "fairseq2")
    with pytest.raises(CheckpointError):
        api.locate(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"model": Evil(touched)}))
    with pytest.raises(CheckpointError):
        api.locate(tmp_path / "plain.pt")
    assert not touched.exists()


# -------------------- Seamless

SPEECH = (
    ("feature_projection.projection", "speech_encoder_frontend.model_dim_proj"),
    ("feature_projection.layer_norm", "speech_encoder_frontend.post_extract_layer_norm"),
    ("speech_encoder.encoder.layer_norm", "speech_encoder.inner_layer_norm"),
    ("speech_encoder.encoder.layers", "speech_encoder.inner.layers"), ("adapter.layers", "adaptor_layers"),
    ("final_layer_norm", "layer_norm"),
    ("intermediate_ffn.intermediate_dense", "proj1"), ("intermediate_ffn.output_dense", "proj2"),
    ("intermediate_dense", "inner_proj"), ("output_dense", "output_proj"),
    ("self_attn.linear_out", "self_attn.output_proj"),
    ("self_attn.linear_q", "self_attn.q_proj"), ("self_attn.linear_k", "self_attn.k_proj"),
    ("self_attn.linear_v", "self_attn.v_proj"), ("self_attn.linear_pos", "self_attn.sdpa.r_proj"),
    ("pos_bias_u", "sdpa.u_bias"), ("pos_bias_v", "sdpa.v_bias"), ("distance_embedding", "sdpa.rel_k_embed"),
    ("conv_module.layer_norm", "conv_layer_norm"), ("conv_module.depthwise_layer_norm", "conv.layer_norm"),
    ("conv_module", "conv"),
)  # fmt: skip
TEXT = (
    ("t2u_model.model.", "t2u_model."), ("t2u_model.lm_head", "t2u_model.final_proj"), ("lm_head", "final_proj"),
    ("cross_attention", "encoder_decoder_attn"), ("ffn.fc1", "ffn.inner_proj"), ("ffn.fc2", "ffn.output_proj"),
    ("out_proj", "output_proj"), ("text_encoder.embed_tokens", "text_encoder_frontend.embed"),
    ("text_decoder.embed_tokens", "text_decoder_frontend.embed"), ("decoder.embed_char", "decoder_frontend.embed_char"),
    ("decoder.pos_emb_alpha", "decoder_frontend.pos_emb_alpha"), ("decoder.embed_tokens", "decoder_frontend.embed"),
    ("decoder.duration_predictor", "decoder_frontend.variance_adaptor.duration_predictor"),
    ("predictor.conv1", "predictor.conv1.0"), ("predictor.conv2", "predictor.conv2.0"),
    ("conv_layer_norm", "conv1d_layer_norm"),
)  # fmt: skip
VOICE = (
    ("hifi_gan.upsampler", "ups"), ("hifi_gan.", ""), ("language_embedding", "lang"), ("speaker_embedding", "spkr"),
    ("unit_embedding", "dict"), ("predictor.conv1", "predictor.conv1.0"), ("predictor.conv2", "predictor.conv2.0"),
)  # fmt: skip


def renamed(key: str, names: tuple[tuple[str, str], ...]) -> str:
    for a, b in names:
        key = key.replace(a, b)
    return key


def published(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A state of transformers under the names of seamless_communication: the model's file and the vocoder's."""
    model, voice = {}, {}
    for key, value in state.items():
        if key.startswith("vocoder."):
            voice[renamed(key.removeprefix("vocoder."), VOICE)] = value
        elif key.startswith("speech_encoder."):
            # The adaptor's last norm has the name there that the encoder's has here.
            key = key.replace("speech_encoder.inner_layer_norm", "speech_encoder.LAST")
            model[renamed(key.replace("speech_encoder.feature", "feature"), SPEECH).replace("LAST", "layer_norm")] = (
                value
            )
        elif key != "shared.weight":
            name = renamed(key, TEXT)
            layer = name.split(".decoder.layers.")[-1].partition(".")[2]
            if name.startswith("t2u_model.decoder.layers") and layer.startswith(("conv1.", "conv2.")):
                name = name.replace(".conv", ".conv1d.conv")
            model[name] = value
    return model, voice


def seamless(version: str) -> tuple[Any, Any]:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")
    if version == "v2":
        return transformers.SeamlessM4Tv2Model(transformers.SeamlessM4Tv2Config(**SEAMLESS)), seamless_m4t
    return transformers.SeamlessM4TModel(transformers.SeamlessM4TConfig(**V1)), seamless_m4t_v1


def save_seamless(folder: Path, version: str, weight_norm: bool = False) -> tuple[dict[str, Tensor], Any, Any]:
    """The files of a tiny model, its tensors in our names, the family, and what a card would say."""
    theirs, family = seamless(version)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    state = theirs.state_dict()
    config = family.Config(**family.config_from("hf", theirs.config.to_dict(), {}))
    with torch.device("meta"):
        model = family.build(config)
    wanted = dict(convert(state, family.KEYS["hf"], {k: tuple(v.shape) for k, v in model.named_parameters()}))
    model_file, voice = published(state)
    if weight_norm:
        key = "resblocks.0.convs1.0.weight"
        direction = voice.pop(key)
        voice |= {f"{key}_v": direction * 3, f"{key}_g": direction.flatten(1).norm(dim=1)[:, None, None]}
    torch.save({"model": model_file}, folder / "model.pt")
    torch.save({"generator": voice}, folder / "vocoder_v2.pt")
    return wanted, family, config


def numbers(config: Any) -> dict[str, Any]:
    """What no shape tells, under fairseq2's names."""
    return {
        "num_encoder_attn_heads": config.text.heads[0], "num_decoder_attn_heads": config.text.heads[1],
        "max_seq_len": config.text.ctx, "num_t2u_attn_heads": config.units.heads, "unit_max_seq_len": config.units.ctx,
        "max_right_rel_pos": config.speech.right, "adaptor_stride": config.speech.adaptor_stride,
        "upsample_rates": config.vocoder.strides, "resblock_dilation_sizes": config.vocoder.dilations,
    }  # fmt: skip


@pytest.mark.parity
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_seamless_files_hold_what_hugging_faces_do(tmp_path: Path, version: str) -> None:
    wanted, family, config = save_seamless(tmp_path, version, weight_norm=True)
    name, found, ours = read(tmp_path / "model.pt", numbers(config))
    assert f"mmx.models.{name}" == family.__name__
    assert ours.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-7, msg=key)
    got = family.Config(**found)
    for part in ("units", "vocoder", "speech"):
        assert {k: v for k, v in vars(getattr(got, part)).items() if k not in ("left", "right")} == {
            k: tuple(map(tuple, v)) if k == "dilations" else v
            for k, v in vars(getattr(config, part)).items()
            if k not in ("left", "right")
        }, part
    assert got.text.offset == 2, "fairseq2 counts positions from 2, transformers' conversion from 1"


@pytest.mark.parity
def test_a_model_that_speaks_needs_its_vocoder(tmp_path: Path) -> None:
    save_seamless(tmp_path, "v2")
    (tmp_path / "vocoder_v2.pt").unlink()
    with pytest.raises(CheckpointError, match=r"vocoder\*\.pt beside"):
        api.locate(tmp_path / "model.pt")


# -------------------- asset cards


def card(folder: Path, text: str, name: str = "card.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_a_card_with_its_base_in_another_file(tmp_path: Path) -> None:
    (tmp_path / "spm.model").write_bytes(b"")
    (tmp_path / "w.pt").write_bytes(b"")
    card(tmp_path, "name: base\ntokenizer: spm.model\nlangs:\n  - deu\n  - eng\n", "base.yaml")
    path = card(
        tmp_path,
        "name: tiny\nbase: base\nmodel_arch: a\ncheckpoint: w.pt\n"
        "model_config_overrides:\n  _set_:\n    num_encoder_attn_heads: 2\n  deep:\n    max_seq_len: 9\n",
    )
    asset = asset_card.read(path)
    assert asset.checkpoint == tmp_path / "w.pt" and asset.tokenizer == tmp_path / "spm.model"
    assert asset.numbers == {"num_encoder_attn_heads": 2, "max_seq_len": 9}
    assert asset.languages == ("deu", "eng")


def test_a_card_among_several_and_a_file_address(tmp_path: Path) -> None:
    (tmp_path / "a b.pt").write_bytes(b"")
    address = (tmp_path / "a b.pt").as_uri()
    path = card(tmp_path, f"name: other\nlangs: [fra]\n---\nname: tiny\nbase: other\ncheckpoint: '{address}'\n")
    asset = asset_card.read(path)
    assert (asset.name, asset.checkpoint, asset.languages) == ("tiny", tmp_path / "a b.pt", ("fra",))


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("name: [", InputError, "YAML"),
        ("- 1", InputError, "checkpoint"),
        ("name: a\nbase: b\ncheckpoint: w.pt", InputError, "'b', which 'a' builds on"),
        ("name: a\nbase: b\ncheckpoint: w.pt\n---\nname: b\nbase: a\n", InputError, "circle"),
        ("name: a\ncheckpoint: https://example.org/w.pt", ModelNotFoundError, "download it"),
        ("name: a\ncheckpoint: none.pt", ModelNotFoundError, "correct the path"),
        ("name: !!python/object/apply:os.system [touch evil]", InputError, "YAML"),
    ],
)
def test_a_card_that_cannot_be_followed_is_told(tmp_path: Path, text: str, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        asset_card.read(card(tmp_path, text))


def test_a_name_without_fairseq2_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("fairseq2"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setitem(__import__("sys").modules, "fairseq2", None)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ModelNotFoundError, match="none installed"):
        asset_card.find("nllb-200")
