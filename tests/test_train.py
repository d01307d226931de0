"""Training: what is sampled, what is minimized, and that nothing is lost when it is stopped.

Letters: B rows, U tokens.
"""

import errno
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from torch import Tensor

import mmx
from mmx.errors import CheckpointError, InputError, MmxWarning, OutputError, TrainingError
from mmx.model import Model
from mmx.models.nllb import Config, build
from mmx.seq import Seq
from mmx.tasks.translate import translate_text
from mmx.text.train_tokenizer import train_tokenizer
from mmx.train import checkpoints as checkpointing
from mmx.train import manifest
from mmx.train.batch import IGNORED, Batch
from mmx.train.checkpoints import average, checkpoints, latest_checkpoint, locked, save_checkpoint
from mmx.train.data import Changes, Data
from mmx.train.loop import TrainOptions, train
from mmx.train.manifest import Example, check_manifest, read_manifest
from mmx.train.objectives.token import TokenLoss, TokenLosses, task_weights, token_losses
from mmx.train.optim import freeze, initialize, learning_rate, set_dropout
from mmx.train.sampling import Sampler, temperature_shares
from mmx.train.setup import start, training_data
from mmx.weights.family import import_family
from mmx.weights.formats import open_checkpoint, write_safetensors

_ENGLISH = "red blue green small big old house tree dog cat bird man woman child sees hears"
_SPANISH = "rojo azul verde chico gran viejo casa arbol perro gato ave hombre mujer nene mira oye"
LEXICON = dict(zip(_ENGLISH.split(), _SPANISH.split(), strict=True))
VOCAB = 310
TINY: dict[str, Any] = {"ctx": 64, "width": 32, "heads": [2, 2], "layers": [1, 1], "hidden": [64, 64]}


def sentences(n: int, seed: int) -> list[Example]:
    """Word-for-word translations."""
    rng = random.Random(seed)
    texts = [rng.choices(list(LEXICON), k=rng.randint(2, 5)) for _ in range(n)]
    return [
        Example(" ".join(t), " ".join(LEXICON[w] for w in t), "en", "es", str(i), "abc"[i % 3])
        for i, t in enumerate(texts)
    ]


def write_manifest(path: Path, examples: list[Example]) -> Path:
    rows = ["\t".join(("id", "source", "target", "src_lang", "tgt_lang", "origin"))]
    rows += ["\t".join((e.id, e.source, e.target, e.src_lang, e.tgt_lang, e.origin)) for e in examples]
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_manifest(folder / "train.tsv", sentences(400, 1))
    write_manifest(folder / "valid.tsv", sentences(40, 2))
    return folder


def options(data: Path, out: Path, **changes: Any) -> TrainOptions:
    base = TrainOptions(
        train=str(data / "train.tsv"), valid=str(data / "valid.tsv"), out=str(out), vocab=VOCAB, config=TINY,
        updates=12, batch_tokens=600, accumulate=2, lr=1e-3, warmup=4, temperature=2.0, lowercase=0.2,
        unpunctuated=0.2, threads=1, seed=3, log_every=1, valid_every=4, save_every=2, keep_best=2,
    )  # fmt: skip
    return replace(base, **changes)


def as_toml(o: TrainOptions, path: Path) -> Path:
    path.write_text(tomli_w.dumps({k: v for k, v in vars(o).items() if v is not None}))
    return path


def everything(out: Path) -> dict[str, Tensor]:
    """All tensors of the last checkpoint and of the model folder."""
    found = latest_checkpoint(out / "checkpoints")
    assert found is not None
    model = open_checkpoint(out / "model" / "model.safetensors", "mmx")
    return {**{k: found[0][k] for k in found[0]}, **{f"written.{k}": model[k] for k in model}}


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


# -------------------- stopping and resuming


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    undisturbed = options(data, tmp_path / "a", updates=30, save_every=1)
    train(undisturbed)
    disturbed = replace(undisturbed, out=str(tmp_path / "b"))
    recipe = as_toml(disturbed, tmp_path / "recipe.toml")
    metrics, rng = tmp_path / "b" / "metrics.jsonl", random.Random(os.getpid())
    command = [sys.executable, "-m", "mmx.train", str(recipe)]
    resumed_at = []
    for stop_at in (rng.randint(3, 10), rng.randint(14, 22)):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not _reached(metrics, stop_at):
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)  # also within the writing of a checkpoint
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1]
        resumed_at.append(int(re.findall(r"update (\d+) of 30", said)[0]))
    assert resumed_at[0] == 0 < resumed_at[1]  # it did resume
    train(disturbed)
    assert_same(everything(tmp_path / "a"), everything(tmp_path / "b"))
    curves = [
        [{k: v for k, v in json.loads(line).items() if k not in ("time", "tokens_per_s")} for line in lines]
        for lines in ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in "ab")
    ]
    assert curves[0] == curves[1]


def _reached(metrics: Path, update: int) -> bool:
    try:
        return f'"update": {update},' in metrics.read_text()
    except OSError:
        return False


def test_half_written_and_damaged_checkpoints_are_not_loaded(data: Path, tmp_path: Path) -> None:
    train(options(data, tmp_path / "a"))
    train(options(data, tmp_path / "b", updates=8))
    folder = tmp_path / "b" / "checkpoints"
    last, before = checkpoints(folder)[-1], checkpoints(folder)[-2]
    damaged = bytearray((last / "state.safetensors").read_bytes())
    damaged[-1] ^= 1
    (last / "state.safetensors").write_bytes(damaged)
    part = folder / ".part-step-00000099"
    part.mkdir()
    (part / "state.json").write_text("{")
    with pytest.warns(MmxWarning, match=last.name):
        train(options(data, tmp_path / "b"))
    assert before.name == "step-00000006"
    assert not part.exists()
    assert_same(everything(tmp_path / "a"), everything(tmp_path / "b"))
    for path in checkpoints(folder):
        (path / "state.json").unlink()
    with pytest.warns(MmxWarning), pytest.raises(InputError, match="valid checkpoint"):
        train(options(data, tmp_path / "b"))


def test_full_disk_is_told_and_the_last_good_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"w": torch.arange(5.0)}
    save_checkpoint(tmp_path, 1, tensors, {"best": []})

    def full(path: Path, items: Any) -> None:
        write_safetensors(path, items)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpointing, "write_safetensors", full)
    with pytest.raises(OutputError, match=r"No space left.*Free some space"):
        save_checkpoint(tmp_path, 2, tensors, {"best": []})
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert_same(tensors, found[0])


def test_a_run_is_not_resumed_with_other_options_or_data(data: Path, tmp_path: Path) -> None:
    train(options(data, tmp_path / "run", updates=2))
    with pytest.raises(InputError, match="for dropout, lr"):
        train(options(data, tmp_path / "run", lr=1e-2, dropout=0.2))
    other = write_manifest(tmp_path / "other.tsv", sentences(400, 7))
    with pytest.raises(InputError, match="the content of train"):
        train(options(data, tmp_path / "run", train=str(other)))


def test_a_run_is_not_trained_by_two_processes_at_once(data: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "run"), pytest.raises(InputError, match="another out"):
        train(options(data, tmp_path / "run"))
    assert not (tmp_path / "run" / "tokenizer").exists()


def test_it_keeps_two_checkpoints_and_the_best_snapshots(data: Path, tmp_path: Path) -> None:
    train(options(data, tmp_path / "run"))
    kept = checkpoints(tmp_path / "run" / "checkpoints")
    assert [p.name for p in kept] == ["step-00000010", "step-00000012"]
    best = json.loads((kept[-1] / "state.json").read_text())["best"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = sorted(line["valid_loss"] for line in lines if "valid_loss" in line)
    assert [round(loss, 8) for loss, _ in best] == losses[:2]
    assert {p.name for p in (tmp_path / "run" / "best").iterdir()} >= {name for _, name in best}


# -------------------- averaging


def test_average() -> None:
    a = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([3])}
    b = {"w": torch.tensor([3.0, 6.0]), "n": torch.tensor([9])}
    mean = dict(average([a, b]))
    assert mean["w"].tolist() == [2.0, 4.0]
    assert mean["n"].tolist() == [3]
    odd = {"w": torch.randn(1000, generator=torch.Generator().manual_seed(0))}
    assert_same(dict(average([odd] * 7)), odd)
    half = [{"w": torch.full((1,), 40_000.0, dtype=torch.float16)}] * 3
    assert_same(dict(average(half)), half[0])  # their sum is infinite in float16
    with pytest.raises(CheckpointError, match="not all have"):
        dict(average([a, {"w": b["w"]}]))
    with pytest.raises(CheckpointError, match="shapes"):
        dict(average([a, {**b, "w": torch.zeros(3)}]))


# -------------------- sampling


def test_temperature_gives_groups_their_shares() -> None:
    counts = {"large": 9000, "middle": 900, "small": 100}
    assert temperature_shares(counts, 1.0) == pytest.approx({k: n / 10_000 for k, n in counts.items()})
    flat = temperature_shares(counts, 1e9)
    assert list(flat.values()) == pytest.approx([1 / 3] * 3, abs=1e-6)
    shares = temperature_shares(counts, 5.0)
    weight = {k: (n / 10_000) ** 0.2 for k, n in counts.items()}
    assert shares == pytest.approx({k: w / sum(weight.values()) for k, w in weight.items()})
    groups = [name for name, n in counts.items() for _ in range(n)]
    sampler = Sampler([(5, 5)] * len(groups), groups, 200, 5.0)
    drawn = Counter(groups[i] for epoch in range(2) for batch in sampler.epoch(epoch) for i in batch)
    for name, share in shares.items():
        assert drawn[name] / 20_000 == pytest.approx(share, rel=0.02)


def test_an_epoch_is_each_example_once_in_batches_of_like_length() -> None:
    rng = random.Random(0)
    lengths = [(n := rng.randint(2, 40), max(2, n + rng.randint(-3, 3))) for _ in range(3000)]
    sampler = Sampler(lengths, ["x"] * len(lengths), 500, seed=4)
    first, second = sampler.epoch(0), sampler.epoch(1)
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in batch) == list(range(len(lengths)))
        padded = [len(b) * (max(lengths[i][0] for i in b) + max(lengths[i][1] for i in b)) for b in epoch]
        assert max(padded) <= 500
        assert sum(map(sum, lengths)) / sum(padded) > 0.8
    assert first != second
    assert {tuple(sorted(b)) for b in first}.isdisjoint({tuple(sorted(b)) for b in second if len(b) > 5})
    assert Sampler(lengths, ["x"] * len(lengths), 500, seed=4).epoch(1) == second
    with pytest.raises(InputError, match="raise batch_tokens or lower max_tokens"):
        Sampler([(300, 300)], ["x"], 500)


def test_small_groups_are_passed_through_evenly() -> None:
    sampler = Sampler([(1, 1)] * 100, ["large"] * 93 + ["small"] * 7, 20, temperature=100.0)
    seen = Counter(i for epoch in range(5) for batch in sampler.epoch(epoch) for i in batch)
    small = [seen[i] for i in range(93, 100)]
    assert max(small) - min(small) <= 1
    assert min(small) > 10


def test_augmentation_changes_sources_only_and_repeats_itself(data: Path, tmp_path: Path) -> None:
    examples = [Example(f"The House {i}.", f"La Casa {i}.", "en", "es") for i in range(400)]
    texts = [t for e in examples for t in (e.source, e.target)]
    tok = train_tokenizer(texts, ["en", "es"], 300, tmp_path / "tok")
    model = build(Config(vocab=tok.n_vocab, **TINY))
    model.tokenizer = tok
    augmented = Data(examples, model, max_tokens=50, changes=Changes(lowercase=0.25, unpunctuated=0.5), seed=1)
    batch, again, next_epoch = (augmented.batch(range(400), epoch) for epoch in (0, 0, 1))
    assert torch.equal(batch.inputs["text"].x, again.inputs["text"].x)
    assert not torch.equal(batch.inputs["text"].x, next_epoch.inputs["text"].x)
    shown = [tok.decode(row.tolist()) for row in batch.inputs["text"].masked]
    assert sum(s == s.lower() for s in shown) / 400 == pytest.approx(0.25, abs=0.07)
    assert sum(not s.endswith(".") for s in shown) / 400 == pytest.approx(0.5, abs=0.08)
    assert [tok.decode(row[row != IGNORED].tolist()) for row in batch.targets] == [e.target for e in examples]


# -------------------- the loss


def tiny(seed: int = 0, vocab: int = 30) -> Model:
    torch.manual_seed(seed)
    model = build(Config(vocab=vocab, **TINY))
    initialize(model)
    return model.double()


def random_batch(lengths: list[tuple[int, int]], tasks: tuple[str, ...] = (), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    n_source, n_target = (max(side) for side in zip(*lengths, strict=True))
    source = torch.randint(30, (len(lengths), n_source), generator=generator)
    tokens = torch.randint(30, (len(lengths), n_target + 1), generator=generator)
    targets = tokens[:, 1:].clone()
    for row, (_, n) in zip(targets, lengths, strict=True):
        row[n:] = IGNORED
    seq = Seq(source, torch.tensor([n for n, _ in lengths]))
    return Batch({"text": seq}, tokens[:, :-1], targets, tasks or ("translate",) * len(lengths))


def gradient(model: Model, batches: list[Batch], smoothing: float = 0.1) -> Tensor:
    model.zero_grad()
    objective = TokenLoss(smoothing)
    weights = objective.weights(sum(map(objective.count, batches), Counter()))
    for batch in batches:
        for name, loss in objective(model, batch).total.items():
            (weights[name] * loss).backward(retain_graph=True)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def rows(batch: Batch, index: slice) -> Batch:
    seq = batch.inputs["text"]
    part = Seq(seq.x[index], seq.lengths[index])
    return Batch({"text": part}, batch.tokens[index], batch.targets[index], batch.tasks[index])


def test_several_small_batches_give_the_gradient_of_a_large_one() -> None:
    model = tiny()
    batch = random_batch([(3, 9), (7, 2), (5, 5), (6, 1)], ("a", "b", "a", "a"))
    whole = gradient(model, [batch])
    parts = gradient(model, [rows(batch, slice(0, 1)), rows(batch, slice(1, 4))])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-9)


def test_tasks_weigh_the_same_whatever_their_lengths() -> None:
    model = tiny()
    a, b = random_batch([(4, 3)], ("a",), 1), random_batch([(4, 24)], ("b",), 2)
    both, alone_a, alone_b = gradient(model, [a, b]), gradient(model, [a]), gradient(model, [b])
    torch.testing.assert_close(both, (alone_a + alone_b) / 2, rtol=1e-6, atol=1e-9)
    assert task_weights({"a": 10, "b": 30}, {"b": 3.0}) == pytest.approx({"a": 0.25 / 10, "b": 0.75 / 30})


def test_token_losses_are_cross_entropy_with_smoothing() -> None:
    model, batch = tiny(), random_batch([(4, 3), (2, 6)])
    losses = token_losses(model, batch, 0.2)
    logits = model(batch.inputs, batch.tokens).flatten(0, 1)
    for smoothing, got in ((0.2, losses.smoothed), (0.0, losses.nll)):
        wanted = torch.nn.functional.cross_entropy(
            logits, batch.targets.flatten(), ignore_index=IGNORED, label_smoothing=smoothing, reduction="none"
        )
        torch.testing.assert_close(got.double(), wanted[batch.targets.flatten() != IGNORED], rtol=1e-5, atol=1e-6)
    assert losses.rows.tolist() == [0] * 3 + [1] * 6


def test_whole_texts_at_once_equal_the_cached_decoder() -> None:
    model, batch = tiny().eval(), random_batch([(4, 7), (9, 7), (1, 7)])
    memory = model.memory(batch.inputs)
    memory = memory._replace(x=memory.x.masked_fill(~memory.mask[..., None], 1e6))  # padding must not matter
    taught = model.decoder.hidden(batch.tokens, memory)
    state = model.decoder.init_state(3, 2)
    torch.testing.assert_close(taught, model.decoder.hidden(batch.tokens, memory, state), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="at most 64 tokens"):
        model.decoder.hidden(torch.zeros(1, 65, dtype=torch.long), memory.rows(torch.tensor([0])))


def test_dropout_acts_in_training_only() -> None:
    model, batch = tiny(), random_batch([(4, 7), (9, 7)])
    plain = token_losses(model.train(), batch).nll
    set_dropout(model, 0.5)
    assert torch.equal(token_losses(model.eval(), batch).nll, plain)
    noisy = [token_losses(model.train(), batch).nll for _ in range(2)]
    assert not torch.equal(noisy[0], noisy[1])


# -------------------- the optimizer


def test_learning_rate() -> None:
    def rates(**changes: Any) -> list[float]:
        numbers: dict[str, Any] = {"peak": 1.0, "warmup": 100, "total": 1000, **changes}
        return [learning_rate(u, **numbers) for u in range(1, 1001)]

    sqrt, cosine, cooled = rates(), rates(schedule="cosine"), rates(cooldown=200)
    assert sqrt[:100] == pytest.approx([u / 100 for u in range(1, 101)])
    assert sqrt[399] == pytest.approx(0.5)
    assert cosine[549] == pytest.approx(0.5)
    assert cosine[-1] == pytest.approx(0.0, abs=1e-9)
    assert cooled[:800] == sqrt[:800] == rates(cooldown=200, total=1400)[:800]
    assert cooled[900 - 1] == pytest.approx(sqrt[799] * 101 / 201)
    assert 0 < cooled[-1] < 0.01
    assert all(a > b for r in (sqrt, cosine, cooled) for a, b in pairwise(r[100:]))


def test_frozen_parameters_stay_and_others_move(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(options(data, out, updates=2, lr=1e-9, valid_every=1, dropout=0.0, weight_decay=0.0))
    written = open_checkpoint(out / "model" / "model.safetensors", "mmx")
    before = {k: written[k].clone() for k in written}
    new = {"vocab": 8000, "config": {}}  # of a new model only
    train(options(data, tmp_path / "two", init=str(out / "model"), freeze=("encoders.*",), lr=1e-2, **new))
    after = open_checkpoint(tmp_path / "two" / "model" / "model.safetensors", "mmx")
    moved = {k for k in after if not torch.equal(after[k], before[k])}
    # The shared embedding goes by the encoder's name.
    assert moved == {k for k in after if not k.startswith("encoders.")}
    with pytest.raises(InputError, match="match none"):
        freeze(tiny(), ["decodr.*"])
    with pytest.raises(InputError, match="everything frozen"):
        freeze(tiny(), ["*"])


# -------------------- the result


def test_the_model_folder_loads_by_path_and_translates(data: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path / "train.tsv", sentences(3000, 1))
    card = {"name": "words", "summary": "Word for word", "license": "CC0-1.0", "commercial": True}
    o = options(
        data, tmp_path / "words", train=str(tmp_path / "train.tsv"), updates=300, lr=5e-3, warmup=40, cooldown=60,
        batch_tokens=1200, accumulate=1, dropout=0.0, lowercase=0.0, unpunctuated=0.0, log_every=100, valid_every=20,
        save_every=100, dtype="float16", card=card, config={**TINY, "width": 64, "heads": [4, 4]},
    )  # fmt: skip
    folder = train(o)
    model = mmx.load(folder, dtype="float32")
    assert model.card is not None
    assert (model.card.name, model.card.license, model.card.family) == ("words", "CC0-1.0", "nllb")
    assert model.card.parameters == sum(p.numel() for p in model.parameters())
    assert open_checkpoint(folder / "model.safetensors", "mmx")["decoder.ln.weight"].dtype == torch.float16
    held_out = sentences(50, 5)
    got = translate_text(model, [e.source for e in held_out], src="en", to="es", beam_size=1)
    right = sum(t.text == e.target for t, e in zip(got, held_out, strict=True))
    assert right >= 30, [(t.text, e.target) for t, e in zip(got, held_out, strict=True)][:5]
    (folder / "card.toml").unlink()
    assert mmx.load(folder, dtype="float32").name == "model"


def test_training_leaves_the_callers_random_numbers_alone(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    train(options(data, tmp_path / "run", updates=1))
    assert torch.equal(torch.get_rng_state(), before)


# -------------------- bad input


def test_manifest_mistakes_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    head = "source\ttarget\tsrc_lang\ttgt_lang"
    path.write_bytes(f"{head}\na\tb\ten\tes\n \tb\ten\tes\na\tb\ten\na\tb\ten\tde\n".encode() + b"a\t\xff\ten\tes\n")
    problems = check_manifest(path, ["eng_Latn", "spa_Latn"])
    assert [p.split(":")[0] for p in problems] == ["line 3", "line 4", "line 5", "line 6"]
    for problem, words in zip(problems, ("source, got an empty", "4 fields", "tgt_lang", "UTF-8"), strict=True):
        assert words in problem
    with pytest.raises(InputError, match=r"got 4 in .*\nline 3"):
        read_manifest(path, ["eng_Latn", "spa_Latn"])
    path.write_text("source\ttext\n1\t2\n")
    assert check_manifest(path) == ["line 1: expected the columns source, target, src_lang, tgt_lang, got none called "
                                    "['target', 'src_lang', 'tgt_lang']"]  # fmt: skip
    path.write_text(head + "\n")
    assert check_manifest(path) == ["line 1: expected examples, got none"]
    with pytest.raises(InputError, match="No such file"):
        check_manifest(tmp_path / "none.tsv")
    with pytest.raises(InputError, match=r"ends in \.tsv, \.csv or \.jsonl"):
        check_manifest(tmp_path / "m.xlsx")


def test_jsonl_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    good = {"source": "a\tb", "target": "c", "src_lang": "en", "tgt_lang": "es", "origin": "x", "more": 1}
    path.write_text("\n".join([json.dumps(good), "{", "[]", json.dumps({**good, "target": 3})]))
    assert [p.split(":")[0] for p in check_manifest(path)] == ["line 2", "line 3", "line 4"]
    path.write_text(json.dumps(good))
    assert read_manifest(path) == [Example("a\tb", "c", "en", "es", origin="x")]


def test_a_bad_manifest_stops_training_before_it_starts(data: Path, tmp_path: Path) -> None:
    bad = write_manifest(tmp_path / "bad.tsv", [*sentences(20, 1), Example("a", " ", "en", "es")])
    with pytest.raises(InputError, match="line 22"):
        train(options(data, tmp_path / "run", valid=str(bad)))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_texts_that_are_all_too_long_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_tokens = 2 .* none among 400 examples"):
        train(options(data, tmp_path / "run", max_tokens=2))
    long = write_manifest(tmp_path / "long.tsv", [Example("red " * 70, "rojo " * 70, "en", "es")])
    with pytest.raises(InputError, match=r"max_tokens = 64 .* none among 1 examples"):
        train(options(data, tmp_path / "other", valid=str(long)))


def test_texts_that_the_model_has_no_room_for_are_left_out(data: Path, tmp_path: Path) -> None:
    long = Example("red " * 70, "rojo " * 70, "en", "es")
    mixed = write_manifest(tmp_path / "mixed.tsv", [*sentences(20, 1), long])
    o = options(data, tmp_path / "run", train=str(mixed), max_tokens=1000, batch_tokens=2000)
    learned = training_data(o, o.train, start(o, tmp_path / "tokenizer").model)
    assert (len(learned.examples), learned.left_out) == (20, 1)
    assert max(max(pair) for pair in learned.lengths) <= TINY["ctx"]


def test_a_language_is_judged_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(manifest, "_language_flaw", lambda text, spellings: asked.append(text) or "")
    assert len(read_manifest(data / "train.tsv")) == 400
    assert asked == ["en", "es"]


def test_a_loss_that_is_no_number_stops_training(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    train(options(data, out, updates=2))
    kept = {k: v.clone() for k, v in everything(out).items()}

    def not_a_number(*args: Any) -> TokenLosses:
        losses = token_losses(*args)
        return losses._replace(smoothed=losses.smoothed * math.nan)

    monkeypatch.setattr("mmx.train.objectives.token.token_losses", not_a_number)
    with pytest.raises(TrainingError, match=r"update 3.*lower lr"):
        train(options(data, out))
    assert_same(everything(out), kept)


def test_a_batch_that_does_not_fit_says_what_to_lower(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*args: Any) -> TokenLosses:
        torch.empty(1 << 60)
        raise AssertionError

    monkeypatch.setattr("mmx.train.objectives.token.token_losses", too_large)
    with pytest.raises(TrainingError, match="lower batch_tokens"):
        train(options(data, tmp_path / "run"))


def test_recipes_in_the_repository_can_be_read(tmp_path: Path) -> None:
    recipes = list((Path(__file__).parent.parent / "models" / "recipes").glob("*.toml"))
    assert recipes
    for path in recipes:
        o = TrainOptions.from_toml(path)
        if not o.init:
            family = import_family(o.family)
            own = {"vocab": o.vocab} if "vocab" in {f.name for f in fields(family.Config)} else {}
            with torch.device("meta"):
                family.build(family.Config(**{**own, **o.config}))
    (tmp_path / "r.toml").write_text("trian = 1")
    with pytest.raises(InputError, match="Did you mean 'train'"):
        TrainOptions.from_toml(tmp_path / "r.toml")


# -------------------- speech


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper and tones to name."""
    pytest.importorskip("soundfile")
    from tiny_speech import tiny_whisper, tones

    folder = tmp_path_factory.mktemp("spoken")
    tiny_whisper(folder / "tiny")
    tones(folder, 24)
    tones(folder, 6, "valid")
    return folder


def speech_options(spoken: Path, out: Path, **changes: Any) -> TrainOptions:
    base = options(
        spoken, out, init=str(spoken / "tiny"), vocab=8000, config={}, updates=6, batch_tokens=480, accumulate=1,
        max_tokens=32, warmup=2, lowercase=0.0, unpunctuated=0.0, masks="LB", valid_every=3,
    )  # fmt: skip
    return replace(base, **changes)


def test_a_model_learns_to_name_tones(spoken: Path, tmp_path: Path) -> None:
    o = speech_options(
        spoken, tmp_path / "run", updates=150, lr=1e-2, warmup=15, cooldown=50, masks="", dropout=0.0, smoothing=0.0,
        log_every=50, valid_every=50, save_every=150, batch_tokens=600,
    )  # fmt: skip
    folder = train(o)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["valid_loss"] for line in lines if "valid_loss" in line]
    assert losses[-1] < 0.1 < 1.0  # a byte of 256 at first: 5.5
    model = mmx.load(folder, device="cpu", dtype="float32")
    from mmx.train.manifest import read_manifest as read

    data = Data(read(spoken / "valid.tsv"), model, max_tokens=32)
    batch = data.batch(range(6))
    written = model(batch.inputs, batch.tokens).argmax(-1)
    counts = batch.targets != IGNORED
    assert torch.equal(written[counts], batch.targets[counts])


@pytest.mark.parametrize("changes", [{}, {"lora_rank": 2, "masks": "", "dropout": 0.3}], ids=["masks", "lora"])
def test_speech_resumes_with_the_same_bits(spoken: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    train(speech_options(spoken, tmp_path / "a", **changes))
    for updates in (3, 6):
        train(speech_options(spoken, tmp_path / "b", updates=updates, **changes))
    assert_same(everything(tmp_path / "a"), everything(tmp_path / "b"))


def test_lora_trains_little_and_writes_a_whole_model(spoken: Path, tmp_path: Path) -> None:
    folder = train(speech_options(spoken, tmp_path / "run", lora_rank=2, masks="", lr=1e-2))
    before = open_checkpoint(spoken / "tiny" / "model.safetensors", "mmx")
    after = open_checkpoint(folder / "model.safetensors", "mmx")
    assert set(after) == set(before)
    moved = {k for k in after if not torch.equal(after[k], before[k])}
    assert moved and all(re.fullmatch(r"decoder\.layers\.\d+\.(attn|cross|mlp)\..*weight", k) for k in moved)
    kept = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert kept is not None
    assert all(".down" in k or ".up" in k or k.startswith("random.") for k in kept[0])
    written = mmx.load(folder, device="cpu", dtype="float32")
    assert written.card is not None and written.card.license == "CC0-1.0"
    assert written.transcribe(str(spoken / "valid" / "0.wav"), vad=False, temperature=(0.0,)).duration_s > 0


def test_a_run_that_was_begun_before_an_option_was_there_resumes(data: Path, tmp_path: Path) -> None:
    train(options(data, tmp_path / "run", updates=2))
    for path in checkpoints(tmp_path / "run" / "checkpoints"):
        record = json.loads((path / "state.json").read_text())
        del record["options"]["lora_rank"]
        (path / "state.json").write_text(json.dumps(record))
    train(options(data, tmp_path / "run", updates=3))
    with pytest.raises(InputError, match="for lora_rank"):
        train(options(data, tmp_path / "run", updates=3, lora_rank=2))


def test_speech_and_text_are_not_mixed_and_speech_needs_a_model(spoken: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a model"):
        train(speech_options(spoken, tmp_path / "a", init=""))
    mixed = tmp_path / "mixed.jsonl"
    rows = [{"audio": str(spoken / "train" / "0.wav"), "text": "low", "src_lang": "en"}]
    rows += [{"source": "a", "target": "b", "src_lang": "en", "tgt_lang": "en"}]
    mixed.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="got both"):
        train(speech_options(spoken, tmp_path / "b", train=str(mixed)))


def test_what_adapters_have_to_learn_is_added() -> None:
    class Counts(torch.nn.Linear):
        def loss(self, seq: Seq, target_lengths: Tensor) -> Tensor:
            assert seq.x.shape == (2, 5, 1)
            return target_lengths.double()

        def teach(self, seq: Seq, target_lengths: Tensor) -> Seq:
            return self(seq)

    class Hears(torch.nn.Module):
        def forward(self, seq: Seq) -> Seq:
            return seq

    model = tiny()
    batch = random_batch([(4, 3), (2, 6)])
    assert token_losses(model, batch).adapters is None
    adapter = Counts(1, 1)
    adapter.forward = lambda seq: model.encode("text", batch.inputs["text"])  # type: ignore[method-assign,assignment]
    with_adapter = Model(front={}, encoders={"speech": Hears()}, adapters={"speech": adapter}, decoder=model.decoder)
    heard = batch._replace(inputs={"speech": Seq(torch.zeros(2, 5, 1), torch.tensor([5, 5]))})
    losses = token_losses(with_adapter, heard)
    assert losses.adapters is not None and losses.adapters.item() == 9.0  # the sum over rows
    torch.testing.assert_close(losses.nll, token_losses(model, batch).nll)


def test_the_verb(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mmx.cli import app as cli

    recipe = as_toml(options(data, tmp_path / "run", updates=1), tmp_path / "r.toml")
    assert cli.main(["train", str(recipe), f"out={tmp_path / 'other'}", "updates=2"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "other" / "model")
    assert cli.main(["train", str(recipe), "updats=2"]) == 2
    assert "Did you mean 'updates'" in capsys.readouterr().err
    assert cli.main(["train", str(recipe), "updates"]) == 2
    assert "option=value" in capsys.readouterr().err
