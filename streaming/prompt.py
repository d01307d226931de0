"""How a live session asks its model for text and reads it: prompts, languages, words. One for each session."""

from collections.abc import Sequence
from typing import Any

import torch

from mmx.generate import Filter, Suppress, SuppressFirst
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State, subtree
from mmx.tasks.transcribe import Options, fit
from mmx.text.languages import find_language

_JOINING = frozenset("-'’")


class Prompter:
    """The text side of a session.

    Tokenizers with time tokens (Whisper's) take the text before the window as context and tell the language of the
    speech; others are steered by the language to write alone.

    Args:
        model: with a tokenizer.
        language: of the speech; detected when None, by models that can.
        task: transcribe or translate.
        to: language to translate into; English when None.

    Attributes:
        spoken: code of the language of the speech, None until it is known.
        guess: what it seems to be, meanwhile.
    """

    CONTEXT = 64  # tokens of text before the window

    def __init__(self, model: Model, language: str | None, task: Any, to: str | None):
        options = fit(model, Options(language=language, task=task, to=to or "en"))
        self.decoder, self.tok, self.task, self.to = model.decoder, model.tokenizer, options.task, options.to
        self.timed = hasattr(self.tok, "timestamp_begin")
        self.spoken = options.language
        self.guess: str | None = None
        if self.timed and not self.tok.multilingual:
            self.spoken = "en"
        self.eot: int = self.tok.eot

    @property
    def language(self) -> str:
        """Tag of the language that is written; empty until it is known."""
        written = self.to if self.task == "translate" else self.spoken or self.guess
        return find_language(written).tag if written else ""

    def prompt(self, context: Sequence[int]) -> list[int]:
        """What comes before the text of the window, `context` being the text before that."""
        if not self.timed:
            return self.tok.prompt(self.to if self.task == "translate" else self.spoken)
        before = [self.tok.sot_prev, *context[-self.CONTEXT :]] if context else []
        return [*before, *self.tok.prompt(self.spoken or self.guess, self.task)]

    def filters(self, begins: bool) -> list[Filter]:
        """What a text must not hold; `begins` where nothing is written of the window yet."""
        tok = self.tok
        if not self.timed:
            return [Suppress(tok.control_ids)]
        times = range(tok.no_timestamps, tok.n_vocab)
        never = (tok.sot, tok.transcribe, tok.translate, tok.sot_prev, tok.sot_lm, tok.no_speech)
        languages = tok.language_ids.values()
        start = [SuppressFirst(tok.blank_tokens())] if begins else []
        return [*start, Suppress([*tok.non_speech_tokens(), *never, *languages, *times])]

    def split(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Words with their leading spaces, and their tokens; what a hyphen or an apostrophe joins is one word."""
        out: list[tuple[str, list[int]]] = []
        for text, group in self.tok.split_words(tokens, self.language) if self.timed else self.tok.split_words(tokens):
            if out and text[:1] in _JOINING and text[1:].strip():
                out[-1] = (out[-1][0] + text, [*out[-1][1], *group])
            else:
                out.append((text, group))
        return out

    @torch.inference_mode()
    def detect(self, memory: Seq, sure: bool) -> State:
        """Tell the language of the speech where it is not known, for good if `sure`.

        Returns:
            The decoder's keys and values of the memory, to save their cost; empty where it was not asked.
        """
        if self.spoken is not None:
            return {}
        state = self.decoder.init_state(1, 1)
        start = torch.tensor([[self.tok.sot]], device=memory.x.device)
        logits_V = self.decoder(start, memory, state)[0, 0]
        codes = list(self.tok.language_ids)
        self.guess = codes[int(logits_V[list(self.tok.language_ids.values())].argmax())]
        if sure:
            self.spoken = self.guess
        return subtree(state, "memory")
