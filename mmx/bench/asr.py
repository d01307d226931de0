"""`mmx bench asr`: mmx beside its peers in one interleaved run, on the same audio, weights, beam and threads.

Every engine lives in a process of its own, so that its peak memory and cold start are its own; the rounds go around
the engines, so that a noisy machine treats them alike, and the best round of each counts.
"""
# The peers are optional and mostly untyped:
# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmx.errors import InputError, MmxError
from mmx.evaluate.metrics import installed_normalization, measure
from mmx.files import atomic_write

Transcriber = Callable[[], str]


@dataclass
class Figures:
    """What was measured of one engine."""

    engine: str
    times_s: list[float] = field(default_factory=list)
    text: str = ""
    wer: float | None = None
    cold_start_s: float = 0.0
    peak_mb: float = 0.0
    error: str = ""

    @property
    def best_s(self) -> float:
        return min(self.times_s) if self.times_s else float("nan")


@dataclass(frozen=True)
class Setup:
    """What every worker is told."""

    audio: str  # .npy of float32 samples at 16 kHz
    language: str
    beam_size: int
    threads: int
    folder: str  # exported weights


# ---------------------------------------------------------------------------------------------------- the engines


def _mmx(setup: Setup, dtype: str = "auto") -> Transcriber:
    import torch

    import mmx

    torch.set_num_threads(setup.threads)
    model = mmx.load("whisper-base", dtype=dtype, device="cpu")  # pyright: ignore[reportArgumentType]
    audio = np.load(setup.audio)
    return lambda: model.transcribe(audio, language=setup.language, beam_size=setup.beam_size).text


def _openai(setup: Setup) -> Transcriber:
    import torch
    import whisper

    torch.set_num_threads(setup.threads)
    model = whisper.load_model(str(Path(setup.folder) / "base.pt"), device="cpu")
    audio = np.load(setup.audio)
    options = {"language": setup.language, "beam_size": setup.beam_size, "fp16": False}
    return lambda: str(model.transcribe(audio, **options)["text"])


def _faster(setup: Setup, batched: bool = False) -> Transcriber:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(Path(setup.folder) / "ct2"), device="cpu", compute_type="int8", cpu_threads=setup.threads)
    audio = np.load(setup.audio)
    options: dict[str, Any] = {"language": setup.language, "beam_size": setup.beam_size}
    engine = model
    if batched:
        engine, options = BatchedInferencePipeline(model), {**options, "batch_size": 8}
    return lambda: "".join(s.text for s in engine.transcribe(audio, **options)[0])


def _transformers(setup: Setup) -> Transcriber:
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    torch.set_num_threads(setup.threads)
    folder = str(Path(setup.folder) / "hf")
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    processor = WhisperProcessor.from_pretrained(folder)
    audio = np.load(setup.audio)

    def run() -> str:
        inputs = processor(
            audio, sampling_rate=16_000, return_tensors="pt", truncation=False, padding="longest",
            return_attention_mask=True,
        )  # fmt: skip
        if inputs["input_features"].shape[-1] < 3000:
            inputs = processor(audio, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
        ids = model.generate(
            **inputs,
            language=setup.language,
            task="transcribe",
            num_beams=setup.beam_size,
            return_timestamps=True,
        )
        return processor.batch_decode(ids, skip_special_tokens=True)[0]

    return run


ENGINES: dict[str, tuple[str, Callable[[Setup], Transcriber]]] = {
    "mmx": ("torch", _mmx),
    "mmx float32": ("torch", lambda s: _mmx(s, "float32")),
    "faster-whisper int8 batched": ("faster_whisper", lambda s: _faster(s, batched=True)),
    "faster-whisper int8": ("faster_whisper", _faster),
    "openai-whisper float32": ("whisper", _openai),
    "transformers float32": ("transformers", _transformers),
}

# ---------------------------------------------------------------------------- the same weights in the peers' formats


def export(folder: Path) -> None:
    """Write the default weights as OpenAI `.pt`, CTranslate2 and Hugging Face checkpoints, where a peer needs them.

    The keys come from each reference's own list; our conversion tables say which tensor each one is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if importlib.util.find_spec("faster_whisper") and not (folder / "ct2" / "config.json").exists():
        _export_ct2(folder / "ct2")
    if importlib.util.find_spec("whisper") and not (folder / "base.pt").exists():
        _export_openai(folder / "base.pt")
    if importlib.util.find_spec("transformers") and not (folder / "hf" / "generation_config.json").exists():
        _export_hf(folder / "hf")


def _default() -> Any:
    from mmx.weights import hub
    from mmx.weights.card import find_card

    return hub.locate(find_card("whisper-base"), download=False)


def _export_ct2(folder: Path) -> None:
    import shutil

    from mmx.weights import hub

    found = _default()
    folder.mkdir(parents=True, exist_ok=True)
    with hub.joined(found) as path:
        shutil.copy(path, folder / "model.bin")
    for name in ("tokenizer.json", "vocabulary.txt", "config.json"):
        shutil.copy(found.parts[0].with_name(name), folder / name)


def _filled(state: dict[str, Any], format: str) -> dict[str, Any]:
    """The reference's state dict with our weights."""
    import mmx
    from mmx.models.whisper import KEYS
    from mmx.weights.convert import plan

    ours = dict(mmx.load("whisper-base", dtype="float32", device="cpu").named_parameters())
    for key, targets in plan(state, KEYS[format]).items():
        if targets:
            state[key] = ours[targets[0]].detach().clone()
    if "proj_out.weight" in state:
        state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return state


def _export_openai(path: Path) -> None:
    import torch
    from whisper.model import ModelDimensions, Whisper

    dims = ModelDimensions(80, 1500, 512, 8, 6, 51865, 448, 512, 8, 6)
    model = Whisper(dims)
    torch.save({"dims": asdict(dims), "model_state_dict": _filled(model.state_dict(), "openai")}, path)


def _export_hf(folder: Path) -> None:
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizerFast,
    )

    from mmx.models.whisper.tokenizer import LANGUAGES, WhisperTokenizer
    from mmx.weights.card import find_card

    found = _default()
    tok = WhisperTokenizer.from_file(found.tokenizer)
    config = WhisperConfig(
        vocab_size=51865, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, decoder_start_token_id=tok.sot,
        pad_token_id=tok.eot, bos_token_id=tok.eot, eos_token_id=tok.eot,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.load_state_dict(_filled(model.state_dict(), "hf"))
    never = [
        *tok.non_speech_tokens(),
        tok.transcribe,
        tok.translate,
        tok.sot,
        tok.sot_prev,
        tok.sot_lm,
        tok.no_speech,
    ]
    model.generation_config = GenerationConfig(
        alignment_heads=[list(h) for h in find_card("whisper-base").alignment_heads], is_multilingual=True,
        lang_to_id={f"<|{c}|>": i for c, i in tok.language_ids.items()},
        task_to_id={"transcribe": tok.transcribe, "translate": tok.translate}, no_timestamps_token_id=tok.no_timestamps,
        suppress_tokens=sorted(never), begin_suppress_tokens=tok.blank_tokens(), decoder_start_token_id=tok.sot,
        prev_sot_token_id=tok.sot_prev, max_initial_timestamp_index=50, max_length=448, pad_token_id=tok.eot,
        bos_token_id=tok.eot, eos_token_id=tok.eot,
    )  # fmt: skip
    tokenizer = WhisperTokenizerFast(tokenizer_file=str(found.tokenizer), language=next(iter(LANGUAGES)))
    WhisperProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer).save_pretrained(folder)
    model.save_pretrained(folder)


# ------------------------------------------------------------------------------------------------------- the workers


def _worker(engine: str, setup: Setup) -> None:
    """Load, say how long the first text took, then run whenever a line comes in; figures go out as JSON lines."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the engines' own prints must not disturb the figures
    run = ENGINES[engine][1](setup)
    run()
    print(json.dumps({"ready": True}), file=out, flush=True)
    for _ in sys.stdin:
        begin = time.perf_counter()
        text = run()
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "text": text, "peak_mb": peak_mb()}), file=out, flush=True)


def peak_mb() -> float:
    """Peak resident memory of this process in MB, without what its parent used before it."""
    status = Path("/proc/self/status")
    if status.exists():  # `getrusage` would report the parent's peak, which survives the fork
        line = next(ln for ln in status.read_text().splitlines() if ln.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    import psutil

    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss) / 1e6


class _Engine:
    """The parent's end of a worker."""

    def __init__(self, name: str, setup: Setup):
        self.figures = Figures(name)
        begin = time.perf_counter()
        command = [sys.executable, "-m", "mmx.bench.asr", name, json.dumps(asdict(setup))]
        env = {**os.environ, "OMP_NUM_THREADS": str(setup.threads), "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        if self._read() is not None:
            self.figures.cold_start_s = time.perf_counter() - begin

    def _read(self) -> dict[str, Any] | None:
        assert self.process.stdout and self.process.stderr
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.figures.error = (self.process.stderr.read().strip().splitlines() or ["died without a word"])[-1]
            return None
        return json.loads(line)

    def round(self) -> None:
        if self.figures.error:
            return
        assert self.process.stdin
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        if (got := self._read()) is not None:
            self.figures.times_s.append(got["seconds"])
            self.figures.text, self.figures.peak_mb = got["text"], got["peak_mb"]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


# -------------------------------------------------------------------------------------------------------- the report


def matmul_gflops(threads: int) -> float:
    """The machine's own ceiling: float32 GFLOP/s of a product shaped as the encoder's largest."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(1500, 512), torch.randn(512, 2048)
    best = float("inf")
    for _ in range(20):
        begin = time.perf_counter()
        _ = a @ b
        best = min(best, time.perf_counter() - begin)
    return 2 * 1500 * 512 * 2048 / best / 1e9


def word_error_rate(reference: str, text: str) -> float:
    """Of English, after Whisper's normalization where openai-whisper is installed, else of bare words."""
    how = installed_normalization()
    return measure("wer", [text], [reference], language="en", normalize=how, bootstrap=0).value / 100


def _audio(files: Sequence[Path], repeat: int) -> np.ndarray:
    from mmx.files import SAMPLE
    from mmx.media.audio import read_audio

    gap = np.zeros(8000, np.float32)
    waves = [part for f in files or [SAMPLE] for part in (read_audio(f), gap)]
    return np.concatenate(waves * repeat)


def read_reference(path: Path) -> str:
    """What was said. Raises `InputError` for a file that cannot be read as text."""
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as e:
        raise InputError(f"expected a text in UTF-8 for --reference, got {path} ({e})") from e


def asr(
    files: Sequence[Path],
    reference: Path | None = None,
    *,
    beam_size: int = 5,
    rounds: int = 3,
    threads: int = 0,
    repeat: int = 1,
    output: Path | None = None,
) -> list[Figures]:
    """Run the comparison and print its table; see `mmx bench asr --help`."""
    import tempfile

    from mmx.files import SAMPLE_TEXT
    from mmx.weights.hub import cache_dir

    if reference and not files:
        raise InputError("expected recordings with --reference, got none")
    threads = threads or os.cpu_count() or 1
    audio = _audio(files, repeat)
    truth = read_reference(reference) if reference else ("" if files else SAMPLE_TEXT)
    truth = " ".join([truth] * repeat)
    folder = cache_dir() / "bench"
    export(folder)
    engines: list[_Engine] = []
    with tempfile.TemporaryDirectory() as tmp:
        path = Path(tmp) / "audio.npy"
        np.save(path, audio)
        setup = Setup(str(path), "en", beam_size, threads, str(folder))
        ceiling = [matmul_gflops(threads)]
        try:
            for name, (module, _) in ENGINES.items():
                if importlib.util.find_spec(module) is None:
                    print(f"{name}: not installed (pip install 'mmx[bench]')", file=sys.stderr)
                    continue
                engines.append(_Engine(name, setup))
            for _ in range(rounds):
                for engine in engines:
                    engine.round()
                ceiling.append(matmul_gflops(threads))
        finally:
            for engine in engines:
                engine.close()
    figures = [e.figures for e in engines]
    for f in figures:
        f.wer = word_error_rate(truth, f.text) if truth.strip() and f.text else None
    _show(figures, len(audio) / 16_000, max(ceiling), threads, beam_size)
    if output:
        atomic_write(output, json.dumps([asdict(f) for f in figures], indent=1))
    if figures[0].error:
        raise MmxError(f"mmx itself failed: {figures[0].error}")
    return figures


def _show(figures: Sequence[Figures], seconds: float, gflops: float, threads: int, beam_size: int) -> None:
    mine = figures[0]
    print(
        f"{seconds:.1f} s of audio, whisper-base, beam {beam_size}, {threads} threads, {platform.machine()}; "
        f"float32 matmul ceiling {gflops:.0f} GFLOP/s. Times are the best of {len(mine.times_s)} interleaved rounds.\n"
    )
    print(f"| {'engine':<28} | seconds | real-time factor | time / mmx | WER % | peak MB | cold start s |")
    print("|" + "|".join("-" * n for n in (30, 9, 18, 12, 7, 9, 14)) + "|")
    for f in figures:
        if f.error:
            print(f"| {f.engine:<28} | failed: {f.error[:80]} |")
            continue
        wer = "" if f.wer is None else f"{100 * f.wer:.1f}"
        print(
            f"| {f.engine:<28} | {f.best_s:7.2f} | {f.best_s / seconds:16.4f} | {f.best_s / mine.best_s:10.2f} "
            f"| {wer:>5} | {f.peak_mb:7.0f} | {f.cold_start_s:12.1f} |"
        )


if __name__ == "__main__":
    _worker(sys.argv[1], Setup(**json.loads(sys.argv[2])))
