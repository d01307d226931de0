"""The w2v-BERT 2.0 family: Kaldi features, Conformer encoder, length adaptor; the ears of SeamlessM4T.

The encoder is a Conformer (Gulati et al. 2020, arXiv 2005.08100). Version 2 (Seamless Communication 2023, arXiv
2312.05187) looks only back in its convolutions and knows relative positions by learnt keys (Shaw et al. 2018, arXiv
1803.02155); version 1 (arXiv 2308.11596) has symmetric convolutions and Transformer-XL positions (arXiv 1901.02860).
Under a chunk mask version 2 streams: see `Encoder`.

Letters: B rows, T frames, M frames after the adaptor, D width, F features.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import CheckpointError, InputError
from mmx.media.kaldi import Fbank
from mmx.model import Model
from mmx.nn.conformer import (
    Attention,
    ChunkView,
    Convolution,
    EncoderLayer,
    FrozenBatchNorm,
    RelativeKey,
    RelativeSinusoid,
    chunk_view,
    feed_forward,
)
from mmx.seq import Seq, after, concat
from mmx.state import State, subtree, tensor
from mmx.weights.convert import Rule, count, found, needed

MODEL_TYPES = ("wav2vec2-bert",)
"""Names under which Hugging Face's `config.json` knows this family."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of a speech encoder; the defaults are those of w2v-BERT 2.0.

    Attributes:
        features: width of the input, two frames of mels.
        hidden: width inside the feed-forward parts.
        kernel: frames that a convolution sees.
        positions: Shaw's relative keys, clipped `left` and `right`, or Transformer-XL's sinusoids.
        causal: whether convolutions look only back.
        conv_norm: what normalizes inside the convolution module.
        final_norm: whether a LayerNorm follows the last layer.
        adaptor_layers: 0 for none; each divides the rate by `adaptor_stride`.
        adaptor_mlp: half a feed-forward step before the adaptor's layers.
        adaptor_norm: a LayerNorm after them.
        chunk: frames of a chunk, which attends to itself and the `left_chunks` before it; None for all to all.
        normalize: statistics over the whole recording in the front end, which then does not stream.
    """

    width: int = 1024
    heads: int = 16
    layers: int = 24
    hidden: int = 4096
    features: int = 160
    kernel: int = 31
    positions: Literal["relative_key", "relative"] = "relative_key"
    left: int = 64
    right: int = 8
    causal: bool = True
    conv_norm: Literal["layer", "batch"] = "layer"
    final_norm: bool = False
    adaptor_layers: int = 0
    adaptor_kernel: int = 8
    adaptor_stride: int = 8
    adaptor_mlp: bool = True
    adaptor_norm: bool = True
    chunk: int | None = None
    left_chunks: int = 0
    normalize: bool = True


# -------------------- encoder


class Encoder(nn.Module):
    """Norm, projection and Conformer layers, all at the rate of the input.

    Without a chunk mask every frame attends to the whole input. With one, a frame attends to its own chunk and the
    `left_chunks` before it, and the encoder streams: it keeps keys and values of `left_chunks * chunk` frames and the
    tail of each convolution, however long the session, and a chunk costs the same at any time. Weights trained without
    the mask are then used off their training condition. A long input is worked through in stretches, so that
    memory stays bounded offline too.

    Args:
        features: F.
        layers: Conformer layers of width D, with causal convolutions where a chunk mask is set.
        width: D.
        final_norm: a LayerNorm after the last layer.
        chunk: frames of a chunk; None for attention to everything.
        left_chunks: chunks before its own that a frame attends to.
    """

    stride = 1
    window_s = 20.0  # of speech decoded at once: SeamlessM4T was trained on sentences, and drops some of several

    def __init__(
        self,
        features: int,
        layers: Sequence[EncoderLayer],
        width: int,
        final_norm: bool = False,
        chunk: int | None = None,
        left_chunks: int = 0,
    ):
        super().__init__()
        if chunk is not None and (chunk < 1 or left_chunks < 0):
            raise ValueError(f"expected chunk >= 1 and left_chunks >= 0, got {chunk} and {left_chunks}")
        if chunk is not None and not all(layer.conv.causal for layer in layers):
            raise ValueError("expected causal convolutions under a chunk mask: symmetric ones see into the next chunk")
        self.chunk, self.left_chunks, self.width = chunk, left_chunks, width
        self.features_ln, self.features = nn.LayerNorm(features), nn.Linear(features, width)
        self.layers = nn.ModuleList(layers)
        self.ln = nn.LayerNorm(width) if final_norm else nn.Identity()

    @property
    def lookahead(self) -> float:
        """To the end of the chunk; infinite without a chunk mask."""
        return math.inf if self.chunk is None else self.chunk - 1

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """A stream that has heard nothing: features that wait for their chunk to fill, and what each layer keeps."""
        return {} if self.chunk is None else self._new_state(batch, self.left_chunks * self.chunk, self.chunk)

    def _new_state(self, batch: int, past: int, waiting: int) -> State:
        like = self.features_ln.weight
        none = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return {
            "rest": like.new_zeros(batch, waiting, len(like)),
            "n_rest": none,
            "filled": none.clone(),
            "layers": {
                str(i): {
                    "k": like.new_zeros(batch, past, self.width),
                    "v": like.new_zeros(batch, past, self.width),
                    "conv": like.new_zeros(batch, layer.conv.kernel - 1, self.width),
                }
                for i, layer in enumerate(self._conformer())
            },
        }

    def _conformer(self) -> list[EncoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, EncoderLayer)]

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, F)` features to `(B, T, D)`; a stream gives whole chunks, and the rest when `final`.

        Raises:
            InputError: `final=False` without a chunk mask.
        """
        if self.chunk is None and not seq.final:
            raise InputError("expected the whole input, got final=False: build the encoder with a chunk mask to stream")
        seq = seq._replace(x=seq.masked)
        if self.chunk is None or (state is None and seq.x.shape[1] <= (self.left_chunks + 1) * self.chunk):
            view = chunk_view(seq, torch.zeros_like(seq.lengths), 0, self.chunk, self.left_chunks)
            return seq._replace(x=self.through(seq.x, view, None))
        if state is None:
            state = self._new_state(len(seq.x), self.left_chunks * self.chunk, 0)
        return self._stream(seq, state, self.chunk)

    def _stream(self, seq: Seq, state: State, chunk: int) -> Seq:
        seq = concat(Seq(tensor(state, "rest"), tensor(state, "n_rest")), seq)
        ready_B = seq.lengths if seq.final else seq.lengths // chunk * chunk
        rest = after(seq, ready_B, tensor(state, "rest").shape[1])
        state["rest"], state["n_rest"] = rest.x, rest.lengths
        ready = seq._replace(lengths=ready_B)
        ready = ready._replace(x=ready.masked[:, : int(ready_B.max()) if len(ready_B) else 0])
        past, stretch = self.left_chunks * chunk, (self.left_chunks + 1) * chunk
        parts = [seq.x.new_zeros(len(seq.x), 0, self.width)]
        for at in range(0, ready.x.shape[1], stretch):
            lengths_B = (ready_B - at).clamp(0, stretch)
            part = ready._replace(x=ready.x[:, at : at + stretch], lengths=lengths_B)
            filled_B = tensor(state, "filled")
            view = chunk_view(part, filled_B, past, chunk, self.left_chunks)
            parts.append(self.through(part.x, view, subtree(state, "layers")))
            state["filled"] = (filled_B + lengths_B).clamp(max=past)
        return ready._replace(x=torch.cat(parts, dim=1))

    def through(self, x_BTF: Tensor, view: ChunkView, state: State | None) -> Tensor:
        x_BTD = self.features(self.features_ln(x_BTF))
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, view, None if state is None else subtree(state, str(i)))
        return self.ln(x_BTD)


# -------------------- length adaptor


class AdaptorLayer(nn.Module):
    """One layer of the M-adaptor (Zhao et al. 2022, arXiv 2207.00952): attention over pooled frames.

    Two strided convolutions with gates pool the input, one for the residual, one for the attention. Frame m sees the
    inputs `[stride * m - pad, stride * m - pad + kernel)`, with `pad = stride // 2` zeros at either end.

    Args:
        width: D.
        heads: H.
        hidden: width inside the feed-forward part.
        kernel: inputs that a frame sees.
        stride: inputs for each frame.
        chunk: frames of a chunk, which attends to itself and `left_chunks` before it; None for all to all.
        left_chunks: see `chunk`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        kernel: int,
        stride: int,
        chunk: int | None = None,
        left_chunks: int = 0,
    ):
        super().__init__()
        if kernel < stride:
            raise ValueError(
                f"expected a kernel of at least the stride {stride}, got {kernel}: inputs would be skipped"
            )
        self.kernel, self.stride, self.pad = kernel, stride, stride // 2
        self.chunk, self.left_chunks = chunk, left_chunks
        self.residual_ln, self.attn_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.residual_conv, self.attn_conv = (nn.Conv1d(width, 2 * width, kernel, stride) for _ in range(2))
        self.attn = Attention(width, heads)
        self.mlp_ln, self.mlp = nn.LayerNorm(width), feed_forward(width, hidden, nn.ReLU())

    @property
    def lookahead(self) -> float:
        """Inputs past its own `stride` that the first frame of a chunk waits for."""
        if self.chunk is None:
            return math.inf
        return max(0, self.stride * (self.chunk - 2) + self.kernel - self.pad)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Inputs that wait, among them `lead` zeros that stand before the first one; keys and values."""
        if self.chunk is None:
            return {}
        return self._new_state(batch, self.left_chunks * self.chunk, self.stride * (self.chunk - 1) + self.kernel)

    def _new_state(self, batch: int, past: int, waiting: int) -> State:
        like = self.mlp_ln.weight
        lead = torch.full((batch,), self.pad, dtype=torch.int64, device=like.device)
        return {
            "rest": like.new_zeros(batch, waiting, len(like)),
            "n_rest": lead,
            "lead": lead.clone(),
            "filled": torch.zeros_like(lead),
            "k": like.new_zeros(batch, past, len(like)),
            "v": like.new_zeros(batch, past, len(like)),
        }

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, (T + 2 pad - kernel) // stride + 1, D)`; no frame of a row without input.

        Raises:
            InputError: `final=False` without a chunk mask.
        """
        if self.chunk is None and not seq.final:
            raise InputError("expected the whole input, got final=False: build the adaptor with a chunk mask to stream")
        state = state or self._new_state(len(seq.x), 0, self.pad)
        lead_B = tensor(state, "lead")
        seq = concat(Seq(tensor(state, "rest"), tensor(state, "n_rest")), seq._replace(x=seq.masked))
        made_B = self._ready(seq, lead_B)
        rest = after(seq, self.stride * made_B, tensor(state, "rest").shape[1])
        state["rest"], state["n_rest"] = rest.x, rest.lengths
        state["lead"] = torch.where(made_B > 0, 0, lead_B)
        rate = None if seq.rate is None else seq.rate / self.stride
        n_made = int(made_B.max()) if len(made_B) else 0
        if not n_made:
            return Seq(seq.x[:, :0], made_B, rate, seq.final)

        steps_T = torch.arange(seq.x.shape[1], device=seq.x.device)
        heard_BT1 = (seq.mask & (steps_T >= lead_B[:, None]))[..., None]
        residual_BTD = self.pool(self.residual_ln, self.residual_conv, seq.masked, heard_BT1, n_made)
        made = Seq(self.pool(self.attn_ln, self.attn_conv, seq.masked, heard_BT1, n_made), made_B, rate, seq.final)
        past, filled_B = tensor(state, "k").shape[1], tensor(state, "filled")
        view = chunk_view(made, filled_B, past, self.chunk, self.left_chunks)
        x_BTD = residual_BTD + self.attn(made.x, view, state)
        state["filled"] = (filled_B + made_B).clamp(max=past)
        return made._replace(x=x_BTD + self.mlp(self.mlp_ln(x_BTD)))

    def _ready(self, seq: Seq, lead_B: Tensor) -> Tensor:
        """Frames that can be made of what has come."""
        if seq.final:
            whole_B = (seq.lengths + self.pad - self.kernel).div(self.stride, rounding_mode="floor") + 1
            return torch.where(seq.lengths > lead_B, whole_B, 0).clamp(min=0)
        whole_B = (seq.lengths - self.kernel).div(self.stride, rounding_mode="floor") + 1
        return whole_B.clamp(min=0) // (self.chunk or 1) * (self.chunk or 1)

    def pool(self, ln: nn.Module, conv: nn.Module, x_BTD: Tensor, heard_BT1: Tensor, n_made: int) -> Tensor:
        """Zeros stand where nothing was heard, after the norm: the norm of zeros is its bias."""
        h_BTD = torch.where(heard_BT1, ln(x_BTD), torch.zeros((), dtype=x_BTD.dtype, device=x_BTD.device))
        end = (n_made - 1) * self.stride + self.kernel
        h_BTD = F.pad(h_BTD[:, :end], (0, 0, 0, max(0, end - h_BTD.shape[1])))
        return F.glu(conv(h_BTD.transpose(1, 2)), dim=1).transpose(1, 2)


class LengthAdaptor(nn.Module):
    """Half a feed-forward step, M-adaptor layers, a norm: one frame for each `stride` of the encoder's.

    Args:
        layers: adaptor layers.
        mlp: the feed-forward part of the first step, if any.
        ln: the last norm, if any.
    """

    def __init__(self, layers: Sequence[AdaptorLayer], mlp: nn.Module | None = None, ln: nn.Module | None = None):
        super().__init__()
        self.mlp, self.ln = mlp, ln
        self.layers = nn.ModuleList(layers)
        self.stride = math.prod(layer.stride for layer in layers)
        ahead = [layer.lookahead for layer in layers]
        self.lookahead = sum(a * math.prod(m.stride for m in layers[:i]) for i, a in enumerate(ahead))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The state of each layer; empty without a chunk mask."""
        if self.lookahead == math.inf:
            return {}
        return {str(i): m.init_state(batch) for i, m in enumerate(self.layers) if isinstance(m, AdaptorLayer)}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, M, D)` at the rate divided by `stride`.

        Raises:
            InputError: `final=False` without a chunk mask.
        """
        if self.mlp is not None:
            x_BTD = seq.masked
            seq = seq._replace(x=x_BTD + 0.5 * self.mlp(x_BTD))
        for i, layer in enumerate(self.layers):
            seq = layer(seq, subtree(state, str(i)) if state else None)
        return seq if self.ln is None else seq._replace(x=self.ln(seq.x))


# -------------------- the model


def encoder(config: Config) -> Encoder:
    """The Conformer encoder."""
    c = config
    layers = []
    for _ in range(c.layers):
        if c.positions == "relative_key":
            positions = RelativeKey(c.left, c.right, c.width // c.heads)
        else:
            positions = RelativeSinusoid(c.width, c.heads)
        norm = nn.LayerNorm(c.width) if c.conv_norm == "layer" else FrozenBatchNorm(c.width)
        conv = Convolution(c.width, c.kernel, c.causal, norm)
        layers.append(EncoderLayer(Attention(c.width, c.heads, positions), conv, c.width, c.hidden))
    return Encoder(c.features, layers, c.width, c.final_norm, c.chunk, c.left_chunks)


def adaptor(config: Config) -> LengthAdaptor | None:
    """The length adaptor, where the config has one; a chunk of it spans as much time as one of the encoder's."""
    c = config
    if not c.adaptor_layers:
        return None
    chunk, layers = c.chunk, []
    for _ in range(c.adaptor_layers):
        if chunk is not None and chunk % c.adaptor_stride:
            raise InputError(f"expected a chunk divisible by the adaptor's stride {c.adaptor_stride}, got {chunk}")
        chunk = None if chunk is None else chunk // c.adaptor_stride
        numbers = (c.width, c.heads, c.hidden, c.adaptor_kernel, c.adaptor_stride)
        layers.append(AdaptorLayer(*numbers, chunk, c.left_chunks))
    mlp = feed_forward(c.width, c.hidden, nn.ReLU()) if c.adaptor_mlp else None
    return LengthAdaptor(layers, mlp, nn.LayerNorm(c.width) if c.adaptor_norm else None)


def build(config: Config) -> Model:
    """The model without weights and without a decoder; call it under `torch.device("meta")` to allocate nothing."""
    adapter = adaptor(config)
    return Model(
        front={"speech": Fbank(config.features // 2, config.normalize)},
        encoders={"speech": encoder(config)},
        adapters={} if adapter is None else {"speech": adapter},
    )


def hf_rules(source: str = "", modality: str = "speech", conv_norm: str = "depthwise_layer_norm") -> list[Rule]:
    """The table for Hugging Face's names, standalone or inside a larger checkpoint.

    Args:
        source: regular expression of what stands before each of their names, such as `speech_encoder\\.`.
        modality: ours become `encoders.<modality>.*` and `adapters.<modality>.*`.
        conv_norm: what they call the norm inside the convolution module: depthwise_layer_norm, or batch_norm in v1.
    """
    enc, ada = f"encoders.{modality}.", f"adapters.{modality}."
    layer, ours = source + r"encoder\.layers\.(\d+)\.", enc + r"layers.\1."
    pool, ours_pool = source + r"adapter\.layers\.(\d+)\.", ada + r"layers.\1."
    linears = (("linear_q", "query"), ("linear_k", "key"), ("linear_v", "value"), ("linear_out", "out"))
    dense = (("intermediate_dense", "0"), ("output_dense", "2"))
    return [
        Rule(source + r"masked_spec_embed", None, "stands for masked frames in pretraining"),
        Rule(source + r"feature_projection\.layer_norm\.(weight|bias)", enc + r"features_ln.\1"),
        Rule(source + r"feature_projection\.projection\.(weight|bias)", enc + r"features.\1"),
        Rule(source + r"encoder\.layer_norm\.(weight|bias)", enc + r"ln.\1"),
        *(Rule(layer + rf"ffn([12])\.{a}\.(.+)", ours + rf"mlp\2.{b}.\3") for a, b in dense),
        Rule(layer + r"ffn([12])_layer_norm\.(.+)", ours + r"mlp\2_ln.\3"),
        *(Rule(layer + rf"self_attn\.{a}\.(.+)", ours + rf"attn.{b}.\2") for a, b in linears),
        Rule(layer + r"self_attn\.distance_embedding\.weight", ours + r"attn.positions.keys.weight"),
        Rule(layer + r"self_attn\.linear_pos\.weight", ours + r"attn.positions.project.weight"),
        Rule(layer + r"self_attn\.pos_bias_u", ours + r"attn.positions.content"),
        Rule(layer + r"self_attn\.pos_bias_v", ours + r"attn.positions.position"),
        Rule(layer + r"self_attn_layer_norm\.(.+)", ours + r"attn_ln.\2"),
        Rule(layer + r"conv_module\.layer_norm\.(.+)", ours + r"conv.ln.\2"),
        Rule(layer + r"conv_module\.pointwise_conv1\.weight", ours + r"conv.expand.weight"),
        Rule(layer + r"conv_module\.depthwise_conv\.weight", ours + r"conv.depthwise.weight"),
        Rule(layer + rf"conv_module\.{conv_norm}\.(weight|bias)", ours + r"conv.norm.\2"),
        Rule(layer + r"conv_module\.batch_norm\.running_mean", ours + r"conv.norm.mean"),
        Rule(layer + r"conv_module\.batch_norm\.running_var", ours + r"conv.norm.variance"),
        Rule(layer + r"conv_module\.batch_norm\.num_batches_tracked", None, "a counter of training steps"),
        Rule(layer + r"conv_module\.pointwise_conv2\.weight", ours + r"conv.project.weight"),
        Rule(layer + r"final_layer_norm\.(.+)", ours + r"ln.\2"),
        *(Rule(source + rf"intermediate_ffn\.{a}\.(.+)", ada + rf"mlp.{b}.\1") for a, b in dense),
        Rule(source + r"inner_layer_norm\.(.+)", ada + r"ln.\1"),
        *(Rule(pool + rf"ffn\.{a}\.(.+)", ours_pool + rf"mlp.{b}.\2") for a, b in dense),
        Rule(pool + r"ffn_layer_norm\.(.+)", ours_pool + r"mlp_ln.\2"),
        *(Rule(pool + rf"self_attn\.{a}\.(.+)", ours_pool + rf"attn.{b}.\2") for a, b in linears),
        *_pool_rules(pool, ours_pool),
    ]


_DENSE = (("inner_proj", "0"), ("output_proj", "2"))
_LINEARS = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("output_proj", "out"))
"""fairseq2's names of the layers of a feed-forward and of an attention, and ours."""


def _pool_rules(theirs: str, ours: str) -> list[Rule]:
    """Convolutions and norms of an adaptor layer, which both publishers call the same."""
    sides = (("residual", "residual"), ("self_attn", "attn"))
    names = [(f"{a}_{p}", f"{b}_{q}") for a, b in sides for p, q in (("conv", "conv"), ("layer_norm", "ln"))]
    return [Rule(theirs + rf"{a}\.(.+)", ours + rf"{b}.\2") for a, b in names]


def fairseq2_rules(frontend: str, encoder: str, norm: str, modality: str = "speech") -> list[Rule]:
    """The table for the Conformer in fairseq2's names.

    Args:
        frontend: pattern of the prefix before `post_extract_layer_norm`.
        encoder: pattern of the prefix before `layers`.
        norm: pattern of the last norm's name, without `.weight`.
        modality: ours become `encoders.<modality>.*`.
    """
    enc = f"encoders.{modality}."
    layer, ours = encoder + r"layers\.(\d+)\.", enc + r"layers.\1."
    positions = ((r"rel_k_embed\.weight", "keys.weight"), (r"r_proj\.weight", "project.weight"))
    positions += (("u_bias", "content"), ("v_bias", "position"))
    conv = (("pointwise_conv1", "expand"), ("depthwise_conv", "depthwise"), ("pointwise_conv2", "project"))
    return [
        Rule(frontend + r"post_extract_layer_norm\.(weight|bias)", enc + r"features_ln.\1"),
        Rule(frontend + r"model_dim_proj\.(weight|bias)", enc + r"features.\1"),
        Rule(norm + r"\.(weight|bias)", enc + r"ln.\1"),
        *(Rule(layer + rf"ffn([12])\.{a}\.(.+)", ours + rf"mlp\2.{b}.\3") for a, b in _DENSE),
        Rule(layer + r"ffn([12])_layer_norm\.(.+)", ours + r"mlp\2_ln.\3"),
        *(Rule(layer + rf"self_attn\.{a}\.(.+)", ours + rf"attn.{b}.\2") for a, b in _LINEARS),
        *(Rule(layer + rf"self_attn\.sdpa\.{a}", ours + rf"attn.positions.{b}") for a, b in positions),
        Rule(layer + r"self_attn_layer_norm\.(.+)", ours + r"attn_ln.\2"),
        Rule(layer + r"conv_layer_norm\.(.+)", ours + r"conv.ln.\2"),
        *(Rule(layer + rf"conv\.{a}\.weight", ours + rf"conv.{b}.weight") for a, b in conv),
        Rule(layer + r"conv\.(?:layer|batch)_norm\.(weight|bias)", ours + r"conv.norm.\2"),
        Rule(layer + r"conv\.batch_norm\.running_mean", ours + r"conv.norm.mean"),
        Rule(layer + r"conv\.batch_norm\.running_var", ours + r"conv.norm.variance"),
        Rule(layer + r"conv\.batch_norm\.num_batches_tracked", None, "a counter of training steps"),
        Rule(layer + r"layer_norm\.(.+)", ours + r"ln.\2"),
    ]


def fairseq2_adaptor_rules(source: str, modality: str = "speech") -> list[Rule]:
    """The table for the length adaptor in the names of seamless_communication; `source` is its pattern of a prefix."""
    ada = f"adapters.{modality}."
    pool, ours = source + r"adaptor_layers\.(\d+)\.", ada + r"layers.\1."
    return [
        Rule(source + r"proj1\.(.+)", ada + r"mlp.0.\1"),
        Rule(source + r"proj2\.(.+)", ada + r"mlp.2.\1"),
        Rule(source + r"layer_norm\.(.+)", ada + r"ln.\1"),
        *(Rule(pool + rf"ffn\.{a}\.(.+)", ours + rf"mlp.{b}.\2") for a, b in _DENSE),
        Rule(pool + r"ffn_layer_norm\.(.+)", ours + r"mlp_ln.\2"),
        *(Rule(pool + rf"self_attn\.{a}\.(.+)", ours + rf"attn.{b}.\2") for a, b in _LINEARS),
        *_pool_rules(pool, ours),
    ]


_FAIRSEQ2 = tuple(rf"(?:w2v2_model\.)?encoder{end}" for end in (r"_frontend\.", r"\.", r"\.layer_norm"))
_PRETRAINING = r"(?:w2v2_model\.)?(?:masker|quantizer|final_proj|final_target_proj)\..+|final_bert_proj\..+"

KEYS: dict[str, list[Rule]] = {
    "hf": hf_rules(),
    # fairseq2's w2v-BERT keeps its wav2vec 2.0 model under a name; conformer_shaw, the encoder of w2v-BERT 2.0, is one.
    "fairseq2": [
        *fairseq2_rules(*_FAIRSEQ2),
        Rule(_PRETRAINING, None, "of the pretraining task"),
    ],
}
"""Published key to ours, by format."""


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The `Config` numbers of a checkpoint that comes without a card, from its `config.json`.

    Args:
        format: a key of `KEYS`.
        meta: the content of `config.json`.
        shapes: source key to shape.

    Raises:
        CheckpointError: the config asks for a part that this family does not have.
    """
    if format == "fairseq2":
        return fairseq2_numbers(meta, shapes, *_FAIRSEQ2)
    width = meta["hidden_size"]
    fixed = {"hidden_act": "swish", "adapter_act": "relu", "layer_norm_eps": 1e-5, "output_hidden_size": width}
    other = {k: meta[k] for k, v in fixed.items() if meta.get(k, v) not in (v, None)}
    if other or meta["position_embeddings_type"] not in ("relative_key", "relative"):
        got = other or {"position_embeddings_type": meta["position_embeddings_type"]}
        raise CheckpointError(f"expected {fixed} and relative or relative_key positions, got {got}: not supported")
    return {
        "width": width,
        "heads": meta["num_attention_heads"],
        "layers": meta["num_hidden_layers"],
        "hidden": meta["intermediate_size"],
        "features": meta["feature_projection_input_dim"],
        "kernel": meta["conv_depthwise_kernel_size"],
        "positions": meta["position_embeddings_type"],
        "left": meta["left_max_position_embeddings"],
        "right": meta["right_max_position_embeddings"],
        "adaptor_layers": meta["num_adapter_layers"] if meta["add_adapter"] else 0,
        "adaptor_kernel": meta["adapter_kernel_size"],
        "adaptor_stride": meta["adapter_stride"],
        "adaptor_mlp": meta["use_intermediate_ffn_before_adapter"],
        "adaptor_norm": False,
    }


def fairseq2_numbers(
    meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], frontend: str, encoder: str, norm: str
) -> dict[str, Any]:
    """The numbers of fairseq2's Conformer from its shapes, without the adaptor's.

    Shaw's positions come with causal convolutions, and 8 of them lie ahead, in all that is published: no shape tells.

    Args:
        meta: `max_right_rel_pos`, where a card gives it.
        shapes: source key to shape.
        frontend: see `fairseq2_rules`.
        encoder: see `fairseq2_rules`.
        norm: see `fairseq2_rules`.

    Raises:
        KeyError: a shape that the numbers follow from is not there.
    """
    layer = encoder + r"layers\.0\."
    keys = found(shapes, layer + r"self_attn\.sdpa\.rel_k_embed\.weight")
    width, features = needed(shapes, frontend + r"model_dim_proj\.weight")
    right = int(meta.get("max_right_rel_pos", 8))
    heads = width // keys[1] if keys else needed(shapes, layer + r"self_attn\.sdpa\.u_bias")[0]
    return {
        "width": width,
        "heads": heads,
        "layers": count(shapes, encoder + r"layers\.(\d+)\..+"),
        "hidden": needed(shapes, layer + r"ffn1\.inner_proj\.bias")[0],
        "features": features,
        "kernel": needed(shapes, layer + r"conv\.depthwise_conv\.weight")[2],
        "positions": "relative_key" if keys else "relative",
        "left": keys[0] - 1 - right if keys else 64,
        "right": right,
        "causal": keys is not None,
        "conv_norm": "layer" if found(shapes, layer + r"conv\.layer_norm\.weight") else "batch",
        "final_norm": found(shapes, norm + r"\.weight") is not None,
    }


def hf_config(config: Config) -> dict[str, Any]:
    """The `config.json` of a model whose checkpoint `KEYS["hf"]` describes.

    Raises:
        CheckpointError: the model has a part that Hugging Face's w2v-BERT has not.
    """
    c = config
    if not c.causal or c.conv_norm != "layer" or c.final_norm or (c.adaptor_layers and c.adaptor_norm):
        raise CheckpointError("expected w2v-BERT 2.0 to write in Hugging Face's shape, got another model's encoder")
    return {
        "model_type": MODEL_TYPES[0], "architectures": ["Wav2Vec2BertModel"], "hidden_size": c.width,
        "num_attention_heads": c.heads, "num_hidden_layers": c.layers, "intermediate_size": c.hidden,
        "feature_projection_input_dim": c.features, "conv_depthwise_kernel_size": c.kernel,
        "position_embeddings_type": c.positions, "left_max_position_embeddings": c.left,
        "right_max_position_embeddings": c.right, "add_adapter": c.adaptor_layers > 0,
        "num_adapter_layers": max(1, c.adaptor_layers), "adapter_kernel_size": c.adaptor_kernel,
        "adapter_stride": c.adaptor_stride, "use_intermediate_ffn_before_adapter": c.adaptor_mlp,
        "output_hidden_size": c.width, "mask_time_prob": 0.0, "mask_feature_prob": 0.0,
    }  # fmt: skip
