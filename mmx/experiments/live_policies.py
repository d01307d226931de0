"""Every live policy on short clips of six kinds, each in three voices: quality, lag, CPU, and what goes wrong.

    python -m mmx.experiments.live_policies --out rows

The clips are made here from sentences, by flite's or espeak-ng's voices, so that their text and their times are known
and anybody can make them again. Recordings of one's own, with their text beside them, join as kinds of their own. Each
row is kept in a file as it is done: a run that was broken off goes on, and the table is made of all rows that are
there. CPU seconds are those of this process, whatever else the machine does.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.evaluate import metrics
from mmx.evaluate.latency import Sentence
from mmx.evaluate.streaming import Recording, measure, read_recordings, word_errors
from mmx.experiments.numbers import markdown
from mmx.files import atomic_write
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.media.audio import read_audio
from mmx.model import Model
from mmx.streaming.policies import POLICIES
from mmx.streaming.stream import Stream

Turn = tuple[str, float]
"""A sentence and the seconds of pause after it."""

KINDS: Mapping[str, Sequence[Turn]] = {
    "prose": (
        ("The harbour lay quiet under a pale sky, and only the gulls were awake.", 0.4),
        ("An old man walked slowly along the wall, with a basket under his arm.", 0.5),
        ("He had been a sailor once, and he knew the name of every boat.", 1.0),
    ),
    "dialogue": (
        ("Are you coming with us tomorrow?", 0.3), ("I am not sure yet.", 0.3), ("Why not?", 0.3),
        ("My sister is visiting.", 0.3), ("Bring her along.", 0.3), ("That is a good idea.", 0.3),
        ("We leave at noon.", 0.3), ("Then I will see you there.", 1.0),
    ),
    "repeats": (
        ("Come in.", 0.6), ("Come in.", 0.6), ("The door is open.", 0.7), ("Please sit down.", 0.6),
        ("The door is open.", 0.6), ("The door is open.", 0.6), ("Thank you.", 0.6), ("Thank you.", 1.0),
    ),
    "pauses": (
        ("The meeting begins at the town hall.", 3.0), ("Nobody has arrived.", 5.0),
        ("Perhaps they lost their way in the rain.", 2.0), ("We should wait a little longer.", 4.0),
    ),
    "numbers": (
        ("The parcel weighs 17 pounds.", 0.6), ("There were 342 people in the room.", 0.6),
        ("She paid 25 dollars for 6 tickets.", 0.6), ("The bridge was built in 1894.", 0.6),
        ("Call extension 4 0 9.", 1.0),
    ),
    "quiet": (
        ("Good morning.", 0.7), ("I have a question.", 0.6), ("Can you hear me now?", 0.8),
        ("Can you hear me now?", 0.6), ("It is about the garden.", 0.6), ("Good night.", 1.0),
    ),
}  # fmt: skip
"""What is said in each kind of clip. The turns of the dialogue change between two voices."""

QUIET = 0.02  # amplitude of the quiet clips, of the others'
LEAD_S = 0.4  # before the first sentence
FLOOR = 3e-5  # noise of the room, of full scale

FLITE, ESPEAK = ("slt", "rms", "awb"), ("en-us", "en-gb-scotland", "en-gb-x-gbclan+f3")


@dataclass(frozen=True)
class Row:
    """What was measured of one policy on one clip; see `mmx.evaluate.streaming.Figures`.

    Attributes:
        said_again: sentences that stand in the text more often than they were said.
        empty_words: words of length 0.
    """

    policy: str
    kind: str
    voice: str
    wer: float
    laal_s: float
    lag_s: float
    cpu_s: float
    audio_s: float
    said_again: int
    empty_words: int
    words: int
    text: str


# -------------------- clips


def voices() -> Sequence[str]:
    """Names of three voices: flite's, which are recorded people, else espeak-ng's.

    Raises:
        InputError: neither program is there.
    """
    if shutil.which("flite"):
        return FLITE
    if shutil.which("espeak-ng"):
        return ESPEAK
    raise InputError("expected the program flite or espeak-ng, got neither: apt install flite")


def say(text: str, voice: str) -> NDArray[np.float32]:
    """`(N,)` samples at 16 kHz of a text, without the silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.wav"
        command = ["flite", "-voice", voice, "-t", text, "-o", str(path)]
        if voice not in FLITE:
            command = ["espeak-ng", "-v", voice, "-w", str(path), text]
        subprocess.run(command, check=True, capture_output=True)
        wave = read_audio(path)
    loud = np.flatnonzero(np.abs(wave) > 0.01 * np.abs(wave).max())
    return wave[loud[0] : loud[-1] + 1]


def clip(kind: str, voice: str) -> Recording:
    """The recording of a kind in a voice, with the times of its sentences."""
    everyone = voices()
    pair = (voice, everyone[(everyone.index(voice) + 1) % len(everyone)])
    parts, sentences, at = [np.zeros(round(LEAD_S * RATE), np.float32)], list[Sentence](), LEAD_S
    for i, (text, pause_s) in enumerate(KINDS[kind]):
        wave = say(text, pair[i % 2] if kind == "dialogue" else voice)
        length_s = len(wave) / RATE
        sentences.append(Sentence(text.split(), at * 1000, (at + length_s) * 1000))
        parts += [wave * (0.3 / np.abs(wave).max()), np.zeros(round(pause_s * RATE), np.float32)]
        at += length_s + pause_s
    samples = np.concatenate(parts) * (QUIET if kind == "quiet" else 1.0)
    noise = np.random.default_rng(0).standard_normal(len(samples)) * FLOOR
    text = " ".join(text for text, _ in KINDS[kind])
    return Recording(f"{kind}-{voice}", (samples + noise).astype(np.float32), text, sentences)


# -------------------- rows


def said_again(reference: Sequence[str], text: str) -> int:
    """How many sentences a text has beyond those that were said, by their words."""
    normal, _ = metrics.normalizer(metrics.installed_normalization(), "en")
    whole = f" {normal(text)} "
    said = [normal(s) for s in reference]
    return sum(max(0, _times(whole, s) - sum(_times(f" {other} ", s) for other in said)) for s in set(said))


def _times(text: str, sentence: str) -> int:
    """Occurrences that do not overlap."""
    return text.replace(" ", "  ").count(f" {sentence.replace(' ', '  ')} ")


def measured(model: Model, policy: str, kind: str, voice: str, recording: Recording, step_s: float) -> Row:
    """One row."""
    made: list[Stream] = []

    def make() -> Stream:
        made.append(Stream(model, policy=policy, language="en", step_s=step_s))
        return made[-1]

    figures = measure(make, [recording], system=policy, step_s=step_s, score=partial(word_errors, language="en"))
    events = [e for e in made[0].events if e.text.strip()]
    said = [" ".join(s.words) for s in recording.sentences]
    return Row(
        policy=policy,
        kind=kind,
        voice=voice,
        wer=figures.score,
        laal_s=figures.latency.get("StreamLAAL", figures.latency.get("LAAL", float("nan"))) / 1000,
        lag_s=float("nan") if figures.lag_s is None else figures.lag_s,
        cpu_s=figures.compute_s,
        audio_s=figures.audio_s,
        said_again=said_again(said, made[0].text),
        empty_words=sum(e.end_s - e.start_s < 0.005 for e in events),
        words=len(events),
        text=made[0].text,
    )


def rows(
    model: Model,
    folder: Path,
    *,
    policies: Sequence[str] = tuple(POLICIES),
    kinds: Sequence[str] = tuple(KINDS),
    speakers: Sequence[str] | None = None,
    recordings: Sequence[Recording] = (),
    step_s: float = 1.0,
) -> list[Row]:
    """Every policy on every clip; what a file in the folder has already is not measured again.

    Args:
        model: hears.
        folder: a JSON file for each row.
        policies: see `mmx.streaming.policies.find_policy`.
        kinds: of `KINDS`.
        speakers: of `voices()`; all when None.
        recordings: further ones, each a kind of its own, with their texts.
        step_s: as in `Stream`.
    """
    unknown = [k for k in kinds if k not in KINDS]
    if unknown:
        raise InputError(f"expected kinds among {', '.join(KINDS)}, got {', '.join(unknown)}")
    everyone = (voices() if speakers is None else speakers) if kinds else ()
    clips = [(k, v, partial(clip, k, v)) for k, v in itertools.product(kinds, everyone)]
    clips += [(Path(r.name).stem, "own", lambda r=r: r) for r in recordings]
    out = []
    for (kind, voice, make), policy in itertools.product(clips, policies):
        path = folder / f"{kind}_{voice}_{policy.replace(':', '-')}_{step_s:g}s.json"
        if not path.is_file():
            found = measured(model, policy, kind, voice, make(), step_s)
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(path, json.dumps(asdict(found), indent=1) + "\n")
            print(f"{path.stem}: {found.wer:.1f} %, {found.cpu_s:.1f} s", flush=True)
        out.append(Row(**json.loads(path.read_text("utf-8"))))
    return out


# -------------------- the tables


def tables(found: Sequence[Row]) -> str:
    """Word errors of each policy and kind with their spread over the voices; then lag, CPU and what went wrong."""
    kinds, policies = (list(dict.fromkeys(getattr(r, name) for r in found)) for name in ("kind", "policy"))
    lines = [["WER %", *kinds, "mean"]]
    for policy in policies:
        mine = [r for r in found if r.policy == policy]
        cells = [_spread([r.wer for r in mine if r.kind == kind]) for kind in kinds]
        lines.append([policy, *cells, f"{fmean(r.wer for r in mine):.1f}"])
    head = ["", "LAAL s", "lag s", "CPU s", "CPU s / s", "said again", "words of length 0"]
    more = [head]
    for policy in policies:
        mine = [r for r in found if r.policy == policy]
        cpu_s, audio_s = sum(r.cpu_s for r in mine), sum(r.audio_s for r in mine)
        empty = f"{sum(r.empty_words for r in mine)} of {sum(r.words for r in mine)}"
        more.append([
            policy, _spread([r.laal_s for r in mine], 2), _spread([r.lag_s for r in mine], 2), f"{cpu_s:.0f}",
            f"{cpu_s / audio_s:.2f}", str(sum(r.said_again for r in mine)), empty,
        ])  # fmt: skip
    return f"{markdown(lines)}\n\n{markdown(more)}"


def _spread(values: Sequence[float], digits: int = 1) -> str:
    """Mean, least and most."""
    if not values:
        return "-"
    return f"{fmean(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    """See `python -m mmx.experiments.live_policies --help`."""
    import mmx

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("recordings", nargs="*", type=Path, help="further recordings, talk.txt or talk.tsv beside each")
    parser.add_argument("--out", type=Path, required=True, help="folder of the rows; those that are there are kept")
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--policies", default=",".join(POLICIES), help="with commas between")
    parser.add_argument("--kinds", default=",".join(KINDS), help="with commas between; empty for none")
    parser.add_argument("--voices", help="with commas between; the three of flite, else of espeak-ng, if none")
    parser.add_argument("--step-s", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    found = rows(
        mmx.load(asked.model, device="cpu"),
        asked.out,
        policies=asked.policies.split(","),
        kinds=[k for k in asked.kinds.split(",") if k],
        speakers=asked.voices.split(",") if asked.voices else None,
        recordings=read_recordings(asked.recordings) if asked.recordings else (),
        step_s=asked.step_s,
    )
    print(tables(found))


if __name__ == "__main__":
    main()
