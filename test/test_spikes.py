"""Spike tensors: exactly the bins of the decoded events, whatever the windows and the cuts between packets."""

from __future__ import annotations

import threading
import tracemalloc
from dataclasses import replace
from queue import Queue

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference_windows import (
    SENSOR,
    assert_windows,
    cut,
    decode,
    encode,
    packet,
    random_events,
    reference,
)

from sdt_ros.events import WindowConfig
from sdt_ros.events.decoder import ByteStream
from sdt_ros.events.encoder import ENCODINGS
from sdt_ros.events.spikes import SpikeBinner
from sdt_ros.events.windows import WindowSchedule


class Camera:
    """A binner with its byte stream, whose windows are kept."""

    def __init__(self, config, size=SENSOR, spare_windows=3):
        self.windows, self.bytes = [], ByteStream()
        keep = lambda window: self.windows.append(window.detach())  # noqa: E731
        self.binner = SpikeBinner(config, SENSOR, size, keep, spare_windows)

    def push(self, packets):
        for p in packets:
            self.bytes.open(p.encoding, p.width, p.height)
            self.binner.add(self.bytes, self.bytes.words(p.payload, p.time_base, p.is_bigendian))
        return self

    def assert_clear(self):
        """Nothing is left in memory that the next windows get, and all of it is there."""
        self.binner.restart()
        slots = self.binner._tensors.shape[0]
        assert sorted(self.binner._free) == list(range(slots))
        assert not self.binner._tensors.any()


def assert_counts(counters, expected, config):
    finished = len(expected.finished(config))
    assert counters.due == len(expected.windows) == counters.finished + counters.empty
    assert counters.finished == finished
    assert (counters.events, counters.late, counters.time_jumps) == (expected.events, expected.late, 0)


@st.composite
def configs(draw, windows_ms=(1.0, 2.5, 33.3, 50.0)):
    window_ms = draw(st.sampled_from(windows_ms) | st.floats(1.0, 120.0))
    rate_hz = draw(st.sampled_from([7.5, 20.0, 30.0, 100.0, 1000 / 3]) | st.floats(2.0, 400.0))
    assume(window_ms * rate_hz < 12_000)
    return WindowConfig(window_ms, draw(st.integers(1, 8)), rate_hz, draw(st.sampled_from([0, 1, 5])))


@pytest.mark.parametrize("encoding", [*ENCODINGS, "evt21;endianness=legacy"])
@settings(max_examples=30, deadline=None)
@given(
    config=configs(),
    seed=st.integers(0, 2**32 - 1),
    span_ms=st.floats(0.1, 900.0),
    start_us=st.integers(0, 1 << 25),
    size=st.sampled_from([SENSOR, (20, 24), (37, 13), (1, 1)]),
)
def test_windows_are_those_of_brute_force(encoding, config, seed, span_ms, start_us, size):
    random = np.random.default_rng(seed)
    events = random_events(random, int(random.integers(1, 500)), span_ms * 1000, start_us)
    limits = np.arange(events["t"][0], events["t"][-1], 60_000)[1:]  # no packet that libcaer_cmp cannot hold
    groups = np.split(events, np.searchsorted(events["t"], limits))
    packets = cut(encode(encoding, [group for group in groups if group.size]), random, 3)
    camera = Camera(config, size).push(packets)
    expected = reference(decode(packets), config, size=size)
    assert_windows(camera.windows, expected.finished(config))
    assert_counts(camera.binner.counters, expected, config)
    assert camera.binner.counters.decoded == events.size  # those between windows among them
    camera.assert_clear()
    assert camera.binner.counters.abandoned == expected.open


@pytest.mark.parametrize("encoding", ["mono", "evt3"])
@settings(max_examples=40, deadline=None)
@given(config=configs((1.0, 5.0)), seed=st.integers(0, 2**32 - 1))
def test_events_whose_time_goes_back_fall_into_their_bin_or_are_counted(encoding, config, seed):
    random = np.random.default_rng(seed)
    events = random_events(random, 300, 400_000, start_us=20_000_000)
    back = np.where(random.random(300) < 0.2, random.integers(0, 35_000, 300), 0)
    back[0] = 0
    t = events["t"] - back
    columns = {name: events[name].astype(np.uint64) for name in "xyp"}
    if encoding == "mono":
        words = columns["x"] << 32 | columns["y"] << 48 | columns["p"] << 63 | (t - t.min()).astype(np.uint64) * 1000
        payload, base = words.astype("<u8"), int(t.min()) * 1000
    else:
        high, low = 0x8000 | t >> 12 & 0xFFF, 0x6000 | t & 0xFFF
        words = [high, low, columns["y"], 0x2000 | columns["p"] << 11 | columns["x"]]
        payload, base = np.stack([word.astype("<u2") for word in words], axis=1).reshape(-1), 0
    packets = cut([packet(1, encoding, base, payload.tobytes(), 0)], random, 4)
    camera = Camera(config).push(packets)
    decoded = decode(packets)
    assert (np.diff(decoded["t"]) == np.diff(t)).all()
    expected = reference(decoded, config)
    assert_windows(camera.windows, expected.finished(config))
    assert_counts(camera.binner.counters, expected, config)
    camera.assert_clear()


def mono(*times_ms, x=0, y=0):
    """A packet with an event at each time [ms], in any order, on the sensor's clock."""
    words = [(int(t * 1e6) & 0xFFFFFFFF) | x << 32 | y << 48 | 1 << 63 for t in times_ms]
    return packet(1, "mono", 0, np.array(words, "<u8").tobytes(), 0)


def test_late_events_of_an_open_window_are_taken_and_those_of_a_closed_one_counted():
    config = WindowConfig(window_ms=50, bins=5, rate_hz=20)  # [0, 50), [50, 100), ...
    camera = Camera(config).push([mono(0, 25, 5, 49.999), mono(55, 45, 60), mono(120, 99, 101)])
    assert [window.events for window in camera.windows] == [4, 2]
    assert [window.spikes[:, 1, 0, 0].tolist() for window in camera.windows] == [[1, 0, 1, 0, 1], [1, 1, 0, 0, 0]]
    assert camera.binner.counters.late == 2


def test_a_late_event_between_two_windows_is_of_none():
    config = WindowConfig(window_ms=10, rate_hz=20)  # [-10, 0), [40, 50), [90, 100), ...
    camera = Camera(config).push([mono(0), mono(45, 70), mono(45, 55, 39.9, 65, 49.999)])
    assert camera.binner.counters.late == 2
    assert [window.events for window in camera.windows] == [1]


def test_an_event_before_the_first_window_is_not_late():
    config = WindowConfig(window_ms=20, rate_hz=50)
    camera = Camera(config).push([mono(30, 41, 61, 31, 42)])  # the first window is [40, 60)
    assert camera.binner.counters.late == 1
    assert [window.events for window in camera.windows] == [1]


@pytest.mark.parametrize("least", [0, 1, 3, 4])
def test_windows_of_too_few_events_are_empty(least):
    config = WindowConfig(window_ms=10, rate_hz=100, min_events=least)
    camera = Camera(config).push([mono(0, 1, 2, 10, 40, 50)])  # 3, 1, 0, 0, 1 events
    given_out = {0: [1, 2, 5], 1: [1, 2, 5], 3: [1], 4: []}[least]
    assert [window.index for window in camera.windows] == given_out
    counters = camera.binner.counters
    assert (counters.due, counters.finished, counters.empty) == (5, len(given_out), 5 - len(given_out))
    camera.assert_clear()


def test_silence_leaves_empty_windows_and_no_trace():
    config = WindowConfig(window_ms=30, rate_hz=30)
    camera = Camera(config).push([mono(0, 50), mono(4000), mono(4200)])
    expected = reference(decode([mono(0, 50), mono(4000), mono(4200)]), config)
    assert_windows(camera.windows, expected.finished(config))
    assert_counts(camera.binner.counters, expected, config)
    assert camera.binner.counters.empty > 100


@pytest.mark.parametrize(
    ("jump_us", "jumps"), [(-99_000, 0), (-101_000, 1), (9_900_000, 0), (10_100_000, 1), (-(10**9), 1)]
)
def test_windows_start_over_when_time_jumps(jump_us, jumps):
    random = np.random.default_rng(5)
    config = WindowConfig(window_ms=45, rate_hz=30)
    before = random_events(random, 400, 500_000, start_us=2 * 10**9)
    after = random_events(random, 400, 500_000, start_us=int(before["t"][-1]) + jump_us)
    packets = [*encode("mono", [before]), *encode("mono", [after])]
    camera = Camera(config).push(packets)
    assert camera.binner.counters.time_jumps == jumps
    parts = [decode([p]) for p in packets]
    runs = [reference(part, config) for part in parts] if jumps else [reference(np.concatenate(parts), config)]
    assert_windows(camera.windows, [window for run in runs for window in run.finished(config)])
    assert camera.binner.counters.due == sum(len(run.windows) for run in runs)
    assert camera.binner.counters.abandoned == (runs[0].open if jumps else 0)
    camera.assert_clear()


def test_events_are_counted_where_they_fall_even_beside_the_sensor():
    config = WindowConfig(window_ms=10, rate_hz=100)
    camera = Camera(config).push([mono(0, 1), mono(2, x=SENSOR[1]), mono(3, y=SENSOR[0]), mono(30)])
    assert [window.events for window in camera.windows] == [2]
    assert camera.bytes.counters.outside == 2


@pytest.mark.parametrize("size", [(0, 10), (41, 48), (40, 49)])
def test_spikes_larger_than_the_sensor_are_refused(size):
    with pytest.raises(ValueError, match=f"spikes of {size[1]}x{size[0]} px do not fit a sensor of 48x40 px"):
        SpikeBinner(WindowConfig(), SENSOR, size, lambda window: None)


def test_windows_that_are_never_released_are_an_error_and_stay_as_they_are():
    config = WindowConfig(window_ms=20, rate_hz=100)
    packets = [mono(t, t + 1, t + 2, x=t % 48, y=t % 40) for t in range(0, 400, 3)]
    held, bytes_ = [], ByteStream()
    binner = SpikeBinner(config, SENSOR, SENSOR, held.append, spare_windows=2)
    bytes_.open("mono", SENSOR[1], SENSOR[0])
    with pytest.raises(RuntimeError, match="finished windows must be released"):
        for p in packets:
            binner.add(bytes_, bytes_.words(p.payload, 0))
    assert len(held) >= 2
    copies = [window.spikes.copy() for window in held]
    assert all(copy.any() for copy in copies)
    with pytest.raises(RuntimeError, match="finished windows must be released"):
        back_in_time = mono(held[-1].t_end_us / 1000 - 0.5, x=47, y=39)
        for p in [back_in_time, *packets[-50:]]:
            binner.add(bytes_, bytes_.words(p.payload, 0))
    for window, copy in zip(held, copies, strict=False):
        np.testing.assert_array_equal(window.spikes, copy)
        window.release()
    before = len(held)
    for p in [mono(t, x=7) for t in range(400, 450)]:
        binner.add(bytes_, bytes_.words(p.payload, 0))
        while len(held) > before:
            last = held.pop()
            last.release()
            assert not last.spikes.any()


def test_release_and_detach_give_memory_back_once():
    config = WindowConfig(window_ms=10, rate_hz=100)
    held, bytes_ = [], ByteStream()
    binner = SpikeBinner(config, SENSOR, SENSOR, held.append)
    p = mono(0, 1, 11, 21)
    bytes_.open("mono", p.width, p.height)
    binner.add(bytes_, bytes_.words(p.payload, 0))
    first, second = held
    free = len(binner._free)
    lent = first.spikes
    kept = first.detach().spikes
    assert kept.any()
    assert not lent.any()
    first.release()
    second.release()
    second.release()
    assert kept.any()
    assert len(binner._free) == free + 2 == len(set(binner._free))


def test_windows_may_be_released_by_another_thread():
    config = WindowConfig(window_ms=20, bins=3, rate_hz=100)
    events = random_events(np.random.default_rng(3), 60_000, 3_000_000)
    packets = encode("evt3", np.array_split(events, 600))
    expected = reference(decode(packets), config).finished(config)
    queue, room, wrong = Queue(), threading.Semaphore(3), []

    def consume():
        for wanted in expected:
            window = queue.get(timeout=20)
            if window.index != wanted.index or not np.array_equal(window.spikes, wanted.spikes):
                wrong.append(window.index)
            window.release()
            room.release()

    def hand_over(window):
        assert room.acquire(timeout=20)
        queue.put(window)

    consumer = threading.Thread(target=consume)
    consumer.start()
    bytes_, binner = ByteStream(), SpikeBinner(config, SENSOR, SENSOR, hand_over, spare_windows=4)
    bytes_.open("evt3", SENSOR[1], SENSOR[0])
    for p in packets:
        binner.add(bytes_, bytes_.words(p.payload, 0))
    consumer.join(timeout=20)
    assert not consumer.is_alive()
    assert wrong == []
    assert binner.counters.finished == len(expected) > 250
    binner.restart()
    assert not binner._tensors.any()


@pytest.mark.parametrize("encoding", [*ENCODINGS, "evt21;endianness=legacy"])
@pytest.mark.parametrize("misaligned", [False, True])
def test_a_packet_takes_no_memory(encoding, misaligned):
    config = WindowConfig(window_ms=5000, bins=1, rate_hz=0.2)
    events = random_events(np.random.default_rng(1), 200_000, 1_500_000, start_us=10_000_000)  # all in one bin
    packets = encode(encoding, np.array_split(events, 50))
    if misaligned:
        packets = [replace(p, payload=np.frombuffer(b"\0" + p.payload.tobytes(), np.uint8)[1:]) for p in packets]
    camera = Camera(config)

    def play():
        camera.bytes.restart()
        camera.binner.restart()
        camera.push(packets)
        assert camera.binner.counters.due == 0
        assert camera.binner._open[0].events == events.size

    least_payload = min(p.payload.nbytes for p in packets)
    tracemalloc.start()
    try:
        for _ in range(5):  # until the caches of Python and numpy are full
            play()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(3):
            play()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 5000 < least_payload
    assert after - before < 1000  # less than a pointer a packet


def test_the_same_windows_are_of_the_same_numbers_wherever_the_stream_begins():
    config = WindowConfig(window_ms=25, rate_hz=30)
    events = random_events(np.random.default_rng(8), 3000, 600_000)
    packets = encode("evt2", np.array_split(events, 60))
    whole, part = Camera(config).push(packets), Camera(config).push(packets[20:])
    assert part.windows
    behind = whole.windows[-len(part.windows) :]
    assert [window.index for window in part.windows] == [window.index for window in behind]
    for ours, theirs in zip(part.windows, behind, strict=True):
        np.testing.assert_array_equal(ours.spikes, theirs.spikes)
    assert part.windows[0].t_start_us - events["t"][1000] < WindowSchedule(config)._window_us + config.period_us
