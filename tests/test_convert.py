"""Conversion tables and checkpoint readers: what does not fit is named, nothing from a file is run."""

import json
import os
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmx.errors import CheckpointError
from mmx.weights.convert import ZERO, Rule, convert, plan
from mmx.weights.formats import open_checkpoint

# -------------------- tables


RULES = [
    Rule(r"layer\.(\d+)\.(weight|bias)", r"layers.\1.\2"),
    Rule(r"old", None, "not needed"),
    Rule(r"fused", ["a", "b"]),
    Rule(r"half", ["c", ZERO]),
]
SHAPES = {"layers.0.weight": (2, 3), "a": (2, 4), "b": (2, 4), "c": (2,)}


def source(**changes: Tensor | None) -> dict[str, Tensor]:
    all_keys: dict[str, Tensor | None] = {
        "layer.0.weight": torch.arange(6.0).reshape(2, 3),
        "old": torch.ones(7),
        "fused": torch.arange(16.0).reshape(4, 4),
        "half": torch.tensor([1.0, 2.0, 0.0, 0.0]),
    }
    merged = {**all_keys, **changes}
    return {k: v for k, v in merged.items() if v is not None}


def test_a_table_renames_splits_and_drops() -> None:
    got = dict(convert(source(), RULES, SHAPES))
    assert got.keys() == SHAPES.keys()
    assert torch.equal(got["layers.0.weight"], source()["layer.0.weight"])
    assert torch.equal(torch.cat([got["a"], got["b"]]), source()["fused"])
    assert got["c"].tolist() == [1, 2]


TIED = [Rule(r"shared|head", "token", tied=True)]


@pytest.mark.parametrize("names", [["shared"], ["head"], ["shared", "head"]], ids=str)
def test_a_tied_tensor_may_have_any_of_its_names(names: list[str]) -> None:
    got = dict(convert({n: torch.ones(2, 3) for n in names}, TIED, {"token": (2, 3)}))
    assert torch.equal(got["token"], torch.ones(2, 3))


def test_tied_names_of_different_tensors_are_refused() -> None:
    with pytest.raises(CheckpointError, match="shared and head"):
        dict(convert({"shared": torch.ones(2, 3), "head": torch.zeros(2, 3)}, TIED, {"token": (2, 3)}))


def test_plan_needs_only_keys() -> None:
    got = plan(["old", "fused", "half", "layer.3.bias"], RULES)
    assert got == {"old": None, "fused": ["a", "b"], "half": ["c", ZERO], "layer.3.bias": ["layers.3.bias"]}


def test_a_rule_must_match_the_whole_key() -> None:
    with pytest.raises(CheckpointError, match=r"matched by none \(2\): xold, old\.x"):
        plan(["xold", "old.x", "old"], RULES)


def test_unmatched_and_ambiguous_keys_are_all_named() -> None:
    rules = [*RULES, Rule(r"fus.*", r"z")]
    with pytest.raises(CheckpointError) as caught:
        plan(["strange", "fused", "odd", "old"], rules)
    assert "matched by none (2): strange, odd." in str(caught.value)
    assert "matched by several (1): fused." in str(caught.value)


def test_long_lists_are_cut_with_their_count() -> None:
    with pytest.raises(CheckpointError, match=r"matched by none \(40\): .*k11 and 28 more"):
        plan([f"k{i}" for i in range(40)], RULES)


def test_missing_and_extra_tensors_are_all_named() -> None:
    changed = source(**{"layer.0.weight": None, "half": None, "layer.9.bias": torch.zeros(2)})
    with pytest.raises(CheckpointError) as caught:
        dict(convert(changed, RULES, SHAPES))
    assert "missing (2): c, layers.0.weight." in str(caught.value)
    assert "extra (1): layers.9.bias." in str(caught.value)


def test_misshapen_tensors_are_all_named() -> None:
    changed = source(**{"layer.0.weight": torch.zeros(3, 3), "fused": torch.zeros(4, 5)})
    with pytest.raises(CheckpointError) as caught:
        dict(convert(changed, RULES, SHAPES))
    for part in (
        "misshapen tensors (3)",
        "layers.0.weight expected (2, 3), got (3, 3)",
        "a expected (2, 4), got (2, 5)",
    ):
        assert part in str(caught.value)


def test_a_fused_tensor_that_does_not_split_evenly_is_refused() -> None:
    with pytest.raises(CheckpointError, match="misshapen"):
        dict(convert(source(fused=torch.zeros(5, 4)), RULES, SHAPES))
    with pytest.raises(CheckpointError, match="fused"):
        dict(convert(source(fused=torch.zeros(1, 4)), RULES, SHAPES))


@pytest.mark.parametrize("bad", [1e-6, float("nan")])
def test_a_part_without_a_place_must_be_zero(bad: float) -> None:
    with pytest.raises(CheckpointError, match="'half'"):
        dict(convert(source(half=torch.tensor([1.0, 2.0, 0.0, bad])), RULES, SHAPES))


def test_two_sources_for_one_tensor_are_refused() -> None:
    rules = [*RULES, Rule(r"twin", r"a")]
    with pytest.raises(CheckpointError, match=r"twice.*a"):
        dict(convert(source(twin=torch.zeros(2, 4)), rules, SHAPES))


def test_dropping_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        Rule(r"x", None)


def test_conversion_reads_one_tensor_at_a_time() -> None:
    reads: list[str] = []

    class Lazy(Mapping[str, Tensor]):
        def __getitem__(self, key: str) -> Tensor:
            reads.append(key)
            return source()[key]

        def __iter__(self):
            return iter(source())

        def __len__(self) -> int:
            return len(source())

    stream = convert(Lazy(), RULES, SHAPES)
    next(stream)
    assert reads == ["layer.0.weight"]
    list(stream)
    assert reads == ["layer.0.weight", "fused", "half"], "a dropped tensor is never read"


# -------------------- CTranslate2


CT2_IDS = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}


def ct2_text(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw


def ct2_entry(name: str, value: Tensor) -> bytes:
    kind = CT2_IDS[str(value.dtype).removeprefix("torch.")]
    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    dims = struct.pack(f"<B{value.dim()}I", value.dim(), *value.shape)
    return ct2_text(name) + dims + struct.pack("<BI", kind, len(raw)) + raw


def write_ct2(
    path: Path, tensors: Mapping[str, Tensor], aliases: Mapping[str, str] | None = None, version: int = 6
) -> Path:
    out = struct.pack("<I", version) + ct2_text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    out += b"".join(ct2_entry(name, value) for name, value in tensors.items())
    out += struct.pack("<I", len(aliases or {}))
    out += b"".join(ct2_text(alias) + ct2_text(name) for alias, name in (aliases or {}).items())
    path.write_bytes(out)
    return path


def ct2_tensors() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        "w32": torch.randn(3, 4, generator=random),
        "w16": torch.randn(3, 4, 2, generator=random).half(),
        "wb16": torch.randn(5, generator=random).bfloat16(),
        "w8": torch.tensor([[127, -127, 5], [1, 2, 3]], dtype=torch.int8),
        "w8_scale": torch.tensor([127.0, 2.0]),
        "heads": torch.tensor(8, dtype=torch.int16),
        "empty": torch.zeros(0, 3),
    }


def test_ct2_reads_every_dtype(tmp_path: Path) -> None:
    got = open_checkpoint(write_ct2(tmp_path / "model.bin", ct2_tensors()), "ct2")
    assert sorted(got) == ["empty", "heads", "w16", "w32", "w8", "wb16"], "a scale is no tensor of its own"
    assert len(got) == 6
    for name in ("w32", "w16", "wb16", "empty"):
        assert got[name].dtype == ct2_tensors()[name].dtype
        assert torch.equal(got[name], ct2_tensors()[name]), name
        assert got.shapes[name] == tuple(ct2_tensors()[name].shape)
    assert got.meta["heads"] == 8
    assert got.meta["spec"] == "WhisperSpec"


def test_ct2_int8_rows_are_divided_by_their_scale(tmp_path: Path) -> None:
    got = open_checkpoint(write_ct2(tmp_path / "model.bin", ct2_tensors()), "ct2")["w8"]
    assert got.dtype == torch.float32
    assert got.tolist() == [[1.0, -1.0, pytest.approx(5 / 127)], [0.5, 1.0, 1.5]]


def test_ct2_int8_convolutions_have_a_scale_a_row_too(tmp_path: Path) -> None:
    weight = torch.arange(12, dtype=torch.int8).reshape(2, 3, 2)
    path = write_ct2(tmp_path / "model.bin", {"w": weight, "w_scale": torch.tensor([2.0, 4.0])})
    want = weight.float() / torch.tensor([2.0, 4.0])[:, None, None]
    assert torch.equal(open_checkpoint(path, "ct2")["w"], want)


def test_ct2_aliases_are_names_for_what_is_stored_once(tmp_path: Path) -> None:
    aliases = {"tied": "w32", "tied8": "w8", "tied8_scale": "w8_scale"}
    got = open_checkpoint(write_ct2(tmp_path / "model.bin", ct2_tensors(), aliases), "ct2")
    assert {"tied", "tied8"} <= set(got)
    assert "tied8_scale" not in got
    assert got.shapes["tied"] == (3, 4)
    assert torch.equal(got["tied"], ct2_tensors()["w32"])
    assert torch.equal(got["tied8"], got["w8"])


def test_ct2_alias_needs_no_alias_of_the_scale(tmp_path: Path) -> None:
    got = open_checkpoint(write_ct2(tmp_path / "model.bin", ct2_tensors(), {"tied8": "w8"}), "ct2")
    assert torch.equal(got["tied8"], got["w8"])


def test_ct2_opens_a_folder_with_its_config(tmp_path: Path) -> None:
    write_ct2(tmp_path / "model.bin", ct2_tensors())
    (tmp_path / "config.json").write_text(json.dumps({"alignment_heads": [[1, 2]]}))
    assert open_checkpoint(tmp_path, "ct2").meta["alignment_heads"] == [[1, 2]]


def test_ct2_cut_anywhere_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    whole = write_ct2(path, {"w": torch.ones(2, 2), "v": torch.ones(1)}, {"u": "w"}).read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError, match=r"model\.bin"):
            open_checkpoint(path, "ct2")


@pytest.mark.parametrize("version", [5, 7])
def test_ct2_of_another_version_is_refused(tmp_path: Path, version: int) -> None:
    path = write_ct2(tmp_path / "model.bin", ct2_tensors(), version=version)
    with pytest.raises(CheckpointError, match=rf"version 6 at .*model\.bin, got {version}"):
        open_checkpoint(path, "ct2")


def test_ct2_with_an_unknown_dtype_or_a_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    whole = write_ct2(path, {"weight": torch.ones(2, 2)}).read_bytes()
    at = whole.index(b"weight\0") + 7 + 1 + 8  # past the name, the rank and the dims stands the dtype
    path.write_bytes(whole[:at] + b"\x63" + whole[at + 1 :])
    with pytest.raises(CheckpointError, match=r"type 99 for 'weight'"):
        open_checkpoint(path, "ct2")
    path.write_bytes(whole[: at - 4] + struct.pack("<I", 3) + whole[at:])
    with pytest.raises(CheckpointError, match=r"16 bytes .* for 'weight' \(2, 3\)"):
        open_checkpoint(path, "ct2")


# -------------------- safetensors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_safetensors_reads_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    want = torch.arange(6).reshape(2, 3).to(dtype)
    save_file({"w": want}, str(tmp_path / "model.safetensors"))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        got = open_checkpoint(path, "hf")
        assert got.shapes == {"w": (2, 3)}
        assert got["w"].dtype == dtype
        assert torch.equal(got["w"], want)


def test_safetensors_reads_the_settings_beside_it(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "whisper", "d_model": 8}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"alignment_heads": [[0, 1]], "x": 1}))
    meta = open_checkpoint(tmp_path, "hf").meta
    assert meta == {"model_type": "whisper", "d_model": 8, "alignment_heads": [[0, 1]]}


def sharded(folder: Path) -> Path:
    save_file({"a": torch.ones(2)}, str(folder / "model-1.safetensors"))
    save_file({"b": torch.zeros(3), "c": torch.full((1,), 7.0)}, str(folder / "model-2.safetensors"))
    where = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def test_safetensors_in_shards(tmp_path: Path) -> None:
    got = open_checkpoint(sharded(tmp_path), "hf")
    assert got.shapes == {"a": (2,), "b": (3,), "c": (1,)}
    assert got["c"].tolist() == [7.0]
    assert got["a"].tolist() == [1.0, 1.0]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (sharded(tmp_path) / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-2\.safetensors"):
        open_checkpoint(tmp_path, "hf")


@pytest.mark.parametrize("keep", [0, 4, 30, -1])
def test_truncated_safetensors_are_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(100)}, str(path))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_checkpoint(path, "hf")


# -------------------- OpenAI


def write_openai(path: Path, **extra: Any) -> Path:
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": {"w": torch.ones(2, 2).half()}, **extra}, path)
    return path


def test_openai_reads_tensors_and_dims(tmp_path: Path) -> None:
    got = open_checkpoint(write_openai(tmp_path / "tiny.pt"), "openai")
    assert got.shapes == {"w": (2, 2)}
    assert got["w"].dtype == torch.float16
    assert got.meta == {"dims": {"n_mels": 80}}


def test_openai_reads_a_bare_state_dict(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3)}, tmp_path / "x.pt")
    assert open_checkpoint(tmp_path / "x.pt", "openai").shapes == {"w": (3,)}


@pytest.mark.parametrize("keep", [0, 10, -1, -40])
def test_a_truncated_pickle_is_named(tmp_path: Path, keep: int) -> None:
    path = write_openai(tmp_path / "tiny.pt")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"tiny\.pt"):
        open_checkpoint(path, "openai")


def test_what_is_not_a_dict_of_tensors_is_refused(tmp_path: Path) -> None:
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="got list"):
        open_checkpoint(tmp_path / "list.pt", "openai")
    torch.save({"model_state_dict": {"w": torch.ones(1), "epoch": 3}}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="epoch"):
        open_checkpoint(tmp_path / "other.pt", "openai")


class Evil:
    """Unpickled, it touches a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("kind", ["zip", "bare"])
def test_a_pickle_that_runs_code_is_refused_and_nothing_runs(tmp_path: Path, kind: str) -> None:
    touched, path = tmp_path / "touched", tmp_path / "evil.pt"
    if kind == "zip":
        write_openai(path, payload=Evil(touched))
    else:
        path.write_bytes(pickle.dumps({"w": Evil(touched)}))
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        open_checkpoint(path, "openai")
    assert not touched.exists()
    with path.open("rb") as f:  # the bait works: the careless way does touch the file
        if kind == "bare":
            pickle.load(f)
            assert touched.exists()


# -------------------- all formats


@pytest.mark.parametrize("format", ["openai", "hf", "mmx", "ct2"])
def test_no_file_and_no_checkpoint_are_errors_that_name_the_path(tmp_path: Path, format: str) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        open_checkpoint(tmp_path / "nowhere.bin", format)
    (tmp_path / "noise.bin").write_bytes(np.random.default_rng(0).bytes(2000))
    with pytest.raises(CheckpointError, match=r"noise\.bin"):
        open_checkpoint(tmp_path / "noise.bin", format)


def test_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'onnx'"):
        open_checkpoint(tmp_path, "onnx")


def test_an_unknown_key_is_a_key_error(tmp_path: Path) -> None:
    got = open_checkpoint(write_ct2(tmp_path / "model.bin", ct2_tensors()), "ct2")
    with pytest.raises(KeyError):
        got["nothing"]
    assert "nothing" not in got
