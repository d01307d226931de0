"""Word errors of lips, sound and both over a ladder of noise: `python -m mmx.experiments.lips CORPUS --model NAME`.

CORPUS is what `mmx.experiments.talking_mouths` wrote. Words are those of the best CTC path, without a language model.
Noise is the babble of test voices. Controls: a face that stands still, the lips of another clip, and a face that is
lost after half of the clip. Intervals are of a bootstrap over sentences; differences are paired.

Letters: B rows.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

import mmx
from mmx.errors import MmxError
from mmx.evaluate.metrics import Measurement, measure, paired_p
from mmx.media.audio import read_audio
from mmx.media.source import recordings
from mmx.model import Model
from mmx.models.lips_and_sound import LIPS, SOUND
from mmx.nn.ctc import NAME
from mmx.seq import pad
from mmx.tasks.ctc_recognizer import best_paths
from mmx.train.augment import with_noise
from mmx.train.manifest import Example, read_manifest
from mmx.train.reading import read_recording

LADDER = (None, 10.0, 5.0, 0.0, -5.0)
"""Ratios in dB; None is clean."""
BATCH = 50
RESAMPLES = 1000
Change = Callable[[Tensor], Tensor]


def noisy(samples_N: Tensor, noises: Sequence[Tensor], snr_db: float | None, key: str) -> Tensor:
    """Sound with a stretch of one of the noises, both drawn by the key."""
    if snr_db is None:
        return samples_N
    rng = random.Random(key)
    noise_N = rng.choice(noises)
    start = rng.randrange(len(noise_N))
    return with_noise(samples_N, noise_N[(start + torch.arange(len(samples_N))) % len(noise_N)], snr_db)


class Texts:
    """What a model writes of the clips of a manifest.

    Args:
        model: of the family `lips_and_sound`.
        examples: of the manifest.
        noises: that are mixed in.
    """

    def __init__(self, model: Model, examples: Sequence[Example], noises: Sequence[Tensor]):
        self.model, self.examples, self.noises = model, examples, noises
        self.tok = model.require_tokenizer()
        inputs = {n: i for n, i in model.inputs.items() if i.medium in examples[0].media}
        self.clips = [read_recording(e, inputs) for e in examples]

    @torch.inference_mode()
    def __call__(
        self, names: Sequence[str], snr_db: float | None = None, change: Change | None = None, shift: int = 0
    ) -> list[str]:
        """The text of each clip.

        Args:
            names: modalities that the model is given.
            snr_db: of the sound; clean when None.
            change: of the pictures `(T, H, W)`.
            shift: how many clips further the lips are of.
        """
        out: list[str] = []
        for at in range(0, len(self.clips), BATCH):
            rows = [self._clip(i, names, snr_db, change, shift) for i in range(at, min(at + BATCH, len(self.clips)))]
            memory = self.model.memory({n: pad([r[n] for r in rows], self.model.inputs[n].rate) for n in names})
            scores = self.model.heads[NAME](memory.masked, self._told(len(rows))).float()
            scores[..., [*self.tok.control_ids, self.tok.eot]] = -torch.inf
            paths = best_paths(scores.log_softmax(-1), memory.lengths, scores.shape[-1] - 1)
            out += [" ".join(self.tok.decode(path.tokens).split()) for path in paths]
        return out

    def _told(self, n_rows: int) -> Tensor:
        return torch.full((n_rows,), self.tok.language_ids[self.tok.language("en")])

    def _clip(
        self, i: int, names: Sequence[str], snr_db: float | None, change: Change | None, shift: int
    ) -> dict[str, Tensor]:
        out = {}
        if SOUND in names:
            out[SOUND] = noisy(self.clips[i][SOUND], self.noises, snr_db, f"{snr_db}/{self.examples[i].id}")
        if LIPS in names:
            lips = self.clips[(i + shift) % len(self.clips)][LIPS]
            out[LIPS] = lips if change is None else change(lips)
        return out


def still(pictures: Tensor) -> Tensor:
    """The first picture all the time."""
    return pictures[:1].expand_as(pictures)


def lost_after_half(pictures: Tensor) -> Tensor:
    """Black from the middle on."""
    out = pictures.clone()
    out[len(out) // 2 :] = 0
    return out


def measured(texts: Texts) -> dict[str, Measurement]:
    """Word errors of each condition that the clips allow, by name."""
    have, both = set(texts.clips[0]), (LIPS, SOUND)
    wanted: dict[str, tuple[Sequence[str], float | None, Change | None, int]] = {}
    if LIPS in have:
        wanted["lips"] = ((LIPS,), None, None, 0)
        wanted["lips, face still"] = ((LIPS,), None, still, 0)
        wanted["lips of another clip"] = ((LIPS,), None, None, 7)
    for snr_db in LADDER:
        at = "clean" if snr_db is None else f"{snr_db:g} dB"
        if SOUND in have:
            wanted[f"sound, {at}"] = ((SOUND,), snr_db, None, 0)
        if have.issuperset(both):
            wanted[f"both, {at}"] = (both, snr_db, None, 0)
    if have.issuperset(both):
        wanted["both, 0 dB, face still"] = (both, 0.0, still, 0)
        wanted["both, 0 dB, face lost after half"] = (both, 0.0, lost_after_half, 0)
        wanted["both, clean, no face"] = (both, None, torch.zeros_like, 0)
    said = [e.target for e in texts.examples]
    return {
        name: measure("wer", texts(*how), said, normalize="basic", bootstrap=RESAMPLES) for name, how in wanted.items()
    }


def lines(found: Mapping[str, Measurement]) -> list[str]:
    """A table, and whether both are better than either at each rung."""
    out = [
        f"{name:34} {m.value:5.1f}  {m.interval[0]:5.1f} to {m.interval[1]:5.1f}"
        for name, m in found.items()
        if m.interval
    ]
    for name in [n for n in found if n.startswith("both, ") and n.count(",") == 1]:
        at = name.partition(", ")[2]
        for other in (f"sound, {at}", "lips"):
            if other in found:
                difference = found[name].value - found[other].value
                out.append(f"{name} against {other}: {difference:+.1f}, p = {paired_p(found[name], found[other]):.3f}")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--model", default="lips-and-sound")
    parser.add_argument("--split", default="test", help="test, or unseen: words that no training clip has")
    parser.add_argument("--limit", type=int, default=0, help="clips; all when 0")
    a = parser.parse_args(arguments)
    try:
        examples = read_manifest(a.corpus / f"{a.split}.tsv")
        examples = examples[: a.limit or None]
        noises = [
            torch.from_numpy(read_audio(f)) for f in recordings(a.corpus / "noise" / "test") if "babble" in str(f)
        ]
        texts = Texts(mmx.load(a.model, dtype="float32"), examples, noises)
        floor = json.loads((a.corpus / "floor.json").read_text("utf-8"))["words" if a.split == "test" else "unseen"]
        print(f"{len(examples)} clips; homophene floor {100 * floor:.1f} %; word errors in %, 95 % intervals")
        print("\n".join(lines(measured(texts))))
    except MmxError as e:
        print(e, file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
