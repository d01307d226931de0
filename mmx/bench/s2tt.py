"""`mmx bench s2tt`: SeamlessM4T v2 part by part beside transformers, in one interleaved run on the same random weights.

The figures need no download: speed does not depend on what the weights are. Both sides compute in the same dtype, write
the same number of tokens, and are checked in float32 to give the same numbers before they are timed.
"""
# The peer is optional and mostly untyped:
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportArgumentType=false

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmx.api import fill
from mmx.bench.asr import peak_mb
from mmx.errors import InputError, MmxError
from mmx.files import atomic_write
from mmx.generate import SearchOptions, Suppress, search
from mmx.model import Model
from mmx.models import nllb, seamless_m4t, w2v_bert
from mmx.models.seamless_m4t import Config, config_from, hifigan, units
from mmx.nn.decoder import TextDecoder
from mmx.seq import Seq
from mmx.state import State
from mmx.text.shortlist import ShortlistDecoder
from mmx.weights.convert import convert

EOS, LANGUAGE = 3, 256_057
SIZES = {"large": 24, "half": 12, "tiny": 2}
"""Layers of each stack; all else is as in v2-large."""


@dataclass
class Part:
    """One thing that both sides do.

    Attributes:
        name: what it is.
        ours: does it here.
        theirs: does it in transformers; None for what they do not have.
        difference: largest between the two results, checked once.
        ours_s: seconds of each round.
        theirs_s: the same.
    """

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any] | None
    difference: float | None = None
    ours_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)

    def time(self, sync: Callable[[], None]) -> None:
        """One round of both, ours last on even rounds."""
        sides = [(self.ours, self.ours_s), (self.theirs, self.theirs_s)]
        for run, seconds in sides if len(self.ours_s) % 2 else reversed(sides):
            if run is None:
                continue
            sync()
            start = time.perf_counter()
            run()
            sync()
            seconds.append(time.perf_counter() - start)


def s2tt(
    *,
    size: str = "large",
    seconds: float = 10.0,
    tokens: int = 30,
    beam_size: int = 1,
    dtype: str = "float32",
    device: str = "auto",
    rounds: int = 3,
    threads: int = 0,
    output: Path | None = None,
) -> list[Part]:
    """Measure and print; the parts are timed one after the other, each in interleaved rounds.

    Args:
        size: a key of `SIZES`.
        seconds: of speech heard.
        tokens: that the decoder writes; the voice says half a second of units for each ten.
        beam_size: of the search.
        dtype: float32, bfloat16 or float16, of both sides.
        device: as in `mmx.load`.
        rounds: of which the best counts.
        threads: of the CPU; 0 leaves it to torch.
        output: also write the figures here, as JSON.
    """
    from mmx.api import resolve_device

    if size not in SIZES:
        raise InputError(f"expected a size among {', '.join(SIZES)}, got {size!r}")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"expected a dtype among float32, bfloat16, float16, got {dtype!r}")
    try:
        import transformers
    except ImportError as e:
        raise InputError("expected transformers as the baseline, got none: pip install 'mmx[bench]'") from e
    transformers.logging.set_verbosity_error()
    if threads:
        torch.set_num_threads(threads)
    bench = _Bench(SIZES[size], resolve_device(device), getattr(torch, dtype), seconds, tokens, beam_size)
    parts: list[Part] = []
    with torch.inference_mode():
        for group in (bench.text, bench.voice):
            made = group()
            _require_same(made, bench.dtype)
            for part in made:
                for _ in range(rounds + 1):
                    part.time(bench.sync)
                del part.ours_s[:1], part.theirs_s[:1]  # the first round warms up
                part.ours, part.theirs = _done, None
            parts += made
    _show(parts, bench, rounds)
    if output is not None:
        rows = [{"part": p.name, "mmx_s": p.ours_s, "transformers_s": p.theirs_s, "difference": p.difference}
                for p in parts]  # fmt: skip
        atomic_write(output, json.dumps({"size": size, "dtype": dtype, "device": str(bench.device), "parts": rows}))
    return parts


TOLERANCE = 1e-2
"""Largest difference in float32, as a share of the largest number. In half precision the rounding of one side can
choose another token or unit, which says nothing: the differences are only shown."""


def _require_same(parts: Sequence[Part], dtype: torch.dtype) -> None:
    """Raise `MmxError` where two sides in float32 do not compute the same: their times would mean nothing."""
    for p in parts:
        if dtype == torch.float32 and p.difference is not None and not p.difference <= TOLERANCE:
            raise MmxError(
                f"expected the same numbers of both sides for {p.name}, got a difference of {p.difference:.0e}, more "
                f"than {TOLERANCE:.0e}: nothing was timed"
            )


def _done() -> None:
    """Stands for what was measured, so that its weights can go."""


class _Bench:
    def __init__(
        self, layers: int, device: torch.device, dtype: torch.dtype, seconds: float, tokens: int, beam_size: int
    ):
        import transformers

        self.device, self.dtype, self.tokens, self.beam_size = device, dtype, tokens, beam_size
        few = max(2, layers // 4)
        self.config = transformers.SeamlessM4Tv2Config(
            vocab_size=256_102, t2u_vocab_size=10_082, char_vocab_size=10_943, decoder_layers=layers,
            encoder_layers=layers, speech_encoder_layers=layers, t2u_encoder_layers=few, t2u_decoder_layers=few,
        )  # fmt: skip
        self.features = torch.randn(1, round(seconds * 50), 160, generator=torch.Generator().manual_seed(0))
        self.features = self.features.to(device, dtype)
        self.seconds, self.layers = seconds, layers

    def sync(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def random(self, module: torch.nn.Module) -> torch.nn.Module:
        """Small random weights, made where they will be used."""
        module = module.to_empty(device=self.device).to(self.dtype).eval()
        if hasattr(module, "tie_weights"):
            module.tie_weights()  # type: ignore[operator]
        torch.manual_seed(0)
        for name, p in module.named_parameters():
            p.copy_(torch.ones_like(p) if "norm.weight" in name else torch.randn_like(p) * 0.02)
        return module

    def text(self) -> list[Part]:
        """Speech encoder, greedy or beam search, and the pass that gives the voice its states."""
        import transformers

        with torch.device("meta"):
            theirs: Any = transformers.SeamlessM4Tv2ForSpeechToText(self.config)
            ours = seamless_m4t.build(Config(**config_from("hf", self.config.to_dict(), {})))
        ours.synth = None
        del ours.encoders["text"]
        theirs = self.random(theirs)
        for module in theirs.modules():  # waves, which `to_empty` left unset
            if hasattr(module, "make_weights"):
                module.make_weights(module.weights.shape[0] - module.offset, module.embedding_dim, module.padding_idx)
                module.weights = module.weights.to(self.device, self.dtype)
        rules = [
            nllb.embedding_rule(r"shared|text_decoder\.embed_tokens|lm_head", "decoder.token"),
            *nllb.decoder_rules(r"text_decoder\.", "decoder.", nllb.SEAMLESS),
            *w2v_bert.hf_rules(r"speech_encoder\."),
        ]
        _load(ours, dict(theirs.state_dict()), rules)
        ours = ours.to(self.device)
        pen = ours.decoder
        assert isinstance(pen, TextDecoder)
        pen.positions.to(self.dtype)
        memory, shared = self._encode(ours), {}
        theirs.generation_config.text_decoder_lang_to_code_id = {"deu": LANGUAGE}
        theirs.generation_config.update(decoder_start_token_id=EOS, eos_token_id=EOS, pad_token_id=0, bos_token_id=2)
        written = search_row(ours, memory, self, shared)
        row = torch.tensor([[EOS, LANGUAGE, *written]], device=self.device)
        short = ShortlistDecoder(pen, pen.token.weight, [*range(8_000), LANGUAGE])
        encoder = Part(
            "speech encoder",
            lambda: self._encode(ours).x,
            lambda: theirs.speech_encoder(self.features).last_hidden_state,
        )
        states = Part(
            "states for the voice",
            lambda: pen.hidden(row, memory, {**pen.init_state(1, row.shape[1]), "memory": shared}),
            lambda: theirs.text_decoder(input_ids=row, encoder_hidden_states=memory.x).last_hidden_state,
        )
        writing = Part(
            f"decoder, {self.tokens} tokens",
            lambda: search_row(ours, memory, self, {}),
            lambda: self._their_tokens(theirs, memory),
        )
        shortlist = Part("decoder, shortlist of 8,000", lambda: search_row(ours, memory, self, {}, short), None)
        for part in (encoder, states):
            part.difference = _difference(part)
        same = list(written) == self._their_tokens(theirs, memory)[0, 2:].tolist()
        writing.difference = 0.0 if same else float("nan")
        return [encoder, writing, shortlist, states]

    def _encode(self, ours: Model) -> Seq:
        seq = Seq(self.features, torch.tensor([self.features.shape[1]], device=self.device), 50.0)
        return ours.encode("speech", seq, "encoders")

    def _their_tokens(self, theirs: Any, memory: Seq) -> Tensor:
        from transformers.modeling_outputs import BaseModelOutput

        return theirs.generate(
            input_features=self.features, encoder_outputs=BaseModelOutput(last_hidden_state=memory.x), tgt_lang="deu",
            num_beams=self.beam_size, do_sample=False, min_new_tokens=self.tokens, max_new_tokens=self.tokens,
        )  # fmt: skip

    def voice(self) -> list[Part]:
        """Units and waveform of what was written."""
        from transformers.models.seamless_m4t_v2 import modeling_seamless_m4t_v2 as code

        numbers = Config(**config_from("hf", self.config.to_dict(), {}))
        with torch.device("meta"):
            their_units: Any = code.SeamlessM4Tv2TextToUnitForConditionalGeneration(self.config)
            their_gan: Any = code.SeamlessM4Tv2CodeHifiGan(self.config)
            t2u, gan = units.build(numbers.units), hifigan.build(numbers.vocoder)
        their_units, their_gan = self.random(their_units), self.random(their_gan)
        for module in their_units.modules():
            if hasattr(module, "make_weights"):
                module.make_weights(module.weights.shape[0] - module.offset, module.embedding_dim, module.padding_idx)
                module.weights = module.weights.to(self.device, self.dtype)
        source = {k: v for k, v in their_units.state_dict().items() if k != "lm_head.weight"}
        _load(t2u, source, units.hf_rules())
        _load(gan, dict(their_gan.state_dict()), hifigan.hf_rules())
        t2u, gan = t2u.to(self.device), gan.to(self.device)
        t2u.positions.to(self.dtype)
        n = self.tokens + 2
        states = torch.randn(1, n, 1024, device=self.device).to(self.dtype)
        counts = torch.full((1, n), 4, device=self.device)
        counts[:, 0] = counts[:, -1] = 0
        chars = torch.randint(5, 10_000, (1, int(counts.sum())), device=self.device)
        memory = Seq(states, torch.tensor([n], device=self.device))
        found = t2u.units(memory, chars, counts)
        spoken = torch.zeros(1, dtype=torch.int64, device=self.device)
        speaking = Part(
            f"units, {found.x.shape[1]} of 20 ms",
            lambda: t2u(memory, chars, counts).x,
            lambda: their_units(
                inputs_embeds=states, char_input_ids=chars, char_count_per_id=counts,
                attention_mask=torch.ones(1, n, device=self.device), return_dict=False,
            )[0],
        )  # fmt: skip
        sound = Part(
            "vocoder",
            lambda: gan(found, spoken, spoken, predict_durations=True).x,
            lambda: their_gan(input_ids=found.x, speaker_id=spoken[None], lang_id=spoken[None])[0].reshape(1, -1),
        )
        for part in (speaking, sound):
            part.difference = _difference(part)
        return [speaking, sound]


def search_row(
    ours: Model, memory: Seq, bench: _Bench, shared: State, decoder: ShortlistDecoder | None = None
) -> tuple[int, ...]:
    """The tokens of one search of the forced length."""
    prefix = torch.tensor([[EOS, LANGUAGE]], device=bench.device)
    if decoder is not None:
        prefix = torch.tensor([[decoder.index[t] for t in (EOS, LANGUAGE)]], device=bench.device)
    how = SearchOptions(beam_size=bench.beam_size, max_tokens=bench.tokens)
    return search(decoder or ours.decoder, memory, prefix, EOS, how, [Suppress([EOS])], shared).rows[0][0].tokens


def _load(model: nn.Module, source: dict[str, Tensor], rules: Sequence[Any]) -> None:
    shapes = {k: tuple(v.shape) for k, v in model.named_parameters()}
    fill(model, dict(convert(source, rules, shapes)))
    model.eval()


def _difference(part: Part) -> float:
    assert part.theirs is not None
    a, b = part.ours().float(), part.theirs().float()
    return float((a - b.reshape(a.shape)).abs().max() / b.abs().max())


def _show(parts: Sequence[Part], bench: _Bench, rounds: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "transformers s", "mmx s", "ratio", "difference", box=None)
    best = {p.name: (min(p.theirs_s, default=float("nan")), min(p.ours_s)) for p in parts}
    for p in parts:
        theirs, ours = best[p.name]
        ratio = f"{theirs / ours:.2f}" if p.theirs_s else ""
        difference = "" if p.difference is None else f"{p.difference:.0e}"
        table.add_row(p.name, f"{theirs:.2f}" if p.theirs_s else "", f"{ours:.2f}", ratio, difference)
    encoder, decoder, short, states, speaking, sound = (best[p.name] for p in parts)
    pairs = {
        "speech to text": (encoder[0] + decoder[0], encoder[1] + decoder[1]),
        # transformers hears the speech a second time to speak; the encoder's output is at hand here.
        "speech to speech": (
            2 * encoder[0] + decoder[0] + states[0] + speaking[0] + sound[0],
            encoder[1] + decoder[1] + states[1] + speaking[1] + sound[1],
        ),
        "speech to text, shortlist": (encoder[0] + decoder[0], encoder[1] + short[1]),
    }
    table.add_section()
    for name, (theirs, ours) in pairs.items():
        table.add_row(name, f"{theirs:.2f}", f"{ours:.2f}", f"{theirs / ours:.2f}", "")
    console = Console()
    console.print(
        f"{bench.layers} layers, {bench.seconds:g} s of speech, beam {bench.beam_size}, {bench.dtype}, {bench.device}, "
        f"{torch.get_num_threads()} threads, best of {rounds}; peak {peak_mb():.0f} MB for both sides"
    )
    console.print(table)
