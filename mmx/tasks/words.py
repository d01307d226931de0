"""What a task finds: words, segments and translated sentences; below what joins and writes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """A word and when it was said; the text keeps its leading space: joined texts give the sentence.

    Attributes:
        text: the word with the marks around it.
        start_s: when it was said, in seconds of the window, the recording or the session that it is told of.
        end_s: when it had been said.
        probability: the mean that the model gave its tokens, in [0, 1].
        final: whether it ends a sentence or a stretch of speech; told of live words only.
        tokens: its token ids, as long as it is being aligned.
    """

    text: str
    start_s: float
    end_s: float
    probability: float = 1.0
    final: bool = False
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech, usually a sentence or a part of one, with the figures that its decoding left.

    `language` is a code ("de"); `avg_logprob` the mean natural log-probability of a token (<= 0);
    `no_speech_prob` a probability; `compression_ratio` bytes before / bytes after zlib (high is repetition);
    `temperature` the sampling temperature of the attempt that was kept; `source_text` what a translation translates,
    where it was kept; `channel` the one it was heard on, "left" or "right", where each was heard by itself; `pauses`
    silences within it, in seconds from and to, where several segments became one.
    """

    start_s: float
    end_s: float
    text: str
    language: str
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 1.0
    temperature: float = 0.0
    words: tuple[Word, ...] = ()
    source_text: str = ""
    channel: str = ""
    pauses: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class SentenceTranslation:
    """A sentence, or a part of one that was too long, and its translation.

    Attributes:
        source: the sentence.
        text: its translation.
        score: mean log-probability of the translation's tokens and its end.
        repetition: the search ran into a loop, and again with repetition forbidden; `text` is the second result.
        cut: the translation reached the limit of its length before its end.
        divided: the sentence was too long and this is a part of it.
    """

    source: str
    text: str
    score: float
    repetition: bool = False
    cut: bool = False
    divided: bool = False


@dataclass(frozen=True)
class Translation:
    """A text in another language.

    Attributes:
        text: the translation, with the line breaks of the source.
        segments: sentence by sentence, in order; none where the source has only white space.
        src: language of the source, as the model spells it.
        to: language of the translation, as the model spells it.
    """

    text: str
    segments: tuple[SentenceTranslation, ...]
    src: str
    to: str
