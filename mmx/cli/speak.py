"""`mmx speak` and `mmx voices`."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmx.cli.console import say
from mmx.cli.flags import Defaults, Without, with_flags
from mmx.errors import InputError
from mmx.files import cannot_write, drop_output
from mmx.tasks.options import SpeakOptions
from mmx.weights.options import LoadOptions

if TYPE_CHECKING:
    from mmx.model import Model
    from mmx.tasks.result import SpokenSegment

TEXT = typer.Argument(metavar="TEXT|FILE|-", help="A text, a file with one, or - for standard input.")
OUT = typer.Option(
    "--out",
    "-o",
    help="wav, flac, mp3 or opus file, - for standard output; srt, vtt, tsv, json, txt for words.",
)
TAIL_S = 0.3
"""That a loudspeaker is given to end."""
TEXT_FORMATS = (".srt", ".vtt", ".tsv", ".json", ".txt")


def register(app: typer.Typer) -> None:
    """Add the verbs to the command line."""
    app.command(
        epilog='mmx speak "Good morning." -o out.wav   |   mmx speak book.txt -o book.mp3 -o book.srt   |   '
        'mmx speak "Buenos días." --language es --play   |   mmx voices'
    )(with_flags(speak))
    app.command()(with_flags(voices))


def speak(
    *,
    text: Annotated[str, TEXT],
    out: Annotated[list[Path] | None, OUT] = None,
    play: Annotated[bool, typer.Option("--play", help="Play it while it is made (extra `live`).")] = False,
    format: Annotated[str, typer.Option(help="Of standard output: wav, flac, mp3, opus, aac or pcm.")] = "wav",
    options: SpeakOptions,
    load: Annotated[LoadOptions, Without("text_model"), Defaults(model="")],
) -> None:
    """Speak a text, sentence by sentence, with the times of its words. What is spoken is synthetic, and says so."""
    from mmx.media.write import find_format, format_of

    files = list(out or [])
    words = [path for path in files if path.suffix.lower() in TEXT_FORMATS]
    sounds = [path for path in files if path not in words]
    find_format(format)
    for path in sounds:
        if str(path) != "-":
            format_of(path)
    if len(sounds) + play != 1:
        raise InputError(
            "expected one place for the speech, as in -o out.wav, -o - or --play, got "
            + (", ".join([*map(str, sounds), *["--play"] * play]) or "none")
        )
    written = _text(text)
    from mmx.api import open_voice

    model, asked = open_voice(options, load)
    _Job(model, asked, written, format).run(None if play else sounds[0], words)


def voices(
    *,
    language: Annotated[str | None, typer.Option(help="Those of this language alone: es, spa or Spanish.")] = None,
) -> None:
    """List the voices: languages, model, licence, and a command that speaks."""
    from mmx.cli.doctor import show_table
    from mmx.tasks.voices import added, is_here, speaks
    from mmx.tasks.voices import voices as known

    found = [v for v in [*known(), *added()] if language is None or speaks(v.languages, language)]
    if not found:
        raise InputError(f"expected a language that a voice speaks, got {language!r}: `mmx voices` lists all")
    first: dict[str, str] = {}  # whom a name without its model means
    for v in sorted(found, key=lambda v: not is_here(v.card)):
        first.setdefault(v.name, v.card.name)
    typed = [v.name if first[v.name] == v.card.name else f"{v.card.name}/{v.name}" for v in found]
    rows = [
        (name, ", ".join(v.languages), v.card.name, v.card.license, "here" if is_here(v.card) else "not installed",
         f'mmx speak "{SAMPLES.get(v.languages[0][:2], "Hello.")}" --voice {name} -o out.wav')
        for name, v in zip(typed, found, strict=True)
    ]  # fmt: skip
    titles = ("voice", "languages", "model", "licence", "weights", "a command")
    show_table(titles, rows, whole=titles)


SAMPLES = {"en": "Good morning.", "es": "Buenos días.", "fr": "Bonjour.", "it": "Buongiorno.", "pt": "Bom dia.",
           "ja": "おはようございます。", "zh": "早上好。"}  # fmt: skip


def _text(given: str) -> str:
    """The text of an argument: itself, that of the file that it names, or standard input."""
    if given == "-":
        return sys.stdin.read()
    path = Path(given)
    one_word = len(given) < 4096 and not any(c.isspace() for c in given)
    if len(given) < 255 and "\0" not in given and path.is_file():
        try:
            return path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"expected a text in UTF-8 in {given}, got something else ({e}): convert it first") from e
    if one_word and path.suffix.lower() in (".txt", ".md", ".srt"):
        raise InputError(f"expected a text, or a file with one, got {given!r}, which is no file here")
    return given


class _Job:
    """A text on its way to a file, to standard output or to the loudspeaker."""

    def __init__(self, model: "Model", options: SpeakOptions, text: str, format: str):
        from mmx.tasks.synthesize import Record

        self.model, self.options, self.text, self.format = model, options, text, format
        self.rate, self.record = model.require_synth().rate, Record()

    def run(self, out: Path | None, words: list[Path]) -> None:
        """Speak, to the loudspeaker where no file is named; then write the words."""
        from mmx.media.write import encoded
        from mmx.tasks.dub import write_speech

        with _progress(len(self.text)) as advance:
            blocks = self._blocks(advance)
            if out is None:
                self._play(blocks)
            elif str(out) == "-":
                self._pipe(encoded((b.samples for b in blocks), self.rate, self.format))
            else:
                write_speech(out, (b.samples for b in blocks), self.rate)
        transcript = self.record.transcript(self.options.language or "en", self.model.name)
        for path in words:
            transcript.write(path.parent, [path.suffix[1:]], path.stem)
        places = ", ".join([str(out) if out else "played", *map(str, words)])
        say(f"{transcript.duration_s:.1f} s of synthetic speech -> {places}")

    def _blocks(self, advance: Callable[[int], None]) -> "Iterator[SpokenSegment]":
        from mmx.api import speech

        for block in speech(self.model, self.text, self.options):
            self.record.add(block)
            advance(len(block.text))
            yield block

    def _pipe(self, pieces: Iterable[bytes]) -> None:
        try:
            for data in pieces:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
        except BrokenPipeError:
            drop_output()
        except OSError as e:
            drop_output()
            raise cannot_write("standard output", e) from e

    def _play(self, blocks: "Iterator[SpokenSegment]") -> None:
        from mmx.streaming.client.speech import Loudspeaker

        speaker, begin = Loudspeaker(self.rate), time.monotonic()
        for block in blocks:
            speaker.play(block)
        time.sleep(max(0.0, self.record.end_s + TAIL_S - (time.monotonic() - begin)))


@contextmanager
def _progress(characters: int) -> Iterator[Callable[[int], None]]:
    """How much of the text is spoken, where a person is looking."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("speaking"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=characters)
        yield lambda n: bar.advance(task, n)
