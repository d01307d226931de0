"""Sessions that need an environment of their own: `nox -s fairseq2`."""

import os
import shutil
from pathlib import Path

import nox

nox.options.sessions = []


@nox.session(venv_backend="venv")
def fairseq2(session: nox.Session) -> None:
    """Parity with fairseq2's own modules. It pins torch 2.9.1 for CUDA 12.8, so this downloads about 4 GB."""
    session.install("fairseq2==0.8.1", ".")
    env = {"PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1"}
    session.run("python", "tests/fairseq2_parity.py", env=env | _sound_library(session))


def _sound_library(session: nox.Session) -> dict[str, str]:
    """fairseq2 wants the system's libsndfile; where there is none, the one that soundfile brings is as good."""
    bundled = next(Path(session.virtualenv.location).glob("**/_soundfile_data/libsndfile*.so"), None)
    if bundled is None:
        return {}
    folder = Path(session.create_tmp())
    shutil.copyfile(bundled, folder / "libsndfile.so.1")
    return {"LD_LIBRARY_PATH": os.pathsep.join([str(folder), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)}
