"""The load: what decoding costs is found, the rate it carries foretold, and packets are shed by rule."""

from __future__ import annotations

import numpy as np
import pytest

from sdt_ros.load import Carried, DecodeCost, Shedding, carried


def model(packet_ns: float, event_ns: float, events: np.ndarray, noise: float = 0.0) -> DecodeCost:
    rng = np.random.default_rng(0)
    made = DecodeCost()
    for count in events.tolist():
        made.add(count, round((packet_ns + event_ns * count) * (1 + noise * rng.standard_normal())))
    return made


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_costs_of_packet_and_event_are_told_apart(noise: float) -> None:
    events = np.random.default_rng(1).integers(100, 5000, 3000)
    costs = model(60_000, 8.0, events, noise).costs_ns
    assert costs is not None
    assert costs == pytest.approx((60_000, 8.0), rel=0.25 if noise else 1e-3)


def test_equal_packets_are_put_down_to_their_events() -> None:
    assert model(50_000, 10.0, np.full(100, 5000)).costs_ns == (0.0, pytest.approx(20.0))


def test_nothing_is_foretold_from_nothing() -> None:
    assert DecodeCost().costs_ns is None
    assert model(1.0, 1.0, np.full(5, 10)).costs_ns is None
    assert model(1.0, 1.0, np.zeros(100, int)).costs_ns is None
    assert carried(DecodeCost(), 100, 1000, 0.5, 1.0) == Carried(0.5, 0.0)


def test_the_foretold_rate_fills_the_core() -> None:
    """At the rate that is foretold, with as many packets a second, the thread is busy all the time."""
    packets, packet_s, event_s, middleware_s = 100, 60e-6, 8e-9, 200e-6
    cost = model(60_000, 8.0, np.random.default_rng(1).integers(1000, 5000, 3000))

    def busy_s(events: float) -> float:
        return packets * (packet_s + middleware_s) + events * event_s

    for events in (300_000, 30_000_000):
        told = carried(cost, packets, events, busy_s(events), 1.0)
        assert told.busy == pytest.approx(busy_s(events))
        assert busy_s(told.most_mev_s * 1e6) == pytest.approx(1.0, rel=0.01)


def run(decoding: float, seconds: float = 20.0) -> tuple[list[float], int, bool]:
    """A second of packets takes `decoding` seconds; returns waits at windows' ends [ms], packets shed, and the end."""
    period_ms, window_ms, limit_ms = 5.0, 50.0, 60.0
    shedding, now_ms, shed, closed, waits = Shedding(), 0.0, 0, 0, []
    for number in range(round(seconds * 1000 / period_ms)):
        arrived_ms = (number + 1) * period_ms
        now_ms = max(now_ms, arrived_ms)
        if shedding.sheds(now_ms - arrived_ms, limit_ms, closed):
            shed += 1
            now_ms += 0.05
            continue
        now_ms += period_ms * decoding
        if (number + 1) % round(window_ms / period_ms) == 0:
            closed += 1
            waits.append(now_ms - arrived_ms)
    return waits, shed, shedding.is_on


def test_a_machine_that_keeps_up_sheds_nothing() -> None:
    waits, shed, _ = run(0.9)
    assert shed == 0 and len(waits) == 400


@pytest.mark.parametrize("decoding", [1.1, 1.5, 2.0])
def test_a_machine_that_is_behind_serves_now_and_not_then(decoding: float) -> None:
    waits, shed, _ = run(decoding)
    assert shed > 100
    assert max(waits) < 60.0 + 50.0 * decoding, "the wait does not grow with time"
    assert len(waits) > 400 / decoding / 2.5, "and windows are still finished"


def test_even_hopelessly_behind_it_does_not_drown() -> None:
    waits, shed, _ = run(10.0)
    assert shed > 1000 and (not waits or max(waits) < 1000.0)


def test_shedding_ends_when_the_backlog_is_gone() -> None:
    shedding = Shedding()
    assert not shedding.sheds(61.0, 60.0, 0), "one window at least is finished first"
    assert shedding.sheds(61.0, 60.0, 1)
    assert shedding.sheds(20.0, 60.0, 1)
    assert not shedding.sheds(14.0, 60.0, 1)
    assert not shedding.sheds(70.0, 60.0, 1)
    assert shedding.sheds(250.0, 60.0, 1), "but not for ever"
