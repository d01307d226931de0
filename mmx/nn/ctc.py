"""What a memory says in text without a decoder, frame by frame: connectionist temporal classification.

Graves et al. 2006. Letters: B rows, M memory frames, D width, L languages, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmx.seq import Seq

NAME = "ctc"
"""Of the head among a model's `heads`."""


class CTCHead(nn.Module):
    """Scores of each token, and of the blank, in each frame; told which language is written.

    Args:
        width: D of the memory.
        vocab: V.
        first_language: id of the first language token.
        languages: L.
        forget: share of the rows in training that are not told their language.
    """

    def __init__(self, width: int, vocab: int, first_language: int, languages: int, forget: float = 0.2):
        super().__init__()
        self.vocab, self.first, self.forget = vocab, first_language, forget
        self.language = nn.Embedding(languages + 1, width)
        self.hidden, self.norm, self.out = nn.Linear(width, width), nn.LayerNorm(width), nn.Linear(width, vocab + 1)

    @property
    def blank(self) -> int:
        """The last of the scores: no token."""
        return self.vocab

    def told(self, x_BMD: Tensor, language_B: Tensor | None) -> Tensor:
        """`(B,)` rows of the embeddings of languages: 0 where the language is not told, or forgotten in training.

        A row that is there only to wait has no text, whose prompt would end with a language.
        """
        if language_B is None:
            return torch.zeros(len(x_BMD), dtype=torch.int64, device=x_BMD.device)
        told_B = (language_B - self.first + 1).clamp(min=0)
        if not (self.training and self.forget):
            return told_B
        return torch.where(torch.rand(told_B.shape, device=told_B.device) < self.forget, 0, told_B)

    def scores(self, h_BMD: Tensor) -> Tensor:
        """Logits of a memory that knows its language."""
        return self.out(self.norm(h_BMD + nn.functional.gelu(self.hidden(h_BMD))))

    def forward(self, x_BMD: Tensor, language_B: Tensor | None = None) -> Tensor:
        """Logits `(B, M, V + 1)`.

        Args:
            x_BMD: memory.
            language_B: token of each row's language; not told when None.
        """
        return self.scores(x_BMD + self.language(self.told(x_BMD, language_B))[:, None])


def log_probs(head: nn.Module, memory: Seq, language: int | None, silent: Sequence[int]) -> Tensor:
    """`(B, M, V + 1)` log-probabilities of what a text may hold, the blank last.

    Args:
        head: the model's.
        memory: `(B, M, D)`.
        language: token of the language that is written, None where it is not told; only a `CTCHead` takes it.
        silent: tokens that are no text.
    """
    if isinstance(head, CTCHead) and language is not None:
        scores_BMV = head(memory.masked, torch.full((len(memory.x),), language, device=memory.x.device))
    else:
        scores_BMV = head(memory.masked)
    scores_BMV = scores_BMV.float()
    scores_BMV[..., list(silent)] = -torch.inf
    return scores_BMV.log_softmax(-1)
