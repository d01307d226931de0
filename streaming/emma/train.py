"""Trains monotonic heads for a frozen speech model, in the conditions in which a stream uses them.

    python -m mmx.datasets.recipes.emma data/emma --texts data/en_es/train.tsv
    python -m mmx.streaming.emma.train cache data/emma runs/emma/cache
    python -m mmx.streaming.emma.train fit runs/emma/cache runs/emma/heads.safetensors

A stream encodes its window anew at each look, and its encoder sees the whole of it. So a head is trained on memories of
prefixes: for each recording, `cache` encodes a row of growing prefixes, forces the decoder to the model's own text of
the whole recording over each of them, and keeps, for each token and prefix, the states that heads ask with and the
log-probability of the token. Model and decoder are frozen, so `fit` never runs them again.

`fit` minimizes EMMA's three terms over the grid of tokens and prefixes. The first one differs from the paper's, where
a decoder that is trained along reads expected attention: here it is the expected negative log-likelihood, `-sum_j
alpha[i, j] * log P(token i | prefix j)`, which is exact for a decoder that is run anew over each prefix.

Letters: J prefixes, U tokens, L layers, D width, N heads of all layers, B recordings.
"""

import argparse
import csv
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmx.api import load
from mmx.errors import InputError
from mmx.generate import SearchOptions, search
from mmx.interfaces import Decoder, Prompter
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.model import Model
from mmx.models.monotonic import MonotonicHeads, pooled
from mmx.nn.decoder import TextDecoder
from mmx.seq import Seq, pad
from mmx.streaming.emma.alignment import (
    average_lagging,
    expected_alignment,
    expected_delays,
    mean_over_tokens,
    variance_loss,
)
from mmx.streaming.emma.heads import HeadsConfig, build_heads, write_heads
from mmx.streaming.encoders import WindowEncoder
from mmx.tasks.transcribe import prompter

# -------------------- what the frozen model makes of prefixes


def cache(data: Path, out: Path, step_s: float = 1.0, seed: int = 0) -> None:
    """Write what `fit` needs of each recording into a file of its own; those that are there are kept.

    Args:
        data: folder with a `manifest.tsv` that names `id` and `audio`.
        out: folder of the result.
        step_s: between prefixes, the first of which ends anywhere in the first step.
        seed: of where the first prefix ends.
    """
    model = load("whisper-base")
    config = HeadsConfig()
    out.mkdir(parents=True, exist_ok=True)
    with (data / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for i, row in enumerate(rows):
        path = out / f"{row['id']}.safetensors"
        if path.exists():
            continue
        wave, rate = soundfile.read(data / row["audio"], dtype="float32")
        assert rate == RATE, f"expected {RATE} Hz, got {rate}: make the data anew"
        tensors = _looks(model, config, torch.from_numpy(wave), step_s, random.Random(f"{seed}-{i}"))
        if tensors is not None:
            save_file(tensors, path)


@torch.inference_mode()
def _looks(model: Model, c: HeadsConfig, wave: Tensor, step_s: float, rng: random.Random) -> dict[str, Tensor] | None:
    """States, keys, log-probabilities and times of all prefixes of a recording; None where it has hardly any text."""
    source_s = len(wave) / RATE
    ends_s = [*np.arange(rng.uniform(0.2, step_s), source_s - 0.1, step_s).tolist(), source_s]
    memory = pad([_encode(model, wave[: round(e * RATE)]) for e in ends_s], 50.0)
    decoder = model.require_decoder()
    if not isinstance(decoder, TextDecoder):
        raise InputError(f"expected a decoder whose layers can be watched, got {type(decoder).__name__}")
    asks = prompter(model, "en", "transcribe", None)
    prompt, text = asks.prompt([]), _text(decoder, asks, memory.rows(torch.tensor([len(ends_s) - 1])))
    if len(text) < 3:
        return None
    states: dict[int, Tensor] = {}
    tokens_JU = torch.tensor([[*prompt, *text]]).expand(len(ends_s), -1)
    hidden = decoder.hidden(tokens_JU, memory, watch=lambda i, h: states.update({i: h}))
    first = len(prompt) - 1
    log_JUV = decoder.head(hidden[:, first:-1]).float().log_softmax(-1)
    logp_JU = log_JUV.gather(-1, torch.tensor([text]).expand(len(ends_s), -1)[..., None])[..., 0]
    frames = torch.tensor([max(1, math.ceil(e * 50)) for e in ends_s])
    keys = torch.stack([
        pooled(memory._replace(x=m[None, :n], lengths=torch.tensor([n])), c.pooling).x[0, -1]
        for m, n in zip(memory.x, frames.tolist(), strict=True)
    ])  # fmt: skip
    return {
        "states": torch.stack([states[i][:, first:-1] for i in c.layers], dim=1).half(),  # J, L, U, D
        "keys": keys.half(),
        "logp": logp_JU.contiguous(),
        "best": log_JUV.amax(-1).contiguous(),
        "ends_s": torch.tensor(ends_s, dtype=torch.float32),
        "tokens": torch.tensor(text),
    }


def _encode(model: Model, wave: Tensor) -> Tensor:
    """`(M, D)` of a prefix, with as much silence after it as a stream puts there."""
    window = WindowEncoder(model)
    window.push(wave.numpy(), final=False)
    return window.memory().x[0]


def _text(decoder: Decoder, asks: Prompter, memory: Seq) -> list[int]:
    """What the model writes of the whole recording."""
    options, filters = SearchOptions(beam_size=1, max_tokens=64), asks.filters(begins=False)
    found = search(decoder, memory, torch.tensor([asks.prompt([])]), asks.eot, options, filters).rows[0][0]
    return list(found.tokens)


# -------------------- training


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How heads are trained.

    Attributes:
        epochs: passes over the recordings.
        batch: recordings of an update.
        lr: peak of AdamW's learning rate, which falls to zero along a cosine.
        weight_decay: of AdamW.
        latency: weight of the average lagging in seconds: what a second is worth in nats for each token.
        variance: weight of the variance in squared seconds.
        floor: lowest log-probability that counts; a wrong token is no worse than wrong.
        dropout: share of a state's and a key's entries that are dropped.
        held_out: one recording of so many is for validation.
        leave_out: recordings whose names begin so are for neither: others of the same sentence, when it is the test.
        seed: of weights, order and dropout.
    """

    epochs: int = 24
    batch: int = 8
    lr: float = 2e-3
    weight_decay: float = 0.01
    latency: float = 0.3
    variance: float = 0.1
    floor: float = -8.0
    dropout: float = 0.1
    held_out: int = 10
    leave_out: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Recordings side by side: states `(B, J, L, U, D)`, keys `(B, J, D)`, logp `(B, J, U)`, ends_s `(B, J)`."""

    states: Tensor
    keys: Tensor
    logp: Tensor
    ends_s: Tensor
    prefixes: Tensor
    tokens: Tensor

    @property
    def source_s(self) -> Tensor:
        """`(B,)` length of each recording."""
        return self.ends_s.gather(1, self.prefixes[:, None] - 1)[:, 0]


def collate(clips: Sequence[Mapping[str, Tensor]]) -> Batch:
    """Pad recordings to a batch."""
    n_j, n_u = (max(c["logp"].shape[d] for c in clips) for d in (0, 1))

    def grid(name: str, shape: Sequence[int]) -> Tensor:
        out = torch.zeros(len(clips), *shape)
        for row, clip in zip(out, clips, strict=True):
            row[tuple(slice(n) for n in clip[name].shape)] = clip[name].float()
        return out

    _, n_l, _, width = clips[0]["states"].shape
    return Batch(
        grid("states", (n_j, n_l, n_u, width)), grid("keys", (n_j, width)), grid("logp", (n_j, n_u)),
        grid("ends_s", (n_j,)), torch.tensor([c["logp"].shape[0] for c in clips]),
        torch.tensor([c["logp"].shape[1] for c in clips]),
    )  # fmt: skip


def grid_energies(heads: MonotonicHeads, batch: Batch, dropout: float = 0.0) -> Tensor:
    """Energy of each head for each token over each prefix: `(B, N, U, J)`."""
    b, j = batch.keys.shape[:2]
    drop = torch.nn.functional.dropout
    keys = Seq(drop(batch.keys, dropout).flatten(0, 1)[:, None], torch.ones(b * j, dtype=torch.int64))
    found = []
    for at, part in enumerate(heads.layers.values()):
        energy = part(drop(batch.states[:, :, at], dropout).flatten(0, 1), keys)[..., 0]
        found.append(energy.unflatten(0, (b, j)).permute(0, 2, 3, 1))
    return torch.cat(found, dim=1)


def losses(heads: MonotonicHeads, batch: Batch, o: FitOptions, dropout: float = 0.0) -> dict[str, Tensor]:
    """EMMA's three terms over prefixes, each a scalar, and `total`, their weighted sum.

    Each head is trained as a policy of its own, and so is the head that is least sure, which decides at run time.
    """
    energy_BNUJ = grid_energies(heads, batch, dropout)
    energy_BNUJ = torch.cat([energy_BNUJ, energy_BNUJ.amin(1, keepdim=True)], dim=1)
    alpha = expected_alignment(energy_BNUJ, batch.prefixes)
    cost_BUJ = -batch.logp.clamp(min=o.floor).transpose(1, 2)
    nll = mean_over_tokens((alpha * cost_BUJ[:, None]).sum(-1), batch.tokens)
    delays = expected_delays(alpha, batch.ends_s)
    latency = average_lagging(delays, batch.source_s, batch.tokens).mean()
    variance = variance_loss(alpha, batch.ends_s, batch.tokens)
    return {
        "nll": nll, "latency_s": latency, "variance_s2": variance,
        "total": nll + o.latency * latency + o.variance * variance,
    }  # fmt: skip


def fit(folder: Path, out: Path, options: FitOptions) -> None:
    """Train heads and write them to one file with their numbers."""
    torch.manual_seed(options.seed)
    files = sorted(folder.glob("*.safetensors"))
    clips = [load_file(p) for p in files if not (options.leave_out and p.name.startswith(options.leave_out))]
    if len(clips) <= 1:
        raise InputError(f"expected recordings to train on in {folder}, got {len(clips)}: run `cache` first")
    valid, train = clips[:: options.held_out], [c for i, c in enumerate(clips) if i % options.held_out]
    config = HeadsConfig()
    heads = build_heads(config)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    updates = options.epochs * math.ceil(len(train) / options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=updates, pct_start=0.05)
    print(f"{len(train)} recordings to train on, {len(valid)} to validate on", flush=True)
    best = math.inf
    for epoch in range(options.epochs):
        for batch in _batches(train, options.batch, options.seed + epoch):
            optimizer.zero_grad()
            losses(heads, batch, options, options.dropout)["total"].backward()
            torch.nn.utils.clip_grad_norm_(heads.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch % 5 == 4 or epoch == options.epochs - 1:
            found = validate(heads, valid, options)
            print(json.dumps({"epoch": epoch + 1, **found}), flush=True)
            if found["total"] < best:
                best = found["total"]
                write_heads(heads, config, out)


def _batches(clips: Sequence[Mapping[str, Tensor]], size: int, seed: int) -> Iterator[Batch]:
    order = random.Random(seed).sample(range(len(clips)), len(clips))
    for at in range(0, len(order), size):
        yield collate([clips[i] for i in order[at : at + size]])


@torch.no_grad()
def validate(heads: MonotonicHeads, clips: Sequence[Mapping[str, Tensor]], o: FitOptions) -> dict[str, float]:
    """The terms of the loss, and what a threshold of one half would do with the head that is least sure."""
    batch = collate(clips)
    found = {k: round(float(v), 4) for k, v in losses(heads, batch, o).items()}
    sure = (grid_energies(heads, batch).amin(1, keepdim=True) >= 0).float()
    alpha = expected_alignment(1e4 * (sure - 0.5), batch.prefixes)
    cost_BUJ = -batch.logp.clamp(min=o.floor).transpose(1, 2)
    lag = average_lagging(expected_delays(alpha, batch.ends_s), batch.source_s, batch.tokens).mean()
    nll = mean_over_tokens((alpha * cost_BUJ[:, None]).sum(-1), batch.tokens)
    return found | {"hard_nll": round(float(nll), 4), "hard_latency_s": round(float(lag), 4)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    one = verbs.add_parser("cache", help="run the frozen model over prefixes of recordings")
    one.add_argument("data", type=Path)
    one.add_argument("out", type=Path)
    two = verbs.add_parser("fit", help="train the heads on what `cache` wrote")
    two.add_argument("folder", type=Path)
    two.add_argument("out", type=Path)
    for name, default in asdict(FitOptions()).items():
        two.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    values: dict[str, Any] = vars(parser.parse_args(arguments))
    if values.pop("verb") == "cache":
        cache(**values)
    else:
        fit(values.pop("folder"), values.pop("out"), FitOptions(**values))


if __name__ == "__main__":
    main()
