"""Vectors of recordings by a model: each frame of its memory a token, and the pooled vector of `Model.embed`.

Letters: B rows, M frames of the memory, D width, U tokens of a text, V vocabulary.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mmx.errors import InputError, MediaError
from mmx.media.clips import open_clip
from mmx.model import Model, Stage, tensors
from mmx.nn.ctc import NAME, CTCHead
from mmx.search.index import Entry, ModelMark, Vectors
from mmx.seq import Seq

BATCH = 64


class Embedder:
    """Spans of recordings as vectors.

    Args:
        model: reads one modality.
        end: "fuse" for the model's memory; "encoders" for what its front end makes, before any weight.
        source: what `load` took, which an index keeps, so that a search needs not name the model again.
    """

    def __init__(self, model: Model, end: Stage = "fuse", source: str = ""):
        names = list(model.recorded)
        if len(names) != 1:
            raise InputError(f"expected a model that reads one kind of recording, got {names}: choose another --model")
        self.model, self.modality = model, names[0]
        self.end: Stage = end
        self.mark = ModelMark(model.name, digest(model, end), source)

    @torch.inference_mode()
    def __call__(self, source: Any) -> Iterator[tuple[Entry, Vectors]]:
        """Spans of at most 10 s of a recording. Raises `MediaError` where it cannot be read."""
        start_s = 0.0
        device = next(self.model.parameters()).device
        with open_clip(source, self.model.recorded) as reader:
            for clip in reader:
                seq = clip[self.modality]
                seconds = float(seq.lengths[0]) / (seq.rate or 1.0)
                tokens = self.model.encode(self.modality, seq.to(device), end=self.end)
                tokens_MD = tokens.x[0, : int(tokens.lengths[0])].float()
                if len(tokens_MD):
                    entry = Entry(source=str(source), start_s=start_s, end_s=start_s + seconds, modality=self.modality)
                    yield entry, Vectors(self._pooled(tokens_MD).cpu().numpy(), tokens_MD.cpu().numpy())
                start_s += seconds

    def whole(self, source: Any) -> Vectors:
        """All spans of a recording as one. Raises `MediaError` where nothing can be read."""
        parts = [vectors.tokens for _, vectors in self(source)]
        if not parts:
            raise MediaError(f"expected a recording with something in it, got none in {str(source)[:60]}")
        tokens_MD = np.concatenate(parts)
        return Vectors(self._pooled(torch.from_numpy(tokens_MD)).detach().cpu().numpy(), tokens_MD)

    @property
    def shares_space(self) -> bool:
        """Whether the model's text encoder brings texts into the space of recordings."""
        return self.end == "fuse" and "text" in self.model.encoders and self.model.tokenizer is not None

    @torch.inference_mode()
    def text(self, text: str) -> Vectors:
        """A text in that space, as objectives give it to the text encoder: its tokens and the one that ends it."""
        tokenizer = self.model.require_tokenizer()
        ids = torch.tensor([[*tokenizer.encode(text), tokenizer.eot]])
        inputs = {"text": Seq(ids, torch.tensor([ids.shape[1]]))}
        tokens_UD = self.model.embed_each(inputs).x[0]
        return Vectors(self.model.embed(inputs)[0].float().numpy(), tokens_UD.float().numpy())

    @torch.inference_mode()
    def shared(self, tokens_MD: NDArray[np.floating]) -> NDArray[np.float32]:
        """The tokens of a recording in that space."""
        x_MD = torch.tensor(np.asarray(tokens_MD, np.float32))
        return (self.model.heads[self.modality](x_MD) if self.modality in self.model.heads else x_MD).numpy()

    def _pooled(self, tokens_MD: Tensor) -> Tensor:
        """`(D,)`: as `Model.embed` does."""
        mean_1D = tokens_MD.mean(0, keepdim=True)
        known = self.end == "fuse" and self.modality in self.model.heads
        return F.normalize(self.model.heads[self.modality](mean_1D) if known else mean_1D, dim=-1)[0]

    @property
    def reads_text(self) -> bool:
        """Whether the model tells how likely a text is, frame by frame."""
        return self.end == "fuse" and NAME in self.model.heads and self.model.tokenizer is not None

    @torch.inference_mode()
    def likelihoods(self, text: str, memories: Sequence[NDArray[np.floating]], language: str = "") -> list[float]:
        """How likely each memory `(M, D)` spells a text, against what it spells most likely.

        The score is (log p(text | memory) - log p(best path | memory)) / U by CTC (Graves et al. 2006): about 0 where
        the text is what the model reads, and a longer recording has no disadvantage. `-inf` where it is too short.
        """
        tokenizer = self.model.require_tokenizer()
        ids = tokenizer.encode(text)
        if not ids:
            raise InputError(f"expected a text to search for, got {text!r}")
        head = self.model.heads[NAME]
        told = tokenizer.language_ids[language] if language else None
        blank, out = tokenizer.n_vocab, []
        for at in range(0, len(memories), BATCH):
            rows = [torch.tensor(np.asarray(m, np.float32)) for m in memories[at : at + BATCH]]
            x_BMD = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
            lengths = torch.tensor([len(r) for r in rows])
            if isinstance(head, CTCHead) and told is not None:
                logits = head(x_BMD, torch.full((len(rows),), told))
            else:
                logits = head(x_BMD)
            log_probs_BMV = logits.float().log_softmax(-1)
            ours = -F.ctc_loss(
                log_probs_BMV.transpose(0, 1), torch.tensor([ids] * len(rows)), lengths,
                torch.full((len(rows),), len(ids)), blank=blank, reduction="none",
            )  # fmt: skip
            best_BM = log_probs_BMV.amax(-1)
            best_BM[torch.arange(x_BMD.shape[1]) >= lengths[:, None]] = 0
            out += ((ours - best_BM.sum(1)) / len(ids)).tolist()
        return out


def digest(model: Model, end: Stage) -> str:
    """Of the weights that make the vectors, and the stage that they are taken from."""
    told = hashlib.sha256(end.encode())
    for name, tensor in sorted(tensors(model).items()):
        told.update(name.encode())
        told.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return told.hexdigest()
