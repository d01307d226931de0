"""What a recipe may say: every slip is told at the start, by the option's name, with what would be right."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mmx.cli import app as cli
from mmx.cli.train import options as changes_of
from mmx.errors import InputError
from mmx.train import setup as starting
from mmx.train.augment import POLICIES
from mmx.train.loop import train
from mmx.train.options import CHANGEABLE, OPTIONS, TrainOptions, reference

DATA = {"train": "a.tsv", "valid": "b.tsv", "out": "c"}

WRONG: list[tuple[str, Any]] = [
    ("lr", "fast"), ("lr", 0), ("lr", float("nan")), ("lr", True), ("updates", 2.5), ("updates", 0), ("warmup", -1),
    ("betas", 0.9), ("betas", [0.9, 0.98, 0.99]), ("betas", [0.9, 1]), ("clip", 0.0), ("smoothing", 1.0),
    ("dropout", -0.1), ("weight_decay", -1e-9), ("speeds", [0]), ("speeds", ["90"]), ("noise_snr_db", [5]),
    ("noise_snr_db", [25, 5]), ("masks", "XL"), ("group_by", "task"), ("group_by", ["corpus"]),
    ("task_weights", {"translate": 0}), ("task_weights", ["translate"]), ("threads", -2), ("seed", -1), ("seed", 1.0),
    ("bf16", 1), ("lowercase", 1.01), ("keep_best", 0), ("dtype", "float64"), ("schedule", "linear"),
    ("tokenizer", "letters"), ("freeze", "decoder.*"), ("config", {"vocab": 9}), ("max_tokens", 0),
    ("quantity_weight", -1), ("temperature", 0), ("language", 5), ("card", {"license": 3}),
    ("card", {"lisence": "MIT"}), ("card", {"family": "nllb"}), ("card", {"writes": "es"}), ("lora_rank", -1),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_value_that_cannot_be_is_told_by_name(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"expected.*\b{name}\b.*got"):
        TrainOptions(**DATA, **{name: value})


@pytest.mark.parametrize(
    "given",
    [
        {"lr": 1}, {"betas": (0, 0.5)}, {"noise_snr_db": [5, 5.5]}, {"smoothing": 0}, {"warmup": 0}, {"lowercase": 1},
        {"card": {"license": "MIT", "writes": ["es"], "alignment_heads": [[1, 2]]}}, {"group_by": []},
        {"lora_rank": 2, "lora_alpha": 8}, {"out": Path("c")}, {"masks": "SS"},
    ],
)  # fmt: skip
def test_values_that_can_be_are_taken(given: dict[str, Any]) -> None:
    assert TrainOptions(**{**DATA, **given}).out == "c"


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("vocab", {"init": "en-es", "vocab": 99}), ("config", {"init": "en-es", "config": {"width": 8}}),
        ("family", {"init": "en-es", "family": "whisper"}), ("tokenizer", {"init": "en-es", "tokenizer": "bytes"}),
        ("vocab", {"tokenizer": "bytes", "vocab": 99}), ("freeze", {"lora_rank": 4, "freeze": ["encoders.*"]}),
        ("lora_alpha", {"lora_alpha": 3}), ("lora_targets", {"lora_targets": ["*"]}), ("noise", {"noise": "street"}),
    ],
)  # fmt: skip
def test_an_option_that_would_have_no_effect_is_told(name: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"expected {name} .*remove"):
        TrainOptions(**DATA, **given)


def test_all_slips_are_told_at_once() -> None:
    with pytest.raises(InputError, match=r"lr = a number above 0.*warmup = a whole number of 0 or more.*got 'long'"):
        TrainOptions(**DATA, lr=-1, warmup="long")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learning_rate", "lr"), ("max_grad_norm", "clip"), ("gradient_accumulation_steps", "accumulate"),
        ("label-smoothing", "smoothing"), ("batch_size", "batch_tokens"), ("output_dir", "out"), ("updtes", "updates"),
    ],
)  # fmt: skip
def test_a_name_of_another_program_leads_to_ours(tmp_path: Path, typed: str, meant: str) -> None:
    (tmp_path / "r.toml").write_text(f'"{typed}" = 1\n')
    with pytest.raises(InputError, match=rf"got '{typed}'. Did you mean '{meant}'"):
        TrainOptions.from_toml(tmp_path / "r.toml")


def test_the_table_is_whole_and_the_help_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row[0] for row in reference()] == [f.name for f in fields(TrainOptions)] == list(OPTIONS)
    assert all(option.help and "\n" not in option.help for option in OPTIONS.values())
    assert {"out", "card", "threads"} <= CHANGEABLE and not {"lr", "seed", "init"} & CHANGEABLE
    assert all(policy in OPTIONS["masks"].help for policy in POLICIES)
    assert cli.main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "peak learning rate [a number above 0; 0.001]" in shown and "current folder" in shown
    assert all(f" {name} " in shown for name in OPTIONS)


def test_a_text_on_the_command_line_stays_one() -> None:
    assert changes_of(["out=2026", "init=2026-11-28", "updates=3", 'freeze=["a"]', 'language="en"']) == {
        "out": "2026", "init": "2026-11-28", "updates": 3, "freeze": ["a"], "language": "en",
    }  # fmt: skip


def test_a_path_beside_the_recipe_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "t.tsv").write_text("x")
    recipe = tmp_path / "recipes" / "r.toml"
    recipe.write_text('train = "t.tsv"\nvalid = "t.tsv"\nout = "o"')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"current folder.*write .*recipes/t\.tsv"):
        TrainOptions.from_toml(recipe)
    monkeypatch.chdir(recipe.parent)
    assert TrainOptions.from_toml(recipe).train == "t.tsv"


def texts(path: Path, **more: str) -> str:
    row = {"source": "a cat", "target": "un gato", "src_lang": "en", "tgt_lang": "es", **more}
    path.write_text(json.dumps(row), "utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task_weights": {"translte": 2}}, "task_weights.*translate.*Did you mean 'translate'"),
        ({"masks": "LD"}, "masks for speech only"),
        ({"speeds": [90]}, "speeds for speech only"),
        ({"family": "nlb"}, "a family among .*Did you mean 'nllb'"),
        ({"config": {"widht": 8}}, "in config.*Did you mean 'width'"),
        ({"config": {"width": "8"}}, "config.width = a whole number"),
        ({"out": "/dev/null/x"}, "an out that can be written"),
        ({"device": "gpu"}, "the option device"),
    ],
)
def test_what_does_not_fit_the_data_is_refused_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(starting, "_tokenizer", lambda *_: pytest.fail("a tokenizer was made first"))
    path = texts(tmp_path / "t.jsonl")
    with pytest.raises(InputError if "out" not in given else Exception, match=message):
        train(TrainOptions(**{**DATA, "train": path, "valid": path, "out": str(tmp_path / "o"), **given}))
