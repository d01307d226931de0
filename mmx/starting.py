"""What a training begins from: the model, its tokenizer, and the data in its terms."""

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmx import api, byte_tokenizer
from mmx.augment import Noise, Speeds, in_turn, mask_policy, masker
from mmx.errors import InputError
from mmx.export import card_fields, copy_tokenizer
from mmx.manifest import Example, read_manifest
from mmx.model import Model
from mmx.optim import initialize
from mmx.speech_data import EncodedData, SpeechData, hears_frozen
from mmx.text_data import TextData
from mmx.train_tokenizer import FILE as TOKENIZER_FILE
from mmx.train_tokenizer import train_tokenizer
from mmx.translation_tokenizer import TranslationTokenizer

if TYPE_CHECKING:
    from mmx.train import TrainOptions

Data = TextData | SpeechData | EncodedData


@dataclass(frozen=True)
class Start:
    """A model that is to be trained.

    Attributes:
        model: with its tokenizer, in float32.
        family: module in `models/`.
        config: the numbers of the family's `Config`.
        card: fields of the card of the model that this one goes on from.
    """

    model: Model
    family: str
    config: Mapping[str, Any]
    card: Mapping[str, Any]


def start(options: "TrainOptions", folder: Path) -> Start:
    """A new model, or the one to go on from; its tokenizer's files are put into `folder`.

    Raises:
        InputError: there is nothing to make a tokenizer or a model of.
        ModelNotFoundError: see `mmx.load`.
    """
    return _loaded(options, folder) if options.init else _new(options, folder)


def _new(options: "TrainOptions", folder: Path) -> Start:
    family = importlib.import_module(f"mmx.models.{options.family}")
    tokenizer = _tokenizer(options, folder)
    config = family.Config(**{**options.config, "vocab": tokenizer.n_vocab})
    model = family.build(config)
    initialize(model)
    model.tokenizer = tokenizer
    return Start(model, options.family, dataclasses.asdict(config), {})


def _tokenizer(options: "TrainOptions", folder: Path) -> TranslationTokenizer:
    """The tokenizer of a new model, made unless `folder` has it."""
    if (folder / TOKENIZER_FILE).is_file():
        return TranslationTokenizer.from_file(folder / TOKENIZER_FILE, options.vocab)
    if (folder / byte_tokenizer.FILE).is_file():
        return byte_tokenizer.from_file(folder / byte_tokenizer.FILE)
    examples = read_manifest(options.train, language=options.language)
    if any(e.audio for e in examples):
        raise InputError(f"expected init with the speech in {options.train}, got none: name a model, or compose one")
    codes = sorted({code for e in examples for code in (e.src_lang, e.tgt_lang)})
    if options.tokenizer == "bytes":
        return byte_tokenizer.make(codes, folder)
    texts = (text for e in examples for text in (e.source, e.target))
    return train_tokenizer(texts, codes, options.vocab, folder)


def _loaded(options: "TrainOptions", folder: Path) -> Start:
    card, found = api.locate(options.init)
    model = api.load(options.init, device="cpu", dtype="float32")
    model.require_decoder()
    if model.tokenizer is None:
        raise InputError(f"expected init to be a model with a tokenizer, got {options.init!r}, which has none")
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(importlib.import_module(f"mmx.models.{card.family}"), found, folder)
    for p in model.parameters():
        p.data = p.data.clone()  # may be a view of the file
    inherited = {**card_fields(card, model), "summary": f"{card.name}, trained further by mmx"}
    inherited.pop("writes", None)  # it may learn to write more
    return Start(model, card.family, dict(card.config), inherited)


def training_data(options: "TrainOptions", path: str, model: Model, keep: bool = True) -> Data:
    """The examples of a manifest, in the model's terms; only those of `options.train` are augmented.

    Args:
        options: of the training.
        path: of the manifest.
        model: with its tokenizer.
        keep: whether what a frozen encoder makes of speech is kept. Not where a process has only parts of the weights.

    Raises:
        InputError: the manifest has mistakes, or holds both speech and text.
    """
    examples = read_manifest(path, model.tokenizer.language_ids, options.language)
    spoken = [bool(e.audio) for e in examples]
    if any(spoken) and not all(spoken):
        raise InputError(f"expected speech or text in {path}, got both: make a training of each")
    if not all(spoken):
        return _text(options, examples, model, path == options.train)
    data = _speech(options, examples, model, path == options.train)
    return EncodedData(data) if keep and data.is_fixed and hears_frozen(model) else data


def _text(options: "TrainOptions", examples: list[Example], model: Model, learned: bool) -> TextData:
    return TextData(
        examples,
        model.tokenizer,
        max_tokens=min(options.max_tokens, model.decoder.ctx),
        group_by=options.group_by,
        lowercase=options.lowercase if learned else 0.0,
        unpunctuated=options.unpunctuated if learned else 0.0,
        seed=options.seed,
    )


def _speech(options: "TrainOptions", examples: list[Example], model: Model, learned: bool) -> SpeechData:
    o, steps = options, []
    if learned and o.speeds:
        steps.append(Speeds(o.speeds))
    if learned and o.noise_snr_db:
        steps.append(Noise(o.noise_snr_db, folder=o.noise or None))
    return SpeechData(
        examples,
        model,
        max_tokens=o.max_tokens,
        group_by=o.group_by,
        change_samples=in_turn(steps),
        change_features=masker(mask_policy(o.masks)) if learned and o.masks else None,
        seed=o.seed,
    )
