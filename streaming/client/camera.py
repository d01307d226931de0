"""A camera as a live source, with a microphone beside it for a model that reads both.

PyAV opens it, through what the system has for cameras: Video4Linux, AVFoundation, DirectShow. A thread reads it: who is
slow loses pictures and no time, as the next picture stands for those that are lost.

Letters: N samples.
"""

import errno
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from mmx.clip import Clip, Input, duration_s, frame_at
from mmx.errors import InputError, MediaError
from mmx.media.live_mouth import LiveMouth
from mmx.media.video import Picture
from mmx.seq import Seq
from mmx.streaming.client.landmarks import Extractor, cut_to, posed, seen, whole
from mmx.streaming.client.microphone import BLOCK_S, Captured, Source

Address = tuple[str, str]
"""FFmpeg's format of a camera, and the camera's name in it."""

NO_SOUND = np.zeros(0, np.float32)


def find_camera(wanted: str = "0", platform: str = sys.platform) -> Address:
    """What FFmpeg opens for the number or the name of a camera. Raises `InputError` where there is no such thing."""
    if platform == "darwin":
        return "avfoundation", f"{wanted}:none"
    if platform == "win32":
        if wanted.isdigit():
            raise InputError(f"expected the name of a camera, as Windows shows it, got the number {wanted}")
        return "dshow", f"video={wanted}"
    return "v4l2", f"/dev/video{wanted}" if wanted.isdigit() else wanted


def open_camera(address: Address) -> Any:
    """PyAV's container of a camera.

    Raises:
        InputError: PyAV lacks what the system has for cameras.
        MediaError: there is no camera, it is busy, or it cannot be opened.
    """
    import av

    format, name = address
    options = {"framerate": "30"} if format == "avfoundation" else {}  # which else asks for one that few cameras have
    try:
        container = av.open(name, format=format, options=options)
    except ValueError as e:  # PyAV does not know the format
        raise InputError(f"expected a PyAV that reads cameras ({format}), got {e}: pip install --upgrade av") from e
    except (av.FFmpegError, OSError) as e:
        raise MediaError(f"cannot see with the camera {name}: {_reason(e)}, or give a file: --file clip.mp4") from e
    if not container.streams.video:
        container.close()
        raise MediaError(f"expected pictures of {name}, got none: is it a camera? Choose another with --camera")
    return container


def _reason(error: Exception) -> str:
    """What is wrong, and what helps."""
    known = {
        "ENOENT": "there is none: plug one in, choose another with --camera",
        "ENODEV": "there is none: plug one in, choose another with --camera",
        "EBUSY": "it is busy: close the program that uses it",
        "EACCES": "this program may not use it: allow it in the privacy settings (on Linux, join the group video)",
        "EPERM": "this program may not use it: allow it in the privacy settings",
    }
    code = errno.errorcode.get(getattr(error, "errno", 0) or 0, "")
    return known.get(code, f"{getattr(error, 'strerror', None) or error}: check the system's camera settings")


class Camera:
    """A camera of this machine; it sees from the moment it is made.

    Args:
        device: a number, or what the system calls it.
        inputs: of what the model reads, those that are pictures or poses; see `Model.recorded`.
        extractor: finds the points of poses.
        mouths: cut the pictures of modalities that read lips; without them these are shown all that it sees.
        buffer_s: pictures that may wait for a slow listener before some are lost.
        since_s: the time, by `clock`, from which its times count; its first picture's when None.
        opening: opens it.
        clock: seconds, monotonic.

    Raises:
        InputError: PyAV does not read cameras, or nobody finds poses in its pictures.
        MediaError: there is no camera, it is busy, or it cannot be opened.
    """

    SILENT_S = 5.0
    """Without a picture for so long, the camera is gone."""

    live = True

    def __init__(
        self,
        device: str = "0",
        *,
        inputs: Mapping[str, Input],
        extractor: Extractor | None = None,
        mouths: Mapping[str, LiveMouth] | None = None,
        buffer_s: float = 10.0,
        since_s: float | None = None,
        opening: Callable[[Address], Any] = open_camera,
        clock: Callable[[], float] = time.monotonic,
    ):
        poses = {n: i for n, i in inputs.items() if i.medium == "pose"}
        if poses and extractor is None:
            raise InputError(f"expected points of a body for {', '.join(poses)}, which a camera does not give")
        self._mouths = mouths or {}
        whole_ones = whole({n: inputs[n] for n in self._mouths})
        self.inputs, self._extractor, self._poses = {**posed(inputs), **whole_ones}, extractor, poses
        self.name = f"camera {device}"
        self._container, self._clock, self._since_s = opening(find_camera(device)), clock, since_s
        rate = max(what.rate or 0 for what in inputs.values())
        self._queue: queue.Queue[tuple[str, np.ndarray, int]] = queue.Queue(max(1, math.ceil(buffer_s * rate)))
        self._lost = self._told = 0
        self._frames_read = dict.fromkeys(inputs, 0)
        self._put = dict.fromkeys(inputs, 0)
        self._ended, self._stopping = threading.Event(), False
        self._broken: Exception | None = None
        self._remarks: list[str] = []
        self._thread = threading.Thread(target=self._work, name="mmx-camera", daemon=True)
        self._thread.start()

    # -------------------- in its thread

    def _work(self) -> None:
        try:
            for name, picture, count in self._standing():
                try:
                    self._queue.put_nowait((name, picture, count))
                except queue.Full:
                    self._lost += 1  # the next one stands for these, too
                    continue
                self._put[name] += count
        except Exception as e:  # of a driver: told by `read`
            self._broken = e
        finally:
            self._container.close()
            self._ended.set()

    def _standing(self) -> Iterator[tuple[str, np.ndarray, int]]:
        """Each picture of each modality, once it is known for how many frames it stands."""
        stream = self._container.streams.video[0]
        pixel = float(stream.sample_aspect_ratio or 1)
        shown = {n: Picture(i.shape or None, self._remarks, self.name, pixel) for n, i in self.inputs.items()}
        last: dict[str, np.ndarray] = {}
        first_s = origin_s = 0.0
        for frame in self._container.decode(stream):
            if self._stopping:
                return
            at_s = self._clock() if frame.time is None else float(frame.time)
            if not last:
                first_s = at_s
                origin_s = 0.0 if self._since_s is None else max(0.0, self._clock() - self._since_s)
            at_s += origin_s - first_s
            for name, what in self.inputs.items():
                due = frame_at(at_s, what.rate or 0) - self._put[name]
                picture = shown[name].of(frame)
                if due > 0:  # nobody knows what was before the first
                    yield name, last.get(name, np.zeros_like(picture)), due
                last[name] = picture

    # -------------------- in the session's

    def take(self) -> Clip:
        """All that has come, without waiting; no frames of what has not."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.inputs}
        while not self._queue.empty():
            name, picture, count = self._queue.get()
            found[name] += [picture] * count
            self._frames_read[name] += count
        clip = cut_to({name: self._seq(name, pictures) for name, pictures in found.items()}, self._mouths)
        return clip if self._extractor is None else seen(clip, self._extractor, self._poses)

    def _seq(self, name: str, pictures: list[np.ndarray]) -> Seq:
        x = torch.from_numpy(np.stack(pictures)) if pictures else torch.zeros(0, 1, 1, 3, dtype=torch.uint8)
        if not pictures and self.inputs[name].shape:
            x = x.new_zeros(0, *self.inputs[name].shape)
        return Seq(x[None], torch.tensor([len(x)]), self.inputs[name].rate, final=False)

    def read(self) -> Captured:
        """All that has come; waits for the first of it.

        Raises:
            MediaError: the camera gives no more pictures, as one does that is unplugged.
        """
        begun, start_s = self._clock(), self.read_s
        clip: Clip = {}
        while not duration_s(clip):
            ended = self._ended.wait(0 if self._queue.qsize() else BLOCK_S)
            clip = {n: s for n, s in self.take().items() if int(s.lengths[0])}
            if ended and self._stopping:
                return Captured(NO_SOUND, start_s, self._queue.empty(), clip)
            if not clip and (ended or self._clock() - begun > self.SILENT_S):
                raise MediaError(f"{self.name!r} gives no more pictures: was it unplugged?") from self._broken
        return Captured(NO_SOUND, start_s, False, clip)

    @property
    def gone(self) -> bool:
        """Whether it has broken off and all that it gave was taken."""
        return self._ended.is_set() and not self._stopping and self._queue.empty()

    @property
    def read_s(self) -> float:
        """Seconds of it that were read."""
        return max(n / (self.inputs[name].rate or 1) for name, n in self._frames_read.items())

    def stop(self) -> None:
        """See no more; what waits is still given."""
        self._stopping = True

    def close(self) -> None:
        """Let go of it; one that hangs is not waited for."""
        self.stop()
        self._thread.join(1.0)
        for mouth in self._mouths.values():
            mouth.close()

    def notes(self) -> list[str]:
        """What went wrong since the last call."""
        out, self._remarks[:] = list(self._remarks), []
        if self._lost > self._told:
            out.append(f"{self._lost - self._told} pictures were lost: this machine is too slow")
            self._told = self._lost
        return out

    @property
    def pending_s(self) -> float:
        """Seconds of pictures that have come and were not read."""
        return max((self._put[n] - k) / (self.inputs[n].rate or 1) for n, k in self._frames_read.items())


class WithCamera:
    """A microphone and a camera as one source, on the clock of the sound.

    Args:
        sound: the microphone.
        camera: what sees meanwhile.
    """

    live = True

    def __init__(self, sound: Source, camera: Camera):
        self.sound, self.camera = sound, camera
        self.name = f"{sound.name} + {camera.name}"
        self._told = False

    def read(self) -> Captured:
        """Sound that came, and the pictures until now; without the camera, if that has broken off."""
        heard = self.sound.read()
        return Captured(heard.samples, heard.start_s, heard.final, {} if self.camera.gone else self.camera.take())

    def stop(self) -> None:
        self.sound.stop()
        self.camera.stop()

    def close(self) -> None:
        self.sound.close()
        self.camera.close()

    def notes(self) -> list[str]:
        gone = self.camera.gone and not self._told
        self._told |= gone
        lost = [f"{self.camera.name} gives no more pictures: the sound goes on alone"] if gone else []
        return [*self.sound.notes(), *self.camera.notes(), *lost]

    @property
    def pending_s(self) -> float:
        return self.sound.pending_s
