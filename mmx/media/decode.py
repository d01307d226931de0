"""Packets to sound on the presentation clock, and what was damaged on the way.

Letters: c channels, n samples. Rates are in Hz, times in seconds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from mmx.errors import MediaError
from mmx.media.container import GAP_S, Container, open_container
from mmx.media.downmix import ChannelAudio
from mmx.media.source import reason

if TYPE_CHECKING:
    from av import FFmpegError
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.packet import Packet

MAX_GAP_S = 3600.0
"""A jump longer than this is a broken or restarted clock, not an hour of missing sound."""

NOT_FINITE = "NaN or infinite"  # in the warning of such samples; what is trained on must have none

COUNTED = frozenset({"mp3", "aac", "ac3", "eac3", "loas"})
"""Formats without timestamps: FFmpeg counts frames, so that after a damaged stretch all times are early."""
UNBROKEN = frozenset({"ogg", "mpegts"})
"""Formats in which a hole in the clock is sound that was lost; in others it may be a pause that was left out."""
TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")
"""How what is not sound begins, in the middle of MP3 files that were joined."""

PEAK = 100.0
"""Float samples beyond this (+40 dB) are not loud but on the scale of an integer type."""
SCALES = (2.0**15, 2.0**23, 2.0**31)


class Clock:
    """Places decoded sound on the presentation clock by counting the samples given out so far."""

    def __init__(self, origin_s: Fraction) -> None:
        self.origin_s = origin_s
        self.done = 0
        self.rate = 1

    @property
    def now_s(self) -> float:
        """Time in seconds up to which sound has been given out."""
        return self.done / self.rate

    def place(
        self, at_s: Fraction | None, x_cn: np.ndarray, rate: int, *, after_loss: bool = False
    ) -> tuple[int, np.ndarray]:
        """Where a piece of sound belongs.

        Args:
            at_s: timestamp of its first sample, None when unknown: then it follows what came before.
            x_cn: samples, n in the last dimension.
            rate: their rate in Hz.
            after_loss: packets are known to be missing before it, so that even a short hole is one.

        Returns:
            How many samples of silence come before it, and its samples less any before time 0.
        """
        if rate != self.rate:
            self.done, self.rate = round(Fraction(self.done * rate, self.rate)), rate
        ahead = 0 if at_s is None else round((at_s - self.origin_s) * rate) - self.done
        gap = 0
        if self.done == 0 and -GAP_S * rate <= ahead < 0:  # a codec's warm-up, before the presentation starts
            x_cn = x_cn[..., -ahead:]
        elif (0 if after_loss or self.done == 0 else GAP_S * rate) < ahead <= MAX_GAP_S * rate:
            gap = ahead
        elif abs(ahead) > GAP_S * rate:  # timestamps restart (joined recordings) or are broken: go on
            self.origin_s += Fraction(ahead, rate)
        self.done += gap + x_cn.shape[-1]
        return gap, x_cn


class Damage:
    """What went wrong while decoding, and the sentences that tell it."""

    def __init__(self) -> None:
        self.packets = 0
        """Packets that failed."""
        self.at_s = 0.0
        self.first: BaseException | None = None
        """The first packet that failed: where and why."""
        self.lost = False
        """Whether packets failed since the last frame."""
        self.resumed = False
        """Whether a packet decoded after it."""
        self.end: BaseException | None = None
        """Why the container could not be read to its end."""
        self.holes_s: list[tuple[float, float]] = []
        """Stretches without any packet, where there should be some."""
        self.not_finite = 0
        """Samples that were no finite number."""
        self.not_finite_s = 0.0
        """Time of the first of them."""

    def skip(self, error: BaseException, at_s: float) -> None:
        """Note one packet that failed at `at_s`."""
        if self.first is None:
            self.first, self.at_s = error, at_s
        self.lost = True
        self.packets += 1

    def spoil(self, count: int, at_s: float) -> None:
        """Note `count` samples that are no finite number, the first of them at `at_s`."""
        if not self.not_finite:
            self.not_finite_s = max(0.0, at_s)
        self.not_finite += count

    def sentences(self, ended: bool, now_s: float, container: Container[AudioStream]) -> list[str]:
        """The warnings for the reader; `ended` says that it read on until `now_s` was all there was."""
        said, expected_s = [], container.expected_s
        if self.first is not None and self.resumed:
            said.append(
                f"the file is damaged at {self.at_s:.1f} s: {self.packets} packet(s) from there on could not "
                f"be decoded and are silence ({reason(self.first)})"
            )
        if self.holes_s:
            said.append(self._of_holes())
        error = self.end or (None if self.resumed else self.first)
        whole = expected_s is not None and now_s >= expected_s - 0.05  # what failed was no sound but a filling
        if error is not None and (self.end is not None or not whole):
            said.append(f"the file is damaged after {now_s:.1f} s: decoded up to there ({reason(error)})")
        elif ended and container.cut_off:
            said.append(f"the file is cut off after {now_s:.1f} s: its last page is incomplete")
        elif ended and expected_s is not None and now_s < expected_s - 0.5:
            said.append(
                f"the file is cut off after {now_s:.1f} s: its header declares {expected_s:.1f} s "
                "(or declares it wrongly)"
            )
        if self.not_finite:
            several = self.not_finite > 1
            which = (
                f"samples from {self.not_finite_s:.1f} s on are"
                if several
                else f"sample at {self.not_finite_s:.1f} s is"
            )
            said.append(f"{self.not_finite} {which} {NOT_FINITE} and read as silence")
        return said

    def _of_holes(self) -> str:
        first = ", ".join(f"{start:.1f} to {end:.1f}" for start, end in self.holes_s[:3])
        total = sum(end - start for start, end in self.holes_s)
        more = f" and {len(self.holes_s) - 3} more, {total:.1f} s in all" if len(self.holes_s) > 3 else ""
        return f"the file is damaged: it has no audio from {first} s{more}, which is silence"


def decoded(
    container: Container[AudioStream], warnings: list[str], remarks: list[str]
) -> Generator[ChannelAudio, None, None]:
    """The stream's sound on the presentation clock, one codec frame (or 1 s of silence) at a time.

    What was damaged is added to `warnings` at the end, what was done to the level to `remarks`.
    """
    damage, clock = Damage(), Clock(container.origin_s)
    heard, ended = 0, False
    scale = _scale_of(container, remarks)
    try:
        for frame in _frames(container, damage, clock):
            heard += frame.samples
            rate = frame.sample_rate
            x_cn = _samples(frame) if scale == 1.0 else _samples(frame) / np.float32(scale)
            bad = _silence_what_is_not_finite(x_cn)
            at_s = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            before_s, begun = clock.now_s, clock.done > 0
            gap, x_cn = clock.place(at_s, x_cn, rate, after_loss=damage.lost)
            if gap and begun and not damage.lost and container.format in UNBROKEN:
                damage.holes_s.append((before_s, before_s + gap / rate))
            damage.lost = False
            if bad.size:
                damage.spoil(bad.size, clock.now_s - (frame.samples - bad[0]) / rate)
            names = tuple(channel.name for channel in frame.layout.channels)
            for start in range(0, gap, rate):
                yield ChannelAudio(np.zeros((len(x_cn), min(rate, gap - start)), np.float32), names, rate)
            if x_cn.shape[1]:
                yield ChannelAudio(x_cn, names, rate)
        ended = True
    finally:
        if heard:
            warnings.extend(damage.sentences(ended, clock.now_s, container))
    if not heard:
        raise MediaError(_nothing(container, damage.first or damage.end))


def _nothing(container: Container[AudioStream], error: BaseException | None) -> str:
    """Why a stream gave no sound at all."""
    if error is None:
        return (
            f"{container.label}: expected audio, got an audio stream without any samples: the recording is empty. "
            "Record it again."
        )
    return (
        f"{container.label}: none of its audio could be decoded ({container.stream.codec_context.name}): it is "
        f"damaged, encrypted or of an unsupported variety ({reason(error)}). Copy it again, or convert it."
    )


class Ended(Protocol):
    """What went wrong while decoding: `end` is why the container could not be read on."""

    end: BaseException | None


def packets(container: Container[Any], damage: Ended) -> Iterator[tuple[Packet, Sequence[Any], FFmpegError | None]]:
    """Each packet with the frames in it, or with why it cannot be decoded; a container that fails ends them."""
    import av

    found = container.opened.demux(container.stream)
    while True:
        try:
            packet = next(found, None)
        except (av.FFmpegError, OSError) as error:
            damage.end = error
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            yield packet, (), error
        else:
            yield packet, frames, None


def _frames(container: Container[AudioStream], damage: Damage, clock: Clock) -> Iterator[AudioFrame]:
    """Decoded frames; a packet that fails is skipped and noted."""
    pace = _Pace(container)
    for packet, frames, error in packets(container, damage):
        if error is None:
            pace.note(packet)
        elif not (container.format in COUNTED and bytes(packet).startswith(TAGS)):
            damage.skip(error, clock.now_s)
            clock.origin_s -= pace.missed_s(packet)
        for frame in frames:
            damage.resumed = damage.first is not None
            yield cast("AudioFrame", frame)


class _Pace:
    """Bytes a second of a stream without timestamps: what a damaged stretch of it lasted."""

    def __init__(self, container: Container[AudioStream]) -> None:
        self.counted = container.format in COUNTED
        self.size = 0
        self.duration_s = Fraction(0)

    def note(self, packet: Packet) -> None:
        """Take a packet that decoded."""
        if self.counted:
            self.size += packet.size
            self.duration_s += _duration_s(packet)

    def missed_s(self, packet: Packet) -> Fraction:
        """Seconds by which a packet that failed lasted longer than the one frame that it counts as."""
        if not self.counted or not self.size:
            return Fraction(0)
        return max(Fraction(0), packet.size * self.duration_s / self.size - _duration_s(packet))


def _duration_s(packet: Packet) -> Fraction:
    return (packet.duration or 0) * (packet.time_base or Fraction(0))


# -------------------------------------------------------------------------------------------------- samples


def unit(samples: np.ndarray) -> np.ndarray:
    """Samples of any integer or float type, same shape, as float32 in about -1 to 1."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half = float(2 ** (8 * samples.dtype.itemsize - 1))
    if samples.dtype.kind == "u":  # unsigned sound rests at the middle of its range
        return ((samples.astype(np.float64) - half) / half).astype(np.float32)
    return samples.astype(np.float32) / np.float32(half)


def _samples(frame: AudioFrame) -> np.ndarray:
    """A frame's channels, (c, n) float32."""
    samples = np.asarray(frame.to_ndarray())
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    return unit(samples)


def _silence_what_is_not_finite(x_cn: np.ndarray) -> np.ndarray:
    """Set what is no finite number to 0, in place; returns the positions at which any channel had such."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x_cn.sum()):
            return np.zeros(0, np.int64)
    finite = np.isfinite(x_cn)
    x_cn[~finite] = 0.0
    return np.flatnonzero(~finite.all(axis=0))


class Peak:
    """The largest of float samples, and what full scale they must have been written for."""

    def __init__(self) -> None:
        self.peak, self.whole = 0.0, True

    def push(self, x: np.ndarray) -> None:
        """Take samples of any shape; what is no finite number counts for nothing."""
        x = x[np.isfinite(x)]
        self.peak = max(self.peak, float(np.abs(x).max(initial=0.0)))
        self.whole = self.whole and bool(np.all(x == np.rint(x)))

    @property
    def scale(self) -> float:
        """What the samples are to be divided by; 1 for sound as it should be, which may well be too loud."""
        if self.peak <= (2.0 if self.whole else PEAK):
            return 1.0
        # Filtered sound overshoots full scale by a little.
        return next((s for s in SCALES if self.peak <= 1.5 * s), self.peak)

    @property
    def remark(self) -> str:
        """What to tell of samples that are divided."""
        return (
            f"float samples reach {self.peak:g}, expected about -1 to 1: they are divided by {self.scale:g}, the full "
            "scale of an integer type"
        )


def _scale_of(container: Container[AudioStream], remarks: list[str]) -> float:
    """What float samples are divided by; the whole file is read for it once before.

    Its beginning cannot tell: what is silence on an integer's scale is loud on that of floats.
    """
    if not container.stream.codec_context.name.startswith("pcm_f"):
        return 1.0
    track = list(container.opened.streams.audio).index(container.stream) + 1
    peak, at = Peak(), container.media.tell()
    other = open_container(container.media, container.label, track)
    try:
        for frame in _frames(other, Damage(), Clock(Fraction(0))):
            peak.push(np.asarray(frame.to_ndarray()))
    finally:
        other.close()
        container.media.seek(at)
    if peak.scale != 1.0:
        remarks.append(peak.remark)
    return peak.scale
