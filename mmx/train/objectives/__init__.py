"""What training minimizes: objectives of equal rank, of which a recipe names one.

| name | minimizes | the data have |
|---|---|---|
| `token` | cross-entropy of the next token | a text for each input |
| `ctc` | the same of a text over its alignments with the memory, without a decoder | a text for each input |
| `framewise` | that, and which token is spoken in each frame | a text, and these tokens, as `target_features` |
| `mixup` | CTC of lips, of lips mixed with sound, and their divergence | a text, lips and sound |
| `contrastive` | InfoNCE between the embeddings of two modalities | two media in each row |
| `visual_language` | the same between recordings and their texts, and masked texts' loss | a text in each row |
| `cico` | the same token by token, signs to words and words to signs | a text in each row |
| `flow` | the error of the velocity from noise to features | what is to be made, as `target_audio` |
| `infill` | the same within a hidden span, given the rest and the text | a text and its sound, as `target_audio` |
| `acoustic` | that, the error of a prior mean, and durations | frames with their text, as `target_features` |
| `spectral` | the differences of spectra at several resolutions, for a vocoder | its sound, as `target_audio` |
| `adversarial` | that, and what discriminators that learn with it tell it by | the same |
| `distillation` | the divergence from another model's next token | a text for each input |

Each is an `mmx.interfaces.Objective`. A family brings its own by its dotted name, `toys.text_to_mel.Objective`.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mmx.errors import InputError, nearest
from mmx.interfaces import Objective
from mmx.train.objectives.acoustic import AcousticLoss
from mmx.train.objectives.adversarial import AdversarialLoss
from mmx.train.objectives.cico import CiCoLoss
from mmx.train.objectives.contrastive import ContrastiveLoss
from mmx.train.objectives.ctc import CTCLoss
from mmx.train.objectives.distillation import DistillationLoss
from mmx.train.objectives.flow import FlowLoss
from mmx.train.objectives.framewise import FramewiseCTCLoss
from mmx.train.objectives.infill import InfillLoss
from mmx.train.objectives.mixup import MixupLoss
from mmx.train.objectives.spectral import SpectralLoss
from mmx.train.objectives.token import TokenLoss
from mmx.train.objectives.visual_language import VisualLanguageLoss

OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "token": TokenLoss,
    "ctc": CTCLoss,
    "framewise": FramewiseCTCLoss,
    "mixup": MixupLoss,
    "contrastive": ContrastiveLoss,
    "flow": FlowLoss,
    "infill": InfillLoss,
    "spectral": SpectralLoss,
    "adversarial": AdversarialLoss,
    "distillation": DistillationLoss,
    "acoustic": AcousticLoss,
    "visual_language": VisualLanguageLoss,
    "cico": CiCoLoss,
}


def build_objective(name: str, numbers: Mapping[str, Any]) -> Objective:
    """An objective by its name or by its dotted name, `module.Class`.

    Args:
        name: see above.
        numbers: its arguments.

    Raises:
        InputError: there is none of this name, or it does not take these arguments.
    """
    make = find_objective(name)
    known = list(inspect.signature(make).parameters)
    for argument in numbers:
        if argument not in known:
            raise InputError(
                f"expected in objective_config what the objective {name} takes ({', '.join(known) or 'nothing'}), got "
                f"{argument!r}.{nearest(argument, known)}"
            )
    try:
        return make(**numbers)
    except (TypeError, ValueError) as e:
        raise InputError(f"expected in objective_config the arguments of the objective {name}, got {e}") from e


def find_objective(name: str) -> Callable[..., Objective]:
    """What makes the objective of a name. Raises `InputError` where there is none."""
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    module, dot, attribute = name.rpartition(".")
    if not dot:
        known = list(OBJECTIVES)
        raise InputError(
            f"expected an objective among {', '.join(known)}, or a family's own by its dotted name, got {name!r}."
            f"{nearest(name, known)}"
        )
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as e:
        raise InputError(f"expected an objective at {name!r}, got {e}: name a class that Python finds") from e
