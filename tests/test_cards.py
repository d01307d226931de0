"""Cards: what ships with mmx is complete, right, and findable."""

import importlib
import math
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from mmx.errors import InputError, ModelNotFoundError
from mmx.weights.card import CARDS, Card, cards, find_card, read_card
from mmx.weights.folder import as_toml, write_model

PATHS = sorted(CARDS.glob("*.toml"))
NAMES = [p.stem for p in PATHS]
BUILT = [n for n in NAMES if hasattr(importlib.import_module(f"mmx.models.{find_card(n).family}"), "build")]
"""Models of tensors; the others are read from files of another kind."""


def raw(**changes: Any) -> dict[str, Any]:
    """The default model's card as its file has it."""
    return {**tomllib.loads((CARDS / "whisper-base.toml").read_text("utf-8")), **changes}


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_card_is_named_as_its_file(path: Path) -> None:
    assert find_card(path.stem).name == path.stem


def test_cards_lists_every_file_from_small_to_large() -> None:
    found = cards()
    assert sorted(found) == sorted(NAMES)
    sizes = [c.parameters for c in found.values() if c.family == "whisper"]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("name", BUILT)
def test_the_number_of_parameters_is_the_models(name: str) -> None:
    card = find_card(name)
    family = importlib.import_module(f"mmx.models.{card.family}")
    with torch.device("meta"):
        model = family.build(family.Config(**card.config))
    assert all(p.is_meta for p in model.parameters()), "nothing may be allocated"
    assert sum(p.numel() for p in model.parameters()) == card.parameters


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_a_user_must_know(name: str) -> None:
    card = find_card(name)
    assert card.license
    assert card.summary
    assert card.source.startswith("https://") or (Path(__file__).parents[1] / card.source).is_file()
    assert card.languages
    assert card.tasks
    assert card.weights
    assert (card.tasks == ("speak",)) == bool(card.voices)
    assert (card.tasks in (("speak",), ("clone",))) == bool(card.trained_on)
    assert card.tasks in (("translate-text",), ("speak",)) or {"stride_ms", "lookahead_ms"} <= card.streaming.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_source_of_weights_can_be_asked(name: str) -> None:
    card = find_card(name)
    family = importlib.import_module(f"mmx.models.{card.family}")
    writes = False
    if name in BUILT:
        with torch.device("meta"):
            model = family.build(family.Config(**card.config))
        writes = model.decoder is not None or "text" in model.encoders or "ctc" in model.heads
    for weights in card.weights:
        known = {"mmx"} if weights.folder else set(family.KEYS) if name in BUILT else {"onnx"}
        assert weights.format in known
        kinds = [bool(weights.folder), bool(weights.packages), bool(weights.repo)]
        assert kinds.count(True) == 1, "a source is a folder of ours, packages or a repository"
        assert weights.files
        assert bool(weights.tokenizer) == writes
        assert not weights.sha256 or len(bytes.fromhex(weights.sha256)) == 32
        assert weights.repo or weights.sha256, "what is not downloaded is verified"


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("whisper-")])
def test_english_only_models_say_so(name: str) -> None:
    card = find_card(name)
    if name.endswith(".en"):
        assert card.languages == "English"
        assert card.tasks == ("transcribe",)
        assert card.config["vocab"] == 51864
    else:
        assert card.languages != "English"
        assert "transcribe" in card.tasks
        assert card.config["vocab"] in (51865, 51866)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("whisper-")])
def test_alignment_heads_lie_in_the_model(name: str) -> None:
    card = find_card(name)
    layers, heads = card.config["text_layers"], card.config["text_heads"]
    assert card.alignment_heads
    assert len(set(card.alignment_heads)) == len(card.alignment_heads)
    assert all(0 <= layer < layers and 0 <= head < heads for layer, head in card.alignment_heads)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("whisper-bas", "whisper-base"),
        ("Whisper-Tiny", "whisper-tiny"),
        ("whisper-large-v3-tubro", "whisper-large-v3-turbo"),
    ],
)
def test_an_unknown_name_gets_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find_card(typed)
    assert repr(typed) in str(caught.value)
    assert f"Did you mean {meant!r}?" in str(caught.value)


def test_a_name_like_nothing_gets_the_list() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        find_card("qqqq")
    assert "Did you mean" not in str(caught.value)
    for name in NAMES:
        assert name in str(caught.value)


@pytest.mark.parametrize("name", ["../cards/whisper-base", "/etc/passwd", "", "."])
def test_a_name_is_no_way_out_of_the_folder(name: str) -> None:
    with pytest.raises(ModelNotFoundError):
        find_card(name)


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(InputError, match="licence"):
        Card.from_dict(raw(licence="MIT"))


@pytest.mark.parametrize("weights", [{"format": "hf", "repository": "x/y"}, {"repo": "x/y"}])
def test_an_unknown_or_missing_field_of_the_weights_is_an_error(weights: dict[str, str]) -> None:
    with pytest.raises(InputError, match="weights"):
        Card.from_dict(raw(weights=[weights]))


@pytest.mark.parametrize("field", ["name", "family", "config", "weights", "license", "commercial"])
def test_a_missing_field_is_an_error(field: str) -> None:
    table = raw()
    del table[field]
    with pytest.raises(InputError, match=field):
        Card.from_dict(table)


def test_a_card_is_frozen_and_hashable_parts_are_tuples() -> None:
    card = Card.from_dict(raw(results=[{"wer": 5.0, "command": "mmx bench"}]))
    assert isinstance(card.weights, tuple)
    assert isinstance(card.weights[0].files, tuple)
    assert isinstance(card.alignment_heads[0], tuple)
    assert card.results[0]["command"] == "mmx bench"
    with pytest.raises(AttributeError):
        card.name = "other"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("field", [{"license": 3}, {"commercial": "yes"}, {"tasks": "transcribe"}, {"max_source": "9"}])
def test_a_field_of_another_type_is_told(field: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(field))} = "):
        Card.from_dict(raw(**field))


@pytest.mark.parametrize("name", NAMES)
def test_a_card_survives_a_write(name: str) -> None:
    card = find_card(name)
    assert Card.from_dict(tomllib.loads(as_toml(asdict(card)))) == card


def test_what_is_odd_in_a_card_survives_a_write_or_is_told(tmp_path: Path) -> None:
    fields = {
        "name": 'a "card"\\of', "summary": "¿quién?\n\x7f\t", "license": "MIT", "commercial": True, "writes": ("es",),
        "streaming": {"stride_ms": 40, "lookahead_ms": math.inf}, "results": ({"wer": 3.5, "command": "mmx"},),
    }  # fmt: skip
    config = {"layers": 2, "rate": 1e-7, "kernel": (3, 1), "adapter": {"kind": "conv", "numbers": {}}, "absent": None}
    write_model(tmp_path, [], family="toy", config=config, card=fields)
    card = read_card(tmp_path / "card.toml")
    assert {n: getattr(card, n) for n in fields} == fields
    assert card.config == {"layers": 2, "rate": 1e-7, "kernel": [3, 1], "adapter": {"kind": "conv", "numbers": {}}}
    with pytest.raises(InputError, match="texts, numbers, lists and tables"):
        write_model(tmp_path, [], family="toy", config={}, card={**fields, "source": object()})
