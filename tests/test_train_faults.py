"""Training as people do it: recordings that are gone, another validation set, Ctrl-C, adapters with their own loss.

Letters: B rows.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("soundfile")
from test_train import data, everything, options, sentences, speech_options, spoken, write_manifest  # noqa: F401
from tiny_speech import tone

import mmx
from mmx.errors import InputError
from mmx.train import loop
from mmx.train.checkpoints import latest_checkpoint
from mmx.train.data_check import check_data
from mmx.train.distributed import World
from mmx.train.loop import _Run, train
from mmx.train.manifest import check_manifest, read_manifest
from mmx.train.objectives import token as objective
from mmx.train.objectives.token import TokenLosses, token_losses

ALONE = World(torch.device("cpu"))


def gradient(run: _Run) -> Tensor:
    return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])


# -------------------- CIF


@pytest.fixture(scope="module")
def hears(spoken: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A tiny Whisper with CIF between its parts."""
    out = tmp_path_factory.mktemp("cif") / "model"
    mmx.compose(spoken / "tiny", spoken / "tiny", adapter="cif", out=out)
    return out


def cif_run(hears: Path, spoken: Path, out: Path, **changes: Any) -> _Run:  # noqa: F811
    fixed: dict[str, Any] = {"init": str(hears), "masks": "", "freeze": ["encoders.*", "decoder.*"]}
    fixed |= {"dropout": 0.0, "smoothing": 0.0, "batch_tokens": 100_000}
    return _Run(speech_options(spoken, out, **{**fixed, **changes}), ALONE)


def test_accumulation_with_the_quantity_loss(
    hears: Path,
    spoken: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    found = {}
    for weight in (0.0, 1.0, 3.0):
        for plan in ([[0, 1, 2, 3, 4, 5, 6]], [[0, 1, 2, 3], [4, 5], [6]]):
            run = cif_run(hears, spoken, tmp_path / f"{weight}-{len(plan)}", quantity_weight=weight)
            batches = [run.data.batch(rows) for rows in plan]
            run._backward(batches, run.objective.weights(run._counts(batches)))
            found[weight, len(plan)] = gradient(run)
    for weight in (0.0, 1.0, 3.0):
        torch.testing.assert_close(found[weight, 3], found[weight, 1], rtol=1e-4, atol=1e-6)
    own = found[1.0, 1] - found[0.0, 1]  # the weight is that of the quantity loss alone
    assert own.norm() > 1e-3
    torch.testing.assert_close(found[3.0, 1], found[0.0, 1] + 3 * own, rtol=1e-3, atol=1e-5)


def test_a_batch_that_only_waits_teaches_nothing(hears: Path, spoken: Path, tmp_path: Path) -> None:  # noqa: F811
    run = cif_run(hears, spoken, tmp_path / "run")
    batch = run.data.batch([0, 1, 2])
    waits = batch.waiting()
    assert run._counts([batch, waits]) == run._counts([batch]) and run._counts([batch])["quantity"] == 3
    run._backward([batch], run.objective.weights(run._counts([batch])))
    alone = gradient(run)
    run.model.zero_grad()
    run._backward([batch, waits], run.objective.weights(run._counts([batch, waits])))
    assert bool(alone.isfinite().all()) and alone.norm() > 0
    torch.testing.assert_close(gradient(run), alone, rtol=1e-6, atol=1e-9)


def test_the_weight_of_the_quantity_loss_needs_an_adapter_that_has_one(spoken: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match="quantity_weight"):
        train(speech_options(spoken, tmp_path / "run", quantity_weight=0.5))


# -------------------- the gradient and the validation


def test_a_warmup_that_does_not_end_is_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    for warmup, told in ((4, True), (2, False)):
        train(options(data, tmp_path / str(warmup), updates=2, warmup=warmup, lr=1e-2))
        assert ("it is 5.00e-03 and not lr = 1.00e-02" in capsys.readouterr().err) == told


def test_the_gradient_is_clipped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def seen(self: Any, *args: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.cat([g.flatten() for g in grads]).norm()))
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", seen)
    for clip in (0.05, 1e6):
        train(options(data, tmp_path / str(clip), updates=2, clip=clip))
    assert norms[:2] == pytest.approx([0.05, 0.05], rel=1e-3)
    assert min(norms[2:]) > 0.2


def test_validation_draws_the_same_each_time_and_in_every_process(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def noisy(*args: Any) -> TokenLosses:
        found = token_losses(*args)
        return found._replace(nll=found.nll + torch.rand(len(found.nll)))

    monkeypatch.setattr(objective, "token_losses", noisy)
    run = _Run(options(data, tmp_path / "run", batch_tokens=150, accumulate=2), ALONE)
    assert len(run._sampler(run.valid, 1.0).epoch(0)) > 3
    first = run._loss()
    assert run._loss() == first
    sums = {"loss": 0.0, "count": 0.0}
    for rank in (0, 1):
        world = World(torch.device("cpu"), rank, 2)
        monkeypatch.setattr(World, "total", lambda self, counts: [sums.update({k: sums[k] + v}) for k, v in
                                                                 counts.items()] and dict(counts))  # fmt: skip
        run.world = world
        run._loss()
    assert sums["loss"] / sums["count"] == pytest.approx(first, rel=1e-6)


def test_snapshots_are_judged_by_the_validation_data_of_now(data: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "run"
    train(options(data, out, updates=8, lr=5e-3))
    other = sentences(40, 9)
    easy = write_manifest(tmp_path / "easy.tsv", [e.__class__(e.source, "red", "en", "es", e.id) for e in other])
    train(options(data, out, updates=10, lr=5e-3, valid=str(easy)))
    record = latest_checkpoint(out / "checkpoints")
    assert record is not None
    run = _Run(options(data, out, updates=10, lr=5e-3, valid=str(easy)), ALONE)
    for loss, name in record[1]["best"]:
        loop._fill(run.model, loop.open_checkpoint(out / "best" / name, "mmx"))
        assert run._loss() == pytest.approx(loss, rel=1e-5)


# -------------------- recordings


def test_fewer_snapshots_are_averaged_where_fewer_are_wanted(data: Path, tmp_path: Path) -> None:  # noqa: F811
    final = []
    for keep in (3, 1):
        train(options(data, tmp_path, updates=3, valid_every=1, keep_best=keep))
        final.append(json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["final"])
    assert final[0]["average"] != final[0]["best"]
    assert final[1]["average"] == final[1]["best"] == final[0]["best"]


@pytest.mark.parametrize(
    ("which", "fault"), [("train", "gone"), ("valid", "gone"), ("valid", "short"), ("valid", "damaged")]
)
def test_unusable_recordings_are_refused_before_loading(
    spoken: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    fault: str,
) -> None:
    tone(tmp_path / "short.wav", 300, 0.2)
    (tmp_path / "damaged.wav").write_bytes(b"no sound")
    bad = tmp_path / "bad.tsv"
    bad.write_text(f"audio\ttext\tsrc_lang\tstart_s\tduration_s\n{fault}.wav\tlow\ten\t0.1\t0.6\n")
    monkeypatch.setattr(loop, "start", lambda *_: pytest.fail("a model was loaded first"))
    with pytest.raises(InputError, match=rf"{fault}\.wav"):
        train(speech_options(spoken, tmp_path / "run", **{which: str(bad)}))


def test_updates_are_kept_where_a_validation_fails(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    out = tmp_path / "run"
    o = options(data, out, updates=5, valid_every=5, save_every=5)
    with monkeypatch.context() as patch:
        patch.setattr(_Run, "_loss", lambda self: (_ for _ in ()).throw(InputError("a recording is gone")))
        with pytest.raises(InputError, match="is gone"):
            train(o)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["step-00000005"]
    train(o)
    train(options(data, tmp_path / "again", updates=5, valid_every=5, save_every=5))
    a, b = everything(out), everything(tmp_path / "again")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -------------------- stopping


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_update_with_a_checkpoint(
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    o = options(data, tmp_path / "run", updates=7, save_every=100, valid_every=100)
    real, before = token_losses, signal.getsignal(number)
    calls = []

    def interrupted(*args: Any) -> TokenLosses:
        calls.append(0)
        if len(calls) == 5:  # within the third update
            os.kill(os.getpid(), number)
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(objective, "token_losses", interrupted)
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit):
            train(o)
    assert "stopped after update 3 of 7" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    assert signal.getsignal(number) is before
    train(o)
    train(options(data, tmp_path / "whole", updates=7, save_every=100, valid_every=100))
    a, b = everything(tmp_path / "run"), everything(tmp_path / "whole")
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -------------------- data


def test_what_training_refuses_is_a_problem_of_the_data(spoken: Path, tmp_path: Path) -> None:  # noqa: F811
    heard = {"audio": str(spoken / "train" / "0.wav"), "text": "low", "src_lang": "en"}
    read = {"source": "a house", "target": "a home", "src_lang": "en", "tgt_lang": "en"}
    mixed = tmp_path / "mixed.jsonl"
    mixed.write_text("\n".join(map(json.dumps, [heard, {**heard, "audio": str(spoken / "train" / "1.wav")}, read])))
    assert [p for p in check_data(mixed).problems if p.startswith("line 3: expected speech")]
    only = tmp_path / "only.jsonl"
    only.write_text(json.dumps(read))
    assert check_data(only).problems == []
    (problem,) = check_data(only, spoken / "tiny").problems
    assert problem.startswith("line 1: expected a recording for tiny, which reads only speech")
    with pytest.raises(InputError, match="which reads only speech"):
        train(speech_options(spoken, tmp_path / "run", train=str(only), valid=str(only), masks=""))


def test_a_text_in_another_script_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("source\ttarget\tsrc_lang\ttgt_lang\nмир\tworld\ten\ten\nмир\tworld\tru\ten\n", "utf-8")
    (problem,) = check_data(path).problems
    assert problem.startswith("line 2: expected") and "Latn" in problem


def test_tables_of_spreadsheets(tmp_path: Path) -> None:
    rows = 'source{0}target{0}src_lang{0}tgt_lang\r\n"a, b; ""c"""{0}"d\ne"{0}en{0}es\r\nx{0}y{0}en\r\n'
    path = tmp_path / "m.csv"
    for sign in ",;":
        path.write_bytes(b"\xef\xbb\xbf" + rows.format(sign).encode())
        assert check_manifest(path) == ["line 4: expected 4 fields, as the header has, got 3"]
        path.write_bytes(rows.format(sign).rpartition("x" + sign)[0].encode())
        (example,) = read_manifest(path)
        assert (example.source, example.target) == ('a, b; "c"', "d\ne")
    (tmp_path / "m.tsv").write_text("source,target,src_lang,tgt_lang\na,b,en,es\n")
    (problem,) = check_manifest(tmp_path / "m.tsv")
    assert "commas; name the file .csv" in problem
    path.write_bytes(b"source,target,src_lang,tgt_lang\na,b,en,es\na,\xff,en,es\n")
    assert check_manifest(path) == ["line 3: expected UTF-8, got byte 0xff: save it as CSV in UTF-8"]
