"""`Batch`: what one forward pass learns from, whatever the data and the objective are.

Letters: B rows, U tokens.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmx.model import Stage
from mmx.seq import Seq

IGNORED = -100
"""Target where nothing is to be learned: padding, and the prompt that decoding is given."""


class Batch(NamedTuple):
    """What one forward pass learns from.

    Attributes:
        inputs: by modality, as `Model.memory` takes them.
        tokens: `(B, U)` what the decoder reads; without text, U is 0.
        targets: `(B, U)` what it should write after each token; `IGNORED` where that does not matter.
        tasks: name of each row's task.
        begin: the stage that the inputs have yet to pass, see `Model.memory`.
        outputs: by medium, what is to be made: `{"audio": Seq (B, N)}`.
        keys: of each row, what is drawn for it depends on: the seed, the epoch and the example, not the batch.
        waits: whether it is there only because other processes have one more batch; it teaches nothing.
    """

    inputs: Mapping[str, Seq]
    tokens: Tensor
    targets: Tensor
    tasks: tuple[str, ...]
    begin: Stage = "front"
    outputs: Mapping[str, Seq] = {}
    keys: tuple[str, ...] = ()
    waits: bool = False

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        inputs, outputs = ({k: seq.to(device) for k, seq in x.items()} for x in (self.inputs, self.outputs))
        tokens, targets = self.tokens.to(device), self.targets.to(device)
        return self._replace(inputs=inputs, outputs=outputs, tokens=tokens, targets=targets)

    def waiting(self) -> "Batch":
        """The same batch, from which nothing is learned."""
        return self._replace(targets=torch.full_like(self.targets, IGNORED), waits=True)
