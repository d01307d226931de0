"""Audio-visual mixup: a stream that is sound in some frames and lips in the others teaches the lips.

After MixSpeech (Cheng et al., ICCV 2023), which published no code. **What the paper says**: mixed speech is made by
interpolating the audio and the visual stream, the audio regularizes the visual task, and a curriculum adjusts the
ratio. **What is our choice**, since values are not published: frames are taken from one stream or the other, not added;
they are chosen singly or in spans; the three losses and their weights; the curricula. The form of the losses (single,
mixed, a divergence between them) and the curriculum by uncertainty are those of STEMM (Fang et al. 2022, arXiv
2203.10426) for speech and text.

Letters: B rows, M memory frames, V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Losses, Needs
from mmx.model import Model
from mmx.seq import Seq
from mmx.train.batch import Batch
from mmx.train.objectives.ctc import HEAD, CTCLoss, ctc_loss, head_of, texts
from mmx.train.objectives.framewise import FRAMES, LABELS, faded, frame_loss
from mmx.train.objectives.weigh import mean_of_each

Unit = Literal["frame", "span"]
Curriculum = Literal["constant", "linear", "loss", "uncertainty"]


class Pass(NamedTuple):
    """What the model says of one stream: memory, CTC loss summed over the batch, and logits `(B, M, V)`."""

    memory: Seq
    loss: Tensor
    logits: Tensor

    @property
    def log_probs(self) -> Tensor:
        """`(B, M, V)`."""
        return self.logits.log_softmax(-1)


class MixupLoss(CTCLoss):
    """CTC of the lips and of the mixed stream, and the divergence of the lips from it.

    The model fuses two modalities frame by frame at one rate, and takes a frame of zeros for one that is not there.

    Args:
        lips: the modality that is taught.
        sound: the one that teaches.
        unit: whether each frame is drawn for itself, or spans.
        spans: shortest and longest span, in frames.
        share: of the units that are sound, at most; see `curriculum`.
        curriculum: `constant`; `linear`, to 0 over `passes` through the data; `loss`, in proportion to the loss of the
            lips, to 0 where that is 0; `uncertainty`, STEMM's sigmoid(share * u - 0.5), u the mean entropy of what the
            lips say, of the greatest possible.
        passes: of the linear curriculum and of the warm start.
        mixed: weight of the mixed stream's loss.
        agree: weight of the divergence KL(mixed, lips), a mean over frames; the mixed stream learns nothing from it.
        frames: weight of the warm start by frames (see `framewise`), in the first pass; 0 where no times are known.
        rate: memory frames a second, for the labels of that.
    """

    def __init__(
        self,
        lips: str = "lips",
        sound: str = "speech",
        unit: Unit = "span",
        spans: tuple[int, int] = (3, 12),
        share: float = 0.5,
        curriculum: Curriculum = "linear",
        passes: int = 10,
        mixed: float = 1.0,
        agree: float = 1.0,
        frames: float = 0.0,
        rate: float = 50.0,
    ):
        if unit not in ("frame", "span") or curriculum not in ("constant", "linear", "loss", "uncertainty"):
            raise ValueError(f"unit frame or span and a known curriculum, not {unit!r} and {curriculum!r}")
        self.lips, self.sound, self.curriculum, self.passes = lips, sound, curriculum, passes
        self.spans, self.share = ((1, 1) if unit == "frame" else (int(spans[0]), int(spans[1]))), share
        self.mixed, self.agree, self.frames, self.rate = mixed, agree, frames, rate

    def needs(self, model: Model) -> Needs:
        """Both modalities and a text, and of the model a part that fuses them."""
        super().needs(model)
        if model.fuse is None or {self.lips, self.sound} - model.encoders.keys():
            raise InputError(
                f"expected a model that fuses {self.lips} and {self.sound} for the objective mixup, got {model.name} "
                f"with {', '.join(model.encoders)}: choose the objective ctc"
            )
        both = (self.lips, self.sound)
        return Needs(modalities=both, makes=LABELS, rate=self.rate) if self.frames else Needs(modalities=both)

    def count(self, batch: Batch) -> dict[str, int]:
        """Tokens; rows, since a divergence is a mean over the frames of each; and labelled frames."""
        tokens = super().count(batch)[HEAD]
        counts = {HEAD: tokens, "mixed": tokens, "agree": len(batch.targets)}
        return {**counts, FRAMES: int(batch.outputs[LABELS].lengths.sum())} if self.frames else counts

    def weights(self, counts: Mapping[str, int]) -> dict[str, float]:
        """Of a mean of each."""
        return mean_of_each(counts)

    def __call__(self, model: Model, batch: Batch) -> Losses:
        """Reports the lips' loss, the mixed one's, the divergence, and the share of sound."""
        encoded = {name: model.encode(name, batch.inputs[name], batch.begin) for name in (self.lips, self.sound)}
        lips = self._pass(model, {self.lips: encoded[self.lips]}, batch)
        ratio = self.ratio(lips, batch)
        keeps_BM = spans_of_sound(encoded[self.lips].x.shape[:2], ratio, self.spans)
        mixed = self._pass(model, mix(encoded[self.lips], encoded[self.sound], keeps_BM, self.lips, self.sound), batch)
        apart = divergence(mixed.log_probs, lips.log_probs, lips.memory)
        total = {HEAD: lips.loss, "mixed": self.mixed * mixed.loss, "agree": self.agree * apart}
        figures = {HEAD: lips.loss, "mixed": mixed.loss, "agree": apart}
        if self.frames:
            both = [frame_loss(p.logits, p.memory, batch) for p in (lips, mixed)]
            framewise = torch.stack(both).mean()
            total[FRAMES], figures[FRAMES] = framewise * faded(self.frames, batch, self.passes), framewise
        return Losses(total, self.count(batch), {name: value.detach() for name, value in figures.items()})

    def _pass(self, model: Model, memories: Mapping[str, Seq], batch: Batch) -> Pass:
        fuse = model.fuse
        assert fuse is not None, "expected what `needs` asks for"
        memory = model.for_decoder(fuse(memories))
        logits_BMV = head_of(model, batch)(memory.masked).float()
        return Pass(memory, ctc_loss(lambda _: logits_BMV, memory, texts(batch)), logits_BMV)

    def ratio(self, lips: Pass, batch: Batch) -> float:
        """The share of sound in this batch."""
        if self.curriculum == "linear":
            return faded(self.share, batch, self.passes)
        if self.curriculum == "loss":
            tokens = max(1, super().count(batch)[HEAD])
            return self.share * min(1.0, float(lips.loss.detach()) / tokens / math.log(lips.log_probs.shape[-1]))
        if self.curriculum == "uncertainty":
            entropy_BM = -(lips.log_probs.exp() * lips.log_probs).sum(-1).detach()
            mean = float(entropy_BM[lips.memory.mask].mean()) / math.log(lips.log_probs.shape[-1])
            return 1 / (1 + math.exp(0.5 - mean * self.share))
        return self.share


def spans_of_sound(shape: torch.Size | tuple[int, ...], share: float, spans: tuple[int, int]) -> Tensor:
    """`(B, M)` whether a frame is sound: spans of lengths drawn evenly, each sound in that share of the cases."""
    n_rows, n_frames = shape
    shortest, longest = spans
    most = -(-n_frames // shortest) if n_frames else 0
    lengths_BS = torch.randint(shortest, longest + 1, (n_rows, most))
    sound_BS = torch.rand(n_rows, most) < share
    of_BM = torch.searchsorted(lengths_BS.cumsum(1), torch.arange(n_frames).expand(n_rows, -1).contiguous(), right=True)
    return sound_BS.gather(1, of_BM) if most else torch.zeros(n_rows, 0, dtype=torch.bool)


def mix(lips: Seq, sound: Seq, is_sound_BM: Tensor, lips_name: str, sound_name: str) -> dict[str, Seq]:
    """Both streams, each with zeros where the other one is taken; of unequal lengths the lips' count."""
    n, is_sound = lips.x.shape[1], is_sound_BM.to(lips.x.device)[..., None]
    heard = F.pad(sound.masked, (0, 0, 0, max(0, n - sound.x.shape[1])))[:, :n]
    return {
        lips_name: lips._replace(x=torch.where(is_sound, 0.0, lips.masked)),
        sound_name: lips._replace(x=torch.where(is_sound, heard.to(lips.x.dtype), 0.0)),
    }


def divergence(teacher_BMV: Tensor, student_BMV: Tensor, memory: Seq) -> Tensor:
    """KL of the student's log-probabilities from the teacher's, which is not taught: means over frames, summed."""
    teacher_BMV = teacher_BMV.detach()
    apart_BM = (teacher_BMV.exp() * (teacher_BMV - student_BMV)).sum(-1)
    return (torch.where(memory.mask, apart_BM, 0.0).sum(1) / memory.lengths.clamp(min=1)).sum()
