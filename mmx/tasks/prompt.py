"""What a live session asks its model to write, and how it reads the answer: prompts and words. One for each session."""

from collections.abc import Iterable, Sequence

from mmx.generate import Filter, Suppress
from mmx.model import Model
from mmx.seq import Seq
from mmx.state import State
from mmx.tasks.options import Options
from mmx.text.languages import find_language

_JOINING = frozenset("-'’")


def joined(words: Iterable[tuple[str, list[int]]]) -> list[tuple[str, list[int]]]:
    """Words and their tokens; what a hyphen or an apostrophe joins is one word."""
    out: list[tuple[str, list[int]]] = []
    for text, group in words:
        if out and text[:1] in _JOINING and text[1:].strip():
            out[-1] = (out[-1][0] + text, [*out[-1][1], *group])
        else:
            out.append((text, group))
    return out


class LanguagePrompter:
    """The `mmx.interfaces.Prompter` of models that are steered by the language to write alone.

    Args:
        model: with a tokenizer.
        options: as `mmx.tasks.transcribe.fit` returns them.
    """

    max_context = 64

    def __init__(self, model: Model, options: Options):
        self.tok, self.task, self.to = model.require_tokenizer(), options.task, options.to
        self.spoken: str | None = options.language
        self.guess: str | None = None
        self.eot = self.tok.eot

    @property
    def language(self) -> str:
        """Tag of the language that is written; empty until it is known."""
        written = self.to if self.task == "translate" else self.spoken
        return find_language(written).tag if written else ""

    def prompt(self, context: Sequence[int]) -> list[int]:
        """The language to write; these models take no text before the window."""
        return self.tok.prompt((self.to if self.task == "translate" else self.spoken) or "")

    def filters(self, begins: bool) -> list[Filter]:
        """No control tokens."""
        return [Suppress(self.tok.control_ids)]

    def split(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Words with their leading spaces, and their tokens."""
        return joined(self.tok.split_words(tokens))

    def detect(self, memory: Seq, sure: bool) -> State:
        """Nothing is asked: the language to write is given."""
        return {}
