"""SeamlessM4T v2 large at its full size, with random weights under the published names: it loads and takes a step.

It writes a checkpoint of 4.6 GB, so it runs only when asked: `MMX_FULL_SIZE=1 pytest -s tests/test_full_size.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_seamless_m4t import VOICES, published_shapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "MMX_FULL_SIZE" not in os.environ,
        reason="needs 5 GB of disk, 12 GB of memory and minutes: set MMX_FULL_SIZE=1",
    ),
]

STEP = """
import resource, sys, time
import torch, mmx
from mmx.seq import Seq
start = time.perf_counter()
model = mmx.load(sys.argv[1], dtype="bfloat16", device="cpu")
loaded = time.perf_counter() - start
wave = torch.randn(1, 5 * 16000, generator=torch.Generator().manual_seed(0)) * 0.1
start = time.perf_counter()
with torch.inference_mode():
    memory = model.memory({"speech": Seq(wave, torch.tensor([wave.shape[1]]), 16000.0)})
    logits = model.decoder(torch.tensor([model.tokenizer.prompt("deu")]), memory)
step = time.perf_counter() - start
assert logits.shape == (1, 2, 256102) and logits.isfinite().all() and model.decoder.token.weight.dtype == torch.bfloat16
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(f"loaded in {loaded:.0f} s, one step over 5 s of speech {step:.0f} s, peak {peak:.1f} GiB", flush=True)
assert peak < 24
"""


def test_v2_large_loads_and_takes_a_step(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", STEP, str(tmp_path)], capture_output=True, text=True, timeout=3000, check=False
    )
    print(done.stdout, end="")
    assert done.returncode == 0, done.stderr


def write_checkpoint(folder: Path, shards: int = 2) -> None:
    """Random bfloat16 tensors in shards with an index, as the hub has them."""
    import sentencepiece

    from mmx.weights.formats import write_safetensors

    shapes = published_shapes()
    names = list(shapes)
    where: dict[str, str] = {}
    for i in range(shards):
        part, mine = f"model-{i + 1:05}-of-{shards:05}.safetensors", names[i::shards]
        where |= dict.fromkeys(mine, part)
        write_safetensors(folder / part, ((name, random(name, shapes[name])) for name in mine))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "generation_config.json").write_text(json.dumps(VOICES))
    (folder / "config.json").write_text((Path(__file__).parent / "data" / "seamless_m4t_v2_large.json").read_text())
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["a few words to cut"] * 50), model_prefix=str(folder / "spm"), vocab_size=30,
        model_type="bpe", hard_vocab_limit=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    (folder / "spm.model").rename(folder / "sentencepiece.bpe.model")
    languages = {"256057": {"content": "__deu__"}, "256047": {"content": "__eng__"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": languages}))


def random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    ones = "norm" in name and name.endswith("weight")
    return (torch.ones(shape) if ones else 0.02 * torch.randn(shape)).bfloat16()
