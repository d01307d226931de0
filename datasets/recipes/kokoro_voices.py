"""Kokoro's voices in one small file: python -m mmx.datasets.recipes.kokoro_voices FOLDER OUT

FOLDER is `voices` of the npm package kokoro-js 1.2.1 (Apache-2.0): for each of 54 voices a style vector of 256 numbers
for each length of a text, up to 510 symbols. Over the lengths a voice moves within a few directions: its mean and the
first `RANK` of a singular value decomposition, in half precision, are 0.8 MB in the place of 28 MB.

Letters: V voices, L lengths, R rank, S style.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

LENGTHS, STYLE, RANK = 510, 256, 8


def compress(style_VLS: Tensor, rank: int = RANK) -> dict[str, Tensor]:
    """Means `(V, S)`, and what moves with the length: `(V, L, R)` times `(V, R, S)`."""
    mean_VS = style_VLS.mean(1)
    left, scale, right = torch.linalg.svd(style_VLS - mean_VS[:, None], full_matrices=False)
    root = scale[:, :rank].sqrt()
    moves, directions = left[:, :, :rank] * root[:, None], root[:, :, None] * right[:, :rank]
    return {"mean": mean_VS, "moves": moves.half().contiguous(), "directions": directions.half().contiguous()}


def main(folder: Path, out: Path) -> None:
    """Write the file and print the loss."""
    files = sorted(folder.glob("*.bin"))
    style = torch.from_numpy(np.stack([np.fromfile(f, np.float32).reshape(LENGTHS, STYLE) for f in files]))
    made = compress(style)
    again = made["mean"][:, None] + made["moves"].float() @ made["directions"].float()
    loss = (again - style).norm(dim=(1, 2)) / (style - style.mean((0, 1))).norm(dim=(1, 2))
    names = ",".join(f.stem for f in files)
    notice = "style vectors of Kokoro-82M by hexgrad, Apache-2.0, compressed"
    save_file(made, str(out), {"voices": names, "notice": notice})
    print(f"{len(files)} voices, {out.stat().st_size:,} bytes, largest relative error {float(loss.max()):.2e}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
