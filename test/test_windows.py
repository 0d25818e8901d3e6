"""When windows begin and end: exact on the grid of sensor time, for any rate."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sdt_ros.events import WindowConfig
from sdt_ros.events.windows import MOST_OPEN, WindowSchedule

RATES = st.sampled_from([0.1, 1 / 3, 1.0, 7.5, 20.0, 29.97, 30.0, 60.0, 1000 / 3, 1000.0]) | st.floats(0.1, 1000.0)
TIMES = st.integers(-(10**9), 10**9) | st.integers(0, 2**51)


@st.composite
def configs(draw):
    window_ms = draw(st.sampled_from([1.0, 10.0, 33.3, 50.0, 200.0]) | st.floats(1.0, 10_000.0))
    rate_hz = draw(RATES)
    assume(window_ms * rate_hz / 1000 < MOST_OPEN - 2)
    return WindowConfig(window_ms=window_ms, bins=draw(st.integers(1, 64)), rate_hz=rate_hz)


@given(configs(), st.integers(-(10**6), 10**11))
def test_windows_end_on_the_grid_and_all_last_equally_long(config, k):
    schedule = WindowSchedule(config)
    exact = k * 1_000_000 / Fraction(config.rate_hz).limit_denominator(1_000_000)
    assert 0 <= exact - schedule.end(k) < 1
    assert schedule.end(k) - schedule.start(k) == config.window_us == round(config.window_ms * 1000)
    assert schedule.end(k + 1) > schedule.end(k)


@given(configs(), st.integers(-1000, 10**9))
def test_bins_fill_the_window_and_differ_by_a_microsecond_at_most(config, k):
    edges = WindowSchedule(config).edges(k)
    lengths = [after - before for before, after in pairwise(edges)]
    assert len(lengths) == config.bins
    assert (edges[0], edges[-1]) == (WindowSchedule(config).start(k), WindowSchedule(config).end(k))
    assert min(lengths) > 0
    assert max(lengths) - min(lengths) <= 1


@given(configs(), TIMES)
def test_first_window_lies_behind_a_time_and_none_before_it_does(config, t):
    schedule = WindowSchedule(config)
    k = schedule.first_from(t)
    assert schedule.start(k) >= t
    assert schedule.start(k - 1) < t


@given(configs(), TIMES)
def test_last_window_ended_by_a_time(config, t):
    schedule = WindowSchedule(config)
    k = schedule.ended_by(t)
    assert schedule.end(k) <= t < schedule.end(k + 1)


@given(configs(), TIMES)
def test_there_is_room_for_all_windows_that_hold_a_time(config, t):
    schedule = WindowSchedule(config)
    k = schedule.ended_by(t) + 1
    held = 0
    while schedule.start(k) <= t:
        assert t < schedule.end(k)
        held, k = held + 1, k + 1
    assert held <= config.most_open


def test_thirty_windows_a_second_never_drift():
    schedule = WindowSchedule(WindowConfig(window_ms=50, rate_hz=30))
    assert [schedule.end(k) for k in range(4)] == [0, 33333, 66666, 100000]
    assert schedule.end(30 * 3600 * 24 * 365) == 3600 * 24 * 365 * 1_000_000


def test_a_rate_with_a_third_is_a_third():
    assert WindowConfig(rate_hz=1 / 3).period_us == 3_000_000
    assert WindowConfig(rate_hz=7.5).period_us == Fraction(400_000, 3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"window_ms": 0.5}, "window_ms=0.5 is outside of 1 to 10000 ms"),
        ({"window_ms": float("nan")}, "window_ms=nan"),
        ({"bins": 0}, "bins=0 is outside of 1 to 64"),
        ({"bins": 65}, "bins=65"),
        ({"rate_hz": 0.0}, "rate_hz=0.0 is outside of 0.1 to 1000 Hz"),
        ({"rate_hz": float("inf")}, "rate_hz=inf"),
        ({"min_events": -1}, "min_events=-1 is negative"),
        ({"window_ms": 10_000.0, "rate_hz": 1000.0}, "window_ms=10000.0 at rate_hz=1000.0 overlap by more than 100"),
    ],
)
def test_senseless_windows_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        WindowConfig(**wrong)


def test_unknown_keys_and_changes_are_refused():
    with pytest.raises(TypeError, match="windows_ms"):
        WindowConfig(windows_ms=50.0)
    with pytest.raises(FrozenInstanceError):
        WindowConfig().bins = 8
