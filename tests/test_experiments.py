"""The experiments at a smaller size, with one seed: what their tables claim also holds here."""

import sys
from pathlib import Path

import pytest

from mmx.errors import InputError
from mmx.experiments import averaging, extension, numbers, zero_shot
from mmx.experiments.numbers import LanguageGuess, Size

pytest.importorskip("num2words", reason="needs num2words: pip install 'mmx[experiments]'")
pytest.importorskip("sacrebleu", reason="needs sacrebleu: pip install 'mmx[experiments]'")

SMALL = Size(train=300, test=40, updates=240, further=120)


@pytest.mark.slow
@pytest.mark.long
def test_an_average_beats_its_snapshots(tmp_path: Path) -> None:
    found = averaging.run(1, tmp_path, SMALL)
    assert found["average"] < found["median single"]
    assert found["unrelated alone"] < 1  # a model as good as any
    assert found["average with it"] > 5 * max(found["unrelated alone"], found["last"])


@pytest.mark.slow
@pytest.mark.long
def test_the_target_token_reaches_directions_that_were_not_trained(tmp_path: Path) -> None:
    found = zero_shot.run(1, tmp_path, SMALL)
    assert found["many: chrF"] > found["copy chrF"]
    assert found["many: chrF"] > found["English only: chrF"]
    assert found["many: right language"] > 0.7


@pytest.mark.slow
@pytest.mark.long
def test_replay_keeps_old_languages(tmp_path: Path) -> None:
    found = extension.reports(1, tmp_path, SMALL)
    assert found["replayed"].worst < 0.05
    assert found["new alone"].worst > 1
    for name in ("replayed", "new alone"):  # both learned the new language
        new = {c.direction: c.after for c in found[name].changes if c.before is None}
        begun = {c.direction: c.after for c in found["extended"].changes if c.before is None}
        assert set(new) == {"en-ru", "ru-en"}
        for direction, score in new.items():
            before = begun[direction]
            assert score and before and score.loss < 0.5 * before.loss and score.chrf > before.chrf


# -------------------- the parts


def test_numbers_are_in_one_part_only_and_depend_on_the_seed() -> None:
    size = Size(train=50, test=10)
    parts = numbers.split(size, 3)
    assert [len(part) for part in parts] == [50, 10, 10]
    assert len({n for part in parts for n in part}) == 70
    assert parts == numbers.split(size, 3) != numbers.split(size, 4)


def test_directions() -> None:
    assert numbers.directions(["a", "b"]) == [("a", "b"), ("b", "a")]
    assert len(numbers.directions("abcd", without=[("a", "b")])) == 10
    learned = set(numbers.directions(zero_shot.LANGUAGES, without=zero_shot.UNSEEN))
    assert not learned & set(zero_shot.UNSEEN) and set(zero_shot.ENGLISH) < learned


def test_examples_are_numbers_in_words(tmp_path: Path) -> None:
    (first,) = numbers.examples([42], [("en", "ru")])
    assert (first.source, first.target, first.origin) == ("forty-two", "сорок два", "en-ru")
    options = numbers.options(tmp_path, [first], [first], updates=7)
    assert options.updates == 7
    assert Path(options.train).read_text("utf-8").splitlines()[1].split("\t")[1:3] == ["forty-two", "сорок два"]


def test_the_language_is_guessed() -> None:
    rows = numbers.examples(range(200), [("en", "fr"), ("es", "it")])
    guess = LanguageGuess([(code, t) for e in rows for code, t in ((e.src_lang, e.source), (e.tgt_lang, e.target))])
    held_out = numbers.examples(range(400, 440), [("en", "fr"), ("es", "it")])
    right = [guess(e.source) == e.src_lang and guess(e.target) == e.tgt_lang for e in held_out]
    assert sum(right) >= 0.95 * len(right)


def test_the_table_has_a_row_for_each_seed_and_their_middles() -> None:
    lines = numbers.table([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.5}, {"a": 8.0, "b": 9.0}], digits=1).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["seed", "a", "b"]
    assert cells[2:] == [
        ["0", "1.0", "2.0"],
        ["1", "3.0", "2.5"],
        ["2", "8.0", "9.0"],
        ["mean", "4.0", "4.5"],
        ["median", "3.0", "2.5"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_without_num2words_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "num2words", None)
    with pytest.raises(InputError, match=r"mmx\[experiments\]"):
        numbers.examples([1], [("en", "es")])
