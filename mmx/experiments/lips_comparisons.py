"""One modality or both in one set of weights, mixup and its curricula, and timing alone: small models from nothing.

    python -m mmx.experiments.lips_comparisons OUT --seeds 0,1,2

Synthetic talking mouths (`mmx.experiments.talking_mouths`) of 32 words with minimal pairs, and narrow models of the
family `lips_and_sound`, so that a run takes a minute or two of one core. Each arm gets the same updates of the same
size from random weights, and is trained with each seed; "lips, longer" gets as much work as mixup, whose update costs
more. Two are controls, which see a bar in the place of the mouth, 25 times a second: in "timing" it is white while
somebody speaks, in "loudness" as high as the sound is loud. `--words all` takes all 359 words. What is finished is not
run again.

700 updates are early: lips alone are still far from their floor then. `--updates` gives more, in folders of their own.

Words are read from the closed vocabulary. A difference is the mean over seeds, its p of the paired bootstrap over
sentences, in which the seeds are resampled together; it counts where p < 0.05 and it is more than twice the larger
standard deviation of the two arms' seeds.

Letters: T frames, H height, W width.
"""

import argparse
import csv
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import mmx
from mmx.datasets.recipes.talking_mouths import RATE, SIZE, WORDS
from mmx.errors import prints_errors
from mmx.evaluate.metrics import Measurement, measure, paired_p
from mmx.experiments import talking_mouths
from mmx.experiments.lips import CLOSED, RESAMPLES, Clips, Condition, Reader
from mmx.files import atomic_write
from mmx.media.audio import read_audio
from mmx.media.source import recordings
from mmx.media.sync import QUIETEST_DB, loudness
from mmx.models.lips_and_sound import LIPS, SOUND
from mmx.train.loop import train
from mmx.train.manifest import read_manifest
from mmx.train.options import TrainOptions

SOME = [word for i, word in enumerate(WORDS.split()) if i // 4 % 12 == 0]
"""Every twelfth four of the words, which stand by their likeness."""
SPLITS = ("train", "valid", "test")
SIGNIFICANT = 0.05
FULLER = 1.3
"""Size of a batch of both modalities, in which there are as many clips as in one of either."""
SPEAKING_DB = -40.0
"""Sound that is louder is speech, as is what is between less than `PAUSE` pictures apart."""
PAUSE = 5
CHANCE_SHARE = 0.9
"""Of the errors of chance that a control has to have."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How large all of it is.

    Attributes:
        words: of training and tests.
        clips: of each split.
        noises: recordings of each kind of noise.
        updates: of an arm.
        longer: times as many for "lips, longer": what an update with mixup costs, in updates of lips alone.
        batch_tokens: as in a recipe, where one modality is read.
        passes: through the data until the warm start by frames is over, and the linear curriculum at 0.
        config: numbers of the models.
    """

    words: Sequence[str] = tuple(SOME)
    clips: Mapping[str, int] = field(default_factory=lambda: {"train": 1000, "valid": 30, "test": 250})
    noises: Mapping[str, int] = field(default_factory=lambda: {"babble": 12, "music": 4, "white": 1})
    updates: int = 700
    longer: float = 1.7
    batch_tokens: int = 2000
    passes: int = 6
    config: Mapping[str, Any] = field(
        default_factory=lambda: {
            "pixels": 32, "crop": 28, "channels": [8, 16, 24], "width": 64, "layers": 2, "hidden": 128, "left": 16,
        }
    )  # fmt: skip


class Arm(NamedTuple):
    """What a model is trained on.

    Attributes:
        reads: columns of the manifest.
        curriculum: of mixup; none when empty.
        longer: whether it gets `Setting.longer` times the updates.
    """

    reads: Sequence[str]
    curriculum: str = ""
    longer: bool = False


TIMING, LOUDNESS = "timing", "loudness"
ARMS: Mapping[str, Arm] = {
    "sound": Arm(("audio",)),
    "lips": Arm(("video",)),
    "shared": Arm(("audio", "video")),
    TIMING: Arm((TIMING,)),
    LOUDNESS: Arm((LOUDNESS,)),
    "mixup, constant": Arm(("audio", "video"), "constant"),
    "mixup, linear": Arm(("audio", "video"), "linear"),
    "mixup, loss": Arm(("audio", "video"), "loss"),
    "mixup, uncertainty": Arm(("audio", "video"), "uncertainty"),
    "lips, longer": Arm(("video",), longer=True),
}
CONDITIONS: Mapping[str, Condition] = {
    "lips": Condition((LIPS,)),
    "sound, clean": Condition((SOUND,)),
    "sound, 10 dB": Condition((SOUND,), 10.0),
    "sound, 0 dB": Condition((SOUND,), 0.0),
    "both, clean": Condition((LIPS, SOUND)),
    "both, 10 dB": Condition((LIPS, SOUND), 10.0),
    "both, 0 dB": Condition((LIPS, SOUND), 0.0),
}
COMPARED = (
    ("shared", "sound"),
    ("shared", "lips"),
    *((name, other) for name, arm in ARMS.items() if arm.curriculum for other in ("lips", "lips, longer")),
    *((name, "mixup, constant") for name, arm in ARMS.items() if arm.curriculum not in ("", "constant")),
)
"""Which arms are compared, in the conditions that both have."""


# -------------------- corpus


def prepare(corpus: Path, setting: Setting) -> None:
    """The corpus with a manifest for each choice of media, unless it is there."""
    if (corpus / f"{SPLITS[-1]}_{LOUDNESS}.tsv").is_file():  # which is written last
        return
    talking_mouths.prepare(corpus, setting.clips, words=setting.words, noises=setting.noises)
    for split in SPLITS:
        with (corpus / f"{split}.tsv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        for name in CONTROLS:
            (corpus / name / split).mkdir(parents=True, exist_ok=True)
        for row in rows:
            frames = round(float(row["duration_s"]) * RATE)
            loudness_T = loudness(corpus / row["audio"], RATE)[:frames]
            for name, shown in CONTROLS.items():
                row[name] = f"{name}/{split}/{row['id']}.mkv"
                talking_mouths.write_pictures(corpus / row[name], bars_of(shown(loudness_T)))
        for reads in dict.fromkeys(arm.reads for arm in ARMS.values() if not arm.curriculum):
            _write_manifest(corpus / f"{split}_{'_'.join(reads)}.tsv", rows, reads)


def _write_manifest(path: Path, rows: Sequence[Mapping[str, str]], reads: Sequence[str]) -> None:
    """The rows with some of their media; what stands for the mouth is a video."""
    kept = ["id", *reads, "target_features", "duration_s", "text", "src_lang", "tgt_lang"]
    header = ["video" if name in CONTROLS else name for name in kept]
    atomic_write(path, "".join("\t".join(cells) + "\n" for cells in [header, *([r[k] for k in kept] for r in rows)]))


def speaking(loudness_T: NDArray[Any]) -> NDArray[Any]:
    """0 dB where somebody speaks, and `QUIETEST_DB` elsewhere."""
    loud_T = np.pad(loudness_T > SPEAKING_DB, PAUSE)
    near_T = sliding_window_view(loud_T, PAUSE).any(-1)  # a short pause is closed, and the ends are as they were
    closed_T = np.asarray(sliding_window_view(near_T, PAUSE).all(-1))
    return np.where(closed_T[1 : len(loudness_T) + 1], 0.0, QUIETEST_DB)


CONTROLS = {TIMING: speaking, LOUDNESS: np.asarray}
"""What is made of the loudness of a clip, in dB."""


def bars_of(loudness_T: NDArray[Any]) -> NDArray[np.uint8]:
    """Pictures `(T, H, W)` of a bar in the middle, as high as the sound is loud; black where it is silent."""
    high_T = np.rint((1 - loudness_T / QUIETEST_DB).clip(0, 1) * SIZE).astype(int)
    out = np.zeros((len(loudness_T), SIZE, SIZE), np.uint8)
    out[:, :, SIZE // 4 : 3 * SIZE // 4] = np.where(np.arange(SIZE)[::-1] < high_T[:, None], 255, 0)[:, :, None]
    return out


# -------------------- a run


def options(corpus: Path, out: Path, arm: Arm, setting: Setting, seed: int) -> TrainOptions:
    """How an arm is trained."""
    updates = round(setting.updates * (setting.longer if arm.longer else 1))
    kept = {"only_lips": 0.3, "only_sound": 0.3} if arm.reads == ("audio", "video") else {}
    objective, told = "framewise", {"frames": 5.0, "passes": setting.passes}
    if arm.curriculum:
        objective, told = "mixup", {**told, "curriculum": arm.curriculum}
        kept = {"only_lips": 0.0, "only_sound": 0.0, "gaps": 0.0}  # the mixture is what a row loses
    noisy = "audio" in arm.reads and not arm.curriculum  # what teaches the lips is clear
    noise = {"noise": str(corpus / "noise" / "train"), "noise_snr_db": [-5.0, 15.0], "noise_share": 0.5}
    name = "_".join(arm.reads)
    return TrainOptions(
        train=str(corpus / f"train_{name}.tsv"), valid=str(corpus / f"valid_{name}.tsv"),
        out=str(out), family="lips_and_sound", tokenizer="bytes", config={**setting.config, **kept},
        objective=objective, objective_config=told, group_by=("src_lang",), updates=updates, lr=3e-3,
        warmup=min(30, updates), schedule="cosine", dropout=0.0, bf16=True, threads=1, seed=seed,
        batch_tokens=round(setting.batch_tokens * (FULLER if len(arm.reads) == 2 else 1)), keep_gb=2.0, log_every=50,
        valid_every=updates, save_every=100, keep_best=1, **(noise if noisy else {}),
    )  # fmt: skip


def run(out: Path, name: str, seed: int, setting: Setting) -> dict[str, Any]:
    """Train an arm with a seed and have it read the test's clips: seconds of CPU, and texts by condition.

    What is finished is read from its file.
    """
    folder = out / f"runs-{setting.updates}" / name.replace(", ", "-") / str(seed)
    if (folder / "read.json").is_file():
        return json.loads((folder / "read.json").read_text("utf-8"))
    arm, begin_s = ARMS[name], time.process_time()
    model = mmx.load(train(options(out / "corpus", folder, arm, setting, seed)), dtype="float32")
    spent_s = time.process_time() - begin_s
    examples = read_manifest(out / "corpus" / f"test_{'_'.join(arm.reads)}.tsv")
    noise = out / "corpus" / "noise" / "test"
    noises = [torch.from_numpy(read_audio(f)) for f in recordings(noise) if "babble" in str(f)]
    clips, reader = Clips(model, examples, noises), Reader(model, setting.words)
    names = {LIPS} if arm.curriculum else clips.names
    hows = {c: how for c, how in CONDITIONS.items() if names.issuperset(how.names)}
    found = {"seconds": spent_s, "texts": {c: reader(clips.rows(how))[CLOSED] for c, how in hows.items()}}
    atomic_write(folder / "read.json", json.dumps(found))
    return found


# -------------------- what is told


def mean_of(found: Sequence[Measurement]) -> Measurement:
    """The mean over seeds; resamples of the same sentences belong together, so that theirs is the mean's."""
    samples = np.mean([m.samples for m in found], axis=0)
    return replace(found[0], value=statistics.fmean(m.value for m in found), samples=samples)


def spread(found: Sequence[Measurement]) -> float:
    """Standard deviation over seeds; not a number of one."""
    return statistics.stdev(m.value for m in found) if len(found) > 1 else float("nan")


def chance(said: Sequence[str]) -> float:
    """Word errors of who knows how many words there are and nothing else: the texts of the next clips of as many."""
    by_count: dict[int, list[int]] = {}
    for i, text in enumerate(said):
        by_count.setdefault(len(text.split()), []).append(i)
    other = {i: said[j] for rows in by_count.values() for i, j in zip(rows, rows[1:] + rows[:1], strict=True)}
    return measure("wer", [other[i] for i in range(len(said))], said, normalize="basic").value


Scores = Mapping[str, Mapping[str, Sequence[Measurement]]]
"""By arm and condition, a measurement for each seed."""


def scored(runs: Mapping[str, Sequence[Mapping[str, Any]]], said: Sequence[str]) -> Scores:
    """Word errors of the runs of each arm."""

    def wer(texts: Sequence[str]) -> Measurement:
        return measure("wer", texts, said, normalize="basic", bootstrap=RESAMPLES)

    return {arm: {c: [wer(one["texts"][c]) for one in found] for c in found[0]["texts"]} for arm, found in runs.items()}


def table(scores: Scores, seconds: Mapping[str, float]) -> Iterator[str]:
    """A row for each arm and condition."""
    yield "| arm | reads | word errors in % | spread of the seeds | CPU s a run |"
    yield "|---|---|--:|--:|--:|"
    for arm, by_condition in scores.items():
        for condition, found in by_condition.items():
            mean = mean_of(found)
            low, high = mean.interval or (mean.value, mean.value)
            cells = f"{mean.value:.1f} ({low:.1f} to {high:.1f}) | {spread(found):.1f} | {seconds[arm]:.0f}"
            yield f"| {arm} | {condition} | {cells} |"


def comparisons(scores: Scores) -> Iterator[str]:
    """A row for each comparison."""
    yield "| arms | reads | difference | p | twice the spread | counts |"
    yield "|---|---|--:|--:|--:|---|"
    for one, other in COMPARED:
        for condition in [c for c in scores.get(one, {}) if c in scores.get(other, {})]:
            a, b = scores[one][condition], scores[other][condition]
            difference, p = mean_of(a).value - mean_of(b).value, paired_p(mean_of(a), mean_of(b))
            twice = 2 * max(spread(a), spread(b))
            counts = "yes" if p < SIGNIFICANT and abs(difference) > twice else "no"
            yield f"| {one} against {other} | {condition} | {difference:+.1f} | {p:.3f} | {twice:.1f} | {counts} |"


@prints_errors
def main(arguments: Sequence[str] | None = None, setting: Setting | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--updates", type=int, default=Setting().updates, help="of each arm")
    parser.add_argument("--words", default="some", choices=("some", "all"), help="32 or 359: another OUT for each")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), help="all by default")
    a = parser.parse_args(arguments)
    setting = setting or Setting(updates=a.updates, words=SOME if a.words == "some" else WORDS.split())
    prepare(a.out / "corpus", setting)
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in a.arms}
    for seed in map(int, a.seeds.split(",")):
        for arm in a.arms:
            runs[arm].append(run(a.out, arm, seed, setting))
    said = [e.target for e in read_manifest(a.out / "corpus" / "test.tsv")]
    scores = scored(runs, said)
    seconds = {arm: statistics.fmean(one["seconds"] for one in found) for arm, found in runs.items()}
    floor = json.loads((a.out / "corpus" / "floor.json").read_text("utf-8"))["words"]
    by_chance = chance(said)
    print(f"{len(said)} clips, seeds {a.seeds}; floor of lips {100 * floor:.1f} %, chance {by_chance:.1f} %")
    print("\n".join(table(scores, seconds)))
    print("\n".join(comparisons(scores)))
    for name in [n for n in CONTROLS if n in scores]:
        share = mean_of(scores[name]["lips"]).value / by_chance
        verdict = "no more than that" if share >= CHANCE_SHARE else "it leaks"
        print(f"{name} alone has {100 * share:.0f} % of the errors of chance: {verdict}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
