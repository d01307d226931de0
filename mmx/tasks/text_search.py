"""`TextSearch`: texts in one language by a model with language tokens, with all its vocabulary or a shortlist."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmx.errors import InputError
from mmx.generate import Hypothesis, SearchOptions, Suppress, search
from mmx.model import Model
from mmx.nn.ctc import NAME, log_probs
from mmx.nn.ctc_prefix import CTCPrefix
from mmx.nn.decoder import TextDecoder
from mmx.seq import Seq
from mmx.state import State
from mmx.text import shortlist
from mmx.text.translation_tokenizer import TranslationTokenizer


class TextSearch:
    """Searches for texts in a language.

    Args:
        model: with a decoder and a `TranslationTokenizer`.
        target: the language, as the tokenizer spells it.
        only: ids of the tokens that may be written, or what `mmx.text.shortlist.read` takes; all when None.
        ctc_weight: share of the model's CTC head in the beam search; 0 leaves it out, and a model without one does.
    """

    def __init__(self, model: Model, target: str, only: Sequence[int] | str | None = None, ctc_weight: float = 0.0):
        self.model, self.tok = model, model.require_tokenizer()
        tok, self.language = self.tok, target
        self.ctc_weight = ctc_weight if NAME in model.heads else 0.0
        self.prompt = tok.prompt(target)
        self.short: shortlist.ShortlistDecoder | None = None
        if only is not None:
            self.short = _shortened(model, target, only)
        self.decoder = model.require_decoder() if self.short is None else self.short
        self.filters = [Suppress(self._to_search(tok.control_ids))]
        self.eot = self._to_search([tok.eot])[0]

    def _to_search(self, tokens: Sequence[int]) -> Sequence[int]:
        return tokens if self.short is None else self.short.short(tokens)

    def _from_search(self, h: Hypothesis) -> Hypothesis:
        return h if self.short is None else replace(h, tokens=tuple(self.short.long(h.tokens)))

    def __call__(self, memory: Seq, options: SearchOptions, shared: State | None = None) -> list[Hypothesis]:
        """The best text of each row of the memory `(B, M, D)`, in the model's own token ids.

        Args:
            memory: what is written about.
            options: of the search; `max_tokens` is lowered to what the decoder has places for.
            shared: the decoder's keys and values of the memory, as `search` takes and fills them.
        """
        room = self.decoder.ctx - len(self.prompt) - 1
        options = replace(options, max_tokens=min(options.max_tokens, room))
        prefix = torch.tensor([self._to_search(self.prompt)] * len(memory.x), device=memory.x.device)
        rescore = self._ctc(memory) if self.ctc_weight and not options.temperature else None
        found = search(self.decoder, memory, prefix, self.eot, options, self.filters, shared, rescore=rescore)
        return [self._from_search(hypotheses[0]) for hypotheses in found.rows]

    def _ctc(self, memory: Seq) -> CTCPrefix:
        """What the CTC head says of this memory, in the tokens of the search."""
        silent = sorted({*self.tok.control_ids, self.tok.eot})
        scores_BMV = log_probs(self.model.heads[NAME], memory, self.tok.language_ids.get(self.language), silent)
        if self.short is not None:
            blank = self.short.ids_S.new_tensor([scores_BMV.shape[-1] - 1])
            scores_BMV = scores_BMV[..., torch.cat([self.short.ids_S, blank])]
        return CTCPrefix(scores_BMV, memory.lengths, self.eot, self.ctc_weight)


def _shortened(model: Model, target: str, only: Sequence[int] | str) -> shortlist.ShortlistDecoder:
    decoder, tok = model.decoder, model.tokenizer
    if not isinstance(decoder, TextDecoder) or not isinstance(tok, TranslationTokenizer):
        raise InputError(f"expected no shortlist with {model.name}, whose vocabulary cannot be cut down: leave it out")
    ids = shortlist.read(tok, target, only) if isinstance(only, str) else only
    return shortlist.ShortlistDecoder(decoder, decoder.token.weight, sorted({*ids, *tok.prompt(target), tok.eot}))


def has_loop(tokens: Sequence[int], times: int = 4, shortest: int = 8, longest_unit: int = 16) -> bool:
    """Whether a run of tokens repeats itself `times` in a row over at least `shortest` tokens."""
    for unit in range(1, longest_unit + 1):
        same = 0
        for a, b in zip(tokens, tokens[unit:], strict=False):
            same = same + 1 if a == b else 0
            if same + unit >= max(times * unit, shortest):
                return True
    return False
