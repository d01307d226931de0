"""Train each of several recipes, as `mmx train` does: torchrun starts the processes of a test once for all of them."""

import os
import sys
from functools import partial

import torch.distributed as dist

from mmx.cli.app import main

meet = dist.init_process_group
store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
place = {"rank": int(os.environ["RANK"]), "world_size": int(os.environ["WORLD_SIZE"])}
for recipe in sys.argv[1:]:
    # Under a name of its own in torchrun's store: where they met before, the addresses of that meeting are left.
    dist.init_process_group = partial(meet, store=dist.PrefixStore(recipe, store), **place)
    if code := main(["train", recipe]):
        sys.exit(code)
