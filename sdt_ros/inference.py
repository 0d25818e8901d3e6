"""The one thread that runs the network: always on the newest window, never on a queue of old ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sdt_ros.events import SpikeWindow
from sdt_ros.thread_names import name_thread

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the windows that were offered: offered = taken + skipped + waiting.

    Attributes:
        offered: windows offered.
        taken: windows that the network ran on, or is running on.
        skipped: windows that a newer one replaced before their turn, or that were left when the thread stopped.
        waiting: 1 while a window waits for its turn.
    """

    offered: int
    taken: int
    skipped: int
    waiting: int


class InferenceThread:
    """Runs `process` on windows, one after the other, newest first; and other calls that must share its thread.

    A window that is offered while another one waits replaces it. Windows that are not processed are released here; the
    others by `process`.
    """

    def __init__(self, process: Callable[[SpikeWindow], None]) -> None:
        self._process = process
        self._changed = threading.Condition()
        self._waiting: SpikeWindow | None = None
        self._calls: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._stopping = False
        self._offered = self._taken = self._skipped = 0
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a function in the thread, in between windows; returns its result or raises what it raised."""
        return self.submit(function).result()

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """Run a function in the thread before any window that waits, without waiting for it here."""
        future: Future[Result] = Future()
        with self._changed:
            if self._stopping:
                raise RuntimeError("the inference thread has stopped")
            self._calls.append((function, future))
            self._changed.notify()
        return future

    def offer(self, window: SpikeWindow) -> None:
        """Hand over a finished window; never waits."""
        with self._changed:
            self._offered += 1
            replaced, self._waiting = self._waiting, window
            if self._stopping:
                replaced, self._waiting = window, None
            self._skipped += replaced is not None
            self._changed.notify()
        if replaced is not None:
            replaced.release()

    def flush(self) -> None:
        """Give up the waiting window and wait until the one being processed is done."""
        with self._changed:
            left, self._waiting = self._waiting, None
            self._skipped += left is not None
        if left is not None:
            left.release()
        self.call(lambda: None)

    def reset(self) -> None:
        """Count from zero again."""
        with self._changed:
            self._offered = self._taken = self._skipped = 0
            if self._waiting is not None:
                self._offered = 1

    @property
    def ledger(self) -> Ledger:
        """The counts, all of one instant."""
        with self._changed:
            return Ledger(self._offered, self._taken, self._skipped, int(self._waiting is not None))

    def stop(self) -> None:
        """End the thread after the window being processed; the waiting one is skipped."""
        with self._changed:
            self._stopping = True
            left, self._waiting = self._waiting, None
            self._skipped += left is not None
            self._changed.notify()
        if left is not None:
            left.release()
        self._thread.join()

    def _run(self) -> None:
        name_thread("inference")  # torch's own threads inherit the name
        while True:
            window = None
            with self._changed:
                self._changed.wait_for(lambda: self._calls or self._waiting is not None or self._stopping)
                calls, self._calls = self._calls, []
                if not calls:  # the window that is the newest when the calls are done is taken then
                    window, self._waiting = self._waiting, None
                    self._taken += window is not None
                over = self._stopping and not calls and window is None
            if over:
                return
            for function, future in calls:
                try:
                    future.set_result(function())
                except BaseException as error:
                    future.set_exception(error)
            if window is not None:
                self._process(window)
