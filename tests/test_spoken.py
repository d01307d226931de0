"""Texts as they are spoken: numbers, dates, money, abbreviations, and what no voice can speak."""

import warnings

import pytest

from mmx.errors import InputError, MmxWarning
from mmx.tasks.synthesize import pieces
from mmx.text.spoken import spoken

CASES = {
    "en": {
        "Dr. Smith paid $45.50 on March 3rd, 2024.": "Doctor Smith paid forty five dollars and fifty cents on March "
        "third, twenty twenty four.",
        "At 7:05 pm it was -5 °C, 12.5 km away.": "At seven oh five P M it was minus five degrees Celsius, twelve "
        "point five kilometers away.",
        "50% of 1,250 people (aged 20-30) left in 1984.": "fifty percent of one thousand two hundred and fifty people "
        "(aged twenty to thirty) left in nineteen eighty four.",
        "The 1990s: 1st of 3/4, £5 million & #7.": "The nineteen nineties: first of three quarters, five million "
        "pounds and number seven.",
        "A 3D film of the '90s, in mp3 & C++.": "A three D film of the nineties, in mp three and C++.",
        "Call 555-123-4567 on 2024-05-06, agent 007.": "Call five five five one two three four five six seven on May "
        "sixth, twenty twenty four, agent zero zero seven.",
        "No. It is No. 5, St. James, Main St.": "No. It is Number five, Saint James, Main Street.",
        "Call (212) 555-0199 or 555-0123 at 5pm, not 10 a.m.": "Call two one two five five five zero one nine nine or "
        "five five five zero one two three at five P M, not ten A M.",
        "Fri., Oct. 13: 2:1 at 24/7, ~5 of >10, 50¢.": "Friday, October thirteenth: two to one at twenty four seven, "
        "about five of greater than ten, fifty cents.",
        "2 1/2 cups, 5/8, ½ km, 3x, 4x4, 10^6 = 5*2": "two and one half cups, five eighths, one half kilometer, three "
        "times, four by four, ten to the power of six equals five two",
        "Henry VIII in World War II, Vol. 3, p. 17, 5'10\".": "Henry the eighth in World War two, Volume three, page "
        "seventeen, five foot ten.",
        "5 Jan. 2020, 12 Sept 1999, 2 Feb.": "January fifth, twenty twenty, September twelfth, nineteen ninety nine, "
        "February second.",
        "John XXIII and Malcolm X in version 1.2.3": "John the twenty third and Malcolm X in version one dot two dot "
        "three",
        "Write to me@host.org or www.host.org/a": "Write to me at host dot org or www dot host dot org slash a",
    },
    "es": {
        "El Sr. García pagó 45,50 € el 3 de marzo de 2024 a las 7:05.": "El señor García pagó cuarenta y cinco euros y "
        "cincuenta céntimos el tres de marzo de dos mil veinticuatro a las siete y cinco.",
        "Hay 1.250 personas a 21 km, el 50 % con ADN.": "Hay mil doscientos cincuenta personas a veintiún kilómetros, "
        "el cincuenta por ciento con a de ene.",
        "Carlos V y Alfonso XIII, siglo XX, 5 ene. 2020, n.º 5, 1.º": "Carlos quinto y Alfonso trece, siglo veinte, "
        "cinco de enero de dos mil veinte, número cinco, primero",
    },
    "fr": {
        "M. Dupont a payé 45,50 € le 1er mars 2024 à 19h30.": "monsieur Dupont a payé quarante-cinq euros et cinquante "
        "centimes le premier mars deux mille vingt-quatre à dix-neuf heures trente.",
        "Il y a 12 250 000 personnes au 3e.": "Il y a douze millions deux cent cinquante mille personnes au "
        "troisième.",
        "Louis XIV au XVIIe siècle, François Ier, 14 juil. 1789 à 7h5": "Louis quatorze au dix-septième siècle, "
        "François premier, quatorze juillet mille sept cent quatre-vingt-neuf à sept heures cinq",
    },
    "it": {
        "Il Sig. Rossi ha pagato 45,50 € il 3 marzo 2024.": "Il signor Rossi ha pagato quarantacinque euro e cinquanta "
        "centesimi il tre marzo duemilaventiquattro.",
        "Luigi XIV, XX secolo, 5 genn. 2020": "Luigi quattordicesimo, ventesimo secolo, cinque gennaio duemilaventi",
    },
    "pt": {
        "O Sr. Silva pagou R$ 45,50 em 3 de março.": "O senhor Silva pagou quarenta e cinco reais e cinquenta centavos "
        "em três de março.",
        "Dom João VI e Luís XIV, século XX": "Dom João sexto e Luís catorze, século vinte",
    },
}  # fmt: skip


@pytest.mark.parametrize(("language", "text"), [(lang, text) for lang, texts in CASES.items() for text in texts])
def test_written_forms_are_spoken_as_people_say_them(language: str, text: str) -> None:
    found = spoken(text, language)
    assert " ".join(w.said for w in found) == CASES[language][text]
    assert " ".join(w.written for w in found).split() == text.split(), "the text as it is written is kept"


def test_what_no_voice_can_speak_is_told() -> None:
    with pytest.warns(MmxWarning, match="😀"):
        found = spoken("Good 😀 morning", "en")
    assert [w.said for w in found] == ["Good", "", "morning"]
    with pytest.warns(MmxWarning, match=r"привет \(Cyrillic\)$"):
        assert "".join(w.said for w in spoken("we say привет here and there", "en")) == "wesayhereandthere"


def test_another_script_is_refused_by_its_name() -> None:
    with pytest.raises(InputError, match="Cyrillic letters"):
        spoken("Привет, мир", "en")


def test_marks_alone_are_pauses_and_nothing_else() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [w.said for w in spoken("*** – … (!)", "en")] == ["", "—", "…", "!"]


def test_a_text_of_marks_alone_is_refused() -> None:
    with pytest.raises(InputError, match="a text with words"):
        list(pieces("?! … (“”)", "en"))
    assert [p.said for p in pieces("Wait!\n…\nGo!", "en")] == ["Wait!", "Go!"]


def test_languages_without_rules_have_their_digits_in_words() -> None:
    assert " ".join(w.said for w in spoken("Es sind 21 Hunde.", "de")) == "Es sind einundzwanzig Hunde."


def test_chinese_and_japanese_numbers_are_in_words() -> None:
    assert spoken("2024年5月13日，3.14，1,005元，20300，0，10，10010", "zh")[0].said == (
        "二零二四年五月十三日,三点一四,一千零五元,二万零三百,零,十,一万零一十"
    )
    assert " ".join(w.said for w in spoken("7時に3.5", "ja")) == "七時に三 点 五"


def test_huge_numbers_are_read_digit_by_digit() -> None:
    assert spoken("1" * 40, "en")[0].said == " ".join(["one"] * 40)
