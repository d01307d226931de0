"""What synths share: finding the voice that is asked for."""

from collections.abc import Sequence

from mmx.errors import InputError, nearest
from mmx.interfaces import Voice


def find_voice(names: Sequence[str], voice: Voice) -> int:
    """The place of a voice among the names of a synth. Raises `InputError` for one that is not among them."""
    if isinstance(voice, int):
        if not 0 <= voice < len(names):
            raise InputError(f"expected a voice from 0 to {len(names) - 1}, got {voice}")
        return voice
    if not isinstance(voice, str):
        raise InputError("expected a voice by name or number, got one that is described: this model has only its own")
    if voice not in names:
        raise InputError(f"expected a voice among {', '.join(names)}, got {voice!r}.{nearest(voice, list(names))}")
    return names.index(voice)
