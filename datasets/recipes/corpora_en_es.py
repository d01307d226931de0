"""The corpora of English-Spanish pairs: where each is from, its licence, how it is read and where it goes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmx.datasets.parallel import Pair
from mmx.datasets.readers.bitext import read_line_pairs, read_tab_pairs
from mmx.datasets.readers.documents import read_dialogue, read_mallard, read_properties, read_stamp, read_storybook
from mmx.datasets.readers.gettext import read_pairs as read_catalogue
from mmx.datasets.readers.pages import read_pages
from mmx.datasets.readers.qt import read_qm
from mmx.datasets.readers.sword import read_pairs as read_bible

# Held out whole, so that the test sees stories of which no line was trained on.
DOCUMENTS = {
    "wesnoth-thot": "test",
    "wesnoth-dw": "valid",
    "Jonah": "test",
    "Ruth": "valid",
    "airplane": "test",
    "propulsion": "valid",
}


Reader = Callable[[Path], Iterator[Pair]]


@dataclass(frozen=True)
class Corpus:
    """One origin of pairs.

    Attributes:
        licence: Of the texts, as their publisher states it.
        about: What kind of text it is.
        read: Yields the pairs, given the folder of unpacked packages and of corpora put there by hand.
        packages: Debian packages to get.
        keep: Patterns of the files to unpack from them.
        prose: Take only what reads as a sentence (see `parallel.flaw`); None takes every pair whole, unfiltered.
        held_out: The set that the whole corpus goes to, if any.
        technical: Whether it is manuals or programs' messages, of which training takes `TECHNICAL_SHARE`.
        words: The least number of words on both sides.
    """

    licence: str
    about: str
    read: Reader
    packages: tuple[str, ...] = ()
    keep: tuple[str, ...] = ("*/es/LC_MESSAGES/*.mo",)
    prose: bool | None = True
    held_out: str | None = None
    technical: bool = False
    words: int = 1


def _catalogues(origin: str, *packages: str, pattern: str = "*.mo", by_document: bool = False) -> Reader:
    """Return a reader of all the catalogues in some packages."""

    def read(raw: Path) -> Iterator[Pair]:
        for package in packages:
            for path in sorted((raw / package).rglob(pattern)):
                yield from read_catalogue(path, origin, path.stem if by_document else "")

    return read


def _read_gnome(raw: Path) -> Iterator[Pair]:
    """Read the GNOME desktop's help: `C` is the English original's folder."""
    for page in sorted((raw / "gnome-user-docs").rglob("help/C/*/*.page")):
        translated = page.parents[2] / "es" / page.parent.name / page.name
        if translated.exists():
            yield from read_mallard(page, translated, "gnome-help")


def _read_fillets(raw: Path) -> Iterator[Pair]:
    """Read the game's dialogue, level by level."""
    for path in sorted((raw / "fillets-ng-data").rglob("dialogs_es.lua")):
        yield from read_dialogue(path, "fillets")


def _read_bible(raw: Path) -> Iterator[Pair]:
    """Read the World English Bible against Reina-Valera 1909."""
    modules = "usr/share/sword/modules/texts/ztext"
    english = raw / "sword-text-web" / modules / "engWEB2015eb"
    yield from read_bible(english, raw / "sword-text-sparv" / modules / "spaRV1909eb", "bible")


def _pages(origin: str, pattern: str, *parts: tuple[str, str]) -> Reader:
    """Return a reader of manuals.

    Args:
        origin: Name of the corpus.
        pattern: Of the English pages, under the folder of raw files.
        parts: What differs in the path of a page's translation: the English part and its replacement.
    """

    def read(raw: Path) -> Iterator[Pair]:
        for page in sorted(raw.glob(pattern)):
            path = str(page.relative_to(raw))
            for english, spanish in parts:
                path = path.replace(english, spanish)
            if (raw / path).is_file():
                yield from read_pages(page, raw / path, origin)

    return read


def _read_kde(raw: Path) -> Iterator[Pair]:
    """Read the manuals of KDE's programs."""
    for package in _KDE:
        yield from _pages("kde-help", f"{package}/**/HTML/en/**/*.docbook", ("/HTML/en/", "/HTML/es/"))(raw)


def _read_education(raw: Path) -> Iterator[Pair]:
    """Read GCompris (activities for children) and Stellarium (the sky in the stories of many peoples)."""
    for package in ("gcompris-qt-data", "stellarium-data"):
        for path in sorted((raw / package).rglob("*es.qm")):
            yield from read_qm(path, "education")
    yield from _pages("education", "stellarium-data/**/description.en.utf8", (".en.", ".es."))(raw)


def _read_freecol(raw: Path) -> Iterator[Pair]:
    """Read the game's messages and histories."""
    for path in sorted((raw / "freecol").rglob("FreeColMessages_es_ES.properties")):
        yield from read_properties(path.with_name("FreeColMessages.properties"), path, "freecol")


def _read_stamps(raw: Path) -> Iterator[Pair]:
    """Read the captions of Tux Paint's stamps."""
    for path in sorted((raw / "tuxpaint-stamps-default").rglob("*.txt")):
        yield from read_stamp(path, "stamps")


def _read_storybooks(raw: Path) -> Iterator[Pair]:
    """Read the stories, without those whose licence forbids commercial use."""
    for path in sorted((raw / "storybooks" / "stories" / "es").glob("[0-9]*/index.html")):
        if "creativecommons.org/licenses/by-nc" not in path.read_text("utf-8"):
            yield from read_storybook(path, "storybooks")


def _read_ntrex(raw: Path) -> Iterator[Pair]:
    """Read the news test set."""
    folder = raw / "ntrex" / "NTREX-128"
    yield from read_line_pairs(folder / "newstest2019-src.eng.txt", folder / "newstest2019-ref.spa.txt", "ntrex")


_CAMPAIGNS = (
    *("did", "dm", "dw", "ei", "httt", "l", "low", "nr"),
    *("sof", "sota", "sotbe", "thot", "trow", "tsg", "ttb", "utbs"),
)
_WESNOTH = tuple(f"wesnoth-1.16-{part}" for part in (*_CAMPAIGNS, "data"))

_PUZZLES = ("kgoldrunner", "gbrainy", "unknown-horizons", "ksirk")
_KDE = (
    *("akregator", "ark", "cantor", "dolphin", "gwenview", "juk", "kalzium-data", "kate5-data", "kbruch", "kcalc"),
    *("kdenlive-data", "kget", "kgoldrunner", "khelpcenter", "kig", "kinfocenter", "kiten", "kleopatra", "kmail"),
    *("kmplot", "kolf", "kolourpaint", "konquest", "kontact", "korganizer", "kpat", "krdc", "ksirk", "kstars-data"),
    *("kturtle", "kwalletmanager", "kwordquiz", "kwrite", "lokalize", "marble-data", "okular", "parley-data"),
    *("plasma-workspace-data", "rocs", "skrooge-common", "step", "systemsettings"),
)
_DESKTOP = ("gnucash-common", "gramps", "kmymoney-common", "kstars-data", "kalzium-data")

# Evaluation only, for no package holds them: they are used when the file that shows them is under the raw folder.
EXTRAS: dict[str, tuple[str, str, Corpus]] = {
    "tatoeba": (
        "tatoeba/spa-eng.zip",
        "the English-Spanish sentence pairs of manythings.org/anki",
        Corpus(
            "CC-BY-2.0 (France)",
            "everyday sentences by volunteers of tatoeba.org",
            lambda raw: read_tab_pairs(raw / "tatoeba" / "spa-eng.zip", "tatoeba"),
            prose=False,
        ),
    ),
    "storybooks": (
        "storybooks/stories/es",
        "the repository global-asp/storybooks-minnesota",
        Corpus("CC-BY-3.0/4.0 (by story)", "children's stories, told", _read_storybooks, prose=False),
    ),
    "ntrex": (
        "ntrex/NTREX-128",
        "the repository MicrosoftTranslator/NTREX",
        Corpus("CC-BY-SA-4.0", "news of 2019, professionally translated", _read_ntrex, prose=None),
    ),
}

# In order of trust: where two corpora have the same pair, the first keeps it.
CORPORA: dict[str, Corpus] = {
    "freedink": Corpus(
        "Zlib",
        "GNU FreeDink: dialogue, colloquial",
        _catalogues("freedink", "freedink-data", pattern="dink.mo"),
        ("freedink-data",),
        held_out="test_other",
    ),
    "wesnoth": Corpus(
        "GPL-2.0-or-later",
        "Battle for Wesnoth: dialogue and narration of its campaigns",
        _catalogues("wesnoth", *_WESNOTH, by_document=True),
        _WESNOTH,
    ),
    "freedroidrpg": Corpus(
        "GPL-2.0-or-later",
        "FreedroidRPG: dialogue",
        _catalogues("freedroidrpg", "freedroidrpg-data"),
        ("freedroidrpg-data",),
    ),
    "flare": Corpus(
        "CC-BY-SA-3.0-or-later",
        "Flare: dialogue and quests",
        _catalogues("flare", "flare-game", pattern="*.es.po"),
        ("flare-game",),
        ("*/languages/*.es.po",),
    ),
    "fillets": Corpus(
        "GPL-2.0-only",
        "Fish Fillets NG: dialogue",
        _read_fillets,
        ("fillets-ng-data",),
        ("*/dialogs_es.lua",),
    ),
    "widelands": Corpus(
        "GPL-2.0-or-later",
        "Widelands: campaign dialogue and encyclopedia",
        _catalogues("widelands", "widelands-data"),
        ("widelands-data",),
    ),
    "cataclysm": Corpus(
        "CC-BY-SA-3.0",
        "Cataclysm DDA: dialogue, descriptions, found notes",
        _catalogues("cataclysm", "cataclysm-dda-data"),
        ("cataclysm-dda-data",),
        ("*/es_ES/LC_MESSAGES/*.mo",),
    ),
    "games": Corpus(
        "GPL-2.0-or-later",
        "Freeciv, Warzone 2100, Seven Kingdoms: histories, missions, messages",
        _catalogues("games", "freeciv-data", "warzone2100-data", "7kaa-data"),
        ("freeciv-data", "warzone2100-data", "7kaa-data"),
        ("*/es/LC_MESSAGES/*.mo",),
    ),
    "puzzles": Corpus(
        "GPL-2.0-or-later",
        "KGoldrunner, GBrainy, Unknown Horizons, KsirK: hints, riddles, messages",
        _catalogues("puzzles", *_PUZZLES, pattern="es/LC_MESSAGES/*.mo"),
        _PUZZLES,
        ("*/es/LC_MESSAGES/*.mo", "*/HTML/e[ns]/*.docbook"),
    ),
    "freecol": Corpus(
        "GPL-2.0-or-later",
        "FreeCol: messages, histories",
        _read_freecol,
        ("freecol",),
        ("*/FreeColMessages.properties", "*/FreeColMessages_es_ES.properties"),
    ),
    "stamps": Corpus(
        "GPL-2.0-only",
        "Tux Paint: captions of pictures",
        _read_stamps,
        ("tuxpaint-stamps-default",),
        ("*/stamps/*.txt",),
        prose=False,
        words=2,
    ),
    "education": Corpus(
        "GPL-3.0-or-later (GCompris), GPL-2.0-or-later (Stellarium)",
        "GCompris: activities for children; Stellarium: astronomy and the stories of many peoples",
        _read_education,
        ("gcompris-qt-data", "stellarium-data"),
        ("*es.qm", "*/description.e[ns].utf8"),
    ),
    "gnome-help": Corpus(
        "CC-BY-SA-3.0",
        "help of the GNOME desktop",
        _read_gnome,
        ("gnome-user-docs",),
        ("*/help/C/*.page", "*/help/es/*.page"),
        technical=True,
    ),
    "bible": Corpus(
        "public domain",
        "World English Bible with Reina-Valera 1909, spelling modernised; dated language",
        _read_bible,
        ("sword-text-web", "sword-text-sparv"),
        ("*/modules/*.bz[svz]",),
        prose=False,
    ),
    "office-help": Corpus(
        "MPL-2.0",
        "help of LibreOffice",
        _pages("office-help", "libreoffice-help-en-us/**/text/**/*.html", ("-en-us/", "-es/"), ("/en-US/", "/es/")),
        ("libreoffice-help-en-us", "libreoffice-help-es"),
        ("*/help/en-US/text/*.html", "*/help/es/text/*.html"),
        technical=True,
    ),
    "kde-help": Corpus(
        "GFDL-1.2-or-later",
        "manuals of KDE's programs",
        _read_kde,
        _KDE,
        ("*/es/LC_MESSAGES/*.mo", "*/HTML/e[ns]/*.docbook"),
        technical=True,
    ),
    "gimp-help": Corpus(
        "GFDL-1.2-or-later",
        "manual of GIMP",
        _pages("gimp-help", "gimp-help-en/**/en/*.html", ("-en/", "-es/"), ("/en/", "/es/")),
        ("gimp-help-en", "gimp-help-es"),
        ("*/help/e[ns]/*.html",),
        technical=True,
    ),
    "handbook": Corpus(
        "GPL-2.0-or-later or CC-BY-SA-3.0",
        "The Debian Administrator's Handbook",
        _pages("handbook", "debian-handbook/**/en-US/*.html", ("/en-US/", "/es-ES/")),
        ("debian-handbook",),
        ("*/html/en-US/*.html", "*/html/es-ES/*.html"),
        technical=True,
    ),
    "desktop": Corpus(
        "GPL-2.0-or-later",
        "GnuCash, Gramps, KMyMoney, KStars, Kalzium: messages of six words or more",
        _catalogues("desktop", *_DESKTOP, pattern="es/LC_MESSAGES/*.mo"),
        _DESKTOP,
        ("*/es/LC_MESSAGES/*.mo", "*/HTML/e[ns]/*.docbook"),
        technical=True,
        words=6,
    ),
}
