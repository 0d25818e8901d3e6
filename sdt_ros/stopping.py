"""How Ctrl-C and SIGTERM ask a process to stop, whatever it is doing at that moment."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def stop_on_signal(then: Callable[[], object] | None = None) -> threading.Event:
    """An event that the first Ctrl-C or SIGTERM sets; further ones change nothing, to the end of the process.

    Were they not ignored, a second Ctrl-C would kill the interpreter while it winds up.

    Args:
        then: is called behind it, on a thread of its own.
    """
    stop = threading.Event()

    def tell() -> None:
        stop.set()
        if then is not None:
            then()

    def handle(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        # The handler interrupts the main thread, which may be in the midst of `stop.wait` and hold the event's lock:
        # set from here, the event would wait for that lock for good. Another thread waits until it is free.
        _thread.start_new_thread(tell, ())

    for number in SIGNALS:
        signal.signal(number, handle)
    return stop
