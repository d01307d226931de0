"""`mmx bench tts`: F5-TTS beside its own package on the same random weights, and the voices that are here, in one run.

Speed does not depend on what the weights are. Both sides are given the same noise, recording, text and number of steps,
and are checked in float32 to give the same mels before they are timed.

Letters: T frames, F mels.
"""

import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mmx.api import load, resolve_device
from mmx.bench.f5_package import import_package
from mmx.errors import InputError, MmxError
from mmx.files import atomic_write
from mmx.interfaces import Speech
from mmx.model import Model
from mmx.models import f5_tts, vocos
from mmx.models.f5_tts import Config
from mmx.models.f5_tts.field import Field
from mmx.models.f5_tts.sampling import Sampling, noise, sample
from mmx.seq import Seq
from mmx.tasks.reference import Reference
from mmx.tasks.synthesize import SpeakOptions, synthesize
from mmx.tasks.voices import voices
from mmx.weights.convert import convert

SIZES = {"base": 22, "half": 11, "tiny": 2}
"""Layers; all else is as in F5TTS_v1_Base."""
RATE_HZ = 93.75
PROMPT_S = 3.0
CHARACTERS_S = 15
"""Characters of a second of speech."""
TOLERANCE = 1e-4
SENTENCE = "The boats come back before the rain, and the harbour is quiet again."
LENGTHS, PART = (1, 2, 4, 8), 3
"""Times that a part of a long text is said, for the line of cost against length, and sentences of such a part."""


@dataclass
class Run:
    """One system.

    Attributes:
        work: one go.
        wall_s: of each round.
        cpu_s: of each round, over all threads.
    """

    name: str
    work: Callable[[], Any]
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def time(self, device: torch.device) -> None:
        """One round."""
        begun = time.perf_counter(), time.process_time()
        self.work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.wall_s.append(time.perf_counter() - begun[0])
        self.cpu_s.append(time.process_time() - begun[1])


def tts(
    *,
    size: str = "base",
    seconds: float = 3.0,
    steps: int = 4,
    device: str = "auto",
    rounds: int = 3,
    threads: int = 0,
    output: Path | None = None,
) -> dict[str, Any]:
    """Measure and print.

    Args:
        size: a key of `SIZES`, of F5-TTS.
        seconds: of speech made by it, after a recording of 3 s.
        steps: of the sampler.
        device: as in `mmx.load`.
        rounds: interleaved, of which the best counts; one before them warms up.
        threads: of the CPU; 0 leaves it to torch.
        output: also write the figures here, as JSON.
    """
    if size not in SIZES:
        raise InputError(f"expected a size among {', '.join(SIZES)}, got {size!r}")
    if threads:
        torch.set_num_threads(threads)
    place = resolve_device(device)
    figures: dict[str, Any] = {"size": size, "seconds": seconds, "steps": steps, "threads": torch.get_num_threads()}
    with torch.inference_mode():
        figures["f5_tts"] = _beside_the_package(Config(layers=SIZES[size]), seconds, steps, place, rounds)
        figures["length"] = _against_length(rounds)
        figures["voices"] = _voices(rounds)
    if output is not None:
        atomic_write(output, json.dumps(figures, indent=1) + "\n")
    return figures


# -------------------- F5-TTS beside its package


def _beside_the_package(c: Config, seconds: float, steps: int, device: torch.device, rounds: int) -> dict[str, Any]:
    package = import_package("f5_tts.model")
    theirs = package.DiT(
        dim=c.width, depth=c.layers, heads=c.heads, dim_head=c.width // c.heads, ff_mult=c.hidden // c.width,
        mel_dim=c.vocoder.mels, text_num_embeds=c.vocab, text_dim=c.text_width, text_mask_padding=c.clears_fillers,
        conv_layers=c.text_layers, pe_attn_head=c.rotary_heads,
    ).eval()  # fmt: skip
    _randomize(theirs)
    ours = _converted(theirs, c)
    case = _Case(c, seconds, steps, device)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    runs = [Run("f5-tts float32", case.package(package, theirs.to(device))), Run("mmx float32", case.own(ours))]
    difference = float((runs[0].work() - runs[1].work()).abs().max())
    if difference > TOLERANCE:
        raise MmxError(f"expected the mels of f5-tts within {TOLERANCE:g}, got a difference of {difference:.2g}")
    narrow = _converted(theirs, c).to(device, half)
    runs.append(Run(f"mmx {str(half).partition('.')[2]}", case.own(narrow)))
    if device.type == "cuda":  # on a GPU the package computes in float16, on a CPU in float32
        runs.insert(1, Run("f5-tts float16", case.package(package, deepcopy(theirs).to(device, half))))
    _interleaved(runs, device, rounds)
    print(f"F5-TTS, {c.layers} layers, {case.n_frames / RATE_HZ:.1f} s with the recording, {steps} steps with guidance")
    _table(runs, runs[device.type == "cuda"])
    return {"difference": difference, **{run.name: {"wall_s": run.wall_s, "cpu_s": run.cpu_s} for run in runs}}


class _Case:
    """What both sides are given."""

    def __init__(self, c: Config, seconds: float, steps: int, device: torch.device):
        self.steps, self.device = steps, device
        self.n_prompt, self.n_frames = round(PROMPT_S * RATE_HZ), round((PROMPT_S + seconds) * RATE_HZ)
        g = torch.Generator().manual_seed(0)
        known = torch.randn(1, self.n_frames, c.vocoder.mels, generator=g)
        known[:, self.n_prompt :] = 0
        n_text = round(self.n_frames / RATE_HZ * CHARACTERS_S)
        text = torch.randint(0, c.vocab, (1, n_text), generator=g).to(device)
        self.known = Seq(known.to(device), torch.tensor([self.n_frames], device=device), RATE_HZ)
        self.text = Seq(text, torch.tensor([n_text], device=device))

    def package(self, package: Any, network: nn.Module) -> Callable[[], torch.Tensor]:
        """The mels as f5-tts makes them."""
        channels = self.known.x.shape[2]
        mels = nn.Identity()
        mels.n_mel_channels = channels  # type: ignore[assignment]  # what the package asks its mel spectrogram for
        solver = package.CFM(network, num_channels=channels, mel_spec_module=mels)

        def work() -> torch.Tensor:
            torch.manual_seed(0)
            return solver.sample(
                self.known.x[:, : self.n_prompt], self.text.x, self.n_frames, steps=self.steps, cfg_strength=2.0,
                sway_sampling_coef=-1.0, seed=0,
            )[1][-1].float()  # fmt: skip

        return work

    def own(self, network: Field) -> Callable[[], torch.Tensor]:
        """The mels as they are made here."""
        network = network.to(self.device)
        begin = noise([self.n_frames], self.known.x.shape[2], [0], self.device)

        def work() -> torch.Tensor:
            told, untold = (network.condition(self.known, self.text, drop) for drop in (False, True))
            return sample(network, begin, told, untold, Sampling(steps=self.steps))

        return work


def _randomize(model: nn.Module) -> None:
    """Small weights, so that many layers of them stay in range; none of them zero."""
    g = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.copy_(0.02 * torch.randn(p.shape, generator=g))


def _converted(theirs: nn.Module, c: Config) -> Field:
    """Our field over the same tensors."""
    with torch.device("meta"):
        ours = f5_tts.build_field(c)
    shapes = {f"synth.field.{name}": tuple(p.shape) for name, p in ours.named_parameters()}
    source = {f"transformer.{name}": value for name, value in theirs.state_dict().items()}
    tensors = dict(convert(source, f5_tts.KEYS["hf"], shapes))
    ours.load_state_dict({n.removeprefix("synth.field."): v for n, v in tensors.items()}, strict=True, assign=True)
    return ours.eval()


# -------------------- cost against length


def _against_length(rounds: int) -> dict[str, Any]:
    """CPU seconds of a text of some length over those of one sentence, by a small field: the parts are the same."""
    sound = vocos.Config(width=64, hidden=64, layers=1)
    sizes: dict[str, Any] = {
        "layers": 2,
        "width": 128,
        "heads": 2,
        "hidden": 256,
        "text_width": 64,
        "text_layers": 1,
        "steps": 2,
    }
    model = f5_tts.build(Config(**sizes, vocoder=sound)).eval()
    with torch.no_grad():
        _randomize(model)
    synth = model.require_synth()
    assert isinstance(synth, f5_tts.InfillSynth)
    synth.tokenizer = f5_tts.PinyinTokenizer({c: i for i, c in enumerate(" abcdefghijklmnopqrstuvwxyzTB,.")})
    voice = Reference(torch.zeros(282, 100), "what is said in this recording. ").tensors()

    def run(n: int) -> Run:
        speech = Speech(texts=[" ".join([SENTENCE] * n * PART)], language="eng_Latn", voice=voice)
        return Run(str(n), lambda: synth.speak(speech))

    runs = [run(n) for n in LENGTHS]
    _interleaved(runs, torch.device("cpu"), rounds)
    cost = {int(r.name): min(r.cpu_s) / min(runs[0].cpu_s) for r in runs}
    print("cost against length: " + ", ".join(f"{n}x text {c:.2f}x" for n, c in cost.items()))
    return {"cost": cost, "linear": float(np.corrcoef(list(cost), list(cost.values()))[0, 1])}


# -------------------- the voices that are here


def _voices(rounds: int) -> dict[str, Any]:
    """The first voice of each model whose weights are here, on one sentence."""
    runs, firsts, sounds = [], {}, {}
    for name in dict.fromkeys(v.card.name for v in voices()):
        try:
            model = load(name, download=False)
        except MmxError as e:
            print(f"{name}: left out ({str(e).splitlines()[0][:100]})")
            continue
        voice = next(v for v in voices() if v.card.name == name)
        options = SpeakOptions(voice=voice.name, language=voice.languages[0])
        sounds[name] = sum(len(s.samples) / s.rate for s in synthesize(model, SENTENCE, options))
        firsts[name] = []
        runs.append(Run(name, _spoken(model, options, firsts[name])))
    _interleaved(runs, torch.device("cpu"), rounds)
    found = {}
    for run in runs:
        factor, first = min(run.wall_s) / sounds[run.name], min(firsts[run.name])
        cpu = min(run.cpu_s) / sounds[run.name]
        found[run.name] = {"real_time_factor": factor, "cpu_factor": cpu, "first_block_s": first}
        print(f"{run.name:20} real-time factor {factor:.3f} (CPU {cpu:.3f}), first block after {first:.2f} s")
    return found


def _spoken(model: Model, options: SpeakOptions, firsts: list[float]) -> Callable[[], None]:
    def work() -> None:
        begun = time.perf_counter()
        for i, _ in enumerate(synthesize(model, SENTENCE, options, blocks=True)):
            if i == 0:
                firsts.append(time.perf_counter() - begun)

    return work


# -------------------- details


def _interleaved(runs: Sequence[Run], device: torch.device, rounds: int) -> None:
    """A round of each in turn, the other way round every second time; the first is forgotten."""
    for i in range(rounds + 1):
        for run in runs if i % 2 else reversed(runs):
            run.time(device)
    for run in runs:
        del run.wall_s[:1], run.cpu_s[:1]


def _table(runs: Sequence[Run], baseline: Run) -> None:
    """Best rounds, and how many times as fast as the baseline."""
    for run in runs:
        wall, cpu = min(run.wall_s), min(run.cpu_s)
        ratio = min(baseline.wall_s) / wall, min(baseline.cpu_s) / cpu
        print(f"{run.name:16} {wall:8.2f} s ({ratio[0]:.2f}x)   {cpu:8.2f} CPU s ({ratio[1]:.2f}x)")
