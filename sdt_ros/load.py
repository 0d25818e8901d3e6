"""What decoding costs, how many events a second it can carry, and when to leave packets undecoded."""

from __future__ import annotations

from dataclasses import dataclass

_KEEP = 0.999  # of what is known, with each packet: the model follows within some thousand packets
_LEAST_PACKETS = 20.0
_LEAST_SPREAD = 0.05  # of the events in a packet, relative: below it the two costs cannot be told apart
_PATIENCE = 4.0  # limits that a window may take while nothing else has been finished


class DecodeCost:
    """The processor time that decoding takes: so much for a packet, so much for an event, by least squares."""

    def __init__(self) -> None:
        self._weight = self._events = self._ns = self._events_squared = self._events_ns = 0.0

    def add(self, events: int, ns: int) -> None:
        """Take one packet: its events and the processor time that it took [ns]."""
        self._weight = self._weight * _KEEP + 1.0
        self._events = self._events * _KEEP + events
        self._ns = self._ns * _KEEP + ns
        self._events_squared = self._events_squared * _KEEP + events * events
        self._events_ns = self._events_ns * _KEEP + events * ns

    @property
    def costs_ns(self) -> tuple[float, float] | None:
        """Of a packet and of an event [ns]; None before enough is known.

        Where all packets hold the same number of events, all is put down to the events: the rate that follows is then
        on the safe side.
        """
        if self._weight < _LEAST_PACKETS or self._events <= 0:
            return None
        mean, mean_ns = self._events / self._weight, self._ns / self._weight
        variance = self._events_squared / self._weight - mean * mean
        if variance > (_LEAST_SPREAD * mean) ** 2:
            slope = (self._events_ns / self._weight - mean * mean_ns) / variance
            if 0.0 < slope <= mean_ns / mean:
                return mean_ns - slope * mean, slope
        return 0.0, mean_ns / mean


@dataclass(frozen=True, slots=True)
class Carried:
    """What decoding took in the last second, and what it could carry.

    Attributes:
        busy: share of the second that the executor's thread had the processor, 0 to 1.
        most_mev_s: million events a second that would fill its core, at as many packets a second; 0 while unknown.
    """

    busy: float = 0.0
    most_mev_s: float = 0.0


def carried(cost: DecodeCost, packets: int, events: int, busy_s: float, seconds: float) -> Carried:
    """Foretell the event rate at which decoding fills its core.

    Args:
        cost: what decoding takes.
        packets: of the last second or so.
        events: of the same time.
        busy_s: processor time of the executor's thread in that time [s]: decoding, and what the middleware takes.
        seconds: how long that time was [s].
    """
    seconds = max(seconds, 1e-9)
    busy = busy_s / seconds
    costs = cost.costs_ns
    if costs is None or not packets:
        return Carried(busy)
    of_events_s = events * costs[1] / 1e9
    of_packets = max(0.0, busy_s - of_events_s) / seconds  # stays when packets grow
    return Carried(busy, max(0.0, 1.0 - of_packets) / costs[1] * 1e3)


class Shedding:
    """Decides which packets are left undecoded while decoding is behind, so that depth is of now and not of then.

    A packet that has waited for longer than the limit ends decoding, as soon as one window has been finished since it
    last began; it begins again with the first packet that has waited for less than a quarter of the limit.
    """

    def __init__(self) -> None:
        self.is_on = False
        self._closed = 0

    def sheds(self, waited_ms: float, limit_ms: float, closed: int) -> bool:
        """Whether to leave a packet undecoded.

        Args:
            waited_ms: from its arrival in this process until now [ms].
            limit_ms: how long that may be [ms].
            closed: windows finished or found empty so far.
        """
        if self.is_on:
            self.is_on = waited_ms > limit_ms / 4
            self._closed = closed
        elif waited_ms > limit_ms:
            self.is_on = closed > self._closed or waited_ms > _PATIENCE * limit_ms
        return self.is_on
