"""What a verb tells on the standard error, and the text that it writes to the standard output."""

import sys

from mmx.files import cannot_write, drop_output, readable


def write_out(text: str) -> None:
    """Write to standard output at once. Raises `OutputError`, and `BrokenPipeError` when its reader went away."""
    try:
        sys.stdout.write(readable(text))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        drop_output()
        raise cannot_write("standard output", e) from e


def say(text: str) -> None:
    """A line on the standard error."""
    print(readable(text), file=sys.stderr)
