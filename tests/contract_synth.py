"""The law that every `Synth` keeps: `verify_synth` measures it and names the check that a synth breaks.

Letters: B rows, U tokens, N samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from contract import N_THREADS, ContractError, at_once, attributes, fill_padding, rows_of
from contract_decoder import watched
from torch import Tensor

from mmx.errors import InputError
from mmx.interfaces import Speech, Synth
from mmx.seq import Seq
from mmx.state import State, leaves

BLOCK_ERROR = 0.01
"""How far blocks may be from the whole, relative to its loudness."""
MakeSpeech = Callable[[Sequence[int], int], Speech]
"""Random texts of so many tokens, by seed, with what the synth reads of them, in a language that it has."""


def verify_synth(synth: Any, make: MakeSpeech, *, tolerance: float = 1e-5) -> None:
    """Raise `ContractError` unless `synth` keeps the law.

    Args:
        synth: in evaluation mode, with random weights.
        make: see `MakeSpeech`.
        tolerance: absolute, of samples.
    """
    _SynthLaw(synth, make, tolerance).verify()


class _SynthLaw:
    def __init__(self, synth: Any, make: MakeSpeech, tolerance: float):
        self.synth, self.make, self.tolerance = synth, make, tolerance
        self.demand("members", isinstance(synth, Synth), "expected all members of a Synth")
        self.lengths = (6, 3, 1)
        self.speech = make(self.lengths, 0)
        self.expected = self.say(self.speech)

    def verify(self) -> None:
        checks = [self.members, self.shapes, self.words, self.stateless, self.rows, self.padding, self.refusals]
        if self.synth.lookahead != math.inf:
            checks.append(self.stream)
        for check in [*checks, self.blocks, self.threads]:
            check()

    def members(self) -> None:
        """What tasks ask of a synth."""
        self.demand("members", self.synth.rate > 0, f"rate is {self.synth.rate}")
        self.demand("members", self.synth.reads in ("text", "encoder", "decoder"), f"reads is {self.synth.reads!r}")
        needs = self.synth.reads != "text"
        self.demand("members", (self.speech.encoded is not None) == needs, "what it reads is not what it says it reads")
        self.demand("members", len(self.synth.voices(self.speech.language)) > 0, "no voice for its own language")

    def shapes(self) -> None:
        """Sound in [-1, 1], at the rate that is declared."""
        with torch.no_grad():
            out = self.synth.speak(self.speech).wave
        self.demand("shapes", out.rate is not None and math.isclose(out.rate, self.synth.rate), f"rate {out.rate}")
        self.demand("shapes", out.x.dim() == 2 and len(out.x) == len(self.lengths), f"sound {tuple(out.x.shape)}")
        loud = max(float(row.abs().max()) for row in self.expected if len(row))
        self.demand("shapes", 0 < loud <= 1, f"the loudest sample is {loud}")

    def words(self) -> None:
        """Times of the texts' words, in order and within the sound; or none at all."""
        with torch.no_grad():
            words = self.synth.speak(self.speech).words
        self.demand("words", len(words) in (0, len(self.lengths)), f"words of {len(words)} texts")
        for text, timed, wave in zip(self.speech.texts, words, self.expected, strict=False):
            end_s = len(wave) / self.synth.rate
            edges = [0.0, *(t for w in timed for t in (w.start_s, w.end_s)), end_s + 1e-6]
            self.demand("words", edges == sorted(edges), f"times {edges[:7]} in {end_s:.3f} s of sound")
            told = [w.text.strip() for w in timed]
            self.demand("words", told == text.split() or not text.split(), f"words {told[:5]} of {text!r}")

    def stateless(self) -> None:
        """No call writes to a module, and the same text sounds the same again."""
        before = dict(attributes(self.synth))
        with watched(self.synth) as written:
            self.say(self.make(self.lengths, 1))
            again = self.say(self.speech)
        after = dict(attributes(self.synth))
        moved = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        self.demand("stateless", not moved and not written, f"speaking changed {[*moved, *sorted(written)][:5]}")
        self.same("stateless", again, self.expected, "the same text a second time")

    def rows(self) -> None:
        """A text does not know its neighbours."""
        for b in range(len(self.lengths)):
            self.same("rows", self.say(row_of(self.speech, b)), self.expected[b : b + 1], f"text {b} alone")

    def padding(self) -> None:
        """What lies beyond the texts' lengths changes nothing."""
        if self.speech.encoded is not None:
            padded = replace(self.speech, encoded=fill_padding(self.speech.encoded, 1e4))
            self.same("padding", self.say(padded), self.expected, "10,000 in the padding")

    def refusals(self) -> None:
        """A language that it does not have is refused by name."""
        try:
            self.synth.voices("xxx_Xxxx")
        except InputError:
            return
        raise ContractError("refusals", "a language that is none has voices")

    def blocks(self) -> None:
        """A text in blocks of sound is the text at once, for blocks of any length."""
        with torch.no_grad():
            for b, block_s in ((0, 0.1), (0, 0.25), (1, 10.0)):
                row, wanted = row_of(self.speech, b), self.expected[b]
                told = self.synth.speak(row).words
                parts = list(self.synth.stream(row, block_s))
                got = torch.cat([rows_of(part.wave)[0] for part in parts])
                self.demand("blocks", got.shape == wanted.shape, f"{len(got)} samples, not {len(wanted)}")
                by = float((got - wanted).norm() / wanted.norm().clamp(min=1e-9))
                self.demand("blocks", by <= BLOCK_ERROR, f"blocks of {block_s} s differ by {by:.3g} of the whole")
                words = [w for part in parts for row in part.words for w in row]
                self.demand("blocks", words == [w for row in told for w in row], "other words than those of the whole")

    def stream(self) -> None:
        """Any division of the texts into pieces sounds like the whole."""
        for sizes in ([1] * 6, [2, 3, 1], [6], [0, 4, 2]):
            state: State = self.synth.init_state(len(self.lengths), 8)
            odd = [name for name, value in leaves(state) if value.shape[:1] != (len(self.lengths),)]
            self.demand("stream", not odd, f"{odd[:5]} of a state have not {len(self.lengths)} rows")
            at, parts = 0, []
            for i, n in enumerate(sizes):
                piece = replace(piece_of(self.speech, at, n), final=i + 1 == len(sizes))
                with torch.no_grad():
                    parts.append(rows_of(self.synth.speak(piece, state).wave))
                at += n
            got = [torch.cat(row) for row in zip(*parts, strict=True)]
            self.same("stream", got, self.expected, f"pieces of {sizes} tokens")

    def threads(self) -> None:
        """Several texts are said by one module at once."""
        texts = [self.make(self.lengths, 10 + k) for k in range(N_THREADS)]
        wanted = [self.say(t) for t in texts]
        at_once(lambda k: self.same("threads", self.say(texts[k]), wanted[k], "a text"))

    def say(self, speech: Speech) -> list[Tensor]:
        with torch.no_grad():
            return rows_of(self.synth.speak(speech).wave)

    def demand(self, check: str, holds: bool, message: str) -> None:
        if not holds:
            raise ContractError(check, message)

    def same(self, check: str, got: Sequence[Tensor], wanted: Sequence[Tensor], what: str) -> None:
        for row, (a, b) in enumerate(zip(got, wanted, strict=True)):
            self.demand(check, a.shape == b.shape, f"{what}: row {row} has {len(a)} samples, not {len(b)}")
            by = float((a - b).abs().max()) if len(a) else 0.0
            self.demand(check, by <= self.tolerance, f"{what}: row {row} differs by {by:.3g}")


def row_of(speech: Speech, b: int) -> Speech:
    """One text of several."""
    encoded = None
    if speech.encoded is not None:
        one = speech.encoded.rows(torch.tensor([b]))
        encoded = one._replace(x=one.x[:, : int(one.lengths[0])])
    return replace(speech, texts=speech.texts[b : b + 1], tokens=speech.tokens[b : b + 1], encoded=encoded)


def piece_of(speech: Speech, at: int, n: int) -> Speech:
    """`n` tokens of each text from `at` on; texts that are over give none."""
    encoded = speech.encoded
    if encoded is not None:
        encoded = Seq(encoded.x[:, at : at + n], (encoded.lengths - at).clamp(0, n), encoded.rate)
    return replace(speech, tokens=[row[at : at + n] for row in speech.tokens], encoded=encoded)
