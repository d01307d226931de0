"""The interfaces between parts, on one page. What plugs in on one side needs nothing else of the other.

Blocks, decoders and synths have verifiers: `contract.py`, `contract_decoder.py` and `contract_synth.py` in tests/.
A class satisfies an interface by having its members; nothing is inherited.

Letters: B rows, R hypotheses over them, T frames, M memory frames, U tokens, N samples, D width, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from mmx.clip import Medium
from mmx.seq import Seq
from mmx.state import State

if TYPE_CHECKING:
    from mmx.generate import Filter
    from mmx.model import Model
    from mmx.tasks.options import Options
    from mmx.tasks.windows import Decoded, Job
    from mmx.tasks.words import Word

BatchT_contra = TypeVar("BatchT_contra", contravariant=True)


@runtime_checkable
class Block(Protocol):
    """Anything that maps a `Seq` to a `Seq`: front ends, encoders, adapters, vocoders.

    The same `forward` serves offline use and training (`state=None`) and streaming (a state from `init_state`, updated
    by the call).

    Attributes:
        stride: input frames for each output frame, or None where it depends on the data.
        lookahead: input frames past the current one that an output frame may depend on; `math.inf` for the whole
            input.
    """

    @property
    def stride(self) -> int | None: ...

    @property
    def lookahead(self) -> float: ...

    def forward(self, seq: Seq, state: State | None = None) -> Seq: ...

    def init_state(self, batch: int, capacity: int) -> State: ...


@runtime_checkable
class Front(Block, Protocol):
    """The first block of a modality, which says what it reads.

    Attributes:
        medium: audio, video, pose, features or text.
        rate: frames or samples of it per second; None for text.
        shape: of a frame; () for samples and tokens.
    """

    @property
    def medium(self) -> Medium: ...

    @property
    def rate(self) -> float | None: ...

    @property
    def shape(self) -> Sequence[int]: ...


@runtime_checkable
class PoseFront(Front, Protocol):
    """The first block of a modality of poses, which names the points that it reads.

    Attributes:
        points: groups of them in their order, as .pose files name them: "LEFT_HAND_LANDMARKS".
    """

    @property
    def points(self) -> Sequence[str]: ...


@runtime_checkable
class LandmarkFront(PoseFront, Protocol):
    """A `PoseFront` whose points may also be found in pictures.

    Attributes:
        extractor: name and version of what found those that the model learned from; another is refused.
    """

    @property
    def extractor(self) -> str: ...


@runtime_checkable
class CroppedFront(Front, Protocol):
    """The first block of a modality of pictures that are cut to a part of a person.

    Attributes:
        shows: the part: "mouth", as `mmx crop-mouth` cuts it, and a live session with a camera.
    """

    @property
    def shows(self) -> Literal["mouth"]: ...


@runtime_checkable
class Fuse(Protocol):
    """Anything that makes one memory of those of several modalities.

    The keys of `memories` say what is present: in a stream, those of its first call. What is absent is its business.
    """

    def forward(self, memories: Mapping[str, Seq], state: State | None = None) -> Seq: ...

    def init_state(self, batch: int, capacity: int) -> State: ...


@runtime_checkable
class Decoder(Protocol):
    """Anything that scores the next token given the tokens so far and a memory.

    `tokens` is `(R, U)`: R hypotheses over a memory of B rows. `owner` names the memory row of each, ascending; a row
    may have any number of them, none included. Without `owner` they are shared out evenly. Hypotheses of a row share
    its memory. With a state, only the new tokens are given and the state is advanced in place; what stands under its
    key `memory` depends on the memory alone and may be given to another state over the same one. Without a state the
    texts are whole: that is the call of training, with gradients and dropout.

    Attributes:
        width: D of the memory that it reads.
        ctx: tokens that a text with its prompt may have.
        dtype: of the memory that it reads.
        device: of its weights.
    """

    @property
    def width(self) -> int: ...

    @property
    def ctx(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def init_state(self, batch: int, capacity: int, hypotheses: int = 1) -> State:
        """An empty state for rows of `hypotheses` each, with room for `capacity` tokens before it grows."""
        ...

    def forward(
        self,
        tokens: Tensor,
        memory: Seq,
        state: State | None = None,
        at: Sequence[int] | None = None,
        owner: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits `(R, U, V)`, or `(R, len(at), V)` for the positions `at` of the U only."""
        ...

    def hidden(
        self, tokens: Tensor, memory: Seq, state: State | None = None, owner: Sequence[int] | None = None
    ) -> Tensor:
        """What `head` reads, `(R, U, *)`; the arguments are those of `forward`."""
        ...

    def head(self, hidden: Tensor, /) -> Tensor:
        """Logits `(*, V)`: `forward` is `head` of `hidden`."""
        ...


@runtime_checkable
class Embeds(Protocol):
    """A part that reads tokens by an embedding, which another part may share.

    Attributes:
        token: the embedding `(V, D)`.
    """

    @property
    def token(self) -> nn.Module: ...


@runtime_checkable
class Aligner(Decoder, Protocol):
    """A decoder whose attention says which frames of the memory a token is about.

    Attributes:
        alignment_heads: (layer, head) pairs that may follow the source; a model's card may know better.
    """

    @property
    def alignment_heads(self) -> tuple[tuple[int, int], ...]: ...

    def cross_weights(
        self,
        tokens: Tensor,
        memory: Seq,
        heads: Sequence[tuple[int, int]],
        shared: State | None = None,
        below: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores of chosen heads before the softmax `(B, heads, U, M)`, and the probability `(B, U - 1)` of each next
        token, among those below `below`; `shared` is the `memory` of a state over the same memory."""
        ...


@runtime_checkable
class Tokenizer(Protocol):
    """Text to the decoder's tokens and back.

    Attributes:
        eot: the token that ends a text.
        n_vocab: V of the decoder, which may be more than there are tokens.
        language_ids: languages by the tokenizer's spelling, with the token of each; empty where words name them.
        control_ids: tokens that no text holds, without `eot`.
    """

    eot: int
    n_vocab: int

    @property
    def language_ids(self) -> Mapping[str, int]: ...

    @property
    def control_ids(self) -> Sequence[int]: ...

    def language(self, text: str) -> str:
        """The tokenizer's spelling of a language. Raises `InputError` for one that it does not have."""
        ...

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without prompt and end."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text of tokens; control tokens leave nothing."""
        ...

    def prompt(self, language: str) -> list[int]:
        """What the decoder starts from to write a language, as `language` spells it."""
        ...

    def split_words(self, ids: Iterable[int]) -> list[tuple[str, list[int]]]:
        """Words with their leading spaces, and the tokens of each; together the tokens are the input."""
        ...


@runtime_checkable
class SourceTokenizer(Tokenizer, Protocol):
    """A tokenizer whose model also reads text."""

    def source(self, text: str, language: str) -> list[int]:
        """What the text encoder reads."""
        ...

    def foreign(self, text: str) -> list[str]:
        """Letters of a text that the vocabulary lacks."""
        ...


@runtime_checkable
class TaskTokenizer(Protocol):
    """What the tokenizer of a family has beside `Tokenizer` whose texts hold more than text: tasks, timestamps. Such a
    family brings its own recognizer.

    Attributes:
        recognizer: name of the module with `fit`, `recognizer` and `prompter`; see `Recognizer`.
        multilingual: whether its prompt names the language; else all is English.
    """

    recognizer: str
    multilingual: bool

    def lesson(self, text: str, src_lang: str, tgt_lang: str, task: str) -> tuple[list[int], list[int]]:
        """What training gives the decoder to write a text, and what it is to write then: the text and its end. Raises
        `InputError` for a task or a language that the model does not have."""
        ...


Voice = int | str | Mapping[str, Tensor]
"""A voice of a synth: its place among `Synth.voices`, its name there, or the tensors that describe another one."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What a synth is to say: B texts in one language and voice.

    Attributes:
        texts: the texts, as they are spoken: numbers and abbreviations in words (`mmx.text.spoken`).
        tokens: the same as the decoder's tokens, without prompt and end; none for a synth that reads texts itself.
        language: as the model's tokenizer spells it; a BCP-47 tag where there is no tokenizer.
        encoded: what `Synth.reads` names, `(B, U, D)`; None where that is the text alone.
        voice: which one.
        speed: above 1 is faster.
        pitch: semitones above the voice's own.
        range: how far the logarithm of F0 goes from its mean, relative to the voice's own.
        steps: of a sampler (flow matching); the synth's own number when 0.
        seed: of what is drawn at random: the same seed gives the same sound.
        final: False when more of the same texts follows (a stream).
    """

    texts: Sequence[str]
    tokens: Sequence[Sequence[int]] = ()
    language: str
    encoded: Seq | None = None
    voice: Voice = 0
    speed: float = 1.0
    pitch: float = 0.0
    range: float = 1.0
    steps: int = 0
    seed: int = 0
    final: bool = True


class Sound(NamedTuple):
    """What a synth made.

    Attributes:
        wave: waveform `(B, N)` in [-1, 1].
        words: the words of each text with their times in `wave`: `text.split()` in languages with spaces. Empty where
            the synth does not know them.
    """

    wave: Seq
    words: "Sequence[Sequence[Word]]" = ()


@runtime_checkable
class Synth(Protocol):
    """Says text aloud.

    Attributes:
        rate: samples per second of what it gives.
        reads: what it needs of the text: its tokens alone ("text"), what the model's text encoder makes of them
            ("encoder"), or the decoder's `hidden` over prompt, tokens and end ("decoder").
        lookahead: tokens past the current one that its sound depends on; `math.inf` for the whole text, and such a
            synth takes no text in pieces.
    """

    @property
    def rate(self) -> float: ...

    @property
    def reads(self) -> Literal["text", "encoder", "decoder"]: ...

    @property
    def lookahead(self) -> float: ...

    def voices(self, language: str) -> Sequence[str]:
        """Names of the voices that can say a language. Raises `InputError` for one that none of them can."""
        ...

    def init_state(self, batch: int, capacity: int) -> State:
        """The state of `batch` texts that come in pieces."""
        ...

    def speak(self, speech: Speech, state: State | None = None) -> Sound:
        """The sound of texts; with a state, what the texts so far allow.

        Raises:
            InputError: the language, the voice, the speed, the pitch or its range is none that it has.
        """
        ...

    def stream(self, speech: Speech, block_s: float) -> Iterator[Sound]:
        """The sound of one whole text, block by block of about `block_s` seconds, each as soon as it is made.

        Joined, the blocks are what `speak` gives, within 1 % of its loudness. Words are told with the block that they
        begin in, with times from the start of the text. A synth that makes a text at once gives one block.
        """
        ...


@runtime_checkable
class HalfPrecise(Protocol):
    """A part that is float32 but for modules of it that compute as an encoder does (bfloat16, float16)."""

    def narrow(self) -> Iterable[nn.Module]:
        """Those modules."""
        ...


class Recognizer(Protocol):
    """Writes what is said in windows of recordings; made by the `recognizer(model, options)` of a module that
    also has `fit(model, options)`, which raises `InputError` for options that the model cannot serve, and
    `prompter(model, options)`, which makes the `Prompter` of a live session.

    Attributes:
        options: as the model takes them: its spelling of languages, its defaults.
    """

    options: "Options"

    def __call__(self, jobs: "Sequence[Job]") -> "list[Decoded]":
        """One answer for each window, on its recording's clock."""
        ...


class Prompter(Protocol):
    """The text side of a live session: what the model is asked to write, and how the answer is read.

    Attributes:
        max_context: tokens of text before the window that `prompt` takes.
        eot: the token that ends a text.
        task: transcribe or translate.
        spoken: the tokenizer's spelling of the language of the speech, None until it is known.
        guess: what it seems to be, meanwhile.
    """

    @property
    def max_context(self) -> int: ...

    eot: int
    task: str
    spoken: str | None
    guess: str | None

    @property
    def language(self) -> str:
        """Tag of the language that is written; empty until it is known."""
        ...

    def prompt(self, context: Sequence[int]) -> list[int]:
        """What comes before the text of the window, `context` being the text before that."""
        ...

    def filters(self, begins: bool) -> "list[Filter]":
        """What a text must not hold; `begins` where nothing is committed of the window yet."""
        ...

    def split(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """Words with their leading spaces, and their tokens; what a hyphen or an apostrophe joins is one word."""
        ...

    def detect(self, memory: Seq, sure: bool) -> State:
        """Tell the language of the speech where it is not known, for good if `sure`.

        Returns:
            The decoder's keys and values of the memory, to save their cost; empty where it was not asked.
        """
        ...


@dataclass(frozen=True)
class Losses:
    """What a model has to learn from a batch, by name.

    Attributes:
        total: the sum of each loss over what it counts, differentiable; the batches of an update add up.
        counts: how much that is (tokens, rows, frames): of what each loss is the mean.
        figures: sums to be reported beside them, each over the count of its name, or over 1.
    """

    total: Mapping[str, Tensor]
    counts: Mapping[str, int]
    figures: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What an objective needs of the data.

    Attributes:
        text: whether every example has a text to write.
        modalities: that every example has; whatever the model reads of them when empty.
        makes: the medium of what is to be made, empty for none.
        rate: frames or samples of it a second; those of the synth when 0.
        raw: whether what frozen encoders made of the inputs is of no use.
    """

    text: bool = True
    modalities: tuple[str, ...] = ()
    makes: str = ""
    rate: float = 0.0
    raw: bool = False


class Objective(Protocol[BatchT_contra]):
    """What training minimizes: token loss, CTC, contrastive, flow matching, distillation.

    An update adds up the batches of all processes. What they count is known before any of them is run, so that the
    gradient of several small batches is that of a large one.

    Attributes:
        perplexity: whether its loss is a mean over tokens in nats, whose exponential is reported too.
    """

    @property
    def perplexity(self) -> bool: ...

    def needs(self, model: "Model") -> Needs:
        """What it needs of the data to train a model. Raises `InputError` for one that it cannot train."""
        ...

    def count(self, batch: BatchT_contra) -> Mapping[str, int]:
        """The `Losses.counts` of a batch, before the model is run."""
        ...

    def weights(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """Of one item of each loss, given the counts of the whole update; a loss that is not named has none."""
        ...

    def __call__(self, model: "Model", batch: BatchT_contra) -> Losses:
        """The first of the figures is what is reported, and validated, as the loss."""
        ...
