"""Help: the verbs by what they are for, and each example on a line of its own."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

SECTIONS: Mapping[str, Sequence[str]] = {
    "Recordings, texts, live": ("transcribe", "translate", "speak", "live", "serve"),
    "Collections and tools": ("index", "search", "crop-mouth", "detect"),
    "Models and voices": ("models", "voices", "voice", "convert", "doctor"),
    "Training and measuring": ("data", "train", "evaluate", "compose", "extend", "trim", "bench"),
}
COMMANDS = "Commands"
"""What no section names, as in groups of a few."""


class Sections(TyperGroup):
    """A group of verbs whose help has a section for each kind of them, and whole sentences."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the sections; each verb with the first sentence of its help, whole."""
        known = {name for names in SECTIONS.values() for name in names}
        rest = [name for name in self.list_commands(ctx) if name not in known]
        width = max(map(len, self.commands))
        for title, names in {**SECTIONS, COMMANDS: rest}.items():
            shown = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name.ljust(width), _first_sentence(verb.help or "")) for name, verb in shown if verb is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Verb(TyperCommand):
    """A verb whose examples, divided in its epilog by bars with spaces around them, stand below each other, as they are
    typed; what is no command is a remark on them."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        if not self.epilog:
            return
        with formatter.section("Examples"):
            for text in self.epilog.split("   |   "):
                if text.startswith("mmx "):
                    formatter.write(f"{'':{formatter.current_indent}}{text.strip()}\n")
                else:
                    formatter.write_text(text)


class Verbs(typer.Typer):
    """Verbs with such a help."""

    def __init__(self, **how: Any):
        super().__init__(cls=Sections, no_args_is_help=True, rich_markup_mode=None, **how)

    def command(self, name: str | None = None, **how: Any) -> Any:  # type: ignore[override]
        """As typer's."""
        return super().command(name, **{"cls": Verb, **how})


def _first_sentence(text: str) -> str:
    """Of the first paragraph."""
    line = " ".join(text.strip().split("\n\n")[0].split())
    end = line.find(". ")
    return line if end < 0 else line[: end + 1]
