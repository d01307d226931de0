"""How a training goes: a line now and then, `metrics.jsonl`, and TensorBoard's curves where that is installed."""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmx.files import atomic_write


@dataclass
class Means:
    """Sums by name and what each is the sum of; the first is the loss.

    Attributes:
        sums: of the figures that an objective reports.
        counts: tokens, rows or whatever it counts, by the same names.
    """

    sums: Mapping[str, float]
    counts: Mapping[str, float]

    @property
    def counted(self) -> float:
        """What the loss is the mean of."""
        return next(iter(self.counts.values()))

    def __add__(self, other: "Means") -> "Means":
        return Means(*({name: a.get(name, 0) + b[name] for name in b}
                       for a, b in ((self.sums, other.sums), (self.counts, other.counts))))  # fmt: skip

    def values(self) -> list[float]:
        """The means, in order."""
        return [self.sums[name] / max(1.0, self.counts[name]) for name in self.sums]


class Progress:
    """Gathers the figures of updates and reports them.

    Args:
        out: folder that receives `metrics.jsonl` and `tensorboard`.
        total: updates in all.
        done: updates done before; what the file has of later ones, from before a resume, is removed.
        tokens: learned from before.
        perplexity: whether the loss's exponential is shown.
    """

    def __init__(self, out: Path, total: int, done: int, tokens: int, perplexity: bool = True):
        self.perplexity = perplexity
        self.file, self.total, self.first = out / "metrics.jsonl", total, done
        self.started = self.window = time.monotonic()
        self.means, self.norm = Means({}, {}), 0.0
        self.rate, self.tokens = 0.0, tokens
        self.valid: list[float] = []
        if self.file.is_file():
            lines = [
                x for x in self.file.read_text("utf-8").splitlines() if _update_of(x) <= done and '"final":' not in x
            ]
            atomic_write(self.file, "".join(f"{line}\n" for line in lines))
            self.valid = [json.loads(x)["valid_loss"] for x in lines if '"valid_loss"' in x]
        out.mkdir(parents=True, exist_ok=True)
        self.board = _tensorboard(out / "tensorboard", done)

    def learned(self, means: Means, rate: float, norm: float) -> None:
        """Take the figures of one update."""
        self.means, self.rate = self.means + means, rate
        self.norm = max(self.norm, norm)

    def report(self, update: int, epoch: int, tokens: int) -> None:
        """Write the figures since the last report."""
        now = time.monotonic()
        seconds, self.window = now - self.window, now
        loss, *others = self.means.values()
        more = dict(zip(list(self.means.sums)[1:], others, strict=True))
        speed = (tokens - self.tokens) / seconds
        left_s = (now - self.started) / (update - self.first) * (self.total - update)
        self.say(
            f"update {update}/{self.total}  epoch {epoch}  loss {loss:.3f}  {self._perplexity(loss, 1)}"
            + "".join(f"{name} {value:.3f}  " for name, value in more.items())
            + f"rate {self.rate:.2e}  norm {self.norm:.2f}  {speed:.0f} tokens/s  {_duration(left_s)} left"
        )
        figures = {"loss": loss, **more, "lr": self.rate, "norm": self.norm, "epoch": epoch}
        self._write(update, **figures, tokens=tokens, tokens_per_s=speed)
        self.means, self.norm = Means({}, {}), 0.0
        self.tokens = tokens

    def validated(self, update: int, loss: float) -> None:
        """Write a validation loss."""
        self.valid.append(loss)
        self.say(
            f"update {update}/{self.total}  validation loss {loss:.4f}  {self._perplexity(loss, 2)}"
            + sparkline(self.valid)
        )
        self._write(update, valid_loss=loss)

    def _perplexity(self, loss: float, digits: int) -> str:
        """Of a loss that is one of tokens, in nats."""
        return f"perplexity {math.exp(min(loss, 30)):.{digits}f}  " if self.perplexity else ""

    def close(self, figures: dict[str, Any]) -> None:
        """Write the last line and close the curves."""
        with self.file.open("a", encoding="utf-8") as f:
            f.write(json.dumps(figures) + "\n")
        if self.board is not None:
            self.board.close()

    def _write(self, update: int, **figures: float) -> None:
        line = {"update": update, "time": round(time.time(), 1), **{k: round(v, 8) for k, v in figures.items()}}
        with self.file.open("a", encoding="utf-8") as f:
            f.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, update)

    @staticmethod
    def say(text: str) -> None:
        """One line for whoever watches."""
        print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def sparkline(values: Sequence[float], width: int = 40) -> str:
    """A curve in one line of text, from the lowest value to the highest; of many values, `width` evenly chosen ones."""
    shown = [values[(i + 1) * len(values) // width - 1] for i in range(width)] if len(values) > width else values
    kept = [v for v in shown if math.isfinite(v)]
    low, high = min(kept, default=0.0), max(kept, default=0.0)
    top = len(_BARS) - 1
    return "".join(_BARS[round(top * (v - low) / (high - low or 1.0))] if math.isfinite(v) else "?" for v in shown)


_BARS = "▁▂▃▄▅▆▇█"


class NoProgress:
    """What a process reports with whose figures another one reports; as `Progress`."""

    def __init__(self, out: Path, total: int, done: int, tokens: int, perplexity: bool = True):
        pass

    def learned(self, means: Means, rate: float, norm: float) -> None:
        """Nothing."""

    def report(self, update: int, epoch: int, tokens: int) -> None:
        """Nothing."""

    def validated(self, update: int, loss: float) -> None:
        """Nothing."""

    def close(self, figures: dict[str, Any]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


def _update_of(line: str) -> float:
    """The update that a line is about; a line that a kill cut short is about none."""
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(line)["update"])
    return math.inf


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d}" if minutes >= 60 else f"{minutes} min"


def _tensorboard(folder: Path, done: int) -> Any:
    """A writer of curves, or None without the package: `pip install 'mmx[train]'`."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=done + 1)
