"""Families are found by import, and a stranger's file in the current folder is not."""

import sys
from pathlib import Path

import pytest

from mmx.errors import CheckpointError, InputError
from mmx.weights.family import families, import_family

CODE = "from pathlib import Path\nPath('ran').touch()\nConfig = dict\n\n\ndef build(config): ...\n"


def package(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    (folder / name / "model.py").write_text(CODE)


def test_a_file_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "stranger_of_here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(InputError, match="stranger_of_here"):
        import_family("stranger_of_here.model")
    assert not (tmp_path / "ran").exists() and "stranger_of_here" not in sys.modules


def test_a_package_on_the_path_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, "installed_elsewhere")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    assert import_family("installed_elsewhere.model").Config is dict


def test_what_builds_no_models_is_no_family() -> None:
    assert "whisper" in families() and "silero_vad" not in families()
    for name in ("mmx.files", "no_such", "no.such", "a b", "../x"):
        with pytest.raises(InputError, match="expected a family among"):
            import_family(name)


def test_what_a_family_declares_is_found_and_the_rest_has_defaults() -> None:
    known = families()
    assert known["nllb"].MODEL_TYPES == ("m2m_100", "mbart", "nllb") and known["whisper"].MODEL_TYPES == ("whisper",)
    assert known["kokoro"].from_file is not None and known["nllb"].from_file is None
    with pytest.raises(InputError, match="models are files"):
        known["kokoro"].build(None)
    with pytest.raises(CheckpointError, match="weights that mmx wrote"):
        known["causal_lm"].config_from("hf", {}, {})
