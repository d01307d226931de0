"""Adapters: what fits the frames of one part to the memory that another part reads.

| kind | a memory frame for | streams |
|---|---|---|
| `linear` | every `stride` frames, stacked and projected (Ma et al. 2024, arXiv 2402.08846) | yes |
| `conv` | every `stride ** layers` frames, by gated convolutions (Gehring et al. 2017, arXiv 1705.03122) | yes |
| `qformer` | each of `queries`, of a window or of the whole (Li et al. 2023, arXiv 2301.12597) | no |
| `cif` | each unit of weight that the frames add up to (Dong & Xu 2020, arXiv 1905.11235) | yes |

Each is a `Block`. One that learns from the length of the text, as CIF does, has two methods more: `teach(seq,
target_lengths)`, to be called in place of `forward` in training, and `loss(seq, target_lengths)`, of each row, to be
added to the loss of the text.

Letters: B rows, T frames, M memory frames, N frames that wait, D width, Q queries, W windows, K fired vectors.
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.errors import InputError, nearest
from mmx.nn.block import Attention, FeedForward, sinusoids
from mmx.seq import Seq, after, concat
from mmx.state import State, subtree, tensor

# -------------------- frames that belong together


def new_wait(batch: int, before: int, room: int, like: Tensor) -> State:
    """Frames that wait: `before` zeros stand ahead of the first; room for `room`; width, dtype, device of `like`."""
    n_B = torch.full((batch,), before, dtype=torch.int64, device=like.device)
    return {"rest": like.new_zeros(batch, room, len(like)), "n_rest": n_B}


def gather_windows(seq: Seq, state: State, kernel: int, stride: int) -> Seq:
    """The frames that are complete: of each row, those that the next windows of `kernel` frames cover.

    Window m ends with frame `stride * (m + 1) - 1`, so that none looks ahead. At the end of a row the frames that do
    not fill a stride get zeros behind them. What a later window needs again stays in `state`, from `new_wait` with
    `kernel - stride` zeros ahead.

    Returns:
        `(B, N, D)` with `N = stride * (M - 1) + kernel`, zeros beyond the rows; its lengths are those of M, its rate
        that of the windows. N is 0 where no row has a window.
    """
    seq = concat(Seq(tensor(state, "rest"), tensor(state, "n_rest")), seq._replace(x=seq.masked))
    new_B = seq.lengths - (kernel - stride)
    made_B = (new_B + stride - 1 if seq.final else new_B).div(stride, rounding_mode="floor").clamp(min=0)
    rest = after(seq, made_B * stride, tensor(state, "rest").shape[1])
    state["rest"], state["n_rest"] = rest.x, rest.lengths
    n_made = int(made_B.max()) if len(made_B) else 0
    n_frames = stride * (n_made - 1) + kernel if n_made else 0
    x_BND = F.pad(seq.masked, (0, 0, 0, max(0, n_frames - seq.x.shape[1])))[:, :n_frames]
    return Seq(x_BND, made_B, None if seq.rate is None else seq.rate / stride, seq.final)


class Linear(nn.Module):
    """Normalize, stack `stride` frames, project.

    Args:
        width_in: D of the input.
        width_out: D of the output.
        stride: frames in a stack; the last one of a row may hold less, and zeros.
    """

    lookahead = 0

    def __init__(self, width_in: int, width_out: int, stride: int = 4):
        super().__init__()
        _at_least(1, stride=stride)
        self.stride, self.width = stride, width_out
        self.ln = nn.LayerNorm(width_in)
        self.project = nn.Linear(stride * width_in, width_out)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The frames of an incomplete stack: none."""
        return new_wait(batch, 0, self.stride, self.ln.weight)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, ceil(T / stride), D)`."""
        seq = _normalized(seq, self.ln)
        made = gather_windows(seq, self.init_state(len(seq.x)) if state is None else state, self.stride, self.stride)
        x_BMD = made.x.unflatten(1, (-1, self.stride)).flatten(2) if made.x.shape[1] else made.x[:, :0, :1]
        return made._replace(x=self.project(x_BMD) if x_BMD.shape[1] else _nothing(made.x, self.project.out_features))


class ConvLayer(nn.Module):
    """A convolution that looks only back, with a gate (a GLU), over normalized frames."""

    lookahead = 0

    def __init__(self, width_in: int, width_out: int, kernel: int, stride: int):
        super().__init__()
        if kernel < stride:
            raise InputError(
                f"expected a kernel of at least the stride {stride}, got {kernel}: frames would be skipped"
            )
        self.kernel, self.stride, self.width_out = kernel, stride, width_out
        self.ln = nn.LayerNorm(width_in)
        self.conv = nn.Conv1d(width_in, 2 * width_out, kernel, stride)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Zeros stand before the first frame."""
        return new_wait(batch, self.kernel - self.stride, self.kernel, self.ln.weight)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, ceil(T / stride), D)`."""
        seq = _normalized(seq, self.ln)
        state = self.init_state(len(seq.x)) if state is None else state
        made = gather_windows(seq, state, self.kernel, self.stride)
        if not made.x.shape[1]:
            return made._replace(x=_nothing(made.x, self.width_out))
        return made._replace(x=F.glu(self.conv(made.x.transpose(1, 2)), dim=1).transpose(1, 2))


class Conv(nn.Module):
    """Layers of strided convolutions, then a projection.

    Args:
        width_in: D of the input.
        width_out: D of the output.
        layers: each divides the rate by `stride`.
        kernel: frames that a layer sees.
        stride: of each layer.
    """

    lookahead = 0

    def __init__(self, width_in: int, width_out: int, layers: int = 2, kernel: int = 5, stride: int = 2):
        super().__init__()
        _at_least(1, layers=layers, kernel=kernel, stride=stride)
        self.stride, self.width = stride**layers, width_out
        widths = [width_in, *[width_out] * layers]
        self.layers = nn.ModuleList(ConvLayer(widths[i], widths[i + 1], kernel, stride) for i in range(layers))
        self.project = nn.Linear(width_out, width_out)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The state of each layer."""
        return {str(i): layer.init_state(batch) for i, layer in enumerate(self.layers) if isinstance(layer, ConvLayer)}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, ceil(T / stride), D)`."""
        for i, layer in enumerate(self.layers):
            seq = layer(seq, None if state is None else subtree(state, str(i)))
        return seq._replace(x=self.project(seq.x))


# -------------------- Q-Former


class QueryLayer(nn.Module):
    """Pre-norm attention among the queries, attention to the frames, feed-forward."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn_ln, self.cross_ln, self.mlp_ln = (nn.LayerNorm(width) for _ in range(3))
        self.attn, self.cross = Attention(width, heads), Attention(width, heads)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, x_BQD: Tensor, frames_BTD: Tensor, mask_B11T: Tensor) -> Tensor:
        """`mask` says which frames are there; each row has one at least."""
        h = self.attn_ln(x_BQD)
        x_BQD = x_BQD + self.attn(h, *self.attn.keys_values(h))
        x_BQD = x_BQD + self.cross(self.cross_ln(x_BQD), *self.cross.keys_values(frames_BTD), mask_B11T)
        return x_BQD + self.mlp(self.mlp_ln(x_BQD))


class QFormer(nn.Module):
    """Trained queries that read a window of frames, or all of them; a query is a memory frame.

    With windows the memory grows with the speech (Tang et al. 2024, arXiv 2310.13289): at 50 frames a second, a window
    of 25 and 2 queries give 4 memory frames a second. The last window of a row may be short.

    Args:
        width_in: D of the input.
        width_out: D of the output and of the layers.
        queries: Q, for each window.
        window: frames; 0 for the whole input.
        layers: of the Transformer.
        heads: of its attention.
    """

    lookahead = math.inf

    def __init__(
        self, width_in: int, width_out: int, queries: int = 1, window: int = 16, layers: int = 2, heads: int = 8
    ):
        super().__init__()
        _at_least(1, queries=queries, layers=layers, heads=heads)
        _at_least(0, window=window)
        if width_out % heads or width_out % 2:
            raise InputError(f"expected an even width that {heads} heads divide, got {width_out}: choose other heads")
        self.queries, self.window, self.width = queries, window, width_out
        self.stride = window // queries if window and window % queries == 0 else None
        self.ln, self.frames = nn.LayerNorm(width_in), nn.Linear(width_in, width_out)
        self.query = nn.Parameter(0.02 * torch.randn(queries, width_out))
        self.layers = nn.ModuleList(QueryLayer(width_out, heads) for _ in range(layers))
        self.out_ln = nn.LayerNorm(width_out)

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Nothing is remembered: it reads the whole input."""
        return {}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, Q * ceil(T / window), D)`; to `(B, Q, D)` without windows.

        Raises:
            InputError: `final=False`.
        """
        if not seq.final:
            raise InputError("expected the whole input, got final=False: a Q-Former does not stream; use linear or cif")
        rate, seq = seq.rate, _normalized(seq, self.ln)
        window = self.window or max(1, seq.x.shape[1])
        windows_B = -(-seq.lengths // window)
        n_windows = -(-seq.x.shape[1] // window)
        pad = n_windows * window - seq.x.shape[1]
        x_BTD = F.pad(self.frames(seq.x), (0, 0, 0, pad)).unflatten(1, (n_windows, window))
        x_BTD = x_BTD + sinusoids(window, x_BTD.shape[-1]).to(x_BTD)
        mask_BT = F.pad(seq.mask, (0, pad)).unflatten(1, (n_windows, window))
        has_frames = mask_BT.any(-1)  # only these are worked on: attention to nothing is not a number
        out = x_BTD.new_zeros(*has_frames.shape, self.queries, x_BTD.shape[-1])
        out[has_frames] = self._read(x_BTD[has_frames], mask_BT[has_frames][:, None, None]).to(out.dtype)
        made_rate = rate / self.stride if rate is not None and self.stride else None
        return Seq(out.flatten(1, 2), windows_B * self.queries, made_rate, seq.final)

    def _read(self, frames_WTD: Tensor, mask_W11T: Tensor) -> Tensor:
        x_WQD = self.query.to(frames_WTD.dtype).expand(len(frames_WTD), -1, -1)
        for layer in self.layers:
            x_WQD = layer(x_WQD, frames_WTD, mask_W11T)
        return self.out_ln(x_WQD)


# -------------------- CIF


class Fired(NamedTuple):
    """What `integrate` made of some frames.

    Attributes:
        x: `(B, K, D)` fired vectors, zeros beyond the lengths.
        lengths: `(B,)` int64, vectors of each row.
        level: `(B,)` float64, the weight in [0, 1) that waits for the next frames.
        held: `(B, D)`, the weighted frames that wait with it.
    """

    x: Tensor
    lengths: Tensor
    level: Tensor
    held: Tensor


def integrate(x_BTD: Tensor, alpha_BT: Tensor, level_B: Tensor, held_BD: Tensor, final: bool) -> Fired:
    """Continuous integrate-and-fire (Dong & Xu 2020, section 3), without a loop over frames.

    With the running sum `c_t` of the weights, vector k takes `max(0, min(c_t, k + 1) - max(c_{t-1}, k))` of frame t:
    frames are added up until their weights reach 1, and the frame that crosses it is shared between two vectors. At
    the end, a remainder above 0.5 is fired too, as it is.

    Args:
        x_BTD: frames.
        alpha_BT: their weights, in [0, 1]; 0 for padding.
        level_B: weight that was left over by the frames before, in [0, 1).
        held_BD: what they had added up to.
        final: whether no frames follow.
    """
    # In float64: an error of a sum of thousands of weights would move weight from one vector to the next.
    sums_BT = level_B[:, None] + alpha_BT.double().cumsum(1)
    last_B = sums_BT[:, -1] if sums_BT.shape[1] else level_B.double()
    whole_B = last_B.detach().floor()
    rest_B = last_B - whole_B
    before_BT = torch.cat([level_B[:, None].double(), sums_BT], dim=1)[:, :-1]
    n_vectors = int(whole_B.max()) + 1 if len(whole_B) else 1
    k_K1 = torch.arange(n_vectors, device=x_BTD.device)[:, None]
    share_BKT = torch.minimum(sums_BT[:, None], k_K1 + 1.0) - torch.maximum(before_BT[:, None], k_K1.double())
    x_BKD = share_BKT.clamp(min=0).to(x_BTD.dtype) @ x_BTD
    x_BKD = torch.cat([x_BKD[:, :1] + held_BD[:, None], x_BKD[:, 1:]], dim=1)
    held_BD = x_BKD.gather(1, whole_B.long()[:, None, None].expand(-1, 1, x_BKD.shape[-1]))[:, 0]
    count_B = whole_B.long() + (rest_B > 0.5) if final else whole_B.long()
    fired = Seq(x_BKD, count_B)
    return Fired(fired.masked, count_B, rest_B, held_BD)


def scaled_weights(alpha_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """The weights of each row times what makes them add up to its length; for training (section 3.2)."""
    total_B1 = alpha_BT.sum(1, keepdim=True)
    # A row without any weight stays so: dividing by next to nothing would give it a boundless gradient.
    return alpha_BT * (lengths_B[:, None] / total_B1.clamp(min=1e-2))


class CIF(nn.Module):
    """A weight for each frame from it and those before it; a vector each time the weights add up to 1.

    Args:
        width_in: D of the input.
        width_out: D of the output.
        kernel: frames that a weight depends on.
        weight: of every frame before training: about the number of tokens for each frame.
    """

    stride = None
    lookahead = 0

    def __init__(self, width_in: int, width_out: int, kernel: int = 3, weight: float = 0.1):
        super().__init__()
        _at_least(1, kernel=kernel)
        if not 0 < weight < 1:
            raise InputError(f"expected a weight between 0 and 1, got {weight}")
        self.kernel, self.width = kernel, width_out
        self.ln = nn.LayerNorm(width_in)
        self.context = nn.Conv1d(width_in, width_in, kernel)
        self.weigh = nn.Linear(width_in, 1)
        self.project = nn.Linear(width_in, width_out)
        nn.init.constant_(self.weigh.bias, math.log(weight / (1 - weight)))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Frames that later weights depend on, the weight that waits and what it weighs."""
        like = self.ln.weight
        level = torch.zeros(batch, dtype=torch.float64, device=like.device)
        wait = new_wait(batch, self.kernel - 1, self.kernel, like)
        return {"context": wait, "level": level, "held": like.new_zeros(batch, len(like))}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, K, D)`, K about the sum of the weights."""
        state = self.init_state(len(seq.x)) if state is None else state
        seq = _normalized(seq, self.ln)
        return self._fired(seq, self._weights(seq, subtree(state, "context")), state)

    def teach(self, seq: Seq, target_lengths: Tensor) -> Seq:
        """As `forward`, in training: as many vectors as the text has tokens, `(B, max(target_lengths), D)`.

        Args:
            seq: `(B, T, D)`.
            target_lengths: `(B,)` int64, tokens of each row's text.
        """
        seq, state = _normalized(seq, self.ln), self.init_state(len(seq.x))
        alpha_BT = scaled_weights(self._weights(seq, subtree(state, "context")), target_lengths)
        fired, width = self._fired(seq, alpha_BT, state), int(target_lengths.max())
        # Rounding may add an empty vector at the end, or leave the last one unfired.
        x_BKD = F.pad(fired.x, (0, 0, 0, max(0, width - fired.x.shape[1])))[:, :width]
        return fired._replace(x=x_BKD, lengths=target_lengths)

    def loss(self, seq: Seq, target_lengths: Tensor) -> Tensor:
        """The quantity loss (section 3.2), `(B,)`: by how many tokens the weights of a row miss its length."""
        seq = _normalized(seq, self.ln)
        context = subtree(self.init_state(len(seq.x)), "context")
        return (self._weights(seq, context).sum(1) - target_lengths).abs()

    def _weights(self, seq: Seq, context: State) -> Tensor:
        """`(B, T)`; 0 for padding."""
        if not seq.x.shape[1]:
            return seq.x[..., 0]
        made = gather_windows(seq, context, self.kernel, 1)
        if not made.x.shape[1]:
            return torch.zeros_like(seq.x[..., 0])
        h_BTD = F.gelu(self.context(made.x.transpose(1, 2)).transpose(1, 2))
        alpha_BT = self.weigh(h_BTD)[..., 0].sigmoid()
        alpha_BT = F.pad(alpha_BT, (0, seq.x.shape[1] - alpha_BT.shape[1]))
        return torch.where(seq.mask, alpha_BT, torch.zeros((), dtype=alpha_BT.dtype, device=alpha_BT.device))

    def _fired(self, seq: Seq, alpha_BT: Tensor, state: State) -> Seq:
        fired = integrate(seq.x, alpha_BT, tensor(state, "level"), tensor(state, "held"), seq.final)
        state["level"], state["held"] = fired.level, fired.held
        return Seq(self.project(fired.x), fired.lengths, None, seq.final)


# -------------------- by name


class Chain(nn.Module):
    """Adapters in a row: what an encoder was published with, then a new one."""

    def __init__(self, own: nn.Module, new: nn.Module):
        super().__init__()
        self.own, self.new, self.width = own, new, new.width
        strides = own.stride, new.stride
        self.stride = None if None in strides else math.prod(strides)  # type: ignore[arg-type]
        self.lookahead = own.lookahead + (own.stride or 1) * new.lookahead  # type: ignore[operator]

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The states of both."""
        return {name: part.init_state(batch, capacity) for name, part in self.named_children()}  # type: ignore[operator]

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """One after the other."""
        for name, part in self.named_children():
            seq = part(seq, None if state is None else subtree(state, name))
        return seq

    def teach(self, seq: Seq, target_lengths: Tensor) -> Seq:
        """See `CIF.teach`."""
        return teach(self.new, self.own(seq), target_lengths)

    def loss(self, seq: Seq, target_lengths: Tensor) -> Tensor:
        """See `CIF.loss`; only where the new adapter has one, see `has_loss`."""
        assert isinstance(self.new, LearnsLength)
        return self.new.loss(self.own(seq), target_lengths)


@runtime_checkable
class LearnsLength(Protocol):
    """An adapter that has something of its own to learn: how many memory frames a text takes, as `CIF` does."""

    def teach(self, seq: Seq, target_lengths: Tensor) -> Seq:
        """As `forward`, in training; see `CIF.teach`."""
        ...

    def loss(self, seq: Seq, target_lengths: Tensor) -> Tensor:
        """`(B,)`; see `CIF.loss`."""
        ...


def teach(adapter: nn.Module, seq: Seq, target_lengths: Tensor) -> Seq:
    """What an adapter gives in training, to those that make use of the lengths of the texts `(B,)`."""
    return adapter.teach(seq, target_lengths) if isinstance(adapter, LearnsLength) else adapter(seq)


def has_loss(adapter: nn.Module) -> bool:
    """Whether an adapter, or the new one of a chain, learns the length of texts."""
    return has_loss(adapter.new) if isinstance(adapter, Chain) else isinstance(adapter, LearnsLength)


KINDS: Mapping[str, type[nn.Module]] = {"linear": Linear, "conv": Conv, "qformer": QFormer, "cif": CIF}


def build(kind: str, numbers: Mapping[str, Any], width_in: int, width_out: int) -> nn.Module:
    """A new adapter.

    Args:
        kind: a key of `KINDS`.
        numbers: arguments of its class but the widths.
        width_in: D of what it reads.
        width_out: D of what the decoder reads.

    Raises:
        InputError: an unknown kind or number, with the nearest one.
    """
    if kind not in KINDS:
        raise InputError(f"expected an adapter among {', '.join(KINDS)}, got {kind!r}.{nearest(kind, list(KINDS))}")
    known = [name for name in inspect.signature(KINDS[kind]).parameters if name not in ("width_in", "width_out")]
    for name in numbers:
        if name not in known:
            raise InputError(
                f"expected numbers of the adapter {kind} among {', '.join(known)}, got {name!r}.{nearest(name, known)}"
            )
    try:
        return KINDS[kind](width_in, width_out, **numbers)
    except InputError as e:
        raise InputError(f"the adapter {kind}: {e}") from e


def _normalized(seq: Seq, ln: nn.LayerNorm) -> Seq:
    """The frames after the norm, in its precision, zeros beyond the lengths."""
    seq = seq._replace(x=seq.masked)
    seq = seq._replace(x=ln(seq.x))
    return seq._replace(x=seq.masked)


def _nothing(like_BND: Tensor, width: int) -> Tensor:
    """No frame of a width."""
    return like_BND.new_zeros(len(like_BND), 0, width)


def _at_least(least: int, **numbers: int) -> None:
    """Raises `InputError` for a number that is too small or not a whole one."""
    for name, value in numbers.items():
        if not isinstance(value, int):
            raise InputError(f"expected a whole number for {name}, got {value}")
        if value < least:
            raise InputError(f"expected {name} >= {least}, got {value}")
