"""Training: one loop that can be read, stopped at any moment and resumed bit for bit.

An update is: batches from the sampler, their losses and gradients, one step of AdamW. Every so often the model is
validated, and all that the rest of the training depends on is written to a checkpoint. At the end the best snapshots
are averaged and written as a model folder. `mmx train recipe.toml [option=value ...]` runs it; the same command
resumes it.
"""

import ctypes
import dataclasses
import json
import math
import random
import sys
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmx import api, distributed
from mmx.checkpoint import open_checkpoint
from mmx.checkpointing import (
    alone_in,
    average,
    checkpoints,
    latest_checkpoint,
    prune,
    prune_snapshots,
    restore,
    save_checkpoint,
    save_snapshot,
    snapshot_name,
    trained_parameters,
    training_tensors,
    weights,
)
from mmx.errors import InputError, TrainingError, nearest
from mmx.lora import add_lora, merge_lora
from mmx.losses import TokenLosses, balanced_loss, task_weights, token_losses, tokens_by_task
from mmx.manifest import digest_manifest, read_manifest
from mmx.model import Model
from mmx.model_folder import write_model
from mmx.optim import Schedule, freeze, learning_rate, parameter_groups, set_dropout, train_mode
from mmx.progress import Progress, Silence
from mmx.sampling import Sampler
from mmx.starting import Data, start, training_data
from mmx.text_data import IGNORED, Batch


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What is trained, on what, and how.

    Attributes:
        train: manifest of the training data; see `mmx.manifest`.
        valid: manifest of the data that snapshots are chosen by.
        out: folder of the run: tokenizer, checkpoints, snapshots, metrics.jsonl, and at the end `model`.
        language: what is spoken in examples that do not say it, as those of a folder.
        init: model to go on from, whatever `mmx.load` takes; a new one for text when empty.
        family: module in `models/` of a new model.
        config: numbers of a new model, but its `vocab`.
        tokenizer: of a new model: pieces, learned from the training data, or bytes; see `mmx.byte_tokenizer`.
        vocab: size of the vocabulary of pieces; that of bytes follows from the languages.
        updates: steps of the optimizer in all.
        batch_tokens: of a batch, both sides and padding included; what to lower when memory runs out. Speech counts
            by the frames that the decoder is given, 1500 for each window of Whisper's.
        accumulate: batches to an update; several processes share them, see `mmx.distributed`.
        max_tokens: of an example on either side; longer ones are left out.
        lr: peak learning rate.
        warmup: updates until the peak.
        schedule: see `mmx.optim.learning_rate`.
        cooldown: last updates, over which the rate goes to zero.
        betas: of AdamW.
        weight_decay: of AdamW, for matrices.
        clip: largest norm of the gradient.
        smoothing: share of the target that is spread over the vocabulary.
        dropout: in the layers and on the embeddings.
        temperature: of sampling; above 1, small groups are seen more often.
        group_by: fields of an example whose values make the groups that are sampled.
        task_weights: weight of each task in the loss; 1 where absent.
        lowercase: share of the sources shown in lower case.
        unpunctuated: share of the sources shown without final punctuation.
        masks: policy of SpecAugment, see `mmx.augment.POLICIES`; none when empty.
        speeds: that speech is played at by chance, in percent (90, 100, 110).
        noise_snr_db: lowest and highest ratio of speech to the noise that is added to it; none when empty.
        noise: folder of recordings of noise; white noise when empty.
        lora_rank: of the matrices that are trained in place of all else; 0 for none. See `mmx.lora`.
        lora_alpha: scale of their change.
        lora_targets: patterns of the names of layers that get them.
        freeze: patterns of the names of parameters that are not trained.
        bf16: whether to compute in bfloat16 where that is safe (weights and sums stay float32).
        device: see `mmx.load`.
        threads: of the CPU; torch's own choice when 0. The result depends on it in the last bits.
        seed: of weights, order, dropout and augmentation.
        log_every: updates between lines of progress.
        valid_every: updates between validations.
        save_every: updates between checkpoints.
        keep_best: snapshots that are kept and averaged.
        dtype: of the weights in the model folder.
        card: fields of the model's card, as `mmx.card.Card` has them.
    """

    train: str
    valid: str
    out: str
    language: str = ""
    init: str = ""
    family: str = "nllb"
    config: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: Literal["pieces", "bytes"] = "pieces"
    vocab: int = 8000
    updates: int = 10_000
    batch_tokens: int = 4096
    accumulate: int = 1
    max_tokens: int = 128
    lr: float = 1e-3
    warmup: int = 1000
    schedule: Schedule = "inverse_sqrt"
    cooldown: int = 0
    betas: Sequence[float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    smoothing: float = 0.1
    dropout: float = 0.1
    temperature: float = 1.0
    group_by: Sequence[str] = ("origin",)
    task_weights: Mapping[str, float] = field(default_factory=dict)
    lowercase: float = 0.0
    unpunctuated: float = 0.0
    masks: str = ""
    speeds: Sequence[int] = ()
    noise_snr_db: Sequence[float] = ()
    noise: str = ""
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: Sequence[str] = ("decoder.layers.*",)
    freeze: Sequence[str] = ()
    bf16: bool = False
    device: str = "cpu"
    threads: int = 0
    seed: int = 0
    log_every: int = 50
    valid_every: int = 500
    save_every: int = 250
    keep_best: int = 5
    dtype: str = "float32"
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("updates", "batch_tokens", "accumulate", "log_every", "valid_every", "save_every", "keep_best"):
            if getattr(self, name) < 1:
                raise InputError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.schedule not in typing.get_args(Schedule):
            raise InputError(f"expected a schedule among {typing.get_args(Schedule)}, got {self.schedule!r}")
        if self.tokenizer not in ("pieces", "bytes"):
            raise InputError(f"expected a tokenizer of pieces or bytes, got {self.tokenizer!r}")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise InputError(f"expected dtype float32, bfloat16 or float16, got {self.dtype!r}")

    @classmethod
    def from_toml(cls, path: str | Path, **changes: Any) -> "TrainOptions":
        """Read a recipe; `changes` come before what it says. Unknown names are an error."""
        try:
            raw = tomllib.loads(Path(path).read_text("utf-8")) | changes
        except (OSError, ValueError) as e:
            raise InputError(f"expected a recipe in TOML at {path}, got {e}") from e
        known = [f.name for f in dataclasses.fields(cls)]
        for name in raw:
            if name not in known:
                raise InputError(f"expected options of training, got {name!r}.{nearest(name, known)}")
        missing = [n for n in ("train", "valid", "out") if n not in raw]
        if missing:
            raise InputError(f"expected a recipe that says {', '.join(missing)}, got none in {path}")
        return cls(**raw)


CHANGEABLE = frozenset(
    {"train", "valid", "out", "updates", "cooldown", "log_every", "valid_every", "save_every", "keep_best", "threads"}
    | {"dtype", "card", "device"}
)
"""Options that a training may be resumed with other values of; the data are compared by content."""


@dataclass
class Position:
    """Where a training is.

    Attributes:
        update: updates done.
        epoch: number of the pass over the data.
        batch: batches done in it.
        tokens: tokens learned from so far, both sides.
        best: validation loss and file of the best snapshots, best first.
    """

    update: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    best: list[tuple[float, str]] = field(default_factory=list)


def train(options: TrainOptions) -> Path:
    """Train, or go on with, a model.

    Returns:
        The model folder, for `mmx.load`.

    Raises:
        InputError: the options or the data cannot be used, or are not those that this run was begun with.
        OutputError: the run's folder cannot be written.
    """
    _keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    with distributed.join(api.resolve_device(options.device)) as world:
        world.check(options.accumulate)
        with alone_in(Path(options.out)) if world.first else nullcontext(), torch.random.fork_rng():
            return _Run(options, world).finish()


class _Run:
    """A training from its data to its end."""

    def __init__(self, options: TrainOptions, world: distributed.World):
        self.options, self.out, self.world, self.device = options, Path(options.out), world, world.device
        self.folders = {name: self.out / name for name in ("tokenizer", "checkpoints", "best", "model")}
        torch.manual_seed(options.seed)
        for path in (options.train, options.valid):
            read_manifest(path, language=options.language)  # all of it, before the minutes that a tokenizer takes
        with world.first_alone():
            self.start = start(options, self.folders["tokenizer"])
        self.model = self.start.model.to(self.device)
        freeze(self.model, options.freeze)
        if options.lora_rank:
            if world.size > 1:
                raise InputError(f"expected one process for LoRA, got {world.size}: run `mmx train` without torchrun")
            add_lora(self.model, options.lora_rank, options.lora_alpha, options.lora_targets)
        set_dropout(self.model, options.dropout)
        self.losses = _Losses(self.model)
        distributed.shard(self.losses, world, options.bf16)
        self.data, self.valid = (
            training_data(options, path, self.model, keep=world.size == 1) for path in (options.train, options.valid)
        )
        self.sampler = self._sampler(self.data, options.temperature)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, options.weight_decay),
            lr=0.0,
            betas=(options.betas[0], options.betas[1]),
            fused=True,
        )
        self.at = Position()
        self._resume()
        report = Progress if world.first else Silence
        self.progress = report(self.out, options.updates, self.at.update, self.at.tokens)

    def _sampler(self, data: Data, temperature: float) -> Sampler:
        o = self.options
        return Sampler(data.lengths, data.groups, o.batch_tokens, temperature, o.seed)

    def finish(self) -> Path:
        """Make the updates that are left and write the model."""
        o = self.options
        self.progress.say(
            f"{len(self.data.examples)} examples ({self.data.left_out} too long), "
            f"{sum(p.numel() for p in self.model.parameters())} parameters, update {self.at.update} of {o.updates}"
        )
        updates = self._updates()
        while self.at.update < o.updates:
            self._update(*next(updates))
            at, last = self.at.update, self.at.update == o.updates
            if at % o.log_every == 0 or last:
                self.progress.report(self.at.update, self.at.epoch, self.at.tokens)
            if at % o.valid_every == 0 or last:
                self._validate()
            if at % o.save_every == 0 or at % o.valid_every == 0 or last:
                self._save()
        return self._write_model()

    def _updates(self) -> Iterator[tuple[int, int, list[Batch]]]:
        """From where the training is: the epoch and the number of batches done in it after an update, and its batches,
        or this process's part of them.

        The last update of an epoch takes what is left.
        """
        epoch, start = self.at.epoch, self.at.batch
        while True:
            plan = self.sampler.epoch(epoch)
            for begin in range(start, len(plan), self.options.accumulate):
                end = min(begin + self.options.accumulate, len(plan))
                batches = list(self._batches(self.data, plan[begin:end], epoch))
                yield (epoch, end, batches) if end < len(plan) else (epoch + 1, 0, batches)
            epoch, start = epoch + 1, 0

    def _batches(self, data: Data, plan: Sequence[Sequence[int]], epoch: int = 0) -> Iterator[Batch]:
        """This process's batches of a plan; where others have one more, one to learn nothing from, since all take part
        in every step."""
        mine, waits = self.world.share(plan)
        for rows in mine:
            yield data.batch(rows, epoch)
        if waits:
            batch = data.batch(plan[0], epoch)
            yield batch._replace(targets=torch.full_like(batch.targets, IGNORED))

    def _update(self, epoch: int, batch: int, batches: list[Batch]) -> None:
        """One step of the optimizer; several batches give the gradient that one large one would give."""
        o, self.at.update = self.options, self.at.update + 1
        rate = learning_rate(
            self.at.update, peak=o.lr, warmup=o.warmup, total=o.updates, schedule=o.schedule, cooldown=o.cooldown
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        counts = self.world.total(tokens_by_task(batches))
        learned = sum(counts.values())
        with _memory_errors(o.batch_tokens):
            nll = self._backward(batches, task_weights(counts, o.task_weights))
        norm = float(distributed.whole(torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)))
        if not math.isfinite(norm):
            raise TrainingError(
                f"expected a finite gradient in update {self.at.update}, got {norm}: lower lr or lengthen warmup, in a "
                "new out. The last checkpoint is from before"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        read = (s for b in batches if _teaches(b) for s in b.inputs.values() if s.rate is None)  # tokens, not speech
        done = self.world.total({"read": sum(int(s.lengths.sum()) for s in read), "nll": nll})
        self.at.tokens += int(learned + done["read"])
        self.at.epoch, self.at.batch = epoch, batch
        self.progress.learned(done["nll"], learned, rate, norm)

    def _backward(self, batches: Sequence[Batch], token_weights: Mapping[str, float]) -> float:
        """Add up the gradients of the batches; the sum of their tokens' negative log-likelihoods."""
        train_mode(self.model)
        nll = torch.zeros((), device=self.device)
        for turn, batch in enumerate(batches):
            # What is dropped depends on the batch alone, not on which process has it nor on what that did before.
            dice = random.Random(f"{self.options.seed}/{self.at.update}/{self.world.place(turn)}")
            torch.manual_seed(dice.getrandbits(63))
            moved = batch.to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
                losses = self.losses(moved, self.options.smoothing)
                loss = balanced_loss(losses, moved, token_weights)
                if losses.adapters is not None:
                    loss = loss + losses.adapters / len(batches)
            loss.backward()
            nll += losses.nll.sum()
        return float(nll)

    def _validate(self) -> None:
        """Loss on the validation data; the snapshot is kept when it is one of the best."""
        loss = self._loss()
        keep = self.options.keep_best
        self.progress.validated(self.at.update, loss)
        if len(self.at.best) < keep or loss < self.at.best[-1][0]:
            found = weights(trained_parameters(self.model))
            if self.world.first:
                save_snapshot(self.folders["best"], self.at.update, found)
            self.at.best = sorted([*self.at.best, (loss, snapshot_name(self.at.update))])[:keep]

    @torch.no_grad()
    def _loss(self) -> float:
        """Negative log-likelihood of a validation token, in nats, without smoothing or dropout."""
        self.losses.eval()
        total = count = 0.0
        for batch in self._batches(self.valid, self._sampler(self.valid, 1.0).epoch(0)):
            nll = self.losses(batch.to(self.device), 0.0).nll
            total, count = total + float(nll.sum()), count + len(nll)
        distributed.part_again(self.losses)
        done = self.world.total({"nll": total, "tokens": count})
        return done["nll"] / done["tokens"]

    def _save(self) -> None:
        record = {
            **dataclasses.asdict(self.at),
            "options": _comparable(self.options),
            "data": digest_manifest(self.options.train),
        }
        folder, tensors = self.folders["checkpoints"], training_tensors(self.model, self.optimizer)
        if not self.world.first:
            return
        save_checkpoint(folder, self.at.update, tensors, record)
        prune(folder, keep=2)
        prune_snapshots(self.folders["best"], folder)

    def _resume(self) -> None:
        """Go on from the newest sound checkpoint, if there is one."""
        found = latest_checkpoint(self.folders["checkpoints"])
        if found is None:
            if checkpoints(self.folders["checkpoints"]):
                raise InputError(f"expected a sound checkpoint in {self.folders['checkpoints']}, got none: remove it")
            return
        tensors, record = found
        now = _comparable(self.options)
        # An option that mmx did not have when the training was begun had what is now its default.
        before = {**_comparable(TrainOptions(train="", valid="", out="")), **record["options"]}
        changed = sorted(k for k in now if now[k] != before[k])
        if record["data"] != digest_manifest(self.options.train):
            changed.append("the content of train")
        if changed:
            raise InputError(
                f"expected the options that the training in {self.out} was begun with, got others for "
                f"{', '.join(changed)}: restore them, or choose another out"
            )
        restore(self.model, self.optimizer, tensors)
        best = [(float(loss), str(name)) for loss, name in record["best"]]
        self.at = Position(record["update"], record["epoch"], record["batch"], record["tokens"], best)

    def _write_model(self) -> Path:
        """The average of the best snapshots, or the best one where that is better, as a model folder."""
        self.world.wait()  # for the snapshots
        sources = [open_checkpoint(self.folders["best"] / name, "mmx") for _, name in self.at.best]
        candidates = {"average": dict(average(sources)), "best": dict(sources[0])}
        losses = {}
        for name, tensors in candidates.items():
            _fill(self.model, tensors)
            losses[name] = self._loss()
        chosen = min(losses, key=losses.__getitem__)
        self.progress.say(f"validation loss {losses}: {chosen} is written")
        self.progress.close({"update": self.at.update, "final": losses, "chosen": chosen})
        _fill(self.model, candidates[chosen])
        merge_lora(self.model)
        tensors = weights(self.model.named_parameters())
        if self.world.first:
            self._write(tensors)
        self.world.wait()
        return self.folders["model"]

    def _write(self, tensors: Mapping[str, Tensor]) -> None:
        card = {
            "summary": f"trained by mmx to {self.at.update} updates",
            "license": "unknown",
            "commercial": True,
            **self.start.card,
            "name": self.out.resolve().name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
        }
        write_model(
            self.folders["model"],
            tensors.items(),
            family=self.start.family,
            config=self.start.config,
            card={**card, **self.options.card},
            tokenizer=self.folders["tokenizer"],
            dtype=getattr(torch, self.options.dtype),
        )


class _Losses(torch.nn.Module):
    """Losses of a batch as one forward pass, which is what sharded weights are gathered for."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, smoothing: float) -> TokenLosses:
        return token_losses(self.model, batch, smoothing)


def _teaches(batch: Batch) -> bool:
    return bool((batch.targets != IGNORED).any())


@torch.no_grad()
def _fill(model: Model, tensors: Mapping[str, Tensor]) -> None:
    """Give parameters these values; frozen ones are not among them."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        parameters[name].copy_(distributed.part_of(value, parameters[name]))


@contextmanager
def _memory_errors(batch_tokens: int) -> Iterator[None]:
    """Say what to do when a batch does not fit. A GPU's error has a type of its own, a CPU's only a message."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as e:
        if isinstance(e, torch.OutOfMemoryError) or "allocate memory" in str(e):
            raise TrainingError(
                f"expected batches of {batch_tokens} tokens to fit into memory, got too little of it: lower "
                "batch_tokens and raise accumulate in proportion"
            ) from e
        raise


def _comparable(options: TrainOptions) -> dict[str, Any]:
    """The options that may not change, as JSON gives them back."""
    fields = {k: v for k, v in dataclasses.asdict(options).items() if k not in CHANGEABLE}
    return json.loads(json.dumps(fields))


def _keep_freed_memory() -> None:
    """Tell the C library to keep freed memory. By default glibc gives large blocks back to the system.

    A training allocates the same large blocks in every update, and each comes back as pages that must be cleared anew:
    half of the time of a small model on a CPU.
    """
    trim_threshold, mmap_max = -1, -4  # mallopt's names for them, M_TRIM_THRESHOLD and M_MMAP_MAX
    with suppress(OSError, AttributeError, TypeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


if __name__ == "__main__":
    from mmx.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
