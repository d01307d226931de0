"""What a client may call the server's model: its own name, and the names that OpenAI's clients have built in."""

import re
from typing import Protocol

from mmx.streaming.server.settings import ApiError

ALIASES = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
"""They mean whatever speech model the server has."""
DATED = re.compile(r"(gpt-4o-transcribe|gpt-4o-mini-transcribe)-\d{4}-\d\d-\d\d")
OWNER = "openai/"
"""Other servers call OpenAI's models by their names on Hugging Face."""


class Named(Protocol):
    """An engine: its models' names, the speech model first."""

    @property
    def names(self) -> list[str]: ...


def accepted(engine: Named) -> tuple[str, ...]:
    """What is listed; the text model only ever follows the speech model, so that no request names it."""
    return (engine.names[0], *ALIASES)


def check_model(engine: Named, name: object, param: str = "model", realtime: bool = False) -> str:
    """The name of the model that `name` means; realtime clients may also name any of OpenAI's (gpt-realtime).

    Raises:
        ApiError: (404) for a model that the server does not have.
    """
    own = engine.names[0]
    known = isinstance(name, str) and (name in (*accepted(engine), OWNER + own) or DATED.fullmatch(name))
    if name in (None, "") or known or (realtime and str(name).startswith("gpt-")):
        return own
    names = ", ".join(map(repr, accepted(engine)))
    raise ApiError(404, "model_not_found", f"expected a model among {names}, got {name!r}", param=param)
