"""Annotations for ELAN, in which sign language is annotated: EAF 3.0 (Max Planck Institute, EAFv3.0.xsd).

Annotations of a tier stand in order and do not overlap, and refer to time slots in whole milliseconds.
"""

import mimetypes
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from xml.etree import ElementTree

from mmx.tasks.subtitles import clean
from mmx.tasks.words import Segment

SCHEMA = "http://www.mpi.nl/tools/elan/EAFv3.0.xsd"
Span = tuple[float, float, str]
TYPE = "text"


def to_eaf(segments: Sequence[Segment], skipped: Iterable[Span], source: str, when: datetime | None = None) -> str:
    """The document: a tier of the texts of each channel, one of their words where these are timed, and one of what was
    skipped.

    Args:
        segments: with times in seconds of the recording.
        skipped: seconds from and to of what was not read, and why.
        source: path of the recording, which ELAN looks for.
        when: of the document; now when None.
    """
    tiers: dict[str, list[Span]] = {}
    for s in segments:
        name = s.channel or TYPE
        tiers.setdefault(name, []).append((s.start_s, s.end_s, s.text))
        if s.words:
            tiers.setdefault(f"{name} words", []).extend((w.start_s, w.end_s, w.text) for w in s.words)
    tiers |= {"skipped": list(skipped)}
    at = (datetime.now(UTC) if when is None else when).isoformat(timespec="seconds")
    root = ElementTree.Element("ANNOTATION_DOCUMENT", {
        "AUTHOR": "mmx", "DATE": at, "FORMAT": "3.0", "VERSION": "3.0",
        "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance", "xsi:noNamespaceSchemaLocation": SCHEMA,
    })  # fmt: skip
    header = ElementTree.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    kind = mimetypes.guess_type(source)[0] or "unknown"
    ElementTree.SubElement(header, "MEDIA_DESCRIPTOR", {"MEDIA_URL": clean(source), "MIME_TYPE": kind})
    order = ElementTree.SubElement(root, "TIME_ORDER")
    for name, spans in tiers.items():
        _tier(root, order, name, spans)
    order[:] = sorted(order, key=lambda slot: int(slot.get("TIME_VALUE", "0")))
    ElementTree.SubElement(root, "LINGUISTIC_TYPE", {
        "GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": TYPE, "TIME_ALIGNABLE": "true",
    })  # fmt: skip
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, "unicode") + "\n"


def _tier(root: ElementTree.Element, order: ElementTree.Element, name: str, spans: Sequence[Span]) -> None:
    tier = ElementTree.SubElement(root, "TIER", {"LINGUISTIC_TYPE_REF": TYPE, "TIER_ID": clean(name)})
    last = 0
    for start_s, end_s, text in sorted(spans):
        start, end = max(last, round(1000 * start_s)), round(1000 * end_s)
        if end <= start:  # within what was said before it
            continue
        slots = []
        for value in (start, end):
            slots.append(f"ts{len(order) + 1}")
            ElementTree.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": slots[-1], "TIME_VALUE": str(value)})
        held = ElementTree.SubElement(tier, "ANNOTATION")
        marks = {"ANNOTATION_ID": f"a{len(order) // 2}", "TIME_SLOT_REF1": slots[0], "TIME_SLOT_REF2": slots[1]}
        annotation = ElementTree.SubElement(held, "ALIGNABLE_ANNOTATION", marks)
        ElementTree.SubElement(annotation, "ANNOTATION_VALUE").text = clean(text).strip()
        last = end
