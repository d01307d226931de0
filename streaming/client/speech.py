"""Speech out of a live session: committed sentences are spoken while it listens on, and it does not hear itself.

Sentences are synthesized in a thread of their own and played block by block, so that the first is heard while the rest
is made. What falls behind is spoken faster. All times are on the source's clock: seconds of audio since the session
began.

Letters: N samples.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmx.errors import MediaError, MmxError
from mmx.files import cannot_write
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.media.write import Encoder, format_of
from mmx.streaming.client.microphone import BLOCK_S, find_device, portaudio
from mmx.tasks.dub import PAUSE_S
from mmx.tasks.events import Event
from mmx.tasks.result import SpokenSegment

Utter = Callable[[str, str, float], Iterator[SpokenSegment]]
"""A text, its language and a speed, to speech block by block."""

BEFORE_S, AFTER_S = 0.05, 0.4
"""What is not listened to around what is played: devices' delays, which drivers tell roughly, and the room's echo."""
BEHIND_S, FASTEST = 10.0, 1.3
"""So far behind, speech is as fast as it may be."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """A sentence whose speech has begun.

    Attributes:
        text: the sentence.
        start_s: when it is first heard.
        lag_s: from the end of what it translates to that.
    """

    text: str
    start_s: float
    lag_s: float


class Output(Protocol):
    """Where speech goes."""

    @property
    def busy(self) -> bool:
        """Whether something is being played."""
        ...

    def play(self, block: SpokenSegment) -> None:
        """Play a block after those that wait, from its `start_s` on at the earliest."""
        ...

    def close(self, abort: bool = False) -> None:
        """Play to the end, or stop at once, and let go of the device or file."""
        ...


class Recording(Protocol):
    """Keeps samples as they come; `SpeechWriter` is one."""

    def write(self, samples: NDArray[np.float32]) -> None: ...

    def close(self) -> None: ...


class SourceClock:
    """What the source's clock shows: it is read off the audio, whose blocks arrive late, but never early.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._begun: deque[float] = deque([clock()], maxlen=600)

    def heard(self, end_s: float) -> None:
        """Audio until `end_s` has just come."""
        self._begun.append(self._clock() - end_s)

    def __call__(self) -> float:
        """Seconds since the source began."""
        return self._clock() - min(self._begun)


class Speaking:
    """Speaks sentences one after the other.

    Args:
        utter: the voice.
        output: where its speech goes.
        now: what the source's clock shows; without one, a sentence is spoken at once when it is given, and its time is
            that of its text (a file that is read as fast as possible).

    Attributes:
        lags_s: of each sentence, from the end of what it translates to its first audio.
        muted_s: seconds of audio that were not listened to.
    """

    def __init__(self, utter: Utter, output: Output, now: Callable[[], float] | None = None):
        self.utter, self.output, self.now = utter, output, now
        self.lags_s: list[float] = []
        self.muted_s = 0.0
        self._spans: deque[tuple[float, float]] = deque(maxlen=1000)
        self._free_s = 0.0
        self._told: queue.SimpleQueue[Spoken | str] = queue.SimpleQueue()
        self._waiting: queue.SimpleQueue[Sequence[Event] | None] = queue.SimpleQueue()
        self._broken: BaseException | None = None
        self._thread: threading.Thread | None = None
        if now is not None:
            self._thread = threading.Thread(target=self._work, name="mmx-speech", daemon=True)
            self._thread.start()

    def say(self, sentence: Sequence[Event]) -> None:
        """Speak the words of one sentence after those that wait."""
        if self._thread is None:
            self._speak(sentence)
        else:
            self._waiting.put(sentence)

    def told(self) -> Iterator[Spoken | str]:
        """The sentences whose speech has begun since the last call, and notes of what went wrong."""
        while not self._told.empty():
            yield self._told.get()

    # -------------------- in its thread

    def _work(self) -> None:
        while (sentence := self._waiting.get()) is not None:
            if self._broken is None:
                self._speak(sentence)

    def _speak(self, words: Sequence[Event]) -> None:
        text = "".join(w.text for w in words).strip()
        at_s = words[-1].at_s if self.now is None else self.now()
        speed = 1.0 if self.now is None else 1 + (FASTEST - 1) * min(max(self._free_s - at_s, 0.0) / BEHIND_S, 1.0)
        try:
            first = True
            for block in self.utter(text, words[-1].language, speed) if text else ():
                self._play(block, at_s if self.now is None else self.now(), words if first else ())
                first = False
        except MmxError as e:  # the session goes on
            self._told.put(f"not spoken: {text!r}: {e}")
        except Exception as e:  # of a driver: told at the end
            self._broken = e

    def _play(self, block: SpokenSegment, now_s: float, words: Sequence[Event]) -> None:
        """Play a block; `words` where it is the first of them."""
        behind = self._free_s > now_s
        if words and behind:
            silence = np.zeros(round(PAUSE_S * block.rate), np.float32)
            block = replace(block, samples=np.concatenate([silence, block.samples]))
        start_s = max(now_s, self._free_s)
        self._free_s = start_s + len(block.samples) / block.rate
        self._spans.append((start_s, self._free_s))
        self.output.play(replace(block, start_s=start_s))
        if words:
            begun_s = start_s + (PAUSE_S if behind else 0.0)
            self.lags_s.append(begun_s - words[-1].end_s)
            text = "".join(w.text for w in words).strip()
            self._told.put(Spoken(text, begun_s, self.lags_s[-1]))

    # -------------------- of the session

    def without_echo(self, samples: NDArray[np.float32], start_s: float) -> NDArray[np.float32]:
        """Audio `(N,)` at 16 kHz from `start_s` on, with silence in the place of what was heard while this spoke."""
        if self.now is not None and self.output.busy and self.now() > self._free_s:  # it plays longer than it should
            self._spans.append((start_s, self.now()))
        out, end_s = samples, start_s + len(samples) / RATE
        for begin_s, over_s in list(self._spans):
            begin = max(round((begin_s - BEFORE_S - start_s) * RATE), 0)
            end = min(round((over_s + AFTER_S - start_s) * RATE), len(samples))
            if begin < end and begin_s - BEFORE_S < end_s:
                out = samples.copy() if out is samples else out
                self.muted_s += np.count_nonzero(out[begin:end]) / RATE
                out[begin:end] = 0
        return out

    def summary(self) -> str:
        """What is told at the end; empty where nothing was spoken by a clock."""
        if self.now is None or not self.lags_s:
            return ""
        lags = sorted(self.lags_s)
        muted = f"; {self.muted_s:.1f} s were not listened to meanwhile" if self.muted_s else ""
        return (
            f"{len(lags)} sentences spoken, the first audio {lags[len(lags) // 2]:.1f} s after the sentence's end "
            f"(median; at most {lags[-1]:.1f} s){muted}"
        )

    def close(self) -> None:
        """Speak what waits to its end.

        Raises:
            MediaError: the loudspeaker plays no more, so that some was not spoken.
        """
        done = False
        try:
            self._waiting.put(None)
            while self._thread is not None and self._thread.is_alive():
                self._thread.join(BLOCK_S)  # not for ever: Ctrl-C ends it
            done = self._broken is None
        finally:
            self.output.close(abort=not done)
        if self._broken is not None:
            raise self._broken


# -------------------- outputs


class SpeechFile:
    """Speech at its times in a file, as if a loudspeaker had played it.

    Args:
        recording: keeps the samples.
        rate: samples per second.
    """

    busy = False

    def __init__(self, recording: Recording, rate: float):
        self._recording, self._rate, self._written = recording, rate, 0

    def play(self, block: SpokenSegment) -> None:
        """Raises `OutputError` when the disk is full."""
        silence = max(round(block.start_s * self._rate) - self._written, 0)
        self._recording.write(np.concatenate([np.zeros(silence, np.float32), block.samples]))
        self._written += silence + len(block.samples)

    def close(self, abort: bool = False) -> None:
        self._recording.close()


class SpeechWriter:
    """Writes samples to a file as they come, in the format that its ending names.

    Args:
        path: a file that does not exist yet.
        rate: samples per second.

    Raises:
        InputError: the ending is none that is written.
        OutputError: it cannot be written.
    """

    def __init__(self, path: Path, rate: float):
        name = format_of(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")
        except OSError as e:
            raise cannot_write(path, e) from e
        self.path, self._encoder = path, Encoder(rate, name, file=self._file)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Append samples. Raises `OutputError` when the disk is full."""
        try:
            self._encoder.push(samples)
            self._file.flush()
        except OSError as e:
            raise cannot_write(self.path, e) from e

    def close(self) -> None:
        """Finish the file."""
        try:
            self._encoder.close()
            self._file.close()
        except OSError as e:
            raise cannot_write(self.path, e) from e


class Loudspeaker:
    """Plays one block of speech after another, without holding up who gives them.

    Args:
        rate: samples per second of what it is given.
        device: as in `mmx.streaming.client.microphone.Microphone`.

    Raises:
        InputError: PortAudio is missing, or there is no such device.
        MediaError: there is no loudspeaker, or it cannot be opened.
    """

    STILL_S = 5.0
    """Where the driver asks for no sound for so long, the loudspeaker is gone."""

    def __init__(self, rate: float = RATE, device: str | None = None):
        self._sd = portaudio()
        found = find_device(device, "output")
        self.name = found.name
        self._played = 0  # samples that the driver asked for
        self._queue: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()
        self._now = np.zeros(0, np.float32)
        try:
            self._stream = self._sd.OutputStream(
                samplerate=rate, device=found.index, channels=1, dtype="float32", callback=self._fill
            )
            self._stream.start()
        except self._sd.PortAudioError as e:
            why = str(e.args[0]) if e.args else type(e).__name__
            raise MediaError(f"cannot play to {found.name!r}: {why}; write a file: --speak out.wav") from e

    def play(self, block: SpokenSegment) -> None:
        """Play it after those that wait."""
        self._queue.put(block.samples)

    def _fill(self, out_N1: NDArray[np.float32], n: int, times: Any, status: Any) -> None:
        at = 0
        while at < n:
            if not len(self._now):
                if self._queue.empty():
                    break
                self._now = self._queue.get()
            part, self._now = self._now[: n - at], self._now[n - at :]
            out_N1[at : at + len(part), 0] = part
            at += len(part)
        out_N1[at:] = 0
        self._played += n

    @property
    def busy(self) -> bool:
        """Whether something is being played."""
        return bool(len(self._now)) or not self._queue.empty()

    def close(self, abort: bool = False) -> None:
        """Finish what is being played, unless `abort`, and let go of the device.

        Raises:
            MediaError: it plays no more, so that some was not played.
        """
        gone = True
        try:
            gone = abort or not self._finished()
        finally:  # a device that is gone cannot be waited for, nor be let go of
            for act in (self._stream.abort if gone else self._stream.stop, self._stream.close):
                with suppress(self._sd.PortAudioError):
                    act()
        if gone and not abort:
            raise MediaError(f"{self.name!r} plays no more: was it unplugged? The rest of the speech is lost")

    def _finished(self) -> bool:
        """Wait until all is played; whether it was."""
        still_s, played = 0.0, self._played
        while self.busy:
            time.sleep(BLOCK_S)
            still_s, played = (still_s + BLOCK_S if played == self._played else 0.0), self._played
            if still_s >= self.STILL_S or not self._stream.active:
                return not self.busy
        return True
