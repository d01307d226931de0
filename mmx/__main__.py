"""`python -m mmx` is `mmx`."""

import sys

from mmx.cli.app import main

sys.exit(main())
