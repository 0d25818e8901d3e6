"""How Ctrl-C and SIGTERM have a run save and stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Stop:
    """What a run was asked for; plain flags, which handlers of signals may set.

    Attributes:
        asked: to save and stop.
        interrupted: by Ctrl-C.
    """

    asked: bool = False
    interrupted: bool = False


@contextmanager
def stopping(then: Callable[[], object] = lambda: None) -> Iterator[Stop]:
    """Have SIGTERM, which batch systems send before they kill, and the first Ctrl-C ask for an end.

    The second Ctrl-C makes it. Behind the block, signals are what they were before.

    Args:
        then: is called by the handler too, in the midst of whatever the main thread does.
    """
    stop = Stop()

    def terminate(*_: object) -> None:
        stop.asked = True
        then()

    def interrupt(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop.asked = stop.interrupted = True
        # Not by print: the bar may be in the midst of its own, and files cannot be written from within themselves.
        os.write(2, b"\nsaving behind this step; Ctrl-C again to stop without\n")
        then()

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, terminate)}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
