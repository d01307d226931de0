"""Cut a recording of any length into windows that hold all of its speech and fit a recogniser's 30 s.

    clips -> chunks of a fixed size -> speech probability per frame -> spans of speech -> windows and gaps

Every step is a stream: about two windows of the recording are in memory, however long it is. Decisions depend on
the sound alone, never on how it was cut into clips; all other modalities are cut where it is. A recording without
sound is cut by length. Inside, a position is a whole number of samples since the start of the file, also where there
is no sound; seconds appear only in the options and in what is given out.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mmx.clip import SPEECH, Clip, Rolling, frame_at, lay, rate_of
from mmx.errors import InputError
from mmx.media.audio import SAMPLE_RATE
from mmx.media.gain import FRAME, Gain
from mmx.media.signing import signing_spans
from mmx.tasks.window import Gap, Piece, Window, last_least, quietest, sound, to_samples

if TYPE_CHECKING:
    from mmx.seq import Seq
    from mmx.state import State

CHUNK = 128 * FRAME
"""Samples that the detector hears at once, 4.1 s. Fixed, so that block sizes cannot change a probability."""
DEAF = 0.1
"""Part of a chunk's frames: where a detector hears less speech, a second is asked, and believed if it hears more."""
MIN_GAP = 800
"""Samples, 0.05 s: a gap not longer than this is shared out between its neighbours."""

NO_SPEECH = "no speech"
NO_SIGNING = "no signing"


class Vad(Protocol):
    """What `split` needs of a speech detector; `mmx.media.silero_vad.SileroVad` is one."""

    def forward(self, seq: "Seq", state: "State | None" = None) -> "Seq":
        """Wav `(1, N)` at 16 kHz to one probability for every 512 samples, `(1, T)`."""
        ...

    def init_state(self, batch: int, capacity: int = 0) -> "State":
        """The state of a stream that has heard nothing."""
        ...


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """How to cut. The defaults would rather keep noise than lose speech.

    Attributes:
        max_window_s: no window is longer, not by one sample.
        threshold: speech starts at a frame of at least this probability.
        neg_threshold: speech goes on until frames stay below this for `min_silence_s`.
        min_speech_s: shorter bursts are not speech; they become a gap with its reason.
        min_silence_s: see `neg_threshold`.
        pad_s: audio kept on each side of speech, for detectors are late at soft sounds.
        max_gap_s: silence up to this stays in a window as it is; longer silence is cut out, all but the pads.
        max_gain_db: quiet audio is amplified for the detector, by no more than this; windows never are.
    """

    max_window_s: float = 30.0
    threshold: float = 0.5
    neg_threshold: float = 0.35
    min_speech_s: float = 0.1
    min_silence_s: float = 0.5
    pad_s: float = 0.3
    max_gap_s: float = 2.0
    max_gain_db: float = 40.0

    def __post_init__(self) -> None:
        if not 0 <= self.neg_threshold <= self.threshold <= 1:
            raise InputError(
                "expected 0 <= neg_threshold <= threshold <= 1, "
                f"got neg_threshold={self.neg_threshold}, threshold={self.threshold}"
            )
        for name in ("min_speech_s", "min_silence_s", "pad_s", "max_gap_s", "max_gain_db"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"expected {name} to be 0 or more, got {getattr(self, name)}")
        # What is left for speech must hold a few frames to cut in, and no burst may be long enough to be cut.
        least = 2 * (self.pad_s + MIN_GAP / SAMPLE_RATE) + max(0.5, self.min_speech_s)
        if not least <= self.max_window_s < float("inf"):
            raise InputError(
                f"expected max_window_s of at least {least:g} with pad_s={self.pad_s} and "
                f"min_speech_s={self.min_speech_s}, got {self.max_window_s}: "
                "make the window longer or the pad shorter"
            )


def split(
    blocks: Iterable[np.ndarray | Clip],
    vad: Vad | None,
    options: SegmentOptions | None = None,
    second: Vad | None = None,
    points: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Window | Gap]:
    """Windows that hold all the speech or signing, and the gaps between them, as soon as they are known.

    Args:
        blocks: clips of one row that follow each other, with speech at 16 kHz or without; or mono float blocks `(N,)`
            at 16 kHz. Any sizes, 0 included; read lazily. A sample that is not finite is taken as 0.
        vad: finds speech. None keeps everything: windows follow each other, cut at the quietest 0.1 s of the
            last 5 s. Clips without speech are cut at the longest window.
        options: how to cut; None takes the defaults.
        second: another detector, asked about chunks in which the first hears next to nothing.
        points: by modality, the groups of points of recordings of poses, of which the signing is kept; see
            `mmx.media.signing`. Such a recording is read to its end first: an hour is 80 MB.

    Yields:
        `Window` and `Gap` in order of `start_s`. Pieces of windows and gaps cover the file exactly once. A
        gap that was cut out of a window comes after that window.

    Raises:
        InputError: if a block is not mono float audio.
    """
    options = SegmentOptions() if options is None else options
    clips = (_as_clip(b) for b in blocks)
    first = next(clips, None)
    if first is None:
        return
    clips = itertools.chain([first], clips)
    if SPEECH not in first:
        yield from _by_signing(clips, options, points) if points else _by_length(clips, options)
        return
    recording = _Recording()
    chunks = _chunks(recording.sound_of(clips))
    yield from (
        _fixed(chunks, recording, options) if vad is None else _by_speech(chunks, recording, (vad, second), options)
    )


def _as_clip(block: np.ndarray | Clip) -> Clip:
    if not isinstance(block, np.ndarray):
        return block
    if block.ndim != 1 or not np.issubdtype(block.dtype, np.floating):
        raise InputError(
            f"expected mono float blocks of shape (samples,), got {block.dtype} {block.shape}: "
            "mix to mono and scale to [-1, 1] first"
        )
    return sound(block)


def _by_speech(
    chunks: Iterator[np.ndarray], recording: "_Recording", detectors: tuple[Vad, Vad | None], options: SegmentOptions
) -> Iterator[Window | Gap]:
    spans, packer = _Spans(options), _Packer(recording, options)
    for chunk, probabilities in _listen(chunks, *detectors, options):
        recording.append(chunk)
        for p in probabilities:
            for span in spans.push(p, recording.end):
                packer.add(span)
        packer.silent_until(spans.silent_until)
        yield from packer.take()
    for span in spans.finish(recording.end):
        packer.add(span)
    packer.finish(recording.end)
    yield from packer.take()


def _fixed(chunks: Iterator[np.ndarray], recording: "_Recording", options: SegmentOptions) -> Iterator[Window]:
    """Windows one after the other, each cut where it is quietest near its end."""
    limit = to_samples(options.max_window_s)
    start, index = 0, 0
    for chunk in chunks:
        recording.append(chunk)
        # Strictly longer: a rest that fits is one window, which only the end of the file can tell.
        while recording.end - start > limit:
            search = min(to_samples(5.0), limit // 2)
            cut = start + limit - search + quietest(recording.samples(start + limit - search, start + limit))
            yield _window(index, [(start, cut)], [recording.get(start, cut)])
            recording.drop(cut)
            start, index = cut, index + 1
    if recording.end > start:
        yield _window(index, [(start, recording.end)], [recording.get(start, recording.end)])


def _by_length(clips: Iterable[Clip], options: SegmentOptions) -> Iterator[Window]:
    """Windows of clips without sound, each of the longest length but the last."""
    limit, recording = to_samples(options.max_window_s), _Recording()
    start, index = 0, 0
    for clip in clips:
        recording.rows.append(clip)
        while frame_at(recording.rows.end_s, SAMPLE_RATE) - start > limit:
            yield _window(index, [(start, start + limit)], [recording.get(start, start + limit)])
            recording.drop(start + limit)
            start, index = start + limit, index + 1
    end = frame_at(recording.rows.end_s, SAMPLE_RATE)
    if end > start:
        yield _window(index, [(start, end)], [recording.get(start, end)])


def _by_signing(
    clips: Iterable[Clip], options: SegmentOptions, points: Mapping[str, Sequence[str]]
) -> Iterator[Window | Gap]:
    """A window for each stretch of signing, or several of the longest length, and gaps where hands rest."""
    limit, recording = to_samples(options.max_window_s), _Recording()
    for clip in clips:
        recording.rows.append(clip)
    end = frame_at(recording.rows.end_s, SAMPLE_RATE)
    whole = recording.get(0, end)
    found = [
        span for name, groups in points.items() if name in whole
        for span in signing_spans(whole[name].x[0].numpy(), rate_of(name, whole[name]), groups)
    ]  # fmt: skip
    at, index = 0, 0
    for start, stop in sorted((frame_at(a, SAMPLE_RATE), min(end, frame_at(b, SAMPLE_RATE))) for a, b in found):
        start = max(at, start)  # of several modalities, spans may overlap
        if start > at:
            yield Gap(at / SAMPLE_RATE, start / SAMPLE_RATE, NO_SIGNING)
        while at < stop:
            at = max(at, start)
            until = min(stop, at + limit)
            yield _window(index, [(at, until)], [recording.get(at, until)])
            at, index = until, index + 1
    if end > at:
        yield Gap(at / SAMPLE_RATE, end / SAMPLE_RATE, NO_SIGNING)


def _chunks(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same samples in chunks of exactly `CHUNK`, then one shorter, maybe empty; each owns its memory."""
    chunk, filled = np.empty(CHUNK, np.float32), 0
    for block in blocks:
        at = 0
        while at < len(block):
            n = min(CHUNK - filled, len(block) - at)
            chunk[filled : filled + n] = block[at : at + n]
            at, filled = at + n, filled + n
            if filled == CHUNK:
                yield _finite(chunk)
                chunk, filled = np.empty(CHUNK, np.float32), 0
    yield _finite(chunk[:filled].copy())


def _finite(x: np.ndarray) -> np.ndarray:
    # One NaN would stay in the detector's memory and make all that follows silent.
    return np.nan_to_num(x, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _listen(
    chunks: Iterator[np.ndarray], vad: Vad, second: Vad | None, options: SegmentOptions
) -> Iterator[tuple[np.ndarray, list[float]]]:
    """Each chunk with the speech probabilities of the frames that it completes."""
    import torch

    from mmx.seq import Seq
    from mmx.state import leaves

    state = vad.init_state(1)
    device = next((leaf.device for _, leaf in leaves(state)), torch.device("cpu"))
    gain = Gain(options.max_gain_db)
    total = 0
    for chunk in chunks:
        total += len(chunk)
        final = len(chunk) < CHUNK
        if total == 0:
            return
        with torch.inference_mode():
            x = torch.from_numpy(gain.apply(chunk))[None].to(device)
            lengths = torch.tensor([len(chunk)], device=device)
            heard = vad.forward(Seq(x, lengths, SAMPLE_RATE, final), state).x[0]
            if second is not None and len(heard) and (heard >= options.threshold).float().mean() < DEAF:
                other = second.forward(Seq(x, lengths, SAMPLE_RATE), None).x[0, : len(heard)]
                if (other >= options.threshold).float().mean() >= DEAF:  # less is a burst, of which music has some
                    heard = torch.maximum(heard, other)
            probabilities = heard.double().cpu().numpy()
        # A detector that fails must not lose speech.
        yield chunk, np.nan_to_num(probabilities, nan=1.0).tolist()


@dataclass(frozen=True, slots=True)
class _Span:
    """Speech `[start, end)`, or a burst too short to be any. `joined`: it goes on where the last was cut."""

    start: int
    end: int
    speech: bool = True
    joined: bool = False


class _Spans:
    """Speech probabilities in, spans of speech out, none longer than fits a window with its pads."""

    def __init__(self, options: SegmentOptions) -> None:
        self.threshold, self.neg_threshold = options.threshold, options.neg_threshold
        self.min_speech, self.min_silence = to_samples(options.min_speech_s), to_samples(options.min_silence_s)
        pad = to_samples(options.pad_s) + MIN_GAP
        # The most speech in one window: after a pad (or, of a span that was cut, after none), and before one.
        self.most = {
            False: to_samples(options.max_window_s) - 2 * pad,
            True: to_samples(options.max_window_s) - pad,
        }
        self.at = 0
        self.start: int | None = None
        self.joined = False
        self.low: int | None = None
        self.heard: list[float] = []

    @property
    def silent_until(self) -> int:
        """No span that is still to come starts before this sample."""
        return self.at if self.start is None else self.start

    def push(self, p: float, total: int) -> Iterator[_Span]:
        """Take the probability of the next frame; `total` samples of the file have arrived so far."""
        at, self.at = self.at, min(self.at + FRAME, total)
        if self.start is None:
            if p >= self.threshold:
                self.start, self.joined, self.low, self.heard = at, False, None, [p]
            return
        self.heard.append(p)
        if p >= self.neg_threshold:
            self.low = None
        elif self.low is None:
            self.low = at
        while (self.at if self.low is None else self.low) - self.start > self.most[self.joined]:
            yield self._cut()
        if self.low is not None and self.at - self.low >= self.min_silence:
            yield self._close(self.low)

    def finish(self, total: int) -> Iterator[_Span]:
        """The file ends at sample `total`."""
        if self.start is not None:
            yield self._close(total if self.low is None else self.low)

    def _close(self, end: int) -> _Span:
        assert self.start is not None
        # The rest of a span that was cut is speech, however short.
        span = _Span(self.start, end, self.joined or end - self.start >= self.min_speech, self.joined)
        self.start = None
        return span

    def _cut(self) -> _Span:
        """Cut the open span where speech is least likely, in the second half of what a window holds."""
        assert self.start is not None
        most, first = self.most[self.joined], self.start // FRAME
        padded = np.pad(np.asarray(self.heard), 2, mode="edge")
        smoothed = np.convolve(padded, np.full(5, 0.2), mode="valid").round(6)
        middles = (first + np.arange(len(smoothed))) * FRAME + FRAME // 2
        allowed = np.flatnonzero((middles >= self.start + most // 2) & (middles <= self.start + most))
        best = int(allowed[last_least(smoothed[allowed])])
        span = _Span(self.start, int(middles[best]), True, self.joined)
        self.start, self.joined, self.heard = span.end, True, self.heard[best:]
        return span


class _Packer:
    """Spans in, windows and gaps out.

    The last stretch of the open window, `first` to `last`, stays open at its end: only the next span, or a
    long silence, tells how much of what follows belongs to it. The file is accounted for up to `edge`.
    """

    def __init__(self, recording: "_Recording", options: SegmentOptions) -> None:
        self.recording = recording
        self.limit, self.pad = to_samples(options.max_window_s), to_samples(options.pad_s)
        # A silence that two pads nearly fill cannot be cut out.
        self.keep = max(to_samples(options.max_gap_s), 2 * self.pad + MIN_GAP)
        self.too_short = f"speech shorter than {options.min_speech_s:g} s"
        self.index = 0
        self.edge = 0
        self.stretches: list[tuple[int, int]] = []
        self.speech: list[tuple[int, int]] = []
        self.parts: list[Clip] = []
        self.filled = 0
        self.first: int | None = None
        self.last = 0
        self.bursts: list[_Span] = []
        self.inside: list[Gap] = []
        self.ready: list[Window | Gap] = []

    def take(self) -> list[Window | Gap]:
        """What has become certain since the last call."""
        ready, self.ready = self.ready, []
        return ready

    def silent_until(self, t: int) -> None:
        """There is no speech between the last span and sample `t`: let go of audio that no window needs."""
        if self.first is not None and t - self.last > self.keep:
            self._settle(self.last + self.pad)
        self.recording.drop(self.first if self.first is not None else max(self.edge, t - self.pad - MIN_GAP))

    def add(self, span: _Span) -> None:
        """Put a span into the open window, or close that and open the next."""
        if not span.speech:
            self.bursts.append(span)
            return
        if self.first is not None and span.start - self.last > self.keep:
            self._settle(self.last + self.pad)
        needed = span.end + self.pad + MIN_GAP  # the pad that follows, at its longest
        full = self.first is not None and self.filled + needed - self.first > self.limit
        if self.first is not None:
            if not full:
                self.last = span.end
                self.speech.append((span.start, span.end))
                return
            if span.start - self.last <= 2 * self.pad + MIN_GAP:
                self._settle((self.last + span.start) // 2)
            else:
                self._settle(self.last + self.pad)
        first = span.start - self.pad
        if first - self.edge <= MIN_GAP:
            first = self.edge
        self._gap(first)
        if full or self.filled + needed - first > self.limit:
            self._emit()
        self.first, self.last = first, span.end
        self.speech.append((span.start, span.end))

    def finish(self, total: int) -> None:
        """The file ends at sample `total`."""
        if self.first is not None:
            self._settle(total if total - self.last <= self.pad + MIN_GAP else self.last + self.pad)
        self._gap(total)
        self._emit()

    def _settle(self, end: int) -> None:
        """End the open stretch at `end`."""
        assert self.first is not None
        self.stretches.append((self.first, end))
        self.parts.append(self.recording.get(self.first, end, self.filled))
        self.filled += end - self.first
        self.first, self.edge = None, end

    def _gap(self, end: int) -> None:
        """Account for the samples up to `end` as being in no window, telling bursts from silence."""
        gaps = self.inside if self.stretches else self.ready
        for burst in self.bursts:
            start, stop = max(burst.start, self.edge), min(burst.end, end)
            if start < stop:
                if self.edge < start:
                    gaps.append(_gap(self.edge, start, NO_SPEECH))
                gaps.append(_gap(start, stop, self.too_short))
                self.edge = stop
        if self.edge < end:
            gaps.append(_gap(self.edge, end, NO_SPEECH))
        self.bursts, self.edge = [], end

    def _emit(self) -> None:
        if self.stretches:
            self.ready.append(_window(self.index, self.stretches, self.parts, self.speech))
            self.ready.extend(self.inside)
            self.index += 1
            self.stretches, self.speech, self.parts, self.inside, self.filled = [], [], [], [], 0


class _Recording:
    """The last part of the recording: what lies from its beginning up to sample `end` can be had."""

    def __init__(self) -> None:
        self.rows = Rolling()
        self.end = 0

    def sound_of(self, clips: Iterable[Clip]) -> Iterator[np.ndarray]:
        """The sound of clips; all else of them is kept. Silence follows it where the others are longer."""
        heard, others_s = 0, 0.0
        for clip in clips:
            if SPEECH not in clip:
                raise InputError("expected sound in every clip of a recording that begins with sound")
            self.rows.append({name: seq for name, seq in clip.items() if name != SPEECH})
            others_s = max((self.rows.end_of(name) for name in clip if name != SPEECH), default=0.0)
            x = clip[SPEECH].x[0, : int(clip[SPEECH].lengths[0])].numpy()
            if not len(x):  # it has ended
                x = np.zeros(max(0, frame_at(others_s, SAMPLE_RATE) - heard), np.float32)
            heard += len(x)
            yield x
        yield np.zeros(max(0, frame_at(others_s, SAMPLE_RATE) - heard), np.float32)

    def append(self, chunk: np.ndarray) -> None:
        """Take the next samples of the sound."""
        self.rows.append(sound(chunk))
        self.end += len(chunk)

    def drop(self, before: int) -> None:
        """Let go of what lies before a sample."""
        self.rows.drop(before / SAMPLE_RATE)

    def get(self, start: int, end: int, at: int = 0) -> Clip:
        """Samples `[start, end)` and what goes with them, as the part of a window that begins at its sample `at`."""
        return self.rows.part(start / SAMPLE_RATE, end / SAMPLE_RATE, at / SAMPLE_RATE)

    def samples(self, start: int, end: int) -> np.ndarray:
        """Samples `[start, end)` of the sound."""
        return self.get(start, end)[SPEECH].x[0].numpy()


def _window(
    index: int,
    stretches: list[tuple[int, int]],
    parts: list[Clip],
    speech: list[tuple[int, int]] | None = None,
) -> Window:
    pieces, heard, at = [], [], 0
    for start, end in stretches:
        pieces.append(Piece(at / SAMPLE_RATE, start / SAMPLE_RATE, (end - start) / SAMPLE_RATE))
        inside = ((max(a, start), min(b, end)) for a, b in speech or ())
        heard += [((a - start + at) / SAMPLE_RATE, (b - start + at) / SAMPLE_RATE) for a, b in inside if a < b]
        at += end - start
    return Window(lay(parts), tuple(pieces), index, None if speech is None else tuple(heard))


def _gap(start: int, end: int, reason: str) -> Gap:
    return Gap(start / SAMPLE_RATE, end / SAMPLE_RATE, reason)
