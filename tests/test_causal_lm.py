"""Language models as decoders: equal to transformers on the same embeddings, with a cache and without.

Letters: B rows, R hypotheses, U tokens, M memory frames, D width, V vocabulary.
"""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmx import api
from mmx.errors import CheckpointError, InputError
from mmx.generate import SearchOptions, search
from mmx.models import causal_lm
from mmx.models.causal_lm import CausalLM, Config
from mmx.seq import Seq
from mmx.state import State, fork, reorder

pytestmark = pytest.mark.parity

transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'mmx[llm]'")

WIDTH, VOCAB = 16, 50
COMMON = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
LLAMA = {**COMMON, "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen2": {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "gpt2": {**COMMON, "model_type": "gpt2", "n_embd": WIDTH, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "gpt_neox": {**LLAMA, "model_type": "gpt_neox", "num_key_value_heads": 4, "rotary_pct": 0.5},
    # Looks back over a window, and bounds its logits.
    "gemma2": {**LLAMA, "model_type": "gemma2", "head_dim": 4, "sliding_window": 4, "final_logit_softcapping": 1.0},
}


def tiny(name: str, before: tuple[int, ...] = ()) -> CausalLM:
    torch.manual_seed(0)
    decoder = causal_lm.build(Config(settings=json.dumps(SETTINGS[name]), before=before)).decoder.eval()
    with torch.no_grad():
        for p in decoder.parameters():
            p.copy_(0.3 * torch.randn(p.shape))
    return decoder


def memories(lengths: tuple[int, ...] = (7, 4, 1)) -> Seq:
    x = torch.randn(len(lengths), max(lengths), WIDTH, generator=torch.Generator().manual_seed(1))
    seq = Seq(x, torch.tensor(lengths), 12.5)
    return seq._replace(x=torch.where(seq.mask[..., None], x, torch.nan))


def written(rows: int, n: int = 5) -> Tensor:
    return torch.randint(3, VOCAB, (rows, n), generator=torch.Generator().manual_seed(2))


def reference(decoder: CausalLM, memory_MD: Tensor, tokens_U: Tensor) -> Tensor:
    """transformers' own forward on one row: embeddings side by side, no padding, no cache."""
    embed = decoder.lm.get_input_embeddings()  # type: ignore[operator]
    before = embed(torch.tensor(decoder.before, dtype=torch.int64))
    x_TD = torch.cat([before, memory_MD, embed(tokens_U)])
    return decoder.lm(inputs_embeds=x_TD[None]).logits[0, -len(tokens_U) :]


def references(decoder: CausalLM, memory: Seq, tokens_BU: Tensor) -> Tensor:
    rows = [x[:n] for x, n in zip(memory.x, memory.lengths.tolist(), strict=True)]
    return torch.stack([reference(decoder, m, t) for m, t in zip(rows, tokens_BU, strict=True)])


@pytest.fixture(params=SETTINGS)
def decoder(request: pytest.FixtureRequest) -> CausalLM:
    return tiny(request.param, before=(1, 9))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)


@torch.no_grad()
def test_logits_are_those_of_transformers(decoder: CausalLM) -> None:
    memory, tokens = memories(), written(3)
    want = references(decoder, memory, tokens)
    close(decoder(tokens, memory), want)
    close(decoder(tokens, memory, at=[1, -1]), want[:, [1, -1]])
    close(decoder.head(decoder.hidden(tokens, memory)), want)


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[5], [2, 3], [1, 1, 1, 1, 1]], ids=str)
def test_with_a_cache_as_without(decoder: CausalLM, sizes: list[int]) -> None:
    memory, tokens = memories(), written(3)
    state = decoder.init_state(3, 5)
    parts = [decoder(part, memory, state) for part in tokens.split(sizes, dim=1)]
    close(torch.cat(parts, dim=1), references(decoder, memory, tokens))


@torch.no_grad()
def test_hypotheses_share_the_memory_and_can_be_put_in_another_order(decoder: CausalLM) -> None:
    memory, state = memories(), decoder.init_state(3, 8, 2)
    prefix, more, last = written(3, 2), written(6, 1), written(5, 1)
    decoder(prefix, memory, state)
    state = reorder(state, torch.zeros(3, 2, dtype=torch.int64))
    decoder(more, memory, state, owner=[0, 0, 1, 1, 2, 2])
    state = reorder(state, torch.tensor([[1, 0], [1, 1], [0, 0]]))
    got = decoder(last, memory, state, owner=[0, 0, 1, 1, 2])
    parents = [(0, 1), (0, 0), (1, 3), (1, 3), (2, 4)]
    rows = torch.stack([torch.cat([prefix[b], more[r], t]) for (b, r), t in zip(parents, last, strict=True)])
    want = references(decoder, memory.rows(torch.tensor([b for b, _ in parents])), rows)
    close(got[:, 0], want[:, -1])


@torch.no_grad()
def test_a_fork_goes_its_own_way(decoder: CausalLM) -> None:
    memory, tokens = memories(), written(3)
    state = decoder.init_state(3, 8)
    decoder(tokens[:, :2], memory, state)
    decoder(tokens.flip(1), memory, fork(state))
    close(decoder(tokens[:, 2:], memory, state), references(decoder, memory, tokens)[:, 2:])


@torch.no_grad()
def test_text_alone_is_the_language_model(decoder: CausalLM) -> None:
    """A memory of no frames: what the model wrote before it could hear, it writes still."""
    memory, tokens = Seq(torch.zeros(2, 0, WIDTH), torch.tensor([0, 0])), written(2)
    bare = CausalLM(decoder.lm)
    want = decoder.lm(tokens).logits
    close(bare(tokens, memory), want)
    state = bare.init_state(2, 5)
    close(torch.cat([bare(t, memory, state) for t in tokens.split(2, 1)], dim=1), want)


def greedy(decoder: CausalLM, memory_MD: Tensor, prefix: list[int], n: int) -> list[int]:
    tokens = list(prefix)
    for _ in range(n):
        tokens.append(int(reference(decoder, memory_MD, torch.tensor(tokens))[-1].argmax()))
    return tokens[len(prefix) :]


def test_the_search_writes_what_transformers_would(decoder: CausalLM) -> None:
    memory = memories()
    prefix = torch.tensor([[1, 5]] * 3)
    found = search(decoder, memory, prefix, VOCAB + 1, SearchOptions(beam_size=1, max_tokens=6))
    for b, row in enumerate(found.rows):
        with torch.no_grad():
            assert list(row[0].tokens) == greedy(decoder, memory.x[b, : memory.lengths[b]], [1, 5], 6)


def test_the_beam_of_a_batch_is_that_of_each_row(decoder: CausalLM) -> None:
    memory, how = memories(), SearchOptions(beam_size=3, max_tokens=6)
    prefix = torch.tensor([[1, 5]] * 3)
    together = search(decoder, memory, prefix, 2, how)
    for b in range(3):
        alone = search(decoder, memory.rows(torch.tensor([b])), prefix[:1], 2, how)
        assert [h.tokens for h in alone.rows[0]] == [h.tokens for h in together.rows[b]]
        best = together.rows[b][0]
        text = torch.tensor([1, 5, *best.tokens, *([2] if best.ended else [])])
        with torch.no_grad():
            logits = reference(decoder, memory.x[b, : memory.lengths[b]], text)
        log_probs = logits[1:-1].log_softmax(-1).gather(1, text[2:, None])
        assert float(log_probs.sum()) == pytest.approx(best.log_prob, abs=1e-4)


def test_what_was_made_of_the_memory_serves_a_second_search() -> None:
    decoder, memory, how = tiny("llama"), memories(), SearchOptions(beam_size=2, max_tokens=4)
    shared: State = {}
    first = search(decoder, memory, torch.tensor([[5]] * 3), 2, how, shared=shared)
    assert shared
    again = search(decoder, memory._replace(x=torch.full_like(memory.x, torch.nan)), torch.tensor([[5]] * 3), 2, how,
                   shared=shared)  # fmt: skip
    assert [[h.tokens for h in row] for row in first.rows] == [[h.tokens for h in row] for row in again.rows]


def test_the_gradient_reaches_memory_and_model_but_no_padding() -> None:
    decoder, memory = tiny("llama", before=(1,)), memories()
    x = memory.x.clone().requires_grad_()
    decoder.hidden(written(3), memory._replace(x=x)).square().mean().backward()
    assert x.grad is not None
    outside = x.grad[~memory.mask]
    assert not outside.any()
    assert x.grad[memory.mask].abs().sum(-1).all()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in decoder.parameters())


def test_what_is_too_long_is_refused() -> None:
    decoder, memory = tiny("gpt2"), memories((60,))
    with pytest.raises(ValueError, match="at most 64"):
        decoder(written(1), memory)
    with pytest.raises(ValueError, match="at most 64"):
        decoder(written(1), memory, decoder.init_state(1, 5))


# -------------------- folders


def save(folder: Path, name: str = "llama", **changes: Any) -> Any:
    numbers = {**SETTINGS[name], **changes}
    torch.manual_seed(3)
    lm = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**numbers)).eval()
    lm.save_pretrained(folder)
    return lm


@pytest.mark.parametrize("name", SETTINGS)
def test_a_folder_opens_and_its_config_builds_the_same_model(name: str, tmp_path: Path) -> None:
    lm = save(tmp_path, name)
    assert causal_lm.is_folder(tmp_path)
    model, config = causal_lm.open_folder(tmp_path)
    with torch.device("meta"):
        again = causal_lm.build(config)
    assert all(p.is_meta for p in again.parameters() if p.dim() > 1), "nothing large may be allocated"
    assert not any(b.is_meta for b in again.buffers()), "no checkpoint holds these"
    api.fill(again.eval(), dict(model.named_parameters()))
    tokens, memory = written(3), memories()
    with torch.no_grad():
        want = references(CausalLM(lm, config.before), memory, tokens)
        close(model.decoder(tokens, memory), want)
        close(again.decoder(tokens, memory), want)


def test_half_precision_keeps_the_frequencies_of_positions_whole() -> None:
    decoder = tiny("llama").bfloat16()
    assert {p.dtype for p in decoder.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in decoder.buffers()} == {torch.float32}
    with torch.no_grad():
        assert decoder(written(3), memories()).isfinite().all()


def test_pickles_and_code_are_not_read(tmp_path: Path) -> None:
    save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors"):
        causal_lm.open_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").rename(weights)
    numbers = json.loads((tmp_path / "config.json").read_text())
    numbers |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(numbers))
    (tmp_path / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(CheckpointError, match="has code for"):
        causal_lm.open_folder(tmp_path)


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"mmx\[llm\]"):
        causal_lm.open_folder(tmp_path)
