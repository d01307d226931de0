"""Checkpoints of a running training: whole or not there, whatever happens while they are written.

A checkpoint is a folder `step-<update>` with `state.safetensors` (weights and optimizer) and
`state.json` (where the training is, and the digest of the former). It is written under another name, flushed to the
disk and renamed; the ones before are removed only after that.
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmx.errors import CheckpointError, InputError, MmxWarning, OutputError
from mmx.files import flush
from mmx.model import Model
from mmx.train.distributed import full_tensor, shard_like
from mmx.train.optim import trained_tensors
from mmx.weights.formats import LazyTensors, open_checkpoint, write_safetensors
from mmx.weights.hub import digest

_PART = ".part-"


def save_checkpoint(folder: Path, update: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
    """Write the checkpoint of an update into `folder`.

    Args:
        folder: of all checkpoints of this training.
        update: names the checkpoint.
        tensors: by name.
        record: anything else, as JSON.

    Raises:
        OutputError: it cannot be written; those that were there still are.
    """
    final = folder / f"step-{update:08d}"
    part = folder / f"{_PART}{final.name}"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write_safetensors(part / "state.safetensors", tensors.items())
        seal = {**record, "update": update, "sha256": digest(part / "state.safetensors")}
        (part / "state.json").write_text(json.dumps(seal, indent=1), "utf-8")
        for file in (part / "state.safetensors", part / "state.json", part):
            flush(file)
        if final.exists():
            shutil.rmtree(final)  # from before a resume, and not sound, else it would have been resumed from
        part.rename(final)
        flush(folder)
    except OSError as e:
        shutil.rmtree(part, ignore_errors=True)
        raise OutputError(
            f"expected to write a checkpoint into {folder}, got {e.strerror or e}: the last good one is kept. "
            "Free some space, or move the folder to a larger disk, and start again with the same command"
        ) from e
    return final


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, so that a command given twice does not train twice into it. A killed process lets go.

    Raises:
        InputError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            import fcntl
        except ImportError:  # Windows: two trainings into one folder are the user's to avoid
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise InputError(
                f"expected no other training in {folder}, got one that is running: wait for it, or choose another out"
            ) from e
        yield


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; half-written ones are none."""
    return sorted(p for p in folder.glob("step-*") if p.is_dir())


def latest_checkpoint(folder: Path) -> tuple[LazyTensors, dict[str, Any]] | None:
    """Tensors and record of the newest sound checkpoint, or None where there is none. Damaged ones are warned of."""
    for path in reversed(checkpoints(folder)):
        try:
            record = json.loads((path / "state.json").read_text("utf-8"))
            if record["sha256"] == digest(path / "state.safetensors"):
                return open_checkpoint(path / "state.safetensors", "mmx"), record
        except (OSError, ValueError, KeyError, TypeError, CheckpointError):
            pass
        warnings.warn(f"the checkpoint {path} is damaged; the one before it is used", MmxWarning, 2)
    return None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, and what a killed process left."""
    for path in [*checkpoints(folder)[:-keep], *folder.glob(f"{_PART}*")]:
        shutil.rmtree(path, ignore_errors=True)


# -------------------- what a checkpoint holds


def training_tensors(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What is trained, statistics too, and the optimizer's moments by parameter name.

    What is frozen is not in it: the model that a training begins with has it. Nor are random numbers: every batch seeds
    its own.
    """
    out = {f"model.{name}": value for name, value in weights(trained_tensors(model)).items()}
    for name, p in model.named_parameters():
        for key, value in optimizer.state.get(p, {}).items():
            out[f"optimizer.{name}.{key}"] = full_tensor(value)
    return out


def weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The values of parameters and buffers by name. Of a model in parts, all processes must ask for them."""
    return {name: full_tensor(value.detach()) for name, value in tensors.items()}


def restore(model: Model, optimizer: torch.optim.Optimizer, source: Mapping[str, Tensor]) -> None:
    """Put the tensors of `training_tensors` back in their places; what else an older checkpoint holds is left.

    Raises:
        CheckpointError: an older checkpoint does not hold the statistics of the model's layers.
    """
    wanted = trained_tensors(model)
    if missing := sorted(f"model.{name}" for name in wanted if f"model.{name}" not in source):
        raise CheckpointError(
            f"expected a checkpoint with all that is trained, got one without {missing[:5]}, from another version of "
            "mmx: choose another out"
        )
    state: dict[str, dict[str, Tensor]] = {}
    for key in source:
        if key.startswith("optimizer."):
            name, _, field = key.removeprefix("optimizer.").rpartition(".")
            state.setdefault(name, {})[field] = source[key]
    with torch.no_grad():
        for name, p in wanted.items():
            p.copy_(shard_like(source[f"model.{name}"], p))
            if name in state:
                optimizer.state[p] = {
                    field: value.clone() if field == "step" else shard_like(value, p).to(p.device, copy=True)
                    for field, value in state[name].items()
                }


# -------------------- the best snapshots


def snapshot_name(update: int) -> str:
    """Of the file with the weights of an update."""
    return f"step-{update:08d}.safetensors"


def save_snapshot(folder: Path, update: int, tensors: Mapping[str, Tensor]) -> None:
    """Write the weights of an update. Whole or not there, as a checkpoint."""
    name = snapshot_name(update)
    part = folder / f"{_PART}{name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(part, tensors.items())
        flush(part)
        part.replace(folder / name)
    except OSError as e:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise OutputError(
            f"expected to write a snapshot into {folder}, got {e.strerror or e}: free some space, "
            "and start again with the same command"
        ) from e


def prune_snapshots(folder: Path, checkpoints_folder: Path) -> None:
    """Remove the snapshots that no checkpoint counts among its best."""
    wanted: set[str] = set()
    for path in checkpoints(checkpoints_folder):
        with suppress(OSError, ValueError, KeyError):
            wanted |= {name for _, name in json.loads((path / "state.json").read_text("utf-8"))["best"]}
    for file in [*folder.glob("step-*.safetensors"), *folder.glob(f"{_PART}*")]:
        if file.name not in wanted:
            file.unlink(missing_ok=True)


def average(sources: Sequence[Mapping[str, Tensor]], newest: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Mean of several snapshots of one training, tensor by tensor (Schmidt et al. 2023, arXiv 2305.16834).

    Floating tensors are averaged in at least float32 and keep their type; integers, which count,
    are the newest's.

    Args:
        sources: of which to take the mean.
        newest: number of the newest among them.

    Raises:
        CheckpointError: they differ in names or shapes: they are not of one model.
    """
    if not sources:
        raise CheckpointError("expected snapshots to average, got none")
    first = sources[0]
    for other in sources[1:]:
        differing = sorted(first.keys() ^ other.keys())
        if differing:
            raise CheckpointError(f"expected snapshots of one model, got tensors that not all have: {differing[:5]}")
    for name in first:
        values = [source[name] for source in sources]
        shapes = {tuple(v.shape) for v in values}
        if len(shapes) > 1:
            raise CheckpointError(f"expected snapshots of one model, got {name} in the shapes {sorted(shapes)}")
        if not values[0].is_floating_point():
            yield name, values[newest]
            continue
        wide = torch.promote_types(values[0].dtype, torch.float32)
        mean = values[0].to(wide)
        for i, value in enumerate(values[1:], 2):  # a running mean: equal snapshots give themselves, bit for bit
            mean = mean + (value.to(wide) - mean) / i
        yield name, mean.to(values[0].dtype)
