"""What is wrong with training data, and what is in them: everything that would stop a training, before it starts."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmx.errors import InputError, MmxError
from mmx.media.audio import SAMPLE_RATE, open_audio
from mmx.model import Model
from mmx.text.languages import check_script, find_language
from mmx.train.manifest import MIN_S, Example, manifest_rows
from mmx.train.speech_data import SLACK_S, hearing, spoken_target

ODD_RATE = 3.0
"""Characters a second beyond this times the language's median, or below its inverse, are no text of that sound."""
FEW = 8
"""Examples of a language below which there is no telling what its rate is."""
FASTEST = 45.0
"""Characters a second that nobody says, in any language."""
QUIET = 1e-4
"""Peak below which a recording is silence."""


class Sound(NamedTuple):
    """What a recording holds.

    Attributes:
        seconds: its length.
        peak: its largest sample, of 1.
        flaws: what is wrong with it.
    """

    seconds: float
    peak: float
    flaws: tuple[str, ...]


@dataclass
class Group:
    """How much there is of one kind of examples."""

    examples: int = 0
    seconds: float = 0.0


@dataclass
class Checked:
    """The outcome of a check.

    Attributes:
        problems: in the order of the rows.
        groups: by languages, task and origin.
    """

    problems: list[str] = field(default_factory=list)
    groups: dict[tuple[str, str, str], Group] = field(default_factory=lambda: defaultdict(Group))


def check_data(manifest: str | Path, model: str | Path | None = None, language: str = "", threads: int = 4) -> Checked:
    """Check a manifest and every recording that it names.

    Args:
        manifest: see `mmx.train.manifest`.
        model: also check languages, tasks and lengths against this one, whose weights are not read.
        language: what is spoken in rows that do not say it.
        threads: recordings that are decoded at once.

    Raises:
        InputError: there is no such manifest or model.
    """
    outline = None
    if model is not None:
        from mmx.api import outline as outline_of

        outline = outline_of(model)
    spellings = None if outline is None else outline.require_tokenizer().language_ids
    rows = list(manifest_rows(Path(manifest), spellings, language))
    sounds = _listened((r.example.audio for r in rows if r.example is not None and r.example.audio), threads)
    found, flaws = Checked(), [list(row.flaws) for row in rows]
    spoken: list[tuple[int, Example, float]] = []
    for i, example in ((i, row.example) for i, row in enumerate(rows) if row.example is not None):
        seconds = 0.0
        if example.audio:
            seconds, wrong = _heard(example, sounds[example.audio])
            flaws[i] += wrong if wrong else _unfit(example, seconds, outline)
            spoken += [] if wrong else [(i, example, seconds)]
        elif outline is not None:
            flaws[i] += _unread(example, outline)
        flaws[i] += _odd_scripts(example)
        group = found.groups[_languages(example), example.task, example.origin]
        group.examples, group.seconds = group.examples + 1, group.seconds + seconds
    read = [(i, row.example) for i, row in enumerate(rows) if row.example is not None]
    for i, flaw in (*_odd_rates(spoken), *_repeated(read), *_mixed(read)):
        flaws[i].append(flaw)
    found.problems = [f"{row.where}: {flaw}" for row, wrong in zip(rows, flaws, strict=True) for flaw in wrong]
    if not rows:
        found.problems.append("line 1: expected examples, got none")
    return found


def _languages(example: Example) -> str:
    return example.src_lang if example.src_lang == example.tgt_lang else f"{example.src_lang} > {example.tgt_lang}"


def _listened(paths: Iterable[str], threads: int) -> dict[str, Sound]:
    """Every recording once, however many examples are in it."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(threads) as pool:  # FFmpeg lets go of Python's lock
        return dict(zip(unique, pool.map(listen, unique), strict=True))


def listen(path: str) -> Sound:
    """Decode a recording to its end."""
    samples, peak = 0, 0.0
    try:
        with open_audio(path) as reader:
            for block in reader:
                samples, peak = samples + len(block), max(peak, float(np.abs(block).max(initial=0.0)))
    except MmxError as e:
        return Sound(0.0, 0.0, (str(e).removeprefix(f"{path}: "),))
    return Sound(samples / SAMPLE_RATE, peak, tuple(reader.warnings))


def _heard(example: Example, sound: Sound) -> tuple[float, list[str]]:
    """Seconds of an example, and what is wrong with its recording."""
    wrong = [f"{example.audio}: {flaw}" for flaw in sound.flaws]
    rest = sound.seconds - example.start_s
    seconds = rest if example.duration_s is None else example.duration_s
    if wrong:
        return max(0.0, min(seconds, rest)), wrong
    if sound.peak < QUIET:
        wrong.append(f"{example.audio}: expected speech, got silence")
    if seconds > rest + SLACK_S:
        wrong.append(
            f"{example.audio}: expected {seconds:g} s from {example.start_s:g} s on, got a recording of "
            f"{sound.seconds:.2f} s: correct start_s and duration_s"
        )
    elif min(seconds, rest) < MIN_S:
        wrong.append(
            f"{example.audio}: expected speech from {example.start_s:g} s on, got {max(0.0, rest):.2f} s of it"
        )
    return max(0.0, min(seconds, rest)), wrong


def _unfit(example: Example, seconds: float, outline: Model | None) -> list[str]:
    """What the model cannot learn of an example of speech."""
    if outline is None:
        return []
    if "speech" not in outline.encoders:
        return [f"expected a text for {outline.name}, which does not hear, got a recording"]
    longest, wrong = hearing(outline).window / SAMPLE_RATE, []
    if seconds > longest:
        wrong.append(f"expected at most {longest:g} s for {outline.name}, got {seconds:.1f}: cut it; it is left out")
    try:
        prompt, text = spoken_target(outline.require_tokenizer(), example)
    except InputError as e:
        return [*wrong, str(e)]
    if len(prompt) + len(text) > outline.require_decoder().ctx:
        wrong.append(
            f"expected at most {outline.require_decoder().ctx} tokens of text, got {len(prompt) + len(text)}: cut it"
        )
    return wrong


def _unread(example: Example, outline: Model) -> list[str]:
    """What the model cannot learn of an example of text."""
    if "text" not in outline.encoders:
        return [f"expected a recording for {outline.name}, which only hears, got a text to translate"]
    tok, room = outline.require_source_tokenizer(), outline.require_decoder().ctx
    source = tok.source(example.source, tok.language(example.src_lang))
    target = [*tok.prompt(tok.language(example.tgt_lang)), *tok.encode(example.target), tok.eot]
    longest = max(len(source), len(target))
    return [f"expected at most {room} tokens of text, got {longest}: cut it; it is left out"] if longest > room else []


def _odd_scripts(example: Example) -> list[str]:
    """Texts that are in another script than their language's."""
    sides = ((example.source, example.src_lang), (example.target, example.tgt_lang))
    found = (check_script(text, find_language(language)) for text, language in sides if text)
    return [flaw for flaw in found if flaw]


def _mixed(examples: Sequence[tuple[int, Example]]) -> Iterator[tuple[int, str]]:
    """Rows of speech among rows of text, or the other way round: whichever are fewer."""
    spoken, read = ([i for i, e in examples if bool(e.audio) == speech] for speech in (True, False))
    fewer, kind, other = (spoken, "speech", "text") if len(spoken) < len(read) else (read, "text", "speech")
    if spoken and read:
        for i in fewer:
            yield i, f"expected {other}, as in most rows, got {kind}: make a training of each"


def _odd_rates(spoken: Sequence[tuple[int, Example, float]]) -> Iterator[tuple[int, str]]:
    """Rows whose text is too long or too short for their sound."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _, example, seconds in spoken:
        rates[example.tgt_lang].append(len(example.target) / seconds)
    for i, example, seconds in spoken:
        rate, others = len(example.target) / seconds, rates[example.tgt_lang]
        usual = statistics.median(others)
        odd = len(others) >= FEW and not usual / ODD_RATE <= rate <= usual * ODD_RATE
        if odd or rate > FASTEST:
            yield (
                i,
                f"expected a text of this sound, got {len(example.target)} characters for {seconds:.1f} s "
                f"({rate:.1f} a second, where {usual:.1f} are usual): is it another recording's, or cut off?",
            )


def _repeated(examples: Sequence[tuple[int, Example]]) -> Iterator[tuple[int, str]]:
    """Rows whose id, or whose stretch of a recording, an earlier row has."""
    ids: set[str] = set()
    clips: set[tuple[str, float, str]] = set()
    for i, e in examples:
        if e.id and e.id in ids:
            yield i, f"expected an id of its own, got {e.id!r}, which an earlier row has"
        clip = (e.audio, e.start_s, e.tgt_lang)
        if e.audio and clip in clips:
            yield i, f"expected another recording, got {e.audio} from {e.start_s:g} s on, which an earlier row has"
        ids.add(e.id)
        clips.add(clip)


def report(found: Checked, show: int = 50) -> None:
    """Print what is in the data and what is wrong with them."""
    from rich.console import Console
    from rich.table import Table

    console, table = Console(markup=False), Table(title="Training data")
    for name in ("language", "task", "origin"):
        table.add_column(name)
    for name in ("examples", "hours"):
        table.add_column(name, justify="right")
    for key, group in sorted(found.groups.items()):
        table.add_row(*key, str(group.examples), f"{group.seconds / 3600:.2f}" if group.seconds else "")
    if found.groups:
        console.print(table)
    for problem in found.problems[:show]:
        print(problem)
    if len(found.problems) > show:
        print(f"... and {len(found.problems) - show} more (--show lists more)")
    examples = sum(g.examples for g in found.groups.values())
    problems = "1 problem" if len(found.problems) == 1 else f"{len(found.problems) or 'no'} problems"
    print(f"{examples} examples, {problems}")
