"""What `mmx.load` is asked for by every verb."""

from dataclasses import dataclass
from typing import Annotated, Literal

from mmx.options import Option, check

DType = Literal["auto", "float32", "bfloat16", "float16", "int8"]
DEFAULT_MODEL = "whisper-base"


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """The models of a verb, and on what they compute."""

    model: Annotated[str, Option("A model's name (see `mmx models`) or the path of a checkpoint.")] = DEFAULT_MODEL
    text_model: Annotated[
        str | None, Option("A model that translates the text of --model (a cascade), for more languages.")
    ] = None
    device: Annotated[str, Option("auto, cpu, cuda, cuda:1, mps.")] = "auto"
    dtype: Annotated[DType, Option("auto, float32, bfloat16, float16, int8.")] = "auto"
    threads: Annotated[int, Option("CPU threads; 0 leaves it to torch.", least=0, most=1024)] = 0

    def __post_init__(self) -> None:
        check(self)
