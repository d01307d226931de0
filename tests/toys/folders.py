"""The toys as model folders."""

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from mmx.model import Model, tensors
from mmx.text import byte_tokenizer
from mmx.train.optim import initialize
from mmx.weights.folder import write_model


def new_toy(name: str, seed: int = 0, **config: Any) -> Model:
    """A toy with random weights and statistics, in evaluation mode; `name` as in `toys.<name>`."""
    family = importlib.import_module(f"toys.{name}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = family.build(family.Config(**config))
        initialize(model)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
    model.tokenizer = byte_tokenizer.byte_tokenizer(["eng_Latn"])
    return model.eval()


def write_toy(name: str, folder: Path, seed: int = 0, **config: Any) -> Path:
    """The folder of `new_toy`, as `mmx.load` and the recipe's `init` take it."""
    family = importlib.import_module(f"toys.{name}")
    files = folder.parent / f"{folder.name}-tokenizer"
    byte_tokenizer.write(["eng_Latn"], files)
    card = {"name": name, "summary": "random", "license": "CC0-1.0", "commercial": True}
    write_model(
        folder,
        tensors(new_toy(name, seed, **config)).items(),
        family=f"toys.{name}",
        config=asdict(family.Config(**config)),
        card=card,
        tokenizer=files,
    )
    return folder
