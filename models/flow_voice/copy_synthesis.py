"""A vocoder by itself, as a family: what `mmx train` trains it as, and what the acoustic model is joined with.

    python -m mmx.models.flow_voice.copy_synthesis VOICE OUT

takes the vocoder out of a voice, of which a training can go on, with new discriminators; `join` puts it back.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mmx.errors import InputError, prints_errors
from mmx.model import Model, tensors
from mmx.models.flow_voice.vocoder import Vocoder, VocoderConfig
from mmx.nn.discriminators import NAME as HEAD
from mmx.nn.discriminators import Discriminators
from mmx.weights import hub
from mmx.weights.card import Card, find_card, read_card
from mmx.weights.convert import Rule
from mmx.weights.folder import write_model
from mmx.weights.formats import open_checkpoint

MODEL_TYPES = ()
"""None of Hugging Face's."""
FAMILY = "mmx.models.flow_voice.copy_synthesis"
PREFIX = "synth.vocoder."
"""Before the names of a vocoder's weights in a voice."""
KEYS: Mapping[str, Sequence[Rule]] = {}


@dataclass(frozen=True, kw_only=True)
class Config(VocoderConfig):
    """Numbers of the vocoder, and of what it is trained with.

    Attributes:
        discriminators: channels of those that it is trained with, 0 for none.
    """

    discriminators: int = 0


def build(config: Config) -> Model:
    """The model with random weights: its memory is a waveform `(B, N)`."""
    heads = {HEAD: Discriminators(config.discriminators)} if config.discriminators else {}
    return Model(front={}, encoders={"latent": Vocoder(config)}, heads=heads)


def split(voice: str, out: Path, discriminators: int = 16) -> Path:
    """Write the vocoder of a voice as a model folder in float32, with discriminators that know nothing.

    Raises:
        InputError: the model has no vocoder of this kind.
    """
    card, file = _located(voice)
    numbers = card.config.get("vocoder")
    if card.family != "flow_voice" or numbers is None:
        raise InputError(f"expected a voice with a vocoder of its own, got {voice}: name one of the family flow_voice")
    config = Config(**numbers, discriminators=discriminators)
    torch.manual_seed(0)
    model, found = build(config), open_checkpoint(file, "mmx")
    weights = {name.removeprefix(PREFIX): found[name].float() for name in found if name.startswith(PREFIX)}
    model.encoders["latent"].load_state_dict(weights)
    fields = {"name": out.name, "summary": "a vocoder to be trained further", "license": card.license}
    write_model(
        out,
        tensors(model).items(),
        family=FAMILY,
        config=asdict(config),
        card={**fields, "commercial": card.commercial},
    )
    return out


def _located(voice: str) -> tuple[Card, Path]:
    """Card and weights of a voice, by its name or its folder."""
    if (Path(voice) / "card.toml").is_file():
        return read_card(Path(voice) / "card.toml"), Path(voice) / "model.safetensors"
    card = find_card(voice)
    return card, hub.locate(card).parts[0]


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 2:
        print("usage: python -m mmx.models.flow_voice.copy_synthesis VOICE OUT", file=sys.stderr)
        return 2
    print(split(given[0], Path(given[1])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
