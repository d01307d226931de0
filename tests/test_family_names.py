"""Nothing outside `models/` names a family: neither to branch on it nor in a message."""

import ast
from collections.abc import Iterator
from pathlib import Path

from mmx.weights.family import families

ROOT = Path(__file__).parents[1]
LINKS = ("models", "streaming", "datasets")
SOURCES = [
    path
    for folder in ("mmx", "streaming")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if folder == "streaming" or path.relative_to(ROOT).parts[1] not in LINKS
]

ALLOWED = {
    "mmx/bench": "compares parts of families with baselines",
    "mmx/experiments": "each is about the model that it names",
    "mmx/cli": "examples of the help; what extras install",
    "mmx/evaluate": "the text normalizer of the package openai-whisper, as papers call it",
    "mmx/make/compose.py": "puts families together: the module of composed models, and folders of causal models",
    "mmx/train/options.py": "the default family of a new text model",
    "mmx/text/phonemes/english.py": "the package whose phonemizer it is",
    "mmx/tasks/voices.py": "the default voices",
    "mmx/weights/options.py": "the default model",
    "mmx/tasks/result.py": "the JSON of openai-whisper, which results are read from",
    "mmx/weights/hub.py": "an example of a path",
    "streaming/server/models.py": "names of models in OpenAI's API",
    "mmx/text/phonemes/japanese.py": "a package that is called like a voice",
    "streaming/emma": "heads that were trained for one model",
}


def names() -> set[str]:
    """Families by module, and what their models are called."""
    parts = {word for name in families() for word in (name, name.replace("_", "-"))}
    return {*parts - {"composed", "monotonic"}, "whisper", "nllb", "seamless", "w2v"}


def _words(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Names and strings that run: neither comments nor docstrings, nor what documents a constant."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


def found(source: str) -> list[tuple[int, str]]:
    """Lines of a source that name a family, and the words."""
    known = names()
    return [(line, word) for line, word in _words(ast.parse(source)) if any(n in word.lower() for n in known)]


def test_names_are_found_in_code_and_messages_but_not_in_docstrings() -> None:
    source = '"""Whisper"""\nfrom mmx.models import nllb\nif family == "whisper":\n    raise E(f"NLLB {x}")  # w2v\n'
    assert [line for line, _ in found(source)] == [2, 3, 4]


def test_no_source_outside_models_names_a_family() -> None:
    wrong = {}
    for path in SOURCES:
        place = path.relative_to(ROOT).as_posix()
        if not any(place == allowed or place.startswith(f"{allowed}/") for allowed in ALLOWED):
            wrong |= {place: lines} if (lines := found(path.read_text("utf-8"))) else {}
    assert not wrong, "branch on data or an interface; in a message, use `mmx.weights.card.suggestion`"


def test_every_exception_is_needed() -> None:
    for allowed in ALLOWED:
        files = [ROOT / allowed] if allowed.endswith(".py") else (ROOT / allowed).rglob("*.py")
        assert any(found(path.read_text("utf-8")) for path in files), f"{allowed} names no family any more"
