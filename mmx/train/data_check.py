"""What is wrong with training data, and what is in them: everything that would stop a training, before it starts."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmx.errors import InputError, MmxError
from mmx.model import Model
from mmx.text.languages import check_script, find_language
from mmx.train.data import lesson, modalities
from mmx.train.leakage import leaks
from mmx.train.manifest import MIN_S, Example, kind_of, languages_of, manifest_rows
from mmx.train.reading import SLACK_S, open_medium

ODD_RATE = 3.0
"""Characters a second beyond this times the language's median, or below its inverse, are no text of that sound."""
FEW = 8
"""Examples of a language below which there is no telling what its rate is."""
FASTEST = 45.0
"""Characters a second that nobody says, in any language."""
QUIET = 1e-4
"""Largest sample or number below which a recording is silence, blackness, or no points at all."""
NOTHING = {"audio": "silence", "video": "black pictures", "pose": "no points", "features": "zeros"}
"""What a recording is in which no number is larger."""
APART_S = 0.5
"""By which the media of a row may differ in length."""
FEW_PICTURES = 0.9
"""Share of the pictures a second that a model takes, below which some are shown twice."""


class Content(NamedTuple):
    """What a recording holds.

    Attributes:
        seconds: its length.
        peak: its largest sample, of 1, or number.
        flaws: what is wrong with it.
        rate: of a film, pictures a second.
    """

    seconds: float
    peak: float
    flaws: tuple[str, ...]
    rate: float = 0.0


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


def check_data(
    manifest: str | Path,
    model: str | Path | None = None,
    language: str = "",
    threads: int = 4,
    held_out: Sequence[str | Path] = (),
) -> Checked:
    """Check a manifest and every recording that it names.

    Args:
        manifest: see `mmx.train.manifest`.
        model: also check languages, tasks and lengths against this one, whose weights are not read.
        language: what is spoken in rows that do not say it.
        threads: recordings that are decoded at once.
        held_out: manifests that no text and no recording may be of.

    Raises:
        InputError: there is no such manifest or model.
    """
    outline = None
    if model is not None:
        from mmx.api import outline as outline_of

        outline = outline_of(model)
    rows = list(manifest_rows(Path(manifest), None if outline is None else languages_of(outline), language))
    shapes = {} if outline is None else {i.medium: i.shape for i in outline.inputs.values()}
    files = (item for r in rows if r.example is not None for item in _files(r.example))
    contents = _contents(files, shapes, threads)
    found, flaws = Checked(), [list(row.flaws) for row in rows]
    spoken: list[tuple[int, Example, float]] = []
    for i, example in ((i, row.example) for i, row in enumerate(rows) if row.example is not None):
        seconds = 0.0
        for medium, path in example.makes.items():
            flaws[i] += _empty(medium, path, contents[medium, path])
        if example.media:
            seconds, wrong = _recorded(example, contents)
            flaws[i] += wrong if wrong else _unfit(example, seconds, contents, outline)
            spoken += [] if wrong or not example.target else [(i, example, seconds)]
        elif outline is not None:
            flaws[i] += _unread(example, outline)
        flaws[i] += _odd_scripts(example)
        group = found.groups[_languages(example), example.task, example.origin]
        group.examples, group.seconds = group.examples + 1, group.seconds + seconds
    read = [(i, row.example) for i, row in enumerate(rows) if row.example is not None]
    for i, flaw in (*_odd_rates(spoken), *_repeated(read), *_mixed(read), *leaks(read, held_out, language)):
        flaws[i].append(flaw)
    found.problems = [f"{row.where}: {flaw}" for row, wrong in zip(rows, flaws, strict=True) for flaw in wrong]
    if not rows:
        found.problems.append("line 1: expected examples, got none")
    return found


def _languages(example: Example) -> str:
    return example.src_lang if example.src_lang == example.tgt_lang else f"{example.src_lang} > {example.tgt_lang}"


def _files(example: Example) -> Iterator[tuple[str, str]]:
    """The medium and the path of every file of an example."""
    yield from example.media.items()
    yield from example.makes.items()


def _contents(
    files: Iterable[tuple[str, str]], shapes: Mapping[str, tuple[int, ...]], threads: int
) -> dict[tuple[str, str], Content]:
    """Every recording once, however many examples are in it."""
    unique = list(dict.fromkeys(files))
    with ThreadPoolExecutor(threads) as pool:  # FFmpeg lets go of Python's lock
        found = pool.map(lambda item: read_content(item[0], item[1], shapes.get(item[0], ())), unique)
        return dict(zip(unique, found, strict=True))


def read_content(medium: str, path: str, shape: tuple[int, ...] = ()) -> Content:
    """Decode a recording to its end; `shape` of its frames is the model's, any when empty."""
    frames, peak = 0, 0.0
    try:
        with open_medium(medium, path, None, shape) as reader:
            for block in reader:
                frames, peak = frames + len(block), max(peak, float(np.abs(block).max(initial=0.0)))
    except MmxError as e:
        return Content(0.0, 0.0, (str(e).removeprefix(f"{path}: "),))
    return Content(frames / reader.rate, peak, tuple(reader.warnings), reader.rate if medium == "video" else 0.0)


def _empty(medium: str, path: str, content: Content) -> list[str]:
    """What is wrong with a recording by itself."""
    if content.flaws:
        return [f"{path}: {flaw}" for flaw in content.flaws]
    wanted = "speech" if medium == "audio" else medium
    return [] if content.peak >= QUIET else [f"{path}: expected {wanted}, got {NOTHING[medium]}"]


def _recorded(example: Example, contents: Mapping[tuple[str, str], Content]) -> tuple[float, list[str]]:
    """Seconds of an example, and what is wrong with its recordings."""
    wrong, lengths = [], {}
    for medium, path in example.media.items():
        content = contents[medium, path]
        rest = content.seconds - example.start_s
        seconds = rest if example.duration_s is None else example.duration_s
        lengths[medium] = max(0.0, min(seconds, rest))
        wrong += _empty(medium, path, content)
        wrong += [] if content.flaws else _short(example, medium, path, content.seconds)
    if not wrong and max(lengths.values()) - min(lengths.values()) > APART_S:
        shown = ", ".join(f"{medium} of {seconds:.2f} s" for medium, seconds in lengths.items())
        wrong = [f"expected recordings of one length, got {shown}: are they of the same take, and from its beginning?"]
    return max(lengths.values()), wrong


def _short(example: Example, medium: str, path: str, held_s: float) -> list[str]:
    """What a recording lacks of the part that its row names."""
    rest = held_s - example.start_s
    seconds = rest if example.duration_s is None else example.duration_s
    if seconds > rest + SLACK_S:
        return [
            f"{path}: expected {seconds:g} s from {example.start_s:g} s on, got a recording of {held_s:.2f} s: correct "
            "start_s and duration_s"
        ]
    if min(seconds, rest) < MIN_S:
        wanted = "speech" if medium == "audio" else medium
        return [f"{path}: expected {wanted} from {example.start_s:g} s on, got {max(0.0, rest):.2f} s of it"]
    return []


def _unfit(
    example: Example, seconds: float, contents: Mapping[tuple[str, str], Content], outline: Model | None
) -> list[str]:
    """What the model cannot learn of an example of recordings."""
    if outline is None:
        return []
    try:
        inputs = modalities(outline, [example])
        prompt, text = _lesson(outline, example)
    except InputError as e:
        return [str(e)]
    recorded = {n: i for n, i in inputs.items() if i.medium != "text"}
    longest = min((outline.window(n).seconds for n in recorded), default=math.inf)
    wrong, room = [], _room(outline)
    if seconds > longest:
        wrong.append(f"expected at most {longest:g} s for {outline.name}, got {seconds:.1f}: cut it; it is left out")
    if len(prompt) + len(text) > room:
        wrong.append(f"expected at most {room} tokens of text, got {len(prompt) + len(text)}: cut it")
    for what in recorded.values():
        got = contents[what.medium, example.media[what.medium]].rate if what.medium in example.media else 0.0
        if got and got < FEW_PICTURES * float(what.rate or 1):
            wrong.append(
                f"{example.media[what.medium]}: expected {what.rate:g} pictures a second for {outline.name}, got "
                f"{got:g}: each is shown more than once"
            )
    return wrong


def _room(outline: Model) -> float:
    """Tokens that a text with its prompt may have."""
    return math.inf if outline.decoder is None else outline.decoder.ctx


def _lesson(outline: Model, example: Example) -> tuple[list[int], list[int]]:
    """What the decoder would read and write; nothing without a text or a tokenizer."""
    tok = outline.tokenizer
    return ([], []) if tok is None or not example.target else lesson(outline, example, lambda text: tok.language(text))


def _unread(example: Example, outline: Model) -> list[str]:
    """What the model cannot learn of an example of text."""
    if "text" not in outline.encoders:
        return [f"expected a recording for {outline.name}, which reads only speech, got a text to translate"]
    tok, room = outline.require_source_tokenizer(), _room(outline)
    source = tok.source(example.source, tok.language(example.src_lang))
    longest = max(len(source), sum(map(len, _lesson(outline, example))))
    return [f"expected at most {room} tokens of text, got {longest}: cut it; it is left out"] if longest > room else []


def _odd_scripts(example: Example) -> list[str]:
    """Texts that are in another script than their language's."""
    sides = ((example.source, example.src_lang), (example.target, example.tgt_lang))
    found = (check_script(text, find_language(language)) for text, language in sides if text)
    return [flaw for flaw in found if flaw]


def _mixed(examples: Sequence[tuple[int, Example]]) -> Iterator[tuple[int, str]]:
    """Rows of other media than most rows have."""
    kinds = {i: kind_of(example) for i, example in examples}
    usual = Counter(kinds.values()).most_common(1)
    for i, kind in kinds.items():
        if kind != usual[0][0]:
            yield i, f"expected {usual[0][0]}, as in most rows, got {kind}: make a training of each"


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
                f"expected a text of this audio, got {len(example.target)} characters for {seconds:.1f} s "
                f"({rate:.1f} a second, where {usual:.1f} are usual): is it another recording's, or cut off?",
            )


def _repeated(examples: Sequence[tuple[int, Example]]) -> Iterator[tuple[int, str]]:
    """Rows whose id, or whose stretch of a recording, an earlier row has."""
    ids: set[str] = set()
    clips: set[tuple[str, float, str]] = set()
    for i, e in examples:
        if e.id and e.id in ids:
            yield i, f"expected an id of its own, got {e.id!r}, which an earlier row has"
        path = next(iter(e.media.values()), "")
        clip = (path, e.start_s, e.tgt_lang)
        if path and clip in clips:
            yield i, f"expected another recording, got {path} from {e.start_s:g} s on, which an earlier row has"
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
