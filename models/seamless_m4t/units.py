"""UnitY2 text-to-unit: what the text decoder thought becomes discrete speech units, all of them at once.

SeamlessM4T v2 (Seamless Communication et al. 2023, arXiv 2312.05187, section 3.2):

    decoder states (U) -> encoder -> each repeated once for every character of its token (C)
        -> + character embedding + positions -> duration of each character -> repeated (T, 50 per second)
        -> + positions -> post-norm layers of attention and convolution -> unit of each frame

Version 1 wrote reduced units one by one. It is the same `StateEncoder` before the same `TextDecoder` that writes
text, so it is a `Model` like any other: `build_autoregressive`.

Letters: B rows, U tokens, C characters, T frames of 20 ms, D width, V unit vocabulary, H heads.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmx.model import Model
from mmx.nn.block import Attention, EncoderLayer, padding_mask
from mmx.nn.decoder import DecoderLayer, SinusoidalPositions, TextDecoder
from mmx.seq import Seq, pad
from mmx.state import State
from mmx.weights.convert import Rule, count, found, needed

RATE_HZ = 50.0
"""Units in a second."""
SPACE = "\u2581"
"""How SentencePiece writes a space."""
_OFFSET = 2  # fairseq's sinusoids begin after the rows of bos and pad


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of UnitY2's text-to-unit model; the defaults are those of SeamlessM4T v2 large."""

    width: int = 1024
    heads: int = 16
    encoder_layers: int = 6
    encoder_hidden: int = 8192
    decoder_layers: int = 6
    decoder_kernel: int = 7
    duration_hidden: int = 256
    duration_kernel: int = 3
    vocab: int = 10_082
    char_vocab: int = 10_943
    ctx: int = 4096
    special_units: int = 4
    units: int = 10_000


@dataclass(frozen=True, kw_only=True)
class AutoregressiveConfig:
    """The numbers of version 1's text-to-unit model; the defaults are those of SeamlessM4T v1 large."""

    width: int = 1024
    heads: int = 16
    encoder_layers: int = 6
    encoder_hidden: int = 8192
    decoder_layers: int = 6
    decoder_hidden: int = 8192
    vocab: int = 10_082
    ctx: int = 2048


# -------------------- characters


class Spelling(NamedTuple):
    """The characters of a batch of texts.

    Attributes:
        chars: ids `(B, C)` int64, zero past the row's last.
        per_token: `(B, U)` int64, how many of them belong to each decoder state.
    """

    chars: Tensor
    per_token: Tensor


def spell(
    rows: Sequence[Sequence[int]],
    id_to_text: Mapping[str, str],
    char_to_id: Mapping[str, int],
    unknown: int = 1,
) -> Spelling:
    """The characters of each token, as UnitY2 was trained to count them.

    A space belongs to the word after it, except after a punctuation mark, which takes it. Row `[t1 ... tn]` stands
    for `n + 2` decoder states: the first wrote the language, the last the end, and both are silent.

    Args:
        rows: text tokens of each row, without language and end.
        id_to_text: token id, as a decimal string, to its piece (`generation_config.json`). A token that is not there
            is a control symbol and has no characters. (transformers spells the word "None" for it.)
        char_to_id: character to id (`generation_config.json`).
        unknown: the token and the character that stand for what the vocabulary lacks; such a token has one character.
    """
    chars, counts = [], []
    for row in rows:
        pieces = [None if t == unknown else id_to_text.get(str(t), "") for t in row]
        spelled = [[unknown] if p is None else [char_to_id.get(c, unknown) for c in p] for p in pieces]
        lengths = [0, *map(len, spelled), 0]
        for i, (piece, after) in enumerate(pairwise(pieces), start=1):
            if _is_mark(piece) and _opens_with_space(after):
                lengths[i] += 1
                lengths[i + 1] -= 1
        counts.append(torch.tensor(lengths))
        chars.append(torch.tensor([c for s in spelled for c in s], dtype=torch.int64))
    return Spelling(pad(chars).x, pad(counts).x)


def _is_mark(piece: str | None) -> bool:
    return piece is not None and len(piece) == 1 and piece != SPACE and not (piece.isalpha() or piece.isnumeric())


def _opens_with_space(piece: str | None) -> bool:
    return piece is not None and len(piece) > 1 and piece[0] == SPACE


# -------------------- layers


def repeat(seq: Seq, times_BT: Tensor, rate: float | None = None) -> Seq:
    """Each frame as often as `times_BT` `(B, T)` says; 0 drops it.

    Returns:
        A `Seq` whose lengths are the sums of the counts within each row's own frames.
    """
    if times_BT.shape != seq.x.shape[:2]:
        got = f"{tuple(times_BT.shape)} for {tuple(seq.x.shape[:2])}"
        raise ValueError(f"expected one count for each frame, got shape {got}")
    times_BT = times_BT.to(seq.x.device).masked_fill(~seq.mask, 0)
    ends_BT = times_BT.cumsum(1)
    lengths = times_BT.sum(1)
    n = int(lengths.max()) if len(lengths) else 0
    steps = torch.arange(n, device=seq.x.device).expand(len(lengths), -1)
    # The frame at an output step is the first that ends after it; frames of no length are stepped over.
    source_BN = torch.searchsorted(ends_BT, steps.contiguous(), right=True).clamp_(max=max(0, seq.x.shape[1] - 1))
    rows_B1 = torch.arange(len(lengths), device=seq.x.device)[:, None]
    return Seq(seq.x[rows_B1, source_BN], lengths, rate, seq.final)


def same_conv(conv: nn.Conv1d, x_BTD: Tensor, mask_BT1: Tensor | None) -> Tensor:
    """A convolution over time that sees zeros where a row has ended; `mask_BT1` None says that none has."""
    if x_BTD.shape[1] == 0:
        return x_BTD.new_zeros(len(x_BTD), 0, conv.out_channels)
    if mask_BT1 is not None:
        x_BTD = x_BTD.masked_fill(~mask_BT1, 0.0)
    return conv(x_BTD.transpose(1, 2)).transpose(1, 2)


def frame_mask(seq: Seq) -> Tensor | None:
    """`(B, T, 1)` bool, True on valid frames; None when all are."""
    return None if bool((seq.lengths == seq.x.shape[1]).all()) else seq.mask[..., None]


class DurationPredictor(nn.Module):
    """Two convolutions and a projection to `log(1 + duration)` (FastSpeech 2's predictor, arXiv 2006.04558).

    Args:
        width: D of the input.
        hidden: channels inside.
        kernel: odd.
    """

    def __init__(self, width: int, hidden: int, kernel: int):
        super().__init__()
        self.conv1 = nn.Conv1d(width, hidden, kernel, padding=(kernel - 1) // 2)
        self.ln1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Conv1d(hidden, hidden, kernel, padding=(kernel - 1) // 2)
        self.ln2 = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, 1)

    def forward(self, seq: Seq, factor: float = 1.0) -> Tensor:
        """Durations in output frames.

        Args:
            seq: `(B, T, D)`.
            factor: above 1 speaks slower.

        Returns:
            `(B, T)` int64, at least 1 on valid frames, 0 beyond.
        """
        mask_BT1 = frame_mask(seq)
        h = self.ln1(same_conv(self.conv1, seq.x, mask_BT1).relu_())
        h = self.ln2(same_conv(self.conv2, h, mask_BT1).relu_())
        frames_BT = (self.out(h)[..., 0].expm1() * factor).round()
        if mask_BT1 is not None:  # before the cast, for what lies in the padding has no integer
            frames_BT = frames_BT.masked_fill(~mask_BT1[..., 0], 0.0)
        return torch.where(seq.mask, frames_BT.long().clamp(min=1), 0)


class UnitLayer(nn.Module):
    """Post-norm self-attention and a pair of convolutions (the feed-forward Transformer block of FastSpeech).

    Args:
        width: D.
        heads: H.
        kernel: of both convolutions, odd.
    """

    def __init__(self, width: int, heads: int, kernel: int):
        super().__init__()
        self.attn = Attention(width, heads, key_bias=True)
        self.attn_ln = nn.LayerNorm(width)
        self.conv1 = nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2)
        self.conv2 = nn.Conv1d(width, width, kernel, padding=(kernel - 1) // 2)
        self.conv_ln = nn.LayerNorm(width)

    def forward(self, x_BTD: Tensor, mask_BT1: Tensor | None = None) -> Tensor:
        """`mask_BT1` bool says which frames are valid; all are when None."""
        keys = None if mask_BT1 is None else mask_BT1[:, None, None, :, 0]
        x_BTD = self.attn_ln(x_BTD + self.attn(x_BTD, *self.attn.keys_values(x_BTD), keys))
        h = same_conv(self.conv1, x_BTD, mask_BT1).relu_()
        return self.conv_ln(x_BTD + same_conv(self.conv2, h, mask_BT1))


class StateEncoder(nn.Module):
    """Pre-norm Transformer layers over the states of a text decoder. They carry their positions already."""

    stride = 1
    lookahead = math.inf

    def __init__(self, width: int, heads: int, hidden: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden, nn.ReLU, key_bias=True) for _ in range(layers))
        self.ln = nn.LayerNorm(width)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, U, D)` to `(B, U, D)`."""
        mask = padding_mask(seq)
        x_BUD = seq.masked
        for layer in self.layers:
            x_BUD = layer(x_BUD, mask)
        return seq._replace(x=self.ln(x_BUD))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}


# -------------------- the models


class TextToUnits(nn.Module):
    """UnitY2's non-autoregressive text-to-unit model.

    Args:
        encoder: over the decoder states.
        duration: predicts the units of each character.
        layers: over units.
        char_vocab: rows of the character embedding.
        vocab: V; it holds `special_units` control symbols, then `units` units, then languages.
        ctx: most characters, and most units, of a row.
        special_units: control symbols before the first unit, which the vocoder does not know.
        units: what the vocoder knows.
    """

    def __init__(
        self,
        encoder: StateEncoder,
        duration: DurationPredictor,
        layers: Sequence[UnitLayer],
        char_vocab: int,
        vocab: int,
        ctx: int,
        special_units: int,
        units: int,
    ):
        super().__init__()
        width = encoder.ln.normalized_shape[0]
        if special_units + units > vocab:
            raise ValueError(f"expected {special_units} + {units} symbols in a vocabulary of {vocab}")
        self.ctx, self.special_units, self.n_units, self.scale = ctx, special_units, units, math.sqrt(width)
        self.encoder, self.duration = encoder, duration
        self.char = nn.Embedding(char_vocab, width)
        self.positions = SinusoidalPositions(ctx, width, _OFFSET)
        self.char_alpha = nn.Parameter(torch.ones(1))
        self.unit_alpha = nn.Parameter(torch.ones(1))
        self.layers = nn.ModuleList(layers)
        self.ln = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocab, bias=False)

    def forward(
        self,
        memory: Seq,
        chars: Tensor,
        chars_per_token: Tensor,
        duration_factor: float = 1.0,
        durations: Tensor | None = None,
    ) -> Seq:
        """Logits of the unit of each 20 ms.

        Args:
            memory: states of the text decoder `(B, U, D)`, one for each token that it wrote.
            chars: `(B, C)` int64, the characters of each row; see `spell`.
            chars_per_token: `(B, U)` int64, how many of them each state wrote; 0 for a silent token.
            duration_factor: above 1 speaks slower.
            durations: `(B, C)` int64, units of each character, instead of the predicted.

        Returns:
            `(B, T, V)` at 50 Hz.

        Raises:
            ValueError: if characters and counts do not belong together, or there are too many for the positions.
        """
        spelled = self.characters(memory, chars, chars_per_token)
        frames_BC = self.duration(spelled, duration_factor) if durations is None else durations
        x = self._place(repeat(spelled, frames_BC[:, : spelled.x.shape[1]], RATE_HZ), self.unit_alpha)
        mask_BT1, x_BTD = frame_mask(x), x.x
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_BT1)
        return x._replace(x=self.head(self.ln(x_BTD)))

    def characters(self, memory: Seq, chars: Tensor, chars_per_token: Tensor) -> Seq:
        """What the duration predictor reads, `(B, C, D)`; arguments as in `forward`."""
        spelled = repeat(self.encoder(memory), chars_per_token)
        n = spelled.x.shape[1]
        if chars.shape[1] < n:
            raise ValueError(f"expected the {n} characters that chars_per_token counts, got {chars.shape[1]}")
        ids_BC = torch.where(spelled.mask, chars[:, :n], 0)
        return self._place(spelled._replace(x=spelled.x + self.char(ids_BC) * self.scale), self.char_alpha)

    def units(
        self,
        memory: Seq,
        chars: Tensor,
        chars_per_token: Tensor,
        duration_factor: float = 1.0,
        durations: Tensor | None = None,
    ) -> Seq:
        """The likeliest units `(B, T)` int64 in the vocoder's numbering; arguments as in `forward`.

        Only units are chosen from: a control symbol, which no trained model prefers, cannot be spoken.
        """
        logits = self(memory, chars, chars_per_token, duration_factor, durations)
        return logits._replace(x=logits.x[..., self.special_units :][..., : self.n_units].argmax(-1))

    def _place(self, seq: Seq, alpha: Tensor) -> Seq:
        n = seq.x.shape[1]
        if n > self.ctx:
            raise ValueError(f"expected at most {self.ctx} frames, got {n}: speak sentence by sentence")
        return seq._replace(x=seq.x + alpha * self.positions(torch.arange(n, device=seq.x.device)))


def build(config: Config) -> TextToUnits:
    """The model without weights; call it under `torch.device("meta")` to allocate nothing."""
    c = config
    return TextToUnits(
        StateEncoder(c.width, c.heads, c.encoder_hidden, c.encoder_layers),
        DurationPredictor(c.width, c.duration_hidden, c.duration_kernel),
        [UnitLayer(c.width, c.heads, c.decoder_kernel) for _ in range(c.decoder_layers)],
        char_vocab=c.char_vocab,
        vocab=c.vocab,
        ctx=c.ctx,
        special_units=c.special_units,
        units=c.units,
    )


def build_autoregressive(config: AutoregressiveConfig) -> Model:
    """Version 1: `model({"states": Seq (B, U, D)}, units (B, T))` gives logits of the next reduced unit."""
    c = config
    return Model(
        front={},
        encoders={"states": StateEncoder(c.width, c.heads, c.encoder_hidden, c.encoder_layers)},
        decoder=TextDecoder(
            c.vocab,
            [DecoderLayer(c.width, c.heads, c.decoder_hidden, nn.ReLU, key_bias=True) for _ in range(c.decoder_layers)],
            SinusoidalPositions(c.ctx, c.width, _OFFSET),
            scale=math.sqrt(c.width),
        ),
    )


# -------------------- conversion


def _attention(theirs: str, ours: str, out: str = "out_proj") -> list[Rule]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", out: "out"}
    return [Rule(rf"{theirs}\.{p}\.(weight|bias)", rf"{ours}.{q}.\2") for p, q in parts.items()]


def _renamed(theirs: str, ours: str, names: Mapping[str, str]) -> list[Rule]:
    return [Rule(rf"{theirs}\.{re.escape(a)}\.(weight|bias)", rf"{ours}.{b}.\2") for a, b in names.items()]


def _encoder_rules(theirs: str, ours: str) -> list[Rule]:
    layer, to = rf"{theirs}layers\.(\d+)", rf"{ours}layers.\1"
    names = {"self_attn_layer_norm": "attn_ln", "ffn.fc1": "mlp.0", "ffn.fc2": "mlp.2", "ffn_layer_norm": "mlp_ln"}
    return [
        *_attention(rf"{layer}\.self_attn", rf"{to}.attn"),
        *_renamed(layer, to, names),
        Rule(rf"{theirs}layer_norm\.(weight|bias)", rf"{ours}ln.\1"),
    ]


def duration_rules(theirs: str, ours: str) -> list[Rule]:
    """transformers' variance predictor to `DurationPredictor`; `theirs` is a pattern, `ours` a template."""
    return [
        Rule(rf"{theirs}(conv1|ln1|conv2|ln2)\.(weight|bias)", rf"{ours}\1.\2"),
        Rule(rf"{theirs}proj\.(weight|bias)", rf"{ours}out.\1"),
    ]


def hf_rules(theirs_prefix: str = "", ours_prefix: str = "") -> list[Rule]:
    """transformers' `SeamlessM4Tv2TextToUnitForConditionalGeneration` to `TextToUnits`.

    Args:
        theirs_prefix: what stands before its keys, such as `t2u_model.`.
        ours_prefix: what stands before ours.
    """
    theirs, ours = re.escape(theirs_prefix), ours_prefix
    layer, to = rf"{theirs}model\.decoder\.layers\.(\d+)", rf"{ours}layers.\1"
    names = {"self_attn_layer_norm": "attn_ln", "conv1": "conv1", "conv2": "conv2", "conv_layer_norm": "conv_ln"}
    return [
        *_encoder_rules(rf"{theirs}model\.encoder\.", rf"{ours}encoder."),
        *_attention(rf"{layer}\.self_attn", rf"{to}.attn"),
        *_renamed(layer, to, names),
        *duration_rules(rf"{theirs}model\.decoder\.duration_predictor\.", rf"{ours}duration."),
        Rule(rf"{theirs}model\.decoder\.layer_norm\.(weight|bias)", rf"{ours}ln.\1"),
        Rule(rf"{theirs}model\.decoder\.embed_char\.weight", rf"{ours}char.weight"),
        Rule(rf"{theirs}model\.decoder\.pos_emb_alpha_char", rf"{ours}char_alpha"),
        Rule(rf"{theirs}model\.decoder\.pos_emb_alpha", rf"{ours}unit_alpha"),
        # Nothing embeds units here; the table is the projection alone.
        Rule(rf"{theirs}(?:model\.decoder\.embed_tokens|lm_head)\.weight", rf"{ours}head.weight", tied=True),
    ]


def hf_autoregressive_rules(theirs_prefix: str = "", ours_prefix: str = "") -> list[Rule]:
    """transformers' `SeamlessM4TTextToUnitForConditionalGeneration` (v1) to what `build_autoregressive` gives."""
    theirs, ours = re.escape(theirs_prefix), ours_prefix
    layer, to = rf"{theirs}model\.decoder\.layers\.(\d+)", rf"{ours}decoder.layers.\1"
    names = {"self_attn_layer_norm": "attn_ln", "cross_attention_layer_norm": "cross_ln"}
    names |= {"ffn.fc1": "mlp.0", "ffn.fc2": "mlp.2", "ffn_layer_norm": "mlp_ln"}
    return [
        *_encoder_rules(rf"{theirs}model\.encoder\.", rf"{ours}encoders.states."),
        *_attention(rf"{layer}\.self_attn", rf"{to}.attn"),
        *_attention(rf"{layer}\.cross_attention", rf"{to}.cross"),
        *_renamed(layer, to, names),
        Rule(rf"{theirs}model\.decoder\.layer_norm\.(weight|bias)", rf"{ours}decoder.ln.\1"),
        Rule(rf"{theirs}(?:model\.decoder\.embed_tokens|lm_head)\.weight", rf"{ours}decoder.token.weight", tied=True),
    ]


def fairseq2_rules(theirs: str, ours: str) -> list[Rule]:
    """UnitY2's model in the names of seamless_communication to `TextToUnits`; a pattern and a template of prefixes."""
    layer, to = rf"{theirs}decoder\.layers\.(\d+)", rf"{ours}layers.\1"
    front = rf"{theirs}decoder_frontend\."
    names = {"self_attn_layer_norm": "attn_ln", "conv1d.conv1": "conv1", "conv1d.conv2": "conv2"}
    return [
        *_fairseq2_encoder_rules(rf"{theirs}encoder\.", rf"{ours}encoder."),
        *_attention(rf"{layer}\.self_attn", rf"{to}.attn", "output_proj"),
        *_renamed(layer, to, names | {"conv1d_layer_norm": "conv_ln"}),
        *fairseq2_duration_rules(rf"{front}variance_adaptor\.duration_predictor\.", rf"{ours}duration."),
        Rule(rf"{theirs}decoder\.layer_norm\.(weight|bias)", rf"{ours}ln.\1"),
        Rule(rf"{front}embed_char\.weight", rf"{ours}char.weight"),
        Rule(rf"{front}pos_emb_alpha_char", rf"{ours}char_alpha"),
        Rule(rf"{front}pos_emb_alpha", rf"{ours}unit_alpha"),
        Rule(rf"{theirs}(?:decoder_frontend\.embed|final_proj)\.weight", rf"{ours}head.weight", tied=True),
    ]


def fairseq2_autoregressive_rules(theirs: str, ours: str) -> list[Rule]:
    """Version 1's model in the names of seamless_communication to what `build_autoregressive` gives."""
    layer, to = rf"{theirs}decoder\.layers\.(\d+)", rf"{ours}decoder.layers.\1"
    names = {"self_attn_layer_norm": "attn_ln", "encoder_decoder_attn_layer_norm": "cross_ln"}
    embedding = rf"{theirs}(?:decoder_frontend\.embed|final_proj)\.weight"
    return [
        *_fairseq2_encoder_rules(rf"{theirs}encoder\.", rf"{ours}encoders.states."),
        *_attention(rf"{layer}\.self_attn", rf"{to}.attn", "output_proj"),
        *_attention(rf"{layer}\.encoder_decoder_attn", rf"{to}.cross", "output_proj"),
        *_renamed(layer, to, names | _FAIRSEQ2_MLP),
        Rule(rf"{theirs}decoder\.layer_norm\.(weight|bias)", rf"{ours}decoder.ln.\1"),
        Rule(embedding, rf"{ours}decoder.token.weight", tied=True),
    ]


_FAIRSEQ2_MLP = {"ffn.inner_proj": "mlp.0", "ffn.output_proj": "mlp.2", "ffn_layer_norm": "mlp_ln"}


def _fairseq2_encoder_rules(theirs: str, ours: str) -> list[Rule]:
    layer, to = rf"{theirs}layers\.(\d+)", rf"{ours}layers.\1"
    return [
        *_attention(rf"{layer}\.self_attn", rf"{to}.attn", "output_proj"),
        *_renamed(layer, to, {"self_attn_layer_norm": "attn_ln"} | _FAIRSEQ2_MLP),
        Rule(rf"{theirs}layer_norm\.(weight|bias)", rf"{ours}ln.\1"),
    ]


def fairseq2_duration_rules(theirs: str, ours: str) -> list[Rule]:
    """A variance predictor in the names of seamless_communication, where a convolution has its ReLU beside it."""
    return [
        Rule(rf"{theirs}(conv[12])\.0\.(weight|bias)", rf"{ours}\1.\2"),
        Rule(rf"{theirs}(ln[12])\.(weight|bias)", rf"{ours}\1.\2"),
        Rule(rf"{theirs}proj\.(weight|bias)", rf"{ours}out.\1"),
    ]


def fairseq2_numbers(meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], theirs: str) -> dict[str, int]:
    """The numbers that both versions have, from the shapes; heads and positions as published unless a card says."""
    front = rf"{theirs}decoder_frontend\."
    vocab, width = needed(shapes, rf"{theirs}final_proj\.weight")
    numbers = {
        "width": width,
        "heads": int(meta.get("num_t2u_attn_heads", Config.heads)),
        "encoder_layers": count(shapes, rf"{theirs}encoder\.layers\.(\d+)\..+"),
        "encoder_hidden": needed(shapes, rf"{theirs}encoder\.layers\.0\.ffn\.inner_proj\.bias")[0],
        "decoder_layers": count(shapes, rf"{theirs}decoder\.layers\.(\d+)\..+"),
        "vocab": vocab,
    }
    chars = found(shapes, rf"{front}embed_char\.weight")
    if chars is None:
        hidden = needed(shapes, rf"{theirs}decoder\.layers\.0\.ffn\.inner_proj\.bias")[0]
        return numbers | {"decoder_hidden": hidden, "ctx": meta.get("unit_max_seq_len", AutoregressiveConfig.ctx)}
    hidden, _, kernel = needed(shapes, rf"{front}variance_adaptor\.duration_predictor\.conv1\.0\.weight")
    return numbers | {
        "decoder_kernel": needed(shapes, rf"{theirs}decoder\.layers\.0\.conv1d\.conv1\.weight")[2],
        "duration_hidden": hidden,
        "duration_kernel": kernel,
        "char_vocab": chars[0],
        "ctx": meta.get("unit_max_seq_len", Config.ctx),
    }
