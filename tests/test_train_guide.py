"""The guide of training: its table of options is that of the code, and its recipes train, on tiny models."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
import torch
from tiny_speech import tiny_whisper, tones

from mmx.make.compose import compose
from mmx.models import nllb
from mmx.text.train_tokenizer import train_tokenizer
from mmx.train import manifest
from mmx.train.loop import train
from mmx.train.optim import initialize
from mmx.train.options import TrainOptions, reference
from mmx.weights.folder import write_model
from mmx.weights.formats import open_checkpoint

GUIDE = (Path(__file__).parents[1] / "docs" / "guides" / "train.md").read_text("utf-8")
RECIPES = {text.split(".toml")[0].strip("# "): text for text in re.findall(r"^```toml\n(.*?)^```$", GUIDE, re.M | re.S)}


def table() -> str:
    rows = ["| option | values | default | meaning |", "|---|---|---|---|"]
    rows += [f"| `{name}` | {values} | {default} | {text} |" for name, values, default, text in reference()]
    return "\n".join(rows) + "\n"


def test_the_table_of_options_is_that_of_the_code() -> None:
    assert table() in GUIDE, f"put this into docs/guides/train.md:\n{table()}"


def test_every_column_of_a_manifest_is_told() -> None:
    columns = {*manifest.REQUIRED, *manifest.SPOKEN, *manifest.OPTIONAL, *manifest.SECONDS}
    assert columns <= set(re.findall(r"`(\w+)`", GUIDE.split("## Fine-tune")[0]))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stand-ins of whisper-base and of en-es, tiny and random, and clips with their text in either language."""
    root = tmp_path_factory.mktemp("guide")
    tiny_whisper(root / "speech")
    config = nllb.Config(vocab=278, ctx=64, width=24, heads=(2, 2), layers=(1, 2), hidden=(32, 32))
    train_tokenizer(["the cat sat", "low mid high"] * 20, ["eng_Latn", "spa_Latn"], config.vocab, root / "tokenizer")
    torch.manual_seed(0)
    model = nllb.build(config)
    initialize(model)
    card = {"name": "text", "summary": "random", "license": "CC0-1.0", "commercial": True}
    write_model(
        root / "text", model.named_parameters(), family="nllb", config=dataclasses.asdict(config), card=card,
        tokenizer=root / "tokenizer",
    )  # fmt: skip
    compose(root / "speech", root / "text", adapter="conv", out=root / "composed")
    clips = tones(root, 6)
    spanish = clips.read_text("utf-8").replace("src_lang\t", "src_lang\ttgt_lang\t").replace("\ten\t", "\ten\tes\t")
    (root / "spanish.tsv").write_text(spanish, "utf-8")
    return {"root": root, "whisper-base": root / "speech", "runs/speech-es": root / "composed"}


def trained(name: str, models: dict[str, Path], out: Path, data: str) -> tuple[Path, Path]:
    """A recipe of the guide on tiny data: the folder that it begins with and the one that it makes."""
    recipe = tomllib.loads(RECIPES[name])
    begin = models[recipe["init"]]
    small = {"updates": 2, "batch_tokens": 600, "warmup": 1, "valid_every": 2, "save_every": 2, "lr": 0.01}
    places = {"train": str(models["root"] / data), "valid": str(models["root"] / data), "out": str(out)}
    return begin, train(TrainOptions(**{**recipe, **small, **places, "init": str(begin)}))


def moved(before: Path, after: Path) -> set[str]:
    old, new = (open_checkpoint(folder / "model.safetensors", "mmx") for folder in (before, after))
    assert set(old) == set(new)
    return {name for name in old if not torch.equal(old[name], new[name])}


def test_the_recipe_of_fine_tuning_trains_the_decoder(models: dict[str, Path], tmp_path: Path) -> None:
    names = moved(*trained("fine-tune", models, tmp_path, "train.tsv"))
    assert names and all(name.startswith("decoder.layers.") for name in names)


def test_the_recipes_of_a_composed_model_train_what_they_say(models: dict[str, Path], tmp_path: Path) -> None:
    """First the adapter alone; then also the decoder's attention to it and its norm, and nothing else."""
    begin, made = trained("adapter", models, tmp_path / "adapter", "spanish.tsv")
    adapter = moved(begin, made)
    assert adapter and all(name.startswith("adapters.") for name in adapter)
    models["runs/speech-es-adapter/model"] = made
    names = moved(*trained("cross", models, tmp_path / "cross", "spanish.tsv"))
    cross = {name for name in names if not name.startswith("adapters.")}
    assert cross and all(".cross." in name or ".cross_ln." in name for name in cross)
