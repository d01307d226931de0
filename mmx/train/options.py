"""The options of a training: what they are, what they may be, and what is said of those that cannot be.

They stand in one table, `TrainOptions`, of which the checks, `mmx train --help` and the guide are made.
"""

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_type_hints

from mmx.checked import describe, fits
from mmx.errors import InputError, nearest
from mmx.options import Option, check, default_of, given, options_of, wanted
from mmx.train.manifest import Example
from mmx.weights.card import Card

Schedule = Literal["inverse_sqrt", "cosine"]
GROUPS = (*(f.name for f in dataclasses.fields(Example) if f.type is str), "audio")
"""What examples can be grouped by."""
NOT_GIVEN = ("family", "config", "weights", "parameters", "streaming", "results")
"""Fields of a card that follow from the model, or are measured of it."""


@dataclass(frozen=True)
class RecipeOption(Option):
    """What is known of an option of a recipe besides.

    Attributes:
        acts: where it has an effect: on a "new" model, on "text", on "speech", or beside the option of this name.
        changeable: whether a training may be resumed with another value. The data are compared by content.
    """

    acts: str = ""
    changeable: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is trained, on what, and how. `mmx train --help` lists what each option means; `reference` gives it.

    Relative paths start from the current folder, in a recipe too.

    Raises:
        InputError: naming every option whose value cannot be, or that would have no effect.
    """

    train: Annotated[
        str,
        RecipeOption(
            "manifest of the training data, see `mmx data check --help`",
            also=("train_data", "train_file", "train_manifest", "data", "dataset", "training"),
            changeable=True,
        ),
    ]
    valid: Annotated[
        str,
        RecipeOption(
            "manifest of the data that snapshots are chosen by",
            also=("dev", "eval", "validation", "valid_data", "eval_data", "validation_file", "test"),
            changeable=True,
        ),
    ]
    out: Annotated[
        str,
        RecipeOption(
            "folder of the run: tokenizer, checkpoints, snapshots, metrics.jsonl, and at the end `model`",
            also=("output", "output_dir", "out_dir", "save_dir", "exp_dir"),
            changeable=True,
        ),
    ]
    language: Annotated[
        str, RecipeOption("language of the speech in examples that do not give it, as those of a folder")
    ] = ""
    init: Annotated[
        str,
        RecipeOption(
            "model to start from: a name, or the path of a folder; a new one for text when empty",
            also=("model", "base_model", "pretrained", "model_name_or_path", "checkpoint", "finetune_from"),
        ),
    ] = ""
    init_encoders: Annotated[
        Mapping[str, str],
        RecipeOption(
            "by modality of a new model, the model whose front end and encoder it begins with",
            acts="new",
            also=("encoders", "pretrained_encoders", "init_encoder"),
        ),
    ] = field(default_factory=dict)
    family: Annotated[str, RecipeOption("family of a new model", acts="new", also=("arch", "architecture"))] = "nllb"
    config: Annotated[Mapping[str, Any], RecipeOption("numbers of a new model, but its vocab", acts="new")] = field(
        default_factory=dict
    )
    tokenizer: Annotated[
        Literal["pieces", "bytes", "characters"],
        RecipeOption("of a new model: pieces, learned from the training data, bytes, or its characters", acts="new"),
    ] = "pieces"
    vocab: Annotated[
        int,
        RecipeOption(
            "size of a new vocabulary of pieces; that of bytes follows from the languages",
            least=1,
            acts="new",
            also=("vocab_size", "vocabulary"),
        ),
    ] = 8000
    updates: Annotated[
        int,
        RecipeOption(
            "steps of the optimizer in all",
            least=1,
            also=("steps", "max_steps", "max_updates", "train_steps", "iterations", "epochs", "num_train_epochs"),
            changeable=True,
        ),
    ] = 10_000
    batch_tokens: Annotated[
        int,
        RecipeOption(
            "size of a batch, both sides and padding included; speech counts by the frames that the decoder is given, "
            "1500 for each window of Whisper's. What to lower when memory runs out",
            least=1,
            also=("batch_size", "per_device_train_batch_size", "max_batch_tokens", "tokens_per_batch"),
        ),
    ] = 4096
    accumulate: Annotated[
        int,
        RecipeOption(
            "batches to an update; several processes share them",
            least=1,
            also=("gradient_accumulation_steps", "grad_accum", "update_freq", "accum_grad"),
        ),
    ] = 1
    max_tokens: Annotated[
        int,
        RecipeOption(
            "of an example on either side; longer ones are left out",
            least=1,
            also=("max_length", "max_seq_length", "max_target_length"),
        ),
    ] = 128
    lr: Annotated[
        float,
        RecipeOption("peak learning rate", above=0, also=("learning_rate", "rate", "max_lr", "peak_lr", "base_lr")),
    ] = 1e-3
    warmup: Annotated[
        int,
        RecipeOption("updates until the peak", least=0, also=("warmup_steps", "warmup_updates", "warmup_ratio")),
    ] = 1000
    schedule: Annotated[
        Schedule,
        RecipeOption("of the learning rate after the peak", also=("lr_scheduler", "scheduler", "lr_scheduler_type")),
    ] = "inverse_sqrt"
    cooldown: Annotated[
        int,
        RecipeOption("last updates, over which the rate goes to zero", least=0, also=("decay_steps",), changeable=True),
    ] = 0
    betas: Annotated[Sequence[float], RecipeOption("of AdamW", least=0, below=1, sizes=(2,), also=("adam_betas",))] = (
        0.9,
        0.98,
    )
    weight_decay: Annotated[float, RecipeOption("of AdamW, for matrices", least=0, also=("wd", "l2"))] = 0.01
    clip: Annotated[
        float,
        RecipeOption(
            "largest norm of the gradient; a large number for no limit",
            above=0,
            also=("max_grad_norm", "clip_norm", "grad_clip", "gradient_clipping", "clip_grad"),
        ),
    ] = 1.0
    objective: Annotated[
        str,
        RecipeOption(
            "what is minimized: token, ctc, framewise, mixup, contrastive, visual_language, cico, flow, infill, "
            "acoustic, spectral, adversarial or distillation, or a family's own by its dotted name",
            also=("loss", "criterion", "loss_type"),
        ),
    ] = "token"
    objective_config: Annotated[
        Mapping[str, Any],
        RecipeOption("arguments of an objective other than token, such as the teacher's name of distillation"),
    ] = field(default_factory=dict)
    smoothing: Annotated[
        float,
        RecipeOption(
            "share of the target that is spread over the vocabulary",
            least=0,
            below=1,
            also=("label_smoothing", "label_smoothing_factor"),
        ),
    ] = 0.1
    quantity_weight: Annotated[
        float,
        RecipeOption(
            "of the quantity loss of an adapter of the kind cif, a mean over the examples, beside the text's, a mean "
            "over the tokens",
            least=0,
            also=("cif_weight", "quantity_loss", "adapter_weight"),
        ),
    ] = 1.0
    dropout: Annotated[float, RecipeOption("in the layers and on the embeddings", least=0, below=1)] = 0.1
    temperature: Annotated[
        float,
        RecipeOption("of sampling; above 1, small groups are seen more often", above=0, also=("sampling_temperature",)),
    ] = 1.0
    group_by: Annotated[
        Sequence[str], RecipeOption(f"fields whose values make the groups that are sampled: {', '.join(GROUPS)}")
    ] = ("origin",)
    task_weights: Annotated[
        Mapping[str, float],
        RecipeOption("weight of each task in the loss; 1 where absent", above=0, also=("loss_weights",)),
    ] = field(default_factory=dict)
    lowercase: Annotated[
        float, RecipeOption("share of the sources shown in lower case", least=0, most=1, acts="text")
    ] = 0.0
    unpunctuated: Annotated[
        float, RecipeOption("share of the sources shown without final punctuation", least=0, most=1, acts="text")
    ] = 0.0
    masks: Annotated[
        str,
        RecipeOption(
            "SpecAugment's policy by the paper's name: LB, LD, SM or SS; none when empty",
            acts="speech",
            also=("specaugment", "spec_augment", "apply_spec_augment"),
        ),
    ] = ""
    speeds: Annotated[
        Sequence[int],
        RecipeOption(
            "that speech is played at by chance, in percent, as in [90, 100, 110]",
            least=1,
            acts="speech",
            also=("speed_perturb", "speed_perturbation"),
        ),
    ] = ()
    noise_snr_db: Annotated[
        Sequence[float],
        RecipeOption(
            "lowest and highest ratio of speech to the noise that is added to it; none when empty",
            sizes=(0, 2),
            acts="speech",
            also=("snr",),
        ),
    ] = ()
    noise: Annotated[
        str,
        RecipeOption("folder of recordings of noise; white noise when empty", acts="noise_snr_db", also=("noise_dir",)),
    ] = ""
    noise_share: Annotated[
        float, RecipeOption("of the examples that get noise", least=0, most=1, acts="noise_snr_db")
    ] = 1.0
    time_masks: Annotated[
        float,
        RecipeOption(
            "longest stretch, in seconds, that is hidden of each second of video, pose and features; 0.4 is usual",
            least=0,
            acts="speech",
            also=("time_mask", "mask_time"),
        ),
    ] = 0.0
    lora_rank: Annotated[
        int,
        RecipeOption(
            "of the matrices that are trained in place of all else; 0 for none",
            least=0,
            also=("lora_r", "rank", "lora"),
        ),
    ] = 0
    lora_alpha: Annotated[float, RecipeOption("scale of their change", above=0, acts="lora_rank")] = 16.0
    lora_targets: Annotated[
        Sequence[str],
        RecipeOption("patterns of the names of layers that get them", acts="lora_rank", also=("target_modules",)),
    ] = ("decoder.layers.*",)
    freeze: Annotated[
        Sequence[str],
        RecipeOption(
            "patterns of the names of parameters that are not trained; not beside lora_rank, which freezes all else",
            also=("frozen", "freeze_layers", "freeze_encoder"),
        ),
    ] = ()
    bf16: Annotated[
        bool,
        RecipeOption(
            "compute in bfloat16 where that is safe; weights and sums stay float32", also=("fp16", "amp", "precision")
        ),
    ] = False
    device: Annotated[str, RecipeOption("auto, cpu, cuda or mps", changeable=True)] = "cpu"
    keep_gb: Annotated[
        float,
        RecipeOption(
            "gigabytes of decoded recordings that are kept in memory; decoding small pictures may take longer than "
            "learning them",
            least=0,
            acts="speech",
            changeable=True,
        ),
    ] = 0.0
    threads: Annotated[
        int,
        RecipeOption(
            "of the CPU; torch's own choice when 0. The result depends on it in the last bits",
            least=0,
            also=("num_threads",),
            changeable=True,
        ),
    ] = 0
    seed: Annotated[
        int, RecipeOption("of weights, order, dropout and augmentation", least=0, most=2**63 - 1, also=("random_seed",))
    ] = 0
    log_every: Annotated[
        int,
        RecipeOption(
            "updates between lines of progress", least=1, also=("logging_steps", "log_interval"), changeable=True
        ),
    ] = 50
    valid_every: Annotated[
        int,
        RecipeOption(
            "updates between validations", least=1, also=("eval_steps", "eval_every", "val_interval"), changeable=True
        ),
    ] = 500
    save_every: Annotated[
        int,
        RecipeOption("updates between checkpoints", least=1, also=("save_steps", "checkpoint_every"), changeable=True),
    ] = 250
    keep_best: Annotated[
        int,
        RecipeOption(
            "snapshots that are kept and averaged", least=1, also=("save_total_limit", "average"), changeable=True
        ),
    ] = 5
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        RecipeOption("of the weights in the model folder", also=("save_dtype", "torch_dtype"), changeable=True),
    ] = "float32"
    card: Annotated[
        Mapping[str, Any],
        RecipeOption("fields of the model's card: name, summary, license, commercial, languages ...", changeable=True),
    ] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self)
        if flaws := [*_card_flaws(self.card), *_choice_flaws(self), *without_effect(self)]:
            raise InputError("; ".join(flaws))

    @classmethod
    def from_toml(cls, path: str | Path, **changes: Any) -> "TrainOptions":
        """Read a recipe; `changes` come before what it says.

        Raises:
            InputError: there is no such recipe, or it has unknown options or values that cannot be.
        """
        try:
            raw = tomllib.loads(Path(path).read_text("utf-8")) | changes
        except (OSError, ValueError) as e:
            raise InputError(f"expected a recipe in TOML at {path}, got {e}") from e
        unknown = [f"{name!r}.{_meant(name)}" for name in raw if name not in OPTIONS]
        if unknown:
            raise InputError(f"expected options of training, got {' and '.join(unknown)} `mmx train --help` lists them")
        missing = [n for n in ("train", "valid", "out") if not raw.get(n)]
        if missing:
            raise InputError(f"expected a recipe that says {', '.join(missing)}, got none in {path}")
        options = cls(**raw)
        _require_found(options, Path(path).parent)
        return options


OPTIONS = cast(Mapping[str, RecipeOption], options_of(TrainOptions))
"""All options, in their order."""
CHANGEABLE = frozenset(name for name, option in OPTIONS.items() if option.changeable)
"""Options that a training may be resumed with other values of."""


def reference() -> list[tuple[str, str, str, str]]:
    """Name, values, default and meaning of every option, in their order: for `--help` and for the guide."""
    rows = []
    for name, option in OPTIONS.items():
        default = default_of(TrainOptions, name)
        shown = "required" if default is dataclasses.MISSING else "none" if default in ("", (), {}) else _toml(default)
        rows.append((name, wanted(TrainOptions, name), shown, option.help))
    return rows


def without_effect(options: TrainOptions, spoken: bool | None = None) -> list[str]:
    """What is said of the options that are given (other than by default) and can have no effect.

    Args:
        options: of a training.
        spoken: whether its data are speech; None where that is not known yet.
    """
    flaws = [f"expected {name} {reason}" for name in given(options) if (reason := _no_effect(name, options, spoken))]
    return [f"{flaw}: remove one of them" if " beside " in flaw else f"{flaw}: remove it" for flaw in flaws]


def has_effect(name: str, options: TrainOptions, spoken: bool) -> bool:
    """Whether an option can have an effect in this training."""
    return not _no_effect(name, options, spoken)


def _no_effect(name: str, options: TrainOptions, spoken: bool | None) -> str:
    """Why an option cannot act, in words; empty where it can."""
    where = OPTIONS[name].acts
    if where == "new" and options.init:
        return "for a new model only, got it beside init, which names a model that has its own"
    if name == "vocab" and options.tokenizer in ("bytes", "characters"):
        return "for pieces only, got it beside tokenizer = bytes, whose vocabulary follows from the languages"
    if name in ("smoothing", "task_weights", "quantity_weight") and options.objective != "token":
        return f"for the objective token only, got it beside objective = {options.objective}"
    if name == "objective_config" and options.objective == "token":
        return "for other objectives than token, got it with token, which has options of its own"
    if name == "freeze" and options.lora_rank:
        return "without lora_rank, got it beside lora_rank, which freezes all but its own matrices"
    if where in ("text", "speech"):
        odd = spoken is not None and spoken != (where == "speech")
        return (
            f"for {where} only, got it with data of {'speech' if spoken else 'text'}, which it cannot change"
            if odd
            else ""
        )
    if where in OPTIONS and not getattr(options, where):
        return f"with {where} only, got it without, so that it has no effect"
    return ""


def _choice_flaws(options: TrainOptions) -> list[str]:
    """What is wrong with names among which there is a choice, and with numbers that belong together."""
    flaws = [
        f"expected group_by of {', '.join(GROUPS)}, got {name!r}.{nearest(name, GROUPS)}"
        for name in options.group_by
        if name not in GROUPS
    ]
    if options.noise_snr_db and options.noise_snr_db[0] > options.noise_snr_db[1]:
        flaws.append(f"expected noise_snr_db = the lowest ratio, then the highest, got {list(options.noise_snr_db)}")
    if options.masks:
        from mmx.train.augment import POLICIES

        if options.masks not in POLICIES:
            known = list(POLICIES)
            flaws.append(
                f"expected masks among {', '.join(known)}, got {options.masks!r}.{nearest(options.masks, known)}"
            )
    if "vocab" in options.config:
        flaws.append("expected config without vocab, got one: it is an option of its own")
    return flaws


def _require_found(options: TrainOptions, folder: Path) -> None:
    """Raise `InputError` for a path that is not there from the current folder, but is from the recipe's."""
    for name in ("train", "valid", "noise", "init"):
        path = Path(getattr(options, name))
        if path.parts and not path.exists() and (folder / path).exists():
            raise InputError(
                f"expected {name} = {str(path)!r} from the current folder, {Path.cwd()}, where relative paths start, "
                f"got none there: write {str(folder / path)!r}, or start in {folder}"
            )


def _card_flaws(card: Mapping[str, Any]) -> list[str]:
    """What is wrong with the fields of a card, which is written and read when the training is done."""
    kinds = {n: t for n, t in get_type_hints(Card).items() if n not in NOT_GIVEN}
    flaws = []
    for name, value in card.items():
        if name in NOT_GIVEN:
            flaws.append(f"expected card without {name}, which comes of the model itself, got {value!r}: remove it")
        elif name not in kinds:
            flaws.append(
                f"expected fields of a card ({', '.join(kinds)}) in card, got {name!r}.{nearest(name, list(kinds))}"
            )
        elif not fits(value, kinds[name]):
            flaws.append(f"expected card.{name} = {describe(kinds[name])}, got {value!r}")
    return flaws


def _meant(name: str) -> str:
    """A hint at the option that a name may stand for, by its spelling or by what other programs call it."""
    names = {other.replace("_", ""): own for own, option in OPTIONS.items() for other in (own, *option.also)}
    found = difflib.get_close_matches(name.lower().replace("-", "").replace("_", ""), names, n=1, cutoff=0.6)
    return f" Did you mean {names[found[0]]!r}?" if found else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value
    return str(list(value)) if isinstance(value, Sequence) else f"{value:g}" if isinstance(value, float) else str(value)
