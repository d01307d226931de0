"""Monotonic heads that ship with mmx for models that were made without: one small file and one card for each model."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mmx
from mmx.errors import CheckpointError, InputError
from mmx.model import Model
from mmx.models.monotonic import MonotonicHeads, PChoose

WEIGHTS = Path(mmx.__file__).parent / "models" / "weights"


@dataclass(frozen=True, kw_only=True)
class HeadsConfig:
    """The numbers of small heads.

    Attributes:
        model: card of the model that they were trained for.
        layers: of its decoder that have heads.
        width: D of its decoder and memory.
        heads: of each layer.
        hidden: width of queries and keys over all heads of a layer.
        energy_layers: of the networks of query and key.
        pooling: memory frames to one key: 8 of 20 ms, as SeamlessStreaming's encoder has them.
        temperature: what energies are divided by.
    """

    model: str = "whisper-base"
    layers: Sequence[int] = (3, 4, 5)
    width: int = 512
    heads: int = 2
    hidden: int = 64
    energy_layers: int = 2
    pooling: int = 8
    temperature: float = 1.0


def build_heads(c: HeadsConfig) -> MonotonicHeads:
    """Heads as they are before training."""
    parts = (PChoose(c.width, c.heads, c.hidden, c.energy_layers, c.pooling, c.temperature) for _ in c.layers)
    return MonotonicHeads(dict(zip(c.layers, parts, strict=True)))


def write_heads(heads: MonotonicHeads, config: HeadsConfig, path: Path) -> None:
    """Write heads in float16, with their numbers in the file's header."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().half().contiguous() for k, v in heads.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"mmx": json.dumps(asdict(config))})


def read_heads(path: Path) -> tuple[MonotonicHeads, HeadsConfig]:
    """What `write_heads` wrote, in float32. Raises `CheckpointError` for any other file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            config = HeadsConfig(**json.loads((file.metadata() or {})["mmx"]))
            tensors = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
        heads = build_heads(config)
        heads.load_state_dict(tensors)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise CheckpointError(f"expected monotonic heads in {path}, got something else ({e}): install mmx anew") from e
    return heads.eval().requires_grad_(False), config


def find_heads(model: Model, path: Path | None = None) -> MonotonicHeads:
    """Heads for a model, on its device.

    Args:
        model: what they are to serve.
        path: a file of `write_heads`; when None, the heads that ship for the model.

    Raises:
        InputError: none ship, or those in the file are for another model.
        CheckpointError: the file holds something else.
    """
    given, path = path, path or WEIGHTS / f"emma-{model.name}.safetensors"
    if given is None and not path.is_file():
        known = [p.stem.removeprefix("emma-") for p in sorted(WEIGHTS.glob("emma-*.safetensors"))]
        raise InputError(
            f"expected a model with monotonic attention among {', '.join(known) or 'none so far'}, got {model.name}: "
            "use policy alignatt, or train heads with mmx.streaming.emma.train"
        )
    heads, config = read_heads(path)
    if config.model != model.name:
        raise InputError(f"expected heads for {model.name}, got {path} for {config.model}: train others")
    return heads.to(model.require_decoder().device)
