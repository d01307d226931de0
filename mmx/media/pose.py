"""Points of a body and features from files of numbers: NumPy's .npy and .npz, and .pose of the package pose-format.

A .npy file holds frames `(T, J, C)` or `(T, F)` at the model's rate; a .npz one array of these and, as `rate`, the
frames a second; a .pose file says its own. What has another rate is interpolated. No file may hold Python objects.

Letters: T frames, J points, C coordinates, F features.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from mmx.errors import InputError, MediaError
from mmx.media.blocks import BlockReader
from mmx.media.frames import at_rate, points_at_rate
from mmx.media.source import MEDIA, as_array, open_file

POSE_FILE = ".pose"
"""The ending of files of pose-format."""
ENDINGS = {"pose": frozenset({".npy", ".npz", POSE_FILE}), "features": frozenset({".npy", ".npz"})}
"""Of the files that hold each medium."""
RATES = ("rate", "fps")
"""Names of the frames a second in a .npz file."""
MOST_BYTES = 2**33
"""That a .npz file may unpack to."""

Numbers = Literal["pose", "features"]


def open_numbers(
    source: Any,
    *,
    medium: Numbers,
    rate: float,
    shape: tuple[int, ...] = (),
    points: tuple[str, ...] = (),
    block_s: float = 10.0,
) -> BlockReader:
    """Open the poses or features of `source` for reading block by block.

    Args:
        source: a path, ``"-"`` (stdin), an open binary file, the bytes of a file, or an array or tensor at `rate`.
        medium: which of the two; a .npz with several arrays is asked for the one of this name.
        rate: wanted frames a second.
        shape: wanted shape of a frame, `(J, C)` or `(F,)`; any when empty.
        points: groups of points that are taken of a .pose file, in this order; all when empty.
        block_s: length of a block in seconds.

    Returns:
        A reader of blocks `(T, *shape)`, float32. Numbers that are not finite (points that were not found) are 0, which
        is warned of; of several people the first is read, which is remarked.

    Raises:
        InputError: the package that reads the file is not installed.
        MediaError: a file that is missing, or holds something else.
    """
    warnings: list[str] = []
    remarks: list[str] = []
    given = as_array(source)
    if given is not None:
        name = label = "array"
        x, source_rate = given, rate
    else:
        file, label, name, ours = open_file(source)
        try:
            x, source_rate = _read(file, label, source, medium, points, remarks)
        finally:
            if ours:
                file.close()
        source_rate = source_rate or rate
    x = _checked(x, label, medium, shape)
    if source_rate != rate:
        convert = points_at_rate if medium == "pose" and x.ndim > 2 else at_rate
        x = convert(_finite(x, warnings, medium), source_rate, rate)
    return BlockReader(
        name,
        _blocks(x, max(1, round(block_s * rate)), warnings, medium),
        rate=rate,
        duration_s=len(x) / rate,
        warnings=warnings,
        remarks=remarks,
    )


def _read(
    file: BinaryIO, label: str, source: Any, medium: Numbers, points: tuple[str, ...], remarks: list[str]
) -> tuple[np.ndarray, float | None]:
    """The numbers of a file, and its frames a second where it says them."""
    start = file.tell()
    head = file.read(6)
    file.seek(start)
    if medium == "pose" and label.lower().endswith(POSE_FILE):
        return _pose_format(file.read(), label, points, remarks)
    try:
        if head == b"\x93NUMPY":
            if isinstance(source, str | os.PathLike) and source != "-" and not start:
                return np.load(os.fsdecode(source), mmap_mode="r", allow_pickle=False), None
            return np.load(file, allow_pickle=False), None
        if head[:2] == b"PK":
            return _npz(file, label, medium)
    except MediaError:
        raise
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as e:
        raise MediaError(
            f"{label}: expected an array of numbers, got {e}: save it again with numpy.save, without objects."
        ) from e
    kinds = ", ".join(sorted(ENDINGS[medium]))
    if Path(label).suffix.lower() in MEDIA:
        hint = "find the points in it first" if medium == "pose" else "compute them first"
        raise MediaError(
            f"{label}: expected {medium} ({kinds}), got a recording: {hint}, and save them with numpy.save."
        )
    got = f"a file that begins {head!r}" if head else "an empty file"
    raise MediaError(f"{label}: expected {medium} ({kinds}), got {got}: save it with numpy.save.")


def _npz(file: BinaryIO, label: str, medium: Numbers) -> tuple[np.ndarray, float | None]:
    with zipfile.ZipFile(file) as packed:
        size = sum(info.file_size for info in packed.infolist())
    if size > MOST_BYTES:
        raise MediaError(f"{label}: expected at most {MOST_BYTES / 1e9:.0f} GB of numbers, got {size / 1e9:.0f}.")
    file.seek(0)
    with np.load(file, allow_pickle=False) as held:
        names = [n for n in held.files if n not in RATES]
        if medium not in names and len(names) != 1:
            raise MediaError(
                f"{label}: expected one array, or one named {medium}, got {names or 'none'}: "
                f"save it with numpy.savez(path, {medium}=..., rate=...)."
            )
        rates = [float(held[n]) for n in RATES if n in held.files and held[n].ndim == 0]
        if rates and not 0 < rates[0] < float("inf"):
            raise MediaError(f"{label}: expected frames a second above 0, got {rates[0]}.")
        return held[medium if medium in names else names[0]], rates[0] if rates else None


def _pose_format(data: bytes, label: str, points: tuple[str, ...], remarks: list[str]) -> tuple[np.ndarray, float]:
    """What the package pose-format reads; points that were not found are 0."""
    try:
        from pose_format import Pose  # type: ignore[import-not-found]
    except ImportError as e:
        raise InputError(
            f"{label}: expected the package pose-format, which reads .pose files, got none: pip install 'mmx[pose]'"
        ) from e
    try:
        pose = Pose.read(data)
        body = pose.body
        x_TPJC = np.ma.filled(np.ma.asarray(body.data, dtype=np.float32), 0.0)
        if x_TPJC.ndim != 4 or not x_TPJC.shape[1] or not body.fps > 0:
            raise ValueError(f"{x_TPJC.shape} numbers at {body.fps} frames a second")
    except Exception as e:
        raise MediaError(f"{label}: expected a .pose file, got a damaged one or something else ({e}).") from e
    if x_TPJC.shape[1] > 1:
        remarks.append(f"{x_TPJC.shape[1]} people: only the first is read")
    return _chosen(x_TPJC[:, 0], pose.header, label, points), float(body.fps)


def _chosen(x_TJC: np.ndarray, header: Any, label: str, points: tuple[str, ...]) -> np.ndarray:
    """The groups of points that are asked for. Depth of a hand, which MediaPipe gives in widths of the picture, becomes
    pixels as the rest is."""
    first, parts = 0, {}
    for group in header.components:
        part_TJC = x_TJC[:, first : first + len(group.points)].copy()
        if "HAND" in group.name and part_TJC.shape[-1] > 2:
            part_TJC[..., 2] *= header.dimensions.width
        parts[group.name], first = part_TJC, first + len(group.points)
    if missing := [name for name in points if name not in parts]:
        raise MediaError(
            f"{label}: expected the points {', '.join(points)}, got {', '.join(parts) or 'none'} without "
            f"{', '.join(missing)}: find them with MediaPipe Holistic, as pose-format's video_to_pose does."
        )
    return np.concatenate([parts[name] for name in points or parts], 1)


def _checked(x: np.ndarray, label: str, medium: str, shape: tuple[int, ...]) -> np.ndarray:
    """Frames of the wanted shape, also where they were written as one row of numbers each."""
    if x.dtype.kind not in "fiu":
        raise MediaError(f"{label}: expected {medium} of numbers, got {x.dtype}.")
    if x.ndim == 2 and len(shape) == 2 and x.shape[1] == shape[0] * shape[1]:
        x = x.reshape(len(x), *shape)
    if x.ndim < 2 or not len(x) or (shape and x.shape[1:] != shape):
        wanted = ", ".join(map(str, shape)) if shape else "..."
        raise MediaError(f"{label}: expected {medium} of shape (frames, {wanted}), got {x.shape}.")
    return x


def _blocks(x: np.ndarray, size: int, warnings: list[str], medium: str) -> Generator[np.ndarray, None, None]:
    for start in range(0, len(x), size):
        yield _finite(x[start : start + size], warnings, medium)  # a copy: of a mapped file, this much is read


def _finite(x: np.ndarray, warnings: list[str], medium: str) -> np.ndarray:
    out = np.array(x, np.float32)
    bad = ~np.isfinite(out)
    if bad.any():
        out[bad] = 0
        said = f"numbers of the {medium} that are not finite are read as 0"
        if said not in warnings:
            warnings.append(said)
    return out
