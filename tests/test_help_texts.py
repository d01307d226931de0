"""Sentences of help pages that voices learn to say."""

from pathlib import Path

import pytest

from mmx.datasets.recipes import help_texts
from mmx.errors import InputError

PAGE = """
<h1 class="paragraph">Un titre ne compte pas.</h1>
<p id="a" class="paragraph" dir="auto">Dans la bo&#238;te <span class="emph">Imprimer</span>, choisissez
l'imprimante. Êtes-vous sûr de vouloir continuer ? Deux mots.</p>
<p id="b" class="listitem">La page 12 est vide. Ouvrez un fichier HTML. The page is not translated.</p>
<p id="c" class="tip">Sous Linux <span hidden="true" class="UNIX">rien</span> ne change.</p>
<p id="d" class="code">Une ligne de code reste dehors.</p>
<p id="e" class="note">¿Desea guardar el documento? Según la norma, ¡todo cambia!</p>
"""


def test_whole_sentences_of_words_alone_are_taken() -> None:
    assert list(help_texts.of_page(PAGE)) == [
        "Dans la boîte Imprimer, choisissez l'imprimante.",
        "Êtes-vous sûr de vouloir continuer ?",
        "¿Desea guardar el documento?",
        "Según la norma, ¡todo cambia!",
    ]


def test_each_sentence_brings_words_that_are_still_rare() -> None:
    same = [f"Choisissez le bouton {a}." for a in "abcdefghij"]
    found = help_texts.varied([*same, "Rien ne va plus ici."], 100)
    assert len(found) == help_texts.OFTEN + 1 and "Rien ne va plus ici." in found
    assert found == help_texts.varied([*same, "Rien ne va plus ici."], 100)
    assert len(help_texts.varied(same, 2)) == 2


def test_a_language_without_a_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a language of es, fr, it, pt, got 'de'"):
        help_texts.sentences("de", tmp_path)
