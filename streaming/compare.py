"""Quality against latency of live policies: word error rate and how late each word is, on recordings with references.

    python -m mmx.streaming.compare recordings.tsv --policies alignatt:0.3 alignatt:0.6 emma:0.3 emma:0.5

The table names `audio`, relative to itself, and `text`. Sound is pushed in steps; a word counts as written at the step
that wrote it (latency of the policy; what computing costs is the machine's matter). One line of JSON a policy.
"""

import argparse
import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

from mmx.api import load
from mmx.media import read_audio
from mmx.model import Model
from mmx.streaming.latency import Timed, latency
from mmx.streaming.stream import Stream
from mmx.windows import RATE


def words(text: str) -> list[str]:
    """Words without case and marks."""
    return re.sub(r"[^a-z' ]", " ", text.casefold().replace("-", " ")).split()


def write_live(model: Model, audio: Path, policy: str, language: str, step_s: float) -> Timed:
    """What a stream writes of a recording, with the time of each word; all of it counts as speech."""
    samples = read_audio(audio)
    stream = Stream(model, policy=policy, language=language, step_s=step_s, vad=None)
    step, written = round(step_s * RATE), []
    for at in range(0, len(samples), step):
        events = stream.push(samples[at : at + step], final=at + step >= len(samples))
        written += [(word, 1000 * e.at_s) for e in events for word in words(e.text)]
    return Timed(words=[w for w, _ in written], delays_ms=[t for _, t in written], source_ms=1000 * len(samples) / RATE)


def errors(reference: Sequence[str], text: Sequence[str]) -> int:
    """Fewest words to substitute, insert and delete (Levenshtein)."""
    row = list(range(len(text) + 1))
    for i, r in enumerate(reference, 1):
        before, row[0] = row[0], i
        for j, t in enumerate(text, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (r != t))
    return row[-1]


def compare(table: Path, policies: Sequence[str], model: str, language: str, step_s: float) -> None:
    """Print word error rate and latency of each policy."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    loaded = load(model)
    for policy in policies:
        found = []
        for row in rows:
            timed = write_live(loaded, table.parent / row["audio"], policy, language, step_s)
            found.append((timed, words(row["text"])))
        wrong = sum(errors(reference, timed.words) for timed, reference in found)
        late = latency([Timed(**{f: getattr(t, f) for f in ("words", "delays_ms", "source_ms")}, reference=r)
                        for t, r in found])  # fmt: skip
        result = {"policy": policy, "step_s": step_s, "wer": round(100 * wrong / sum(len(r) for _, r in found), 1)}
        print(json.dumps(result | {f"{k}_ms": round(late[k]) for k in ("LAAL", "AL", "StartOffset")}), flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("table", type=Path, help="tab-separated, with columns audio and text")
    parser.add_argument("--policies", nargs="+", default=["alignatt", "local-agreement", "emma"])
    parser.add_argument("--model", default="whisper-base")
    parser.add_argument("--language", default="en")
    parser.add_argument("--step-s", type=float, default=1.0, help="sound between two looks")
    compare(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
