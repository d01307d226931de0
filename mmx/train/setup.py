"""What a training begins from: the model, its tokenizer, and the data in its terms."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from torch import Tensor

from mmx import api
from mmx.checked import describe, fits
from mmx.errors import InputError, nearest
from mmx.interfaces import Needs, Objective
from mmx.model import Model, tensors
from mmx.options import default_of
from mmx.text import byte_tokenizer, character_tokenizer
from mmx.text.train_tokenizer import FILE as TOKENIZER_FILE
from mmx.text.train_tokenizer import train_tokenizer
from mmx.text.translation_tokenizer import TranslationTokenizer
from mmx.train.augment import FrameSpeeds, Noise, Speeds, TimeMasks, in_turn, mask_policy, masker
from mmx.train.batch import Batch
from mmx.train.data import ANYTHING, Changes, Data, EncodedData, encodes_frozen
from mmx.train.init_encoders import init_encoders
from mmx.train.manifest import Example, kind_of, languages_of, read_manifest, require_recordings
from mmx.train.objectives import build_objective
from mmx.train.optim import initialize
from mmx.train.options import TrainOptions, without_effect
from mmx.train.reading import require_content
from mmx.weights.family import import_family
from mmx.weights.folder import card_fields, copy_tokenizer


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


def start(options: TrainOptions, folder: Path) -> Start:
    """A new model, or the one to go on from; its tokenizer's files are put into `folder`.

    Raises:
        InputError: there is nothing to make a tokenizer or a model of.
        ModelNotFoundError: see `mmx.load`.
    """
    return _loaded(options, folder) if options.init else _new(options, folder)


def check_data(options: TrainOptions) -> bool:
    """Read both manifests and refuse what cannot be trained on, before anything is loaded or made.

    Returns:
        Whether the training data are speech.

    Raises:
        InputError: a manifest has mistakes, names recordings that are not there, or holds both speech and text; or an
            option does not go with the data.
    """
    examples = read_manifest(options.train, language=options.language)
    require_recordings(examples, options.train)
    valid = read_manifest(options.valid, language=options.language)
    require_recordings(valid, options.valid)
    require_content(valid)
    spoken = of_recordings(examples, options.train)
    of_recordings(valid, options.valid)
    if flaws := without_effect(options, spoken):
        raise InputError("; ".join(flaws))
    tasks = sorted({e.task for e in examples})
    for name in options.task_weights:
        if name not in tasks:
            raise InputError(
                f"expected task_weights of tasks in {options.train}, {', '.join(tasks)}, got {name!r}."
                f"{nearest(name, tasks)}"
            )
    if spoken and not options.init and options.family == default_of(TrainOptions, "family"):
        raise InputError(f"expected init with the speech in {options.train}, got none: name a model, or compose one")
    if not options.init:
        _config(options, options.vocab)
    return spoken


def objective(options: TrainOptions, model: Model) -> Objective[Batch]:
    """What the model is to minimize. Raises `InputError` for one that it cannot be trained by."""
    own = {name: getattr(options, name) for name in ("smoothing", "task_weights", "quantity_weight")}
    made = build_objective(options.objective, own if options.objective == "token" else options.objective_config)
    made.needs(model)
    return made


def of_recordings(examples: Sequence[Example], path: str | Path) -> bool:
    """Whether examples are of recordings. Raises `InputError` where they are of several kinds."""
    kinds = {kind_of(e) for e in examples}
    if len(kinds) > 1:
        some = " and ".join(sorted(kinds)[:3])
        both = "got both" if len(kinds) == 2 else f"got {len(kinds)} kinds"
        raise InputError(f"expected examples of one kind in {path}, {both}, {some}: make a training of each")
    return any(e.media for e in examples)


def _config(options: TrainOptions, vocab: int) -> Any:
    """The numbers of a new model. Raises `InputError` for an unknown family or number, or one of another type."""
    family = import_family(options.family)
    kinds = get_type_hints(family.Config)
    for name, value in options.config.items():
        if name not in kinds:
            raise InputError(
                f"expected numbers of {options.family} in config, {', '.join(kinds)}, got {name!r}."
                f"{nearest(name, list(kinds))}"
            )
        if not fits(value, kinds[name]):
            raise InputError(f"expected config.{name} = {describe(kinds[name])}, got {value!r}")
    try:
        return family.Config(**{**options.config, **({"vocab": vocab} if "vocab" in kinds else {})})
    except (TypeError, ValueError) as e:
        raise InputError(f"expected in config the numbers of a model of the family {options.family}, got {e}") from e


def _new(options: TrainOptions, folder: Path) -> Start:
    family = import_family(options.family)
    tokenizer = None if family.tokenizer is None else _tokenizer(options, folder)
    config = _config(options, options.vocab if tokenizer is None else tokenizer.n_vocab)
    model = family.build(config)
    initialize(model)
    init_encoders(model, options.init_encoders)
    model.tokenizer = tokenizer
    return Start(model, options.family, dataclasses.asdict(config), {})


def _tokenizer(options: TrainOptions, folder: Path) -> TranslationTokenizer:
    """The tokenizer of a new model, made unless `folder` has it."""
    if (folder / TOKENIZER_FILE).is_file():
        return TranslationTokenizer.from_file(folder / TOKENIZER_FILE, options.vocab)
    if (folder / byte_tokenizer.FILE).is_file():
        return byte_tokenizer.from_file(folder / byte_tokenizer.FILE)
    if (folder / character_tokenizer.FILE).is_file():
        return character_tokenizer.from_file(folder / character_tokenizer.FILE)
    examples = read_manifest(options.train, language=options.language)
    codes = sorted({code for e in examples for code in (e.src_lang, e.tgt_lang)})
    if options.tokenizer == "bytes":
        return byte_tokenizer.make(codes, folder)
    texts = (text for e in examples for text in (e.source, e.target))
    if options.tokenizer == "characters":
        return character_tokenizer.make(texts, codes, folder)
    return train_tokenizer(texts, codes, options.vocab, folder)


def _loaded(options: TrainOptions, folder: Path) -> Start:
    card, found = api.locate(options.init)
    model = api.load(options.init, device="cpu", dtype="float32")
    if model.tokenizer is None and options.objective == "token":
        raise InputError(f"expected init to be a model with a tokenizer, got {options.init!r}, which has none")
    folder.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(import_family(card.family), found, folder)
    for t in tensors(model).values():
        t.data = t.data.clone()  # may be a view of the file
    inherited = {**card_fields(card, model), "summary": f"{card.name}, trained further by mmx"}
    inherited.pop("writes", None)  # it may learn to write more
    return Start(model, card.family, dict(card.config), inherited)


def training_data(options: TrainOptions, path: str, model: Model, needs: Needs = ANYTHING) -> Data | EncodedData:
    """The examples of a manifest, in the model's terms; only those of `options.train` are augmented.

    What frozen encoders make of recordings is kept, unless these are augmented.

    Args:
        options: of the training.
        path: of the manifest.
        model: with its tokenizer. The weights of a frozen encoder are whole.
        needs: of the objective.

    Raises:
        InputError: the manifest has mistakes, or is not of what the model takes.
    """
    examples = read_manifest(path, languages_of(model), options.language)
    of_recordings(examples, path)
    data = Data(
        examples,
        model,
        max_tokens=options.max_tokens,
        group_by=options.group_by,
        changes=_changes(options, model) if path == options.train else Changes(),
        seed=options.seed,
        needs=needs,
        room=round(options.keep_gb * 2**30),
    )
    return EncodedData(data) if data.is_fixed and not needs.raw and encodes_frozen(model) else data


def _changes(options: TrainOptions, model: Model) -> Changes:
    """What is augmented, by medium: sound is played at other speeds and gets noise, frames are masked."""
    o = options
    media: dict[str, list[Callable[[Tensor, str], Tensor]]] = {"audio": []}
    if o.speeds:
        media["audio"].append(Speeds(o.speeds))
    if o.noise_snr_db:
        media["audio"].append(Noise(o.noise_snr_db, o.noise_share, o.noise or None))
    for what in model.inputs.values():
        if what.medium not in ("audio", "text"):
            speeds = [FrameSpeeds(o.speeds)] if o.speeds else []
            media[what.medium] = [*speeds, *([TimeMasks(o.time_masks, what.rate or 1.0)] if o.time_masks else [])]
    return Changes(
        {medium: change for medium, steps in media.items() if (change := in_turn(steps)) is not None},
        masker(mask_policy(o.masks)) if o.masks else None,
        o.lowercase,
        o.unpunctuated,
    )
