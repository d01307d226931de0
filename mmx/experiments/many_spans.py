"""Search by example in very many spans: how long, in how much memory, and what it misses of comparing all.

`python -m mmx.experiments.many_spans OUT [--spans 100000] [--sentences 2000] [--tokens 8]`

Synthetic: a span is a recording of a sentence of eight words, of 2,000; its tokens are vectors of 64 numbers, each near
its word's. Who asks has another recording of one of the sentences. With as many sentences as spans none is recorded
twice, and what comes after the best answer shares but a word or two. The exact answer compares each span token by
token; the index is asked as `mmx search` asks it. Set OMP_NUM_THREADS=1 for figures of one thread.

Letters: N tokens of a span, D width.
"""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmx.search.index import Entry, Index, ModelMark, Vectors, writing
from mmx.search.query import by_example

WIDTH, WORDS, NOISE = 64, 2_000, 0.7
MARK = ModelMark("synthetic", "0" * 64)
AT_ONCE = 5_000
BEST = 10


@cache
def _words() -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(WORDS, WIDTH))


def recording(words_N: NDArray[np.int64], noise: np.random.Generator) -> Vectors:
    """Of words, one a token."""
    tokens_ND = (_words()[words_N] + NOISE * noise.normal(size=(len(words_N), WIDTH))).astype(np.float32)
    pooled_D = tokens_ND.mean(0)
    return Vectors(pooled_D / np.linalg.norm(pooled_D), tokens_ND)


def words_of(sentence: int, tokens: int) -> NDArray[np.int64]:
    """Eight words in a row, each held equally long."""
    drawn = np.random.default_rng([1, sentence]).integers(0, WORDS, min(8, tokens))
    return np.resize(np.repeat(drawn, -(-tokens // len(drawn))), tokens)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Print what it took."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    print(f"{what}: {cpu:.1f} s of CPU time, {wall:.1f} s by the clock, at most {most:.0f} MB so far", flush=True)


def fill(index: Index, spans: int, sentences: int, tokens: int) -> None:
    """Add the spans."""
    noise = np.random.default_rng(2)
    with writing(index):
        for at in range(0, spans, AT_ONCE):
            numbers = range(at, min(spans, at + AT_ONCE))
            entries = [Entry(source=f"/{i}.pose", start_s=0.0, end_s=1.0, modality="signs") for i in numbers]
            made = [recording(words_of(i % sentences, tokens), noise) for i in numbers]
            index.update(list(zip(entries, made, strict=True)), mark=MARK)


def run(out: Path, spans: int, sentences: int, tokens: int, queries: int, compared: int) -> tuple[float, float, float]:
    """Print all figures; shares of the exact ten best and of the best one that are found, and of answers whose order is
    the exact one."""
    noise = np.random.default_rng(3)
    with told("to open the index"):
        index = Index.create(out)
        is_new = not len(index)
    if is_new:
        with told("to make the spans and write them"):
            fill(index, spans, sentences, tokens)
    asked = [recording(words_of(int(i), tokens), noise) for i in noise.integers(0, sentences, queries)]
    with told("the first search, which makes the graph if it is not there"):
        by_example(index, asked[0], BEST, few=0)
    took, answers = [], []
    for example in asked:
        cpu, wall = time.process_time(), time.perf_counter()
        answers.append(by_example(index, example, BEST, few=0))
        took.append((1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)))
    middle, late = np.percentile(took, 50, axis=0), np.percentile(took, 95, axis=0)
    print(f"{queries} searches, ms of CPU time: median {middle[0]:.0f}, 95 % within {late[0]:.0f}; ", end="")
    print(f"by the clock {middle[1]:.0f}, {late[1]:.0f}", flush=True)
    shares = []
    for example, found in zip(asked[:compared], answers, strict=False):
        exact = by_example(index, example, BEST, few=spans)
        here, there = [h.source for h in found], [h.source for h in exact]
        both = set(here) & set(there)
        same = [x for x in here if x in both] == [x for x in there if x in both]
        shares.append((len(both) / BEST, here[0] == there[0], same))
    ten, first, same = np.mean(shares, axis=0).tolist()
    print(
        f"of {compared}, found of the exact ten best {100 * ten:.1f} %, of the best one {100 * first:.1f} %; "
        f"in the same order {100 * same:.1f} %"
    )
    return ten, first, same


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("spans", 100_000), ("sentences", 2_000), ("tokens", 8), ("queries", 50), ("compared", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    run(given.out, given.spans, given.sentences, given.tokens, given.queries, given.compared)


if __name__ == "__main__":
    main()
