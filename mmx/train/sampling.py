"""Which examples make up each batch of each epoch: a function of the seed and the epoch's number, with no state.

So a training resumes at (epoch, batch) without having to store how it came there.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence

from mmx.errors import InputError

JITTER = 3
"""Tokens by which lengths are disturbed before sorting, so that batches hold other company in every epoch."""


def temperature_shares(counts: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Share of each group in training: `p_i ~ (n_i / sum n)^(1/T)` (Arivazhagan et al. 2019, arXiv 1907.05019).

    T = 1 keeps the groups' sizes, a large T makes them equal.
    """
    if temperature <= 0:
        raise InputError(f"expected a temperature above 0, got {temperature}")
    total = sum(counts.values())
    raised = {name: (n / total) ** (1 / temperature) for name, n in counts.items()}
    return {name: r / sum(raised.values()) for name, r in raised.items()}


class Sampler:
    """Batches of examples of similar length, by epoch.

    An epoch has as many examples as the data. Each group fills its share from its own endless sequence of shuffled
    passes, so that with temperature 1 every example comes once an epoch, and else each as often as the others of its
    group, to within one.

    Args:
        lengths: tokens of the source and of the target of each example.
        groups: name of the group that each belongs to.
        batch_tokens: what rows x (longest source + longest target) of a batch stays within.
        temperature: see `temperature_shares`.
        seed: of all shuffling.
    """

    def __init__(
        self,
        lengths: Sequence[tuple[int, int]],
        groups: Sequence[str],
        batch_tokens: int,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        self.lengths, self.budget, self.seed = lengths, batch_tokens, seed
        longest = max((s + t for s, t in lengths), default=0)
        if longest > batch_tokens:
            raise InputError(
                f"expected examples of at most batch_tokens = {batch_tokens} tokens, got one of {longest}: "
                f"raise batch_tokens or lower max_tokens"
            )
        self.members: dict[str, list[int]] = {}
        for i, name in enumerate(groups):
            self.members.setdefault(name, []).append(i)
        shares = temperature_shares({name: len(m) for name, m in self.members.items()}, temperature)
        self.draws = _apportion(shares, len(lengths))

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of an epoch in their order, each a list of example indices."""
        rng = random.Random(f"{self.seed}/{number}")
        chosen = [i for name, n in self.draws.items() for i in self._draw(name, number * n, (number + 1) * n)]
        keys = {i: (self.lengths[i][0] + rng.randrange(JITTER), self.lengths[i][1] + rng.random()) for i in chosen}
        batches = pack(sorted(chosen, key=keys.__getitem__), self.lengths, self.budget)
        rng.shuffle(batches)
        return batches

    def _draw(self, name: str, start: int, stop: int) -> list[int]:
        """Entries `start` to `stop` of a group's endless sequence of shuffled passes."""
        members = self.members[name]
        out: list[int] = []
        while start < stop:
            turn, at = divmod(start, len(members))
            order = random.Random(f"{self.seed}/{name}/{turn}").sample(members, len(members))
            out += order[at : at + stop - start]
            start += min(len(members) - at, stop - start)
        return out


def _apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers in proportion to the shares that add up to `total`: largest remainders get one more."""
    floors = {name: math.floor(share * total) for name, share in shares.items()}
    by_rest = sorted(shares, key=lambda name: floors[name] - shares[name] * total)
    for name in by_rest[: total - sum(floors.values())]:
        floors[name] += 1
    return floors


def pack(order: Iterable[int], lengths: Sequence[tuple[int, int]], budget: int) -> list[list[int]]:
    """Cut a sequence of examples into batches of at most `budget` tokens, padding included."""
    batches: list[list[int]] = []
    source = target = 0
    for i in order:
        source, target = max(source, lengths[i][0]), max(target, lengths[i][1])
        if not batches or (len(batches[-1]) + 1) * (source + target) > budget:
            batches.append([])
            source, target = lengths[i]
        batches[-1].append(i)
    return batches
