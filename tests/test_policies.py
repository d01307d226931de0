"""Each policy on views done by hand."""

import pytest

from mmx.errors import InputError
from mmx.streaming.policies import View, alignatt, emma, find_policy, hold_n, local_agreement, wait_k

HYPOTHESIS = (5, 6, 7, 8)


def view(**changed) -> View:
    fields = {"source_s": 2.0, "finished": False, "committed": (), "hypothesis": HYPOTHESIS}
    return View(**{**fields, **changed})


@pytest.mark.parametrize(
    ("source_s", "committed", "expected"),
    [(0.9, 0, 0), (1.0, 0, 1), (2.0, 0, 3), (2.0, 2, 1), (2.0, 3, 0), (2.0, 4, 0), (30.0, 0, 4)],
)
def test_wait_k_writes_one_token_a_step_k_steps_behind(source_s: float, committed: int, expected: int):
    # k = 2 and steps of half a second: the first token after a second, then one every half.
    assert wait_k(view(source_s=source_s, committed=(1,) * committed), k=2, step_s=0.5) == expected


@pytest.mark.parametrize(("n", "expected"), [(0, 4), (1, 3), (4, 0), (9, 0)])
def test_hold_n(n: int, expected: int):
    assert hold_n(view(), n) == expected


@pytest.mark.parametrize(
    ("previous", "expected"),
    [((), 0), ((5, 6), 2), ((5, 9, 7), 1), ((9, 6, 7, 8), 0), ((5, 6, 7, 8, 9), 4)],
)
def test_local_agreement_writes_what_two_looks_share(previous: tuple[int, ...], expected: int):
    assert local_agreement(view(previous=previous)) == expected


@pytest.mark.parametrize(
    ("align_s", "expected"),
    [((0.1, 0.5, 1.0, 1.4), 4), ((0.1, 0.5, 1.6, 1.9), 2), ((1.6, 0.1, 0.2, 0.3), 0), ((0.1, 0.5, 1.5, 1.6), 2)],
)
def test_alignatt_stops_at_the_first_token_that_looks_at_the_end(align_s: tuple[float, ...], expected: int):
    assert alignatt(view(align_s=align_s), margin_s=0.5) == expected


@pytest.mark.parametrize(
    ("p_choose", "expected"), [((0.9, 0.8, 0.5, 0.6), 4), ((0.9, 0.3, 0.9, 0.9), 1), ((0.1, 1.0, 1.0, 1.0), 0)]
)
def test_emma_writes_while_the_source_suffices(p_choose: tuple[float, ...], expected: int):
    assert emma(view(p_choose=p_choose), threshold=0.5) == expected


@pytest.mark.parametrize("name", ["wait-k:9", "hold-n:9", "local-agreement", "alignatt:9", "emma:1.0"])
def test_everything_is_written_once_the_source_is_finished(name: str):
    late = view(finished=True, align_s=(1.9,) * 4, p_choose=(0.0,) * 4)
    assert find_policy(name)(late) == len(HYPOTHESIS)


def test_names_carry_thresholds():
    assert find_policy("hold-n:1")(view()) == 3
    assert find_policy("alignatt:1.2")(view(align_s=(0.1, 0.7, 0.9, 1.0))) == 2
    assert find_policy("emma:0.7")(view(p_choose=(0.8, 0.6, 0.9, 0.9))) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aligatt", "Did you mean 'alignatt'"),
        ("hold-n:x", "a whole number from 0 to 100"),
        ("hold-n:101", "a whole number from 0 to 100"),
        ("local-agreement:3", "has no threshold"),
        ("wait-k:", "a whole number from 1 to 100"),
        ("wait-k:0", "a whole number from 1 to 100"),
        ("wait-k:2.5", "a whole number from 1 to 100"),
        ("alignatt:-5", "a number from 0 to 30"),
        ("alignatt:nan", "a number from 0 to 30"),
        ("emma:7", "a number from 0 to 1"),
    ],
)
def test_names_that_are_none(name: str, words: str):
    with pytest.raises(InputError, match=words):
        find_policy(name)


def test_what_a_model_must_give():
    with pytest.raises(InputError, match="local-agreement"):
        alignatt(view())
    with pytest.raises(InputError, match="alignatt"):
        emma(view())
