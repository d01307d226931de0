"""Options of the command line alone: where a verb's text goes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from mmx.errors import InputError, nearest
from mmx.options import Option, check

FORMATS = ("txt", "srt", "vtt", "tsv", "json")
MORE_FORMATS = ("eaf",)


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the texts of recordings are written, and as what."""

    output_format: Annotated[str, Option("txt, srt, vtt, tsv, json, all of these, or eaf; several with commas.")] = (
        "txt"
    )
    output_dir: Annotated[
        Path | None, Option("Write files here; without it the text goes to standard output.")
    ] = None  # fmt: skip
    skip_existing: Annotated[bool, Option("Leave out recordings whose output is there.")] = False

    def __post_init__(self) -> None:
        check(self)
        if len(self.formats) > 1 and self.output_dir is None:
            raise InputError(
                f"expected --output-dir with {len(self.formats)} formats: only one fits on standard output"
            )
        if self.skip_existing and self.output_dir is None:
            raise InputError(
                "expected --output-dir with --skip-existing, got none: only files that were written are skipped"
            )

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats by name. Raises `InputError` for what is none."""
        names = tuple(dict.fromkeys(n.strip().lower() for n in self.output_format.split(",") if n.strip()))
        if "all" in names:
            return FORMATS
        known = ", ".join((*FORMATS, *MORE_FORMATS))
        if not names:
            raise InputError(f"expected formats among {known}, all, got {self.output_format!r}")
        for name in names:
            if name not in (*FORMATS, *MORE_FORMATS):
                raise InputError(f"expected formats among {known}, all, got {name!r}.{nearest(name, FORMATS)}")
        return names
