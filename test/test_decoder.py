"""Decoders: against the real recordings, against a plain-Python reference, and on broken input."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_decoders import decode_reference

from sdt_ros.bags import open_bag, parse_event_packet
from sdt_ros.events import EVENT_DTYPE, PacketDecoder
from sdt_ros.events.encodings import CODECS, parse_encoding

ENCODINGS = [*CODECS, "evt21;endianness=legacy"]


def recorded_packets(folder):
    with open_bag(folder) as bag:
        return [parse_event_packet(message.data) for message in bag.messages()]


def assert_as_expected(events, expected):
    assert len(events) == expected["events"]
    times = events["t"] - events["t"][0]
    for values, dtype, key in (
        (events["x"], "<u2", "sha256_x"),
        (events["y"], "<u2", "sha256_y"),
        (events["p"], "u1", "sha256_p"),
        (times, "<i8", "sha256_t_rel_us"),
    ):
        assert hashlib.sha256(values.astype(dtype).tobytes()).hexdigest() == expected[key], key


def test_recordings_decode_to_what_an_independent_decoder_reads(recording, expected):
    decoder = PacketDecoder()
    events = [
        decoder.decode(p.encoding, p.width, p.height, p.time_base, p.payload, p.is_bigendian)
        for p in recorded_packets(recording)
    ]
    assert_as_expected(np.concatenate(events), expected)
    assert decoder.counters.triggers == expected["triggers"]
    assert decoder.counters.outside == decoder.counters.unknown == decoder.counters.truncated == 0


@pytest.mark.parametrize("seed", range(5))
def test_recordings_split_at_random_byte_pairs_decode_to_the_same(recording, expected, seed):
    random = np.random.default_rng(seed)
    decoder, events = PacketDecoder(), []
    for p in recorded_packets(recording):
        cuts = np.sort(random.integers(0, len(p.payload) // 2, 3)) * 2
        for piece in np.split(p.payload, cuts):
            events.append(decoder.decode(p.encoding, p.width, p.height, p.time_base, piece))
    assert_as_expected(np.concatenate(events), expected)
    assert decoder.counters.truncated == 0


def test_a_truncated_packet_does_not_spoil_the_next(recording, expected):
    if expected["encoding"] != "libcaer":
        pytest.skip("words of two bytes cannot be cut at byte pairs")
    decoder, whole = PacketDecoder(), PacketDecoder()
    for number, p in enumerate(recorded_packets(recording)):
        cut = p.payload[:-6] if number % 2 else p.payload
        events = decoder.decode(p.encoding, p.width, p.height, p.time_base, cut)
        all_events = whole.decode(p.encoding, p.width, p.height, p.time_base, p.payload)
        np.testing.assert_array_equal(events, all_events[: len(events)])
        assert len(all_events) - len(events) == number % 2
    assert decoder.counters.truncated == 2 * ((number + 1) // 2)


def random_words(draw, encoding):
    """Payloads that are mostly well formed, so that deep states are reached, with anything in between."""
    size = CODECS[parse_encoding(encoding).name].WORD.itemsize
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    count = int(random.integers(0, 300))
    words = random.integers(0, 2**63, count, dtype=np.uint64) * 2 + random.integers(0, 2, count, dtype=np.uint64)
    if size == 2:  # few codes, small coordinates
        codes = random.choice([0, 1, 2, 2, 3, 4, 5, 6, 6, 8, 9, 10, 14], count).astype(np.uint64)
        words = np.where(random.random(count) < 0.9, codes << np.uint64(12) | words % np.uint64(4096), words)
        words = np.where(random.random(count) < 0.6, words & np.uint64(0xF9FF), words)
        words = np.where(random.random(count) < 0.02, np.uint64(0x9999), words)
    else:
        kinds = random.choice([0, 0, 1, 1, 8, 10, 14, 3], count).astype(np.uint64)
        shift = np.uint64(size * 8 - 4)
        words = (words & np.uint64((1 << (size * 8 - 4)) - 1)) | kinds << shift
        if encoding.endswith("legacy"):
            words = words >> np.uint64(32) | words << np.uint64(32)
    return words.astype(f"<u{size}").tobytes()


@st.composite
def packets_of(draw, encoding):
    time_base = st.integers(0, 2**61)
    packets = [(draw(time_base), random_words(draw, encoding)) for _ in range(draw(st.integers(1, 4)))]
    part_of_a_word = bytes(draw(st.integers(0, CODECS[parse_encoding(encoding).name].WORD.itemsize - 1)))
    return [*packets, (draw(time_base), random_words(draw, encoding) + part_of_a_word)]


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_bytes_decode_as_the_plain_reference_does(encoding, data):
    packets = data.draw(packets_of(encoding))
    width, height = 346, 260
    decoder = PacketDecoder()
    events = np.concatenate([decoder.decode(encoding, width, height, *packet) for packet in packets])
    expected, counters = decode_reference(encoding, width, height, packets)
    np.testing.assert_array_equal(events, expected)
    met = decoder.counters
    assert (met.outside, met.unknown, met.truncated, met.dropped) == (
        counters["outside"], counters["unknown"], counters["truncated"], counters["unsynced"],
    )  # fmt: skip
    assert events["x"].max(initial=0) < width and events["y"].max(initial=0) < height


def test_evt3_time_is_unrolled_through_wraps():
    def packet(high, low):
        return np.array([0x8000 | high, 0x6000 | low, 0x0000 | 5, 0x2000 | 7], "<u2").tobytes()

    decoder = PacketDecoder()
    times = []
    for high, low in [(4094, 1), (4095, 2), (0, 3), (4095, 4), (4094, 0), (0, 9), (1, 0)] + [(2000, 0), (10, 0)] * 200:
        times.append(int(decoder.decode("evt3", 640, 480, 0, packet(high, low))["t"][0]))
    wrap = 1 << 24
    assert times[:7] == [(4094 << 12) + 1, (4095 << 12) + 2, wrap + 3, wrap + (4095 << 12) + 4,
                         wrap + (4094 << 12), 2 * wrap + 9, 2 * wrap + 4096]  # fmt: skip
    assert times[-1] == (2 + 200) * wrap + (10 << 12)
    assert decoder.counters.backwards == 1


def test_libcaer_cmp_packets_longer_than_the_driver_can_time_are_counted():
    start = [0x0000 | 15, 0x1000 | 4000, 0x2001, 0x3001]
    over = [0x0000 | 0, 0x1000 | 10, 0x2001, 0x3001]
    decoder = PacketDecoder()
    decoder.decode("libcaer_cmp", 346, 260, 10**18, np.array(start + over, "<u2").tobytes())
    assert decoder.counters.mistimed == 1
    decoder.decode("libcaer_cmp", 346, 260, 10**18 + 10**8, np.array(over + start, "<u2").tobytes())
    assert decoder.counters.mistimed == 1


def test_big_endian_payloads_give_the_same_events(recording, expected):
    decoder, events = PacketDecoder(), []
    for p in recorded_packets(recording):
        swapped = p.payload.view("<u4" if p.encoding == "libcaer" else "<u2").byteswap().tobytes()
        events.append(decoder.decode(p.encoding, p.width, p.height, p.time_base, swapped, is_bigendian=True))
    assert_as_expected(np.concatenate(events), expected)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: array("B", b), lambda b: b"\0" + b])
def test_payloads_of_any_kind_and_alignment_decode_alike(wrap):
    payload = np.array([0x8001, 0x6002, 0x0003, 0x2804, 0x2005], "<u2").tobytes()
    wrapped = wrap(payload)
    if len(wrapped) > len(payload):
        wrapped = memoryview(wrapped)[1:]
    events = PacketDecoder().decode("evt3", 640, 480, 0, wrapped)
    assert events.dtype == EVENT_DTYPE
    assert events.tolist() == [(4098, 4, 3, 1), (4098, 5, 3, 0)]


def test_geometry_may_come_with_the_encoding():
    words = [0x8 << 60 | 1 << 32, 0x1 << 60 | 1279 << 43 | 700 << 32 | 1]
    payload = np.array(words, "<u8").tobytes()
    decoder = PacketDecoder()
    assert decoder.decode("evt21;height=720;width=1280", 0, 0, 0, payload).tolist() == [(64, 1279, 700, 1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evt4", 640, 480, 0, b""), "unknown event encoding 'evt4'; known are evt2, evt21, evt3"),
        (("", 640, 480, 0, b""), "unknown event encoding ''"),
        (("evt3", 0, 480, 0, b""), "sensor size of 0x480 px makes no sense"),
        (("evt3", 640, 1 << 31, 0, b""), "sensor size of 640x2147483648 px makes no sense"),
        (("evt3;width=ten", 640, 480, 0, b""), "width='ten'"),
        (("libcaer", 640, 480, 1 << 63, b""), "beyond 63 bits"),
    ],
)
def test_senseless_packets_are_refused_and_the_decoder_goes_on(arguments, message):
    decoder = PacketDecoder()
    decoder.decode("evt3", 640, 480, 0, np.array([0x8001, 0x6002, 0x0003], "<u2").tobytes())
    with pytest.raises(ValueError, match=message):
        decoder.decode(*arguments)
    if not arguments[0].startswith("libcaer"):
        assert decoder.decode("evt3", 640, 480, 0, b"\x04\x20").tolist() == [(4098, 4, 3, 0)]


def test_empty_and_odd_payloads_give_nothing_and_are_counted():
    decoder = PacketDecoder()
    assert decoder.decode("evt3", 640, 480, 0, b"").size == 0
    assert decoder.decode("evt3", 640, 480, 0, b"\x01").size == 0
    assert decoder.decode("libcaer", 640, 480, 0, bytes(13)).size == 1
    assert decoder.counters.truncated == 1 + 5


def test_reset_forgets_the_stream_and_keeps_the_counters():
    decoder = PacketDecoder()
    decoder.decode("evt3", 640, 480, 0, np.array([0x8001, 0x6002, 0x0003, 0x1000], "<u2").tobytes())
    decoder.reset()
    assert decoder.decode("evt3", 640, 480, 0, b"\x04\x20").size == 0
    assert (decoder.counters.dropped, decoder.counters.unknown) == (1, 1)
