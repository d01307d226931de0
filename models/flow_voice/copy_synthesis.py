"""A vocoder by itself, as a family: what `mmx train` trains it as, and what the acoustic model is joined with."""

from collections.abc import Mapping, Sequence

from mmx.model import Model
from mmx.models.flow_voice.vocoder import Vocoder, VocoderConfig
from mmx.weights.convert import Rule

MODEL_TYPES = ()
"""None of Hugging Face's."""
KEYS: Mapping[str, Sequence[Rule]] = {}
Config = VocoderConfig


def build(config: Config) -> Model:
    """The model with random weights: its memory is a waveform `(B, N)`."""
    return Model(front={}, encoders={"latent": Vocoder(config)})
