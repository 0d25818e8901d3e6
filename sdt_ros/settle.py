"""What a process does once, when all that lasts has been made: so that nothing of it costs time or memory later."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def settle() -> None:
    """Take what lives now out of the garbage collector's sight, and give back what making it has left over.

    A full collection walks every object of torch and numba, a tenth of a second that some window would pay for. glibc
    keeps what loading a network has freed, some 30 to 60 MB.
    """
    gc.unfreeze()  # of the time before, when this is not the first
    gc.collect()
    gc.freeze()
    with suppress(OSError, AttributeError):  # other C libraries have no malloc_trim
        ctypes.CDLL("libc.so.6").malloc_trim(0)
