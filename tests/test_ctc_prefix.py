"""Joint CTC and attention decoding, against every text and every path, on a decoder that is a table."""

import itertools
import math

import pytest
import torch
from test_generate import BOS, EOT, VOCAB, TableDecoder, every_text, log_prob, tables
from torch import Tensor, nn
from toys import data
from toys.folders import new_toy

from mmx.generate import Hypothesis, SearchOptions, Suppress, search
from mmx.nn.ctc_prefix import CTCPrefix

WEIGHT = 0.4
FRAMES = (4, 2)


def ctc_tables() -> Tensor:
    """`(B, M, V + 1)` log-probabilities, the blank last."""
    scores_BMV = 1.5 * torch.randn(len(FRAMES), max(FRAMES), VOCAB + 1, generator=torch.Generator().manual_seed(5))
    scores_BMV[..., [EOT, BOS]] = -torch.inf  # no text
    return scores_BMV.log_softmax(-1)


def text_log_probs(log_probs_MV: Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of each text that CTC can write: the sum over its paths."""
    out: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(VOCAB + 1), repeat=len(log_probs_MV)):
        text = tuple(token for token, _ in itertools.groupby(path) if token != VOCAB)
        p = math.exp(sum(float(log_probs_MV[m, token]) for m, token in enumerate(path)))
        out[text] = out.get(text, 0.0) + p
    return {text: math.log(p) for text, p in out.items() if p}


def joint(beam_size: int, weight: float = WEIGHT, longest: int = 5) -> list[list[Hypothesis]]:
    rescore = CTCPrefix(ctc_tables(), torch.tensor(FRAMES), EOT, weight)
    how = SearchOptions(beam_size=beam_size, max_tokens=longest, length_penalty=0.0)
    prefix = torch.full((len(FRAMES), 1), BOS)
    return search(TableDecoder(), tables(2, seed=3), prefix, EOT, how, [Suppress([BOS])], rescore=rescore).rows


def decoder_log_prob(row: int, text: tuple[int, ...]) -> float:
    """With the suppressed token's share given to the others, as a search does."""
    memory = tables(2, seed=3)
    memory.x.view(2, VOCAB, VOCAB, VOCAB)[..., BOS] = -torch.inf
    return log_prob(memory, row, text)


def scores(row: int) -> dict[tuple[int, ...], float]:
    """Joint score of every text."""
    ctc = text_log_probs(ctc_tables()[row, : FRAMES[row]])
    texts = (text for text in every_text(4) if text in ctc)
    return {text: (1 - WEIGHT) * decoder_log_prob(row, text) + WEIGHT * ctc[text] for text in texts}


def test_a_wide_beam_finds_the_text_that_decoder_and_ctc_prefer_together() -> None:
    for row, hypotheses in enumerate(joint(300)):
        every = scores(row)
        ended = {h.tokens: h.log_prob for h in hypotheses if h.ended}
        assert set(ended) == set(every)  # what CTC cannot write is no hypothesis
        for text, score in every.items():
            assert ended[text] == pytest.approx(score, abs=1e-4)
        assert max(ended, key=lambda text: ended[text]) == max(every, key=lambda text: every[text])


def test_a_narrow_beam_scores_what_it_keeps_alike() -> None:
    for row, hypotheses in enumerate(joint(2)):
        every = scores(row)
        ended = [h for h in hypotheses if h.ended]
        assert ended
        assert all(h.log_prob == pytest.approx(every[h.tokens], abs=1e-4) for h in ended)


def test_all_of_ctc_leaves_the_decoder_no_say() -> None:
    for row, hypotheses in enumerate(joint(300, weight=1.0)):
        ctc = text_log_probs(ctc_tables()[row, : FRAMES[row]])
        assert max(hypotheses, key=lambda h: h.log_prob if h.ended else -math.inf).tokens == max(
            (t for t in ctc if len(t) <= 4), key=lambda t: ctc[t]
        )


def test_a_model_with_decoder_and_ctc_head_is_searched_jointly() -> None:
    model = new_toy("lips_with_speech")
    tok = model.require_tokenizer()
    (word,) = tok.encode(" two")[:1]
    head = nn.Linear(model.require_decoder().width, tok.n_vocab + 1)
    nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.fill_(-20.0)[[word, tok.n_vocab]] = 0.0
    model.heads["ctc"] = head
    film = {"lips": torch.from_numpy(data.lips("one", 0)), "speech": torch.from_numpy(data.speech("one", 0))}
    for weight, only_ctc in ((0.0, False), (1.0, True)):
        written = model.transcribe(film, language="en", vad=False, ctc_weight=weight).text
        assert (set(tok.encode(written)) <= {word}) == only_ctc
