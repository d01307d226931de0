"""Our own voices beside their teacher: what is understood, how it sounds, whose voice it is, how long it takes.

    python -m mmx.experiments.voice speak OUT --model flow-voice --steps 4 [--texts FILE] [--lines 100]
    python -m mmx.experiments.voice score OUT [OUT ...] [--texts FILE] [--reference OUT]
    python -m mmx.experiments.voice copy OUT data/voice/vocoder/valid.tsv [--model flow-voice]
    python -m mmx.experiments.voice time [--model flow-voice]
    python -m mmx.experiments.voice spread [--model flow-voice]
    python -m mmx.experiments.voice energy data/voice/valid.tsv [--model flow-voice]

`speak` has line i spoken by voice i modulo their number, one WAV file each, and measures the time; `score` has the
default recognizer write what it hears (word error rate), and rates the sound by DNSMOS (Reddy et al. 2021, arXiv
2010.15258; package speechmos). With `--reference OUT` the speakers are compared with those there (package resemblyzer):
how often the nearest of all voices is the right one, and both similarities. `--only wer` leaves out the packages.
`copy` has a vocoder, a voice's or one that is trained by itself, make the sound of held-out latents; `--model teacher`
copies the teacher's. `score OUT --only mos` rates either.
`time` says how long the first audio of 5 and of 500 words takes, and how far blocks are from the whole. `spread` says
what a flow does with its noise: how far the frames of several seeds are from their mean, this from the prior's, and how
rough they are. After one step the spread is 0: noise alone says nothing of the frames.
`energy` scores the frames against the teacher's of held-out sentences, in the teacher's own durations, without a
vocoder: by the energy score E|X - y| - E|X - X'| / 2 (Gneiting and Raftery 2007, Journal of the American Statistical
Association 102(477), section 4.3), which is least on the average for the distribution that the teacher draws from, the
error of the mean, and roughness and deviation over a sentence, the teacher's beside them.

Letters: V voices, L lines, D width of an embedding, S seeds, M frames, F features.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

import mmx
from mmx.errors import InputError
from mmx.evaluate.streaming import word_errors
from mmx.interfaces import Speech
from mmx.models.flow_voice.frames import RATE_HZ
from mmx.models.flow_voice.synth import FlowVoice
from mmx.models.flow_voice.vocoder import RATE, Vocoder
from mmx.seq import pad
from mmx.tasks.synthesize import SpeakOptions
from mmx.train.manifest import Example, read_manifest

TEXTS = Path(__file__).parents[2] / "tests" / "data" / "voice_test.txt"
TIMES = "times.json"
TEACHER = "teacher"
"""In place of a model: the sound in the data."""
PRIOR = "prior"
"""In place of a number of steps: the mean of the frames, without a flow."""


def speak(out: Path, model: mmx.Model, lines: Sequence[str], steps: str) -> dict[str, float]:
    """Speak lines into WAV files and return seconds of sound and of work, in processor time."""
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(name for name in model.require_synth().voices("en") if name[0] in "ab")
    if steps == PRIOR:
        _flow(model).steps = 0
    sound_s, work_s = 0.0, 0.0
    for i, line in enumerate(lines):
        options = SpeakOptions(voice=names[i % len(names)], language="en", steps=0 if steps == PRIOR else int(steps))
        before = time.process_time()
        said = model.speak(line, **vars(options))
        work_s += time.process_time() - before
        sound_s += len(said.samples) / said.rate
        soundfile.write(out / f"{i}.wav", said.samples, int(said.rate))
    found = {"sound_s": sound_s, "work_s": work_s, "real_time_factor": work_s / sound_s, "voices": float(len(names))}
    (out / TIMES).write_text(json.dumps(found))
    return found


def copy(out: Path, vocoder: Vocoder | None, rows: Sequence[Example]) -> None:
    """Write the sound of latents, one WAV file each: the vocoder's, or without one what is in the data."""
    out.mkdir(parents=True, exist_ok=True)
    (out / TIMES).write_text("{}")
    for i, row in enumerate(rows):
        if vocoder is None:
            wave, _ = soundfile.read(row.makes["audio"], dtype="float32")
        else:
            features_MF = torch.from_numpy(np.load(row.media["features"]).astype(np.float32))
            with torch.inference_mode():
                wave = vocoder(pad([features_MF], RATE_HZ)).x[0].numpy()
        soundfile.write(out / f"{i}.wav", wave.clip(-1, 1), RATE)


def _vocoder(name: str) -> Vocoder | None:
    """That of a voice, or a model of the family `copy_synthesis`; none for the teacher."""
    if name == TEACHER:
        return None
    model = mmx.load(name, dtype="float32")
    found = model.encoders["latent"] if "latent" in model.encoders else _flow(model).vocoder
    if not isinstance(found, Vocoder):
        raise InputError(f"expected a model with a vocoder of flow voices, got {name}")
    return found


def timed(model: mmx.Model, lines: Sequence[str], repeats: int = 5) -> dict[str, float]:
    """Seconds to the first audio of 5 and of 500 words, the least of some, and the error of blocks in percent.

    Both as a clock has them, and of the processor's time, which other programs on the machine change less.
    """
    found: dict[str, float] = {}
    words = " ".join(lines).split()
    for n in (5, 500):
        text, rows = " ".join(words[:n]), []
        for _ in range(repeats):
            before = time.perf_counter(), time.process_time()
            next(iter(model.stream_speech(text, language="en")))
            rows.append((time.perf_counter() - before[0], time.process_time() - before[1]))
        found[f"first_audio_of_{n}_words_s"], found[f"first_audio_of_{n}_words_cpu_s"] = map(
            min, zip(*rows, strict=True)
        )
    whole = model.speak(lines[40], language="en").samples
    blocks = np.concatenate([part.samples for part in model.stream_speech(lines[40], language="en")])
    found["blocks_differ_percent"] = float(100 * np.linalg.norm(blocks - whole) / np.linalg.norm(whole))
    return found


@torch.inference_mode()
def spread(model: mmx.Model, lines: Sequence[str], seeds: int = 4) -> dict[str, dict[str, float]]:
    """Root mean squares over frames, a line each by three voices: see above; the prior's under `PRIOR`."""
    synth, found = _flow(model), dict[str, list[list[float]]]()
    acoustic, names = synth.acoustic, sorted(synth.voices("en"))[::9][:3]
    for line, name in zip(lines[5::25], names, strict=False):
        how = [Speech(texts=[line], language="en", voice=name, seed=seed) for seed in range(seeds)]
        begun = [synth.prepared(speech)[0] for speech in how]
        n = acoustic.config.features
        prior_MF = begun[0].x[0, :, n : 2 * n]
        found.setdefault(PRIOR, []).append([0.0, _rms(prior_MF), _rms(prior_MF.diff(dim=0))])
        for steps in (1, 2, 4, 16):
            points = list(begun)
            for i in range(steps):
                points = [acoustic.step(at, i / steps, 1 / steps) for at in points]
            said_SMF = torch.stack([at.x[0, :, :n] for at in points])
            mean_MF = said_SMF.mean(0)
            row = [_rms(said_SMF - mean_MF) * (seeds / (seeds - 1)) ** 0.5, _rms(mean_MF - prior_MF)]
            found.setdefault(str(steps), []).append([*row, _rms(said_SMF.diff(dim=1))])
    keys = ("spread", "from_prior", "roughness")
    return {k: dict(zip(keys, np.mean(rows, 0).round(3).tolist(), strict=True)) for k, rows in found.items()}


@torch.inference_mode()
def energy(model: mmx.Model, rows: Sequence[torch.Tensor], seeds: int = 4) -> dict[str, dict[str, float]]:
    """Means over sentences, of frames weighed as in training: see above; the prior's under `PRIOR`.

    Args:
        model: a flow voice.
        rows: training data of sentences, `(M, frames.COLUMNS)`.
        seeds: of noise, at least two.
    """
    synth, found = _flow(model), dict[str, list[list[float]]]()
    weight_F = (synth.weight() / synth.weight().mean()).sqrt()
    for row in rows:
        taught = synth.taught(pad([row], RATE_HZ))
        frames_MF, n = taught.target.x[0] * weight_F, taught.prior.shape[2]
        noise = torch.Generator().manual_seed(0)
        begun_SMF = torch.randn(seeds, *taught.prior.shape[1:], generator=noise)
        for steps in (0, 1, 2, 4, 16):
            at = [torch.cat([x[None], taught.prior, taught.condition.x], 2) for x in begun_SMF]
            points = [taught.condition._replace(x=x) for x in at]
            for i in range(steps):
                points = [synth.acoustic.step(point, i / steps, 1 / steps) for point in points]
            said_SMF = torch.cat([point.x[..., :n] for point in points]) if steps else taught.prior.expand_as(begun_SMF)
            scored = _energy(said_SMF * weight_F, frames_MF)
            rough = [float(x.diff(dim=-2).square().mean().sqrt()) for x in (said_SMF, taught.target.x)]
            deviation = [float(x.std(dim=-2).mean()) for x in (said_SMF, taught.target.x)]
            found.setdefault(str(steps or PRIOR), []).append([*scored, *rough, *deviation])
    keys = ("energy", "error", "roughness", "teachers_roughness", "deviation", "teachers_deviation")
    return {k: dict(zip(keys, np.mean(v, 0).round(4).tolist(), strict=True)) for k, v in found.items()}


def _energy(said_SMF: torch.Tensor, frames_MF: torch.Tensor) -> tuple[float, float]:
    """The energy score of a frame, over the root of F, and the root mean square error of the samples' mean."""
    seeds, root = len(said_SMF), frames_MF.shape[1] ** 0.5
    away = (said_SMF - frames_MF).norm(dim=2).mean()
    apart = sum((said_SMF - one).norm(dim=2).sum() for one in said_SMF) / (seeds * (seeds - 1) * len(frames_MF))
    return float((away - apart / 2) / root), _rms(said_SMF.mean(0) - frames_MF)


def _flow(model: mmx.Model) -> FlowVoice:
    """The synth of a model whose voices are a flow's. Raises `InputError` for another."""
    synth = model.require_synth()
    if not isinstance(synth, FlowVoice):
        raise InputError(f"expected a model with flow voices, such as flow-voice, got {model.name}")
    return synth


def _rms(x: torch.Tensor) -> float:
    return float(x.square().mean().sqrt())


def recordings(folder: Path) -> list[Path]:
    """WAV files by their line."""
    return sorted(folder.glob("*.wav"), key=lambda p: int(p.stem))


def understood(folder: Path, lines: Sequence[str]) -> dict[str, Any]:
    """Word error rate in percent, and the lines that have any."""
    model, files = mmx.load("whisper-base"), recordings(folder)
    texts = [t.text for t in model.transcribe_many(files, language="en", beam_size=1)]
    wanted = [lines[int(p.stem)] for p in files]
    wrong = [(w, t) for w, t in zip(wanted, texts, strict=True) if word_errors([w], [t])]
    return {"wer_percent": word_errors(wanted, texts), "lines": len(files), "with_an_error": len(wrong), "wrong": wrong}


def rated(folder: Path) -> dict[str, float]:
    """Mean DNSMOS of all files: overall, and by ITU-T P.808."""
    from speechmos import dnsmos  # type: ignore[import-not-found]

    rows: list[Any] = [dnsmos.run(_read(p).clip(-1, 1), 16_000) for p in recordings(folder)]
    return {key: float(np.mean([row[key] for row in rows])) for key in ("ovrl_mos", "p808_mos")}


def similar(folder: Path, reference: Path, n_voices: int) -> dict[str, float]:
    """Similarity to the same voice of the reference and to its others, and how often the nearest is the right one."""
    from resemblyzer import VoiceEncoder  # type: ignore[import-not-found]

    encoder = VoiceEncoder("cpu", verbose=False)
    ours_LD, theirs_LD = (
        np.stack([encoder.embed_utterance(_read(p)) for p in recordings(f)]) for f in (folder, reference)
    )
    voice_L = np.array([int(p.stem) % n_voices for p in recordings(reference)])
    table_VD = np.stack([theirs_LD[voice_L == v].mean(0) for v in range(n_voices)])
    table_VD /= np.linalg.norm(table_VD, axis=1, keepdims=True)
    own_L = np.array([int(p.stem) % n_voices for p in recordings(folder)])
    score_LV = ours_LD @ table_VD.T
    same_LV = own_L[:, None] == np.arange(n_voices)
    return {
        "same_voice": float(score_LV[same_LV].mean()),
        "other_voices": float(score_LV[~same_LV].mean()),
        "nearest_is_right_percent": float(100 * (score_LV.argmax(1) == own_L).mean()),
    }


def _read(path: Path) -> np.ndarray:
    x, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(x, rate, 16_000).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """See above."""
    parser = argparse.ArgumentParser(prog="python -m mmx.experiments.voice")
    verbs = parser.add_subparsers(dest="verb", required=True)
    talk, judge, watch, noise, apart, same = map(
        verbs.add_parser, ("speak", "score", "time", "spread", "energy", "copy")
    )
    for verb in (talk, same):
        verb.add_argument("out", type=Path)
    for verb in (apart, same):
        verb.add_argument("data", type=Path, help="manifest of what mmx.models.flow_voice.prepare writes")
    for verb in (talk, watch, noise, apart, same):
        verb.add_argument("--model", default="flow-voice")
    talk.add_argument("--steps", default="0", help="0 for the model's own number, or prior")
    judge.add_argument("out", type=Path, nargs="+")
    judge.add_argument("--reference", type=Path)
    judge.add_argument("--only", nargs="*", default=["wer", "mos", "voice"])
    for verb in (talk, judge, watch, noise):
        verb.add_argument("--texts", type=Path, default=TEXTS)
    talk.add_argument("--lines", type=int, default=100)
    given = parser.parse_args(arguments)
    if given.verb == "energy":
        rows = [np.load(row.makes["features"]).astype(np.float32) for row in read_manifest(given.data)]
        print(json.dumps(energy(mmx.load(given.model), [torch.from_numpy(row) for row in rows]), indent=1))
        return 0
    if given.verb == "copy":
        copy(given.out, _vocoder(given.model), read_manifest(given.data))
        return 0
    lines = given.texts.read_text("utf-8").splitlines()
    if given.verb == "speak":
        print(json.dumps(speak(given.out, mmx.load(given.model), lines[: given.lines], given.steps)))
        return 0
    if given.verb == "time":
        print(json.dumps(timed(mmx.load(given.model), lines)))
        return 0
    if given.verb == "spread":
        print(json.dumps(spread(mmx.load(given.model), lines), indent=1))
        return 0
    for folder in given.out:
        found: dict[str, Any] = {"folder": folder.name, **json.loads((folder / TIMES).read_text())}
        found |= understood(folder, lines) if "wer" in given.only else {}
        found |= rated(folder) if "mos" in given.only else {}
        if given.reference and "voice" in given.only:
            found |= similar(folder, given.reference, int(found["voices"]))
        print(json.dumps(found, indent=1, ensure_ascii=False), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
