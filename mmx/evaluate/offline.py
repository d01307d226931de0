"""How good models are on a test set: what they write, its scores by language, and which differences are not chance.

`evaluate` runs models over a manifest, `score` takes texts that are there already. Decoding can be stopped at any
moment: what is decoded is kept beside the output and read again.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from mmx.errors import InputError, OutputError
from mmx.evaluate import presets
from mmx.evaluate.controls import CHANCE, control_name, controlled, owner, partners
from mmx.evaluate.metrics import ERRORS, USUAL, Measurement, mean, measure, paired_p, suited
from mmx.evaluate.options import Control, Scoring
from mmx.files import atomic_write
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.text.languages import find_language
from mmx.train.manifest import Example, digest_manifest, read_manifest, require_recordings
from mmx.train.reading import read_recording

COPY = "copy the source"
"""The baseline of text translation: a system that changes nothing. A model that scores near it has learned nothing."""
MEAN = "mean"
_CHUNK = 8
"""Batches that are decoded between two writings of what is done."""


@dataclass(frozen=True)
class Row:
    """One sentence of a test set.

    Attributes:
        source: text in `src_lang`; may be empty where there is sound.
        target: the reference, in `tgt_lang`; the transcript where that is the language spoken.
        src_lang: as `mmx.text.languages.find_language` takes it.
        tgt_lang: the same.
        id: for the output.
        media: paths of the recordings, by medium; empty for text.
        start_s: where the sentence begins in them.
        duration_s: how long it is; to the end when None.
    """

    source: str
    target: str
    src_lang: str
    tgt_lang: str
    id: str = ""
    media: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 0.0
    duration_s: float | None = None

    @property
    def pair(self) -> str:
        """What the row is a test of: "de-en", or "de" where German is written down."""
        src, to = find_language(self.src_lang).tag, find_language(self.tgt_lang).tag
        return src if self.media and src == to else f"{src}-{to}"


@dataclass(frozen=True)
class Line:
    """One figure of a report.

    Attributes:
        system: model, file or baseline.
        languages: a row's `pair`, or `MEAN` of several.
        measurement: the score.
        p: how probable a difference this large from the first system, of a control from its own, is if both are equally
            good; None for the first, for baselines, and without a bootstrap.
        control_of: the score of the system that this is the control of.
    """

    system: str
    languages: str
    measurement: Measurement
    p: float | None = None
    control_of: float | None = None

    @property
    def blind(self) -> bool:
        """Whether a system does no better than on its control: it does not look."""
        if self.control_of is None:
            return False
        gain = self.control_of - self.measurement.value
        return (gain if self.measurement.metric not in ERRORS else -gain) <= 0 or (
            self.p is not None and self.p > CHANCE
        )


DEFAULT_SCORING = Scoring()


def metrics_of(scoring: Scoring, pair: str, language: str) -> tuple[str, ...]:
    """The metrics of a language pair: WER and CER of what is written down, BLEU and chrF of translations by default."""
    if scoring.preset != "none":
        return scoring.metrics or presets.METRICS
    usual = ("bleu", "chrf") if "-" in pair else ("wer", "cer")
    return suited(scoring.metrics or usual, language)


def evaluate(
    manifest: str | Path,
    models: Sequence[str],
    scoring: Scoring = DEFAULT_SCORING,
    *,
    beam_size: int = 5,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "auto",
    language: str = "",
    output: Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    control: Sequence[Control] = (),
) -> list[Line]:
    """Run models over a test set and score what they write.

    Args:
        manifest: of text or of speech, see `mmx.train.manifest`; a folder of recordings beside texts too.
        models: as `mmx.load` takes them. The first is what the others are compared with.
        scoring: how.
        beam_size: hypotheses of the search; 1 is greedy.
        batch_size: sentences decoded together.
        device: as in `mmx.load`.
        dtype: as in `mmx.load`.
        language: what is spoken in rows that do not say it, as those of a folder.
        output: a JSON file for scores and hypotheses. What is decoded is kept beside it as it comes, and a second call
            goes on from there, or only scores again.
        on_progress: called with a model's name, sentences done and sentences in all.
        control: see `mmx.evaluate.controls`; each is one more system for each model.

    Raises:
        InputError: the manifest, a model or an option cannot be used, or `output` holds another test.
        OutputError: `output` cannot be written; what was decoded before is kept.
    """
    if not models or batch_size < 1:
        raise InputError(f"expected a model and batch_size >= 1, got {list(models)} and {batch_size}")
    rows = read_rows(manifest, language)
    _check(rows, scoring)
    if control and not all(r.media for r in rows):
        raise InputError(f"expected recordings for --control, got texts in {manifest}: leave it out")
    setup = {"manifest": digest_manifest(manifest), "beam_size": beam_size, "dtype": dtype}
    kept = _Kept(output, setup)
    texts: dict[str, list[str]] = {}
    for name in dict.fromkeys(models):
        weights = _identity(name)
        for how in (None, *control):
            system = name if how is None else control_name(name, how)
            done = kept.of(system, weights, len(rows))
            todo = [i for i in range(len(rows)) if i not in done]
            for step in _decoded(name, _under(rows, how), todo, beam_size, batch_size, device, dtype, how):
                kept.add(system, weights, step)
                done.update(step)
                if on_progress:
                    on_progress(system, len(done), len(rows))
            texts[system] = [done[i] for i in range(len(rows))]
    lines = report(texts, rows, scoring)
    if output is not None:
        atomic_write(output, json.dumps(_record(setup, lines, rows, texts, kept), ensure_ascii=False, indent=1))
        kept.close(len(rows))
    return lines


def score(
    hypotheses: Sequence[str | Path], references: str | Path, scoring: Scoring = DEFAULT_SCORING, *, language: str = ""
) -> list[Line]:
    """Score files of one sentence a line.

    Args:
        hypotheses: a file of each system; the first is what the others are compared with.
        references: the file of what they should say.
        scoring: how; all metrics where it names none.
        language: of the texts.
    """
    wanted = _lines(references)
    rows = [Row("", text, language, language) for text in wanted]
    texts: dict[str, list[str]] = {}
    for path in dict.fromkeys(str(p) for p in hypotheses):
        texts[path] = _lines(path)
        if len(texts[path]) != len(rows):
            raise InputError(
                f"expected {len(rows)} lines in {path}, as many as in {references}, got {len(texts[path])}"
            )
    if not rows or not texts:
        raise InputError(f"expected hypotheses and references, got {len(texts)} files and {len(rows)} lines")
    usual = USUAL if scoring.preset == "none" else presets.METRICS
    metrics = suited(scoring.metrics or usual, language)
    measured = _measured(texts, rows, metrics, language, scoring)
    return _compared(measured, find_language(language).tag if language else "")


def report(texts: Mapping[str, Sequence[str]], rows: Sequence[Row], scoring: Scoring = DEFAULT_SCORING) -> list[Line]:
    """Scores of each system by language pair, and their mean over the pairs where there are several.

    Args:
        texts: by system, a hypothesis for each row.
        rows: the test set. Where it is of text, `COPY` is scored too.
        scoring: how.
    """
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row.pair, []).append(i)
    lines: list[Line] = []
    every: dict[tuple[str, str], list[Measurement]] = {}
    for pair, members in groups.items():
        chosen = [rows[i] for i in members]
        systems = {name: [written[i] for i in members] for name, written in texts.items()}
        if not any(r.media for r in chosen):
            systems[COPY] = [r.source for r in chosen]
        language = chosen[0].tgt_lang
        measured = _measured(systems, chosen, metrics_of(scoring, pair, language), language, scoring)
        for (system, metric), m in measured.items():
            every.setdefault((system, metric), []).append(m)
        lines += _compared(measured, pair)
    if len(groups) > 1:
        lines += _compared({key: mean(found) for key, found in every.items()}, MEAN)
    return lines


def _measured(
    systems: Mapping[str, Sequence[str]], rows: Sequence[Row], metrics: Sequence[str], language: str, scoring: Scoring
) -> dict[tuple[str, str], Measurement]:
    """By system and metric."""
    references = [r.target for r in rows]
    return {
        (system, metric): measure(
            metric, written, references, language=language, normalize=scoring.normalize, bootstrap=scoring.bootstrap,
            seed=scoring.seed, preset=scoring.preset,
        )
        for system, written in systems.items()
        for metric in metrics
    }  # fmt: skip


def _compared(measured: Mapping[tuple[str, str], Measurement], languages: str) -> list[Line]:
    systems = list(dict.fromkeys(system for system, _ in measured))
    lines = []
    for (system, metric), m in measured.items():
        of = owner(system, systems)
        base = measured[of or systems[0], metric]
        alone = system in (systems[0], COPY) or not len(m.samples)
        p = None if alone else paired_p(m, base)
        lines.append(Line(system, languages, m, p, None if of is None else base.value))
    return lines


def _check(rows: Sequence[Row], scoring: Scoring) -> None:
    """Tell of a missing package before hours of decoding and not after."""
    for pair, row in {row.pair: row for row in rows}.items():
        for metric in metrics_of(scoring, pair, row.tgt_lang):
            measure(metric, ["a"], ["a"], language=row.tgt_lang, normalize=scoring.normalize, bootstrap=0,
                    preset=scoring.preset)  # fmt: skip


# -------------------- test sets


def read_rows(path: str | Path, language: str = "") -> list[Row]:
    """The sentences of a manifest of text or of speech.

    Args:
        path: see `mmx.train.manifest`.
        language: what is spoken in rows that do not say it.

    Raises:
        InputError: naming what is wrong, by line.
    """
    examples = read_manifest(path, language=language)
    require_recordings(examples, path)
    return [Row(e.source, e.target, e.src_lang, e.tgt_lang, e.id, e.media, e.start_s, e.duration_s) for e in examples]


def _lines(path: str | Path) -> list[str]:
    try:
        return Path(path).read_text("utf-8-sig").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"expected a text file in UTF-8 at {path}, got {e}") from e


# -------------------- decoding


def _identity(model: str) -> str:
    from mmx import api

    return api.locate(model)[1].identity


def _decoded(
    name: str,
    rows: Sequence[Row],
    todo: Sequence[int],
    beam_size: int,
    batch_size: int,
    device: str,
    dtype: str,
    control: Control | None = None,
) -> Iterator[dict[int, str]]:
    """Hypotheses by number of the row, some at a time, so that they can be kept."""
    if not todo:
        return
    from mmx import api

    model = api.load(name, device=device, dtype=dtype)  # pyright: ignore[reportArgumentType]
    groups: dict[tuple[bool, str, str], list[int]] = {}
    for i in todo:
        groups.setdefault((bool(rows[i].media), rows[i].src_lang, rows[i].tgt_lang), []).append(i)
    for (speech, src, to), members in groups.items():
        write = partial(_write_speech, control=control) if speech else _write_text
        members.sort(key=lambda i: len(rows[i].source))  # batches of like length
        for start in range(0, len(members), _CHUNK * batch_size):
            part = members[start : start + _CHUNK * batch_size]
            written = write(model, [rows[i] for i in part], src, to, beam_size, batch_size)
            yield dict(zip(part, written, strict=True))


def _write_text(model: Model, rows: Sequence[Row], src: str, to: str, beam_size: int, batch_size: int) -> list[str]:
    texts = [r.source for r in rows]
    return [t.text for t in model.translate_text(texts, src=src, to=to, beam_size=beam_size, batch_size=batch_size)]


def _under(rows: Sequence[Row], control: Control | None) -> Sequence[Row]:
    """The rows with the recordings that a control gives them."""
    if control != "swapped":
        return rows
    others = (rows[j] for j in partners([r.target for r in rows]))
    return [
        replace(row, media=o.media, start_s=o.start_s, duration_s=o.duration_s)
        for row, o in zip(rows, others, strict=True)
    ]


def _write_speech(
    model: Model,
    rows: Sequence[Row],
    src: str,
    to: str,
    beam_size: int,
    batch_size: int,
    control: Control | None = None,
) -> list[str]:
    same = find_language(src).code == find_language(to).code
    task = "transcribe" if same else "translate"
    sources: Any = [source_of(r, model) for r in rows]
    if control is not None:
        sources = [controlled(x, control, r.id) for x, r in zip(sources, rows, strict=True)]
    options: dict[str, Any] = {"language": src, "task": task, "beam_size": beam_size, "batch_size": batch_size}
    if not same:
        options["to"] = to
    found = model.transcribe_many(sources, **options)
    return [t.text for t in found]


def source_of(row: Row, model: Model) -> Any:
    """What the model reads of a row's recordings: sound alone, or all of it by modality."""
    inputs = model.recorded
    if [i.medium for i in inputs.values()] == ["audio"] and "audio" in row.media:
        return _wave(row)
    example = Example(row.source, row.target, row.src_lang, row.tgt_lang, row.id, media=row.media,
                      start_s=row.start_s, duration_s=row.duration_s)  # fmt: skip
    there = {name: i for name, i in inputs.items() if i.medium in row.media}
    if not there:
        wanted = " or ".join(i.medium for i in inputs.values()) or "text"
        raise InputError(
            f"expected {wanted} for {model.name}, got {', '.join(row.media)} in {row.id}: choose another model"
        )
    return {name: x.numpy() for name, x in read_recording(example, there).items()}


def _wave(row: Row) -> np.ndarray:
    wave = _recording(row.media["audio"])
    start = round(row.start_s * RATE)
    end = len(wave) if row.duration_s is None else start + round(row.duration_s * RATE)
    if start >= len(wave):
        raise InputError(
            f"expected start_s within {row.media['audio']} ({len(wave) / RATE:.2f} s), got {row.start_s} in {row.id}"
        )
    return wave[start:end]


@lru_cache(maxsize=1)  # neighbours in a test set are often of one recording
def _recording(path: str) -> np.ndarray:
    from mmx.media.audio import read_audio

    return read_audio(path, rate=RATE)


# -------------------- what is kept


class _Kept:
    """Hypotheses that outlive a killed run: one JSON line each, beside the output that will hold them in the end.

    Args:
        output: the output; nothing is kept where it is None.
        setup: what the hypotheses depend on but the model; those of another are not mixed in.
    """

    def __init__(self, output: Path | None, setup: Mapping[str, Any]):
        self.file = None if output is None else output.with_name(f"{output.name}.part")
        self.weights: dict[str, str] = {}
        self.found: dict[tuple[str, str], dict[int, str]] = {}
        if output is None or self.file is None:
            return
        for path, read in ((output, self._read_output), (self.file, self._read_part)):
            if path.is_file() and not read(path, setup):
                raise InputError(
                    f"expected in {path} the same manifest, beam_size and dtype as now, got others: choose another "
                    "output, or remove it"
                )
        records = [self._line(*key, i, text) for key, rows in self.found.items() for i, text in rows.items()]
        atomic_write(self.file, json.dumps(setup) + "\n" + "".join(records))

    def of(self, model: str, weights: str, rows: int) -> dict[int, str]:
        """What is kept of a model with these weights, by number of the row."""
        self.weights[model] = weights
        return {i: text for i, text in self.found.get((model, weights), {}).items() if i < rows}

    def add(self, model: str, weights: str, texts: Mapping[int, str]) -> None:
        """Keep some more, before this returns."""
        if self.file is None:
            return
        try:
            with self.file.open("a", encoding="utf-8") as f:
                f.write("".join(self._line(model, weights, i, text) for i, text in texts.items()))
        except OSError as e:
            raise OutputError(
                f"expected to write {self.file}, got {e.strerror or e}: free some space, and start again with the same "
                "command; what is written is kept"
            ) from e

    def others(self, rows: int) -> dict[tuple[str, str], dict[int, str]]:
        """What earlier runs wrote to their end, by models that this one was not asked for, and their weights."""
        return {k: texts for k, texts in self.found.items() if k[0] not in self.weights and len(texts) >= rows}

    def close(self, rows: int) -> None:
        """The output holds everything now, but for models that another run was killed at: these stay beside it."""
        begun = any(name not in self.weights and len(texts) < rows for (name, _), texts in self.found.items())
        if self.file is not None and not begun:
            self.file.unlink(missing_ok=True)

    @staticmethod
    def _line(model: str, weights: str, row: int, text: str) -> str:
        record = {"model": model, "weights": weights, "row": row, "text": text}
        return json.dumps(record, ensure_ascii=False) + "\n"

    def _read_part(self, path: Path, setup: Mapping[str, Any]) -> bool:
        records = list(_whole(path.read_text("utf-8", errors="replace").split("\n")))
        if not records:  # killed before the first line was whole
            return True
        if records[0] != setup:
            return False
        for r in records[1:]:
            self.found.setdefault((r["model"], r["weights"]), {})[r["row"]] = r["text"]
        return True

    def _read_output(self, path: Path, setup: Mapping[str, Any]) -> bool:
        try:
            record = json.loads(path.read_text("utf-8"))
            if record["setup"] != setup:
                return False
            for model, weights in record["models"].items():
                texts = {i: row["hypotheses"][model] for i, row in enumerate(record["rows"])}
                self.found[model, weights] = texts
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        return True


def _whole(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The lines up to the first that a kill cut short."""
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            return


def _record(
    setup: Mapping[str, Any],
    lines: Sequence[Line],
    rows: Sequence[Row],
    texts: Mapping[str, Sequence[str]],
    kept: _Kept,
) -> dict[str, Any]:
    others = kept.others(len(rows))
    texts = {name: [found[i] for i in range(len(rows))] for (name, _), found in others.items()} | dict(texts)
    return {
        "setup": setup,
        "models": {**dict(others.keys()), **kept.weights},
        "scores": _scores(lines),
        "rows": [
            {
                "id": row.id, "source": row.source, "reference": row.target, "src_lang": row.src_lang,
                "tgt_lang": row.tgt_lang, "hypotheses": {name: written[i] for name, written in texts.items()},
            }
            for i, row in enumerate(rows)
        ],
    }  # fmt: skip


def write(output: Path, lines: Sequence[Line]) -> None:
    """Write the scores as JSON."""
    atomic_write(output, json.dumps({"scores": _scores(lines)}, ensure_ascii=False, indent=1))


def _scores(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [
        {
            "system": x.system, "languages": x.languages, "metric": x.measurement.metric, "score": x.measurement.value,
            "interval": x.measurement.interval, "p": x.p, "sentences": x.measurement.sentences,
            "signature": x.measurement.signature,
        }
        for x in lines
    ]  # fmt: skip


def show(lines: Sequence[Line]) -> None:
    """Print a report as a table, with the signatures that its figures depend on below."""
    from rich.console import Console
    from rich.table import Table

    metrics = list(dict.fromkeys(x.measurement.metric for x in lines))
    table = Table("system", "languages", "sentences", *(m.upper().replace("CHRF", "chrF") for m in metrics), box=None)
    cells: dict[tuple[str, str], dict[str, Line]] = {}
    for x in lines:
        cells.setdefault((x.languages, x.system), {})[x.measurement.metric] = x
    for (languages, system), by_metric in cells.items():
        sentences = str(next(iter(by_metric.values())).measurement.sentences)
        table.add_row(system, languages, sentences, *(_cell(by_metric.get(m)) for m in metrics))
    Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 200).print(table)
    for metric, signature in dict.fromkeys((x.measurement.metric, x.measurement.signature) for x in lines):
        if not signature.startswith(MEAN):
            print(f"{metric}: {signature}")
    for x in lines:
        if x.blind:
            print(
                f"{x.languages}: {x.measurement.metric} is no better than that of {x.system}: what is written does not "
                "come from the recordings"
            )


def _cell(line: Line | None) -> str:
    if line is None:
        return ""
    span = line.measurement.interval
    text = f"{line.measurement.value:.2f}" + (f" ({span[0]:.1f} to {span[1]:.1f})" if span else "")
    return text + (f" p = {line.p:.3f}" if line.p is not None else "")
