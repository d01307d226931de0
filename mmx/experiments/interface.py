"""CIF against average pooling at a fixed rate, as interfaces to a frozen decoder (X-LLM, arXiv 2305.04160).

A small text decoder learns to repeat spelled-out numbers from the embeddings of their words, and is frozen. Then it is
to write what is "said": every word is a sound of its own, held for 2 to 6 frames under noise. An interface is trained
that turns frames into what the decoder takes for embeddings of words. CIF finds out where words end; pooling takes four
frames each time, the mean length of a word, and has more parameters. Both are also measured untrained.

This shows the mechanism, not the figures of a paper. `python -m mmx.experiments.interface --seeds 3`

Letters: B rows, T frames, M memory frames, U tokens, D width.
"""

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmx.generate import SearchOptions, search
from mmx.nn.adapters import CIF, gather_windows, new_wait, teach
from mmx.nn.block import sinusoids
from mmx.nn.decoder import DecoderLayer, SinusoidalPositions, TextDecoder
from mmx.seq import Seq, pad
from mmx.state import State

ONES = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
WORDS = (ONES + "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand").split()
BOS, EOT, FIRST = 0, 1, 2
FRAMES = (2, 6)
"""Least and most frames of a word."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the experiment is; the defaults are those of the published table."""

    width: int = 32
    sound: int = 16
    noise: float = 0.5
    batch: int = 24
    pretraining: int = 600
    updates: int = 400
    test: int = 200
    lr: float = 3e-3


@dataclass(frozen=True)
class Score:
    """What an interface reaches on held-out numbers.

    Attributes:
        errors: edits for each word of the reference.
        length_error: mean distance of the number of words from the right one.
        trained: parameters that were trained.
        unchanged: whether every bit of the decoder is as it was.
    """

    errors: float
    length_error: float
    trained: int
    unchanged: bool


# -------------------- data


def spelled(number: int) -> list[int]:
    """A number below a million in words, as tokens: 70042 is "seventy thousand forty two"."""
    if number >= 1000:
        rest = spelled(number % 1000) if number % 1000 else []
        return [*spelled(number // 1000), FIRST + WORDS.index("thousand"), *rest]
    if number >= 100:
        rest = spelled(number % 100) if number % 100 else []
        return [FIRST + number // 100 - 1, FIRST + WORDS.index("hundred"), *rest]
    if number < 20:
        return [FIRST + number - 1]
    return [FIRST + 18 + number // 10 - 1, *([FIRST + number % 10 - 1] if number % 10 else [])]


class World:
    """Texts and their sounds; every tenth number is held out."""

    def __init__(self, size: Size, seed: int):
        self.size, self.random = size, random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.sounds = torch.randn(FIRST + len(WORDS), size.sound, generator=self.generator)

    def texts(self, rows: int, held_out: bool) -> list[list[int]]:
        """Random numbers of all lengths."""
        out = []
        while len(out) < rows:
            number = self.random.randint(1, 10 ** self.random.randint(2, 6) - 1)
            if (number % 10 == 7) == held_out:
                out.append(spelled(number))
        return out

    def speech(self, texts: Sequence[Sequence[int]]) -> Seq:
        """`(B, T, sound)` frames."""
        rows = []
        for text in texts:
            frames = [token for token in text for _ in range(self.random.randint(*FRAMES))]
            clean = self.sounds[frames]
            rows.append(clean + self.size.noise * torch.randn(clean.shape, generator=self.generator))
        return pad(rows)


def tokens_targets(texts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """What the decoder reads and should write, `(B, U)`; -100 where nothing is to be learned."""
    rows = pad([torch.tensor([BOS, *text, EOT]) for text in texts])
    return rows.x[:, :-1], rows.x.masked_fill(~rows.mask, -100)[:, 1:]


# -------------------- parts


class AveragePool(nn.Module):
    """The mean of every `stride` frames, and two layers."""

    lookahead = 0

    def __init__(self, width: int, stride: int):
        super().__init__()
        self.stride, self.ln = stride, nn.LayerNorm(width)
        self.project = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def init_state(self, batch: int, capacity: int = 0) -> State:
        """The frames of a mean that is not complete: none."""
        return new_wait(batch, 0, self.stride, self.ln.weight)

    def forward(self, seq: Seq, state: State | None = None) -> Seq:
        """`(B, T, D)` to `(B, ceil(T / stride), D)`; frames that are missing at the end do not count."""
        seq = seq._replace(x=torch.where(seq.mask[..., None], self.ln(seq.masked), 0.0))
        made = gather_windows(seq, state or self.init_state(len(seq.x)), self.stride, self.stride)
        there = seq._replace(x=seq.mask[..., None].to(made.x.dtype))
        n = gather_windows(there, new_wait(len(seq.x), 0, self.stride, made.x.new_zeros(1)), self.stride, self.stride)
        sums, counts = (s.x.unflatten(1, (-1, self.stride)).sum(2) for s in (made, n))
        return made._replace(x=self.project(sums / counts.clamp(min=1)))


class Interface(nn.Module):
    """A convolution over the sound, an adapter, and positions as those of words."""

    def __init__(self, sound: int, width: int, adapter: nn.Module):
        super().__init__()
        self.encoder = nn.Conv1d(sound, width, 5, padding=2)
        self.adapter = adapter

    def encoded(self, speech: Seq) -> Seq:
        """`(B, T, sound)` to what the adapter reads, `(B, T, D)`."""
        return speech._replace(x=F.gelu(self.encoder(speech.masked.transpose(1, 2))).transpose(1, 2))

    def forward(self, speech: Seq) -> Seq:
        """`(B, M, D)`."""
        return placed(self.adapter(self.encoded(speech)))

    def taught(self, speech: Seq, lengths: Tensor) -> tuple[Seq, Tensor]:
        """The memory in training, and the adapter's own loss."""
        encoded = self.encoded(speech)
        own = self.adapter.loss(encoded, lengths).mean() if hasattr(self.adapter, "loss") else torch.zeros(())  # type: ignore[operator]
        return placed(teach(self.adapter, encoded, lengths)), own


def placed(seq: Seq) -> Seq:
    """With the positions of memory frames added."""
    return seq._replace(x=seq.x + sinusoids(seq.x.shape[1], seq.x.shape[2]))


def new_decoder(width: int) -> TextDecoder:
    """A decoder of two layers; its embedding is of the size that its input has."""
    layers = [DecoderLayer(width, 4, 2 * width) for _ in range(2)]
    decoder = TextDecoder(FIRST + len(WORDS), layers, SinusoidalPositions(32, width), width**0.5)
    nn.init.normal_(decoder.token.weight, std=width**-0.5)
    return decoder


def read(decoder: TextDecoder, texts: Sequence[Sequence[int]]) -> Seq:
    """Texts as a memory: the embeddings of their words."""
    words = pad([torch.tensor(text) for text in texts])
    return placed(words._replace(x=decoder.token(words.x) * decoder.scale))


# -------------------- training and measuring


def text_loss(decoder: TextDecoder, memory: Seq, texts: Sequence[Sequence[int]]) -> Tensor:
    """Mean negative log-likelihood of a token."""
    tokens, targets = tokens_targets(texts)
    return F.cross_entropy(decoder.head(decoder.hidden(tokens, memory)).flatten(0, 1), targets.flatten())


def fit(module: nn.Module, updates: int, lr: float, loss: Callable[[], Tensor]) -> None:
    """Adam over a module's parameters, at a rate that falls to zero."""
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - update / updates))
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()


def edits(got: Sequence[int], want: Sequence[int]) -> int:
    """Insertions, deletions and replacements that make one text of the other (Levenshtein)."""
    row = list(range(len(want) + 1))
    for i, a in enumerate(got, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(want, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


@torch.no_grad()
def score(decoder: TextDecoder, memory: Seq, texts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Errors a word and mean error of the length, of what the decoder writes over a memory."""
    prefix = torch.full((len(texts), 1), BOS)
    found = search(decoder, memory, prefix, EOT, SearchOptions(beam_size=1, max_tokens=20)).rows
    got = [row[0].tokens for row in found]
    wrong = sum(edits(g, w) for g, w in zip(got, texts, strict=True))
    return wrong / sum(map(len, texts)), mean(abs(len(g) - len(w)) for g, w in zip(got, texts, strict=True))


def run(seed: int, size: Size = Size()) -> dict[str, Score]:
    """Train and measure every interface on one frozen decoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        world, decoder = World(size, seed), new_decoder(size.width)

        def repeating() -> Tensor:
            texts = world.texts(size.batch, held_out=False)
            return text_loss(decoder, read(decoder, texts), texts)

        fit(decoder, size.pretraining, size.lr, repeating)
        decoder.eval().requires_grad_(False)
        texts = world.texts(size.test, held_out=True)
        speech = world.speech(texts)
        upper = score(decoder, read(decoder, texts), texts)
        out = {"the words themselves": Score(*upper, 0, True)}
        stride = sum(FRAMES) // 2
        kinds = {
            "CIF": lambda: CIF(size.width, size.width, weight=1 / stride),
            "average pooling": lambda: AveragePool(size.width, stride),
        }
        for name, make in kinds.items():
            interface = Interface(size.sound, size.width, make())
            out[f"{name}, untrained"] = Score(*score(decoder, interface(speech), texts), 0, True)
            out[name] = _trained(interface, decoder, world, speech, texts)
    return out


def _trained(
    interface: Interface, decoder: TextDecoder, world: World, speech: Seq, texts: Sequence[Sequence[int]]
) -> Score:
    before = [p.clone() for p in decoder.parameters()]

    def speaking() -> Tensor:
        said = world.texts(world.size.batch, held_out=False)
        lengths = torch.tensor([len(text) for text in said])
        memory, own = interface.taught(world.speech(said), lengths)
        return text_loss(decoder, memory, said) + 0.1 * own

    fit(interface, world.size.updates, world.size.lr, speaking)
    interface.eval()
    unchanged = all(torch.equal(a, b) for a, b in zip(before, decoder.parameters(), strict=True))
    trained = sum(p.numel() for p in interface.parameters())
    return Score(*score(decoder, interface(speech), texts), trained, unchanged)


def table(runs: Sequence[dict[str, Score]]) -> str:
    """Markdown: the mean over seeds, and each seed."""
    lines = [
        "| interface | trained parameters | word error rate | of each seed | error of the length | decoder unchanged |",
        "|---|---|---|---|---|---|",
    ]
    for name in runs[0]:
        scores = [r[name] for r in runs]
        seeds = ", ".join(f"{s.errors:.3f}" for s in scores)
        same = "yes" if all(s.unchanged for s in scores) else "no"
        lines.append(
            f"| {name} | {scores[0].trained:,} | {mean(s.errors for s in scores):.3f} | {seeds} | "
            f"{mean(s.length_error for s in scores):.2f} words | {same} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run all seeds and print the table."""
    parser = argparse.ArgumentParser(description="CIF against average pooling onto a frozen decoder.")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to this number")
    runs = []
    for seed in range(parser.parse_args().seeds):
        runs.append(run(seed))
        print(f"seed {seed}\n{table(runs[-1:])}\n", flush=True)
    print(f"all seeds\n{table(runs)}")


if __name__ == "__main__":
    main()
