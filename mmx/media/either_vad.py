"""Two trainings of Silero VAD as one detector of a stream: the second is believed where the first is deaf.

Under music as loud as the speech the first hears next to nothing; the other hears that speech, but takes some music for
speech where there is none, in bursts. So a frame is the louder of both where, of the last 4.1 s, the first hears less
than a tenth and the second a tenth or more; elsewhere it is the first's. Nothing looks ahead, and how a stream is cut
into chunks changes nothing.

Letters: B batch, T frames, W frames of the past that count.
"""

import torch
from torch import Tensor, nn

from mmx.media.silero_vad import FRAME, SileroVad, load_other
from mmx.media.silero_vad import load as load_first
from mmx.seq import Seq
from mmx.state import State, subtree, tensor

PAST = 128
"""Frames that count, 4.1 s."""
DEAF = 0.1
"""Share of frames with speech below which a detector hears next to nothing."""
SPEECH = 0.5
"""Probability of a frame with speech."""


class EitherVad(nn.Module):
    """A `Block` like `SileroVad`, with its shapes and errors."""

    stride, lookahead = FRAME, 0

    def __init__(self, first: SileroVad, second: SileroVad):
        super().__init__()
        self.first, self.second = first, second

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """Those of both, and which of the latest frames each heard speech in, `(B, 2, W - 1)`."""
        first = self.first.init_state(batch)
        past = tensor(first, "context").new_zeros(batch, 2, PAST - 1)
        return {"first": first, "second": self.second.init_state(batch), "past": past}

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """See above."""
        state = self.init_state(len(seq.x)) if state is None else state
        first = self.first(seq, subtree(state, "first"))
        second = self.second(seq, subtree(state, "second"))
        both_B2T = torch.stack([first.x, second.x], 1) >= SPEECH
        past_B2T = torch.cat([tensor(state, "past"), both_B2T.to(first.x.dtype)], 2)
        state["past"] = _last(past_B2T, first.lengths)
        if not first.x.shape[1]:
            return first
        share_B2T = past_B2T.unfold(2, PAST, 1).mean(-1)
        believed_BT = (share_B2T[:, 0] < DEAF) & (share_B2T[:, 1] >= DEAF)
        return first._replace(x=torch.where(believed_BT, first.x.maximum(second.x), first.x))


def _last(past_B2T: Tensor, frames_B: Tensor) -> Tensor:
    """`W - 1` frames of each row up to its last one."""
    at_BW = frames_B.to(past_B2T.device)[:, None] + torch.arange(PAST - 1, device=past_B2T.device)
    return past_B2T.gather(2, at_BW[:, None].expand(-1, 2, -1))


def load() -> EitherVad:
    """Both trainings that the package silero-vad carries; see `mmx.media.silero_vad.load` for its errors."""
    return EitherVad(load_first(), load_other())
