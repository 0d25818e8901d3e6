"""The event stream: packets of any make and mishap in, stamped windows out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_windows import EPOCH_US, SENSOR, assert_windows, cut, decode, encode, packet, random_events, reference

from sdt_ros.bags import open_bag, parse_event_packet
from sdt_ros.events import EventStream, WindowConfig
from sdt_ros.events.encoder import ENCODINGS

CONFIG = WindowConfig(window_ms=20, bins=3, rate_hz=60)
NOW_NS = 1_000_000_000


class Camera:
    """A stream whose windows and notices are kept."""

    def __init__(self, config=CONFIG, **options):
        self.windows, self.notices = [], []
        self.stream = EventStream(
            config, lambda window: self.windows.append(window.detach()), on_notice=self.notices.append, **options
        )

    def push(self, packets):
        for p in packets:
            self.stream.push(p, NOW_NS)
        return self

    def stamps(self):
        return [window.stamp_ns for window in self.windows]


def scene(seed=0, count=3000, span_us=600_000, start_us=0, packets=100, sensor=SENSOR):
    events = random_events(np.random.default_rng(seed), count, span_us, start_us, sensor)
    return np.array_split(events, packets)


def assert_same(windows, others):
    assert [window.index for window in windows] == [window.index for window in others]
    for window, other in zip(windows, others, strict=True):
        np.testing.assert_array_equal(window.spikes, other.spikes)


def assert_grow(stamps):
    assert all(before < after for before, after in pairwise(stamps))


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=15, deadline=None)
@given(
    window_ms=st.sampled_from([3.0, 20.0, 50.0]),
    rate_hz=st.sampled_from([7.5, 20.0, 30.0, 150.0]),
    bins=st.integers(1, 8),
    scale=st.sampled_from([1.0, 0.5, 0.3, 0.01]),
    min_events=st.sampled_from([1, 8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_are_those_of_brute_force(encoding, window_ms, rate_hz, bins, scale, min_events, seed):
    random = np.random.default_rng(seed)
    config = WindowConfig(window_ms, bins, rate_hz, min_events)
    events = random_events(random, 600, 400_000, start_us=int(random.integers(0, 1 << 24)))
    groups = [g for g in np.split(events, np.sort(random.integers(1, 600, 20))) if g.size and np.ptp(g["t"]) < 60_000]
    packets = cut(encode(encoding, groups, delay_ns=123_456), random, 2)
    camera = Camera(config, scale=scale).push(packets)
    size = tuple(max(1, round(side * scale)) for side in SENSOR)
    expected = reference(decode(packets), config, size=size)
    assert_windows(camera.windows, expected.finished(config))
    counted = camera.stream.windows
    assert (counted.due, counted.finished) == (len(expected.windows), len(camera.windows))
    assert counted.due == counted.finished + counted.empty
    assert (counted.events, counted.late, counted.time_jumps) == (expected.events, 0, 0)
    assert (camera.stream.packets.received, camera.stream.packets.lost) == (len(packets), 0)
    assert camera.stream.packets.payload_bytes == sum(p.payload.nbytes for p in packets)
    assert_grow(camera.stamps())
    assert camera.notices == []


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_window_is_stamped_with_its_end_in_ros_time(encoding):
    delay = 2_500_000
    camera = Camera().push(encode(encoding, scene(), delay_ns=delay))
    assert len(camera.windows) > 20
    for window in camera.windows:
        since_epoch = window.t_end_us if window.t_end_us > EPOCH_US // 2 else window.t_end_us + EPOCH_US
        assert window.stamp_ns == since_epoch * 1000 + delay
        assert window.received_ns == NOW_NS
        assert window.frame_id == "camera"
    assert camera.windows[0].decode_ns > 0


@pytest.mark.parametrize("config", [WindowConfig(), WindowConfig(50, 5, 30.0), WindowConfig(10, 8, 7.5, 100)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_recordings_give_the_windows_of_brute_force_and_all_arrive(recording, config, scale):
    with open_bag(recording) as bag:
        packets = [parse_event_packet(message.data) for message in bag.messages()]
    sensor = packets[0].height, packets[0].width
    size = tuple(round(side * scale) for side in sensor)
    events = decode(packets)
    camera = Camera(config, scale=scale).push(packets)
    expected = reference(events, config, sensor, size)
    assert_windows(camera.windows, expected.finished(config))
    counted = camera.stream.windows
    assert counted.due == len(expected.windows) == counted.finished + counted.empty
    assert counted.due >= (np.ptp(events["t"]) / 1e6 - config.window_ms / 1e3) * config.rate_hz - 1
    if config.min_events == 1:
        assert counted.empty == 0
    assert (camera.stream.packets.lost, camera.stream.packets.rejected, camera.notices) == (0, 0, [])
    assert {window.frame_id for window in camera.windows} == {packets[0].frame_id}
    assert_grow(camera.stamps())
    for window in camera.windows:
        behind = next(p for p in packets if p.stamp_ns >= window.stamp_ns or p is packets[-1])
        assert abs(behind.stamp_ns - window.stamp_ns) < 60_000_000  # a packet follows each window's end


def test_a_recording_that_loops_gives_the_same_windows_again(recording):
    with open_bag(recording) as bag:
        packets = [parse_event_packet(message.data) for message in bag.messages()]
    camera = Camera(WindowConfig())
    once = camera.push(packets).windows.copy()
    camera.push(packets)
    assert_same(once, camera.windows[len(once) :])
    assert camera.stamps()[: len(once)] == camera.stamps()[len(once) :]
    assert camera.stream.packets.restarts == len(camera.notices) == 1
    assert "stamps went back by" in camera.notices[0]
    assert camera.stream.packets.lost == camera.stream.packets.duplicates == 0


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("numbered", [True, False])
def test_a_bag_that_loops_gives_the_same_windows_again(encoding, numbered):
    packets = encode(encoding, scene())
    if not numbered:
        packets = [replace(p, seq=0) for p in packets]
    camera = Camera()
    once = camera.push(packets).windows.copy()
    camera.push(packets).push(packets)
    assert len(camera.windows) == 3 * len(once) > 60
    assert_same(once * 3, camera.windows)
    assert camera.stamps() == camera.stamps()[: len(once)] * 3
    assert camera.stream.packets.restarts == len(camera.notices) == 2
    counted = camera.stream.windows
    assert counted.due == counted.finished + counted.empty == 3 * len(reference(decode(packets), CONFIG).windows)
    assert counted.abandoned > 0
    assert camera.stream.packets.lost == camera.stream.packets.duplicates == 0


def test_a_driver_that_restarts_counts_anew():
    first, second = encode("evt3", scene(1)), encode("evt3", scene(2))
    second = [replace(p, stamp_ns=p.stamp_ns + 2_000_000_000) for p in second]
    camera = Camera().push(first)
    before = len(camera.windows)
    camera.push(second)
    assert_same(Camera().push(second).windows, camera.windows[before:])
    assert camera.notices == ["event stream started over: packet numbers went back from 100 to 1"]
    assert_grow(camera.stamps())
    assert camera.stamps()[before:] == Camera().push(second).stamps()


@pytest.mark.parametrize("encoding", ["evt2", "evt21", "evt3"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_behind_lost_packets_no_event_comes_at_a_wrong_place(encoding, seed):
    random = np.random.default_rng(seed)
    packets = cut(encode(encoding, scene(seed, packets=15)), random, 6)
    kept = [packets[0], *(p for p in packets[1:] if random.random() < 0.8)]
    whole, camera = Camera(), Camera()
    true = {window.index: window.spikes for window in whole.push(packets).windows}
    camera.push(kept)
    missing = kept[-1].seq - kept[0].seq + 1 - len(kept)
    assert camera.stream.packets.lost == missing
    assert sum(window.packets_lost for window in camera.windows) <= missing
    assert camera.stream.windows.time_jumps == 0
    for window in camera.windows:
        assert not (window.spikes & ~true.get(window.index, 0)).any()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lost_packets_are_counted_and_told_with_the_next_window(encoding):
    packets = encode(encoding, scene())
    camera = Camera().push(packets[:40] + packets[43:60] + packets[61:])
    assert camera.stream.packets.lost == 4
    assert [window.packets_lost for window in camera.windows if window.packets_lost] == [3, 1]
    # Each packet begins with its full time and place, so that nothing else is missing.
    expected = reference(decode(packets[:40] + packets[43:60] + packets[61:]), CONFIG)
    assert_windows(camera.windows, expected.finished(CONFIG))


def test_duplicates_are_dropped_and_change_nothing():
    packets = cut(encode("evt3", scene()), np.random.default_rng(0), 2)
    camera = Camera().push([p for p in packets for _ in range(2)])
    assert camera.stream.packets.duplicates == len(packets)
    assert_same(Camera().push(packets).windows, camera.windows)
    assert [window.events for window in Camera().push(packets).windows] == [window.events for window in camera.windows]
    assert camera.stream.packets.lost == camera.stream.packets.restarts == 0


def test_a_duplicate_that_ends_in_part_of_a_word_does_not_join_itself():
    packets = encode("mono", scene())
    odd = [replace(p, payload=np.append(p.payload, p.payload[:3])) for p in packets]
    camera, plain = Camera(), Camera()
    camera.push([p for p in odd for _ in range(2)])
    assert_same(plain.push(packets).windows, camera.windows)
    assert camera.stream.decoding.truncated == 3 * len(packets)


def test_part_of_a_word_before_a_gap_does_not_join_what_follows():
    packets = encode("evt3", scene())
    pieces = packets[:50]
    pieces += [replace(packets[50], payload=packets[50].payload[:-1])]  # the other half of the word is lost
    pieces += packets[52:]
    camera = Camera().push(pieces)
    whole = {window.index: window.spikes for window in Camera().push(packets).windows}
    assert all(not (window.spikes & ~whole[window.index]).any() for window in camera.windows)
    assert camera.stream.decoding.truncated == 1
    assert_windows(camera.windows[-10:], reference(decode(packets), CONFIG).finished(CONFIG)[-10:])


def test_part_of_a_word_before_a_restart_does_not_join_what_follows():
    packets = encode("evt3", scene())
    halved = [*packets[:-1], replace(packets[-1], payload=packets[-1].payload[:-1])]
    camera = Camera().push(halved)
    once = camera.windows.copy()
    camera.push(packets)
    assert_same(once, camera.windows[len(once) :])
    assert camera.stream.decoding.truncated == 1


def test_drivers_without_numbers_lose_nothing():
    packets = [replace(p, seq=0) for p in encode("evt3", scene())]
    camera = Camera().push(packets)
    assert_windows(camera.windows, reference(decode(packets), CONFIG).finished(CONFIG))
    counted = camera.stream.packets
    assert (counted.received, counted.lost, counted.duplicates, counted.restarts) == (len(packets), 0, 0, 0)


def test_another_encoding_or_sensor_starts_over_once():
    first = encode("evt3", scene(1))
    second = [replace(p, stamp_ns=p.stamp_ns + 10**9) for p in encode("mono", scene(2), first_seq=101)]
    third = encode("mono", scene(3, sensor=(60, 90)), sensor=(60, 90), first_seq=201)
    third = [replace(p, stamp_ns=p.stamp_ns + 2 * 10**9) for p in third]
    camera = Camera().push(first).push(second).push(third)
    runs = [Camera().push(run).windows for run in (first, second, third)]
    assert_same([window for run in runs for window in run], camera.windows)
    assert camera.windows[-1].spikes.shape == (3, 2, 60, 90)
    assert camera.stream.sensor_size == (60, 90)
    assert [window.sensor_size for window in camera.windows] == [
        size for run, size in zip(runs, (SENSOR, SENSOR, (60, 90)), strict=True) for _ in run
    ]
    assert camera.notices == [
        "event stream started over: the camera now sends mono of 48x40 px",
        "event stream started over: the camera now sends mono of 90x60 px",
    ]
    counted = camera.stream.windows
    assert counted.due == counted.finished + counted.empty
    assert counted.abandoned == sum(reference(decode(run), CONFIG).open for run in (first, second))
    assert_grow(camera.stamps())


BROKEN = [
    ({"encoding": "evt4"}, "unknown event encoding 'evt4'"),
    ({"width": 0}, "sensor size of 0x40 px makes no sense"),
    ({"height": 1 << 31}, "makes no sense"),
    ({"time_base": 1 << 63}, "time_base of 9223372036854775808 ns is beyond 63 bits"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
@pytest.mark.parametrize("encoding", ["evt3", "libcaer_cmp"])
def test_a_packet_that_cannot_be_read_is_rejected_and_the_stream_goes_on(encoding, change, message):
    packets = encode(encoding, scene())
    camera = Camera().push(packets[:50])
    with pytest.raises(ValueError, match=message):
        camera.push([replace(packets[50], **change)])
    camera.push(packets[51:])
    assert_windows(camera.windows, reference(decode(packets[:50] + packets[51:]), CONFIG).finished(CONFIG))
    counted = camera.stream.packets
    assert (counted.received, counted.rejected, counted.lost, counted.restarts) == (100, 1, 0, 0)
    assert camera.notices == []


def test_behind_a_rejected_packet_no_event_comes_at_a_wrong_place():
    packets = cut(encode("evt3", scene(packets=3)), np.random.default_rng(1), 40)
    camera, true = Camera(), {window.index: window.spikes for window in Camera().push(packets).windows}
    for number, p in enumerate(packets):
        if number % 7 == 6:
            with pytest.raises(ValueError, match="beyond 63 bits"):
                camera.push([replace(p, time_base=1 << 63)])
        else:
            camera.push([p])
    assert camera.windows
    assert all(not (window.spikes & ~true.get(window.index, 0)).any() for window in camera.windows)
    assert camera.stream.decoding.dropped > 0


def test_a_larger_sensor_whose_first_packet_is_rejected():
    small, sensor = encode("evt3", scene(1)), (200, 300)
    large = encode("evt3", scene(2, sensor=sensor), sensor=sensor, first_seq=101)
    camera = Camera().push(small)
    before = len(camera.windows)
    with pytest.raises(ValueError, match="beyond 63 bits"):
        camera.push([replace(large[0], time_base=1 << 63)])
    camera.push(large[1:])
    assert_same(Camera().push(large[1:]).windows, camera.windows[before:])
    assert camera.windows[-1].spikes.shape == (3, 2, *sensor)
    assert camera.stream.packets.restarts == 1


def test_a_camera_behind_a_stamp_of_years_ago_begins_anew_with_right_stamps():
    packets = encode("evt3", scene())
    camera = Camera().push([replace(p, stamp_ns=p.stamp_ns + 10**17) for p in packets[:10]])
    before = len(camera.windows)
    camera.push(packets[10:])
    assert camera.stream.packets.restarts == 1
    assert len(camera.windows) > before + 10
    for number, window in enumerate(camera.windows):
        assert window.stamp_ns == (EPOCH_US + window.t_end_us) * 1000 + (10**17 if number < before else 0)


def test_stamps_grow_though_the_clocks_estimate_falls():
    packets = encode("evt3", scene())
    late = np.linspace(300_000_000, 0, 50).astype(int).tolist() + [0] * 50  # stamps almost stand still
    packets = [replace(p, stamp_ns=p.stamp_ns + delay) for p, delay in zip(packets, late, strict=True)]
    camera = Camera().push(packets)
    assert_grow(camera.stamps())
    assert (EPOCH_US + camera.windows[0].t_end_us) * 1000 + 100_000_000 < camera.stamps()[0]
    assert camera.stamps()[-1] == (EPOCH_US + camera.windows[-1].t_end_us) * 1000


def test_evt3_wraps_leave_no_trace():
    random = np.random.default_rng(0)
    events = random_events(random, 20_000, 60_000_000)
    packets = encode("evt3", np.array_split(events, 4000))
    packets = [replace(p, stamp_ns=p.stamp_ns + int(random.exponential(300_000))) for p in packets]
    config = WindowConfig(window_ms=100, rate_hz=7.5)
    camera = Camera(config).push(packets)
    assert_windows(camera.windows, reference(events, config).finished(config))
    assert camera.windows[-1].t_end_us > 3 << 24
    errors = [window.stamp_ns - (EPOCH_US + window.t_end_us) * 1000 for window in camera.windows[10:]]
    assert 0 <= min(errors) <= max(errors) < 100_000
    assert camera.notices == []


@pytest.mark.parametrize("jump_us", [-(10**7), -2_000_000, -200_000, 10_500_000, 10**9])
@pytest.mark.parametrize("within", [False, True])
def test_a_jump_of_the_sensors_time_leaves_stamps_right(jump_us, within):
    """`mono` packets whose times jump while the host's clock goes on, between two packets or within one."""
    groups = scene(start_us=2 * 10**7, packets=200)
    stamps = [(EPOCH_US + int(group["t"][0])) * 1000 for group in groups]
    whole = np.concatenate(groups)
    within = within and abs(jump_us) < 4_000_000  # more does not fit into one packet of this format
    place = groups[0].size * 100 + (groups[0].size // 2 if within else 0)
    packets, begin = [], 0
    for number, (group, stamp) in enumerate(zip(groups, stamps, strict=True), 1):
        t = group["t"] + np.where(np.arange(begin, begin + group.size) >= place, jump_us, 0)
        begin += group.size
        x, y, passed = (values.astype(np.uint64) for values in (group["x"], group["y"], t - t.min()))
        words = passed * 1000 | x << 32 | y << 48
        base = int(t.min()) * 1000
        packets.append(packet(number, "mono", base, words.astype("<u8").tobytes(), stamp))
    camera = Camera().push(packets)
    assert camera.stream.windows.time_jumps == 1
    assert [notice for notice in camera.notices if "time jumped to" in notice] == camera.notices
    assert len(camera.notices) == 1
    assert_grow(camera.stamps())
    errors, after = [], False
    for number, window in enumerate(camera.windows):
        step_us = window.t_end_us - camera.windows[max(number - 1, 0)].t_end_us
        after |= not 0 <= step_us < 5_000_000
        true_us = window.t_end_us - (jump_us if after else 0)
        errors.append(window.stamp_ns - (EPOCH_US + true_us) * 1000)
    assert after
    # A clock that begins within a packet is early by the time from that packet's beginning.
    assert -int(whole["t"][place] - groups[100]["t"][0]) * 1000 <= min(errors) <= max(errors) <= 0


def test_clocks_that_part_are_noticed():
    packets = encode("libcaer", scene())
    behind = [replace(p, stamp_ns=p.stamp_ns + 8 * 10**9) for p in packets[50:]]
    camera = Camera().push(packets[:50]).push(behind)
    assert camera.notices == ["the sensor's clock leapt by -8.000 s against the packets' stamps"]
    assert camera.stream.packets.clock_leaps == 1 and camera.stream.windows.time_jumps == 0
    assert camera.stamps()[-1] == camera.windows[-1].t_end_us * 1000 + 8 * 10**9
    assert_grow(camera.stamps())


def test_a_host_s_clock_that_is_set_forward_is_noticed():
    packets = encode("libcaer", scene(count=30_000, span_us=6_000_000, packets=600))
    later = [replace(p, stamp_ns=p.stamp_ns + 3 * 10**9) for p in packets[200:]]
    camera = Camera().push(packets[:200]).push(later)
    [notice] = camera.notices
    assert "the packets' stamps went forward by 3.000 s against the sensor's clock" in notice
    assert camera.stream.packets.clock_leaps == 1 and camera.stream.windows.time_jumps == 0
    assert camera.stamps()[-1] == camera.windows[-1].t_end_us * 1000 + 3 * 10**9
    assert_grow(camera.stamps())


def test_mistimed_packets_are_noticed_once():
    payload = np.array([0x000F, 0x1FA0, 0x2001, 0x3001, 0x0000, 0x100A, 0x2001, 0x3001], "<u2").tobytes()
    starts = [(EPOCH_US + number * 70_000) * 1000 for number in range(8)]
    packets = [packet(number, "libcaer_cmp", start, payload, start) for number, start in enumerate(starts, 1)]
    camera = Camera().push(packets)
    assert camera.stream.decoding.mistimed == 8
    assert len(camera.notices) == 1
    assert "spans more than 65.536 ms" in camera.notices[0]


def test_packets_without_events_only_pass():
    packets = encode("evt3", scene())
    packets[30:30] = [packet(0, "evt3", 0, b"", packets[30].stamp_ns)]
    packets = [replace(p, seq=number) for number, p in enumerate(packets, 1)]
    camera = Camera().push([packet(0, "evt3", 0, b"", packets[0].stamp_ns), *packets])
    assert_windows(camera.windows, reference(decode(packets), CONFIG).finished(CONFIG))


def test_a_callback_that_fails_loses_the_rest_of_the_packet_and_no_more():
    packets = cut(encode("evt3", scene()), np.random.default_rng(2), 2)
    true = {window.index: window.spikes for window in Camera().push(packets).windows}
    got = []

    def on_window(window):
        got.append(window.detach())
        if len(got) % 5 == 0:
            raise OSError("the disk is full")

    stream = EventStream(CONFIG, on_window)
    failures = 0
    for p in packets:
        try:
            stream.push(p)
        except OSError:
            failures += 1
    assert failures == len(got) // 5 > 3
    assert stream.windows.finished == len(got)
    assert stream.windows.time_jumps == 0
    assert all(not (window.spikes & ~true[window.index]).any() for window in got)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, r"scale=0.0 is outside of \(0, 1\]"),
        ({"scale": 1.5}, "scale=1.5"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"decoder": "magic"}, "unknown decoder 'magic'; known are native, event_camera_py"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EventStream(CONFIG, lambda window: None, **options)


def test_windows_never_released_are_an_error():
    held = []
    stream = EventStream(CONFIG, held.append, spare_windows=2)
    with pytest.raises(RuntimeError, match="must be released or detached"):
        for p in encode("evt3", scene()):
            stream.push(p)
    assert len(held) >= 2
