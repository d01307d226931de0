"""Free memory that the C library keeps, given back to the system."""

import ctypes
import sys
from functools import cache
from typing import Any


@cache
def _c_library() -> Any:
    """glibc, or None on systems whose C library gives memory back by itself."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def give_back() -> bool:
    """Give back what is free, and say whether there was any.

    Tensors of many sizes leave gaps that glibc keeps: a session of 30 minutes grew by 220 MB of which none was in use.
    It takes some milliseconds.
    """
    library = _c_library()
    return library is not None and bool(library.malloc_trim(0))
