"""`mmx bench live`: live listening beside the published methods, on the same weights and the same sound, in one run.

The peers' methods are written here on openai-whisper's own model, as their papers describe them: whisper_streaming
(Macháček et al. 2023, arXiv 2307.14743) and SimulStreaming (Macháček and Polák 2025; AlignAtt of Papi et al. 2023,
arXiv 2305.11408). Both look at each new piece of sound with the encoder's full 30 s, as they must with that model.

Letters: M encoder frames, U tokens, N heads.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmx.errors import InputError
from mmx.evaluate.streaming import Figures, Listening, Recording, measure, table, word_errors
from mmx.files import atomic_write
from mmx.media.audio import SAMPLE_RATE as RATE
from mmx.tasks.events import Event


@dataclass(frozen=True)
class _Word:
    start_s: float
    end_s: float
    text: str


class LocalAgreement:
    """whisper_streaming: words that two transcriptions in a row agree on are written.

    The buffer is transcribed whole at each push, with the text before it as prompt; when longer than `TRIM_S` it is cut
    at the last segment that is written.
    """

    TRIM_S = 15.0
    PROMPT = 200  # characters of written text before the buffer

    def __init__(self, model: Any, language: str):
        self.model, self.language = model, language
        self.audio = np.zeros(0, np.float32)
        self.begin_s = 0.0
        self.written: list[_Word] = []
        self.before: list[_Word] = []

    def push(self, chunk: NDArray[np.float32], final: bool = False) -> list[Event]:
        """Hear more; what may be written."""
        self.audio = np.concatenate([self.audio, chunk])
        result = self.model.transcribe(
            self.audio, language=self.language, initial_prompt=self._prompt(), word_timestamps=True, fp16=False
        )
        found = [
            _Word(w["start"] + self.begin_s, w["end"] + self.begin_s, w["word"])
            for s in result["segments"]
            for w in s["words"]
        ]
        new = self._new(found)
        same = (a.text.strip().casefold() == b.text.strip().casefold() for a, b in zip(self.before, new, strict=False))
        agreed = len(new) if final else sum(1 for _ in takewhile(bool, same))
        out, self.before = new[:agreed], new[agreed:]
        self.written += out
        self._trim([s["end"] + self.begin_s for s in result["segments"]])
        return _events(out)

    def _new(self, found: Sequence[_Word]) -> list[_Word]:
        """Words after what is written: by their times, and without up to five that are repeated at the seam."""
        last_s = self.written[-1].end_s if self.written else 0.0
        new = [w for w in found if w.start_s > last_s - 0.1]
        if new and self.written and abs(new[0].start_s - last_s) < 1:
            for n in range(min(5, len(new), len(self.written)), 0, -1):
                if [w.text for w in self.written[-n:]] == [w.text for w in new[:n]]:
                    return new[n:]
        return new

    def _prompt(self) -> str:
        text = "".join(w.text for w in self.written if w.end_s <= self.begin_s)
        return text[-self.PROMPT :]

    def _trim(self, ends_s: Sequence[float]) -> None:
        if len(self.audio) / RATE <= self.TRIM_S or not self.written:
            return
        whole = [t for t in ends_s[:-1] if t <= self.written[-1].end_s]
        if whole:
            self.audio = self.audio[round((whole[-1] - self.begin_s) * RATE) :]
            self.begin_s = whole[-1]


class AlignAtt:
    """SimulStreaming: words are written until the decoder looks at the end of the sound.

    At each push the buffer is encoded, the decoder is forced to what is written of it and goes on greedily; it stops at
    the first token whose attention falls within `MARGIN` frames of the end, and an unfinished last word waits. A buffer
    of more than `LONGEST_S` loses its oldest push, whose words become context.
    """

    MARGIN = 25  # frames of 20 ms
    REWIND = 200  # frames; attention that jumps back further is astray
    LONGEST_S = 30.0
    CONTEXT = 100  # tokens

    def __init__(self, model: Any, language: str):
        from whisper.tokenizer import get_tokenizer

        self.model = model
        self.tok = get_tokenizer(model.is_multilingual, num_languages=model.num_languages, language=language)
        self.audio: list[NDArray[np.float32]] = []
        self.begin_s = 0.0
        self.pushes: list[list[int]] = []  # tokens written at each push of the buffer
        self.context: list[int] = []

    def push(self, chunk: NDArray[np.float32], final: bool = False) -> list[Event]:
        """Hear more; what may be written."""
        self.audio.append(chunk)
        self.pushes.append([])
        while sum(map(len, self.audio)) > self.LONGEST_S * RATE:
            self.begin_s += len(self.audio.pop(0)) / RATE
            self.context = [*self.context, *self.pushes.pop(0)][-self.CONTEXT :]
        tokens, frames = self._write(np.concatenate(self.audio), final)
        words, groups = self.tok.split_to_word_tokens([*tokens, self.tok.eot])
        words, groups = words[:-1], groups[:-1]
        out, at = [], 0
        for text, group in zip(words, groups, strict=True):
            start_s, end_s = (self.begin_s + frames[i] * 0.02 for i in (at, at + len(group) - 1))
            out.append(_Word(start_s, max(start_s, end_s), text))
            at += len(group)
        self.pushes[-1] = list(tokens)
        return _events(out)

    def _write(self, audio: NDArray[np.float32], final: bool) -> tuple[list[int], list[int]]:
        """New tokens and the frame that each looks at."""
        import torch
        import whisper

        before = [self.tok.sot_prev, *self.context] if self.context else []
        prefix = [*before, *self.tok.sot_sequence_including_notimestamps, *(t for p in self.pushes for t in p)]
        content = int(len(audio) / RATE * 50)
        with torch.no_grad():
            mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), self.model.dims.n_mels)
            memory = self.model.encoder(mel[None])
            new, frames, ended = self._greedy(torch.tensor([prefix]), memory, content, final)
        if not final and not ended and new:  # the last word may go on
            _, groups = self.tok.split_to_word_tokens([*new, self.tok.eot])
            kept = len(new) - len(groups[-2])
            new, frames = new[:kept], frames[:kept]
        return new, frames

    def _greedy(self, prefix: Any, memory: Any, content: int, final: bool) -> tuple[list[int], list[int], bool]:
        cache, hooks = self.model.install_kv_cache_hooks()
        scores: list[Any] = [None] * len(self.model.decoder.blocks)
        watchers = [
            block.cross_attn.register_forward_hook(lambda _, __, out, i=i: scores.__setitem__(i, out[-1]))
            for i, block in enumerate(self.model.decoder.blocks)
        ]
        new: list[int] = []
        frames: list[int] = []
        tokens, ended = prefix, False
        banned = [*self.tok.non_speech_tokens, *self._controls()]
        try:
            from whisper.model import disable_sdpa

            with disable_sdpa():  # the fused kernel gives no weights
                while len(new) < 100 and prefix.shape[1] + len(new) < self.model.dims.n_text_ctx:
                    logits = self.model.decoder(tokens, memory, kv_cache=cache)[0, -1]
                    frame = self._frame(scores, content)
                    logits[banned] = -np.inf
                    logits[self.tok.timestamp_begin :] = -np.inf
                    token = int(logits.argmax())
                    ended = token == self.tok.eot
                    if ended or (not final and frame >= content - self.MARGIN):
                        break
                    if frames and frames[-1] - frame > self.REWIND:
                        return [], [], False
                    new.append(token)
                    frames.append(frame)
                    tokens = prefix.new_tensor([[token]])
        finally:
            for hook in [*hooks, *watchers]:
                hook.remove()
        return new, frames, ended

    def _frame(self, scores: Sequence[Any], content: int) -> int:
        """Frame of the sound that the heads of the alignment look at most, at the last token."""
        import torch

        heads = self.model.alignment_heads.indices().T.tolist()
        weights_NM = torch.stack([scores[i][0, h, -1, :content].float().softmax(-1) for i, h in heads])
        return int(weights_NM.mean(0).argmax())

    def _controls(self) -> list[int]:
        tok = self.tok
        return [tok.sot, tok.transcribe, tok.translate, tok.sot_prev, tok.sot_lm, tok.no_speech, tok.no_timestamps]


def _events(words: Sequence[_Word]) -> list[Event]:
    return [Event(i, w.text, w.start_s, w.end_s, 0.0, False, "") for i, w in enumerate(words)]


# -------------------- the run


def systems(language: str, step_s: float, folder: Path) -> dict[str, Callable[[], Listening]]:
    """What is compared, by name; the peers where openai-whisper is installed."""
    import mmx
    from mmx.streaming.stream import Stream

    ours = mmx.load("whisper-base", device="cpu")
    made: dict[str, Callable[[], Listening]] = {
        f"mmx {policy}": lambda policy=policy: Stream(ours, policy=policy, language=language, step_s=step_s)
        for policy in ("alignatt", "local-agreement")
    }
    try:
        import whisper
    except ImportError:
        return made
    theirs: Any = whisper.load_model(str(folder / "base.pt"), device="cpu")
    assert ours.card is not None
    mask = np.zeros((theirs.dims.n_text_layer, theirs.dims.n_text_head), bool)
    for layer, head in ours.card.alignment_heads:
        mask[layer, head] = True
    theirs.set_alignment_heads(_packed(mask))
    made["whisper_streaming (LocalAgreement-2)"] = lambda: LocalAgreement(theirs, language)
    made["SimulStreaming (AlignAtt)"] = lambda: AlignAtt(theirs, language)
    return made


def _packed(mask: NDArray[np.bool_]) -> bytes:
    """Heads as openai-whisper takes them."""
    import base64
    import gzip

    return base64.b85encode(gzip.compress(mask.tobytes()))


def live(
    file: Path | None = None,
    reference: Path | None = None,
    *,
    language: str = "en",
    step_s: float = 1.0,
    rounds: int = 1,
    threads: int = 0,
    output: Path | None = None,
) -> list[Figures]:
    """Run the comparison and print its table; see `mmx bench live --help`."""
    import torch

    from mmx.bench.asr import export, read_reference
    from mmx.files import SAMPLE, SAMPLE_TEXT
    from mmx.media.audio import read_audio
    from mmx.weights.hub import cache_dir

    if reference and not file:
        raise InputError("expected a recording with --reference, got none")
    if threads:
        torch.set_num_threads(threads)
    text = read_reference(reference) if reference else ("" if file else SAMPLE_TEXT)
    recording = Recording(str(file or SAMPLE), read_audio(file or SAMPLE), " ".join(text.split()))
    folder = cache_dir() / "bench"
    export(folder)
    score = partial(word_errors, language=language) if text.strip() else (lambda references, texts: float("nan"))
    best: dict[str, Figures] = {}
    made = systems(language, step_s, folder)
    for _ in range(rounds):
        for name, make in made.items():
            found = measure(make, [recording], system=name, step_s=step_s, score=score)
            if name not in best or found.compute_s < best[name].compute_s:
                best[name] = found
    figures = list(best.values())
    print(f"{recording.duration_s:.1f} s of sound, {torch.get_num_threads()} threads; lag: median over the words, the")
    print("time from the end of a word in the audio to its output, without compute\n")
    print(table(figures))
    if output:
        kept = [{k: v for k, v in asdict(f).items() if k not in ("texts", "lags")} for f in figures]
        atomic_write(output, json.dumps(kept, indent=1))
    return figures
