"""Packet encoders against the plain reference decoders, and these against real recordings."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_decoders import decode_reference

from sdt_ros.bags import open_bag, parse_event_packet
from sdt_ros.events.encoder import ENCODINGS, PacketEncoder
from sdt_ros.events.sinks import EVENT_DTYPE

RECORDINGS = Path(__file__).parents[2] / "shared/data/recordings"
EPOCH_US = 1_700_000_000_000_000
WIDTH, HEIGHT = 120, 70
ALL = [*ENCODINGS, "evt21;endianness=legacy;height=70;width=120"]
WRAP_US = {"evt3": 1 << 24, "evt2": 1 << 34, "evt21": 1 << 34}


def expected_recordings() -> list[dict[str, Any]]:
    summary = RECORDINGS / "expected.json"
    return json.loads(summary.read_text())["recordings"] if summary.exists() else []


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the shared recordings are not beside the checkout")
@pytest.mark.parametrize("expected", expected_recordings(), ids=lambda entry: entry["encoding"])
def test_reference_decoders_agree_with_an_independent_implementation(expected: dict[str, Any]) -> None:
    with open_bag(RECORDINGS / expected["path"]) as bag:
        packets = [parse_event_packet(message.data) for message in bag.messages()]
    stream = [(packet.time_base, packet.payload.tobytes()) for packet in packets]
    events, counters = decode_reference(expected["encoding"], expected["width"], expected["height"], stream)
    assert events.size == expected["events"]
    for field in "xyp":
        assert hashlib.sha256(events[field].tobytes()).hexdigest() == expected[f"sha256_{field}"]
    relative = events["t"] - events["t"][0]
    assert hashlib.sha256(relative.tobytes()).hexdigest() == expected["sha256_t_rel_us"]
    assert counters == {"outside": 0, "unknown": 0, "truncated": 0, "unsynced": 0}


@st.composite
def recordings(draw: st.DrawFn, max_step_us: int = 5000) -> list[np.ndarray]:
    """A few packets of ordered events, with runs of neighbours as vectors like them."""
    packets = []
    t = draw(st.integers(0, 1 << 26))
    for _ in range(draw(st.integers(1, 4))):
        rows = []
        for _ in range(draw(st.integers(0, 8))):
            t += draw(st.integers(0, 3) | st.integers(0, max_step_us))
            x, y, p = draw(st.integers(0, WIDTH - 1)), draw(st.integers(0, HEIGHT - 1)), draw(st.integers(0, 1))
            rows.append((t, x, y, p))
            along_row = draw(st.booleans())
            for step in draw(st.lists(st.integers(0, 14), max_size=12)):
                x, y = (x + step, y) if along_row else (x, y + step)
                if x < WIDTH and y < HEIGHT:
                    rows.append((t, x, y, p))
        packets.append(np.array(rows, EVENT_DTYPE))
    return packets


def encode_all(encoder: PacketEncoder, packets: list[np.ndarray]) -> list[tuple[int, bytes]]:
    return [encoder.encode(packet) for packet in packets]


def from_epoch(packets: list[np.ndarray], start_us: int = EPOCH_US) -> list[np.ndarray]:
    shifted = [packet.copy() for packet in packets]
    for packet in shifted:
        packet["t"] += start_us
    return shifted


def expected_times(encoding: str, events: np.ndarray) -> np.ndarray:
    """Formats without a time base know their first time only up to their wrap."""
    wrap = WRAP_US.get(encoding.split(";")[0])
    return events["t"] if wrap is None or not events.size else events["t"] - events["t"][0] // wrap * wrap


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("encoding", ALL)
@settings(max_examples=60, deadline=None)  # the first example compiles
@given(data=st.data())
def test_what_is_encoded_decodes_to_the_same(encoding: str, vectors: bool, data: st.DataObject) -> None:
    encoder = PacketEncoder(encoding, WIDTH, HEIGHT, vectors)
    packets = data.draw(recordings(max_step_us=2000 if encoding == "libcaer_cmp" else 40_000_000))
    if encoding == "mono":
        packets = [packet[packet["t"] - packet["t"].min(initial=1 << 60) <= 4_294_967] for packet in packets]
    if encoder.since_epoch:
        packets = from_epoch(packets)
    decoded, counters = decode_reference(encoding, WIDTH, HEIGHT, encode_all(encoder, packets))
    events = np.concatenate(packets)
    for field in "xyp":
        assert np.array_equal(decoded[field], events[field])
    assert np.array_equal(decoded["t"], expected_times(encoding, events))
    assert not any(counters.values())


@pytest.mark.parametrize("encoding", ALL)
def test_each_packet_can_be_read_without_those_before(encoding: str) -> None:
    encoder = PacketEncoder(encoding, WIDTH, HEIGHT)
    rows = [(t * 700, t % WIDTH, t % HEIGHT, t % 2) for t in range(40)]
    whole = from_epoch([np.array(rows, EVENT_DTYPE)], EPOCH_US if encoder.since_epoch else 0)[0]
    _, second = encode_all(encoder, [whole[:20], whole[20:]])
    decoded, _ = decode_reference(encoding, WIDTH, HEIGHT, [second])
    assert np.array_equal(decoded, whole[20:])


def test_evt3_words_of_a_scalar_and_a_vector() -> None:
    encoder = PacketEncoder("evt3", 640, 480)
    scalar = np.array([(0x0FFF, 5, 7, 1), (0x1001, 9, 7, 0)], EVENT_DTYPE)
    assert encoder.encode(scalar) == (0, struct.pack("<7H", 0x8000, 0x6FFF, 7, 0x2805, 0x8001, 0x6001, 0x2009))
    row = np.array([(0x1002, x, 8, 1) for x in (100, 102, 111, 112, 113, 130)], EVENT_DTYPE)
    words = (0x8001, 0x6002, 8, 0x3864, 0x4805, 0x5003, 0x2882)
    assert encoder.encode(row) == (0, struct.pack("<7H", *words))


def test_evt3_fills_pauses_so_that_no_wrap_is_missed() -> None:
    encoder = PacketEncoder("evt3", 640, 480)
    times = [0, 3_600_000_000, 3_600_000_000 + (1 << 24) - 5 * 4096]  # the last looks like noise but for the fill
    packets = [np.array([(t, 1, 2, 0)], EVENT_DTYPE) for t in times]
    decoded, _ = decode_reference("evt3", 640, 480, encode_all(encoder, packets))
    assert decoded["t"].tolist() == times


def test_evt2_and_evt21_words() -> None:
    event = np.array([(64 * 0x1234567 + 5, 33, 2, 1), (64 * 0x1234567 + 5, 40, 2, 1)], EVENT_DTYPE)
    high, first, second = 0x8123_4567, 0x1140_0000 | 33 << 11 | 2, 0x1140_0000 | 40 << 11 | 2
    assert PacketEncoder("evt2", 640, 480).encode(event)[1] == struct.pack("<3I", high, first, second)
    upper, mask = 0x1140_0000 | 32 << 11 | 2, 1 << 1 | 1 << 8
    assert PacketEncoder("evt21", 640, 480).encode(event)[1] == struct.pack("<4I", 0, high, mask, upper)
    legacy = PacketEncoder("evt21;endianness=legacy", 640, 480)
    assert legacy.encode(event)[1] == struct.pack("<4I", high, 0, upper, mask)


def test_libcaer_words_and_rollover() -> None:
    start = (EPOCH_US >> 31 << 31) + (1 << 31) - 1
    events = np.array([(start, 3, 4, 1), (start + 2, 5, 6, 0)], EVENT_DTYPE)
    time_base, payload = PacketEncoder("libcaer", 640, 480).encode(events)
    assert time_base == (EPOCH_US >> 31 << 31) * 1000
    assert payload == struct.pack("<IiIi", 3 << 17 | 4 << 2 | 2, 2**31 - 1, 5 << 17 | 6 << 2, 1)
    decoded, _ = decode_reference("libcaer", 640, 480, [(time_base, payload)])
    assert np.array_equal(decoded, events)


def test_libcaer_cmp_column_vector() -> None:
    events = np.array([(EPOCH_US, 9, y, 1) for y in (10, 11, 17, 18, 20)], EVENT_DTYPE)
    assert PacketEncoder("libcaer_cmp", 346, 260).encode(events) == (
        EPOCH_US * 1000,
        struct.pack("<4H", 0x2009, 0x480A, 0x5083, 0x5005),
    )


def test_vectors_make_dense_rows_shorter() -> None:
    row = np.array([(0, x, 5, 1) for x in range(0, WIDTH)], EVENT_DTYPE)
    for encoding in ("evt3", "evt21"):
        scalar = len(PacketEncoder(encoding, WIDTH, HEIGHT, vectors=False).encode(row)[1])
        assert len(PacketEncoder(encoding, WIDTH, HEIGHT).encode(row)[1]) < scalar / 6


def one(t: int = 0, x: int = 0, y: int = 0, p: int = 0) -> tuple[int, int, int, int]:
    return (t, x, y, p)


@pytest.mark.parametrize(
    ("encoding", "rows", "message"),
    [
        ("evt3", [one(x=WIDTH)], r"event 0 \(x 120, y 0, p 0\) lies outside 120x70x2"),
        ("evt2", [one(), one(y=HEIGHT)], r"event 1 \(x 0, y 70"),
        ("evt2", [one(p=2)], "p 2"),
        ("mono", [one(t=5), one(t=4)], "event 1 at 4 us comes after one at 5 us; sort"),
        ("libcaer", [one(t=-5)], "time -5 us, which is negative"),
        ("libcaer_cmp", [one(t=0), one(t=65_536)], "libcaer_cmp cannot hold a packet that spans 65536 us, only 65535"),
        ("mono", [one(t=0), one(t=4_294_968)], "mono cannot hold a packet that spans 4294968 us"),
        ("evt3", [one(t=0), one(t=86_400_000_001)], "evt3 cannot hold"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(encoding: str, rows: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PacketEncoder(encoding, WIDTH, HEIGHT).encode(np.array(rows, EVENT_DTYPE))


def test_packets_must_follow_each_other() -> None:
    encoder = PacketEncoder("evt3", WIDTH, HEIGHT)
    encoder.encode(np.array([one(t=9)], EVENT_DTYPE))
    with pytest.raises(ValueError, match="before the last packet's end, 9 us"):
        encoder.encode(np.array([one(t=8)], EVENT_DTYPE))


@pytest.mark.parametrize(
    ("encoding", "size", "message"),
    [
        ("evt4", (10, 10), "encoding 'evt4' is unknown; choose one of evt3, evt2"),
        ("evt3", (2049, 10), "evt3 holds sensors of 1 to 2048 pixels a side, not 2049x10"),
        ("evt3", (0, 10), "not 0x10"),
        ("evt3;endianness=legacy", (10, 10), "endianness 'legacy' is not known for evt3"),
    ],
)
def test_wrong_set_up_is_refused(encoding: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PacketEncoder(encoding, *size)
