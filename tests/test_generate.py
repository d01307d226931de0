"""Search, on a tabular language model small enough to enumerate."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from mmx.generate import NoRepeatNGram, SearchOptions, Suppress, SuppressFirst, best, search
from mmx.greedy import continue_text
from mmx.seq import Seq
from mmx.state import State, tensor

VOCAB, EOT, BOS = 6, 0, 5


class TableDecoder:
    """The next token depends on the last two; each memory row holds its own table of logits.

    It keeps its history in a cache that is addressed by `ancestors`, as real decoders do, so a wrong re-ordering shows.
    """

    def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State:
        return {"self": {
            "ancestors": torch.zeros(batch, hypotheses, 64, dtype=torch.int64),
            "length": torch.zeros(batch, dtype=torch.int64),
            "cache": torch.zeros(batch, 64, hypotheses, dtype=torch.int64),
        }, "memory": {}}  # fmt: skip

    def forward(self, tokens, memory: Seq, state=None, at=None, owner=None) -> Tensor:
        assert state is not None
        own = state["self"]
        owner = list(range(len(tokens))) if owner is None else owner
        slots = [owner[:i].count(b) for i, b in enumerate(owner)]
        out = torch.empty(len(tokens), tokens.shape[1], VOCAB)
        for u in range(tokens.shape[1]):
            for i, (b, k) in enumerate(zip(owner, slots, strict=True)):
                at_ = int(tensor(own, "length")[b]) + u
                tensor(own, "cache")[b, at_, k] = tokens[i, u]
                tensor(own, "ancestors")[b, k, at_] = k
                before = max(at_ - 1, 0)
                previous = tensor(own, "cache")[b, before, tensor(own, "ancestors")[b, k, before]]
                out[i, u] = memory.x[b].view(VOCAB, VOCAB, VOCAB)[previous, tokens[i, u]]
        own["length"] = tensor(own, "length") + tokens.shape[1]
        return out if at is None else out[:, list(at)]


def tables(batch: int, seed: int = 0) -> Seq:
    x = 2.0 * torch.randn(batch, VOCAB, VOCAB * VOCAB, generator=torch.Generator().manual_seed(seed))
    return Seq(x, torch.full((batch,), VOCAB))


def log_prob(memory: Seq, row: int, tokens: tuple[int, ...], ended: bool = True) -> float:
    table = memory.x[row].view(VOCAB, VOCAB, VOCAB).log_softmax(-1)
    history, total = [BOS, BOS], 0.0
    for t in (*tokens, EOT) if ended else tokens:
        total += float(table[history[-2], history[-1], t])
        history.append(t)
    return total


def every_text(longest: int):
    for n in range(longest + 1):
        yield from itertools.product(range(1, VOCAB), repeat=n)


def run(memory: Seq, **options):
    filters = options.pop("filters", ())
    prefix = torch.full((len(memory.x), 1), BOS)
    return search(TableDecoder(), memory, prefix, EOT, SearchOptions(**options), filters).rows


def test_a_wide_beam_finds_the_best_text():
    memory = tables(3)
    rows = run(memory, beam_size=200, max_tokens=4, length_penalty=0.0)
    for b, hypotheses in enumerate(rows):
        ended = [h for h in hypotheses if h.ended and len(h.tokens) <= 3]
        best = max(every_text(3), key=lambda t: log_prob(memory, b, t))
        top = max(ended, key=lambda h: h.log_prob)
        assert top.tokens == best
        assert top.log_prob == pytest.approx(log_prob(memory, b, best), abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_scores_are_those_of_the_texts(beam_size: int):
    memory = tables(4, seed=1)
    for b, hypotheses in enumerate(run(memory, beam_size=beam_size, max_tokens=8)):
        assert hypotheses
        for h in hypotheses:
            assert h.log_prob == pytest.approx(log_prob(memory, b, h.tokens, h.ended), abs=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_row_whose_text_may_not_end_yet_goes_on_and_tells_since_when(beam_size: int):
    memory, prefix = tables(2, seed=4), torch.full((2, 1), BOS)
    memory.x.view(2, VOCAB, VOCAB, VOCAB)[..., EOT] += 3
    free, bound = search(
        TableDecoder(), memory, prefix, EOT, SearchOptions(beam_size=beam_size, max_tokens=12),
        may_end=[lambda tokens: True, lambda tokens: len(tokens) >= 6],
    ).rows  # fmt: skip
    (alone, _) = run(memory, beam_size=beam_size, max_tokens=12)
    assert free == alone and all(h.kept_going is None for h in free), "no other row notices"
    for h in bound:
        assert len(h.tokens) >= 6 and h.log_prob == pytest.approx(log_prob(memory, 1, h.tokens, h.ended), abs=1e-4)
        table = memory.x[1].view(VOCAB, VOCAB, VOCAB)
        history = (BOS, BOS, *h.tokens)
        ends = [n for n in range(6) if int(table[history[n], history[n + 1]].argmax()) == EOT]
        assert h.kept_going == (ends[0] if ends else None)


BANNED = (2, 3)


def log_prob_among_allowed(memory: Seq, row: int, tokens: Sequence[int], ended: bool) -> float:
    """By hand: each token's share among the tokens that may be written, as in Whisper's own decoding."""
    table = memory.x[row].view(VOCAB, VOCAB, VOCAB).double().tolist()
    history, total = [BOS, BOS], 0.0
    for t in (*tokens, EOT) if ended else tokens:
        logits = table[history[-2]][history[-1]]
        total += logits[t] - math.log(sum(math.exp(x) for i, x in enumerate(logits) if i not in BANNED))
        history.append(t)
    return total


@pytest.mark.parametrize("options", [{"beam_size": 1}, {"beam_size": 3}, {"temperature": 0.8, "best_of": 3}], ids=str)
def test_scores_are_those_among_the_tokens_that_filters_allow(options: dict[str, Any]):
    """Log-probabilities are taken after the filters: what may not be written takes no share."""
    memory = tables(4, seed=5)
    rows = run(memory, max_tokens=6, filters=[Suppress(BANNED)], **options)
    shares = []
    for b, hypotheses in enumerate(rows):
        for h in hypotheses:
            want = log_prob_among_allowed(memory, b, h.tokens, h.ended)
            assert not set(h.tokens) & {*BANNED} and h.log_prob == pytest.approx(want, abs=1e-4)
            assert h.avg_log_prob == pytest.approx(want / (len(h.tokens) + 1), abs=1e-4)
            shares.append(want - log_prob(memory, b, h.tokens, h.ended))
    assert max(shares) > 0.5, "what the filters take must be worth telling"


def test_scores_of_a_stream_are_among_allowed_tokens():
    memory = tables(4, seed=5)
    for b in range(4):
        one = memory.rows(torch.tensor([b]))
        found = continue_text(TableDecoder(), one, [BOS], [], EOT, 6, [Suppress(BANNED)])
        want = log_prob_among_allowed(memory, b, found.tokens, ended=False)
        assert found.tokens and sum(found.scores) == pytest.approx(want, abs=1e-4)


def test_greedy_takes_the_best_token_each_time():
    memory = tables(3, seed=2)
    for b, (h, *_) in enumerate(run(memory, beam_size=1, max_tokens=10)):
        table, history = memory.x[b].view(VOCAB, VOCAB, VOCAB), [BOS, BOS]
        while len(history) < 12 and (t := int(table[history[-2], history[-1]].argmax())) != EOT:
            history.append(t)
        assert list(h.tokens) == history[2:]


def test_a_batch_equals_its_rows_alone():
    memory = tables(5, seed=3)
    together = run(memory, beam_size=3, max_tokens=8)
    for b in range(5):
        assert run(memory.rows(torch.tensor([b])), beam_size=3, max_tokens=8)[0] == together[b]


def test_sampling_is_seeded_and_does_not_depend_on_the_neighbours():
    memory = tables(3, seed=4)
    first = run(memory, temperature=1.0, best_of=4, max_tokens=6, seed=9)
    assert run(memory, temperature=1.0, best_of=4, max_tokens=6, seed=9) == first
    assert run(memory, temperature=1.0, best_of=4, max_tokens=6, seed=10) != first
    assert run(memory.rows(torch.tensor([2])), temperature=1.0, best_of=4, max_tokens=6, seed=9)[0] == first[2]
    for b, hypotheses in enumerate(first):
        for h in hypotheses:
            assert h.log_prob == pytest.approx(log_prob(memory, b, h.tokens, h.ended), abs=1e-4)


def test_samples_follow_the_distribution():
    memory = tables(1, seed=5)
    probs = memory.x[0].view(VOCAB, VOCAB, VOCAB)[BOS, BOS].softmax(0)
    hypotheses = run(memory, temperature=1.0, best_of=4000, max_tokens=1)[0]
    counts = torch.zeros(VOCAB)
    for h in hypotheses:
        counts[h.tokens[0] if h.tokens else EOT] += 1
    assert (counts / counts.sum() - probs).abs().max() < 0.03


def test_length_penalty_changes_the_ranking():
    memory = tables(8, seed=6)
    short, long = (
        sum(len(row[0].tokens) for row in run(memory, beam_size=20, max_tokens=8, length_penalty=a)) for a in (0.0, 5.0)
    )
    assert short < long


def test_suppressed_tokens_are_never_written():
    memory = tables(4, seed=7)
    for h in itertools.chain(*run(memory, beam_size=4, max_tokens=8, filters=[Suppress([2, 3])])):
        assert not {2, 3} & set(h.tokens)


def test_an_answer_is_never_empty_when_its_end_is_suppressed_first():
    memory = tables(6, seed=8)
    memory.x.view(6, VOCAB, VOCAB, VOCAB)[..., EOT] += 6
    assert any(not row[0].tokens for row in run(memory, beam_size=2, max_tokens=4, length_penalty=0.0))
    rows = run(memory, beam_size=2, max_tokens=4, length_penalty=0.0, filters=[SuppressFirst([EOT])])
    assert all(h.tokens for row in rows for h in row)


@pytest.mark.parametrize("n", [2, 3])
def test_no_ngram_comes_twice(n: int):
    memory = tables(4, seed=9)
    memory.x.view(4, VOCAB, VOCAB, VOCAB)[..., EOT] -= 20  # it would go on for ever, in a loop
    for h in itertools.chain(*run(memory, beam_size=3, max_tokens=12, no_repeat_ngram=n)):
        grams = [h.tokens[i : i + n] for i in range(len(h.tokens) - n + 1)]
        assert len(set(grams)) == len(grams)
    loops = run(memory, beam_size=3, max_tokens=12)
    assert any(len({h.tokens[i : i + n] for i in range(12 - n)}) < 12 - n for row in loops for h in row)


def test_an_ngram_filter_leaves_short_texts_alone():
    logits = torch.zeros(1, VOCAB)
    NoRepeatNGram(3)(logits, torch.tensor([[1, 2]]))
    assert (logits == 0).all()


def test_max_tokens_cuts():
    memory = tables(2, seed=10)
    memory.x.view(2, VOCAB, VOCAB, VOCAB)[..., EOT] -= 20
    for h in itertools.chain(*run(memory, beam_size=2, max_tokens=5)):
        assert len(h.tokens) == 5 and not h.ended


def test_nothing_to_start_from_is_an_error():
    with pytest.raises(ValueError, match="prefix"):
        search(TableDecoder(), tables(1), torch.zeros(1, 0, dtype=torch.int64), EOT)


@pytest.mark.parametrize("bad", [{"beam_size": 0}, {"max_tokens": 0}, {"best_of": 0}, {"temperature": -1.0}])
def test_bad_options(bad: dict):
    with pytest.raises(ValueError, match="expected"):
        SearchOptions(**bad)


@pytest.mark.parametrize("vocabulary", [60, 5000, 128 * 40])
def test_the_best_of_a_row_are_those_of_topk(vocabulary: int):
    scores = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(0))
    scores[0, -3:] = scores[1, :3] = 9.0 + torch.arange(3)  # in the last entries, in one block
    scores[2, 10:] = -torch.inf  # fewer than one block has
    values, tokens = best(scores, 6)
    want = scores.topk(6)
    assert torch.equal(values, want.values) and torch.equal(scores.gather(1, tokens), want.values)
    assert torch.equal(tokens[:2], want.indices[:2])
