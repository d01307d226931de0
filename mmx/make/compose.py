"""`compose`: the encoder of one model, the decoder of another, a new adapter between them, ready to train."""

import copy
import dataclasses
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from mmx import api
from mmx.clip import SPEECH
from mmx.errors import InputError, ModelNotFoundError, nearest
from mmx.interfaces import Tokenizer
from mmx.model import Model, tensors
from mmx.models import causal_lm, composed
from mmx.nn.adapters import Chain
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.train.optim import freeze
from mmx.weights import hub
from mmx.weights.card import Card, Weights
from mmx.weights.family import import_family
from mmx.weights.folder import copy_tokenizer, new_folder, write_model

Stage = Literal["adapter", "adapter+cross", "all"]
"""What is trained: the new adapter; it and the decoder's attention to the memory; everything."""


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A model of which a part is taken; `copy_tokenizer` puts its tokenizer's files into a folder."""

    model: Model
    card: Card
    tokenizer: Tokenizer | None
    copy_tokenizer: Callable[[Path], None] | None


def compose(
    encoder: str | Path | Model,
    decoder: str | Path | Model,
    *,
    adapter: str = "conv",
    numbers: Mapping[str, Any] | None = None,
    modality: str | None = None,
    stage: Stage = "adapter",
    seed: int = 0,
    device: str = "cpu",
    out: str | Path | None = None,
) -> Model:
    """Compose a model of pretrained parts, in float32, of which the stage's are trained.

    Args:
        encoder: what `mmx.load` takes, or a model of its; its parts are copied.
        decoder: the same, or a folder of Hugging Face's with a causal language model (extra `llm`).
        adapter: kind of the adapter, see `mmx.nn.adapters`.
        numbers: of the adapter, such as `{"stride": 4}`; its defaults when None.
        modality: of the encoder model, where it has several; speech when it has that.
        stage: see `Stage` and `frozen_patterns`.
        seed: of the adapter's weights.
        device: see `mmx.load`.
        out: also write the model as a folder there, which must not exist; needs the decoder's name or path.

    Raises:
        InputError: the parts do not fit together, or the options cannot be used.
        ModelNotFoundError: no source has the weights.
    """
    out = None if out is None else Path(out).expanduser()
    if out is not None and out.exists():
        raise InputError(f"expected a new folder, got {out}, which exists: choose another name or remove it")
    target, stage = api.resolve_device(device), as_stage(stage)
    heard, writes = _opened(encoder), _opened(decoder)
    if out is not None and writes.copy_tokenizer is None:
        raise InputError(
            "expected the name or path of the decoder to write a folder, got a model: its files are needed"
        )
    config = composed.Config(
        modality=modality or (SPEECH if SPEECH in heard.model.encoders else next(iter(heard.model.encoders), "")),
        encoder=_part(heard.card),
        adapter=composed.Adapter(kind=adapter, numbers=dict(numbers or {})),
        decoder=_part(writes.card),
    )
    _require_one_tokenizer(config, heard, writes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = composed.compose(config, heard.model, writes.model)
    for name, part in list(model.named_children()):
        # Training must not change the models that the parts came from; and what two parts of one model shared (an
        # embedding), each has for itself here.
        setattr(model, name, copy.deepcopy(part))
    model.float().eval()
    _require_whole(model, config)
    model.tokenizer, model.card = writes.tokenizer, _card(model, config, heard.card, writes.card, out)
    freeze(model, frozen_patterns(model, stage))
    if out is not None and writes.copy_tokenizer is not None:
        _write(model, model.card, writes.copy_tokenizer, out)
    return model.to(target)


def as_stage(name: str) -> Stage:
    """The stage of this name. Raises `InputError` for an unknown one."""
    known: tuple[Stage, ...] = get_args(Stage)
    for stage in known:
        if stage == name:
            return stage
    raise InputError(f"expected a stage among {', '.join(known)}, got {name!r}.{nearest(name, list(known))}")


def frozen_patterns(model: Model, stage: Stage) -> tuple[str, ...]:
    """What `mmx.train.optim.freeze` and `TrainOptions.freeze` take to train only a stage's parameters.

    Raises:
        InputError: an unknown stage, or a decoder without attention to the memory where that is to be trained.
    """
    if as_stage(stage) == "all":
        return ()
    new = [f"adapters.{n}.{'new.' if isinstance(a, Chain) else ''}" for n, a in model.adapters.items()]
    names = [name for name, _ in model.named_parameters()]
    trained = {n for n in names if n.startswith(tuple(new))}
    if stage == "adapter+cross":
        cross = {n for n in names if n.startswith("decoder.") and any(p in ("cross", "cross_ln") for p in n.split("."))}
        if not cross:
            raise InputError(
                "expected a decoder with attention to the memory for the stage adapter+cross, got one without, which "
                "reads it as text: use adapter or all"
            )
        trained |= cross
    return _patterns("", names, trained)


def _patterns(prefix: str, names: Sequence[str], trained: set[str]) -> tuple[str, ...]:
    """The shortest patterns that match all names below `prefix` but the trained; layers alike become one."""
    if not any(n in trained for n in names):
        return (f"{prefix}*",)
    groups: dict[str, list[str]] = {}
    for name in names:
        if name not in trained:
            head = name.removeprefix(prefix).split(".")[0]
            groups.setdefault(head, []).append(name)
    out = []
    for head in groups:
        below = [n for n in names if n == prefix + head or n.startswith(f"{prefix}{head}.")]
        out += [prefix + head] if below == [prefix + head] else _patterns(f"{prefix}{head}.", below, trained)
    starred = (".".join("*" if p.isdigit() else p for p in pattern.split(".")) for pattern in out)
    return tuple(dict.fromkeys(starred))


# -------------------- the two models


def _opened(source: str | Path | Model) -> _Opened:
    if isinstance(source, Model):
        if source.card is None:
            raise InputError("expected a model that mmx.load or mmx.compose gave, got one without a card")
        return _Opened(source, source.card, source.tokenizer, None)
    if causal_lm.is_folder(source):
        return _language_model(Path(source).expanduser())
    card, found = api.locate(source)
    model = api.load(source, device="cpu", dtype="float32")
    family = import_family(card.family)
    return _Opened(model, card, model.tokenizer, lambda folder: copy_tokenizer(family, found, folder))


def _require_one_tokenizer(config: composed.Config, heard: _Opened, writes: _Opened) -> None:
    if config.modality == "text" and "text" in heard.model.encoders and not _same_pieces(heard, writes):
        raise InputError(
            f"expected two models with the same tokenizer to compose of a text encoder, got {heard.card.name} and "
            f"{writes.card.name}: a model has one, for what it reads and what it writes"
        )


def _same_pieces(a: _Opened, b: _Opened) -> bool:
    """Whether two models spell texts and languages alike."""
    if a.tokenizer is b.tokenizer:
        return True
    one, other = a.tokenizer, b.tokenizer
    if not (isinstance(one, TranslationTokenizer) and isinstance(other, TranslationTokenizer)):
        return False
    return list(one.pieces.texts) == list(other.pieces.texts) and one.language_ids == other.language_ids


def _language_model(path: Path) -> _Opened:
    model, config = causal_lm.open_folder(path)
    if not (path / "tokenizer.json").is_file():
        raise ModelNotFoundError(f"expected tokenizer.json in {path}, got none: save it with a fast tokenizer")
    card = Card(
        name=path.resolve().name,
        family="causal_lm",
        summary=f"from {path}",
        config=dataclasses.asdict(config),
        weights=(Weights(format="hf"),),
        license="unknown",
        commercial=True,
    )
    model.card, found, family = card, hub.at_path(path), import_family(card.family)
    tokenizer = causal_lm.tokenizer(path / "tokenizer.json", config)
    return _Opened(model, card, tokenizer, lambda folder: copy_tokenizer(family, found, folder))


def _part(card: Card) -> composed.Part:
    """The family of a model and all of its numbers, defaults too, which may change one day."""
    config = import_family(card.family).Config(**card.config)
    return composed.Part(family=card.family, config=dataclasses.asdict(config))


def _require_whole(model: Model, config: composed.Config) -> None:
    """Raise `InputError` unless the config builds exactly this model, as it will when the folder is loaded."""
    with torch.device("meta"):
        again = composed.build(config)
    want, got = ({n: t.shape for n, t in tensors(m).items()} for m in (again, model))
    if want != got:
        odd = sorted(k for k in want.keys() | got.keys() if want.get(k) != got.get(k))
        raise InputError(
            f"expected parts whose weights can be trained, got others for {odd[:5]}: load the models with "
            'dtype="float32", since int8 layers cannot be trained'
        )


# -------------------- the folder


def _card(model: nn.Module, config: composed.Config, encoder: Card, decoder: Card, out: Path | None) -> Card:
    licenses = dict.fromkeys(c.license for c in (encoder, decoder))
    return Card(
        name=f"{encoder.name}-{decoder.name}" if out is None else out.resolve().name,
        family="composed",
        summary=f"the encoder of {encoder.name}, an untrained adapter ({config.adapter.kind}), "
        f"the decoder of {decoder.name}",
        config=dataclasses.asdict(config),
        weights=(Weights(format="mmx"),),
        license=" AND ".join(licenses),
        commercial=encoder.commercial and decoder.commercial,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def _write(model: Model, card: Card, copy_files: Callable[[Path], None], out: Path) -> None:
    """The folder of the model, in one rename when it is complete."""
    fields = {n: getattr(card, n) for n in ("name", "summary", "license", "commercial", "parameters")}
    with new_folder(out) as folder, tempfile.TemporaryDirectory(prefix="mmx-") as files:
        copy_files(Path(files))
        write_model(
            folder,
            tensors(model).items(),
            family=card.family,
            config=card.config,
            card=fields,
            tokenizer=Path(files),
        )


def describe(model: Model) -> str:
    """The parts of a composed model, one a line: parameters, and how many of them are trained."""
    assert model.card is not None
    config = composed.Config(**model.card.config)
    (name,) = model.encoders
    rows = [
        ("encoder", f"{config.encoder.family}, {name}", model.encoders),
        ("adapter", config.adapter.kind, model.adapters),
        ("decoder", config.decoder.family, model.decoder),
    ]
    lines = []
    for part, kind, module in rows:
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
        total, trained = sum(n for n, _ in sizes), sum(n for n, on in sizes if on)
        lines.append(f"{part:<8} {kind:<24} {total:>13,} parameters, {trained:>13,} trained")
    return "\n".join(lines)


def recipe(model: Model, folder: Path, stage: Stage) -> str:
    """The lines of a training recipe (`mmx.train.options.TrainOptions`) for a stage, to be run from any folder."""
    return f"init = {json.dumps(str(folder.absolute()))}\nfreeze = {json.dumps(frozen_patterns(model, stage))}"
