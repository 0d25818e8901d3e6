"""Packets that lie: header fields at their extremes, times that lead nowhere, giant payloads."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdt_ros.events import PacketDecoder, SpikeWindow, WindowConfig
from sdt_ros.events.encodings import CODECS
from sdt_ros.events.packet import EventPacket
from sdt_ros.events.stream import EventStream

SOUND = EventPacket(
    stamp_ns=10**18, frame_id="camera", height=480, width=640, seq=1, time_base=0, encoding="evt3", is_bigendian=False,
    payload=np.array([0x8001, 0x6002, 0x0003, 0x2804], "<u2").view(np.uint8),
)  # fmt: skip


def libcaer(times):
    times = np.asarray(times, np.int64) & 0xFFFFFFFF
    n = np.arange(times.size)
    return (times << 32 | (n % 640) << 17 | (n % 480) << 2).astype("<u8").view(np.uint8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 0}, "sensor size of 0x480 px makes no sense"),
        ({"height": 0}, "sensor size of 640x0 px"),
        ({"width": 65535}, "sensor size of 65535x480 px"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "makes no sense"),
        ({"width": 8192, "height": 8192}, "4194304 in all"),
        ({"encoding": "evt3;width=99999999999", "width": 0}, "makes no sense"),
        ({"encoding": "evt4"}, "unknown event encoding 'evt4'"),
        ({"encoding": "\0" * 100}, "unknown event encoding"),
        ({"encoding": "evt3;" + "x" * 10_000}, "encoding has 10005 characters"),
        ({"time_base": 2**64 - 1}, "beyond 63 bits"),
        ({"stamp_ns": -1}, "stamp of -0.000 s makes no sense"),
        ({"stamp_ns": (2**31 - 1) * 10**9 + 2**32 - 1}, "stamp of 2147483651.295 s makes no sense"),
        ({"stamp_ns": -(2**31) * 10**9}, "stamp of -2147483648.000 s makes no sense"),
    ],
    ids=str,
)  # fmt: skip
def test_headers_that_lie_are_refused_and_the_stream_goes_on(changes, message):
    stream = EventStream(WindowConfig(), SpikeWindow.release)
    stream.push(SOUND)
    with pytest.raises(ValueError, match=message):
        stream.push(replace(SOUND, seq=2, **changes))
    stream.push(replace(SOUND, seq=3, stamp_ns=SOUND.stamp_ns + 1))
    assert (stream.packets.received, stream.packets.rejected, stream.packets.lost) == (3, 1, 0)


@pytest.mark.parametrize(
    ("seq", "lost", "restarts"), [(0, 2, 1), (2, 0, 0), (7, 5, 1), (2**63, 0, 2), (2**64 - 1, 0, 2)]
)
def test_packet_numbers_may_be_anything(seq, lost, restarts):
    stream = EventStream(WindowConfig(), SpikeWindow.release)
    for number, sent in enumerate((1, seq, 3)):
        stream.push(replace(SOUND, seq=sent, stamp_ns=SOUND.stamp_ns + 10**6 * number))
    assert (stream.packets.received, stream.packets.rejected) == (3, 0)
    assert stream.packets.restarts == restarts
    assert stream.packets.lost == lost  # of a number that leaps, nothing: it would not even fit the message


def test_times_before_zero_are_refused_because_windows_have_no_negative_numbers():
    windows = []
    stream = EventStream(WindowConfig(), lambda window: windows.append(window.detach()))
    stream.push(replace(SOUND, encoding="libcaer", payload=libcaer([0, 1])))
    with pytest.raises(ValueError, match="a time of -100000 us"):
        stream.push(replace(SOUND, encoding="libcaer", seq=2, payload=libcaer([-100_000, -1, 60_000])))
    assert stream.packets.rejected == 1 and not windows


@pytest.mark.parametrize("encoding", CODECS)
@pytest.mark.parametrize("big", [False, True])
def test_a_claim_of_the_other_byte_order_does_no_harm(encoding, big):
    payload = np.random.default_rng(3).integers(0, 256, 4001, dtype=np.uint8)
    decoder = PacketDecoder()
    for piece in (payload, payload[1:], payload[:7]):
        events = decoder.decode(encoding, 320, 240, 0, piece, big)
        assert events.size <= 12 * piece.size and np.all(events["x"] < 320) and np.all(events["y"] < 240)


@pytest.mark.parametrize(
    "times",
    [np.arange(1 << 16) * 1000, np.arange(1 << 16) * 40_000 % (1 << 31), [0, 20_000_000] * (1 << 15),
     [12_499, 12_500, 0, 99_000] * (1 << 14)],
    ids=["a minute", "hours", "jumps", "back and forth"],
)  # fmt: skip
def test_a_packet_whose_times_lead_nowhere_holds_nothing_up(times):
    notices = []
    stream = EventStream(WindowConfig(), SpikeWindow.release, on_notice=notices.append)
    first = replace(SOUND, encoding="libcaer")
    stream.push(replace(first, payload=libcaer([0])))
    began = time.process_time()
    with pytest.raises(ValueError, match="go up and down by more than 30 s"):
        stream.push(replace(first, seq=2, payload=libcaer(times)))
    assert time.process_time() - began < 3  # without the bound the worst of them takes 5 s a megabyte
    assert stream.packets.rejected == 1
    for number in range(3, 60):  # and the next ones give windows again
        stamp_ns, t = SOUND.stamp_ns + number * 10**7, 10_000 * number
        stream.push(replace(first, seq=number, stamp_ns=stamp_ns, payload=libcaer([t, t + 9])))
    assert stream.windows.finished > 8
    assert stream.windows.due == stream.windows.finished + stream.windows.empty + stream.windows.shed
    assert len(notices) < 5


def test_one_damaged_libcaer_time_does_no_harm_behind_its_packet():
    decoder = PacketDecoder()
    decoder.decode("libcaer", 640, 480, 10**18, libcaer([100, 2**31 - 1, 101]))
    assert decoder.decode("libcaer", 640, 480, 10**18, libcaer([102]))["t"].tolist() == [10**15 + 102]


def test_libcaer_times_roll_over_within_a_packet():
    times = PacketDecoder().decode("libcaer", 640, 480, 0, libcaer([-(2**31), 2**31 - 2, 1, 2]))["t"]
    assert times.tolist() == [-(2**31), 2**31 - 2, 2**31 + 1, 2**31 + 2]


@pytest.mark.parametrize("encoding", CODECS)
def test_a_giant_payload_takes_memory_in_proportion_and_gives_it_back(encoding):
    payload = np.zeros((32 << 20) + 1, np.uint8)[1:]  # not aligned, so that it is copied
    stream = EventStream(WindowConfig(), SpikeWindow.release)
    first = replace(SOUND, encoding=encoding)
    stream.push(replace(first, payload=payload[:64]))
    tracemalloc.start()
    stream.push(replace(first, seq=2, payload=payload))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.1 * payload.size and kept < 1 << 20


@settings(max_examples=150, deadline=None)
@given(
    encoding=st.sampled_from([*CODECS, "evt21;endianness=legacy", "evt3;width=640;height=480", "", "evt9", "mono;=;"]),
    fields=st.lists(
        st.fixed_dictionaries(
            {
                "stamp_ns": st.integers(-(2**31) * 10**9, 2**31 * 10**9 + 2**32),
                "width": st.sampled_from([0, 1, 2, 346, 640, 2048, 65535, 2**32 - 1]),
                "height": st.sampled_from([0, 1, 260, 480, 2047, 2**31]),
                "seq": st.integers(0, 2**64 - 1),
                "time_base": st.integers(0, 2**64 - 1),
                "is_bigendian": st.booleans(),
                "payload": st.binary(max_size=100).map(lambda data: np.frombuffer(data, np.uint8)),
            }
        ),
        max_size=6,
    ),
)
def test_any_header_is_taken_or_refused(encoding, fields):
    stream = EventStream(WindowConfig(window_ms=5, rate_hz=200), SpikeWindow.release, scale=0.01)
    refused = 0
    for entry in fields:
        try:
            stream.push(replace(SOUND, encoding=encoding, **entry))
        except ValueError as error:
            refused += 1
            assert len(str(error)) < 500
    packets, windows = stream.packets, stream.windows
    assert (packets.received, packets.rejected) == (len(fields), refused)
    assert windows.due == windows.finished + windows.empty + windows.shed
