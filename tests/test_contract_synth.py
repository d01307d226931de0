"""The contract of synths, and the contract itself: each planted bug is caught by the check named for it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from contract import ContractError, zero_padding
from contract_synth import verify_synth
from torch import nn
from toys.folders import new_toy
from toys.text_to_mel import FlowSynth

from mmx.interfaces import Sound, Speech
from mmx.models import seamless_m4t, seamless_m4t_v1
from mmx.models.seamless_m4t import SpeechTables, hifigan, units
from mmx.seq import Seq
from mmx.state import State
from mmx.tasks.result import SpokenSegment
from mmx.tasks.speak import Voice, synthesize
from mmx.tasks.words import Word

WIDTH, FIRST, VOCAB = 8, 5, 12
PIECES = {str(i): chr(ord("a") + i) for i in range(FIRST, VOCAB)}
TABLES = SpeechTables(
    PIECES, {p: i for i, p in enumerate(PIECES.values(), 2)}, {"eng": 0, "deu": 1}, {"eng": 8, "deu": 9}
)


def seeded(make: Callable[[], Any], std: float = 0.3) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        synth = make()
        for p in synth.parameters():
            nn.init.normal_(p, std=std)
    return synth.eval()


def vocoder() -> hifigan.CodeVocoder:
    return hifigan.build(
        hifigan.Config(
            units=6, unit_width=4, languages=2, language_width=2, speakers=3, speaker_width=2, channels=16,
            strides=(2, 2), kernels=(4, 4), block_kernels=(3,), dilations=((1, 2),), duration_kernel=3,
        )
    )  # fmt: skip


def second() -> Any:
    """The voice of SeamlessM4T v2."""
    config = units.Config(
        width=WIDTH, heads=2, encoder_layers=1, encoder_hidden=8, decoder_layers=1, decoder_kernel=3, duration_hidden=4,
        vocab=12, char_vocab=20, ctx=64, special_units=4, units=6,
    )  # fmt: skip
    synth = seeded(lambda: seamless_m4t.Synthesizer(units.build(config), vocoder()))
    synth.tables = TABLES
    return synth


def first() -> Any:
    """That of version 1."""
    config = units.AutoregressiveConfig(
        width=WIDTH, heads=2, encoder_layers=1, encoder_hidden=8, decoder_layers=1, decoder_hidden=8, vocab=12, ctx=16
    )
    synth = seeded(lambda: seamless_m4t_v1.Synthesizer(units.build_autoregressive(config), vocoder(), 2, 4))
    synth.tables = TABLES
    return synth


def read(lengths: Sequence[int], seed: int, extra: int, width: int, language: str) -> Speech:
    """Random texts, and random numbers for what is read of them: `extra` frames more than there are tokens."""
    random = torch.Generator().manual_seed(seed)
    tokens = [torch.randint(FIRST, VOCAB, (n,), generator=random).tolist() for n in lengths]
    n_frames = torch.tensor([n + extra for n in lengths])
    x = torch.randn(len(lengths), int(n_frames.max()), width, generator=random)
    return Speech(texts=[""] * len(lengths), tokens=tokens, language=language, encoded=zero_padding(Seq(x, n_frames)))


def states(lengths: Sequence[int], seed: int) -> Speech:
    return read(lengths, seed, 3, WIDTH, "deu")


def encodings(lengths: Sequence[int], seed: int) -> Speech:
    return read(lengths, seed, 0, 32, "eng_Latn")


@pytest.mark.parametrize("make", [first, second])
def test_voices_that_read_the_decoder_keep_the_contract(make: Callable[[], Any]) -> None:
    verify_synth(make(), states)


def test_a_voice_that_streams_keeps_the_contract() -> None:
    verify_synth(new_toy("text_to_mel").synth, encodings, tolerance=1e-4)


def test_a_voice_of_another_kind_speaks_by_the_same_task() -> None:
    """Flow matching over the text encoder, at a rate of its own, in a model without a decoder."""
    model = new_toy("text_to_mel")
    assert isinstance(model.synth, FlowSynth)
    spoken = synthesize(model, "one", "one", "eng_Latn", "eng_Latn", Voice())
    assert isinstance(spoken, SpokenSegment) and spoken.rate == model.synth.rate
    assert len(spoken.samples) == 5 * 1280  # language, three letters, the end


# -------------------- planted bugs


class ShortNoise(FlowSynth):
    """Draws the same noise for the beginning of each piece."""

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        return super().speak(speech)


class CountsOnSelf(FlowSynth):
    """Counts what it said."""

    count = 0

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        self.count += 1
        return super().speak(speech, state)


class FreshNoise(FlowSynth):
    """Sounds otherwise each time."""

    def draw(self, memory: Seq, noise_BMF: Any = None) -> Seq:
        return super().draw(memory, None if noise_BMF is None else noise_BMF + 0.3 * torch.randn(1))


class NormalizesBatch(FlowSynth):
    """The louder the batch, the softer each text."""

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        wave = super().speak(speech, state).wave
        return Sound(wave._replace(x=wave.x / (1 + wave.x.abs().sum() / 1000)))


class NormalizesPadding(FlowSynth):
    """Reads the padding's mean."""

    def draw(self, memory: Seq, noise_BMF: Any = None) -> Seq:
        shift = (memory.x - memory.masked).mean(1, keepdim=True)
        return super().draw(memory._replace(x=memory.x + shift), noise_BMF)


class TooLoud(FlowSynth):
    """Leaves [-1, 1]."""

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        wave = super().speak(speech, state).wave
        return Sound(wave._replace(x=3e3 * wave.x))


class OtherRate(FlowSynth):
    """Declares a rate that its sound has not."""

    rate = 24_000.0

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        return Sound(super().speak(speech, state).wave._replace(rate=16_000.0))


class DropsTheLastBlock(FlowSynth):
    """Ends its stream early."""

    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        return iter(list(super().stream(speech, block_s))[:-1])


class WordsBackwards(FlowSynth):
    """Tells its words in another order than it speaks them."""

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        wave = super().speak(speech, state).wave
        words = [[Word("b", 0.01, 0.02), Word("a", 0.0, 0.01)] if n else [] for n in wave.lengths.tolist()]
        return Sound(wave, words)


class SaysAnything(FlowSynth):
    """Has every language."""

    def voices(self, language: str) -> Sequence[str]:
        return ("sines",)


class ReadsMore(FlowSynth):
    """Declares to read the text alone."""

    reads = "text"


BUGS = {
    ShortNoise: "stream", CountsOnSelf: "stateless", FreshNoise: "stateless", NormalizesBatch: "rows",
    NormalizesPadding: "padding", TooLoud: "shapes", OtherRate: "shapes", SaysAnything: "refusals",
    ReadsMore: "members", DropsTheLastBlock: "blocks", WordsBackwards: "words",
}  # fmt: skip


@pytest.mark.parametrize(("kind", "check"), BUGS.items(), ids=[b.__name__ for b in BUGS])
def test_planted_bugs_are_caught(kind: type[FlowSynth], check: str) -> None:
    with pytest.raises(ContractError) as caught:
        verify_synth(seeded(lambda: kind(8, 32, 4), 0.05), encodings, tolerance=1e-4)
    assert caught.value.check == check, str(caught.value)


def test_a_voice_that_is_not_there_is_refused_by_the_task() -> None:
    speech = replace(states([2], 0), language="fra")
    with pytest.raises(Exception, match="fra"):
        second().speak(speech)
