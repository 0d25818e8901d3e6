"""Read ahead in a thread, so that unpacking a chunk or a slow disk does not delay what is due."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

_POLL_S = 0.1


@contextmanager
def prefetched(items: Iterator[T], depth: int = 64) -> Iterator[Iterator[T]]:
    """Yield the same items, up to `depth` of them read ahead; on leaving the block the reading has ended.

    An error of `items` is raised at the place where its item would have come.
    """
    ahead: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
    unwanted = threading.Event()

    def put(entry: tuple[T | None, BaseException | None]) -> None:
        while not unwanted.is_set():
            try:
                return ahead.put(entry, timeout=_POLL_S)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put((item, None))
                if unwanted.is_set():
                    return
            put((None, StopIteration()))
        except Exception as error:
            put((None, error))

    def take() -> Iterator[T]:
        while True:
            item, error = ahead.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # without an error there is an item

    thread = threading.Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        unwanted.set()
        thread.join()
