"""`sdt bench soak --overload`: three times what the machine carries, and how soon all is well when the load drops.

The camera's time runs faster: packets, events and windows come at a multiple of their usual rate, as in a replay at
that speed. What the machine carries is the rate of windows that the node publishes when it is given far too many.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, dataclass
from typing import Any

from sdt_ros.bench.measure import machine
from sdt_ros.bench.node_watch import quantiles
from sdt_ros.bench.soak import write
from sdt_ros.bench.soak_graph import RATE_HZ, WINDOW_MS, SoakGraph

FACTOR = 3.0
_FLOOD, _FLOOD_S = 8.0, 8.0  # speed of the camera, and how long, to find what is carried
_CALM = 0.6  # of what is carried, at most, when the load has dropped
_RUN = 10  # windows in a row without one skipped: full rate


@dataclass(frozen=True)
class Overload:
    """The account of an overload; the keys of `--json`.

    Attributes:
        carried_hz: windows a second that the machine carries.
        offered_hz: windows a second that were due under load.
        published_hz: windows a second published under load.
        latency_ms: under load, last packet of a window received to depth published.
        bound_ms: two windows.
        recovery_s: from the load's drop to the first of ten windows of which none was skipped.
        windows_due: windows that ended.
        windows_published: of these.
        windows_skipped: of these.
        windows_empty: of these.
        packets_shed: packets left undecoded.
        closes: whether each message's counts added up, and the node ended cleanly.
        holds: whether it closes, latency's p99 is within the bound and the recovery within a second.
    """

    carried_hz: float
    offered_hz: float
    published_hz: float
    latency_ms: dict[str, float]
    bound_ms: float
    recovery_s: float
    windows_due: int
    windows_published: int
    windows_skipped: int
    windows_empty: int
    packets_shed: int
    closes: bool
    holds: bool


def overload(graph: SoakGraph, args: argparse.Namespace) -> int:
    """Run it; returns the exit code: 1 when a bound does not hold.

    Raises:
        GraphError: node or camera ended.
    """
    seen: list[tuple[float, Any]] = []
    graph.watch.on_stats = lambda message, at_s: seen.append((at_s, message))
    graph.spin(3.0)
    seen.clear()
    graph.order("speed", factor=_FLOOD)
    graph.spin(_FLOOD_S / 4)
    seen.clear()
    graph.spin(_FLOOD_S)
    carried_hz = _rate([at_s for at_s, _ in seen])
    speed = FACTOR * carried_hz / RATE_HZ
    number = graph.order("speed", factor=speed)
    graph.good(number, 60.0)
    graph.spin(1.0)
    seen.clear()
    began_s = time.monotonic()
    graph.spin(args.minutes * 60)
    seconds, loaded = time.monotonic() - began_s, list(seen)
    calm = min(1.0, _CALM * carried_hz / RATE_HZ)
    seen.clear()
    good = graph.good(graph.order("speed", factor=calm), 60.0)
    graph.spin(5.0)
    recovery_s = _recovery_s(seen, good["at_s"])
    last = graph.watch.last
    code = graph.end()
    if code != 0:
        graph.watch.complaints.append(f"the node ended with exit code {code}")
    closes = not graph.watch.complaints
    latency = quantiles([message.latency_ms for _, message in loaded])
    bound_ms = 2 * WINDOW_MS
    first, final = loaded[0][1], loaded[-1][1]
    result = Overload(
        carried_hz=round(carried_hz, 1),
        offered_hz=round((final.windows_due - first.windows_due) / seconds, 1),
        published_hz=round((final.windows_published - first.windows_published) / seconds, 1),
        latency_ms=latency,
        bound_ms=bound_ms,
        recovery_s=round(recovery_s, 3),
        **graph.watch.totals,
        packets_shed=int(last.packets_shed),
        closes=closes,
        holds=closes and latency["p99"] <= bound_ms and recovery_s <= 1.0,
    )
    print(table(result, graph.watch.complaints))
    write(args.json, asdict(result))
    return 0 if result.holds else 1


def _rate(times_s: list[float]) -> float:
    return (len(times_s) - 1) / (times_s[-1] - times_s[0]) if len(times_s) > 1 else 1.0


def _recovery_s(seen: list[tuple[float, Any]], dropped_s: float) -> float:
    """From the load's drop to the first of some windows in a row of which none is skipped [s]; infinite if none."""
    for index in range(1, len(seen) - _RUN):
        before, (at_s, _), after = seen[index - 1][1], seen[index], seen[index + _RUN][1]
        if at_s > dropped_s and after.windows_skipped == before.windows_skipped:
            return at_s - dropped_s
    return float("inf")


def table(result: Overload, complaints: list[str]) -> str:
    """The figures for people."""
    latency = result.latency_ms
    return "\n".join(
        [
            machine(),
            f"  carried   {result.carried_hz:.1f} windows/s; under load {result.offered_hz:.1f} were due a second, "
            f"{result.published_hz:.1f} published",
            f"  latency   p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms, at most {latency['max']:.1f} ms; "
            f"two windows are {result.bound_ms:g} ms",
            f"  full rate {result.recovery_s:.2f} s after the load dropped",
            f"  windows   {result.windows_due} due: {result.windows_published} published, {result.windows_skipped} "
            f"skipped, {result.windows_empty} empty; {result.packets_shed} packets left undecoded",
            f"  {'all of it holds' if result.holds else 'DOES NOT HOLD'}",
            *(f"    {complaint}" for complaint in complaints[:20]),
        ]
    )
