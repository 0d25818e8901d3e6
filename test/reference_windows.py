"""Windows of spikes the slow and obvious way, from a list of decoded events; and packets to feed streams with."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from sdt_ros.events import EVENT_DTYPE, EventPacket, PacketDecoder, WindowConfig
from sdt_ros.events.encoder import PacketEncoder
from sdt_ros.events.encodings import CODECS, parse_encoding

EPOCH_US = 1_700_000_000_000_000
SENSOR = (40, 48)  # height, width [px]


@dataclass
class ReferenceWindow:
    index: int
    edges: list[int]
    spikes: np.ndarray
    events: int


@dataclass
class Reference:
    windows: list[ReferenceWindow]  # that are due, empty ones too
    open: int  # windows that have begun and not ended
    events: int  # that fell into a window while it was open
    late: int  # of whose time a window was closed already

    def finished(self, config: WindowConfig) -> list[ReferenceWindow]:
        return [window for window in self.windows if window.events >= max(1, config.min_events)]


def reference(events, config, sensor=SENSOR, size=None) -> Reference:
    """What windows must come of events in the order of their arrival, without any jump of time."""
    (sensor_height, sensor_width), (height, width) = sensor, size or sensor
    t = events["t"].astype(np.int64)
    seen = np.maximum.accumulate(t)  # the latest time when each event arrives
    period = 1_000_000 / Fraction(config.rate_hz).limit_denominator(1_000_000)
    length = round(config.window_ms * 1000)
    result = Reference([], 0, 0, 0)
    taken, late = np.zeros(t.size, bool), np.zeros(t.size, bool)
    k = int((int(t[0]) + length) / period) - 2
    while True:
        end = int(k * period)
        edges = [end - length + j * length // config.bins for j in range(config.bins + 1)]
        if edges[0] > seen[-1]:
            break
        if edges[0] >= t[0]:
            inside = (edges[0] <= t) & (t < end)
            chosen = inside & (seen < end)
            late |= inside & ~chosen
            taken |= chosen
            if end > seen[-1]:
                result.open += 1
            else:
                spikes = np.zeros((config.bins, 2, height, width), np.uint8)
                bins = np.searchsorted(edges, t[chosen], side="right") - 1
                rows = events["y"][chosen].astype(int) * height // sensor_height
                columns = events["x"][chosen].astype(int) * width // sensor_width
                spikes[bins, events["p"][chosen], rows, columns] = 1
                result.windows.append(ReferenceWindow(k, edges, spikes, int(chosen.sum())))
        k += 1
    result.events, result.late = int(taken.sum()), int(late.sum())
    return result


def random_events(random, count, span_us, start_us=0, sensor=SENSOR):
    """Events in the order of time: even ones, bursts of one time and neighbouring columns, and pauses."""
    kinds = random.choice(3, p=(0.6, 0.39, 0.01), size=count)
    even, pauses = random.exponential(1.0, count), random.exponential(count / 4, count)
    steps = np.select([kinds == 0, kinds == 2], [even, pauses], 0)
    steps[0] = 0
    t = np.cumsum(steps)
    events = np.zeros(count, EVENT_DTYPE)
    events["t"] = start_us + (t * span_us / max(t[-1], 1)).astype(np.int64)
    events["x"] = random.integers(0, sensor[1], count)
    events["y"] = random.integers(0, sensor[0], count)
    events["p"] = random.integers(0, 2, count)
    for i in np.flatnonzero(kinds == 1):
        if i and events["x"][i - 1] + 1 < sensor[1]:
            events[["x", "y", "p"]][i] = events[["x", "y", "p"]][i - 1]
            events["x"][i] += 1
    return events


def packet(number, encoding, time_base, payload, stamp_ns, sensor=SENSOR, frame_id="camera"):
    octets = np.frombuffer(bytes(payload), np.uint8)
    return EventPacket(stamp_ns, frame_id, *sensor, number, time_base, encoding, False, octets)


def encode(encoding, groups, sensor=SENSOR, delay_ns=0, first_seq=1):
    """A packet for every group of events, with a stamp `delay_ns` behind its first event's time since the epoch."""
    encoder = PacketEncoder(encoding, sensor[1], sensor[0])
    packets = []
    for number, events in enumerate(groups, first_seq):
        if encoder.since_epoch:
            events = events.copy()
            events["t"] += EPOCH_US
        time_base, payload = encoder.encode(events)
        first = int(events["t"][0]) if events.size else EPOCH_US
        stamp = (first + (0 if encoder.since_epoch else EPOCH_US)) * 1000 + delay_ns
        packets.append(packet(number, encoding, time_base, payload, stamp, sensor))
    return packets


def cut(packets, random, pieces):
    """The same words in more packets; each of a piece's words stays whole."""
    made = []
    for whole in packets:
        size = CODECS[parse_encoding(whole.encoding).name].WORD.itemsize
        words = whole.payload.size // size
        bounds = np.sort(random.integers(0, words + 1, pieces - 1)) * size
        for piece in np.split(whole.payload, bounds):
            made.append(packet(len(made) + 1, whole.encoding, whole.time_base, piece, whole.stamp_ns, SENSOR))
    return made


def decode(packets):
    decoder = PacketDecoder()
    return np.concatenate(
        [
            decoder.decode(p.encoding, p.width, p.height, p.time_base, p.payload, p.is_bigendian)
            for p in packets
        ]
    )  # fmt: skip


def assert_windows(windows, expected):
    """The windows, detached, are exactly those expected."""
    assert [window.index for window in windows] == [window.index for window in expected]
    for window, wanted in zip(windows, expected, strict=True):
        assert (window.t_start_us, window.t_end_us) == (wanted.edges[0], wanted.edges[-1])
        assert window.events == wanted.events
        np.testing.assert_array_equal(window.spikes, wanted.spikes)
