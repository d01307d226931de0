"""Options that several verbs have; see `mmx.cli.app`."""

from typing import Annotated

import typer

ModelName = Annotated[str, typer.Option(help="A model's name (see `mmx models`) or the path of a checkpoint.")]
Language = Annotated[
    str | None, typer.Option("--language", "--from", help="Language spoken: de, deu or German. Detected if not given.")
]
BeamSize = Annotated[int, typer.Option(min=1, help="Hypotheses the search keeps; 1 is greedy and fastest.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DType = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16, int8.")]
Threads = Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 leaves it to torch.")]
Vad = Annotated[bool, typer.Option("--vad/--no-vad", help="Skip what is not speech.")]
Track = Annotated[
    int | None, typer.Option(min=1, help="Sound track of a film to read, by number; its default one if not given.")
]
Channels = Annotated[
    str, typer.Option(help="mix, left or right; each: two speakers on two channels, heard one by one and told apart.")
]
