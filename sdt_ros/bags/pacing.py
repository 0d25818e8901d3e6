"""Bag time to real time: each message has an absolute deadline, so that delays never add up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_NS = 1e-9


class Pacer:
    """Waits for the moments at which messages are due.

    A message is due at the anchor's time plus its distance in bag time divided by the rate, whatever happened to the
    messages before it: after a delay the next ones follow without waiting until the lost time is made up.

    Args:
        rate: bag seconds in a real second.
        stop: ends every wait when set.
        tick_hz: how often `tick` is called while waiting [1/s]; 0 for never.
        tick: receives the present bag time [ns], always before that of the message waited for.
        now: monotonic clock [s].
        wait: sleeps for so many seconds, less if `stop` is set.

    Attributes:
        worst_lateness_s: the longest that a `wait_until` returned after its deadline [s].
    """

    def __init__(
        self,
        rate: float,
        stop: threading.Event,
        tick_hz: float = 0,
        tick: Callable[[int], None] | None = None,
        now: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.rate = rate
        self.worst_lateness_s = 0.0
        self._stop = stop
        self._tick = tick
        self._tick_s = 1 / tick_hz if tick_hz > 0 and tick is not None else None
        self._now = now
        self._wait = wait or stop.wait
        self._anchor_ns = 0
        self._anchor_s = now()
        self._next_tick_s = self._anchor_s

    def anchor(self, bag_ns: int, earliest_s: float | None = None) -> None:
        """Let a bag time [ns] be now, or at `earliest_s` of the clock if that is later."""
        self._anchor_ns = bag_ns
        self._anchor_s = max(self._now(), earliest_s or 0)
        self._next_tick_s = self._anchor_s

    def due_s(self, bag_ns: int) -> float:
        """Return when a bag time [ns] is due, by the clock [s]."""
        return self._anchor_s + (bag_ns - self._anchor_ns) * _NS / self.rate

    def wait_until(self, bag_ns: int) -> bool:
        """Wait until a bag time [ns] is due; false if stopped."""
        due = self.due_s(bag_ns)
        while not self._stop.is_set() and (now := self._now()) < due:
            if self._tick is None or self._tick_s is None:
                self._wait(due - now)
                continue
            if now >= self._next_tick_s:
                self._tick(self._anchor_ns + int((now - self._anchor_s) * self.rate / _NS))
                missed = (now - self._next_tick_s) // self._tick_s  # after a delay: the next tick, not all missed ones
                self._next_tick_s += (missed + 1) * self._tick_s
            self._wait(max(0.0, min(due, self._next_tick_s) - self._now()))
        if self._stop.is_set():
            return False
        self.worst_lateness_s = max(self.worst_lateness_s, self._now() - due)
        return True
