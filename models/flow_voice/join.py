"""Put an acoustic model and a vocoder together: `python -m mmx.models.flow_voice.join ACOUSTIC VOCODER OUT`.

ACOUSTIC is the model folder of a training by the objective acoustic, or of a voice whose vocoder is to be another.
VOCODER is a safetensors file of a voice, of a training of `copy_synthesis`, whose discriminators are left behind, or of
a bare `vocoder.Vocoder`. OUT is a model folder in float16.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from mmx.errors import InputError, prints_errors
from mmx.model import tensors
from mmx.models.flow_voice import Config, build
from mmx.models.flow_voice.copy_synthesis import PREFIX
from mmx.models.flow_voice.vocoder import VocoderConfig
from mmx.weights.card import read_card
from mmx.weights.folder import write_model
from mmx.weights.formats import open_checkpoint

ALONE = "encoders.latent."
"""Before the names of the vocoder's weights in a model of the family `copy_synthesis`."""


def join(acoustic: Path, vocoder: Path, out: Path, numbers: VocoderConfig) -> Path:
    """Write the folder of the whole model.

    Raises:
        InputError: the parts do not fit together.
    """
    card = read_card(acoustic / "card.toml")
    config = replace(Config(**card.config), vocoder=numbers)
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in tensors(build(config)).items()}
    parts = dict(open_checkpoint(acoustic / "model.safetensors", "mmx").items())
    parts |= {PREFIX + name: value for name, value in _of_vocoder(vocoder)}
    if odd := sorted(
        k for k in wanted.keys() | parts.keys() if k not in parts or tuple(parts[k].shape) != wanted.get(k)
    ):
        raise InputError(
            f"expected weights of the same model in {acoustic} and {vocoder}, got {odd[:5]} that do not fit"
        )
    shown = {"name": out.name, "summary": card.summary, "license": card.license, "commercial": card.commercial}
    write_model(out, parts.items(), family=card.family, config=asdict(config), card=shown, dtype=torch.float16)
    return out


def _of_vocoder(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of the vocoder in a file, by its own names."""
    found = open_checkpoint(file, "mmx")
    prefix = next((p for p in (PREFIX, ALONE) if any(name.startswith(p) for name in found)), "")
    return ((name.removeprefix(prefix), found[name]) for name in found if name.startswith(prefix))


def _numbers(vocoder: Path) -> VocoderConfig:
    """Those in the card beside a file, of a voice or of a training; else the usual ones."""
    card = vocoder.parent / "card.toml"
    given = read_card(card).config if card.is_file() else {}
    given = given.get("vocoder", given)
    return VocoderConfig(**{f.name: given[f.name] for f in fields(VocoderConfig) if f.name in given})


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """`ACOUSTIC VOCODER OUT [NUMBERS]`, the last a `VocoderConfig` as JSON, where no card beside the vocoder has it."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) not in (3, 4):
        print("usage: python -m mmx.models.flow_voice.join ACOUSTIC VOCODER OUT [NUMBERS]", file=sys.stderr)
        return 2
    numbers = VocoderConfig(**json.loads(given[3])) if len(given) == 4 else _numbers(Path(given[1]))
    print(join(Path(given[0]), Path(given[1]), Path(given[2]), numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
