"""What `mmx evaluate` is asked for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from mmx.options import Option, check

Metric = Literal["wer", "cer", "bleu", "chrf", "bleu-1", "bleu-2", "bleu-3", "rouge-l-coco", "rouge-l-f1"]
PresetName = Literal["none", "phoenix-dot", "phoenix-nodot", "how2sign-13a", "how2sign-13a-lc", "csl-char"]
Control = Literal["blank", "shuffled", "swapped"]
Normalize = Literal["whisper", "basic", "none"]


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How texts are scored.

    Languages written without spaces have CER in the place of WER.
    """

    metrics: Annotated[
        tuple[Metric, ...],
        Option(
            "wer, cer, bleu, chrf, several with commas, and those of a preset; by the task if not given.",
            commas=True,
        ),
    ] = ()
    preset: Annotated[
        PresetName,
        Option("Protocol that signing is scored by: what is done to texts, and the metrics where none are given."),
    ] = "none"
    normalize: Annotated[Normalize, Option("What WER and CER disregard: whisper, basic or none.")] = "whisper"
    bootstrap: Annotated[int, Option("Resamples for intervals and p; 0 for none.", least=0)] = 1000
    seed: Annotated[int, Option("Of the resampling.")] = 0

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """How a test set is decoded."""

    beam_size: Annotated[int, Option("Hypotheses the search keeps; 1 is greedy and fastest.", least=1)] = 5
    batch_size: Annotated[int, Option("Sentences decoded together.", least=1)] = 16
    control: Annotated[
        tuple[Control, ...],
        Option(
            "Also decode recordings that say nothing, with commas: blank (black, silent), shuffled (frames in random "
            "order), swapped (of another sentence). A model that scores as well on them does not look.",
            commas=True,
        ),
    ] = ()

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StreamingOptions:
    """What is tried with `--streaming`, and where its figures go."""

    policies: Annotated[
        tuple[str, ...],
        Option("Of --streaming: alignatt, emma, local-agreement, hold-n, wait-k, with thresholds.", commas=True),
    ] = ("alignatt:0.3", "alignatt:0.5", "alignatt:1", "local-agreement", "hold-n:4")
    steps_s: Annotated[
        tuple[float, ...], Option("Of --streaming: seconds between decoding steps, with commas.", above=0)
    ] = (1.0,)
    to: Annotated[str | None, Option("Of --streaming: language to translate into.")] = None
    heads: Annotated[Path | None, Option("Of --streaming: monotonic heads for the policy emma.")] = None
    output_dir: Annotated[
        Path | None, Option("Of --streaming: also write a table, a plot and SimulEval's logs here.")
    ] = None

    def __post_init__(self) -> None:
        check(self)
