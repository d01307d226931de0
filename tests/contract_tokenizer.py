"""The law that every `Tokenizer` keeps: `verify_tokenizer` measures it and names the check that a tokenizer breaks."""

from collections.abc import Sequence
from typing import Any

from contract import ContractError

from mmx.errors import InputError
from mmx.interfaces import SourceTokenizer, Tokenizer

TEXTS = ("he was not", "a", "I said no, twice.")


def verify_tokenizer(tokenizer: Any, languages: Sequence[str], texts: Sequence[str] = TEXTS) -> None:
    """Raise `ContractError` unless `tokenizer` keeps the law.

    Args:
        tokenizer: to be measured.
        languages: some that it has, in any spelling.
        texts: that its vocabulary can write.
    """
    law = _TokenizerLaw(tokenizer, languages, texts)
    for check in (law.members, law.numbers, law.back, law.words, law.controls, law.named, law.prompts, law.read):
        check()


class _TokenizerLaw:
    def __init__(self, tokenizer: Any, languages: Sequence[str], texts: Sequence[str]):
        self.tok, self.languages, self.texts = tokenizer, languages, texts

    def members(self) -> None:
        """All members of a `Tokenizer`."""
        lacks = [name for name in ("eot", "n_vocab", "language_ids", "control_ids") if not hasattr(self.tok, name)]
        self.demand("members", isinstance(self.tok, Tokenizer), f"expected all members of a Tokenizer, lacks {lacks}")

    def numbers(self) -> None:
        """Every token is one of the vocabulary, and none of a text is a control token or the end."""
        never = {*self.tok.control_ids, self.tok.eot}
        self.demand("numbers", all(0 <= i < self.tok.n_vocab for i in never), f"beyond {self.tok.n_vocab} tokens")
        self.demand("numbers", self.tok.eot not in self.tok.control_ids, "the end among the control tokens")
        unknown = set(self.tok.encode("\ue000"))  # which no vocabulary has a letter for
        for text in (*self.texts, "</s><|endoftext|><pad>"):
            ids = set(self.tok.encode(text))
            self.demand("numbers", all(0 <= i < self.tok.n_vocab for i in ids), f"{text!r} gave {sorted(ids)}")
            wrong = sorted(never & ids - (unknown if text not in self.texts else set()))
            self.demand("numbers", not wrong, f"{text!r} gave the control tokens {wrong}")

    def back(self) -> None:
        """A text comes back from its tokens."""
        for text in self.texts:
            got = self.tok.decode(iter(self.tok.encode(text)))
            self.demand("back", got.strip() == text, f"{text!r} came back as {got!r}")
        self.demand("back", self.tok.decode([]) == "" and list(self.tok.encode("")) == [], "of nothing comes something")

    def words(self) -> None:
        """Words are the text, and their tokens the tokens."""
        for text in self.texts:
            ids = list(self.tok.encode(text))
            words = self.tok.split_words(ids)
            self.demand("words", [i for _, own in words for i in own] == ids, f"{text!r}: tokens are lost or moved")
            joined = "".join(word for word, _ in words)
            self.demand("words", joined.strip() == text, f"{text!r}: the words are {joined!r}")
            self.demand("words", all(own for _, own in words), f"{text!r}: a word without tokens")
        self.demand("words", self.tok.split_words([]) == [], "words of nothing")

    def controls(self) -> None:
        """Control tokens leave nothing."""
        ids = list(self.tok.encode(self.texts[0]))
        got = self.tok.decode([*list(self.tok.control_ids)[:8], *ids, self.tok.eot])
        self.demand("controls", got.strip() == self.texts[0], f"with control tokens around it: {got!r}")

    def named(self) -> None:
        """A language has one spelling, whatever it was called, and a token where tokens name languages."""
        for name in self.languages:
            spelling = self.tok.language(name)
            self.demand("named", self.tok.language(spelling) == spelling, f"{name} is {spelling}, which is another")
            if self.tok.language_ids:
                self.demand("named", spelling in self.tok.language_ids, f"{name} is {spelling}, without a token")
        tokens = set(self.tok.language_ids.values())
        self.demand("named", tokens <= set(self.tok.control_ids), "a text may hold the token of a language")
        self.demand("named", len(tokens) == len(self.tok.language_ids), "two languages share a token")
        for text in ("no language", ""):
            try:
                self.tok.language(text)
            except InputError:
                continue
            raise ContractError("named", f"expected InputError for the language {text!r}")

    def prompts(self) -> None:
        """A prompt is of the vocabulary, and says the language."""
        prompts = [tuple(self.tok.prompt(self.tok.language(name))) for name in self.languages]
        self.demand("prompts", all(0 <= i < self.tok.n_vocab for p in prompts for i in p), f"prompts {prompts}")
        different = {self.tok.language(name) for name in self.languages}
        self.demand("prompts", len(set(prompts)) == len(different), "two languages have one prompt")

    def read(self) -> None:
        """What a text encoder reads is of the vocabulary too."""
        if not isinstance(self.tok, SourceTokenizer):
            return
        for name in self.languages:
            ids = self.tok.source(self.texts[0], self.tok.language(name))
            self.demand("read", bool(ids) and all(0 <= i < self.tok.n_vocab for i in ids), f"in {name}: {ids}")
        self.demand("read", self.tok.foreign(self.texts[0]) == [], "letters that it writes are foreign to it")

    def demand(self, check: str, fulfilled: bool, message: str) -> None:
        if not fulfilled:
            raise ContractError(check, message)
