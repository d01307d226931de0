"""Word errors of lips, sound and both over a ladder of noise: `python -m mmx.experiments.lips CORPUS --model NAME`.

CORPUS is what `mmx.experiments.talking_mouths` wrote. Words are read in two ways, both without a language model: freely
spelled, and from the closed vocabulary of the corpus, as usual with tasks of this kind (GRID, LRW). Where the words are
held out, the vocabulary holds them and those of training. Noise is the babble of test voices. Controls: a face that
stands still, lips that come late or are of another clip, no face, and a face or sound that is lost for the second of
three clips. Intervals are of a bootstrap over sentences; differences are paired.

Letters: B rows, T frames, M memory frames.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import mmx
from mmx.datasets.recipes.talking_mouths import UNSEEN, WORDS
from mmx.errors import prints_errors
from mmx.evaluate.metrics import Measurement, measure, paired_p
from mmx.extras import import_extra
from mmx.media.audio import read_audio
from mmx.media.source import recordings
from mmx.model import Model
from mmx.models.lips_and_sound import LIPS, SOUND
from mmx.nn.ctc import NAME
from mmx.seq import pad
from mmx.tasks.ctc_lexicon import Lexicon
from mmx.tasks.ctc_recognizer import Path as Found
from mmx.tasks.ctc_recognizer import best_paths
from mmx.train.augment import with_noise
from mmx.train.manifest import Example, read_manifest
from mmx.train.reading import read_recording

LADDER = (None, 10.0, 5.0, 0.0, -5.0)
"""Ratios in dB; None is clean."""
BATCH = 50
RESAMPLES = 1000
FREE, CLOSED = "free", "closed vocabulary"
Change = Callable[[Tensor], Tensor]
Rows = Sequence[Mapping[str, Tensor]]


def noisy(samples_N: Tensor, noises: Sequence[Tensor], snr_db: float | None, key: str) -> Tensor:
    """Sound with a stretch of one of the noises, both drawn by the key."""
    if snr_db is None:
        return samples_N
    rng = random.Random(key)
    noise_N = rng.choice(noises)
    start = rng.randrange(len(noise_N))
    return with_noise(samples_N, noise_N[(start + torch.arange(len(samples_N))) % len(noise_N)], snr_db)


class Condition(NamedTuple):
    """What a model is given.

    Attributes:
        names: modalities.
        snr_db: of the sound; clean when None.
        change: of the pictures `(T, H, W)`.
        shift: how many clips further the lips are of.
    """

    names: Sequence[str]
    snr_db: float | None = None
    change: Change | None = None
    shift: int = 0


class Clips:
    """The recordings of a manifest, and what becomes of them under a condition.

    Args:
        model: of the family `lips_and_sound`.
        examples: of the manifest.
        noises: that are mixed in.
    """

    def __init__(self, model: Model, examples: Sequence[Example], noises: Sequence[Tensor]):
        inputs = {n: i for n, i in model.inputs.items() if i.medium in examples[0].media}
        self.examples, self.noises = examples, noises
        self.clips = [read_recording(e, inputs) for e in examples]
        self.names = set(inputs)

    def rows(self, how: Condition) -> list[dict[str, Tensor]]:
        """Each clip by modality."""
        return [self._clip(i, how) for i in range(len(self.clips))]

    def _clip(self, i: int, how: Condition) -> dict[str, Tensor]:
        out = {}
        if SOUND in how.names:
            key = f"{how.snr_db}/{self.examples[i].id}"
            out[SOUND] = noisy(self.clips[i][SOUND], self.noises, how.snr_db, key)
        if LIPS in how.names:
            lips = self.clips[(i + how.shift) % len(self.clips)][LIPS]
            out[LIPS] = lips if how.change is None else how.change(lips)
        return out


class Reader:
    """What a model writes.

    Args:
        model: of the family `lips_and_sound`.
        words: that alone may be written where the vocabulary is closed.
    """

    def __init__(self, model: Model, words: Sequence[str]):
        self.model, self.tok = model, model.require_tokenizer()
        (space,) = self.tok.encode(" ")
        self.lexicons = {FREE: None, CLOSED: Lexicon(map(self.tok.encode, words), space)}

    @torch.inference_mode()
    def paths(self, rows: Rows) -> Iterator[tuple[str, list[Found]]]:
        """By way of decoding, the paths of some of the rows, in order."""
        for at in range(0, len(rows), BATCH):
            part = rows[at : at + BATCH]
            clip = {n: pad([r[n] for r in part], self.model.inputs[n].rate) for n in part[0]}
            memory = self.model.memory(clip)
            told = torch.full((len(part),), self.tok.language_ids[self.tok.language("en")])
            scores = self.model.heads[NAME](memory.masked, told).float()
            scores[..., [*self.tok.control_ids, self.tok.eot]] = -torch.inf
            scores = scores.log_softmax(-1)
            for name, lexicon in self.lexicons.items():
                yield name, best_paths(scores, memory.lengths, scores.shape[-1] - 1, lexicon)

    def __call__(self, rows: Rows) -> dict[str, list[str]]:
        """By way of decoding, the text of each row."""
        out: dict[str, list[str]] = {name: [] for name in self.lexicons}
        for name, paths in self.paths(rows):
            out[name] += [self.text(path.tokens) for path in paths]
        return out

    def text(self, tokens: Sequence[int]) -> str:
        """Words with one space between them."""
        return " ".join(self.tok.decode(tokens).split())


def still(pictures: Tensor) -> Tensor:
    """The first picture all the time."""
    return pictures[:1].expand_as(pictures)


def late(pictures: Tensor) -> Tensor:
    """200 ms later than the sound."""
    return torch.cat([pictures[:1].expand(5, -1, -1), pictures])[: len(pictures)]


def conditions(have: set[str]) -> dict[str, Condition]:
    """Those that the clips' modalities allow, by name."""
    both, out = (LIPS, SOUND), dict[str, Condition]()
    if LIPS in have:
        out["lips"] = Condition((LIPS,))
        out["lips, face still"] = Condition((LIPS,), change=still)
        out["lips of another clip"] = Condition((LIPS,), shift=7)
    for snr_db in LADDER:
        at = "clean" if snr_db is None else f"{snr_db:g} dB"
        if SOUND in have:
            out[f"sound, {at}"] = Condition((SOUND,), snr_db)
        if have.issuperset(both):
            out[f"both, {at}"] = Condition(both, snr_db)
    if have.issuperset(both):
        out["both, 0 dB, face still"] = Condition(both, 0.0, still)
        out["both, 0 dB, lips of another clip"] = Condition(both, 0.0, shift=7)
        out["both, clean, lips 200 ms late"] = Condition(both, None, late)
        out["both, clean, no face"] = Condition(both, None, torch.zeros_like)
    return out


def measured(reader: Reader, clips: Clips) -> dict[str, dict[str, Measurement]]:
    """Word errors by way of decoding and condition."""
    said = [e.target for e in clips.examples]
    out: dict[str, dict[str, Measurement]] = {name: {} for name in reader.lexicons}
    for condition, how in conditions(clips.names).items():
        for name, texts in reader(clips.rows(how)).items():
            out[name][condition] = measure("wer", texts, said, normalize="basic", bootstrap=RESAMPLES)
    return out


# -------------------- lost in mid-stream


AFTER_S = 1.0
"""After a modality has come back, from when on words are judged."""
LABEL_HZ = 50.0


def recovered(reader: Reader, clips: Clips, snr_db: float = 0.0) -> dict[str, dict[str, Measurement]]:
    """Word errors of the last of three clips in a row, from `AFTER_S` on, by way of decoding and what was lost.

    "nothing": both are there all the time, the sound in babble. "face", "sound": black pictures, or silence, throughout
    the second clip.
    """
    rows = clips.rows(Condition((LIPS, SOUND), snr_db))
    triples = [range(i, i + 3) for i in range(0, len(rows) - 2, 3)]
    said = [later_words(clips.examples[k], AFTER_S) for *_, k in triples]
    kept = [i for i, text in enumerate(said) if text]
    out: dict[str, dict[str, Measurement]] = {name: {} for name in reader.lexicons}
    for lost in ("nothing", "face", "sound"):
        long = [joined([rows[i] for i in triples[t]], {"face": LIPS, "sound": SOUND}.get(lost)) for t in kept]
        begins = [sum(len(rows[i][LIPS]) for i in triples[t][:2]) * 2 + round(AFTER_S * LABEL_HZ) for t in kept]
        texts: dict[str, list[str]] = {name: [] for name in reader.lexicons}
        for name, paths in reader.paths(long):
            for path in paths:
                begin = begins[len(texts[name])]
                whole = reader.tok.decode(path.tokens)
                first = sum(frame < begin for frame in path.frames)
                texts[name].append(reader.text(path.tokens[_word_start(whole, first) :]))
        for name, found in texts.items():
            out[name][lost] = measure("wer", found, [said[t] for t in kept], normalize="basic", bootstrap=RESAMPLES)
    return out


def joined(rows: Rows, lost: str | None) -> dict[str, Tensor]:
    """Clips one after the other; of the second a modality is all zeros."""
    return {
        n: torch.cat([row[n] * 0 if n == lost and i == 1 else row[n] for i, row in enumerate(rows)]) for n in rows[0]
    }


def _word_start(text: str, at: int) -> int:
    """Where the first word that begins at a character or later does begin; texts here are of one byte a character."""
    while 0 < at < len(text) and text[at - 1] != " ":
        at += 1
    return at


def later_words(example: Example, after_s: float) -> str:
    """The words of a clip that begin after a time, by the labels of its frames."""
    labels = np.load(example.makes["features"])[:, 0].astype(int)
    begins = {u: m for m, u in reversed(list(enumerate(labels.tolist()))) if u >= 0}
    later = [u for u, m in begins.items() if m >= after_s * LABEL_HZ]
    text = example.target
    return text[_word_start(text, min(later)) :] if later else ""


# -------------------- what is told


def table(found: Mapping[str, Mapping[str, Measurement]]) -> list[str]:
    """A row for each condition, a column for each way of decoding."""
    out = [" | ".join(["%-34s" % "", *(f"{way:>22}" for way in found)])]  # noqa: UP031
    for name in next(iter(found.values())):
        cells = [f"{m.value:6.1f} ({low:5.1f} to {high:5.1f})" for m in (f[name] for f in found.values())
                 for low, high in [m.interval or (m.value, m.value)]]  # fmt: skip
        out.append(" | ".join([f"{name:34}", *cells]))
    return out


def comparisons(found: Mapping[str, Measurement]) -> list[str]:
    """Whether both are better than either, at each rung."""
    out = []
    for name in [n for n in found if n.startswith("both, ") and n.count(",") == 1]:
        at = name.partition(", ")[2]
        for other in (f"sound, {at}", "lips"):
            if other in found:
                difference, ratio = found[name].value - found[other].value, found[name].value / found[other].value
                p = paired_p(found[name], found[other])
                out.append(f"{name} against {other}: {difference:+.1f}, {ratio:.2f} times, p = {p:.3f}")
    return out


def plot(found: Mapping[str, Mapping[str, Measurement]], floor: float, path: Path) -> None:
    """Word errors over noise, a picture for each way of decoding (extra `plot`)."""
    figure = import_extra("matplotlib.figure", "plot").Figure(figsize=(9, 4), layout="constrained")
    rungs = ["clean" if snr_db is None else f"{snr_db:g} dB" for snr_db in LADDER]
    for axes, (way, by_name) in zip(figure.subplots(1, len(found), sharey=True), found.items(), strict=True):
        lips = by_name["lips"]
        for label, names in (("sound", [f"sound, {r}" for r in rungs]), ("lips", ["lips"] * len(rungs)),
                             ("both", [f"both, {r}" for r in rungs])):  # fmt: skip
            values = [by_name[n].value for n in names]
            spans = [by_name[n].interval or (by_name[n].value,) * 2 for n in names]
            errors = [[v - low for v, (low, _) in zip(values, spans, strict=True)],
                      [high - v for v, (_, high) in zip(values, spans, strict=True)]]  # fmt: skip
            axes.errorbar(range(len(rungs)), values, errors, label=label, marker="o", capsize=3)
        axes.axhline(100 * floor, color="grey", linestyle=":", label="homophene floor of lips")
        axes.set_xticks(range(len(rungs)), rungs)
        axes.set(title=way, xlabel="babble", ylim=(0, max(105.0, lips.value)))
    figure.axes[0].set_ylabel("word errors in %")
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)


@prints_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default="lips-and-sound")
    parser.add_argument("--split", default="test", help="test, or unseen: words that no training clip has")
    parser.add_argument("--limit", type=int, default=0, help="clips; all when 0")
    parser.add_argument("--plot", type=Path, help="where a picture of the ladder is written (png, svg)")
    a = parser.parse_args(arguments)
    examples = read_manifest(a.corpus / f"{a.split}.tsv")[: a.limit or None]
    noises = [torch.from_numpy(read_audio(f)) for f in recordings(a.corpus / "noise" / "test") if "babble" in str(f)]
    words = sorted({*WORDS.split(), *(UNSEEN.split() if a.split == "unseen" else ())})
    model = mmx.load(a.model, dtype="float32")
    reader, clips = Reader(model, words), Clips(model, examples, noises)
    floor = json.loads((a.corpus / "floor.json").read_text("utf-8"))["words" if a.split == "test" else "unseen"]
    print(f"{len(examples)} clips; homophene floor {100 * floor:.1f} %; word errors in %, 95 % intervals")
    found = measured(reader, clips)
    print("\n".join(table(found)), flush=True)
    for way, by_name in found.items():
        print("\n".join([f"{way}:", *comparisons(by_name)]))
    if a.plot and clips.names == {LIPS, SOUND}:
        plot(found, floor, a.plot)
    if clips.names == {LIPS, SOUND} and len(examples) >= 3:
        print(f"0 dB, three clips in a row, words from {AFTER_S:g} s into the third; of the second was lost:")
        print("\n".join(table(recovered(reader, clips))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
