"""Silero VAD, 16 kHz: the probability that somebody speaks, once per 32 ms.

The network is that of the package silero-vad (MIT); only its weights are read. The package is never imported,
for its import sets the thread count of the whole process. The weights are those of `silero_vad.jit`, the
model that everybody runs; `silero_vad_16k.safetensors` beside it is another training with other outputs
(snakers4/silero-vad#768). Each frame of 512 samples is seen with the 64 samples before it:

    frame (576) -> reflect 64 on the right -> STFT magnitude (129 bins x 4 steps)
                -> four convolutions with ReLU (4 -> 4 -> 2 -> 1 -> 1 steps)
                -> LSTM(128) -> ReLU -> linear -> sigmoid

All but the LSTM looks at one frame only, so the frames of a block go through it side by side.

Letters: B batch, N samples, T frames, C channels.
"""

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mmx.errors import CheckpointError, ModelNotFoundError
from mmx.media.audio import SAMPLE_RATE
from mmx.seq import Seq
from mmx.state import State

FRAME = 512
"""Samples in one frame, the stride of the model: 32 ms."""
CONTEXT = 64
"""Samples of the previous frame that are seen again with a frame."""
WIDTH = 128

RULES: tuple[tuple[str, str | None], ...] = (
    (r"_model\.stft\.forward_basis_buffer", "stft.weight"),
    (r"_model\.encoder\.(\d)\.reparam_conv\.(weight|bias)", r"convs.\1.\2"),
    (r"_model\.decoder\.rnn\.(weight|bias)_(ih|hh)", r"lstm.\1_\2_l0"),
    (r"_model\.decoder\.decoder\.2\.(weight|bias)", r"head.\1"),
    (r"_model_8k\..*", None),  # a second model, for audio at 8 kHz, which mmx resamples instead
)
"""Key in the package's file -> key here, or None for what is left out."""

OTHER_RULES: tuple[tuple[str, str | None], ...] = (
    (r"stft_conv\.weight", "stft.weight"),
    *((rf"conv{k + 1}\.(weight|bias)", rf"convs.{k}.\1") for k in range(4)),
    (r"lstm_cell\.(weight|bias)_(ih|hh)", r"lstm.\1_\2_l0"),
    (r"final_conv\.(weight|bias)", r"head.\1"),
)
"""The same of the other training."""

_DAMAGED = (SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, RuntimeError, TypeError, ValueError)
_REINSTALL = "pip install --force-reinstall 'silero-vad>=6.2'"


class SileroVad(nn.Module):
    """Speech probability per frame; a `Block`: `forward(seq, state)` serves a whole file and a stream alike.

    Args:
        chunk_frames: frames computed side by side. It bounds memory and changes no result.
    """

    stride = FRAME
    lookahead = 0

    def __init__(self, chunk_frames: int = 512) -> None:
        super().__init__()
        self.chunk_frames = chunk_frames
        self.stft = nn.Conv1d(1, 258, 256, stride=128, bias=False)
        self.convs = nn.ModuleList(
            [
                nn.Conv1d(129, 128, 3, padding=1),
                nn.Conv1d(128, 64, 3, stride=2, padding=1),
                nn.Conv1d(64, 64, 3, stride=2, padding=1),
                nn.Conv1d(64, WIDTH, 3, padding=1),
            ]
        )
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Conv1d(WIDTH, 1, 1)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The state of `batch` streams that have heard nothing.

        Args:
            batch: number of rows.
            capacity: not used; the state has one size, however long the stream.

        Returns:
            `context (B, 64)` last samples of the last full frame; `h` and `c` `(B, 128)` of the LSTM;
            `rest (B, 512)` samples that wait for their frame to fill; `n_rest (B,)` int64, how many they are.
        """
        weight = self.head.weight
        return {
            "context": weight.new_zeros(batch, CONTEXT),
            "h": weight.new_zeros(batch, WIDTH),
            "c": weight.new_zeros(batch, WIDTH),
            "rest": weight.new_zeros(batch, FRAME),
            "n_rest": torch.zeros(batch, dtype=torch.int64, device=weight.device),
        }

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """Speech probabilities of the frames that `seq` completes.

        Args:
            seq: x `(B, N)` float wav in [-1, 1] at 16000 Hz, any N, 0 included. `final=True` fills the last
                frame with zeros; `final=False` keeps an unfilled frame in the state.
            state: from `init_state`; its leaves are replaced. None hears `seq` as a recording of its own.

        Returns:
            x `(B, T)` in [0, 1], 31.25 per second; frame t of a stream is its samples `[512 t, 512 (t + 1))`.

        Raises:
            ValueError: if x is not a batch of float waveforms at 16 kHz.
        """
        _check(seq)
        state = self.init_state(len(seq.x)) if state is None else state
        n_rest_B = _leaf(state, "n_rest")
        x_BN = seq.x.to(self.head.weight)
        source_BN = torch.cat([_leaf(state, "context"), _leaf(state, "rest"), x_BN], dim=1)
        total_B = n_rest_B + seq.lengths.to(n_rest_B)
        frames_B = (total_B + (FRAME - 1 if seq.final else 0)) // FRAME
        count = int(frames_B.max()) if len(frames_B) else 0

        hidden = (_leaf(state, "h"), _leaf(state, "c"))
        parts = [x_BN.new_zeros(len(x_BN), 0)]
        for first in range(0, count, self.chunk_frames):
            last = min(first + self.chunk_frames, count)
            at_N = torch.arange(first * FRAME - CONTEXT, last * FRAME, device=x_BN.device)
            wav_BN = _samples(source_BN, at_N.expand(len(x_BN), -1), n_rest_B, total_B)
            features_BTC = self._features(wav_BN.unfold(1, CONTEXT + FRAME, FRAME))
            out_BTC, hidden = self._recur(features_BTC, (frames_B - first).clamp(0, last - first), hidden)
            parts.append(self.head(out_BTC.relu().transpose(1, 2)).sigmoid().squeeze(1))

        # What follows the last full frame of each row; rows of a batch may stand at different positions.
        at_BN = (frames_B * FRAME)[:, None] + torch.arange(-CONTEXT, FRAME, device=x_BN.device)
        tail_BN = _samples(source_BN, at_BN, n_rest_B, total_B)
        state["context"], state["rest"] = tail_BN[:, :CONTEXT], tail_BN[:, CONTEXT:]
        state["n_rest"] = (total_B - frames_B * FRAME).clamp_min(0)
        state["h"], state["c"] = hidden
        lengths = frames_B.to(seq.lengths.device)
        return Seq(torch.cat(parts, dim=1), lengths, SAMPLE_RATE / FRAME, seq.final)

    def _features(self, wav_BTN: Tensor) -> Tensor:
        """What the LSTM reads: frames with context `(B, T, 576)` to `(B, T, 128)`; no frame sees another."""
        batch, frames, _ = wav_BTN.shape
        x = pad(wav_BTN.reshape(batch * frames, 1, CONTEXT + FRAME), (0, 64), mode="reflect")
        real, imaginary = self.stft(x).chunk(2, dim=1)
        # The floor is far below any audible power; without it the gradient of sqrt at digital silence is NaN.
        x = (real.square() + imaginary.square()).clamp_min(1e-20).sqrt()
        for conv in self.convs:
            x = conv(x).relu()
        return x.reshape(batch, frames, WIDTH)

    def _recur(
        self, x_BTC: Tensor, frames_B: Tensor, hidden: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The LSTM over the first `frames_B` frames of each row; a row with none keeps its `hidden`."""
        h, c = hidden
        if bool((frames_B == x_BTC.shape[1]).all()):
            out_BTC, (h, c) = self.lstm(x_BTC, (h[None].contiguous(), c[None].contiguous()))
            return out_BTC, (h[0], c[0])
        # Not reached when no row has a frame: the chunk loop runs only as far as the longest row.
        rows = frames_B.nonzero().squeeze(1)
        packed = pack_padded_sequence(x_BTC[rows], frames_B[rows].cpu(), batch_first=True, enforce_sorted=False)
        packed, (h_rows, c_rows) = self.lstm(packed, (h[rows][None], c[rows][None]))
        out_rows, _ = pad_packed_sequence(packed, batch_first=True, total_length=x_BTC.shape[1])
        out_BTC = torch.zeros_like(x_BTC).index_copy(0, rows, out_rows)
        return out_BTC, (h.index_copy(0, rows, h_rows[0]), c.index_copy(0, rows, c_rows[0]))


def load(path: str | Path | None = None) -> SileroVad:
    """The trained model, on the CPU, in evaluation mode, its weights frozen.

    Args:
        path: a `silero_vad.jit`, or the `.safetensors` of the other training; None takes the former in the installed
            package silero-vad.

    Raises:
        ModelNotFoundError: if there is no such file.
        CheckpointError: if the file holds something else.
    """
    path = weights_path() if path is None else Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"expected the Silero VAD weights in {path}, found no such file: {_REINSTALL}")
    with torch.device("meta"):
        model = SileroVad()
    try:
        other = path.suffix == ".safetensors"
        tensors = convert(load_file(path), OTHER_RULES) if other else convert(_read(path), RULES)
        model.load_state_dict(tensors, strict=True, assign=True)
    except (
        SafetensorError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
        KeyError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as e:
        raise CheckpointError(f"expected the Silero VAD weights in {path}, got: {e}. Remedy: {_REINSTALL}") from e
    return model.eval().requires_grad_(False)


def weights_path() -> Path:
    """Where the installed package silero-vad keeps the weights; found without importing it."""
    spec = find_spec("silero_vad")
    if spec is None or spec.origin is None:
        raise ModelNotFoundError(
            "expected the package silero-vad, which carries the voice activity weights, and found none: "
            "pip install silero-vad"
        )
    return Path(spec.origin).parent / "data" / "silero_vad.jit"


def load_other() -> SileroVad:
    """The package's other training: it hears speech under music as loud, where the first hears none."""
    return load(weights_path().with_name("silero_vad_16k.safetensors"))


def convert(tensors: Mapping[str, Tensor], rules: tuple[tuple[str, str | None], ...] = RULES) -> dict[str, Tensor]:
    """Rename the tensors of the package's file to those of `SileroVad`, by `rules`.

    Raises:
        CheckpointError: if a key matches no rule, or two give the same name.
    """
    out: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        found = [(m, new) for rule, new in rules if (m := re.fullmatch(rule, key))]
        if len(found) != 1:
            raise CheckpointError(f"expected each key to match one rule, got {key!r} with {len(found)}: {_REINSTALL}")
        match, new = found[0]
        if new is None:
            continue
        name = match.expand(new)
        if name in out:
            raise CheckpointError(f"expected one source of {name!r}, got a second, {key!r}: {_REINSTALL}")
        out[name] = tensor
    return out


class _Node:
    """Stands for every object of the archive that is not a tensor; its attributes come from the archive."""


class _Reader(pickle.Unpickler):
    """Reads the tensors of a TorchScript archive as data: nothing in it can name code to run.

    `torch.jit.load` would do, but it is deprecated, warns, and compiles code that is not needed here.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch", "FloatStorage"):
            return torch.float32
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if (module, name) == ("torch.jit._pickle", "build_intlist"):
            return list
        if module.startswith("__torch__."):
            return _Node
        raise pickle.UnpicklingError(f"{module}.{name}, which no weights need")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        # bytearray, for torch warns of tensors on memory that must not be written.
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)


def _read(path: Path) -> dict[str, Tensor]:
    """Every non-empty tensor of a TorchScript archive under its dotted name."""
    with zipfile.ZipFile(path) as archive:
        names = [n for n in archive.namelist() if n.count("/") == 1 and n.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("no TorchScript archive")
        tree = _Reader(archive, names[0].split("/")[0]).load()
    tensors: dict[str, Tensor] = {}
    pending = [("", tree)]
    while pending:
        prefix, node = pending.pop()
        for name, value in vars(node).items():
            if isinstance(value, _Node):
                pending.append((f"{prefix}{name}.", value))
            elif isinstance(value, Tensor) and value.numel():
                tensors[prefix + name] = value
    return tensors


def _samples(source_BN: Tensor, at_BN: Tensor, n_rest_B: Tensor, total_B: Tensor) -> Tensor:
    """Samples at positions `at_BN`, counted from each row's first waiting sample; zero beyond a row's end.

    `source_BN` is context | rest | new samples. A row's rest holds `n_rest_B` samples, what follows
    there is a hole to jump over. Positions below 0 are the context.
    """
    index_BN = at_BN + CONTEXT + torch.where(at_BN < n_rest_B[:, None], 0, FRAME - n_rest_B[:, None])
    x_BN = source_BN.gather(1, index_BN.clamp(0, source_BN.shape[1] - 1))
    # A select, not a product: what lies in the padding may be NaN.
    return torch.where(at_BN < total_B[:, None], x_BN, x_BN.new_zeros(()))


def _check(seq: Seq) -> None:
    if seq.x.dim() != 2 or not seq.x.is_floating_point():
        raise ValueError(
            f"expected a float waveform of shape (batch, samples), got {seq.x.dtype} {tuple(seq.x.shape)}: "
            "mix to mono and scale to [-1, 1] first"
        )
    if seq.rate != SAMPLE_RATE:
        raise ValueError(f"expected audio at {SAMPLE_RATE} Hz, got rate={seq.rate}: resample it first")


def _leaf(state: State, key: str) -> Tensor:
    value = state[key]
    assert isinstance(value, Tensor), key
    return value
