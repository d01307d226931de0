"""Parallel text: the readers understand their formats, bad pairs are dropped, and no held-out text is trained on."""

import json
import random
import shutil
import struct
import subprocess
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import pytest

from mmx.datasets import debian
from mmx.datasets.parallel import (
    HELD_OUT,
    MAX_TARGETS,
    SPLITS,
    Pair,
    bucket,
    capped,
    clean,
    deduplicate,
    flaw,
    follow,
    key,
    long_enough,
    normalise,
    sentences,
    split,
    split_sentences,
    without_texts,
)
from mmx.datasets.readers.bitext import read_line_pairs, read_tab_pairs
from mmx.datasets.readers.documents import read_dialogue, read_mallard, read_properties, read_stamp, read_storybook
from mmx.datasets.readers.gettext import Message, clean_message, read_mo, read_pairs, read_po
from mmx.datasets.readers.pages import read_pages
from mmx.datasets.readers.qt import read_qm
from mmx.datasets.readers.sword import modern_spanish, read_verses
from mmx.datasets.readers.sword import read_pairs as read_bible
from mmx.datasets.recipes import en_es
from mmx.datasets.recipes.corpora_en_es import Corpus, Reader
from mmx.errors import InputError


def write_mo(path: Path, entries: dict[str, str], *, charset: str = "utf-8", order: str = "<") -> Path:
    """Write a compiled catalogue as the GNU gettext manual lays it out."""
    header = f"Content-Type: text/plain; charset={charset}\n"
    coded = [(s.encode(charset), t.encode(charset)) for s, t in sorted({"": header, **entries}.items())]
    at = 28 + 16 * len(coded)
    tables, body = [b"", b""], b""
    for side in (0, 1):
        for entry in coded:
            tables[side] += struct.pack(f"{order}2I", len(entry[side]), at + len(body))
            body += entry[side] + b"\0"
    start = struct.pack(f"{order}7I", 0x950412DE, 0, len(coded), 28, 28 + 8 * len(coded), 0, 0)
    path.write_bytes(start + tables[0] + tables[1] + body)
    return path


@pytest.mark.parametrize(("order", "charset"), [("<", "utf-8"), (">", "latin-1")])
def test_mo_of_either_byte_order_and_any_charset(tmp_path: Path, order: str, charset: str) -> None:
    entries = {"Yes": "Sí", "menu\x04Open": "Abrir", "%d day\0%d days": "%d día\0%d días", "Left out": ""}
    found = list(read_mo(write_mo(tmp_path / "a.mo", entries, order=order, charset=charset)))
    assert sorted(found, key=lambda m: m.sources) == [
        Message(("%d day", "%d days"), ("%d día", "%d días")),
        Message(("Open",), ("Abrir",), "menu"),
        Message(("Yes",), ("Sí",)),
    ]


@pytest.mark.parametrize("length", [0, 20, 60, -3])
def test_mo_that_is_cut_off_is_refused(tmp_path: Path, length: int) -> None:
    path = write_mo(tmp_path / "a.mo", {"Yes": "Sí", "No": "No"})
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(InputError, match=r"a\.mo"):
        list(read_mo(path))


PO = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\n"

#. A greeting
#: game.c:12
msgid "Good "
"morning, \"friend\"."
msgstr "Buenos días, "
"\"amigo\"."

#, fuzzy, c-format
msgid "Not sure."
msgstr "Segurísimo."
msgctxt "door"
msgid "Open"
msgstr "Abierta"
#, c-format
msgid "%d cat"
msgid_plural "%d cats"
msgstr[0] "%d gato"
msgstr[1] "%d gatos"

msgid "Untranslated"
msgstr ""

#~ msgid "Old"
#~ msgstr "Viejo"
"""


def test_po_leaves_out_header_fuzzy_untranslated_and_obsolete(tmp_path: Path) -> None:
    path = tmp_path / "es.po"
    path.write_text(PO, "utf-8")
    assert list(read_po(path)) == [
        Message(('Good morning, "friend".',), ('Buenos días, "amigo".',)),
        Message(("Open",), ("Abierta",), "door"),
        Message(("%d cat", "%d cats"), ("%d gato", "%d gatos")),
    ]


@pytest.mark.parametrize("line", ['msgstr "unclosed', "stray", '"text before any keyword"'])
def test_po_names_the_line_that_it_cannot_read(tmp_path: Path, line: str) -> None:
    path = tmp_path / "es.po"
    path.write_text(f"# a comment\n{line}\n", "utf-8")
    with pytest.raises(InputError, match=r"es\.po:2"):
        list(read_po(path))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("_Open the file", "Open the file"),
        ("Save &As", "Save As"),
        ("Cats & dogs", "Cats & dogs"),
        ("<b>Stop!</b> he said<br/>", "Stop! he said"),
        ("<color_light_red>Run</color>", "Run"),
        ("Hello <npcname>", "Hello <npcname>"),
        ("a_variable_name", "a_variable_name"),
    ],
)
def test_clean_message(raw: str, text: str) -> None:
    assert clean_message(raw) == text


def test_catalogue_pairs_go_paragraph_by_paragraph(tmp_path: Path) -> None:
    entries = {"female^Well done!\n\nGo on.": "¡Bien hecha!\n\nSigue.", "One.\n\nTwo.": "Uno y dos.", "a\0b": "c\0d\0e"}
    pairs = [(p.source, p.target, p.document) for p in read_pairs(write_mo(tmp_path / "a.mo", entries), "game", "a")]
    assert sorted(pairs) == [
        ("Go on.", "Sigue.", "a"),
        ("One. Two.", "Uno y dos.", "a"),
        ("Well done!", "¡Bien hecha!", "a"),
        ("a", "c", "a"),
        ("b", "d", "a"),
    ]


def test_normalise_and_key() -> None:
    assert normalise("  “Cafe\u0301”\n it’s\u00a0…") == '"Café" it\'s ...'
    assert key("¡Él tiene 12 años!") == key("el tiene 34 anos") != key("ella tiene 12 años")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Come in. Sit down! Why not?", ["Come in.", "Sit down!", "Why not?"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("Mr. Brown met J. Smith. They talked.", ["Mr. Brown met J. Smith.", "They talked."]),
        ("¿Vienes? ¡Claro! No sé...", ["¿Vienes?", "¡Claro!", "No sé..."]),
        ("Wait... what? version 2.0 is out", ["Wait... what? version 2.0 is out"]),
    ],
)
def test_sentences(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_a_pair_is_split_only_when_both_sides_match() -> None:
    both = Pair("Come in. Sit down on the chair.", "Entra. Siéntate en la silla.", "x", "d")
    assert split_sentences(both) == [
        Pair("Come in.", "Entra.", "x", "d"),
        Pair("Sit down on the chair.", "Siéntate en la silla.", "x", "d"),
    ]
    for target in ("Entra y siéntate en la silla.", "Entra aquí y siéntate ya mismo en la silla. Bien."):
        assert split_sentences(Pair(both.source, target, "x")) == [Pair(both.source, target, "x")]


GOOD = Pair("He lives in the old house.", "Él vive en la casa vieja.", "x")


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (GOOD.source, GOOD.target, None),
        ("Is that about 1,000?", "¿Son unos 1.000?", None),
        ("He is ten.", "Tiene 10 años.", None),
        ("...", "¿Qué?", "empty"),
        ("Load the file.", "Load the file", "identical"),
        ("Hello, %s, come in.", "Hola, %s, entra.", "markup"),
        ("Hello <name>, come in.", "Hola, entra.", "markup"),
        ("Start &kate; now.", "Inicie &kate; ahora.", "markup"),
        ("word " * 70 + ".", "palabra " * 50 + ".", "long"),
        ("Open file", "Abrir archivo", "label"),
        ("Yes, Sir.", "Sí, señor.", "label"),
        ("12 + 34 - 56 is x.", "12 + 34 - 56 es x.", "label"),
        ("STOP RIGHT THERE NOW!", "¡DETENTE AHORA MISMO!", "capitals"),
        ("He lives in the old house.", "¡Ay", "label"),
        ("He lives in the old house.", "Vive aquí.", "length ratio"),
        ("He has 12 old books.", "Tiene 13 libros viejos.", "numbers"),
        ("He lives in the old house.", "He lives in the new house.", "language"),
        ("Does he live here?", "Vive él aquí?", "punctuation"),
        ("He lives here now.", "¿Vive aquí ahora?", "punctuation"),
    ],
)
def test_flaws_of_prose(source: str, target: str, reason: str | None) -> None:
    assert flaw(Pair(source, target, "x"), prose=True) == reason


def test_short_sentences_pass_where_labels_are_not_expected() -> None:
    assert flaw(Pair("Run!", "¡Corre!", "x"), prose=False) is None
    assert flaw(Pair("1 2 3 4 a", "1 2 3 4 b", "x"), prose=False) == "letters"


def test_clean_counts_what_it_drops() -> None:
    dropped: Counter[str] = Counter()
    pairs = [GOOD, Pair("Come  in. Sit down.", "Entra. Sit down.", "x"), Pair("a %s", "b %s", "x")]
    assert [p.source for p in clean(pairs, prose=False, dropped=dropped)] == [GOOD.source, "Come in."]
    assert dropped == {"identical": 1, "markup": 1}


def test_parts_of_a_quotation_lose_its_marks() -> None:
    whole = Pair('"Come in. Sit down." He said "now".', '"Entra. Siéntate." Él dijo "ya".', "x")
    parts = list(clean([whole], prose=False, dropped=Counter()))
    assert [p.source for p in parts] == ["Come in.", "Sit down.", 'He said "now".']
    assert [p.target for p in parts] == ["Entra.", "Siéntate.", 'Él dijo "ya".']


def test_deduplicate_keeps_the_first_and_a_few_translations() -> None:
    dropped: Counter[str] = Counter()
    pairs = [GOOD, Pair(GOOD.source.upper(), "él vive en la casa vieja", "y")]
    pairs += [Pair("Hi!", f"Hola {word}", "x") for word in "abcdefg"]
    assert list(deduplicate(pairs, dropped)) == [GOOD, *pairs[2 : 2 + MAX_TARGETS]]
    assert dropped == {"duplicate": 1, "many translations": 7 - MAX_TARGETS}


def test_the_hash_is_the_same_everywhere() -> None:
    assert bucket("hello") == 0x2CF24DBA5FB0A30E / 2**64  # sha256 of "hello" starts so
    assert 0.08 < sum(bucket(str(i)) < 0.1 for i in range(5000)) / 5000 < 0.12


def random_pairs(count: int) -> list[Pair]:
    """Pairs of few distinct texts, so that many share a source or a target across sets."""
    rng = random.Random(3)
    names = {"": "tatoeba", "story-a": "game", "story-b": "game", "news": "other"}
    pairs = []
    for _ in range(count):
        document = rng.choice(list(names))
        source = " ".join(f"s{rng.randrange(9)}" for _ in range(rng.choice((2, 6))))
        pairs.append(Pair(source, f"t{rng.randrange(count // 3)} x y z w", names[document], document))
    return pairs


def keys(pairs: list[Pair], side: str) -> set[str]:
    return {key(getattr(p, side)) for p in pairs}


def test_no_set_shares_a_source_or_a_target_with_another() -> None:
    pairs = [Pair(p.source.replace("s", "word "), p.target, p.origin, p.document) for p in random_pairs(3000)]
    letters = str.maketrans("0123456789", "abcdefghij")  # `key` makes all digits equal
    pairs = [Pair(p.source.translate(letters), p.target.translate(letters), p.origin, p.document) for p in pairs]
    sets = split(pairs, {"story-a": "test"}, {"other": "test_other"}, share=0.2)
    assert all(sets[name] for name in SPLITS)
    for rank, name in enumerate(SPLITS):
        for other in SPLITS[rank + 1 :]:
            assert not keys(sets[name], "source") & keys(sets[other], "source"), (name, other)
            assert not keys(sets[name], "target") & keys(sets[other], "target"), (name, other)
    assert {p.document for p in sets["test_other"]} == {"news"}
    assert not any(p.document == "story-a" for name in ("valid", "train") for p in sets[name])
    assert not any(p.document == "story-b" for name in HELD_OUT for p in sets[name])


def test_common_short_sentences_stay_in_training_and_long_ones_do_not() -> None:
    short, long = (
        Pair("Thank you.", "Gracias.", "a", "held"),
        Pair("He is not at home.", "No está en casa.", "a", "held"),
    )
    twins = [Pair(short.source, "Gracias.", "b", "free"), Pair("He's out, I think so.", long.target, "b", "free")]
    sets = split([short, long, *twins], {"held": "test"}, {}, share=0.0)
    assert sets["test"] == [long]
    assert sets["train"] == [twins[0]]


def test_tab_pairs_from_text_and_from_an_archive(tmp_path: Path) -> None:
    lines = "Go.\tVe.\tCC-BY\nHi.\tHola.\n"
    (tmp_path / "spa.txt").write_text(lines, "utf-8")
    with zipfile.ZipFile(tmp_path / "spa.zip", "w") as archive:
        archive.writestr("_about.txt", "notes")
        archive.writestr("spa-eng/spa.txt", lines)
    for name in ("spa.txt", "spa.zip"):
        assert list(read_tab_pairs(tmp_path / name, "t")) == [Pair("Go.", "Ve.", "t"), Pair("Hi.", "Hola.", "t")]
    (tmp_path / "spa.txt").write_text("Go.\tVe.\nno tab\n", "utf-8")
    with pytest.raises(InputError, match=r"spa\.txt:2"):
        list(read_tab_pairs(tmp_path / "spa.txt", "t"))


def test_line_pairs_must_be_equally_many(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("One.\nTwo.\n", "utf-8")
    (tmp_path / "es").write_text("Uno.\nDos.\n", "utf-8")
    assert [p.target for p in read_line_pairs(tmp_path / "en", tmp_path / "es", "n")] == ["Uno.", "Dos."]
    (tmp_path / "es").write_text("Uno.\n", "utf-8")
    with pytest.raises(InputError, match=r"2.*got 1"):
        list(read_line_pairs(tmp_path / "en", tmp_path / "es", "n"))


def write_testament(stem: Path, books: list[list[str]]) -> None:
    """Write a testament with one packed block for each list of places."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    blocks = places = packed = b""
    for number, book in enumerate(books):
        raw = b""
        for text in book:
            coded = text.encode()
            places += struct.pack("<IIH", number, len(raw), len(coded))
            raw += coded
        squeezed = zlib.compress(raw)
        blocks += struct.pack("<III", len(packed), len(squeezed), len(raw))
        packed += squeezed
    for ending, content in ((".bzs", blocks), (".bzv", places), (".bzz", packed)):
        stem.with_suffix(ending).write_bytes(content)


def chapter(name: str, *verses: str) -> list[str]:
    return [f'<chapter n="1" osisID="{name}" sID="{name}"/>', *verses]


def test_verses_align_though_one_bible_has_more_of_them(tmp_path: Path) -> None:
    english = chapter("Gen.1", "<w>In</w> the <note>a note</note>beginning.", "“<w>Second</w>.”", "Third, only here.")
    spanish = chapter("Gen.1", "EN el <w>principio</w>.", "Segund<w>o</w>.")
    for folder, first in (("en", english), ("es", spanish)):
        write_testament(tmp_path / folder / "ot", [["", "heading", *first], chapter("Exod.1", f"Exodus {folder}.")])
        write_testament(tmp_path / folder / "nt", [chapter("Matt.1", f"Matthew {folder}.")])
    assert read_verses(tmp_path / "en")["Gen.1", 2] == "Second."
    assert list(read_bible(tmp_path / "en", tmp_path / "es", "bible")) == [
        Pair("In the beginning.", "En el principio.", "bible", "Gen"),
        Pair("Second.", "Segundo.", "bible", "Gen"),
        Pair("Exodus en.", "Exodus es.", "bible", "Exod"),
        Pair("Matthew en.", "Matthew es.", "bible", "Matt"),
    ]
    (tmp_path / "es" / "nt.bzz").write_bytes(b"broken")
    with pytest.raises(InputError, match="nt"):
        read_verses(tmp_path / "es")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Y fué á la casa, é hizo ó dió pan.", "Y fue a la casa, e hizo o dio pan."),
        ("Y LIBRO de todos.", "Y libro de todos."),
        ("Díjole entonces que viniese.", None),
        ("Y tomáronlo y lleváronle.", None),
        ("Toda hoja secaráse.", None),
        ("Sólo él vio solas las islas.", "Sólo él vio solas las islas."),
    ],
)
def test_spelling_of_1909(old: str, new: str | None) -> None:
    assert modern_spanish(old) == new


def test_mallard_pages_align_by_structure(tmp_path: Path) -> None:
    page = '<page xmlns="http://projectmallard.org/1.0/"><title>{}</title><p>{} <gui>{}</gui>.</p>{}</page>'
    (tmp_path / "a.page").write_text(page.format("Help", "Press", "Save", ""), "utf-8")
    (tmp_path / "b.page").write_text(page.format("Ayuda", "Pulse", "Guardar", ""), "utf-8")
    pairs = list(read_mallard(tmp_path / "a.page", tmp_path / "b.page", "help"))
    assert pairs == [Pair("Help", "Ayuda", "help", "a"), Pair("Press Save.", "Pulse Guardar.", "help", "a")]
    (tmp_path / "b.page").write_text(page.format("Ayuda", "Pulse", "Guardar", "<p>Más.</p>"), "utf-8")
    assert not list(read_mallard(tmp_path / "a.page", tmp_path / "b.page", "help"))


def test_storybook_pages_come_in_both_languages(tmp_path: Path) -> None:
    path = tmp_path / "0001" / "index.html"
    path.parent.mkdir()
    column = '<div class="columns"><div class="column txt {}"><h3>{}<br>{}</h3></div><div class="column">x</div></div>'
    both = column.format("def", "Hola,", " Ana &amp; Luis.") + column.format("l1", "Hello,", " Ana &amp; Luis.")
    path.write_text(f"<html>{both}</html>", "utf-8")
    assert list(read_storybook(path, "s")) == [Pair("Hello, Ana & Luis.", "Hola, Ana & Luis.", "s", "0001")]
    path.write_text(f"<html>{both}{column.format('def', 'Más', '')}</html>", "utf-8")
    with pytest.raises(InputError, match="1, 2"):
        list(read_storybook(path, "s"))


def test_dialogue_of_a_level(tmp_path: Path) -> None:
    path = tmp_path / "wreck" / "dialogs_es.lua"
    path.parent.mkdir()
    lines = (
        r'dialogId("a-m-1", "font_small", "Say \"please\".")',
        r'dialogStr("Di \"por favor\".")',
        'dialogId("b", "f", "x")',
    )
    path.write_text("\n".join(lines), "utf-8")
    assert list(read_dialogue(path, "f")) == [Pair('Say "please".', 'Di "por favor".', "f", "wreck")]


def test_properties_pair_by_name(tmp_path: Path) -> None:
    (tmp_path / "en").write_text("# note=x\na.b=Yes = no\nc=See\\nhere\nd=Left\n", "utf-8")
    (tmp_path / "es").write_text("c=Vea\\naqu\\u00ed\na.b=S\u00ed = no\ne=De m\u00e1s\n", "utf-8")
    found = list(read_properties(tmp_path / "en", tmp_path / "es", "p"))
    assert found == [Pair("See here", "Vea aqu\u00ed", "p"), Pair("Yes = no", "S\u00ed = no", "p")]


def test_caption_of_a_stamp(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A frog.\neo.utf8=Rano.\nes.utf8=Una rana.\n", "utf-8")
    (tmp_path / "b.txt").write_text("", "utf-8")
    assert list(read_stamp(tmp_path / "a.txt", "s")) == [Pair("A frog.", "Una rana.", "s")]
    assert not list(read_stamp(tmp_path / "b.txt", "s"))


def write_qm(path: Path, messages: list[tuple[str, list[str]]]) -> Path:
    """Write a compiled catalogue of Qt as QTranslator reads it, with a section of hashes before the messages."""
    body = b""
    for source, targets in messages:
        for target in targets:
            coded = target.encode("utf-16-be")
            body += struct.pack(">BI", 3, len(coded) or 0xFFFFFFFF) + coded
        for tag, text in ((8, "a comment"), (6, source), (7, "Context")):
            body += struct.pack(">BI", tag, len(text.encode())) + text.encode()
        body += b"\x01"
    sections = struct.pack(">BI", 0x42, 8) + bytes(8) + struct.pack(">BI", 0x69, len(body)) + body
    path.write_bytes(bytes.fromhex("3cb86418caef9c95cd211cbf60a1bddd") + sections)
    return path


def test_qm_gives_the_first_form_of_each_translated_message(tmp_path: Path) -> None:
    path = write_qm(tmp_path / "es.qm", [("&Day", ["D\u00eda", "D\u00edas"]), ("Night", [""]), ("Caf\u00e9", ["Bar"])])
    assert list(read_qm(path, "q")) == [Pair("Day", "D\u00eda", "q"), Pair("Caf\u00e9", "Bar", "q")]
    for damaged in (path.read_bytes()[:-6], b"no catalogue"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"es\.qm"):
            list(read_qm(path, "q"))


def test_pages_align_by_structure_and_identifiers(tmp_path: Path) -> None:
    page = "<html><nav><p>Menu</p></nav><h1>{}</h1><p>{} <b>{}</b></p><ul><li>{}</li></ul>{}<pre>code</pre></html>"
    (tmp_path / "en.html").write_text(page.format("Help", "Press", "Save.", "First.", ""), "utf-8")
    (tmp_path / "es.html").write_text(page.format("Ayuda", "Pulse", "Guardar.", "Primero.", "<dl><dt>X</dt></dl>"))
    found = [(p.source, p.target) for p in read_pages(tmp_path / "en.html", tmp_path / "es.html", "h")]
    assert found == [("Help", "Ayuda"), ("Press Save.", "Pulse Guardar."), ("First.", "Primero.")]
    (tmp_path / "en.html").write_text('<p id="a">One</p><p id="b">Two</p><p>Short run</p>')
    (tmp_path / "es.html").write_text('<p id="b">Dos</p><p>Otra cosa</p>')
    found = [(p.source, p.target) for p in read_pages(tmp_path / "en.html", tmp_path / "es.html", "h")]
    assert found == [("Two", "Dos")]


def test_pages_read_docbook_with_its_entities(tmp_path: Path) -> None:
    book = '<?xml version="1.0"?><!DOCTYPE book [<!ENTITY kate "Kate">]><book><title>{}</title><para>{} &kate;.</para>'
    book += "<screen>$ ls</screen><para>{} &amp; {}.</para></book>"
    (tmp_path / "a.docbook").write_text(book.format("Guide", "Use", "Cats", "dogs"))
    (tmp_path / "b.docbook").write_text(book.format("Manual", "Use el", "Gatos", "perros"))
    found = [(p.source, p.target) for p in read_pages(tmp_path / "a.docbook", tmp_path / "b.docbook", "k")]
    assert found == [("Guide", "Manual"), ("Use &kate;.", "Use el &kate;."), ("Cats & dogs.", "Gatos & perros.")]


def test_capped_origins_are_a_share_of_the_whole() -> None:
    pairs = [Pair(f"a {i}", "b", "manual" if i % 4 else "story") for i in range(400)]
    kept = capped(pairs, ["manual"], 1 / 3)
    assert Counter(p.origin for p in kept) == {"story": 100, "manual": 50}
    assert kept == [p for p in pairs if p in kept]
    assert set(capped(pairs[::-1], ["manual"], 1 / 3)) == set(kept)
    assert capped(pairs[:40], ["manual"], 0.9) == pairs[:40]


def test_long_enough_asks_both_sides() -> None:
    pairs = [Pair("a b c", "a b c", "x"), Pair("a b c", "a", "x"), Pair("a", "a b c", "x")]
    assert list(long_enough(pairs, 3)) == pairs[:1]


def test_a_former_split_is_followed_on_both_sides() -> None:
    pairs = {name: Pair(f"{name} source", f"{name} target", "x") for name in "abcd"}
    former = {"train": ["A SOURCE"], "valid": ["b target"], "test": ["c source"], "test_other": []}
    sets = {"train": list(pairs.values()), "test": list(pairs.values()), "valid": [], "test_other": []}
    found = follow(sets, former)
    assert found["train"] == [pairs["a"], pairs["d"]]
    assert found["test"] == [pairs["b"], pairs["c"], pairs["d"]]


def test_without_texts_looks_at_both_sides() -> None:
    pairs = [Pair("One.", "Uno.", "x"), Pair("Two.", "Dos.", "x"), Pair("Three.", "Tres.", "x")]
    assert without_texts(pairs, [Pair("one", "?", "y"), Pair("?", "dos", "y")]) == pairs[2:]


def test_all_that_is_trained_on_is_packaged() -> None:
    assert all(corpus.packages for corpus in en_es.CORPORA.values())
    assert not set(en_es.EXTRAS) & set(en_es.CORPORA)
    assert [n for n, c in en_es.CORPORA.items() if c.held_out == "test_other"] == ["freedink"]


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny corpus for each way that a corpus goes, which stand in for the packages."""
    folder = tmp_path / "raw"
    numbers = [f"{a} {b} {c}" for a in ("cats", "dogs") for b in ("see", "hear") for c in ("boats", "cars", "bells")]
    lines = {
        "story": [f"The {n} today.\tLos {n[::-1]} hoy." for n in numbers],
        "manual": [f"Click {n} here.\tPulse {n[::-1]} ya." for n in numbers],
        "speech": ["Where are you going?\t\u00bfAd\u00f3nde vas?", f"The {numbers[0]} today.\tNada que ver hoy."],
    }

    def reader(name: str) -> Reader:
        return lambda given: read_tab_pairs(given / name, name)

    folder.mkdir()
    for name, rows in lines.items():
        (folder / name).write_text("\n".join(rows), "utf-8")
    corpora = {
        "speech": Corpus("Zlib", "speech", reader("speech"), held_out="test_other"),
        "story": Corpus("GPL-2.0-only", "a story", reader("story")),
        "manual": Corpus("MPL-2.0", "a manual", reader("manual"), technical=True),
    }
    monkeypatch.setattr(en_es, "CORPORA", corpora)
    return folder


def put_news(raw: Path) -> None:
    news = raw / "ntrex" / "NTREX-128"
    news.mkdir(parents=True)
    (news / "newstest2019-src.eng.txt").write_text("Rates rose 3%. <b>\nThe cats see cars today.\n", "utf-8")
    (news / "newstest2019-ref.spa.txt").write_text("Los tipos subieron un 3 %. <b>\nHoy.\n", "utf-8")


def read_rows(folder: Path) -> dict[str, list[list[str]]]:
    return {p.stem: [r.split("\t") for r in p.read_text("utf-8").splitlines()[1:]] for p in folder.glob("*.tsv")}


def test_prepare_writes_manifests_and_a_statement(tmp_path: Path, raw: Path) -> None:
    facts = en_es.prepare(tmp_path / "out", raw)
    rows = read_rows(tmp_path / "out")
    assert {name: len(lines) for name, lines in rows.items()} == facts["pairs"]
    assert [r[1:] for r in rows["test_other"]] == [
        ["Where are you going?", "\u00bfAd\u00f3nde vas?", "en", "es", "speech", "Zlib"],
        ["The cats see boats today.", "Nada que ver hoy.", "en", "es", "speech", "Zlib"],
    ]
    assert "The cats see boats today." not in {r[1] for r in rows["train"]}
    trained = Counter(r[5] for r in rows["train"])
    assert 0 < trained["manual"] <= trained["story"] / 2
    assert json.loads((tmp_path / "out" / "statement.json").read_text("utf-8")) == facts
    text = (tmp_path / "out" / "STATEMENT.md").read_text("utf-8")
    assert "MPL-2.0" in text
    assert "RAW/ntrex/NTREX-128 was not there" in text


def test_an_extra_is_only_evaluated_on(tmp_path: Path, raw: Path) -> None:
    en_es.prepare(tmp_path / "without", raw)
    put_news(raw)
    facts = en_es.prepare(tmp_path / "with", raw)
    rows = read_rows(tmp_path / "with")
    assert [r[1] for r in rows.pop("test_ntrex")] == ["Rates rose 3%. <b>"]  # the other one is trained on
    assert facts["extras"] == {"ntrex": 1}
    assert rows == read_rows(tmp_path / "without")
    assert "1 pairs in `test_ntrex.tsv`" in (tmp_path / "with" / "STATEMENT.md").read_text("utf-8")


def test_a_former_result_keeps_its_texts_on_their_sides(tmp_path: Path, raw: Path) -> None:
    en_es.prepare(tmp_path / "first", raw, ["manual"])
    rows = read_rows(tmp_path / "first")["train"]
    held = tmp_path / "first" / "valid.tsv"
    held.write_text(held.read_text("utf-8") + "\t".join(rows[0]) + "\n", "utf-8")
    en_es.main([str(tmp_path / "next"), "--raw", str(raw), "--former", str(tmp_path / "first")])
    assert rows[0][1] not in {r[1] for r in read_rows(tmp_path / "next")["train"]}
    with pytest.raises(InputError, match=r"nowhere.*columns id, source"):
        en_es.prepare(tmp_path / "out", raw, former=tmp_path / "nowhere")


def test_prepare_gives_the_same_bytes_again(tmp_path: Path, raw: Path) -> None:
    for folder in ("one", "two"):
        en_es.main([str(tmp_path / folder), "--raw", str(raw), "--skip=speech"])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="to skip, got nonsense"):
        en_es.prepare(tmp_path / "out", tmp_path / "raw", ["nonsense"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"'apt-get' is not there.*Debian 12"):
        en_es.prepare(tmp_path / "out", tmp_path / "raw", [name for name in en_es.CORPORA if name != "fillets"])
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="Debian's dpkg-deb is not there")
def test_only_the_wanted_files_of_a_package_are_unpacked(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for name in ("usr/share/a/es.mo", "usr/share/a/de.mo"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    (tree / "DEBIAN").mkdir()
    control = "Package: tiny\nVersion: 1:2\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    raw = tmp_path / "raw"
    raw.mkdir()
    subprocess.run(["dpkg-deb", "-b", str(tree), str(raw / "tiny_1%3a2_all.deb")], check=True, capture_output=True)
    with pytest.raises(InputError, match=r"no file like \*/fr\.mo"):
        debian.fetch("tiny", ["*/fr.mo"], raw)
    assert debian.fetch("tiny", ["*/es.mo"], raw) == "tiny_1:2_all.deb"
    assert [p.name for p in (raw / "tiny").rglob("*.mo")] == ["es.mo"]
