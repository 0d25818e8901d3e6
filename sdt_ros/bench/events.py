"""`sdt bench events`: events a second from packet bytes to spike tensors, against decoders followed by numpy.

Counted is what happens between the arrival of bytes and finished tensors. Clearing a tensor for the next window is not:
in the node another thread does it, and peers get theirs cleared for nothing too. A recording of a quiet scene has few
events a packet and is timed twice: as a busy camera would send it, in packets of up to `BUSY_BYTES` where the format
lets packets be joined, and as it was recorded, where the cost of a packet weighs more than that of its events.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sdt_ros.bags import BagError, events_topic, open_bag, parse_event_packet
from sdt_ros.bench.measure import machine, median_seconds, one_core
from sdt_ros.events import EventPacket, EventStream, PacketDecoder, SpikeWindow, WindowConfig
from sdt_ros.events.encoder import ENCODINGS, PacketEncoder

# The recordings are of quiet scenes: half a second of them has as many events as 50 ms of a busy one.
WINDOWS = WindowConfig(window_ms=500.0, bins=4, rate_hz=2.0)
PACKET_US = 50_000  # of the packets made for the encodings that no recording has
BUSY_BYTES = 1 << 20


@dataclass(frozen=True)
class EventsResult:
    """One encoding's figures.

    Attributes:
        encoding: name of the byte format.
        recording: where the events come from.
        transcoded: whether they were encoded anew, because no recording given has this encoding.
        events: events in one run.
        mev_s: ours, million events a second, in a busy camera's packets.
        mev_s_as_recorded: ours, in the recording's packets.
        peer: name of the fastest peer, None where none is installed that reads the format.
        peer_mev_s: its million events a second.
        ratio: ours over the fastest peer's.
        peers: million events a second of every peer.
    """

    encoding: str
    recording: str
    transcoded: bool
    events: int
    mev_s: float
    mev_s_as_recorded: float
    peer: str | None
    peer_mev_s: float | None
    ratio: float | None
    peers: dict[str, float]


def add_parser(benchmarks: Any) -> None:
    """Add `bench events` to the command line."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        "events",
        help="decoding and binning, from packet bytes to spikes [4, 2, H, W], on one core",
        description="Events a second from packet bytes to spikes [4, 2, H, W] on one core, through the node's own "
        "code. Peers (the evt3 wheel, event_camera_py; whichever is installed) decode the whole recording at once, "
        "then numpy bins it with add.at or bincount. Encodings that no recording has are made from its events.",
    )
    parser.add_argument("bags", type=Path, nargs="*", help="recordings; a generated one by default")
    parser.add_argument("--events", type=float, default=10e6, metavar="N", help="events in a run, at least (1e7)")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="runs, of which the median counts (7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt bench events`; returns the exit code."""
    if args.rounds < 1 or not 1 <= args.events < math.inf:
        print("sdt bench events: --rounds and --events take numbers of 1 or more", file=sys.stderr)
        return 2
    results = []
    print(f"{machine()}; one core used; median of {args.rounds} runs of at least {args.events:.0f} events each")
    print(f"{'encoding':<12} {'Mev/s':>7} {'ratio':>6} {'as recorded':>12}  peers [Mev/s]")
    try:
        with one_core():
            for source, packets, transcoded in _sources(args.bags):
                result = _measure(source, packets, transcoded, int(args.events), args.rounds)
                results.append(result)
                peers = ", ".join(f"{name} {speed:.1f}" for name, speed in result.peers.items()) or "none installed"
                ratio = "-" if result.ratio is None else f"{result.ratio:.1f}"
                ours = f"{result.mev_s:>7.1f} {ratio:>6} {result.mev_s_as_recorded:>12.1f}"
                print(f"{result.encoding:<12} {ours}  {peers}", flush=True)
    except BagError as error:
        print(f"sdt bench events: {error}", file=sys.stderr)
        return 1
    for result in results:
        origin = f"made from the events of {result.recording}" if result.transcoded else result.recording
        print(f"  {result.encoding}: {origin}, {result.events} events a run")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    return 0


def _sources(bags: list[Path]) -> Iterator[tuple[str, list[EventPacket], bool]]:
    """Each encoding's packets: those of the recordings, then the first recording's events in all other encodings."""
    with TemporaryDirectory(prefix="sdt_bench_") as folder:
        if not bags:
            from sdt_ros.simulation.patterns import write_pattern_bag

            bags = [Path(folder) / "patterns"]
            write_pattern_bag(bags[0])
        recorded = {bag: _read(bag) for bag in bags}
    seen = set()
    for bag, packets in recorded.items():
        seen.add(packets[0].encoding.partition(";")[0])
        yield bag.name, packets, False
    bag, packets = next(iter(recorded.items()))
    for encoding in ENCODINGS:
        if encoding not in seen:
            yield bag.name, _transcode(packets, encoding), True


def _read(bag: Path) -> list[EventPacket]:
    with open_bag(bag) as reader:
        topic = events_topic(reader)
        packets = [parse_event_packet(message.data) for message in reader.messages([topic])]
    decoder = PacketDecoder()
    if not sum(_decode(decoder, packet).size for packet in packets):
        raise BagError(f"{bag} has no events on {topic}: there is nothing to measure")
    return packets


def _transcode(packets: list[EventPacket], encoding: str) -> list[EventPacket]:
    """The same events in another encoding, in packets of `PACKET_US`."""
    decoder = PacketDecoder()
    events = np.concatenate([_decode(decoder, packet) for packet in packets])
    first = packets[0]
    encoder = PacketEncoder(encoding, first.width, first.height)
    starts = np.searchsorted(events["t"], np.arange(events["t"][0], events["t"][-1] + 1, PACKET_US))
    made: list[EventPacket] = []
    for begin, end in pairwise([*starts, len(events)]):
        time_base, payload = encoder.encode(events[begin:end])
        stamp = first.stamp_ns + int(events["t"][min(begin, len(events) - 1)] - events["t"][0]) * 1000
        made.append(
            replace(
                first, stamp_ns=stamp, seq=len(made) + 1, time_base=time_base, encoding=encoding, is_bigendian=False,
                payload=np.frombuffer(payload, np.uint8),
            )
        )  # fmt: skip
    return made


def _decode(decoder: PacketDecoder, packet: EventPacket) -> np.ndarray:
    return decoder.decode(
        packet.encoding, packet.width, packet.height, packet.time_base, packet.payload, packet.is_bigendian
    )


def _measure(source: str, packets: list[EventPacket], transcoded: bool, at_least: int, rounds: int) -> EventsResult:
    encoding = packets[0].encoding.partition(";")[0]
    decoder = PacketDecoder()
    count = sum(_decode(decoder, packet).size for packet in packets)
    repeats = -(-at_least // count)
    ours = {"busy": _ours(_joined(packets), repeats), "as recorded": _ours(packets, repeats)}
    peers = {name: _repeated(peer, repeats) for name, peer in _peers(encoding, packets, count).items()}
    seconds = median_seconds(ours | peers, rounds, encoding)
    speeds = {name: repeats * count / value / 1e6 for name, value in seconds.items()}
    mev_s, as_recorded = speeds.pop("busy"), speeds.pop("as recorded")
    best = max(speeds, key=lambda name: speeds[name], default=None)
    return EventsResult(
        encoding=encoding,
        recording=source,
        transcoded=transcoded,
        events=repeats * count,
        mev_s=mev_s,
        mev_s_as_recorded=as_recorded,
        peer=best,
        peer_mev_s=None if best is None else speeds[best],
        ratio=None if best is None else mev_s / speeds[best],
        peers=speeds,
    )


def _ours(packets: list[EventPacket], repeats: int) -> Callable[[], float]:
    finished: list[SpikeWindow] = []
    stream = EventStream(WINDOWS, finished.append, spare_windows=8)

    def run() -> float:
        counted = 0.0
        for _ in range(repeats):
            for packet in packets:
                began = time.perf_counter()
                stream.push(packet)
                counted += time.perf_counter() - began
                while finished:
                    finished.pop().release()
            stream.restart("the benchmark repeats the recording")
        return counted

    return run


def _joined(packets: list[EventPacket]) -> list[EventPacket]:
    """The same bytes in as few packets as their format allows, each of `BUSY_BYTES` at most."""
    groups: list[list[EventPacket]] = []
    size = 0
    for packet in packets:
        # Packets with one time base are one stream of words; with different ones each counts its own time.
        size += packet.payload.size
        if not groups or packet.time_base != groups[-1][0].time_base or size > BUSY_BYTES:
            groups.append([])
            size = packet.payload.size
        groups[-1].append(packet)
    return [
        replace(group[0], seq=number, payload=np.concatenate([packet.payload for packet in group]))
        for number, group in enumerate(groups, 1)
    ]


def _repeated(run: Callable[[], None], repeats: int) -> Callable[[], float]:
    def runs() -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        return time.perf_counter() - began

    return runs


def _peers(encoding: str, packets: list[EventPacket], count: int) -> dict[str, Callable[[], None]]:
    """Every installed decoder that reads the encoding, with each of numpy's ways to bin."""
    first = packets[0]
    shape = (WINDOWS.bins, 2, first.height, first.width)
    decoders: dict[str, Callable[[], tuple[np.ndarray, ...]]] = {}
    evt3 = _optional("evt3")
    if evt3 is not None and encoding == "evt3":
        recording = b"".join(packet.payload.tobytes() for packet in packets)

        def by_wheel() -> tuple[np.ndarray, ...]:
            events = evt3.decode_bytes(recording, sensor_width=first.width, sensor_height=first.height)
            return events.timestamp, events.polarity, events.y, events.x

        decoders["evt3 wheel"] = by_wheel
    event_camera_py = _optional("event_camera_py")
    if event_camera_py is not None and encoding in ("evt3", "libcaer", "libcaer_cmp", "mono"):

        def by_ros() -> tuple[np.ndarray, ...]:
            decoder = event_camera_py.Decoder()
            parts = []
            for packet in packets:
                decoder.decode_array(encoding, packet.width, packet.height, packet.time_base, packet.payload)
                parts.append(decoder.get_cd_events())
            events = np.concatenate(parts)
            return events["t"], events["p"], events["y"], events["x"]

        decoders["event_camera_py"] = by_ros
    candidates = {}
    for name, decode in decoders.items():
        if decode()[0].size != count:
            raise RuntimeError(f"{name} decodes {decode()[0].size} events of {count}")
        for way, bin_events in (("np.add.at", _by_add_at), ("np.bincount", _by_bincount)):
            candidates[f"{name} + {way}"] = _peer(decode, bin_events, shape)
    return candidates


def _peer(
    decode: Callable[[], tuple[np.ndarray, ...]],
    bin_events: Callable[[tuple[np.ndarray, ...], np.ndarray], None],
    shape: tuple[int, ...],
) -> Callable[[], None]:
    counts = np.zeros(shape, np.uint16)

    def run() -> None:
        t, *places = decode()
        bin_us = WINDOWS.window_us // WINDOWS.bins
        # All windows go into one tensor: less work than a tensor for each, in the peers' favour.
        bin_events((t // bin_us % WINDOWS.bins, *places), counts)

    return run


def _by_add_at(places: tuple[np.ndarray, ...], counts: np.ndarray) -> None:
    np.add.at(counts, tuple(place.astype(np.intp) for place in places), 1)


def _by_bincount(places: tuple[np.ndarray, ...], counts: np.ndarray) -> None:
    flat = np.ravel_multi_index(tuple(place.astype(np.intp) for place in places), counts.shape)
    counts.reshape(-1)[:] = np.bincount(flat, minlength=counts.size)


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None
