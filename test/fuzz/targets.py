"""What is fuzzed: one function a reader, from any bytes to nothing; whatever it raises is a find.

Each calls a reader as the project does and lets only the reader's own error pass. What comes back is checked: memory in
proportion to the input, values in their range. The first letters of a corpus file's folder name the target.
"""

from __future__ import annotations

import contextlib
import math
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the plain reference decoders

from reference_decoders import decode_reference

from sdt_ros.bags import BagError, deserialize, open_bag, parse_event_packet
from sdt_ros.calibration import Calibration, CalibrationError
from sdt_ros.events import PacketDecoder, SpikeWindow, WindowConfig
from sdt_ros.events.encodings import CODECS, parse_encoding
from sdt_ros.events.packet import EventPacket
from sdt_ros.events.spikes import MOST_WALKED_US
from sdt_ros.events.stream import EventStream
from sdt_ros.network import load_checkpoint
from sdt_ros.network.card import Card, CheckpointError
from sdt_ros.text_files import TextFileError, parse_yaml

ENCODINGS = (*CODECS, "evt21;endianness=legacy")
SIZES = ((346, 260), (640, 480), (1280, 720), (1, 1), (0, 480), (65535, 65535), (2048, 2048), (3, 700))
MOST_SECONDS = 5.0  # for one input; slow machines included
_COMPARED_BYTES = 4096  # the plain reference is slow
_MESSAGES = 200
_BIG_ENDIAN, _OWN_BASE, _GAP, _STAMP = 1, 2, 4, 8


class FoundError(AssertionError):
    """A check failed: what came back is not what may come back."""


def require(condition: bool, what: str) -> None:
    """Raise a find unless a condition holds."""
    if not condition:
        raise FoundError(what)


def to_bytes(encoding: int, size: int, packets: list[tuple[int, int | None, bytes]]) -> bytes:
    """The input of `packets` for packets (flags, time base [ns] or None, payload)."""
    out = bytearray((encoding, size))
    for flags, time_base, payload in packets:
        out += struct.pack("<B", flags | (_OWN_BASE if time_base is not None else 0))
        out += struct.pack("<Q", time_base) if time_base is not None else b""
        out += struct.pack("<H", len(payload)) + payload
    return bytes(out)


def from_bytes(data: bytes) -> list[EventPacket]:
    """Packets from any bytes: encoding, size, then for each its flags, time base, length and payload."""
    if len(data) < 2:
        return []
    encoding, (width, height) = ENCODINGS[data[0] % len(ENCODINGS)], SIZES[data[1] % len(SIZES)]
    packets, place, seq, stamp_ns, time_base = [], 2, 0, 10**18, 0
    while place < len(data):
        flags = data[place]
        place += 1
        if flags & _OWN_BASE:
            time_base = int.from_bytes(data[place : place + 8], "little")
            place += 8
        if flags & _STAMP:
            stamp_ns = int.from_bytes(data[place : place + 8], "little", signed=True)
            place += 8
        seq += 2 if flags & _GAP else 1
        length = int.from_bytes(data[place : place + 2], "little")
        place += 2
        payload = np.frombuffer(data[place : place + length], np.uint8)
        place += length
        packets.append(
            EventPacket(stamp_ns, "camera", height, width, seq, time_base, encoding, bool(flags & _BIG_ENDIAN), payload)
        )
        stamp_ns += 10**7
    return packets


def packets(data: bytes) -> int:
    """Packets through `PacketDecoder`, through the plain reference, and through the node's way to spike windows.

    Returns:
        Events decoded.
    """
    sent = from_bytes(data)
    decoder, found, refused = PacketDecoder(), [], 0
    began = time.process_time()
    for packet in sent:
        try:
            events = decoder.decode(
                packet.encoding, packet.width, packet.height, packet.time_base, packet.payload, packet.is_bigendian
            )
        except ValueError:
            refused += 1
            continue
        codec = CODECS[parse_encoding(packet.encoding).name]
        most = (packet.payload.size + codec.WORD.itemsize - 1) // codec.WORD.itemsize * codec.EVENTS_PER_WORD
        require(events.size <= most, f"{events.size} events of {packet.payload.size} bytes")
        inside = (events["x"] < packet.width) & (events["y"] < packet.height) & (events["p"] <= 1)
        require(bool(np.all(inside)), "an event off the sensor")
        found.append(events)
    # The reference ignores parts of words, which the decoder joins with the next packet, and byte order.
    whole = all(packet.payload.size % 8 == 0 for packet in sent[:-1]) and len(data) <= _COMPARED_BYTES
    if found and not refused and whole and not any(packet.is_bigendian for packet in sent):
        _compare(sent, np.concatenate(found), decoder)
    _windows(sent)
    require(time.process_time() - began < MOST_SECONDS, "takes seconds")
    return sum(events.size for events in found)


def _compare(sent: list[EventPacket], events: np.ndarray, decoder: PacketDecoder) -> None:
    first = sent[0]
    plain = [(packet.time_base, packet.payload.tobytes()) for packet in sent]
    expected, counters = decode_reference(first.encoding, first.width, first.height, plain)
    require(np.array_equal(events, expected), "other events than the plain reference's")
    met = decoder.counters
    own = {"outside": met.outside, "unknown": met.unknown, "truncated": met.truncated, "unsynced": met.dropped}
    require(own == counters, f"counters {own}, the plain reference has {counters}")


def _windows(sent: list[EventPacket]) -> None:
    lent: list[SpikeWindow] = []

    def take(window: SpikeWindow) -> None:
        require(int(window.spikes.max()) == 1, "a finished window without spikes, or with others than 0 and 1")
        require(window.index >= 0 and window.stamp_ns >= -1000 * MOST_WALKED_US, "a window before time began")
        require(window.packets_lost < 1 << 32, "more packets lost than the message can say")
        lent.append(window)
        if len(lent) > 2:  # later than it was finished, as the network does
            lent.pop(0).release()

    stream = EventStream(WindowConfig(), take, scale=0.05)
    refused = 0
    for packet in sent:
        try:
            stream.push(packet)
        except ValueError:
            refused += 1
    packets, windows = stream.packets, stream.windows
    require((packets.received, packets.rejected) == (len(sent), refused), "the packets' count does not close")
    require(windows.due == windows.finished + windows.empty + windows.shed, "the windows' count does not close")


def message(data: bytes) -> None:
    """The CDR bytes of an EventPacket and of a CameraInfo, as they come from a bag."""
    try:
        packet = parse_event_packet(data)
        require(packet.payload.size + len(packet.frame_id) + len(packet.encoding) <= 3 * len(data), "larger than sent")
    except BagError:
        pass
    try:
        info = deserialize("sensor_msgs/msg/CameraInfo", data)
        found = Calibration.from_message(info)
        if found is not None and found.width * found.height < 1 << 14:
            _rectify(found)
    except (BagError, CalibrationError):
        pass


def _rectify(found: Calibration) -> None:
    with np.errstate(all="raise", under="ignore"):
        source, ratio = found.rectification()
    require(bool(np.all((source >= 0) & (source <= source.size))), "a pixel off the sensor")
    require(bool(np.all(np.isfinite(ratio))), "a ratio that is no number")


def bag(data: bytes, name: str) -> None:
    """A file of a bag, alone or as the metadata.yaml of a sound one, read to its end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        if name == "metadata.yaml":
            Path(folder, "bag.db3").write_bytes(b"")
        try:
            with open_bag(folder if name == "metadata.yaml" else path) as reader:
                for count, read in enumerate(reader.messages()):
                    if count >= _MESSAGES:
                        break
                    require(isinstance(read.data, bytes) and isinstance(read.timestamp_ns, int), "no message")
        except BagError as error:
            require(folder in str(error), "an error that does not name the file")


def calibration(data: bytes) -> None:
    """A calibration file, to the maps of rectification."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "camera.yaml")
        path.write_bytes(data)
        try:
            found = Calibration.from_url(path.as_uri())
        except CalibrationError as error:
            require(str(path) in str(error), "an error that does not name the file")
            return
        if found.width * found.height < 1 << 14:
            _rectify(found)


def checkpoint(data: bytes) -> None:
    """A checkpoint: four bytes with the length of its weights, the weights, then the card."""
    length = int.from_bytes(data[:4], "little")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.safetensors")
        path.write_bytes(data[4 : 4 + length])
        path.with_suffix(".json").write_bytes(data[4 + length :])
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            require(folder in str(error), "an error that does not name the file")


def card(data: bytes) -> None:
    """The card of a checkpoint alone."""
    try:
        found = Card.from_json(data.decode("utf-8", "replace"))
    except CheckpointError as error:
        require(len(str(error)) < 2000, "an error of pages")
        return
    require(math.isfinite(found.window_ms) and 1 <= found.bins <= 64, "a card that no network fits")


def config(data: bytes) -> None:
    """The YAML configs of the trainer."""
    from sdt_distill.datasets import DatasetError
    from sdt_distill.datasets.simulated_config import read_description
    from sdt_distill.training.config import ConfigError, load_config

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "config.yaml")
        path.write_bytes(data)
        for read, error in ((load_config, ConfigError), (read_description, DatasetError)):
            try:
                read(path)
            except error as said:
                require(folder in str(said), "an error that does not name the file")


def text(data: bytes) -> None:
    """YAML as such."""
    with contextlib.suppress(TextFileError):
        parse_yaml(data.decode("utf-8", "replace"))


TARGETS: dict[str, Callable[[bytes], object]] = {
    "packets": packets,
    "message": message,
    "sqlite": lambda data: bag(data, "bag.db3"),
    "mcap": lambda data: bag(data, "bag.mcap"),
    "packed": lambda data: bag(data, "bag.db3.zstd"),
    "metadata": lambda data: bag(data, "metadata.yaml"),
    "calibration": calibration,
    "checkpoint": checkpoint,
    "card": card,
    "config": config,
    "yaml": text,
}
