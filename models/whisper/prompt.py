"""How a live session asks Whisper for text: the text before the window as context, no timestamps, and the language of
the speech where it is not given."""

from collections.abc import Sequence
from typing import cast

import torch

from mmx.generate import Filter, Suppress, SuppressFirst
from mmx.model import Model
from mmx.models.whisper.tokenizer import WhisperTokenizer
from mmx.seq import Seq
from mmx.state import State, subtree
from mmx.tasks.options import Options
from mmx.tasks.prompt import joined
from mmx.text.languages import find_language


class ContextPrompter:
    """The `mmx.interfaces.Prompter` of models with timestamp tokens.

    Args:
        model: with its tokenizer.
        options: as `fit` returns them.
    """

    max_context = 64

    def __init__(self, model: Model, options: Options):
        self.decoder, self.tok = model.require_decoder(), cast(WhisperTokenizer, model.require_tokenizer())
        self.task, self.to = options.task, options.to
        self.spoken: str | None = options.language if self.tok.multilingual else "en"
        self.guess: str | None = None
        self.eot = self.tok.eot

    @property
    def language(self) -> str:
        """Tag of the language that is written; empty until it is known."""
        written = self.to if self.task == "translate" else self.spoken or self.guess
        return find_language(written).tag if written else ""

    def prompt(self, context: Sequence[int]) -> list[int]:
        """What comes before the text of the window, `context` being the text before that."""
        before = [self.tok.sot_prev, *context[-self.max_context :]] if context else []
        return [*before, *self.tok.prompt(self.spoken or self.guess, self.task)]

    def filters(self, begins: bool) -> list[Filter]:
        """Neither control tokens nor timestamps; a text that begins is not empty."""
        tok = self.tok
        times = range(tok.no_timestamps, tok.n_vocab)
        never = (tok.sot, tok.transcribe, tok.translate, tok.sot_prev, tok.sot_lm, tok.no_speech)
        languages = tok.language_ids.values()
        start = [SuppressFirst(tok.blank_tokens())] if begins else []
        return [*start, Suppress([*tok.non_speech_tokens(), *never, *languages, *times])]

    def split(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Words with their leading spaces, and their tokens; by the rules of the language that is written."""
        return joined(self.tok.split_words(tokens, self.language))

    @torch.inference_mode()
    def detect(self, memory: Seq, sure: bool) -> State:
        """Tell the language of the speech where it is not known, by the first token that the decoder would write."""
        if self.spoken is not None:
            return {}
        state = self.decoder.init_state(1, 1)
        start = torch.tensor([[self.tok.sot]], device=memory.x.device)
        logits_V = self.decoder.forward(start, memory, state)[0, 0]
        codes = list(self.tok.language_ids)
        self.guess = codes[int(logits_V[list(self.tok.language_ids.values())].argmax())]
        if sure:
            self.spoken = self.guess
        return subtree(state, "memory")
