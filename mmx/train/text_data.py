"""Parallel text as training data: examples to ids, augmented by chance, to padded batches."""

import random
from collections.abc import Sequence

import torch

from mmx.errors import InputError
from mmx.interfaces import SourceTokenizer
from mmx.seq import pad
from mmx.train.batch import IGNORED, Batch
from mmx.train.manifest import Example


class TextData:
    """Examples of text translation, ready to be batched.

    Args:
        examples: of which those longer than `max_tokens` on a side are left out; `left_out` says how many.
        tokenizer: of the model.
        max_tokens: see above.
        group_by: the fields of an example that make up its group, for sampling.
        lowercase: share of the sources that is shown in lower case.
        unpunctuated: share of the sources that is shown without its final punctuation. Both as recognizers of
            speech write; the target stays as it is.
        seed: of the augmentation.

    Raises:
        InputError: no example is short enough, or the model lacks a language.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: SourceTokenizer,
        *,
        max_tokens: int,
        group_by: Sequence[str] = (),
        lowercase: float = 0.0,
        unpunctuated: float = 0.0,
        seed: int = 0,
    ):
        self.tokenizer, self.seed = tokenizer, seed
        self.lowercase, self.unpunctuated, self.max_tokens = lowercase, unpunctuated, max_tokens
        self._spelled = {code: tokenizer.language(code) for e in examples for code in (e.src_lang, e.tgt_lang)}
        self.examples: list[Example] = []
        self.sources: list[list[int]] = []
        self.targets: list[list[int]] = []
        for example in examples:
            source, target = self._source(example, example.source), self._target(example)
            if max(len(source), len(target)) <= max_tokens:
                self.examples.append(example)
                self.sources.append(source)
                self.targets.append(target)
        self.left_out = len(examples) - len(self.examples)
        if not self.examples:
            raise InputError(
                f"expected texts of at most max_tokens = {max_tokens} tokens on either side, got none among "
                f"{len(examples)} examples: raise max_tokens as far as the model has room, or cut the texts"
            )
        self.groups = ["/".join(getattr(e, field) for field in group_by) for e in self.examples]
        self.lengths = [(len(s), len(t)) for s, t in zip(self.sources, self.targets, strict=True)]

    def _source(self, example: Example, text: str) -> list[int]:
        return self.tokenizer.source(text, self._spelled[example.src_lang])

    def _target(self, example: Example) -> list[int]:
        prompt = self.tokenizer.prompt(self._spelled[example.tgt_lang])
        return [*prompt, *self.tokenizer.encode(example.target), self.tokenizer.eot]

    def batch(self, indices: Sequence[int], epoch: int = 0) -> Batch:
        """The examples as tensors; what is augmented depends on the seed, the epoch and the example alone."""
        sources = pad([torch.tensor(self._augmented(i, epoch)) for i in indices])
        rows = pad([torch.tensor(self.targets[i]) for i in indices])
        prompt = len(self.tokenizer.prompt(self._spelled[self.examples[indices[0]].tgt_lang]))
        wanted = rows.mask.clone()
        wanted[:, :prompt] = False
        targets = rows.x.masked_fill(~wanted, IGNORED)[:, 1:]
        return Batch({"text": sources}, rows.x[:, :-1], targets, tuple(self.examples[i].task for i in indices))

    def _augmented(self, i: int, epoch: int) -> list[int]:
        if not (self.lowercase or self.unpunctuated):
            return self.sources[i]
        rng = random.Random(f"{self.seed}/{epoch}/{i}")
        text = self.examples[i].source
        if rng.random() < self.lowercase:
            text = text.lower()
        if rng.random() < self.unpunctuated:
            text = text.rstrip(" .!?;:,\"'") or text
        if text == self.examples[i].source:
            return self.sources[i]
        ids = self._source(self.examples[i], text)
        return ids if len(ids) <= self.max_tokens else self.sources[i]
