"""A tiny Whisper on the disk, and tones for it to tell apart."""

import json
from pathlib import Path

import numpy as np
import soundfile as sf
import torch

from mmx.models.whisper import Config, build
from mmx.models.whisper.tokenizer import _alphabet
from mmx.train.optim import initialize
from mmx.weights.folder import write_model

RATE = 16_000
WINDOW_S = 1.0
PITCHES_HZ = {"low": 300.0, "mid": 900.0, "high": 2700.0}
_SPECIALS = ("endoftext", "startoftranscript", "en", "translate", "transcribe", "startoflm", "startofprev")
_SPECIALS += ("nospeech", "notimestamps")
VOCAB = 256 + len(_SPECIALS) + 1501


def tiny_whisper(folder: Path, seed: int = 0) -> Path:
    """The folder of a random English-only Whisper that hears one second and writes bytes."""
    files = folder.parent / f"{folder.name}-tokenizer"
    files.mkdir(parents=True)
    specials = [{"content": f"<|{name}|>", "id": 256 + i} for i, name in enumerate(_SPECIALS)]
    letters = {letter: i for i, letter in enumerate(_alphabet())}
    content = {"model": {"vocab": letters, "merges": []}, "added_tokens": specials}
    (files / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    config = {"n_mels": 80, "audio_ctx": 50, "audio_width": 16, "audio_heads": 2, "audio_layers": 1, "vocab": VOCAB}
    config |= {"text_ctx": 32, "text_width": 16, "text_heads": 2, "text_layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build(Config(**config))
        initialize(model)
    card = {"name": "tiny", "summary": "random", "license": "CC0-1.0", "commercial": True}
    tensors = ((name, p.detach()) for name, p in model.named_parameters())
    write_model(folder, tensors, family="whisper", config=config, card=card, tokenizer=files)
    return folder


def tone(path: Path, hz: float, seconds: float = 0.5, seed: int = 0) -> Path:
    """A tone at a random phase, in a little noise."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * hz * at + rng.uniform(0, 6)) + rng.normal(0, 0.01, len(at))
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, wave.astype(np.float32), RATE)
    return path


def tones(folder: Path, n: int, name: str = "train") -> Path:
    """A manifest of tones and their names."""
    rows = ["id\taudio\ttext\tsrc_lang\torigin"]
    for i in range(n):
        word = list(PITCHES_HZ)[i % 3]
        tone(folder / name / f"{i}.wav", PITCHES_HZ[word], 0.3 + 0.1 * (i % 4), i)
        rows.append(f"{name}{i}\t{name}/{i}.wav\t{word}\ten\ttones")
    path = folder / f"{name}.tsv"
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path
