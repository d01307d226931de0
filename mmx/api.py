"""The verbs of mmx in Python; the command line has the same names and defaults."""

import dataclasses
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from mmx.errors import CheckpointError, InputError, MmxWarning, ModelNotFoundError, nearest
from mmx.interfaces import HalfPrecise
from mmx.media.audio import Source
from mmx.model import Model, Side, tensors
from mmx.nn.decoder import TextDecoder
from mmx.nn.quantize import quantize_linears, supported
from mmx.options import taking
from mmx.tasks import transcribe as tasks
from mmx.tasks.cascade import Route, cascade_model
from mmx.tasks.options import Options, SpeakOptions
from mmx.tasks.result import SpokenSegment, Transcript
from mmx.tasks.synthesize import join, synthesize
from mmx.tasks.translate import translate_text
from mmx.tasks.verify import listener, verified
from mmx.tasks.voices import choose
from mmx.text import piece_tokenizer
from mmx.weights import hub
from mmx.weights.card import Card, Weights, cards, find_card, read_card
from mmx.weights.convert import Rule, convert, plan_misses
from mmx.weights.family import Family, families, import_family, model_types
from mmx.weights.formats import LazyTensors, open_checkpoint
from mmx.weights.options import DEFAULT_MODEL, DType, LoadOptions

OWN_NAMES = (Rule("(.+)", r"\1"),)
"""The conversion table of checkpoints that mmx wrote, of any family."""


def load(
    model: str | Path = DEFAULT_MODEL, *, device: str = "auto", dtype: DType = "auto", download: bool = True
) -> Model:
    """Load a model, ready to use.

    Args:
        model: a card's name (`mmx models` lists them) or the path of a checkpoint: a folder with
            `model.safetensors` or `model.bin`, an OpenAI or fairseq2 `.pt` file, or an asset card of fairseq2's.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: auto chooses float16 on a GPU; on a CPU int8 linear layers for the decoder and, for the encoder and
            the attention to it, bfloat16 where the CPU has matrix units for it, else float32. The environment
            variable MMX_DTYPE names what auto shall choose instead: a dtype, or those of encoder, decoder and the
            attention between them, such as float32/int8 or bfloat16/int8/bfloat16.
        download: whether a hub may be asked when nothing local has the weights.

    Raises:
        ModelNotFoundError: no source has the weights; says each one tried.
        CheckpointError: the weights do not fit the card.
    """
    target = resolve_device(device)
    plan = resolve_dtype(dtype, target)
    card, found = locate(model, download)
    family = import_family(card.family)
    built = _assemble(card, family, found) if family.from_file is None else _from_file(card, family, found)
    built.tokenizer = read_tokenizer(card, family, found)
    family.finish(built, found.parts[0].parent)
    built.card = card
    if not card.commercial:
        warnings.warn(f"{card.name}: weights under {card.license}, not for commercial use", MmxWarning, 2)
    return prepare(built, target, plan)


def open_model(options: LoadOptions, model: str = "") -> Model:
    """`load` as a verb is asked for it; `model` is another one, to compute on the same."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return load(model or options.model, device=options.device, dtype=options.dtype)


def open_route(load_options: LoadOptions, model: Model, options: Options) -> Route:
    """How a speech model gives what is asked for: by itself, or with a text model, named or one that ships.

    Raises:
        InputError: neither way leads to the language.
    """
    name = load_options.text_model or cascade_model(model, options)
    return Route(options) if name is None else Route.through(open_model(load_options, name), options)


# -------------------- what a model does, as its methods


def _transcribe(model: Model, source: Source, options: Options) -> Transcript:
    """The text of a recording."""
    return next(_transcribe_many(model, [source], options))


def _transcribe_many(model: Model, sources: Iterable[Source], options: Options) -> Iterator[Transcript]:
    """Transcripts of several recordings, in order, decoded in batches across them."""
    return tasks.transcribe(model, sources, options)


transcribe, transcribe_many = taking(Options, _transcribe), taking(Options, _transcribe_many)


def _speak_text(model: Model, text: str, options: SpeakOptions) -> SpokenSegment:
    """A text spoken, as one waveform with the times of its words; see `mmx.tasks.synthesize.synthesize`."""
    return join(speech(model, text, options) if options.verify else synthesize(model, text, options))


def _stream_speech(model: Model, text: str, options: SpeakOptions) -> Iterator[SpokenSegment]:
    """A text spoken, block by block, each as soon as it is made; see `mmx.tasks.synthesize.synthesize`."""
    return speech(model, text, options)


def speech(model: Model, text: str, options: SpeakOptions, recognizer: Model | None = None) -> Iterator[SpokenSegment]:
    """A text spoken: in blocks, each as soon as it is made, or, with `verify`, in sentences that were checked.

    What remains of their faults is issued as `MmxWarning`; `recognizer` checks, the default model if not given.
    """
    if not options.verify:
        yield from synthesize(model, text, options, blocks=True)
        return
    listen = listener(recognizer or load(), options.language or "en")
    for one, faults in verified(model, text, options, listen):
        if faults is not None:
            warnings.warn(f"check of speech: {faults}", MmxWarning, 3)
        yield one


speak_text, stream_speech = taking(SpeakOptions, _speak_text), taking(SpeakOptions, _stream_speech)
Model.transcribe, Model.transcribe_many, Model.translate_text = transcribe, transcribe_many, translate_text
Model.speak, Model.stream_speech = speak_text, stream_speech


def open_voice(options: SpeakOptions, load_options: LoadOptions | None = None) -> tuple[Model, SpeakOptions]:
    """The model of a voice, and the options with the voice and the language that are meant.

    Args:
        options: of which voice and language choose the model where none is named.
        load_options: on what it computes, and a model other than the default one.
    """
    where = load_options or LoadOptions()
    named = "" if where.model == DEFAULT_MODEL else where.model
    if named and not (named in cards() and cards()[named].voices):
        return open_model(where), options
    chosen = choose(options.voice, options.language, named)
    language = options.language or chosen.languages[0]
    return open_model(where, chosen.card.name), dataclasses.replace(options, voice=chosen.name, language=language)


def speak(text: str, **options: Any) -> SpokenSegment:
    """A text spoken by the voice, or in the language, that is asked for; the options are those of `SpeakOptions`.

    The voice is loaded for each call: to speak several texts, load its model once and use `Model.speak`.
    """
    model, asked = open_voice(SpeakOptions(**options))
    return _speak_text(model, text, asked)


# -------------------- finding and filling


def outline(model: str | Path, download: bool = True) -> Model:
    """A model with its tokenizer and without its weights: what it has and can take; arguments as of `load`."""
    card, found = locate(model, download)
    family = import_family(card.family)
    if family.from_file is not None:
        built = _from_file(card, family, found)
    else:
        with torch.device("meta"):
            built = family.build(family.Config(**card.config))
    built.tokenizer, built.card = read_tokenizer(card, family, found), card
    return built


def read_tokenizer(card: Card, family: Family, found: hub.Found) -> Any:
    if family.tokenizer is None or (family.PIECES and found.tokenizer is None):
        return None
    return family.tokenizer(_tokenizer_file(found, family), family.Config(**card.config))


def locate(model: str | Path, download: bool = True) -> tuple[Card, hub.Found]:
    """What `load` builds, and where its weights are; arguments and errors as there."""
    path = Path(model).expanduser()
    is_path = isinstance(model, Path) or path.exists() or len(path.parts) > 1
    return _from_path(path) if is_path else _from_card(str(model), download)


def _from_card(name: str, download: bool) -> tuple[Card, hub.Found]:
    card = find_card(name)
    return card, hub.locate(card, download)


def _from_path(path: Path) -> tuple[Card, hub.Found]:
    return describe(hub.at_path(path), path)


def describe(found: hub.Found, path: Path) -> tuple[Card, hub.Found]:
    """The card of a checkpoint: the one in its folder, or one made here. The numbers are the checkpoint's own."""
    with hub.joined(found) as file:
        source = open_checkpoint(file, found.format)
        family = import_family(family_of(found.format, source))
        try:
            own, meta = found.format == "mmx", {**source.meta, **found.meta}
            shapes = family.prepare_source(found.format, source).shapes
            config = meta["config"] if own else family.config_from(found.format, meta, shapes)
        except KeyError as e:
            raise CheckpointError(
                f"expected {e} next to the weights in {path}, got none: take all of the checkpoint's files"
            ) from e
    if family.PIECES:
        found = dataclasses.replace(found, tokenizer=piece_tokenizer.beside(found.parts[0].parent, family.PIECES))
    if (path / "card.toml").is_file():
        return dataclasses.replace(read_card(path / "card.toml"), config=config), found
    heads = source.meta.get("alignment_heads") or ()
    return Card(
        name=path.stem if path.is_file() else path.resolve().name,
        family=family.name,
        summary=f"from {path}",
        config=config,
        weights=(Weights(format=found.format),),
        license="unknown",
        commercial=True,
        alignment_heads=tuple((int(a), int(b)) for a, b in heads),
    ), found


def family_of(format: str, source: LazyTensors) -> str:
    """The family of a checkpoint: by the name that its format records, by what it holds, or by the tensors' names."""
    if format == "mmx":
        return _own_family(str(source.meta.get("model_type", "")))
    for name, family in families().items():
        if family.sniff(format, source):
            return name
    if format in ("fairseq2", "fairseq"):
        return _family_by_names(format, source)
    spec = str(source.meta.get("spec", "")).removesuffix("Spec").lower()
    name, known = spec or str(source.meta.get("model_type", "")), model_types()
    if name not in known:
        raise CheckpointError(
            f"expected a checkpoint of a model type among {sorted(known)}, got {name or 'an unnamed one'!r}"
        )
    return known[name]


def _family_by_names(format: str, source: LazyTensors) -> str:
    """The family whose table for the format knows the most of the tensors; conversion names those that it does not."""
    tables = {name: family.KEYS for name, family in families().items()}
    misses = {f: plan_misses(source, keys[format]) for f, keys in tables.items() if format in keys}
    return min(misses, key=lambda f: misses[f])


def _own_family(name: str) -> str:
    """The family that a folder of ours names."""
    try:
        import_family(name)
    except InputError as e:
        raise CheckpointError(str(e)) from e
    return name


def _tokenizer_file(found: hub.Found, family: Family) -> Path:
    """Beside the weights, else that of the card which the family names in `TOKENIZER_OF`, where it names one."""
    if found.tokenizer is not None:
        return found.tokenizer
    default = None
    if family.TOKENIZER_OF:
        with suppress(ModelNotFoundError):
            default = hub.locate(find_card(family.TOKENIZER_OF), download=False).tokenizer
    if default is None:
        names = " or ".join(hub.TOKENIZERS)
        raise ModelNotFoundError(f"expected {names} next to the weights ({found.how}), got none: put it there")
    return default


def _assemble(card: Card, family: Family, found: hub.Found) -> Model:
    """Build on the meta device (no memory, no initialization), then put the tensors in their places."""
    with torch.device("meta"):
        model = family.build(family.Config(**card.config))

    def ours() -> Iterator[tuple[str, Tensor]]:
        yield from converted(model, family, found)

    # What is on the disk as safetensors is read from there, page by page as it is needed.
    cache = None if found.is_mapped else hub.cached(card.name, found.identity, ours)
    source = dict(ours()) if cache is None else open_checkpoint(cache, "mmx")
    fill(model, source)
    return model.eval()


def _from_file(card: Card, family: Family, found: hub.Found) -> Model:
    """A model that is no set of tensors, of its file."""
    assert family.from_file is not None
    with hub.joined(found) as file:
        return family.from_file(file, family.Config(**card.config)).eval()


def converted(model: Model, family: Family, found: hub.Found) -> Iterator[tuple[str, Tensor]]:
    """The weights of `found` in our names, one at a time; `model` says which there must be."""
    expected = {k: tuple(v.shape) for k, v in tensors(model).items()}
    with hub.joined(found) as file:
        source = open_checkpoint(file, found.format)
        rules = OWN_NAMES if found.format == "mmx" else family.KEYS[found.format]
        yield from convert(family.prepare_source(found.format, source), rules, expected)


def fill(model: Model, source: Mapping[str, Tensor]) -> None:
    """Put tensors, by name, in the places of the model's parameters and buffers; what is tied stays tied."""
    places: dict[int, list[tuple[dict[str, Any], str]]] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, value in held.items():
                places.setdefault(id(value), []).append((held, name))
    for key, old in tensors(model).items():
        is_weight = isinstance(old, torch.nn.Parameter)
        new = torch.nn.Parameter(source[key], requires_grad=False) if is_weight else source[key]
        for held, name in places[id(old)]:
            held[name] = new


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `InputError` for a device that is not here."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = device.partition(":")[0]
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind not in here:
        raise InputError(f"expected a device among auto, cpu, cuda, mps, got {device!r}.{nearest(kind, list(here))}")
    if not here[kind]:
        raise InputError(f"expected device {device!r} to be usable, but this torch finds none: use --device cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise InputError(f"expected a device such as cpu, cuda or cuda:1, got {device!r}") from e
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if (chosen.index or 0) >= count:
        raise InputError(f"expected a device below {kind}:{count}, got {device!r}: only {count} of its kind is here")
    return chosen


@dataclasses.dataclass(frozen=True)
class Precision:
    """What each side computes in; `int8` means int8 linear layers and float32 for the rest.

    Attributes:
        encoder: of encoders, adapters and the part that fuses modalities.
        decoder: of the decoder.
        keys: of a text decoder's attention to the memory, the largest thing that a step reads, and of the layers that
            int8 leaves as they are; as the rest when None.
    """

    encoder: str
    decoder: str
    keys: str | None = None


FORCED = "MMX_DTYPE"
"""Environment variable that says what `auto` is, so that one machine can compute as another would; see `load`."""


def resolve_dtype(dtype: str, device: torch.device) -> Precision:
    """The precision of encoder and decoder. Raises `InputError` for an unknown or unusable one."""
    if dtype not in get_args(DType):
        raise InputError(f"expected a dtype among {', '.join(get_args(DType))}, got {dtype!r}")
    forced = os.environ.get(FORCED, "") if dtype == "auto" else ""
    chosen = _read_precision(forced) if forced else Precision(dtype, dtype)
    if "int8" in (chosen.encoder, chosen.decoder) and (device.type != "cpu" or not supported()):
        raise InputError(f"expected dtype int8 on an x86 CPU, got {device}: use --dtype float16 or float32")
    return _by_device(device) if chosen.encoder == "auto" else chosen


def _read_precision(text: str) -> Precision:
    """The value of `FORCED`: auto, a dtype for all, or encoder/decoder[/keys]."""
    kinds = get_args(DType)[1:]
    parts = text.split("/")
    if text == "auto" or (len(parts) == 1 and text in kinds):
        return Precision(text, text)
    if len(parts) in (2, 3) and all(p in kinds for p in parts) and "int8" not in parts[2:]:
        return Precision(*parts)
    raise InputError(
        f"expected {FORCED} to be auto, one of {', '.join(kinds)}, or encoder/decoder[/keys] of these, such as "
        f"float32/int8, got {text!r}: correct it or unset it"
    )


def _by_device(device: torch.device) -> Precision:
    """What `auto` is where nothing is forced."""
    if device.type != "cpu":
        return Precision("float16", "float16")
    if not supported():
        return Precision("float32", "float32")
    return Precision("bfloat16", "int8", "bfloat16") if has_bf16_units() else Precision("float32", "int8")


def has_bf16_units() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AMX or AVX512-BF16)."""
    return bool(
        getattr(torch.cpu, "_is_amx_tile_supported", bool)() or getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    )


_preparing = threading.Lock()  # quantizing silences a warning, which Python does for the whole process at once


KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""Environment variable by which oneDNN knows how many kernels to keep; it reads it before its first product."""


def _keep_few_kernels() -> None:
    """Have oneDNN, which multiplies bfloat16 on CPUs, keep 128 kernels in place of 1024.

    It makes one for each shape, of 0.6 MB in 0.7 ms (Zen 4): a session or a server, whose texts have all lengths, would
    grow by hundreds of MB. A number that the user chose stays.
    """
    os.environ.setdefault(KERNELS, "128")


def prepare(model: Model, device: torch.device, precision: Precision) -> Model:
    """Cast and, for int8, quantize in place."""
    _keep_few_kernels()
    # The front end stays in float32: half precision loses a waveform's quiet parts. So does a voice: it is heard; what
    # samples its features (flow matching) computes as an encoder does.
    dtypes: dict[Side, str] = {
        "front": "float32", "encoder": precision.encoder, "decoder": precision.decoder, "synth": "float32",
    }  # fmt: skip
    narrow = getattr(torch, precision.keys or "float32")
    for _, part, side in model.parts():
        dtype = dtypes[side]
        part.to(device=device, dtype=torch.float32 if dtype == "int8" else getattr(torch, dtype))
        if isinstance(part, HalfPrecise) and precision.encoder != "int8":
            for inner in part.narrow():
                inner.to(dtype=getattr(torch, precision.encoder))
        if dtype == "int8":
            with _preparing:
                quantize_linears(part, narrow)
    if precision.keys and isinstance(model.decoder, TextDecoder):
        model.decoder.keys_dtype = getattr(torch, precision.keys)
    return model
