"""`python -m mmx.train recipe.toml` is `mmx train recipe.toml`; torchrun starts this."""

import sys

from mmx.cli.app import main

sys.exit(main(["train", *sys.argv[1:]]))
