"""event_camera_py as the decoder: the same windows as from our own, or a clear refusal."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_windows import EPOCH_US, SENSOR, cut, encode, packet, random_events

from sdt_ros.bags import open_bag, parse_event_packet
from sdt_ros.events import EventStream, WindowConfig
from sdt_ros.events.external import SUPPORTED, EventCameraPyStream

installed = pytest.mark.skipif(
    importlib.util.find_spec("event_camera_py") is None, reason="event_camera_py is not installed (it comes with ROS)"
)
CONFIG = WindowConfig(window_ms=20, bins=3, rate_hz=60)
CUT_NS = 200_000_000  # all pieces of a packet have its stamp


def play(packets, decoder, config=CONFIG, scale=1.0):
    windows = []
    stream = EventStream(config, lambda window: windows.append(window.detach()), scale=scale, decoder=decoder)
    for p in packets:
        stream.push(p)
    return windows, stream


def assert_alike(packets, stamps_within_ns=100_000, **options):
    ours, native = play(packets, "native", **options)
    theirs, external = play(packets, "event_camera_py", **options)
    assert [window.index for window in ours] == [window.index for window in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.t_start_us, one.t_end_us, one.events) == (other.t_start_us, other.t_end_us, other.events)
        np.testing.assert_array_equal(one.spikes, other.spikes)
        # Our clock takes a packet's first time; the library tells only that of the first event, some microseconds on.
        assert abs(one.stamp_ns - other.stamp_ns) <= stamps_within_ns
    assert native.packets == external.packets
    assert native.windows.late == external.windows.late
    assert native.windows.due == external.windows.due
    return ours, native, external


def scene(seed=0, packets=60, start_us=0):
    return np.array_split(random_events(np.random.default_rng(seed), 3000, 600_000, start_us), packets)


def test_without_the_library_the_error_names_it_and_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "event_camera_py", None)
    with pytest.raises(ImportError, match=r"event_camera_py is not installed.*use decoder native"):
        EventStream(CONFIG, lambda window: None, decoder="event_camera_py")


@installed
@pytest.mark.parametrize("config", [WindowConfig(), WindowConfig(50, 5, 30.0)])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_recordings_give_the_same_windows(recording, expected, config, scale):
    if expected["encoding"] not in SUPPORTED:
        pytest.skip(f"event_camera_py does not give exact times for {expected['encoding']}")
    with open_bag(recording) as bag:
        packets = [parse_event_packet(message.data) for message in bag.messages()]
    windows, *_ = assert_alike(packets, config=config, scale=scale)
    assert len(windows) > 15
    windows, *_ = assert_alike(packets + packets, config=config, scale=scale)  # a bag that loops
    assert len(windows) > 30


@installed
@pytest.mark.parametrize("encoding", SUPPORTED)
def test_generated_scenes_give_the_same_windows(encoding):
    windows, *_ = assert_alike(encode(encoding, scene(packets=100)))
    assert len(windows) > 20


@installed
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_behind_lost_packets_the_same_events_are_dropped(seed):
    random = np.random.default_rng(seed)
    first, *others = encode("evt3", scene(seed, packets=15), first_seq=0)
    # The first one is whole: the library does not tell times without events, with which our windows could begin.
    kept = [first, *(p for p in cut(others, random, 6) if random.random() < 0.8)]
    _, native, external = assert_alike(kept, CUT_NS)
    assert native.decoding.dropped == external.decoding.dropped


@installed
def test_a_stream_that_begins_within_a_packet_gives_the_same_windows():
    packets = cut(encode("evt3", scene()), np.random.default_rng(0), 4)
    for begin in range(1, 12):
        _, native, external = assert_alike(packets[begin:], CUT_NS)
        assert native.decoding.dropped == external.decoding.dropped


@installed
def test_columns_and_bases_of_libcaer_cmp_are_never_guessed():
    words = [0x0000, 0x1001, 0x3005, 0x50FF, 0x2003, 0x3006, 0x5001, 0x4801, 0x5003, 0x1FFF, 0x3001]
    payload = np.array(words, "<u2").tobytes()
    packets = []
    for number in (*range(40), *range(45, 60)):
        begin_ns = (EPOCH_US + number * 5000) * 1000
        packets.append(packet(number, "libcaer_cmp", begin_ns, payload, begin_ns))
    windows, native, external = assert_alike(packets, config=WindowConfig(window_ms=10, rate_hz=100))
    assert len(windows) > 10
    assert native.decoding.dropped == external.decoding.dropped > 10


@installed
def test_times_behind_wraps_and_beyond_32_bits_are_the_same():
    packets = []
    for n in range(1200):  # 6.1 s a packet, 2 hours in all
        words = [0x8000 | n * 1500 % 4096, 0x6000 | n, n % 40, 0x2000 | n % 48]
        packets.append(packet(n + 1, "evt3", 0, np.array(words, "<u2").tobytes(), n * 6_144_000_000))
    windows, _, external = assert_alike(packets, config=WindowConfig(window_ms=10_000, rate_hz=0.5))
    assert windows[-1].t_end_us > 1 << 32
    assert external.windows.time_jumps == 0


@installed
@pytest.mark.parametrize("encoding", ["libcaer", "mono", "evt2", "evt21"])
def test_encodings_without_exact_times_are_refused(encoding):
    stream = EventStream(CONFIG, lambda window: window.release(), decoder="event_camera_py")
    (first, *_) = encode(encoding, scene())
    message = f"event_camera_py does not give exact times for {encoding}, only for evt3, libcaer_cmp; use decoder"
    with pytest.raises(ValueError, match=message):
        stream.push(first)
    assert stream.packets.rejected == 1
    assert stream.sensor_size == (0, 0)
    for p in encode("evt3", scene()):
        stream.push(p)
    assert stream.packets.rejected == 1
    assert stream.sensor_size == SENSOR


@installed
def test_what_the_library_refuses_is_an_error_of_the_packet(monkeypatch):
    class Refusing:
        def decode_array(self, *arguments):
            raise RuntimeError("senseless bytes")

    stream = EventCameraPyStream()
    stream.open("evt3", SENSOR[1], SENSOR[0])
    monkeypatch.setattr(stream, "_decoder", Refusing())
    with pytest.raises(ValueError, match="event_camera_py refuses a packet: senseless bytes"):
        stream.words(bytes(4), 0)
