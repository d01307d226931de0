"""Voices from recordings: what a synth that clones needs of one, encoded once and kept as a small file.

A voice is a safetensors file of at most half a megabyte in the user's data folder: the mels of a reference recording of
a few seconds, and what is said in it. It can be copied to another machine, or be named by its path.

Letters: N samples, T frames, F mels.
"""

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmx.errors import InputError, MediaError, nearest
from mmx.files import atomic_write, cannot_write
from mmx.media.audio import Source, open_audio, read_audio
from mmx.media.mel import LogMel
from mmx.model import Model
from mmx.seq import pad
from mmx.tasks.options import Options
from mmx.tasks.transcribe import transcribe

FORMAT = "mmx voice 1"
LONGEST_S, SHORTEST_S = 12.0, 2.0
"""Of a reference recording without its silent ends; longer ones leave a synth less room for the text."""
READ_S = 120.0
"""Of a recording that is looked at: the voice of a long one is in its beginning."""
FRAME_S, PAUSE_S, REST_S, EDGE_S = 0.01, 1.0, 0.1, 0.05
"""Steps in which silence is looked for; the longest pause that is kept; the shortest to end at; silence at the ends."""
SILENT_DB, QUIET_DB, RANGE_DB = -60.0, -50.0, 40.0
"""Below the first a recording is silent; a frame is, below the second or this far below the loudest one."""
TARGET_RMS = 0.1
_NAME = re.compile(r"[\w][\w .-]{0,63}")
_MARKS, _CJK_MARKS = ".!?…", "。！？"


@dataclass(frozen=True)
class Reference:
    """A voice.

    Attributes:
        mels: `(T, F)` float32, of `mmx.media.mel.LogMel`.
        text: what is said in the recording, with the mark that ends it and the space after that.
        about: where it comes from: source, seconds, added, consent, language.
    """

    mels: Tensor
    text: str
    about: Mapping[str, str] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """As `mmx.interfaces.Speech` and the file take it."""
        text = torch.tensor(list(self.text.encode()), dtype=torch.uint8)
        return {"mels": self.mels.contiguous(), "text": text}


def from_tensors(tensors: Mapping[str, Tensor]) -> Reference:
    """The voice of `Reference.tensors`. Raises `InputError` for others."""
    if not {"mels", "text"} <= tensors.keys() or tensors["mels"].dim() != 2 or not len(tensors["text"]):
        raise InputError(f"expected a voice with mels and text, got {sorted(tensors)}: make one with `mmx voice add`")
    text = bytes(tensors["text"].tolist()).decode(errors="replace")
    return Reference(tensors["mels"].float(), text)


# -------------------- the folder


def folder() -> Path:
    """`$MMX_DATA/voices`, else in the user's data folder."""
    if os.environ.get("MMX_DATA"):
        return Path(os.environ["MMX_DATA"]) / "voices"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "mmx" / "voices"


def names() -> list[str]:
    """The voices that were added, in alphabetical order."""
    return sorted(p.stem for p in folder().glob("*.safetensors"))


def path_of(voice: str) -> Path:
    """The file of a voice, by its name or its own path. Raises `InputError` where there is none."""
    if voice.endswith(".safetensors") and Path(voice).is_file():
        return Path(voice)
    if voice not in names():
        known = names()
        raise InputError(
            f"expected a voice among {', '.join(known) or 'none that were added'}, got {voice!r}."
            f"{nearest(voice, known)} Add one with `mmx voice add recording.wav --name me --consent`"
        )
    return folder() / f"{voice}.safetensors"


def read(voice: str) -> Reference:
    """A voice by its name or the path of its file. Raises `InputError` where there is none, or none in it."""
    from safetensors import SafetensorError, safe_open

    path = path_of(voice)
    try:
        with safe_open(str(path), framework="pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError) as e:
        raise InputError(f"expected a voice in {path}, got a file that cannot be read ({e}): add it again") from e
    if about.get("format") != FORMAT:
        raise InputError(f"expected a voice ({FORMAT}) in {path}, got {about.get('format')!r}: add it again")
    return Reference(**{**vars(from_tensors(tensors)), "about": about})


def save(name: str, voice: Reference) -> Path:
    """Write a voice into the folder, whole or not at all.

    Raises:
        InputError: the name cannot be that of a file.
        OutputError: the folder cannot be written to.
    """
    from safetensors.torch import save as to_bytes

    check_name(name)
    return atomic_write(folder() / f"{name}.safetensors", to_bytes(voice.tensors(), {"format": FORMAT, **voice.about}))


def check_name(name: str) -> None:
    """Raise `InputError` for a name that no voice can have."""
    if not _NAME.fullmatch(name):
        raise InputError(f"expected a name of letters, digits, spaces, points and hyphens, got {name!r}: such as anna")


def check_consent(stated: bool) -> None:
    """Raise `InputError` where nobody states that the person whose voice is copied has agreed to it."""
    if not stated:
        raise InputError(
            "expected the consent of the person whose voice this is, got none stated: copying a voice needs it. "
            "If it is your own voice, or its owner has agreed, add --consent"
        )


def remove(name: str) -> Path:
    """Remove a voice that was added. Raises `InputError` where there is none, `OutputError` where it must stay."""
    if name not in names():
        path_of(name if not name.endswith(".safetensors") else Path(name).stem)
    path = folder() / f"{name}.safetensors"
    try:
        path.unlink()
    except OSError as e:
        raise cannot_write(path, e) from e
    return path


# -------------------- from a recording


def make(
    source: Source, recognizer: Model | None, *, text: str = "", language: str | None = None, consent: bool = False
) -> Reference:
    """The voice of a recording.

    Args:
        source: the recording, as `mmx.media.audio.open_audio` takes it; its first two minutes are looked at.
        recognizer: writes what is said, where `text` does not tell.
        text: what is said in the whole recording.
        language: of the recording; found out when None.
        consent: whether the person whose voice it is has agreed to its being copied. The answer is kept in the file.

    Raises:
        InputError: no consent is stated, or a text is given for a recording that had to be cut.
        MediaError: it cannot be read, is silent or too short, or nobody speaks in it.
    """
    check_consent(consent)
    front = LogMel()
    samples, whole = excerpt(read_beginning(source, int(front.rate)), int(front.rate))
    if text.strip() and not whole:
        raise InputError(
            f"expected a recording of at most {LONGEST_S:g} s where its text is given, got a longer one, of which only "
            "the beginning is used: cut it yourself, or leave the text to the recognizer"
        )
    text = text.strip() or _written(samples, int(front.rate), recognizer, language)
    wave_N = torch.from_numpy(levelled(samples))
    mels_TF = front(pad([wave_N], front.rate)).x[0]
    about = {
        "source": Path(source).name if isinstance(source, str | Path) else "", "language": language or "",
        "seconds": f"{len(samples) / front.rate:.2f}", "added": datetime.date.today().isoformat(),
        "consent": "stated by the person who added it",
    }  # fmt: skip
    return Reference(mels_TF, ended(text), about)


def read_beginning(source: Source, rate: int) -> np.ndarray:
    """Samples `(N,)` of the first two minutes. Raises `MediaError` for what cannot be read."""
    blocks: list[np.ndarray] = []
    with open_audio(source, rate=rate) as reader:
        for block in reader:
            blocks.append(block)
            if sum(map(len, blocks)) >= READ_S * rate:
                break
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def excerpt(samples: np.ndarray, rate: int) -> tuple[np.ndarray, bool]:
    """The speech of a recording without silent ends and long pauses, at most 12 s, and whether that is all of it.

    It ends in the last pause before 12 s; where nobody pauses, at 12 s.

    Raises:
        MediaError: it is silent or too short.
    """
    n = round(FRAME_S * rate)
    frames_TN = samples[: len(samples) // n * n].reshape(-1, n)
    level_T = 10 * np.log10(np.square(frames_TN, dtype=np.float64).mean(1) + 1e-12)
    if not len(level_T) or level_T.max() < SILENT_DB:
        raise MediaError(
            f"expected a recording in which somebody speaks, got {len(samples) / rate:.1f} s of silence: record again"
        )
    loud_T = level_T > max(QUIET_DB, level_T.max() - RANGE_DB)
    kept = _without_long_pauses(loud_T)
    last = round(LONGEST_S / FRAME_S)
    whole = len(kept) <= last
    if not whole:
        kept = kept[: _end(loud_T[kept], last)]
    if len(kept) * FRAME_S < SHORTEST_S:
        raise MediaError(
            f"expected at least {SHORTEST_S:g} s of speech, got {len(kept) * FRAME_S:.1f} s: record a sentence or two, "
            "best 5 to 10 s"
        )
    edge = np.zeros(round(EDGE_S * rate), np.float32)
    return np.concatenate([frames_TN[kept].reshape(-1), edge]).astype(np.float32), whole


def _without_long_pauses(loud_T: np.ndarray) -> np.ndarray:
    """Frames from the first loud one to the last, with pauses cut to their first second."""
    first, last = np.flatnonzero(loud_T)[[0, -1]]
    at_T = np.arange(first, last + 1)
    since_T = at_T - np.maximum.accumulate(np.where(loud_T[at_T], at_T, first))
    return at_T[since_T <= round(PAUSE_S / FRAME_S)]


def _end(loud_T: np.ndarray, last: int) -> int:
    """Where to stop, at most at frame `last`: in the middle of the last pause of the second half."""
    rest, half = round(REST_S / FRAME_S), last // 2
    edges = np.flatnonzero(np.diff(np.concatenate([[True], loud_T[:last], [True]])))
    pauses = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= rest and (a + b) // 2 > half]
    return int(sum(pauses[-1]) // 2) if pauses else last


def levelled(samples: np.ndarray) -> np.ndarray:
    """Samples at a usual level where they are quieter, and never past full scale."""
    rms = float(np.sqrt(np.square(samples, dtype=np.float64).mean()))
    gain = min(max(1.0, TARGET_RMS / max(rms, 1e-9)), 1.0 / max(1e-9, float(np.abs(samples).max())))
    return (samples * gain).astype(np.float32)


def ended(text: str) -> str:
    """A text with a mark at its end, and the space before the next sentence."""
    text = " ".join(text.split())
    if text[-1] in _CJK_MARKS:
        return text
    return f"{text} " if text[-1] in _MARKS else f"{text.rstrip(',;:-')}. "


def _written(samples: np.ndarray, rate: int, recognizer: Model | None, language: str | None) -> str:
    if recognizer is None:
        raise InputError("expected the text of the recording or a recognizer that writes it, got neither: give one")
    heard = read_audio(samples, source_rate=rate)
    text = next(iter(transcribe(recognizer, [heard], Options(language=language)))).text.strip()
    if not any(map(str.isalnum, text)):
        raise MediaError(
            "expected a recording in which somebody speaks, got one without words: record again, or say --text"
        )
    return text
