"""From arrays of events to spikes: the same as the node makes of packets."""

from __future__ import annotations

import numpy as np
import pytest
from reference_windows import SENSOR, encode, random_events

from sdt_ros.events import EventStream, PacketDecoder, WindowConfig, bin_events
from sdt_ros.events.binning import bin_edges, bin_on_cells, plain_cells
from sdt_ros.events.windows import WindowSchedule


def reference_bins(events, edges, size):
    """Slow: one event after the other, by whole numbers."""
    spikes = np.zeros((len(edges) - 1, 2, *size), np.uint8)
    for t, x, y, p in events:
        for j in range(len(edges) - 1):
            if edges[j] <= t < edges[j + 1]:
                spikes[j, int(p > 0), y, x] = 1
    return spikes


@pytest.mark.parametrize("window_ms, bins", [(50.0, 4), (33.333, 7), (10.001, 3)])
def test_bins_are_those_of_the_live_windows(window_ms, bins):
    schedule = WindowSchedule(WindowConfig(window_ms=window_ms, bins=bins))
    for k in (2, 17, 123_456):
        edges = bin_edges(schedule.end(k), round(window_ms * 1000), bins)
        assert edges.tolist() == schedule.edges(k)


def test_each_event_is_in_its_bin_to_the_microsecond():
    rng = np.random.default_rng(3)
    edges = bin_edges(1_000_000, 1003, 7)
    events = np.stack(
        [rng.integers(998_900, 1_000_100, 3000), rng.integers(0, 9, 3000), rng.integers(0, 6, 3000),
         rng.choice([-1, 1], 3000)], 1,
    )  # fmt: skip
    spikes = bin_on_cells(*events.T, plain_cells(6, 9), (6, 9), edges)  # out of order too
    np.testing.assert_array_equal(spikes, reference_bins(events, edges, (6, 9)))
    one = np.array([[edges[3] - 1, 0, 0, 1], [edges[3], 0, 0, -1], [edges[7], 1, 1, 1], [edges[0], 8, 5, 1]])
    spikes = bin_on_cells(*one.T, plain_cells(6, 9), (6, 9), edges)
    assert np.argwhere(spikes).tolist() == [[0, 1, 5, 8], [2, 1, 0, 0], [3, 0, 0, 0]]


def test_events_outside_of_the_sensor_are_refused():
    with pytest.raises(ValueError, match=r"event 1 of the window lies at \(9, 0\), outside of the sensor of 9x6 px"):
        bin_on_cells(*np.array([[5, 0, 1, 1], [6, 9, 0, 1]]).T, plain_cells(6, 9), (6, 9), bin_edges(100, 100, 1))


@pytest.mark.parametrize("encoding", ["evt3", "mono"])
def test_events_of_a_packet_give_the_spikes_that_the_node_makes_of_it(encoding):
    packets = encode(encoding, np.array_split(random_events(np.random.default_rng(1), 4000, 500_000), 40))
    windows = []
    stream = EventStream(WindowConfig(window_ms=30, bins=3, rate_hz=40), lambda window: windows.append(window.detach()))
    decoder, parts = PacketDecoder(), []
    for each in packets:
        stream.push(each, 0)
        parts.append(decoder.decode(each.encoding, each.width, each.height, each.time_base, each.payload).copy())
    events = np.concatenate(parts)
    assert len(windows) > 15
    for window in windows:
        spikes = bin_events(events, SENSOR, window.t_end_us, window_ms=30, bins=3)
        assert spikes.dtype == np.uint8 and spikes.any()
        np.testing.assert_array_equal(spikes, window.spikes)


def test_four_arrays_do_as_well_in_any_order_and_with_any_sign_of_off():
    events = random_events(np.random.default_rng(2), 500, 60_000)
    expected = bin_events(events, SENSOR, 55_000)
    assert expected.shape == (4, 2, *SENSOR)
    mixed = np.random.default_rng(3).permutation(events)
    arrays = {name: mixed[name].tolist() for name in "txy"} | {"p": mixed["p"].astype(np.int8) * 2 - 1}
    np.testing.assert_array_equal(bin_events(arrays, SENSOR, 55_000), expected)
    np.testing.assert_array_equal(bin_events(arrays | {"p": mixed["p"] == 1}, SENSOR, 55_000), expected)
    for on in (255, 128, 256, 0.5):  # maps of polarity, as pictures have them
        values = np.where(mixed["p"], on, 0).astype(np.float32 if on == 0.5 else np.uint16)
        np.testing.assert_array_equal(bin_events(arrays | {"p": values}, SENSOR, 55_000), expected)
    assert not bin_events(events[:0], SENSOR, 55_000).any()
    assert not bin_events({name: [] for name in "txyp"}, SENSOR, np.int64(55_000)).any()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"p": None}, "events are a dict without t, x, y and p: give a structured array, or a mapping such as"),
        ({"t": np.array([0.001])}, r"t is float64, expected whole microseconds: \(1e6"),
        ({"t": np.array([2**64 - 10], np.uint64)}, "t reaches 18446744073709551606, more than 64 bits"),
        ({"x": np.array([-0.6])}, r"x is float64, expected whole pixels: np\.rint"),
        ({"y": np.array([True])}, "y is bool, expected whole pixels"),
        ({"p": np.array([np.nan])}, "p is float64 or has NaN"),
        ({"p": np.array(["ON"])}, "expected numbers: above 0 is ON"),
        ({"x": np.array([1, 2])}, r"shapes \(1,\), \(2,\), \(1,\) and \(1,\)"),
        (
            {"x": np.array([48])},
            r"lies at \(48, 0\), outside of the sensor of 48x40 px; sensor_size is \(height, width\)",
        ),
        ({"x": np.array([2**32 + 5])}, r"lies at \(4294967301, 0\)"),
    ],
)
def test_what_are_no_events_is_said(change, message):
    arrays = {name: np.array([1]) for name in "txp"} | {"y": np.array([0])} | change
    events = {name: array for name, array in arrays.items() if array is not None}
    with pytest.raises(ValueError, match=message):
        bin_events(events, SENSOR, 50_000)


@pytest.mark.parametrize("events", [None, [], [(1, 2, 3, 1)], np.zeros((5, 4)), (np.arange(3),) * 4, "events"])
def test_other_containers_are_refused_with_the_way_out(events):
    with pytest.raises(ValueError, match=r"without t, x, y and p: give a structured array, or a mapping such as"):
        bin_events(events, SENSOR, 50_000)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"bins": 0}, "bins=0"),
        ({"bins": 4.0}, r"bins is 4\.0"),
        ({"window_ms": 0.0}, r"window_ms=0\.0"),
        ({"window_ms": 20_000.0}, "window_ms=20000"),
        ({"window_ms": "50"}, "window_ms '50'"),
        ({"t_end_us": 0.05}, r"t_end_us is 0\.05, expected whole microseconds"),
        ({"t_end_us": float("nan")}, "t_end_us is nan"),
        *(
            ({"sensor_size": size}, "expected .height, width.")
            for size in (260, "346x260", (2, 260, 346), (0, 5), (4.0, 5.0))
        ),
    ],
)
def test_windows_that_nobody_can_have_are_refused(arguments, message):
    events = random_events(np.random.default_rng(2), 5, 60_000)
    with pytest.raises(ValueError, match=message):
        bin_events(events, **({"sensor_size": SENSOR, "t_end_us": 55_000} | arguments))
