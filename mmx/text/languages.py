"""Languages by any of their usual names: one table for every model.

Models spell languages their own way: Whisper `de`, NLLB `deu_Latn`, SeamlessM4T `deu`, mBART `de_DE`, M2M-100 `de`.
All of these, ISO 639 codes, BCP-47 tags and English names are read by `find_language`; `choose` finds the spelling
that a model has.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from mmx.errors import InputError, nearest


@dataclass(frozen=True)
class Language:
    """A language as it is written.

    Attributes:
        code: ISO 639-3, of the macrolanguage where models do not agree on a member ("zho", not "cmn").
        tag: shortest BCP-47 code ("de"), the same as `code` where there is no shorter one.
        name: in English.
        script: ISO 15924 code of the script that it is written in ("Latn").
    """

    code: str
    tag: str
    name: str
    script: str

    def __str__(self) -> str:
        return self.name

    @property
    def spaced(self) -> bool:
        """Whether it is written with spaces between words."""
        return self.script not in _UNSPACED

    @property
    def signed(self) -> bool:
        """Whether it is a sign language: text of it is what it spells by hand."""
        return self.name.endswith("Sign Language")


_UNSPACED = {"Hans", "Hant", "Jpan", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"}
"""Scripts that write sentences or words without spaces between them."""


# Codes: ISO 639-3, then the others that mean it, of which the first with two letters is the tag. Scripts: the usual
# one first. Names: the first is the one that is shown.
_TABLE = """
ace | Latn Arab | Acehnese, Achinese
acm | Arab | Mesopotamian Arabic, Iraqi Arabic
acq | Arab | Ta'izzi-Adeni Arabic, Yemeni Arabic
aeb | Arab | Tunisian Arabic
afr af | Latn | Afrikaans
ajp | Arab | South Levantine Arabic, Palestinian Arabic
aka ak | Latn | Akan
amh am | Ethi | Amharic
apc | Arab | North Levantine Arabic, Levantine Arabic, Syrian Arabic, Lebanese Arabic
ara ar arb | Arab Latn | Arabic, Modern Standard Arabic, Standard Arabic
ars | Arab | Najdi Arabic, Saudi Arabic
ary | Arab | Moroccan Arabic
arz | Arab | Egyptian Arabic
ase | Latn | American Sign Language, ASL
asf | Latn | Australian Sign Language, Auslan
asm as | Beng | Assamese
asq | Latn | Austrian Sign Language
ast | Latn | Asturian
awa | Deva | Awadhi
aym ay ayr | Latn | Aymara, Central Aymara
azb | Arab | South Azerbaijani
aze az azj | Latn | Azerbaijani, North Azerbaijani, Azeri
bak ba | Cyrl | Bashkir
bam bm | Latn | Bambara
ban | Latn | Balinese
bel be | Cyrl | Belarusian
bem | Latn | Bemba
ben bn | Beng | Bengali, Bangla
bfi | Latn | British Sign Language, BSL
bho | Deva | Bhojpuri
bjn | Latn Arab | Banjar
bod bo tib | Tibt | Tibetan, Standard Tibetan
bos bs | Latn | Bosnian
bre br | Latn | Breton
bug | Latn | Buginese
bul bg | Cyrl | Bulgarian
bzs | Latn | Brazilian Sign Language, Libras
cat ca | Latn | Catalan, Valencian
ceb | Latn | Cebuano
ces cs cze | Latn | Czech
cjk | Latn | Chokwe
ckb | Arab | Central Kurdish, Sorani, Kurdish Sorani
crh | Latn | Crimean Tatar
cse | Latn | Czech Sign Language
csl | Hans | Chinese Sign Language, CSL
csq | Latn | Croatian Sign Language
cym cy wel | Latn | Welsh
dan da | Latn | Danish
deu de ger | Latn | German
din dik | Latn | Dinka, Southwestern Dinka
dse | Latn | Dutch Sign Language, NGT
dyu | Latn | Dyula
dzo dz | Tibt | Dzongkha
ell el gre | Grek | Greek
eng en | Latn | English
epo eo | Latn | Esperanto
eso | Latn | Estonian Sign Language
est et ekk | Latn | Estonian
eus eu baq | Latn | Basque
ewe ee | Latn | Ewe
fao fo | Latn | Faroese
fas fa per pes | Arab | Persian, Farsi, Western Persian
fij fj | Latn | Fijian
fin fi | Latn | Finnish
fon | Latn | Fon
fra fr fre | Latn | French
fry fy | Latn | Western Frisian, Frisian
fsl | Latn | French Sign Language, LSF
ful ff fuv | Latn | Fulah, Fula, Fulfulde, Nigerian Fulfulde
fur | Latn | Friulian
gla gd | Latn | Scottish Gaelic
gle ga | Latn | Irish
glg gl | Latn | Galician
grn gn gug | Latn | Guarani
gsg | Latn | German Sign Language, DGS
gss | Grek | Greek Sign Language
guj gu | Gujr | Gujarati
hat ht | Latn | Haitian Creole, Haitian
hau ha | Latn | Hausa
haw | Latn | Hawaiian
heb he iw | Hebr | Hebrew
hin hi | Deva | Hindi
hne | Deva | Chhattisgarhi
hrv hr | Latn | Croatian
hun hu | Latn | Hungarian
hye hy arm | Armn | Armenian
ibo ig | Latn | Igbo
ilo | Latn | Ilocano, Iloko
ind id in | Latn | Indonesian
ins | Deva | Indian Sign Language
ise | Latn | Italian Sign Language, LIS
isl is ice | Latn | Icelandic
ita it | Latn | Italian
jav jv jw | Latn | Javanese
jos | Arab | Jordanian Sign Language
jpn ja | Jpan | Japanese
jsl | Jpan | Japanese Sign Language
kab | Latn | Kabyle
kac | Latn | Jingpho, Kachin
kam | Latn | Kamba
kan kn | Knda | Kannada
kas ks | Arab Deva | Kashmiri
kat ka geo | Geor | Georgian
kau kr knc | Latn Arab | Kanuri, Central Kanuri
kaz kk | Cyrl | Kazakh
kbp | Latn | Kabiyè
kea | Latn | Kabuverdianu, Cape Verdean Creole
khm km | Khmr | Khmer
kik ki | Latn | Kikuyu
kin rw | Latn | Kinyarwanda
kir ky | Cyrl | Kyrgyz, Kirghiz
kmb | Latn | Kimbundu
kon kg | Latn | Kikongo, Kongo
kor ko | Hang | Korean
kur ku kmr | Latn | Kurdish, Northern Kurdish, Kurmanji
kvk | Kore | Korean Sign Language
lao lo | Laoo | Lao
lat la | Latn | Latin
lav lv lvs | Latn | Latvian, Standard Latvian
lij | Latn | Ligurian
lim li | Latn | Limburgish
lin ln | Latn | Lingala
lit lt | Latn | Lithuanian
lls | Latn | Lithuanian Sign Language
lmo | Latn | Lombard
ltg | Latn | Latgalian
ltz lb | Latn | Luxembourgish, Letzeburgesch
lua | Latn | Luba-Kasai, Luba-Lulua
lug lg | Latn | Ganda, Luganda
luo | Latn | Luo
lus | Latn | Mizo
mag | Deva | Magahi
mai | Deva | Maithili
mal ml | Mlym | Malayalam
mar mr | Deva | Marathi
mfs | Latn | Mexican Sign Language
min | Latn Arab | Minangkabau
mkd mk mac | Cyrl | Macedonian
mlg mg plt | Latn | Malagasy, Plateau Malagasy
mlt mt | Latn | Maltese
mni | Beng | Meitei, Manipuri
mon mn khk | Cyrl | Mongolian, Halh Mongolian
mos | Latn | Mossi
mri mi mao | Latn | Maori, Māori
msa ms may zsm | Latn | Malay, Standard Malay
mya my bur | Mymr | Burmese, Myanmar
nep ne npi | Deva | Nepali
nld nl dut | Latn | Dutch, Flemish
nno nn | Latn | Norwegian Nynorsk, Nynorsk
nor no nob nb | Latn | Norwegian, Norwegian Bokmål, Norwegian Bokmal, Bokmål, Bokmal
nso ns | Latn | Northern Sotho, Pedi
nus | Latn | Nuer
nya ny | Latn | Nyanja, Chichewa
nzs | Latn | New Zealand Sign Language, NZSL
oci oc | Latn | Occitan
ori or ory | Orya | Odia, Oriya
orm om gaz | Latn | Oromo, West Central Oromo
pag | Latn | Pangasinan
pan pa | Guru | Punjabi, Panjabi, Eastern Panjabi
pap | Latn | Papiamento
pol pl | Latn | Polish
por pt | Latn | Portuguese
prs | Arab | Dari
pso | Latn | Polish Sign Language, PJM
psr | Latn | Portuguese Sign Language
pus ps pbt | Arab | Pashto, Pushto, Southern Pashto
que qu quy | Latn | Quechua, Ayacucho Quechua
ron ro rum mo mol | Latn | Romanian, Moldavian, Moldovan
rsl | Cyrl | Russian Sign Language
run rn | Latn | Rundi, Kirundi
rus ru | Cyrl | Russian
sag sg | Latn | Sango
san sa | Deva | Sanskrit
sat | Beng Olck | Santali
scn | Latn | Sicilian
sgg | Latn | Swiss German Sign Language
shn | Mymr | Shan
sin si | Sinh | Sinhala, Sinhalese
slk sk slo | Latn | Slovak
slv sl | Latn | Slovenian, Slovene
smo sm | Latn | Samoan
sna sn | Latn | Shona
snd sd | Arab | Sindhi
som so | Latn | Somali
sot st | Latn | Southern Sotho, Sesotho
spa es | Latn | Spanish, Castilian
sqi sq alb als | Latn | Albanian, Tosk Albanian
srd sc | Latn | Sardinian
srp sr | Cyrl Latn | Serbian
ssp | Latn | Spanish Sign Language
ssw ss | Latn | Swati
sun su | Latn | Sundanese
svk | Latn | Slovak Sign Language
swa sw swh | Latn | Swahili
swe sv | Latn | Swedish
swl | Latn | Swedish Sign Language
szl | Latn | Silesian
tam ta | Taml | Tamil
taq | Latn Tfng | Tamasheq
tat tt | Cyrl | Tatar
tel te | Telu | Telugu
tgk tg | Cyrl | Tajik
tgl tl fil | Latn | Tagalog, Filipino
tha th | Thai | Thai
tir ti | Ethi | Tigrinya
tpi | Latn | Tok Pisin
tsm | Latn | Turkish Sign Language
tsn tn | Latn | Tswana
tso ts | Latn | Tsonga
tuk tk | Latn | Turkmen
tum | Latn | Tumbuka
tur tr | Latn | Turkish
twi tw | Latn | Twi
tzm | Tfng | Central Atlas Tamazight, Tamazight
uig ug | Arab | Uyghur, Uighur
ukl | Cyrl | Ukrainian Sign Language
ukr uk | Cyrl | Ukrainian
umb | Latn | Umbundu
urd ur | Arab | Urdu
uzb uz uzn | Latn | Uzbek, Northern Uzbek
vec | Latn | Venetian
vie vi | Latn | Vietnamese
war | Latn | Waray
wol wo | Latn | Wolof
xho xh | Latn | Xhosa
yid yi ji ydd | Hebr | Yiddish, Eastern Yiddish
yor yo | Latn | Yoruba
yue | Hant Hans | Cantonese, Yue Chinese
zho zh chi cmn | Hans Hant | Chinese, Mandarin, Mandarin Chinese
zlm | Latn | Colloquial Malay
zul zu | Latn | Zulu
"""

_NAMES_WITH_A_SCRIPT = {
    "simplified chinese": ("zho", "Hans"),
    "traditional chinese": ("zho", "Hant"),
    "chinese simplified": ("zho", "Hans"),
    "chinese traditional": ("zho", "Hant"),
}

_REGIONS_WITH_A_SCRIPT = {"TW": "Hant", "HK": "Hant", "MO": "Hant"}

_TAG = re.compile(r"([a-z]{2,3})((?:[-_][a-z0-9]{1,8})*)(?:[.@].*)?")


@lru_cache(maxsize=1)
def _rows() -> dict[str, tuple[Language, tuple[str, ...], tuple[str, ...], tuple[str, ...]]]:
    """By ISO 639-3 code: the language in its usual script, all codes, all scripts, all names."""
    rows = {}
    for line in _TABLE.strip().splitlines():
        codes, scripts, names = (tuple(re.split(r", | ", p)) if i < 2 else tuple(p.split(", ")) for i, p in
                                 enumerate(line.split(" | ")))  # fmt: skip
        tag = next((c for c in codes if len(c) == 2), codes[0])
        rows[codes[0]] = (Language(codes[0], tag, names[0], scripts[0]), codes, scripts, names)
    return rows


@lru_cache(maxsize=1)
def _by_code() -> dict[str, str]:
    return {code: key for key, (_, codes, _, _) in _rows().items() for code in codes}


@lru_cache(maxsize=1)
def _by_name() -> dict[str, str]:
    return {_plain(name): key for key, (_, _, _, names) in _rows().items() for name in names}


def _plain(text: str) -> str:
    return re.sub(r"[\s_()-]+", " ", text.casefold()).strip()


def find_language(text: str, among: Collection[str] | None = None) -> Language:
    """The language that a name, a code or a tag means, in the script that it names, else in its usual one.

    Args:
        text: a name ("German"), a code ("de", "deu", "ger"), a tag ("de-AT", "zh-Hant", "pt_BR", "en_US.UTF-8") or the
            spelling of a model ("deu_Latn", "en_XX", "__fra__"), in any case.
        among: spellings of the languages that the suggestion of an error may name; all when None.

    Raises:
        InputError: it names no language; the message suggests the nearest name.
    """
    plain = text.strip().casefold().strip("_")
    name = _plain(text)
    if name in _NAMES_WITH_A_SCRIPT:
        key, script = _NAMES_WITH_A_SCRIPT[name]
        return _written(key, script)
    if name in _by_name():
        return _rows()[_by_name()[name]][0]
    tag = _TAG.fullmatch(plain)
    if tag and tag[1] in _by_code():
        return _from_tag(tag[1], [p for p in re.split(r"[-_]", tag[2]) if p])
    raise InputError(
        f"Unknown language {text!r}.{nearest(name, _names(among))} "
        "Expected a code such as 'de' or 'pt-BR', or an English name such as 'german'."
    )


@lru_cache(maxsize=256)
def is_spaced(tag: str) -> bool:
    """Whether a language is written with spaces between words; an unknown one is."""
    try:
        return find_language(tag).spaced
    except InputError:
        return True


def _from_tag(code: str, subtags: list[str]) -> Language:
    # "zh-yue" is the older way to write "yue"; other extended tags keep their main language.
    key = "yue" if subtags[:1] == ["yue"] else _by_code()[code]
    script = next((p.capitalize() for p in subtags if re.fullmatch(r"[a-z]{4}", p)), "")
    region = next((_REGIONS_WITH_A_SCRIPT[p.upper()] for p in subtags if p.upper() in _REGIONS_WITH_A_SCRIPT), "")
    return _written(key, script or (region if key == "zho" else ""))


def _written(key: str, script: str) -> Language:
    usual = _rows()[key][0]
    return Language(usual.code, usual.tag, usual.name, script) if script else usual


def _names(among: Collection[str] | None) -> list[str]:
    """Names of the languages in lower case, for a suggestion."""
    keys = set(_rows()) if among is None else {find_language(code).code for code in among}
    return [n.lower() for key, (_, _, _, names) in _rows().items() if key in keys for n in names]


def choose(text: str, spellings: Collection[str]) -> str:
    """The one of a model's own spellings that means the language `text` (see `find_language`).

    A script that is named must be there; where none is, the usual script comes first, then whatever the model has.

    Raises:
        InputError: no such language, or none that the model has; suggests the nearest that it has.
    """
    if text in spellings:
        return text
    wanted = find_language(text, among=spellings)
    same = {s: find_language(s) for s in spellings if find_language(s).code == wanted.code}
    for spelling, language in same.items():
        if language.script == wanted.script:
            return spelling
    named = wanted.script != _rows()[wanted.code][0].script
    if same and not named:
        return next(iter(same))
    if same:
        have = ", ".join(same)
        raise InputError(f"expected {wanted} in a script that this model has ({have}), got {wanted.script!r}")
    raise InputError(
        f"expected a language that this model has, got {wanted} ({text!r}). "
        f"It has {len(spellings)}: {_excerpt(spellings)}"
    )


def _excerpt(spellings: Iterable[str], limit: int = 12) -> str:
    every = sorted(spellings)
    return ", ".join(every[:limit]) + (f" and {len(every) - limit} more" if len(every) > limit else "")


# -------------------- scripts


# The word with which Unicode begins the names of a script's letters.
_LETTERS = {
    "LATIN": "Latn", "CYRILLIC": "Cyrl", "ARABIC": "Arab", "HEBREW": "Hebr", "GREEK": "Grek", "ARMENIAN": "Armn",
    "DEVANAGARI": "Deva", "BENGALI": "Beng", "GURMUKHI": "Guru", "GUJARATI": "Gujr", "ORIYA": "Orya",
    "TAMIL": "Taml", "TELUGU": "Telu", "KANNADA": "Knda", "MALAYALAM": "Mlym", "SINHALA": "Sinh", "THAI": "Thai",
    "LAO": "Laoo", "TIBETAN": "Tibt", "MYANMAR": "Mymr", "GEORGIAN": "Geor", "ETHIOPIC": "Ethi", "KHMER": "Khmr",
    "HANGUL": "Hang", "TIFINAGH": "Tfng", "OL": "Olck", "CJK": "Hani", "HIRAGANA": "Kana", "KATAKANA": "Kana",
}  # fmt: skip

_WRITTEN_WITH = {
    "Hans": {"Hani"},
    "Hant": {"Hani"},
    "Jpan": {"Hani", "Kana"},
    "Hang": {"Hang", "Hani"},
    "Beng": {"Beng", "Olck"},  # NLLB says Beng for Santali, whose texts are in Ol Chiki
}
"""Scripts of the letters of a text in a script; of only itself where it is not listed."""


@lru_cache(maxsize=65536)
def script_of(char: str) -> str:
    """Script of a letter: "Latn", "Hani", "Kana"; empty for what is not a letter of a known script."""
    if unicodedata.category(char)[0] not in "LM":
        return ""
    word = re.split(r"[ -]", unicodedata.name(char, ""), maxsplit=1)[0]
    if word in ("FULLWIDTH", "HALFWIDTH"):
        return script_of(unicodedata.normalize("NFKC", char)[0])
    return _LETTERS.get(word, "")


_UNSPACED_LETTERS = frozenset().union(*(_WRITTEN_WITH.get(s, {s}) for s in _UNSPACED))


def is_unspaced(char: str) -> bool:
    """Whether a character is a letter of a script that is written without spaces between words."""
    return char.isalpha() and script_of(char) in _UNSPACED_LETTERS


def has_spaces(text: str) -> bool:
    """Whether most letters of a text are of scripts that write spaces between words; true where there are none."""
    found = [s in _UNSPACED_LETTERS for s in map(script_of, text) if s]
    return sum(found) * 2 <= len(found)


def is_written_with(text: str, script: str) -> bool:
    """Whether all letters of a text belong to a script; true where there are none."""
    own = _WRITTEN_WITH.get(script, {script})
    return all(script_of(c) in own or not c.isalpha() for c in text)


def check_script(text: str, language: Language) -> str:
    """What is wrong with the script of a text in a language; empty when nothing is.

    Names and quotations in other scripts are usual, so a text is wrong only when fewer than a quarter of its letters
    belong to its own.
    """
    found = Counter(s for s in map(script_of, text) if s)
    own = _WRITTEN_WITH.get(language.script, {language.script})
    share = sum(n for s, n in found.items() if s in own) / max(1, found.total())
    if not found or share >= 0.25:
        return ""
    most = found.most_common(1)[0][0]
    return (
        f"expected {language} text in the script {language.script}, got mostly {most}: "
        f"{text.strip()[:40]!r}. Is the source language right?"
    )
