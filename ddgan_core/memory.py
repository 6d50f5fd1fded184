"""Freed memory is kept for the next tensor, where the C library would give it back.

A forward pass without gradients frees each activation at once. glibc returns such blocks to the system, which then has
to clear every page again: measured on one core, a seventh to a quarter of the time of sampling and of features.
"""

import ctypes
import functools
import os
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
KEPT = 1 << 30  # bytes, at most, that lie free at the heap's end
OLDER = 1 << 25  # the largest MMAP_THRESHOLD that an older glibc takes


@functools.cache
def keep_freed_memory() -> bool:
    """From now on this process keeps up to a gibibyte of what it frees; whether it could be set.

    Only with glibc, and not where the environment says otherwise, by MALLOC_* or GLIBC_TUNABLES (man 3 mallopt).
    """
    if sys.platform != "linux" or any(n.startswith(("MALLOC_", "GLIBC_")) for n in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT) and (mallopt(MMAP_THRESHOLD, KEPT) or mallopt(MMAP_THRESHOLD, OLDER)))
