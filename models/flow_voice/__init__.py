"""Voices of our own: an acoustic model by flow matching over a latent of 40 frames a second, and a vocoder.

`teacher` makes the training data, `mmx train` trains the parts, `join` puts them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mmx.model import Model
from mmx.models.flow_voice.acoustic import Acoustic, AcousticConfig
from mmx.models.flow_voice.synth import FlowVoice
from mmx.models.flow_voice.vocoder import Vocoder, VocoderConfig
from mmx.weights.convert import Rule

MODEL_TYPES = ()
"""None of Hugging Face's."""
KEYS: Mapping[str, Sequence[Rule]] = {}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Numbers of both parts; a card gives them as tables.

    Attributes:
        acoustic: of the acoustic model.
        vocoder: of the vocoder; None while the acoustic model is trained.
        voices: names, in the order of their numbers.
        accents: of each voice, a language as `mmx.text.phonemes` takes it.
        f0_mean: mean of the logarithm of F0 in Hz, and
        f0_std: its deviation, by which it is standardized.
        steps: of Euler's method.
    """

    acoustic: AcousticConfig = field(default_factory=AcousticConfig)
    vocoder: VocoderConfig | None = None
    voices: Sequence[str]
    accents: Sequence[str]
    f0_mean: float
    f0_std: float
    steps: int = 4

    def __post_init__(self) -> None:
        for name, kind in (("acoustic", AcousticConfig), ("vocoder", VocoderConfig)):
            value = getattr(self, name)
            if isinstance(value, Mapping):
                object.__setattr__(self, name, kind(**value))


def build(config: Config) -> Model:
    """The model with random weights."""
    c = config
    vocoder = None if c.vocoder is None else Vocoder(c.vocoder)
    synth = FlowVoice(Acoustic(c.acoustic), vocoder, c.voices, c.accents, (c.f0_mean, c.f0_std), c.steps)
    return Model(front={}, encoders={}, synth=synth)
