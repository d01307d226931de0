"""The Whisper family: log-mel front end, speech encoder, text decoder (Radford et al. 2022, arXiv 2212.04356).

Serves tiny to large-v3-turbo, English-only models too, from three published formats (`KEYS`).

Letters: B rows, K hypotheses of a row, N samples, T mel frames, M encoder frames, U tokens, D width, F mels,
V vocabulary, H heads, C head width.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.media.audio import SAMPLE_RATE
from mmx.media.mel import mel_filterbank
from mmx.model import Model
from mmx.models.whisper.tokenizer import WhisperTokenizer
from mmx.nn.block import EncoderLayer, sinusoids
from mmx.nn.decoder import DecoderLayer, LearnedPositions, TextDecoder
from mmx.seq import Seq
from mmx.state import State
from mmx.weights.card import Card
from mmx.weights.convert import ZERO, Rule
from mmx.weights.formats import LazyTensors

TOKENIZER_OF = "whisper-base"
"""Card whose tokenizer serves a checkpoint that comes without one."""

N_FFT = 400
HOP = 160


@dataclass(frozen=True, kw_only=True)
class Config:
    """The ten numbers of a Whisper model. The window is `2 * audio_ctx` mel frames of 10 ms: 30 s."""

    n_mels: int
    audio_ctx: int = 1500
    audio_width: int
    audio_heads: int
    audio_layers: int
    vocab: int
    text_ctx: int = 448
    text_width: int
    text_heads: int
    text_layers: int


class LogMel(nn.Module):
    """Waveform to the log-mel features that Whisper was trained on.

    The clamp at 8 (that is 80 dB) below the loudest bin of the whole input makes every frame depend on all others, so
    the look-ahead is infinite: Whisper's front end does not stream, its input is windowed instead.
    """

    stride = HOP
    lookahead = math.inf

    def __init__(self, n_mels: int):
        super().__init__()
        self.register_buffer("filters", mel_filterbank(SAMPLE_RATE, N_FFT, n_mels), persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT, device="cpu"), persistent=False)
        self.filters: Tensor
        self.window: Tensor

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, N)` samples at 16 kHz in [-1, 1] to `(B, N // 160, F)` at 100 Hz, about [-1, 1.5]."""
        wav_BN = seq.masked.float()
        spectrum = torch.stft(wav_BN, N_FFT, HOP, window=self.window, return_complex=True)
        power_BFT = spectrum[..., :-1].abs().square()
        log_BFT = (self.filters @ power_BFT).clamp_(min=1e-10).log10_()
        top = log_BFT.amax(dim=(1, 2), keepdim=True)
        mel_BFT = (torch.maximum(log_BFT, top - 8.0) + 4.0) / 4.0
        return Seq(mel_BFT.transpose(1, 2), seq.lengths // HOP, SAMPLE_RATE / HOP, seq.final)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}


class Encoder(nn.Module):
    """Two convolutions, fixed sinusoidal positions, Transformer layers that see the whole window."""

    stride = 2
    lookahead = math.inf
    whole_windows = True  # it was trained on windows of `ctx` frames only, filled up with silence

    def __init__(self, n_mels: int, ctx: int, width: int, heads: int, layers: int):
        super().__init__()
        self.ctx = ctx
        self.conv1 = nn.Conv1d(n_mels, width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("positions", sinusoids(ctx, width), persistent=False)
        self.positions: Tensor
        self.layers = nn.ModuleList(EncoderLayer(width, heads, 4 * width) for _ in range(layers))
        self.ln = nn.LayerNorm(width)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, F)` log-mels at 100 Hz, T <= 3000, to `(B, T // 2, D)` at 50 Hz.

        Silence is part of Whisper's input: the caller pads with zero samples, and every frame is attended to.
        """
        if seq.x.shape[1] > 2 * self.ctx:
            raise ValueError(f"expected at most {2 * self.ctx} mel frames, got {seq.x.shape[1]}: cut into windows")
        x_BDT = seq.masked.transpose(1, 2)
        x_BDM = F.gelu(self.conv2(F.gelu(self.conv1(x_BDT))))
        x_BMD = x_BDM.transpose(1, 2)
        x_BMD = x_BMD + self.positions[: x_BMD.shape[1]].to(x_BMD.dtype)
        for layer in self.layers:
            x_BMD = layer(x_BMD)
        rate = None if seq.rate is None else seq.rate / self.stride
        return Seq(self.ln(x_BMD), (seq.lengths + 1) // self.stride, rate, seq.final)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered."""
        return {}


class TimestampRules:
    """What Whisper's time tokens may do (section 2.4 of the paper and its reference decoder), as a search filter.

    Time tokens come in pairs except before the end, never go back, open the output at most `max_initial_s` into the
    window, and are written whenever their probability together exceeds that of the best text token.
    """

    def __init__(self, eot: int, no_timestamps: int, timestamp_begin: int, max_initial_s: float = 1.0):
        self.eot, self.no_timestamps, self.begin = eot, no_timestamps, timestamp_begin
        self.max_initial = round(max_initial_s / 0.02)

    def __call__(self, logits: Tensor, written: Tensor) -> None:
        logits[:, self.no_timestamps] = -math.inf
        n = written.shape[1]
        if n == 0:
            logits[:, : self.begin] = -math.inf
            logits[:, self.begin + self.max_initial + 1 :] = -math.inf
            return
        # Row by row and in slices: a mask over all of the vocabulary costs more than the decoder's layers.
        for row, tokens in zip(logits, written.tolist(), strict=True):
            last = tokens[-1] >= self.begin
            pair = last and (n == 1 or tokens[-2] >= self.begin)
            latest = next((t for t in reversed(tokens) if t >= self.begin), None)
            if pair:
                row[self.begin :] = -math.inf
            elif last:
                row[: self.eot] = -math.inf
            if latest is not None:
                floor = latest + (pair or not last)  # a segment may be empty only as its own end
                row[self.begin : floor] = -math.inf
        self._prefer_time(logits)

    def _prefer_time(self, logits: Tensor) -> None:
        time = logits[:, self.begin :].logsumexp(1)
        text = logits[:, : self.begin].amax(1)
        for row in (time > text).nonzero()[:, 0].tolist():
            logits[row, : self.begin] = -math.inf


def build(config: Config) -> Model:
    """The model without weights; call it under `torch.device("meta")` to allocate nothing."""
    c = config
    return Model(
        front={"speech": LogMel(c.n_mels)},
        encoders={"speech": Encoder(c.n_mels, c.audio_ctx, c.audio_width, c.audio_heads, c.audio_layers)},
        decoder=TextDecoder(
            c.vocab,
            [DecoderLayer(c.text_width, c.text_heads, 4 * c.text_width) for _ in range(c.text_layers)],
            LearnedPositions(c.text_ctx, c.text_width),
        ),
    )


_ENC = r"encoders.speech."
_QKV = tuple(f"attn.{part}" for part in ("query", "key", "value"))

KEYS: dict[str, list[Rule]] = {
    "openai": [
        Rule(r"encoder\.(conv[12])\.(weight|bias)", _ENC + r"\1.\2"),
        Rule(r"encoder\.positional_embedding", None, "sinusoids, computed"),
        Rule(r"encoder\.ln_post\.(weight|bias)", _ENC + r"ln.\1"),
        Rule(r"encoder\.blocks\.(\d+)\.(attn|attn_ln|mlp|mlp_ln)\.(.+)", _ENC + r"layers.\1.\2.\3"),
        Rule(r"decoder\.token_embedding\.weight", r"decoder.token.weight"),
        Rule(r"decoder\.positional_embedding", r"decoder.positions.weight"),
        Rule(r"decoder\.ln\.(weight|bias)", r"decoder.ln.\1"),
        Rule(r"decoder\.blocks\.(\d+)\.cross_attn(_ln)?\.(.+)", r"decoder.layers.\1.cross\2.\3"),
        Rule(r"decoder\.blocks\.(\d+)\.(attn|attn_ln|mlp|mlp_ln)\.(.+)", r"decoder.layers.\1.\2.\3"),
    ],
    "hf": [
        Rule(r"model\.encoder\.(conv[12])\.(weight|bias)", _ENC + r"\1.\2"),
        Rule(r"model\.encoder\.embed_positions\.weight", None, "sinusoids, computed"),
        Rule(r"model\.encoder\.layer_norm\.(weight|bias)", _ENC + r"ln.\1"),
        Rule(r"model\.decoder\.embed_tokens\.weight", r"decoder.token.weight"),
        Rule(r"model\.decoder\.embed_positions\.weight", r"decoder.positions.weight"),
        Rule(r"model\.decoder\.layer_norm\.(weight|bias)", r"decoder.ln.\1"),
        Rule(r"proj_out\.weight", None, "tied to the token embedding"),
        *(
            rule
            for side, to in (("encoder", _ENC), ("decoder", "decoder."))
            for theirs, ours in (("self_attn", "attn"), ("encoder_attn", "cross"))
            for rule in (
                *(
                    Rule(
                        rf"model\.{side}\.layers\.(\d+)\.{theirs}\.{p}\.(weight|bias)",
                        rf"{to}layers.\1.{ours}.{q}.\2",
                    )
                    for p, q in (
                        ("q_proj", "query"),
                        ("k_proj", "key"),
                        ("v_proj", "value"),
                        ("out_proj", "out"),
                    )
                ),
                Rule(
                    rf"model\.{side}\.layers\.(\d+)\.{theirs}_layer_norm\.(.+)",
                    rf"{to}layers.\1.{ours}_ln.\2",
                ),
            )
        ),
        *(
            Rule(rf"model\.{side}\.layers\.(\d+)\.{theirs}\.(weight|bias)", rf"{to}layers.\1.{ours}.\2")
            for side, to in (("encoder", _ENC), ("decoder", "decoder."))
            for theirs, ours in (("fc1", "mlp.0"), ("fc2", "mlp.2"), ("final_layer_norm", "mlp_ln"))
        ),
    ],
    "ct2": [
        Rule(r"encoder/(conv[12])/(weight|bias)", _ENC + r"\1.\2"),
        Rule(r"encoder/position_encodings/encodings", None, "sinusoids, computed"),
        Rule(r"decoder/embeddings/weight", r"decoder.token.weight"),
        Rule(r"decoder/position_encodings/encodings", r"decoder.positions.weight"),
        Rule(r"decoder/projection/weight", None, "tied to the token embedding"),
        Rule(
            r"(encoder|decoder)/(activation|alibi|alignment_\w+|num_heads|pre_norm|scale_embeddings|"
            r"start_from_zero_embedding|num_heads_kv|sliding_window|layernorm_embedding)",
            None,
            "a setting",
        ),
        *(
            rule
            for side, to in (("encoder", _ENC), ("decoder", "decoder."))
            for rule in (
                Rule(rf"{side}/layer_norm/gamma", rf"{to}ln.weight"),
                Rule(rf"{side}/layer_norm/beta", rf"{to}ln.bias"),
                Rule(rf"{side}/layer_(\d+)/self_attention/layer_norm/gamma", rf"{to}layers.\1.attn_ln.weight"),
                Rule(rf"{side}/layer_(\d+)/self_attention/layer_norm/beta", rf"{to}layers.\1.attn_ln.bias"),
                Rule(
                    rf"{side}/layer_(\d+)/self_attention/linear_0/weight",
                    [rf"{to}layers.\1.{p}.weight" for p in _QKV],
                ),
                Rule(
                    rf"{side}/layer_(\d+)/self_attention/linear_0/bias",
                    [rf"{to}layers.\1.attn.query.bias", ZERO, rf"{to}layers.\1.attn.value.bias"],
                ),
                Rule(rf"{side}/layer_(\d+)/self_attention/linear_1/(.+)", rf"{to}layers.\1.attn.out.\2"),
                Rule(rf"{side}/layer_(\d+)/attention/layer_norm/gamma", rf"{to}layers.\1.cross_ln.weight"),
                Rule(rf"{side}/layer_(\d+)/attention/layer_norm/beta", rf"{to}layers.\1.cross_ln.bias"),
                Rule(rf"{side}/layer_(\d+)/attention/linear_0/(.+)", rf"{to}layers.\1.cross.query.\2"),
                Rule(
                    rf"{side}/layer_(\d+)/attention/linear_1/weight",
                    [rf"{to}layers.\1.cross.key.weight", rf"{to}layers.\1.cross.value.weight"],
                ),
                Rule(rf"{side}/layer_(\d+)/attention/linear_1/bias", [ZERO, rf"{to}layers.\1.cross.value.bias"]),
                Rule(rf"{side}/layer_(\d+)/attention/linear_2/(.+)", rf"{to}layers.\1.cross.out.\2"),
                Rule(rf"{side}/layer_(\d+)/ffn/layer_norm/gamma", rf"{to}layers.\1.mlp_ln.weight"),
                Rule(rf"{side}/layer_(\d+)/ffn/layer_norm/beta", rf"{to}layers.\1.mlp_ln.bias"),
                Rule(rf"{side}/layer_(\d+)/ffn/linear_0/(.+)", rf"{to}layers.\1.mlp.0.\2"),
                Rule(rf"{side}/layer_(\d+)/ffn/linear_1/(.+)", rf"{to}layers.\1.mlp.2.\2"),
            )
        ),
    ],
}
"""Published key to ours, by format."""


def tokenizer(file: Path, config: Config) -> WhisperTokenizer:
    """The tokenizer of `tokenizer.json` or of one of OpenAI's `.tiktoken` files."""
    return WhisperTokenizer.from_file(file, n_vocab=config.vocab)


def config_from(format: str, meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The `Config` numbers of a checkpoint that comes without a card, from what its format records.

    Args:
        format: a key of `KEYS`.
        meta: what stands beside the tensors: OpenAI's `dims`, Hugging Face's `config.json`, CTranslate2's scalars.
        shapes: source key to shape.
    """
    if format == "openai":
        d = meta["dims"]
        names = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
        names += ("n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer")
        values = [d[n] for n in names]
    elif format == "hf":
        names = (
            "num_mel_bins",
            "max_source_positions",
            "d_model",
            "encoder_attention_heads",
            "encoder_layers",
        )
        names += (
            "vocab_size",
            "max_target_positions",
            "d_model",
            "decoder_attention_heads",
            "decoder_layers",
        )
        values = [meta[n] for n in names]
    else:
        width, n_mels, _ = shapes["encoder/conv1/weight"]
        vocab, text_width = shapes["decoder/embeddings/weight"]
        count = {s: len({k.split("/")[1] for k in shapes if k.startswith(f"{s}/layer_") and "/ffn/" in k})
                 for s in ("encoder", "decoder")}  # fmt: skip
        audio_ctx, text_ctx = (shapes[f"{s}/position_encodings/encodings"][0] for s in ("encoder", "decoder"))
        values = [n_mels, audio_ctx, width, int(meta["encoder/num_heads"]), count["encoder"]]
        values += [vocab, text_ctx, text_width, int(meta["decoder/num_heads"]), count["decoder"]]
    return dict(zip(Config.__dataclass_fields__, values, strict=True))


def sniff(format: str, source: LazyTensors) -> bool:
    """Whether it is OpenAI's checkpoint, which gives the dimensions of the model and no name."""
    return format == "openai" and "dims" in source.meta


# -------------------- Hugging Face's folder


def hf_config(config: Config) -> dict[str, Any]:
    """The `config.json` of a model whose checkpoint `KEYS["hf"]` describes."""
    c = config
    # Without languages, Whisper's vocabulary has one token less, and all control tokens stand one earlier.
    english = c.vocab < 51_865
    eot = 50_256 if english else 50_257
    return {
        "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "num_mel_bins": c.n_mels,
        "max_source_positions": c.audio_ctx, "d_model": c.audio_width, "encoder_attention_heads": c.audio_heads,
        "encoder_layers": c.audio_layers, "vocab_size": c.vocab, "max_target_positions": c.text_ctx,
        "decoder_attention_heads": c.text_heads, "decoder_layers": c.text_layers,
        "encoder_ffn_dim": 4 * c.audio_width, "decoder_ffn_dim": 4 * c.text_width, "activation_function": "gelu",
        "tie_word_embeddings": True, "is_encoder_decoder": True, "bos_token_id": eot, "eos_token_id": eot,
        "pad_token_id": eot, "decoder_start_token_id": eot + 1, "suppress_tokens": None,
    }  # fmt: skip


def hf_fixed(config: Config) -> dict[str, Tensor]:
    """What Hugging Face stores and we compute: the encoder's positions."""
    return {"model.encoder.embed_positions.weight": sinusoids(config.audio_ctx, config.audio_width)}


def hf_files(config: Config, tokenizer: WhisperTokenizer, card: Card, folder: Path) -> dict[str, str]:
    """The small files next to the weights that transformers' processor, pipeline and `generate` read, by name.

    Args:
        config: the model's numbers.
        tokenizer: its tokenizer.
        card: gives the heads that follow the audio, for word timestamps.
        folder: holds what was copied from the source; not needed here.
    """
    tok = tokenizer
    length_s = config.audio_ctx * 2 * HOP / SAMPLE_RATE
    sound = {
        "feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor",
        "feature_size": config.n_mels, "sampling_rate": SAMPLE_RATE, "hop_length": HOP, "n_fft": N_FFT,
        "chunk_length": round(length_s), "n_samples": round(length_s * SAMPLE_RATE),
        "nb_max_frames": 2 * config.audio_ctx, "padding_side": "right", "padding_value": 0.0,
        "return_attention_mask": False,
    }  # fmt: skip
    text = {
        "tokenizer_class": "WhisperTokenizer", "processor_class": "WhisperProcessor", "errors": "replace",
        "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "model_max_length": config.text_ctx, "clean_up_tokenization_spaces": False,
        "additional_special_tokens": tok.special_names,  # transformers expects timestamps after the last of them
    }  # fmt: skip
    writing: dict[str, Any] = {
        "bos_token_id": tok.eot, "eos_token_id": tok.eot, "pad_token_id": tok.eot, "decoder_start_token_id": tok.sot,
        "prev_sot_token_id": tok.sot_prev, "no_timestamps_token_id": tok.no_timestamps, "max_length": config.text_ctx,
        "max_initial_timestamp_index": 50, "return_timestamps": False, "is_multilingual": tok.multilingual,
        "begin_suppress_tokens": tok.blank_tokens(), "suppress_tokens": _never_written(tok),
    }  # fmt: skip
    if tok.multilingual:
        writing["lang_to_id"] = {f"<|{code}|>": i for code, i in tok.language_ids.items()}
        writing["task_to_id"] = {"transcribe": tok.transcribe, "translate": tok.translate}
    if card.alignment_heads:
        writing["alignment_heads"] = [list(pair) for pair in card.alignment_heads]
    files = {"preprocessor_config.json": sound, "tokenizer_config.json": text, "generation_config.json": writing}
    return {"tokenizer.json": tok.to_json()} | {name: json.dumps(content, indent=1) for name, content in files.items()}


def _never_written(tok: WhisperTokenizer) -> list[int]:
    """What a transcript holds nowhere: signs that nobody says, and the tokens of the prompt."""
    controls = {tok.sot, tok.sot_prev, tok.sot_lm, tok.no_speech, tok.translate, tok.transcribe}
    return sorted({*tok.non_speech_tokens(), *controls})
