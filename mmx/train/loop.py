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
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmx import api
from mmx.errors import InputError, MmxError, OutputError, TrainingError
from mmx.files import try_folder
from mmx.interfaces import Objective
from mmx.model import Model, tensors
from mmx.nn.lora import add_lora, merge_lora
from mmx.train import distributed
from mmx.train.batch import Batch
from mmx.train.checkpoints import (
    average,
    checkpoints,
    latest_checkpoint,
    locked,
    prune,
    prune_snapshots,
    restore,
    save_checkpoint,
    save_snapshot,
    snapshot_name,
    training_tensors,
    weights,
)
from mmx.train.data import Data, EncodedData, encodes_frozen
from mmx.train.manifest import digest_manifest
from mmx.train.optim import freeze, learning_rate, parameter_groups, set_dropout, train_mode, trained_tensors
from mmx.train.options import CHANGEABLE, TrainOptions, has_effect
from mmx.train.progress import Means, NoProgress, Progress
from mmx.train.sampling import Sampler
from mmx.train.setup import check_data, objective, start, training_data
from mmx.train.stopping import StopSignals
from mmx.weights.folder import write_model
from mmx.weights.formats import open_checkpoint

_READ, _STOP = "tokens that were read", "somebody asks to stop"
"""Names under which processes tell each other of an update, beside the objective's figures."""


@dataclass
class Position:
    """Where a training is.

    Attributes:
        update: updates done.
        epoch: number of the pass over the data.
        batch: batches done in it.
        tokens: learned from so far, both sides; rows where the objective counts rows.
        best: validation loss and file of the best snapshots, best first.
    """

    update: int = 0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0
    best: list[tuple[float, str]] = field(default_factory=list)
    validated: int = 0


def train(options: TrainOptions) -> Path:
    """Train, or go on with, a model.

    Ctrl-C and SIGTERM stop it after the update that it is at, with a checkpoint.

    Returns:
        The model folder, for `mmx.load`.

    Raises:
        InputError: the options or the data cannot be used, or are not those that this run was begun with.
        OutputError: the run's folder cannot be written.
        KeyboardInterrupt: it was stopped; the same call goes on.
    """
    device = _device(options)
    _keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    with distributed.join(device) as world:
        world.check(options.accumulate)
        if world.first:
            _require_out(Path(options.out))
        with (
            locked(Path(options.out)) if world.first else nullcontext(),
            torch.random.fork_rng(),
            StopSignals() as stop,
        ):
            return _Run(options, world).finish(stop)


def _device(options: TrainOptions) -> torch.device:
    try:
        return api.resolve_device(options.device)
    except InputError as e:
        raise InputError(f"the option device: {e}") from e


def _require_out(out: Path) -> None:
    try:
        try_folder(out)
    except OutputError as e:
        raise OutputError(f"expected an out that can be written, got {out}: {e}") from e


class _Run:
    """A training from its data to its end."""

    def __init__(self, options: TrainOptions, world: distributed.World):
        self.options, self.out, self.world, self.device = options, Path(options.out), world, world.device
        self.folders = {name: self.out / name for name in ("tokenizer", "checkpoints", "best", "model")}
        torch.manual_seed(options.seed)
        self.spoken = check_data(options)  # all of it, before the minutes that a tokenizer takes
        self.digests = {"data": digest_manifest(options.train), "valid": digest_manifest(options.valid)}
        with world.rank_zero_first():
            self.start = start(options, self.folders["tokenizer"])
        self.model = self.start.model.to(self.device)
        self.objective = objective(options, self.model)
        freeze(self.model, options.freeze)
        if options.lora_rank:
            if world.size > 1:
                raise InputError(f"expected one process for LoRA, got {world.size}: run `mmx train` without torchrun")
            add_lora(self.model, options.lora_rank, options.lora_alpha, options.lora_targets)
        set_dropout(self.model, options.dropout)
        self.losses = _Losses(self.model, self.objective)
        hears = (self.model.front, self.model.encoders) if encodes_frozen(self.model) else ()
        distributed.shard(self.losses, world, options.bf16, [p for part in hears for p in part.parameters()])
        needs = self.objective.needs(self.model)
        self.data, self.valid = (training_data(options, p, self.model, needs) for p in (options.train, options.valid))
        self.sampler = self._sampler(self.data, options.temperature)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, options.weight_decay),
            lr=0.0,
            betas=(options.betas[0], options.betas[1]),
            fused=True,
        )
        self.at, self.stopping = Position(), False
        report, found = Progress if world.first else NoProgress, self._checkpoint()
        at = Position() if found is None else _position(found[1])
        self.progress = report(self.out, options.updates, at.update, at.tokens, self.objective.perplexity)
        if found is not None:
            self._resume(*found)

    def _sampler(self, data: Data | EncodedData, temperature: float) -> Sampler:
        o = self.options
        return Sampler(data.lengths, data.groups, o.batch_tokens, temperature, o.seed)

    def finish(self, stop: StopSignals | None = None) -> Path:
        """Make the updates that are left and write the model.

        Args:
            stop: what asks to stop before the end.
        """
        o, stop = self.options, stop or StopSignals()
        self.progress.say(
            f"{len(self.data.examples)} examples ({self.data.left_out} too long), "
            f"{sum(p.numel() for p in self.model.parameters())} parameters, update {self.at.update} of {o.updates}"
        )
        if o.warmup > o.updates:
            self.progress.say(
                f"the rate rises over warmup = {o.warmup} updates: at the end, after {o.updates}, it is "
                f"{o.lr * o.updates / o.warmup:.2e} and not lr = {o.lr:.2e}. A tenth of updates is a usual warmup"
            )
        if self._is_due(o.valid_every) and self.at.validated < self.at.update:  # it failed when the update was made
            self._validate()
            self._save()
        updates = self._updates()
        while self.at.update < o.updates:
            self._update(*next(updates), stop)
            if self._is_due(o.log_every):
                self.progress.report(self.at.update, self.at.epoch, self.at.tokens)
            if self._is_due(o.valid_every):
                self._validate()
            if self._is_due(o.valid_every) or self._is_due(o.save_every) or self.stopping:
                self._save()
            if self.stopping:
                self.progress.say(
                    f"stopped after update {self.at.update} of {o.updates}, with a checkpoint in "
                    f"{self.folders['checkpoints']}: the same command resumes"
                )
                stop.leave()
        return self._write_model()

    def _is_due(self, every: int) -> bool:
        """Whether what comes every so many updates, and after the last, comes after this one."""
        return self.at.update > 0 and (self.at.update % every == 0 or self.at.update == self.options.updates)

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

    def _batches(self, data: Data | EncodedData, plan: Sequence[Sequence[int]], epoch: int = 0) -> Iterator[Batch]:
        """This process's batches of a plan; where others have one more, one to learn nothing from, since all take part
        in every step."""
        mine, waits = self.world.share(plan)
        for rows in mine:
            yield data.batch(rows, epoch)
        if waits:
            yield data.batch(plan[0], epoch).waiting()

    def _update(self, epoch: int, batch: int, batches: list[Batch], stop: StopSignals) -> None:
        """One step of the optimizer; several batches give the gradient that one large one would give."""
        o, self.at.update = self.options, self.at.update + 1
        rate = learning_rate(
            self.at.update, peak=o.lr, warmup=o.warmup, total=o.updates, schedule=o.schedule, cooldown=o.cooldown
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        counts = self._counts(batches)
        with _memory_errors(o.batch_tokens):
            sums = self._backward(batches, self.objective.weights(counts))
        norm = float(distributed.full_tensor(torch.nn.utils.clip_grad_norm_(self.model.parameters(), o.clip)))
        if not math.isfinite(norm):
            raise TrainingError(
                f"expected a finite gradient in update {self.at.update}, got {norm}: lower lr or lengthen warmup, in a "
                "new out. The last checkpoint is from before"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.world.size > 1:
            changed = trained_tensors(self.model).values()
            distributed.agree(t for t in changed if not isinstance(t, torch.nn.Parameter))
        read = (s for b in batches if not b.waits for s in b.inputs.values() if s.rate is None)  # tokens, not frames
        done = self.world.total({**sums, _READ: sum(int(s.lengths.sum()) for s in read), _STOP: bool(stop.asked)})
        means = Means({name: done[name] for name in sums}, {name: counts.get(name, 0) for name in sums})
        self.at.tokens += int(means.counted + done[_READ])
        self.stopping = bool(done[_STOP])  # of any process: all of them write the checkpoint
        self.at.epoch, self.at.batch = epoch, batch
        self.progress.learned(means, rate, norm)

    def _counts(self, batches: Sequence[Batch]) -> dict[str, int]:
        """What the objective counts in an update, of all processes."""
        return self.world.total(sum((Counter(self.objective.count(b)) for b in batches if not b.waits), Counter()))

    def _backward(self, batches: Sequence[Batch], weights: Mapping[str, float]) -> dict[str, float]:
        """Add up the gradients of the batches; the sums of what the objective reports."""
        train_mode(self.model)
        sums: dict[str, Tensor] = {}
        for turn, batch in enumerate(batches):
            self._seed(self.at.update, turn)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
                loss, figures = self.losses(batch.to(self.device), {} if batch.waits else weights)
            loss.backward()
            for name, value in figures.items():
                sums[name] = sums.get(name, torch.zeros((), device=self.device)) + (0 if batch.waits else value)
        return {name: float(value) for name, value in sums.items()}

    def _seed(self, when: int | str, turn: int) -> None:
        """What is dropped or drawn depends on the batch alone, not on which process has it nor on what that did."""
        torch.manual_seed(random.Random(f"{self.options.seed}/{when}/{self.world.place(turn)}").getrandbits(63))

    def _validate(self) -> None:
        """Loss on the validation data; the snapshot is kept when it is one of the best."""
        try:
            loss = self._loss()
        except MmxError:
            if self.world.size == 1:  # others would have to take part
                self._save()  # the updates are worth keeping; the validation is made when the training goes on
            raise
        keep, self.at.validated = self.options.keep_best, self.at.update
        self.progress.validated(self.at.update, loss)
        if len(self.at.best) < keep or loss < self.at.best[-1][0]:
            found = weights(trained_tensors(self.model))
            if self.world.first:
                save_snapshot(self.folders["best"], self.at.update, found)
            self.at.best = sorted([*self.at.best, (loss, snapshot_name(self.at.update))])[:keep]

    @torch.no_grad()
    def _loss(self) -> float:
        """What the objective reports of the validation data, without dropout: its mean, of tokens in nats."""
        self.losses.eval()
        total = count = 0.0
        for turn, batch in enumerate(self._batches(self.valid, self._sampler(self.valid, 1.0).epoch(0))):
            self._seed("valid", turn)
            _, figures = self.losses(batch.to(self.device), {})
            if not batch.waits:
                name, value = next(iter(figures.items()))
                total, count = total + float(value), count + self.objective.count(batch)[name]
        distributed.reshard(self.losses)
        done = self.world.total({"loss": total, "count": count})
        return done["loss"] / done["count"]

    def _save(self) -> None:
        record = {**dataclasses.asdict(self.at), "options": _comparable(self.options), **self.digests}
        folder, tensors = self.folders["checkpoints"], training_tensors(self.model, self.optimizer)
        if not self.world.first:
            return
        save_checkpoint(folder, self.at.update, tensors, record)
        prune(folder, keep=2)
        prune_snapshots(self.folders["best"], folder)

    def _checkpoint(self) -> tuple[Mapping[str, Tensor], dict[str, Any]] | None:
        """The newest sound checkpoint, if there is one."""
        found = latest_checkpoint(self.folders["checkpoints"])
        if found is None and checkpoints(self.folders["checkpoints"]):
            raise InputError(f"expected a valid checkpoint in {self.folders['checkpoints']}, got none: remove it")
        return found

    def _resume(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        now = _comparable(self.options)
        # An option that mmx did not have when the training was begun had what is now its default.
        before = {**_comparable(TrainOptions(train="", valid="", out="")), **record["options"]}
        changed = sorted(k for k in now if now[k] != before[k] and has_effect(k, self.options, self.spoken))
        if record["data"] != self.digests["data"]:
            changed.append("the content of train")
        if changed:
            raise InputError(
                f"expected the options that the training in {self.out} was begun with, got others for "
                f"{', '.join(changed)}: restore them, or choose another out"
            )
        self.at = _position(record)
        self.at.best = self.at.best[: self.options.keep_best]  # it may be lower than before
        if record.get("valid", self.digests["valid"]) != self.digests["valid"]:
            self._validate_again()
        restore(self.model, self.optimizer, tensors)

    def _validate_again(self) -> None:
        """Judge the kept snapshots by the validation data of now: losses on two sets cannot be compared."""
        self.progress.say(f"valid is another than before: its {len(self.at.best)} best snapshots are validated again")
        losses = []
        for _, name in self.at.best:
            _fill(self.model, open_checkpoint(self.folders["best"] / name, "mmx"))
            losses.append((self._loss(), name))
        self.at.best = sorted(losses)

    def _write_model(self) -> Path:
        """The average of the best snapshots, or the best one where that is better, as a model folder."""
        self.world.wait()  # for the snapshots
        sources = [open_checkpoint(self.folders["best"] / name, "mmx") for _, name in self.at.best]
        newest = max(range(len(sources)), key=lambda i: self.at.best[i][1])
        candidates = {"average": dict(average(sources, newest)), "best": dict(sources[0])}
        losses = {}
        for name, values in candidates.items():
            _fill(self.model, values)
            losses[name] = self._loss()
        chosen = min(losses, key=losses.__getitem__)
        self.progress.say(f"validation loss {losses}: {chosen} is written")
        self.progress.close({"update": self.at.update, "final": losses, "chosen": chosen})
        _fill(self.model, candidates[chosen])
        merge_lora(self.model)
        whole = weights(tensors(self.model))
        if self.world.first:
            self._write(whole)
        self.world.wait()
        return self.folders["model"]

    def _write(self, values: Mapping[str, Tensor]) -> None:
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
            values.items(),
            family=self.start.family,
            config=self.start.config,
            card={**card, **self.options.card},
            tokenizer=self.folders["tokenizer"] if self.folders["tokenizer"].is_dir() else None,
            dtype=getattr(torch, self.options.dtype),
        )


class _Losses(torch.nn.Module):
    """Losses of a batch as one forward pass, which is what sharded weights are gathered for."""

    def __init__(self, model: Model, objective: Objective[Batch]):
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, weights: Mapping[str, float]) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses, and the figures."""
        found = self.objective(self.model, batch)
        losses = [value * weights.get(name, 0.0) for name, value in found.total.items()]
        return sum(losses[1:], losses[0]), dict(found.figures)


@torch.no_grad()
def _fill(model: Model, values: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers these values; what is frozen is not among them."""
    places = tensors(model)
    for name, value in values.items():
        places[name].copy_(distributed.shard_like(value, places[name]))


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


def _position(record: Mapping[str, Any]) -> Position:
    """Where a checkpoint was written, from its record."""
    best = [(float(loss), str(name)) for loss, name in record["best"]]
    validated = record.get("validated", record["update"])
    return Position(record["update"], record["epoch"], record["batch"], record["tokens"], best, validated)


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
