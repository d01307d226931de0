"""The flags of a verb, made of the dataclasses of options (`mmx.options`) that it takes.

    def transcribe(files: Files, options: Annotated[Options, Without("to")], output: OutputOptions) -> None: ...

    app.command()(with_flags(transcribe))

Each field of `Options` but `to`, and each of `OutputOptions`, is a flag with the name, type, default, range and help
that the field has; `transcribe` is called with the dataclasses.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from mmx.errors import InputError
from mmx.options import default_of, flaws_of, options_of, settled, type_of


class Without:
    """Fields of a dataclass that a verb has no flags for; they have their defaults."""

    def __init__(self, *names: str):
        self.names = names


class Only:
    """The fields of a dataclass that a verb has flags for."""

    def __init__(self, *names: str):
        self.names = names


class Defaults:
    """Defaults that a verb has in the place of the dataclass's."""

    def __init__(self, **values: Any):
        self.values = values


@dataclass(frozen=True)
class _Group:
    """A dataclass that a verb takes, those of its fields that are flags, and the verb's own defaults of them."""

    kind: type
    fields: tuple[str, ...]
    defaults: Mapping[str, Any]


def with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """`verb` as typer is to see it, with a parameter for each field of its dataclasses.

    A parameter that the verb has by itself comes before a field of its name.
    """
    taken = get_type_hints(verb, include_extras=True)
    plain = {p.name: p for p in inspect.signature(verb).parameters.values()}
    groups = {name: found for name in plain if (found := _group(taken[name], plain))}
    shown: list[inspect.Parameter] = []
    for name, parameter in plain.items():
        if name in groups:
            shown += [_parameter(groups[name], field) for field in groups[name].fields]
        else:
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=taken[name]))

    @wraps(verb)
    def called(**values: Any) -> None:
        made = {n: _made(group.kind, {f: values.pop(f) for f in group.fields}) for n, group in groups.items()}
        verb(**values, **made)

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in shown}
    return called


def flag(name: str) -> str:
    """The flag of an option: "--beam-size"."""
    return f"--{name.replace('_', '-')}"


def _group(annotation: Any, own: Collection[str]) -> _Group | None:
    """What is known of a parameter that takes a dataclass; None of any other. The verb has `own` parameters."""
    kind, *extras = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return None
    fields = [name for name, option in options_of(kind).items() if option.shell and name not in own]
    defaults: dict[str, Any] = {}
    for extra in extras:
        if isinstance(extra, Defaults):
            defaults |= extra.values
        elif isinstance(extra, Only | Without):
            fields = [name for name in fields if (name in extra.names) == isinstance(extra, Only)]
    return _Group(kind, tuple(fields), defaults)


def _parameter(group: _Group, name: str) -> inspect.Parameter:
    option, annotation = options_of(group.kind)[name], _shell(group.kind, name)
    default = _shown(group.kind, name, group.defaults.get(name, default_of(group.kind, name)))
    dashed = f"{flag(name)}/{flag(f'no-{name}')}" if default is True else flag(name)
    whole = int in (annotation, *get_args(annotation))
    info = typer.Option(
        dashed,
        *option.flags,
        help=option.help,
        min=option.least if whole else None,
        max=option.most if whole else None,
        envvar=option.env,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
        annotation=Annotated[annotation, info],
    )


def _shell(kind: type, name: str) -> Any:
    """The type of an option's flag: what has commas is one text, several texts are as many flags."""
    annotation, entries = type_of(kind, name), _entries(kind, name)
    if _has_commas(kind, name) or get_origin(annotation) is Literal:
        return str
    return annotation if entries is None else list[entries] | None


def _shown(kind: type, name: str, default: Any) -> Any:
    """A default as the flag has it."""
    if _has_commas(kind, name):
        return ",".join(v if isinstance(v, str) else f"{v:g}" for v in default)
    return default if _entries(kind, name) is None else list(default) or None


def _has_commas(kind: type, name: str) -> bool:
    return options_of(kind)[name].commas or _entries(kind, name) in (int, float)


def _entries(kind: type, name: str) -> Any:
    """The type of the entries of an option that is a list; None of any other."""
    annotation = type_of(kind, name)
    origin = get_origin(annotation)
    return get_args(annotation)[0] if isinstance(origin, type) and issubclass(origin, Sequence) else None


def _made(kind: type, values: Mapping[str, Any]) -> Any:
    """The dataclass. Raises `InputError` that names the flags of all values that cannot be."""
    read = {name: _read(kind, name, value) for name, value in values.items()}
    if found := [flaw for name, value in read.items() for flaw in flaws_of(kind, name, value, flag(name))]:
        raise InputError("; ".join(found))
    return kind(**read)


def _read(kind: type, name: str, value: Any) -> Any:
    entries = _entries(kind, name)
    if _has_commas(kind, name):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        try:
            return tuple(entries(p) for p in parts) if entries in (int, float) else tuple(parts)
        except ValueError:
            example = _shown(kind, name, default_of(kind, name))
            raise InputError(f"expected numbers such as {example} for {flag(name)}, got {value!r}") from None
    if entries is not None:
        return tuple(value or ())
    if options_of(kind)[name].env and value == "":  # an empty variable of the environment sets nothing
        return default_of(kind, name)
    return settled(kind, name, value)
