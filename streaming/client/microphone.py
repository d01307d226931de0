"""Where live sound comes from: a microphone, or a file that plays as if it were one, with what else it holds.

Both are a `Source`: mono float32 at 16 kHz on a clock that never jumps. A microphone's sound waits in a bounded queue
that the driver fills; where the listener is too slow for it, or the driver says that it lost some, that is counted and
told, and silence of the same length stands for it, so that times stay true.

Letters: N samples, C channels.
"""

import math
import queue
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from mmx.clip import SPEECH, Clip, Input, duration_s, frame_at
from mmx.errors import InputError, MediaError, nearest
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.media.audio import Source as Media
from mmx.media.audio import open_audio
from mmx.media.clips import ClipReader, open_clip
from mmx.seq import Seq
from mmx.streaming.client.landmarks import Extractor, posed, seen

BLOCK_S = 0.1
"""How much sound comes at a time."""

UNAVAILABLE, BAD_RATE, BAD_CHANNELS = -9985, -9997, -9998
"""PortAudio's error codes (portaudio.h)."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What came.

    Attributes:
        samples: of sound, `(N,)` float32 at 16 kHz.
        start_s: when the first of them was heard, since the session began.
        final: whether no more will come.
        others: pictures, poses or features of the same time; see `Stream.push` for those that lag or are lost.
    """

    samples: NDArray[np.float32]
    start_s: float
    final: bool
    others: Clip = field(default_factory=dict)

    @property
    def duration_s(self) -> float:
        """Seconds of the longest of it."""
        return max(len(self.samples) / RATE, duration_s(self.others))

    @property
    def count(self) -> int:
        """The same in samples of the clock."""
        return round(self.duration_s * RATE)


class Source(Protocol):
    """Live sound.

    Attributes:
        name: for people.
        live: whether sound comes by the clock, so that who is slow falls behind.
    """

    name: str
    live: bool

    def read(self) -> Captured:
        """Wait for sound and take all that has come. Nothing comes after `final`."""
        ...

    def stop(self) -> None:
        """Hear no more: `read` gives what was heard before, then ends."""
        ...

    def close(self) -> None:
        """Let go of the device or the file."""
        ...

    def notes(self) -> list[str]:
        """What went wrong since the last call."""
        ...

    @property
    def pending_s(self) -> float:
        """Seconds of sound that have come and were not read."""
        ...


# -------------------- a file


class FileSource:
    """A recording as a live source.

    Args:
        media: whatever `mmx.media.audio.open_audio` takes.
        realtime: whether it plays in real time; else as fast as it is read.
        inputs: what is read of it, see `Model.recorded`; its sound when None.
        partial: whether what it lacks of these is left out, as in `mmx.media.clips.open_clip`.
        extractor: finds the points of poses in its pictures.
        clock: seconds, monotonic.
        sleep: waits for seconds.

    Raises:
        MediaError: as in `open_audio`.
    """

    def __init__(
        self,
        media: Media,
        realtime: bool = False,
        *,
        inputs: Mapping[str, Input] | None = None,
        partial: bool = False,
        extractor: Extractor | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.live, self._clock, self._sleep = realtime, clock, sleep
        self._extractor = extractor
        self._poses = {n: i for n, i in (inputs or {}).items() if i.medium == "pose"}
        if inputs is None:
            self._reader = open_audio(media, rate=RATE, block_s=BLOCK_S)
            self._blocks = (Captured(np.asarray(x, np.float32), 0.0, False) for x in self._reader)
        else:
            self._reader = open_clip(media, inputs if extractor is None else posed(inputs), partial=partial)
            self._blocks = self._clips(self._reader)
        self.name = self._reader.name
        self.duration_s = self._reader.duration_s
        self._next = next(self._blocks, None)
        self._read = 0  # samples
        self._begun: float | None = None
        self._stop_s = math.inf
        self._told = 0

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it holds of what was asked for."""
        return self._reader.modalities if isinstance(self._reader, ClipReader) else (SPEECH,)

    def _clips(self, reader: ClipReader) -> Iterator[Captured]:
        """Blocks of all that is read; what has ended before the rest is lost."""
        reader.block_s = BLOCK_S
        for i, clip in enumerate(reader):
            whole = {n: frame_at((i + 1) * BLOCK_S, s.rate or 0) - frame_at(i * BLOCK_S, s.rate or 0)
                     for n, s in clip.items()}  # fmt: skip
            others = {n: s for n, s in clip.items() if n != SPEECH and (int(s.lengths[0]) or not whole[n])}
            samples = clip[SPEECH].x[0].numpy() if SPEECH in clip else np.zeros(0, np.float32)
            yield Captured(
                samples, 0.0, False, others if self._extractor is None else seen(others, self._extractor, self._poses)
            )

    def read(self) -> Captured:
        """Paced: all that is due, at least a block. Else the next block."""
        start = self._read
        parts = [self._take()]
        while self.live and self._next is not None and self._due(self._next.count) <= 0:
            parts.append(self._take())
        samples = np.concatenate([p.samples for p in parts]) if len(parts) > 1 else parts[0].samples
        return Captured(samples, start / RATE, self._next is None, _joined([p.others for p in parts]))

    def _take(self) -> Captured:
        block, at = self._next, self._read
        if block is None:
            return NOTHING
        if self.live:
            wait_s = self._due(block.count)
            if at / RATE >= self._stop_s:  # it has not played yet
                self._next = None
                return NOTHING
            if wait_s > 0:
                self._sleep(wait_s)
        self._read += block.count
        self._next = None if self._stop_s <= self._read / RATE else next(self._blocks, None)
        return block

    def _due(self, n: int) -> float:
        """Seconds until the next `n` samples have played."""
        now = self._clock()
        self._begun = now if self._begun is None else self._begun
        return self._begun + (self._read + n) / RATE - now

    def stop(self) -> None:
        """What would have played by now is still given; of a source that is not paced, nothing more."""
        played = 0.0 if self._begun is None else self._clock() - self._begun
        self._stop_s = played if self.live else self._read / RATE
        if not self.live:
            self._next = None

    def close(self) -> None:
        self._next = None
        self._reader.close()

    def notes(self) -> list[str]:
        left_out = self._reader.left_out if isinstance(self._reader, ClipReader) else []
        new = [*left_out, *self._reader.warnings][self._told :]
        self._told += len(new)
        return [f"{self.name}: {w}" for w in new]

    @property
    def pending_s(self) -> float:
        if not self.live or self._next is None:
            return 0.0
        behind_s = -self._due(0)
        left_s = math.inf if self.duration_s is None else self.duration_s - self._read / RATE
        return min(max(0.0, behind_s), max(0.0, left_s), max(0.0, self._stop_s - self._read / RATE))


NOTHING = Captured(np.zeros(0, np.float32), 0.0, False)


def _joined(parts: Sequence[Clip]) -> Clip:
    """Parts of equal modalities, one after the other; one that a part lacks has ended."""
    if len(parts) == 1:
        return parts[0]
    out: dict[str, Seq] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        rows = [part[name] for part in parts if name in part]
        x = torch.cat([row.x for row in rows], 1)
        out[name] = rows[0]._replace(x=x, lengths=torch.tensor([x.shape[1]]))
    return out


# -------------------- devices


def portaudio() -> Any:
    """The package `sounddevice`, with PortAudio behind it.

    Raises:
        InputError: one of the two is not installed; says how to get it.
    """
    try:
        import sounddevice
    except ImportError as e:
        raise InputError("expected sounddevice to reach a microphone, got none: pip install 'mmx[live]'") from e
    except OSError as e:  # what sounddevice raises without its library
        raise InputError(
            f"expected the PortAudio library, which sounddevice needs, got: {e}. On Debian and Ubuntu: "
            "sudo apt install libportaudio2; on Fedora: sudo dnf install portaudio; on macOS: brew install portaudio"
        ) from e
    return sounddevice


@dataclass(frozen=True, slots=True)
class Device:
    """A microphone (or loudspeaker): its number and name, its channels, its own rate, and whether it is the default."""

    index: int
    name: str
    channels: int
    rate_hz: float
    default: bool


def list_devices(kind: str = "input") -> list[Device]:
    """The microphones, or with `kind="output"` the loudspeakers.

    Raises:
        InputError: PortAudio is missing.
        MediaError: PortAudio cannot be asked.
    """
    sd = portaudio()
    try:
        rows = list(sd.query_devices())
        chosen = sd.default.device[0 if kind == "input" else 1]
    except sd.PortAudioError as e:
        raise MediaError(f"expected a sound system that answers, got {_reason(e)}: restart it, or use --file") from e
    found = [(i, d) for i, d in enumerate(rows) if d[f"max_{kind}_channels"] > 0]
    return [Device(i, d["name"], d[f"max_{kind}_channels"], d["default_samplerate"], i == chosen) for i, d in found]


def find_device(wanted: str | None = None, kind: str = "input") -> Device:
    """The device of a number, a name or a part of one; the default device when None.

    Raises:
        InputError: there is none of this name, or several; PortAudio is missing.
        MediaError: there is no device at all.
    """
    what = "microphone" if kind == "input" else "loudspeaker"
    devices = list_devices(kind)
    if not devices:
        raise MediaError(
            f"expected a {what}, found none: plug one in, allow this program to use it in the system's privacy "
            "settings, or transcribe a recording with --file talk.wav"
        )
    if wanted is None:
        return next((d for d in devices if d.default), devices[0])
    name = wanted.strip().lower()
    matches = [d for d in devices if str(d.index) == name or d.name.lower() == name]
    matches = matches or [d for d in devices if name in d.name.lower()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        some = ", ".join(f"{d.index}: {d.name}" for d in matches)
        raise InputError(f"expected one {what}, {wanted!r} is the name of {len(matches)} ({some}): give its number")
    close = nearest(wanted, [d.name for d in devices])
    raise InputError(f"expected the name or number of a {what}, got {wanted!r}.{close} See mmx live --list-devices")


def _reason(error: Exception) -> str:
    """What PortAudio says, without its code."""
    return str(error.args[0]) if error.args else type(error).__name__


def _code(error: Exception) -> int:
    return int(error.args[1]) if len(error.args) > 1 and isinstance(error.args[1], int) else 0


# -------------------- a microphone


class Microphone:
    """A microphone of this machine; it hears from the moment it is made.

    It is asked for 16 kHz mono; one that has neither is heard as it is, mixed down and resampled here.

    Args:
        device: a name, a part of one, or a number; the default one when None.
        buffer_s: sound that may wait for a slow listener before some is lost.

    Raises:
        InputError: PortAudio is missing, or there is no such device.
        MediaError: there is no microphone, it is busy, or it cannot be opened.
    """

    SILENT_S = 5.0
    """Without a sign of life from the driver for so long, the microphone is gone."""

    live = True

    def __init__(self, device: str | None = None, *, buffer_s: float = 60.0):
        self._sd = portaudio()
        found = find_device(device)
        self.name = found.name
        self._queue: queue.Queue[tuple[NDArray[np.float32], int]] = queue.Queue(max(1, math.ceil(buffer_s / BLOCK_S)))
        self._missed = 0  # samples lost since the last that was queued, at the device's rate
        self._lost = 0  # samples that found no room, since the session began
        self._overflows = 0  # times that the driver lost some
        self._told = (0, 0)
        self._read = 0  # samples, at 16 kHz
        self._put = self._got = 0  # samples into the queue and out of it, each counted by one thread only
        self._stopped = False
        self._stream, self.rate_hz = self._open(found)
        self._resample = None if self.rate_hz == RATE else soxr.ResampleStream(self.rate_hz, RATE, 1, dtype="float32")

    def _open(self, device: Device) -> tuple[Any, int]:
        """The stream and its rate."""
        own = round(device.rate_hz)
        error: Exception | None = None
        for rate, channels in dict.fromkeys([(RATE, 1), (own, 1), (RATE, device.channels), (own, device.channels)]):
            try:
                stream = self._sd.InputStream(
                    samplerate=rate, blocksize=round(rate * BLOCK_S), device=device.index, channels=channels,
                    dtype="float32", callback=self._heard,
                )  # fmt: skip
                stream.start()
                return stream, rate
            except self._sd.PortAudioError as e:
                error = e
                if _code(e) not in (BAD_RATE, BAD_CHANNELS):
                    break
        assert error is not None
        if _code(error) == UNAVAILABLE or "unavailable" in _reason(error).lower():
            remedy = "another program uses it: close that"
        else:
            remedy = "check the system's sound settings"
        other = "or choose another with --microphone (see mmx live --list-devices)"
        raise MediaError(f"cannot listen to {device.name!r}: {_reason(error)}; {remedy}, {other}") from error

    def _heard(self, samples_NC: NDArray[np.float32], n: int, times: Any, status: Any) -> None:
        """Called by the driver's thread: it must not wait."""
        if status and status.input_overflow:
            self._overflows += 1
        try:
            self._queue.put_nowait((samples_NC.mean(axis=1, dtype=np.float32), self._missed))
            self._put += n
            self._missed = 0
        except queue.Full:
            self._missed += n
            self._lost += n

    def read(self) -> Captured:
        """All sound that has come; waits for the first of it.

        Raises:
            MediaError: the microphone fell silent, as one does that is unplugged.
        """
        start = self._read
        parts: list[NDArray[np.float32]] = []
        if not self._stopped or not self._queue.empty():
            parts += self._next()
        while not self._queue.empty():
            parts += self._next()
        final = self._stopped and self._queue.empty()
        if final and self._missed:
            parts.append(np.zeros(self._missed, np.float32))
            self._missed = 0
        x_N = np.concatenate([np.zeros(0, np.float32), *parts])
        if self._resample is not None:
            x_N = self._resample.resample_chunk(x_N, last=final)
        self._read += len(x_N)
        return Captured(x_N, start / RATE, final)

    def _next(self) -> list[NDArray[np.float32]]:
        waited_s = 0.0
        while True:
            try:
                samples_N, missed = self._queue.get(timeout=BLOCK_S)
            except queue.Empty:
                waited_s += BLOCK_S
                if self._stopped:
                    return []
                if waited_s >= self.SILENT_S or not self._stream.active:
                    raise MediaError(f"{self.name!r} gives no more audio: was it unplugged?") from None
                continue
            self._got += len(samples_N)
            return [np.zeros(missed, np.float32), samples_N] if missed else [samples_N]

    def stop(self) -> None:
        """Hear no more; what waits in the queue is still given."""
        if not self._stopped:
            self._stopped = True
            self._quietly(self._stream.stop)

    def close(self) -> None:
        self.stop()
        self._quietly(self._stream.close)

    def _quietly(self, act: Callable[[], None]) -> None:
        """A device that is gone cannot be stopped either."""
        try:
            act()
        except self._sd.PortAudioError:
            return

    def notes(self) -> list[str]:
        lost, overflows = self._lost, self._overflows
        before, self._told = self._told, (lost, overflows)
        out = []
        if lost > before[0]:
            seconds = (lost - before[0]) / self.rate_hz
            out.append(f"{seconds:.1f} s of audio were lost: this machine is too slow. Silence stands for them")
        if overflows > before[1]:
            out.append(f"the microphone's driver lost sound {overflows - before[1]} times")
        return out

    @property
    def lost_s(self) -> float:
        """Seconds of sound that found no room in the queue, since the session began."""
        return self._lost / self.rate_hz

    @property
    def pending_s(self) -> float:
        return (self._put - self._got) / self.rate_hz
