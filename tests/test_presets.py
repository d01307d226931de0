"""Published protocols of signing: dots, case and tokens are as they say, and a model that does not look is caught."""

from pathlib import Path

import numpy as np
import pytest
from toys import data
from toys.folders import write_toy

from mmx.cli import app as cli
from mmx.errors import InputError
from mmx.evaluate import offline
from mmx.evaluate.controls import control_name, controlled, partners
from mmx.evaluate.metrics import measure
from mmx.evaluate.options import Scoring
from mmx.evaluate.presets import METRICS, PRESETS
from mmx.evaluate.rouge import rouge_l

pytest.importorskip("sacrebleu")
import sacrebleu

BARE = ["am tag regen und wind", "in der nacht schnee im norden", "morgen wird es warm"]
WRITTEN = ["am tag wind und regen", "in der nacht schnee", "morgen wird es sehr warm"]


def value(metric: str, hypotheses: list[str], references: list[str], preset: str = "none") -> float:
    return measure(metric, hypotheses, references, bootstrap=0, preset=preset).value


def test_a_dot_is_a_protocol() -> None:
    dotted = [f"{t} ." for t in BARE]
    with_dot, without = (value("bleu", WRITTEN, BARE, p) for p in ("phoenix-dot", "phoenix-nodot"))
    assert abs(with_dot - without) > 1
    for hypotheses in (WRITTEN, [f"{t} ." for t in WRITTEN], [f"{t}." for t in WRITTEN]):
        for references in (BARE, dotted):
            assert value("bleu", hypotheses, references, "phoenix-dot") == with_dot
            assert value("bleu", hypotheses, references, "phoenix-nodot") == without
    assert without == sacrebleu.corpus_bleu(WRITTEN, [BARE]).score
    assert with_dot == sacrebleu.corpus_bleu([f"{t} ." for t in WRITTEN], [dotted], force=True).score


def test_case_and_characters_are_as_the_preset_says() -> None:
    hypotheses, references = (
        ["you Know, it is fine", "go ON then please"],
        ["You know, it is fine.", "Go on then please."],
    )
    cased, lower = (value("bleu", hypotheses, references, f"how2sign-13a{end}") for end in ("", "-lc"))
    assert cased == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert lower == sacrebleu.corpus_bleu(hypotheses, [references], lowercase=True).score > cased
    for metric in ("chrf", "rouge-l-f1"):
        assert value(metric, hypotheses, references, "how2sign-13a-lc") > value(
            metric, hypotheses, references, "how2sign-13a"
        )
    assert value("bleu", ["今天 天气，好吗？"], ["今天天气,好吗?"], "csl-char") == pytest.approx(100)
    spaced = [" ".join("今天天气冷吗")], [" ".join("今天天气好吗")]
    expected = sacrebleu.corpus_bleu(spaced[0], [spaced[1]], tokenize="none").score
    assert value("bleu", ["今天天气冷吗"], ["今天天气好吗"], "csl-char") == pytest.approx(expected)
    assert value("rouge-l-f1", ["今天天气冷吗"], ["今天天气好吗"], "csl-char") == pytest.approx(100 * 5 / 6)


def test_rouge_by_hand() -> None:
    # "a b c d" and "a x c": the longest common subsequence is "a c"; P = 2 / 3, R = 2 / 4
    assert rouge_l(["a", "x", "c"], ["a", "b", "c", "d"], 1.0) == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert rouge_l(["a", "x", "c"], ["a", "b", "c", "d"], 1.2) == pytest.approx(
        2.44 * (2 / 3) * 0.5 / (0.5 + 1.44 * 2 / 3)
    )
    assert rouge_l([], ["a"], 1.0) == rouge_l(["b"], ["a"], 1.0) == 0
    assert value("rouge-l-coco", ["a b", "x"], ["a b", "y"]) == 50


def test_the_signature_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lines in (("hyp.txt", WRITTEN), ("ref.txt", BARE)):
        (tmp_path / name).write_text("\n".join(lines) + "\n")
    call = ["evaluate", "--hypotheses", str(tmp_path / "hyp.txt"), "--references", str(tmp_path / "ref.txt")]
    assert cli.main([*call, "--preset", "phoenix-dot", "--bootstrap", "0"]) == 0
    out = capsys.readouterr().out
    assert (
        f"bleu: preset:phoenix-dot|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}" in out
    )
    assert "rouge-l-coco: preset:phoenix-dot|nrefs:1|case:mixed|tok:spaces|beta:1.2" in out
    assert all(f"{m}: preset" in out for m in METRICS)
    assert cli.main([*call, "--preset", "phoenix"]) == 2
    assert "phoenix-dot" in capsys.readouterr().err
    with pytest.raises(InputError, match="Did you mean 'csl-char'"):
        measure("bleu", ["a"], ["a"], preset="csl-chars")
    assert all(Scoring(preset=name).preset == name for name in PRESETS)  # type: ignore[arg-type]


# -------------------- controls


def test_a_control_says_nothing() -> None:
    x = np.arange(24, dtype=np.float32).reshape(12, 2) + 1
    assert not controlled(x, "blank", "a").any()
    mixed = controlled({"signs": x}, "shuffled", "a")["signs"]
    assert not np.array_equal(mixed, x) and np.array_equal(np.sort(mixed, 0), x)
    assert np.array_equal(mixed, controlled(x, "shuffled", "a"))
    assert partners(["a", "a", "b", "c"]) == [2, 2, 3, 0] and partners(["a"]) == [0]


def test_a_model_that_does_not_look_is_caught(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_toy("pose_to_text", tmp_path / "model")
    rows = data.signs(tmp_path, 6, "valid")
    call = ["evaluate", str(rows), "--model", str(model), "--beam-size", "1", "--device", "cpu", "--bootstrap", "20"]
    call += ["--metrics", "cer", "--normalize", "none", "--control", "blank,swapped"]
    assert cli.main([*call, "--output", str(tmp_path / "scores.json")]) == 0
    out = capsys.readouterr().out
    assert control_name(model.name, "blank") in out.replace(str(model), model.name)
    assert "does not come from the recordings" in " ".join(out.split())  # its weights are random
    hypotheses = {"good": data_texts(rows), control_name("good", "blank"): ["x"] * 6}
    scoring = Scoring(metrics=("cer",), normalize="basic", bootstrap=50)
    lines = offline.report(hypotheses, offline.read_rows(rows), scoring)
    assert [line.blind for line in lines] == [False, False]
    texts = tmp_path / "t.tsv"
    texts.write_text("source\ttarget\tsrc_lang\ttgt_lang\na\tb\ten\tde\n")
    assert cli.main(["evaluate", str(texts), "--model", str(model), "--control", "blank"]) == 2
    assert "leave it out" in capsys.readouterr().err


def data_texts(rows: Path) -> list[str]:
    return [row.target for row in offline.read_rows(rows)]
