"""Our NLLB and w2v-BERT against fairseq2's own modules at tiny size, through saved checkpoints and `mmx convert`.

Not collected by pytest: fairseq2 needs its own torch, so `nox -s fairseq2` makes an environment and runs this file.
It prints the largest difference of each comparison and fails above 1e-5.

Letters: B rows, T frames or source tokens, U target tokens, V vocabulary.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import fairseq2
import torch
import yaml
from fairseq2.models.conformer import ConformerConvolution
from fairseq2.models.nllb.config import NllbConfig
from fairseq2.models.nllb.factory import create_nllb_model
from fairseq2.models.transformer import StandardMultiheadAttention
from fairseq2.models.transformer.attention_bias import IdentityBias
from fairseq2.models.transformer.sdpa.shaw import ShawRelativePositionSDPA
from fairseq2.models.w2vbert.config import W2VBertConfig
from fairseq2.models.w2vbert.factory import W2VBertFactory
from fairseq2.models.wav2vec2.factory import Wav2Vec2EncoderFactory, Wav2Vec2Factory
from fairseq2.nn import BatchLayout
from torch import Tensor, nn

from mmx import api
from mmx.errors import ModelNotFoundError
from mmx.make.export import convert_model
from mmx.model import Model
from mmx.seq import Seq
from mmx.weights import fairseq2 as asset_card
from mmx.weights.formats import open_checkpoint

TOLERANCE = 1e-5
VOCAB, WIDTH, HEADS = 61, 16, 2
LENGTHS = (11, 7, 1)
THEIR_SPECIALS, OUR_SPECIALS = ("pad", "unk", "bos", "eos"), ("bos", "pad", "eos", "unk")
"""By id, 0 to 3: as fairseq2's tokenizer has them, and as fairseq's and Hugging Face's vocabulary does."""


def randomize(module: nn.Module) -> nn.Module:
    """Every parameter and statistic anew, so that none has a value that hides a mistake (zero, one, equal)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
                if name.endswith("running_var"):
                    value.abs_().add_(0.5)
    return module.eval()


def converted(model: nn.Module, folder: Path, numbers: dict[str, Any]) -> Model:
    """Our model from their checkpoint, through an asset card and a converted folder."""
    folder.mkdir()
    torch.save({"model": model.state_dict()}, folder / "model.pt")
    card = {"name": "tiny", "model_family": "any", "checkpoint": "model.pt", "model_config_overrides": numbers}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    out = convert_model(folder / "card.yaml", folder / "out")
    card_, found = api.locate(out)
    family = __import__(f"mmx.models.{card_.family}", fromlist=["build"])
    with torch.device("meta"):
        ours = family.build(family.Config(**card_.config))
    with torch.no_grad():
        api.fill(ours, dict(open_checkpoint(found.parts[0], "mmx")))
    return ours.eval()


def difference(what: str, got: Tensor, wanted: Tensor) -> float:
    """The largest absolute difference, shown; of values that are not all near zero."""
    assert wanted.abs().max() > 0.1, "values that could tell a mistake"
    worst = float((got - wanted).abs().max())
    print(f"{what:44} max |difference| {worst:.2e} of values up to {float(wanted.abs().max()):.2f}")
    return worst


@torch.no_grad()
def nllb(folder: Path) -> float:
    """Logits of a padded batch. Their special tokens stand at other ids than ours."""
    numbers = {"num_encoder_attn_heads": HEADS, "num_decoder_attn_heads": HEADS, "max_seq_len": 20}
    theirs = randomize(
        create_nllb_model(
            NllbConfig(
                model_dim=WIDTH, vocab_size=VOCAB, num_encoder_layers=2, num_decoder_layers=3, ffn_inner_dim=24,
                **numbers,
            )
        )
    )  # fmt: skip
    ours = converted(theirs, folder / "nllb", numbers)
    generator = torch.Generator().manual_seed(2)
    source = torch.randint(1, VOCAB, (len(LENGTHS), max(LENGTHS)), generator=generator)
    target = torch.randint(1, VOCAB, (len(LENGTHS), 9), generator=generator)
    wanted = theirs(
        source,
        BatchLayout(tuple(source.shape), list(LENGTHS)),
        target,
        BatchLayout(tuple(target.shape), [9] * len(target)),
    )
    theirs_of = torch.tensor([*map(THEIR_SPECIALS.index, OUR_SPECIALS), *range(4, VOCAB)])
    ours_of = theirs_of.argsort()
    got = ours({"text": Seq(ours_of[source], torch.tensor(LENGTHS))}, ours_of[target])
    return difference("NLLB logits, special tokens included", got, wanted[..., theirs_of])


class ShawFactory(Wav2Vec2EncoderFactory):
    """The Conformer of w2v-BERT 2.0 out of fairseq2's own modules, as seamless_communication composed them."""

    def create_self_attention(self, lazy_rel_pos_encoding: Any) -> Any:
        sdpa = ShawRelativePositionSDPA(WIDTH, HEADS, IdentityBias(), 4, max_rhs_rel_pos=2)
        return StandardMultiheadAttention(WIDTH, HEADS, sdpa)

    def create_conformer_conv(self) -> ConformerConvolution:
        kernel = self._config.depthwise_conv_kernel_size
        return ConformerConvolution(WIDTH, kernel, causal_depthwise_conv=True, norm_type="layer_norm")


class ShawModelFactory(Wav2Vec2Factory):
    def create_encoder(self) -> Any:
        return ShawFactory(self._config.encoder_config).create_encoder()


def tiny_bert() -> W2VBertConfig:
    config = W2VBertConfig(num_bert_encoder_layers=1)
    whole, encoder = config.w2v2_config, config.w2v2_config.encoder_config
    encoder.model_dim, encoder.num_encoder_layers, encoder.num_encoder_attn_heads = WIDTH, 2, HEADS
    encoder.ffn_inner_dim, encoder.feature_dim, encoder.num_fbank_channels = 24, 12, 6
    encoder.depthwise_conv_kernel_size, encoder.max_seq_len = 5, 64
    whole.final_dim, whole.quantized_dim, whole.num_codebook_entries = 8, 8, 6
    return config


@torch.no_grad()
def w2v_bert(folder: Path, name: str, theirs: Any, numbers: dict[str, Any]) -> float:
    """States of one row at a time; fairseq2's batch norm and depthwise convolution see the padding of a batch."""
    ours = converted(randomize(theirs), folder / name, numbers)
    inner = getattr(theirs, "w2v2_model", theirs)
    worst = 0.0
    for n in LENGTHS:
        x_1TF = torch.randn(1, n, 12, generator=torch.Generator().manual_seed(n))
        layout = BatchLayout((1, n), [n])
        features, _ = inner.encoder_frontend.process_features(
            inner.encoder_frontend.post_extract_layer_norm(x_1TF), layout
        )
        wanted = inner.encoder(features, layout)
        got = ours.encoders["speech"](Seq(x_1TF, torch.tensor([n]))).x
        worst = max(worst, difference(f"{name} states of {n} frames", got, wanted))
    return worst


def names() -> None:
    """A card is found by its name. Its file is a download, which the message says: offline it goes no further."""
    try:
        asset_card.find("nllb-200_dense_distill_600m")
    except ModelNotFoundError as e:
        assert "download" in str(e), e
        print(f"card by name: {e}")
    try:
        asset_card.find("nllb-200_dense_distill_600n")
    except ModelNotFoundError as e:
        assert "Did you mean" in str(e), e


def main() -> int:
    """Run all comparisons; 1 when one is above the tolerance."""
    torch.set_num_threads(1)
    fairseq2.init_fairseq2()
    print(f"fairseq2 {fairseq2.__version__}, torch {torch.__version__}, tolerance {TOLERANCE:g}")
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        config = tiny_bert()
        worst = max(
            nllb(folder),
            w2v_bert(folder, "w2v-BERT", W2VBertFactory(config).create_model(), {}),
            w2v_bert(
                folder, "w2v-BERT 2.0", ShawModelFactory(config.w2v2_config).create_model(), {"max_right_rel_pos": 2}
            ),
        )
    names()
    print(f"worst {worst:.2e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
