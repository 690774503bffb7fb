"""What the C library does with memory that is freed; only glibc has these options."""

import ctypes
import sys
from collections.abc import Mapping

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Options of glibc's `mallopt`: how much freed memory at the end of the heap stays, and from what
size on a block is a mapping of its own, which goes back to the system as soon as it is freed."""


def set_allocator(options: Mapping[int, int]) -> None:
    """Set options, in bytes; with another C library this does nothing."""
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "mallopt"):
        for option, value in options.items():
            library.mallopt(option, value)
