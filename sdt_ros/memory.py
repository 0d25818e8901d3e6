"""How the process keeps freed memory. Importing this before threads are started lets windows reuse each other's.

A window's tensors are as large as the one's before. glibc gives blocks of more than 32 MB back to the system as soon as
they are free, and also smaller ones where a thread has an arena of its own; the next window then pays for a page fault
every 4 KiB: 91,000 of them in `sdt` at 640x480, a sixth of its time (docs/lab_notebook.md). One arena that keeps what
was freed has none of them and is not larger. Whoever sets one of glibc's MALLOC_ variables decides for himself.
"""

import ctypes
import logging
import os

_log = logging.getLogger(__name__)

# From glibc's malloc.h: parameter and value.
_TRIM_THRESHOLD = (-1, 2**31 - 1)  # bytes at the top that are kept
_MMAP_THRESHOLD = (-3, 2**30)  # blocks below are not mapped apart
_ARENA_MAX = (-8, 1)  # other arenas are made of heaps of 64 MB, which are given back whole


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed.

    Returns:
        Whether it will; False where the user has set the allocator up, or where it is another one.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        _log.debug("no mallopt in this C library: large tensors may be slower to allocate")
        return False
    return all(mallopt(name, value) == 1 for name, value in (_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX))


keep_freed_memory()
