"""Code HiFi-GAN: discrete speech units to a waveform, whole or as they come.

The generator is HiFi-GAN's (Kong et al. 2020, arXiv 2010.05646), its input the embeddings of language, unit and
speaker (Polyak et al. 2021, arXiv 2104.00355), as in SeamlessM4T v1 and v2.

    units (T) -> language | unit | speaker (T) -> conv 7 -> 5 times: leaky ReLU, upsampling by r, mean of three
        residual blocks of dilated convolutions -> leaky ReLU -> conv 7 -> tanh -> 320 samples a unit

All convolutions are centred, so a unit's sound depends on the units around it (21 either side for Seamless). A stream
therefore lags by `Generator.lookahead` units. Every convolution keeps the input it will see again, nothing is computed
twice, and the sound is the one of a single call.

Letters: B rows, T units, N frames at some depth, C channels, R samples for each unit.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import CheckpointError
from mmx.models.seamless_m4t.units import DurationPredictor, duration_rules, fairseq2_duration_rules, repeat
from mmx.seq import Seq
from mmx.state import State, subtree, tensor
from mmx.weights.convert import Rule, count, needed

SLOPE = 0.1
LAST_SLOPE = 0.01
"""Leak of the last ReLU, which HiFi-GAN left at its framework's default."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The numbers of a code HiFi-GAN; the defaults are those of SeamlessM4T v2 large.

    Attributes:
        dilations: of the convolutions in each residual block, one tuple for each of `block_kernels`.
        duration_kernel: of the duration predictor, as wide as the unit embedding.
    """

    units: int = 10_000
    unit_width: int = 1280
    languages: int = 36
    language_width: int = 256
    speakers: int = 200
    speaker_width: int = 256
    channels: int = 512
    strides: tuple[int, ...] = (5, 4, 4, 2, 2)
    kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    block_kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    duration_kernel: int = 3


# -------------------- one call


class Flow(NamedTuple):
    """What one layer hands to the next.

    Attributes:
        x: `(B, N, C)`, zero wherever the row has no frame.
        rate: frames for each unit.
        lag: frames by which it trails what the stream has heard; 0 in an offline call.
    """

    x: Tensor
    rate: int = 1
    lag: int = 0


class Call:
    """Where the frames of one call lie in each row's sequence.

    A stream's layers take only the past, so each lets its output lag; frame i of a flow is the row's frame
    `seen * rate + i - lag`. Those that do not exist are zero, as a centred convolution would pad them.

    Args:
        seq: the units' embeddings of this call.
        seen: units of each row before this call.
        lookahead: of the generator.
        streaming: whether a state carries what earlier calls heard.
    """

    def __init__(self, seq: Seq, seen: Tensor, lookahead: int, streaming: bool):
        self.seen, self.new, self.total = seen, seq.lengths, seen + seq.lengths
        # An end cuts rows where they stop; a start has frames before the first. Between, all is valid.
        self.whole = bool((self.new == seq.x.shape[1]).all()) and not streaming
        self.whole |= streaming and not seq.final and bool((seen > lookahead).all())

    def valid(self, flow: Flow) -> Flow:
        """Zeros where a row has no frames, written in place."""
        if not self.whole:
            at_BN = torch.arange(flow.x.shape[1], device=flow.x.device) - flow.lag + self.seen[:, None] * flow.rate
            hole_BN = (at_BN < 0) | (at_BN >= self.total[:, None] * flow.rate)
            flow.x.masked_fill_(hole_BN[..., None], 0.0)
        return flow

    def carry(self, flow: Flow, state: State) -> Tensor:
        """`(B, W + N, C)`: the last W frames of the calls before, then this call's; `state["past"]` moves on."""
        past = tensor(state, "past")
        x = torch.cat([past, flow.x], dim=1)
        at_BW = (self.new * flow.rate)[:, None] + torch.arange(past.shape[1], device=x.device)
        state["past"] = x.gather(1, at_BW[..., None].expand(-1, -1, x.shape[2]))
        return x


def _past(batch: int, channels: int, width: int, like: Tensor) -> State:
    return {"past": like.new_zeros(batch, width, channels)}


# -------------------- layers


class Conv(nn.Conv1d):
    """A centred convolution that can go on where an earlier call stopped.

    Args:
        channels: of the input.
        out_channels: of the output.
        kernel: odd.
        dilation: between taps.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, dilation: int = 1):
        if kernel % 2 == 0:
            raise ValueError(f"expected an odd kernel, got {kernel}: an even one has no centre")
        self.lag = dilation * (kernel - 1) // 2
        super().__init__(channels, out_channels, kernel, padding=self.lag, dilation=dilation)

    def flow(self, flow: Flow, call: Call, state: State | None) -> Flow:
        """`lag` frames later with a state, in place without."""
        if state is None:
            return call.valid(flow._replace(x=self.over(flow.x, self.lag)))
        return call.valid(Flow(self.over(call.carry(flow, state)), flow.rate, flow.lag + self.lag))

    def over(self, x_BNC: Tensor, padding: int = 0) -> Tensor:
        """`(B, N, C)` to `(B, N', C)`, with `padding` zeros at both ends."""
        x_BCN = x_BNC.transpose(1, 2)
        if not x_BCN.is_cpu:
            return F.conv1d(x_BCN, self.weight, self.bias, 1, padding, self.dilation).transpose(1, 2)
        # On CPUs torch has kernels for channels that lie together in two dimensions only; they take half the time.
        across, along = (0, padding), (1, *self.dilation)
        y = F.conv2d(x_BCN[:, :, None], self.weight[:, :, None], self.bias, 1, across, along)
        return y[:, :, 0].transpose(1, 2)

    def init_state(self, batch: int) -> State:
        """The inputs that the next output sees again."""
        return _past(batch, self.in_channels, 2 * self.lag, self.weight)


class Upsample(nn.ConvTranspose1d):
    """A transposed convolution that makes exactly `factor` frames of each, and can go on where it stopped.

    Args:
        channels: of the input.
        out_channels: of the output.
        kernel: at least `factor`, and even or odd as it is.
        factor: output frames for each input frame.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, factor: int):
        if kernel < factor or (kernel - factor) % 2:
            raise ValueError(f"expected a kernel of {factor} plus an even number, got {kernel}: lengths would be off")
        self.factor, self.lag = factor, (kernel - factor) // 2
        super().__init__(channels, out_channels, kernel, stride=factor, padding=self.lag)

    def flow(self, flow: Flow, call: Call, state: State | None) -> Flow:
        """`lag` output frames later with a state, in place without."""
        rate = flow.rate * self.factor
        if state is None:
            return call.valid(Flow(self.over(flow.x, self.lag), rate))
        first = self.seen_again * self.factor
        y_BNC = self.over(call.carry(flow, state))[:, first : first + flow.x.shape[1] * self.factor]
        return call.valid(Flow(y_BNC, rate, flow.lag * self.factor + self.lag))

    def over(self, x_BNC: Tensor, padding: int = 0) -> Tensor:
        """`(B, N, C)` to `(B, N', C)`, without the `padding` outermost frames; see `Conv.over`."""
        x_BCN = x_BNC.transpose(1, 2)
        if not x_BCN.is_cpu:
            return F.conv_transpose1d(x_BCN, self.weight, self.bias, self.factor, padding).transpose(1, 2)
        across, along = (0, padding), (1, self.factor)
        y = F.conv_transpose2d(x_BCN[:, :, None], self.weight[:, :, None], self.bias, along, across)
        return y[:, :, 0].transpose(1, 2)

    @property
    def seen_again(self) -> int:
        """Input frames before its own that an output frame is made of."""
        return (self.kernel_size[0] - 1) // self.factor

    def init_state(self, batch: int) -> State:
        """The inputs that the next output sees again."""
        return _past(batch, self.in_channels, self.seen_again, self.weight)


class Delay(nn.Module):
    """Holds a flow back until it lies beside a later one. It has no weights and does nothing in an offline call.

    Args:
        channels: of the flow.
        frames: by which it is held back.
    """

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.channels, self.frames = channels, frames

    def flow(self, flow: Flow, call: Call, state: State | None) -> Flow:
        """The same frames, `frames` later with a state."""
        if state is None:
            return flow
        x = call.carry(flow, state)[:, : flow.x.shape[1]]
        return Flow(x, flow.rate, flow.lag + self.frames)

    def init_state(self, batch: int, like: Tensor) -> State:
        """What is held back."""
        return _past(batch, self.channels, self.frames, like)


class ResidualBlock(nn.Module):
    """Pairs of a dilated and a plain convolution, each pair added to its input.

    Args:
        channels: C.
        kernel: of all convolutions.
        dilations: of the first convolution of each pair.
        latest: the lag of the slowest block beside it, which this one waits for.
    """

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], latest: int):
        super().__init__()
        self.convs1 = nn.ModuleList(Conv(channels, channels, kernel, d) for d in dilations)
        self.convs2 = nn.ModuleList(Conv(channels, channels, kernel) for _ in dilations)
        self.skips = nn.ModuleList(Delay(channels, residual_lag(kernel, [d])) for d in dilations)
        wait = latest - residual_lag(kernel, dilations)
        self.wait = Delay(channels, wait) if wait else None

    def flow(self, flow: Flow, call: Call, state: State | None) -> Flow:
        """`latest` frames later with a state, in place without."""
        for i, (first, second, skip) in enumerate(zip(self.convs1, self.convs2, self.skips, strict=True)):
            assert isinstance(first, Conv) and isinstance(second, Conv) and isinstance(skip, Delay)
            h = first.flow(flow._replace(x=F.leaky_relu(flow.x, SLOPE)), call, _branch(state, "convs1", i))
            h = second.flow(h._replace(x=F.leaky_relu_(h.x, SLOPE)), call, _branch(state, "convs2", i))
            h.x.add_(skip.flow(flow, call, _branch(state, "skips", i)).x)
            flow = h
        return self.wait.flow(flow, call, _branch(state, "wait")) if self.wait else flow

    def init_state(self, batch: int) -> State:
        """That of its layers."""
        like = next(self.parameters())
        state: State = {"wait": self.wait.init_state(batch, like)} if self.wait else {}
        state["convs1"] = {str(i): c.init_state(batch) for i, c in enumerate(self.convs1) if isinstance(c, Conv)}
        state["convs2"] = {str(i): c.init_state(batch) for i, c in enumerate(self.convs2) if isinstance(c, Conv)}
        state["skips"] = {str(i): d.init_state(batch, like) for i, d in enumerate(self.skips) if isinstance(d, Delay)}
        return state


def residual_lag(kernel: int, dilations: Sequence[int]) -> int:
    """Frames that a residual block of these convolutions looks ahead."""
    return sum((d + 1) * (kernel - 1) // 2 for d in dilations)


def _branch(state: State | None, name: str, index: int | None = None) -> State | None:
    if state is None:
        return None
    return subtree(state, name) if index is None else subtree(subtree(state, name), str(index))


# -------------------- the models


class Generator(nn.Module):
    """HiFi-GAN's generator, a `Block`: features at the rate of units to as many frames of R samples.

    Args:
        width: channels of the input.
        channels: after the first convolution; halved by each upsampling.
        strides: factors of the upsamplings; R is their product.
        kernels: of the upsamplings.
        block_kernels: of the residual blocks after each upsampling.
        dilations: of each residual block.
    """

    stride = 1

    def __init__(
        self,
        width: int,
        channels: int,
        strides: Sequence[int],
        kernels: Sequence[int],
        block_kernels: Sequence[int],
        dilations: Sequence[Sequence[int]],
    ):
        super().__init__()
        widths = [channels // 2**i for i in range(len(strides) + 1)]
        latest = max(residual_lag(k, d) for k, d in zip(block_kernels, dilations, strict=True))
        self.samples = math.prod(strides)
        self.pre = Conv(width, channels, 7)
        self.ups = nn.ModuleList(
            Upsample(a, b, k, s) for (a, b), k, s in zip(pairwise(widths), kernels, strides, strict=True)
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(c, k, d, latest) for c in widths[1:] for k, d in zip(block_kernels, dilations, strict=True)
        )
        self.post = Conv(widths[-1], 1, 7)
        lag = self.pre.lag
        for up in self.ups:
            assert isinstance(up, Upsample)
            lag = lag * up.factor + up.lag + latest
        lag += self.post.lag
        self.lookahead = -(-lag // self.samples)
        rest = self.lookahead * self.samples - lag
        self.round = Delay(1, rest) if rest else None
        self.per_stage = len(block_kernels)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """Waveform of each unit.

        Args:
            seq: `(B, T, C)` features; `final=False` says that more units follow.
            state: from `init_state`, advanced in place; None hears `seq` as a whole.

        Returns:
            `(B, T, R)` in [-1, 1], R samples for each unit; with a state those units that are complete.
        """
        seen = torch.zeros_like(seq.lengths) if state is None else tensor(state, "seen")
        call = Call(seq, seen, self.lookahead, state is not None)
        x_BTC = seq.masked.to(self.pre.weight.dtype)
        if state is not None and seq.final:
            x_BTC = F.pad(x_BTC, (0, 0, 0, self.lookahead))
        if x_BTC.shape[1] == 0:
            return seq._replace(x=x_BTC.new_zeros(len(x_BTC), 0, self.samples))
        wav_BN = self._flow(Flow(x_BTC), call, state).x[..., 0]
        wav_BTR = wav_BN.unflatten(1, (-1, self.samples))
        if state is None:
            return seq._replace(x=wav_BTR)
        state["seen"] = call.total
        return self._complete(wav_BTR, call, seq)

    def _flow(self, flow: Flow, call: Call, state: State | None) -> Flow:
        flow = self.pre.flow(flow, call, _branch(state, "pre"))
        for i, up in enumerate(self.ups):
            assert isinstance(up, Upsample)
            flow = up.flow(flow._replace(x=F.leaky_relu_(flow.x, SLOPE)), call, _branch(state, "ups", i))
            first, *others = range(i * self.per_stage, (i + 1) * self.per_stage)
            mean = self._block(first, flow, call, state)
            for j in others:
                mean.x.add_(self._block(j, flow, call, state).x)
            flow = mean._replace(x=mean.x.div_(self.per_stage))
        flow = self.post.flow(flow._replace(x=F.leaky_relu_(flow.x, LAST_SLOPE)), call, _branch(state, "post"))
        flow = flow._replace(x=flow.x.tanh_())
        return self.round.flow(flow, call, _branch(state, "round")) if self.round else flow

    def _block(self, index: int, flow: Flow, call: Call, state: State | None) -> Flow:
        block = self.blocks[index]
        assert isinstance(block, ResidualBlock)
        return block.flow(flow, call, _branch(state, "blocks", index))

    def _complete(self, wav_BTR: Tensor, call: Call, seq: Seq) -> Seq:
        """The units whose sound is whole: the first `lookahead` frames of a stream lie before its start."""
        before = (call.seen - self.lookahead).clamp(min=0)
        after = call.total if seq.final else (call.total - self.lookahead).clamp(min=0)
        skipped = (self.lookahead - call.seen).clamp(min=0)
        at_BT = skipped[:, None] + torch.arange(int((after - before).max()), device=wav_BTR.device)
        at_BT = at_BT.clamp(max=wav_BTR.shape[1] - 1)
        rows_B1 = torch.arange(len(wav_BTR), device=wav_BTR.device)[:, None]
        return seq._replace(x=wav_BTR[rows_B1, at_BT], lengths=after - before)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The state of `batch` streams that have heard nothing; its size does not grow."""
        like = self.pre.weight
        return {
            "seen": torch.zeros(batch, dtype=torch.int64, device=like.device),
            "pre": self.pre.init_state(batch),
            "ups": {str(i): u.init_state(batch) for i, u in enumerate(self.ups) if isinstance(u, Upsample)},
            "blocks": {str(i): b.init_state(batch) for i, b in enumerate(self.blocks) if isinstance(b, ResidualBlock)},
            "post": self.post.init_state(batch),
            **({"round": self.round.init_state(batch, like)} if self.round else {}),
        }


class CodeVocoder(nn.Module):
    """Units to speech in a language and a voice.

    Args:
        unit: unit embedding.
        language: language embedding.
        speaker: speaker embedding.
        duration: says how long each reduced unit lasts.
        generator: reads the three embeddings side by side.
    """

    def __init__(
        self,
        unit: nn.Embedding,
        language: nn.Embedding,
        speaker: nn.Embedding,
        duration: DurationPredictor,
        generator: Generator,
    ):
        super().__init__()
        self.language, self.unit, self.speaker = language, unit, speaker
        self.duration, self.generator = duration, generator

    def forward(
        self,
        units: Seq,
        language: Tensor,
        speaker: Tensor,
        predict_durations: bool = False,
        state: State | None = None,
    ) -> Seq:
        """Speak.

        Args:
            units: `(B, T)` int64 in the vocoder's numbering, 0 to its vocabulary.
            language: `(B,)` int64.
            speaker: `(B,)` int64.
            predict_durations: off for units that stand for 20 ms each, as version 2 writes them; on for reduced units
                (runs of equal units written once), as version 1 writes them. This is what Seamless does;
                transformers predicts durations for both, and so speaks version 2 at another pace.
            state: from `init_state`, advanced in place, to speak units as they come; `units.final` closes the stream.
                None speaks them as a whole.

        Returns:
            Waveform `(B, N)` in [-1, 1] at `R * units.rate` Hz, 16 kHz for Seamless, with exact lengths.

        Raises:
            ValueError: if an id is out of range, or durations are to be predicted in a stream.
        """
        units = units._replace(x=units.masked)
        for ids, table, what in (
            (units.x, self.unit, "units"), (language, self.language, "languages"), (speaker, self.speaker, "speakers")
        ):  # fmt: skip
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < table.num_embeddings:
                got = f"{int(ids.min())} to {int(ids.max())}"
                raise ValueError(f"expected {what} from 0 to {table.num_embeddings - 1}, got {got}")
        x = units._replace(x=self.unit(units.x))
        if predict_durations:
            if state is not None:
                raise ValueError("expected units of 20 ms in a stream, got reduced ones: speak them without a state")
            x = repeat(x, self.duration(x), units.rate)
        frames = x.x.shape[1]
        voice = [table(ids)[:, None].expand(-1, frames, -1)
                 for table, ids in ((self.language, language), (self.speaker, speaker))]  # fmt: skip
        out = self.generator(x._replace(x=torch.cat([voice[0], x.x, voice[1]], dim=2)), state)
        samples = self.generator.samples
        rate = None if units.rate is None else units.rate * samples
        return Seq(out.x.flatten(1), out.lengths * samples, rate, out.final)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The state of `batch` streams that have spoken nothing."""
        return self.generator.init_state(batch, capacity)


def build(config: Config) -> CodeVocoder:
    """The model without weights; call it under `torch.device("meta")` to allocate nothing."""
    c = config
    return CodeVocoder(
        nn.Embedding(c.units, c.unit_width),
        nn.Embedding(c.languages, c.language_width),
        nn.Embedding(c.speakers, c.speaker_width),
        DurationPredictor(c.unit_width, c.unit_width, c.duration_kernel),
        Generator(
            c.language_width + c.unit_width + c.speaker_width,
            c.channels, c.strides, c.kernels, c.block_kernels, c.dilations,
        ),
    )  # fmt: skip


# -------------------- conversion


def hf_rules(theirs_prefix: str = "", ours_prefix: str = "") -> list[Rule]:
    """transformers' `SeamlessM4Tv2CodeHifiGan`, or v1's, to `CodeVocoder`; a checkpoint with weight norm first goes
    through `fold_weight_norm`.

    Args:
        theirs_prefix: what stands before its keys, such as `vocoder.`.
        ours_prefix: what stands before ours.
    """
    theirs, ours = re.escape(theirs_prefix), ours_prefix
    gan = rf"{theirs}hifi_gan\."
    return [
        *duration_rules(rf"{theirs}dur_predictor\.", rf"{ours}duration."),
        Rule(rf"{theirs}(unit|language|speaker)_embedding\.weight", rf"{ours}\1.weight"),
        Rule(rf"{gan}conv_(pre|post)\.(weight|bias)", rf"{ours}generator.\1.\2"),
        Rule(rf"{gan}upsampler\.(\d+)\.(weight|bias)", rf"{ours}generator.ups.\1.\2"),
        Rule(rf"{gan}resblocks\.(\d+)\.(convs[12])\.(\d+)\.(weight|bias)", rf"{ours}generator.blocks.\1.\2.\3.\4"),
    ]


def fairseq2_rules(theirs: str, ours: str) -> list[Rule]:
    """The vocoder in the names of seamless_communication to `CodeVocoder`, its weight norm folded.

    Args:
        theirs: pattern of their prefix, such as `vocoder\\.code_generator\\.`.
        ours: template of ours.
    """
    tables = (("dict", "unit"), ("lang", "language"), ("spkr", "speaker"))
    return [
        *fairseq2_duration_rules(rf"{theirs}dur_predictor\.", rf"{ours}duration."),
        *(Rule(rf"{theirs}{a}\.weight", f"{ours}{b}.weight") for a, b in tables),
        Rule(rf"{theirs}conv_(pre|post)\.(weight|bias)", rf"{ours}generator.\1.\2"),
        Rule(rf"{theirs}ups\.(\d+)\.(weight|bias)", rf"{ours}generator.ups.\1.\2"),
        Rule(rf"{theirs}resblocks\.(\d+)\.(convs[12])\.(\d+)\.(weight|bias)", rf"{ours}generator.blocks.\1.\2.\3.\4"),
    ]


def fairseq2_numbers(meta: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], theirs: str) -> dict[str, Any]:
    """The numbers of a vocoder from its shapes; strides and dilations are those published unless a card says."""
    published = Config()
    sizes = {name: needed(shapes, rf"{theirs}{key}\.weight") for name, key in (
        ("unit", "dict"), ("language", "lang"), ("speaker", "spkr"), ("duration", r"dur_predictor\.conv1\.0"),
    )}  # fmt: skip
    ups = count(shapes, rf"{theirs}ups\.(\d+)\..+")
    per_up = count(shapes, rf"{theirs}resblocks\.(\d+)\..+") // ups
    conv = rf"{theirs}resblocks\.%d\.convs1\.0\.weight"
    return {
        "units": sizes["unit"][0], "unit_width": sizes["unit"][1],
        "languages": sizes["language"][0], "language_width": sizes["language"][1],
        "speakers": sizes["speaker"][0], "speaker_width": sizes["speaker"][1],
        "channels": needed(shapes, rf"{theirs}conv_pre\.bias")[0],
        "strides": tuple(meta.get("upsample_rates", published.strides)),
        "kernels": tuple(needed(shapes, rf"{theirs}ups\.{i}\.weight")[2] for i in range(ups)),
        "block_kernels": tuple(needed(shapes, conv % i)[2] for i in range(per_up)),
        "dilations": tuple(tuple(d) for d in meta.get("resblock_dilation_sizes", published.dilations)),
        "duration_kernel": sizes["duration"][2],
    }  # fmt: skip


_NORMED = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
"""Size and direction of a weight, in torch's old and new names."""


def fold_weight_norm(source: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint with each pair of weight norm (Salimans and Kingma 2016) replaced by the weight it stands for.

    Both ways in which torch writes the pair are known; what is not normed passes as it is.

    Raises:
        CheckpointError: if one half of a pair is missing.
    """
    out: dict[str, Tensor] = {}
    for key, value in source.items():
        halves = next((p for p in _NORMED if key.endswith(tuple(f".{half}" for half in p))), None)
        if halves is None:
            out[key] = value
            continue
        stem = key.removesuffix(halves[0]).removesuffix(halves[1])
        missing = [stem + half for half in halves if stem + half not in source]
        if missing:
            raise CheckpointError(f"expected {missing[0]} beside {key}, found none: is the checkpoint whole?")
        size, direction = (source[stem + half].float() for half in halves)
        norm = direction.flatten(1).norm(dim=1).reshape(size.shape)
        out[f"{stem}weight"] = (direction * (size / norm)).to(value.dtype)
    return out
