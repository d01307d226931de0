"""`mmx crop-mouth`: the mouth of who speaks, out of videos, as lip readers want it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmx.cli.console import say, write_out
from mmx.errors import InputError, MmxError

if TYPE_CHECKING:
    from mmx.media.mouth import Faces, Mouth


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command(
        "crop-mouth", epilog="mmx crop-mouth talk.mp4 --preview sheet.png   |   mmx crop-mouth clips/ -o crops"
    )(crop_mouth)


def crop_mouth(
    files: Annotated[list[str], typer.Argument(metavar="FILES", help="Video files, folders, globs, or -.")],
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "-o", help="Folder for NAME.mouth.mkv and NAME.mouth.json; the current one."),
    ] = None,
    preview: Annotated[
        Path | None, typer.Option(help="A contact sheet (.png) of one video; a folder of them for several.")
    ] = None,
    face: Annotated[
        str,
        typer.Option(help="Whose: largest, first, speaking (whose mouth moves with the sound), or a number from 1."),
    ] = "largest",
) -> None:
    """Cut the mouth out of videos: aligned, grey, 96 x 96 at 25 frames a second, with the sound beside it.

    Frames without a face are black, and the JSON file counts them and has their times. The extra `landmarks` is needed.
    """
    from mmx.media.source import FILMS
    from mmx.tasks.outputs import named

    inputs = named(tuple(files), lambda: FILMS)
    several = len(inputs) > 1
    if preview is not None and not several and preview.suffix.lower() != ".png":
        raise InputError(f"expected a .png file for --preview, got {str(preview)!r}")
    failed = False
    for item in inputs:
        try:
            film = (output_dir or Path()) / f"{item.stem}.mouth.mkv"
            about = _cropped(item.source, face, film, _sheet(preview, item.stem, several))
        except MmxError as e:
            if not several:
                raise
            say(f"failed: {e}")
            failed = True
            continue
        write_out(f"{item.source}: {_told(about)}\n")
    raise typer.Exit(1 if failed else 0)


def _sheet(preview: Path | None, stem: Any, several: bool) -> Path | None:
    return preview / f"{stem}.png" if preview is not None and several else preview


def _cropped(source: str, face: str, film: Path, sheet: Path | None) -> dict[str, Any]:
    """Write the files of one video; what the JSON file says."""
    from mmx.files import atomic_write
    from mmx.media.mouth import choose, cut_mouth, find_faces
    from mmx.media.mouth_files import contact_sheet, sound_of, write_film, write_png
    from mmx.media.source import reopened
    from mmx.media.speaker import offset_of, speaking

    with reopened(source) as again:
        faces, sound = find_faces(again()), sound_of(again())
        track = speaking(faces, sound) if face == "speaking" else choose(faces, face)
        mouth = cut_mouth(again(), faces, track)
    about = {"source": source, **describe(mouth, faces), "sound": sound is not None, **offset_of(mouth, sound)}
    film.parent.mkdir(parents=True, exist_ok=True)
    write_film(film, mouth.crops, sound)
    atomic_write(film.with_suffix(".json"), json.dumps(about, indent=1) + "\n")
    if sheet is not None:
        sheet.parent.mkdir(parents=True, exist_ok=True)
        write_png(sheet, contact_sheet(mouth))
    return about


def describe(mouth: "Mouth", faces: "Faces") -> dict[str, Any]:
    """What was found, in numbers."""
    from mmx.media.mouth import RATE, spans

    return {
        "frames": faces.frames,
        "rate": RATE,
        "face": mouth.face,
        "faces": len(faces.tracks),
        "seen": int(mouth.seen.sum()),
        "bridged": int(mouth.bridged.sum()),
        "lost": int(mouth.lost.sum()),
        "lost_s": [[round(a / RATE, 3), round(b / RATE, 3)] for a, b in spans(mouth.lost)],
        "jitter_pixels": round(mouth.jitter, 3),
        "warnings": faces.warnings,
    }


def _told(about: dict[str, Any]) -> str:
    """The same in a line."""
    others = f", face {about['face']} of {about['faces']}" if about["faces"] > 1 else ""
    lost = f", lost in {about['lost']} ({_times(about['lost_s'])})" if about["lost"] else ""
    bridged = f", bridged in {about['bridged']}" if about["bridged"] else ""
    sound = "" if about["sound"] else "; no sound"
    late = about.get("sound_late_s")
    if late is not None and abs(late) >= 0.08:
        sound = f"; the sound seems {abs(late):.2f} s too {'late' if late > 0 else 'early'}: an estimate"
    return f"mouth seen in {about['seen']} of {about['frames']} frames{bridged}{lost}{others}{sound}"


def _times(spans: list[list[float]]) -> str:
    some = ", ".join(f"{a:.1f}-{b:.1f} s" for a, b in spans[:3])
    return some + (f" and {len(spans) - 3} more" if len(spans) > 3 else "")
