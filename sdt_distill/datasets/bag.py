"""Any ROS 2 bag with events, and depth or frames: what a robot records, and what `sdt simulate` writes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from sdt_ros.bags import BagError, BagReader, deserialize, events_topic, is_storage, open_bag, parse_event_packet
from sdt_ros.calibration import Calibration, CalibrationError
from sdt_ros.events import EventPacket, PacketDecoder, SensorClock
from sdt_ros.events.binning import bin_edges, bin_on_cells, plain_cells
from sdt_ros.images import depth_to_metres, image_to_array

from .coverage import covered
from .errors import DatasetError, broken
from .files import check_increasing, folders, require
from .rectification import rectified_cells
from .sample import Sample, SampleConfig, SequenceReader
from .warp import invert_map, sample_bilinear

IMAGE_TYPE, INFO_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
_BEFORE_NS, _AFTER_NS = 500_000_000, 200_000_000  # packets around a window: for the clock, and for late ones
_FRAME_TOLERANCE_NS = 25_000_000
_BUCKET_NS, _BUCKETS = 500_000_000, 20  # as `SensorClock`: the least delay of ten seconds tells the offset
_LEAP_NS = 1_000_000_000  # offsets that differ by more are of another clock, as after a restart of the camera
_WRAPS_NS = {"evt3": 1000 << 24, "evt2": 1000 << 34, "evt21": 1000 << 34}  # after which a sensor's times begin anew
_DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")


class BagSequence(SequenceReader):
    """One bag. A window is read from the packets around it; their stamps say where it lies in ROS time.

    Topics: the first of EventPacket; depth is the first image topic with `depth` in its name and depth in its images,
    frames the first without.
    A bag without depth gives samples at its frames, with depth all NaN. Where depth is rectified and the event camera's
    CameraInfo tells of a lens, events and raw frames are rectified as well. Stamps of packets and
    images are collected by walking over them once; later only what a sample needs is read, by the bag's own index.
    """

    format = "bag"
    parts = ("topics", "stamps", "span", "indices", "frame_stamps")

    def __init__(self, path: Path, name: str, config: SampleConfig) -> None:
        super().__init__(path, name, config)
        self._bag: BagReader | None = None
        self._pid = 0
        self._least: dict[int, int | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bag": None, "_pid": 0}

    @cached_property
    def topics(self) -> dict[str, str]:
        """Topics of `events`, and of `depth` and `frames` where there are any."""
        bag = self._open()
        try:
            found = {"events": events_topic(bag)}
        except BagError as error:
            raise broken(self.where, self.path, str(error), "record the topic of the camera driver") from None
        images = [info.name for info in bag.topics.values() if info.type == IMAGE_TYPE and info.count]
        depth = [name for name in images if "depth" in name and self._holds_depth(name)]
        frames = [name for name in images if "depth" not in name]
        if not depth and not frames:
            there = ", ".join(f"{info.name} ({info.type})" for info in bag.topics.values())
            raise broken(
                self.where, self.path, f"the bag has neither depth nor frames ({IMAGE_TYPE}); there are: {there}",
                "record one of them with the events",
            )  # fmt: skip
        found |= {"depth": depth[0]} if depth else {}
        return found | ({"frames": frames[0]} if frames else {})

    def _holds_depth(self, topic: str) -> bool:
        """Whether the images of a topic are depth and no picture of it, by the encoding of the first."""
        message = next(self._messages(topic), None)
        try:
            return message is not None and deserialize(IMAGE_TYPE, message.data).encoding in _DEPTH_ENCODINGS
        except BagError:
            return "color" not in topic  # told where it is read

    @cached_property
    def packet_times(self) -> np.ndarray:
        """Header stamp and record time of each packet of events, in the order of recording, int64 [N, 2] ns.

        Packets are looked for by their stamps. When they were recorded is another matter: later, where the recorder was
        slow, and on another day where a bag was played and recorded again.
        """
        return self._times("events")

    @cached_property
    def stamps(self) -> np.ndarray:
        """Header stamp and record time of each depth image, or of each frame if there is no depth, int64 [N, 2] ns."""
        return self._stamps("depth" if "depth" in self.topics else "frames")

    @cached_property
    def frame_stamps(self) -> np.ndarray | None:
        """The same of the frames; None where there are none."""
        return self._stamps("frames") if self.config.frames and "frames" in self.topics else None

    @property
    def all_indices(self) -> np.ndarray:
        """Numbers of all depth images."""
        return np.arange(len(self.stamps), dtype=np.int64)

    @cached_property
    def span(self) -> tuple[int, int]:
        """When the first packet of events begins and the last ends, in ROS time [us]."""
        if not len(self.packet_times):
            raise broken(self.where, self.path, f"{self.topics['events']} has no packets", "record the events again")
        first, last = (list(self._packets(int(stamp), int(stamp) + 1))[-1] for stamp in self.packet_times[[0, -1], 0])
        times = self._decode(PacketDecoder(), last)["t"]
        duration = int(times[-1] - times[0]) if times.size else 0
        return first.stamp_ns // 1000, last.stamp_ns // 1000 + duration

    @cached_property
    def indices(self) -> np.ndarray:
        """Numbers of the depth images that have events before them."""
        ends = self.stamps[:, 0] // 1000
        whole = covered(self.where, self.path, ends, self.config.window_us, *self.span)
        return self.all_indices[whole]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the sensor [px]."""
        for message in self._messages(self.topics["events"]):
            packet = self._packet(message.data)
            return packet.height, packet.width
        raise broken(self.where, self.path, f"{self.topics['events']} has no packets", "record the events again")

    @property
    def intrinsics(self) -> np.ndarray | None:
        """Of the event camera, from the CameraInfo beside events or depth; None where there is none, or a bent lens."""
        return None if self._calibration is None or self._bent else self._calibration.p[:, :3]

    @property
    def _rectifies(self) -> bool:
        """Whether events go to the rectified grid: where depth is on it, as its name says (`image_rect`)."""
        rectified = "rect" in self.topics.get("depth", "")
        return rectified and self._calibration is not None and not self._calibration.is_rectified

    @property
    def _bent(self) -> bool:
        return self._calibration is not None and self._calibration.is_distorted and not self._rectifies

    @cached_property
    def _sensor_places(self) -> tuple[np.ndarray, np.ndarray]:
        """Column and row on the sensor of each pixel of the rectified grid [px], float64 [H, W] each."""
        camera = self._calibration
        assert camera is not None
        rows, columns = np.mgrid[0 : camera.height, 0 : camera.width]
        rays = np.stack([columns, rows, np.ones_like(rows)], -1) @ np.linalg.inv(camera.p[:, :3]).T @ camera.r
        x, y = camera._distorted(rays[..., 0] / rays[..., 2], rays[..., 1] / rays[..., 2])
        return camera.k[0, 0] * x + camera.k[0, 1] * y + camera.k[0, 2], camera.k[1, 1] * y + camera.k[1, 2]

    @cached_property
    def _cells(self) -> np.ndarray:
        """Where each pixel's events go, int32 [H, W]."""
        if not self._rectifies:
            return plain_cells(*self.size)
        return rectified_cells(*invert_map(*self._sensor_places), *self.size)

    @cached_property
    def _calibration(self) -> Calibration | None:
        bag = self._open()
        folders = [topic.rsplit("/", 1)[0] for key in ("events", "depth") if (topic := self.topics.get(key))]
        for folder in folders:
            info = bag.topics.get(f"{folder}/camera_info")
            if info is None or info.type != INFO_TYPE:
                continue
            for message in self._messages(info.name):
                try:
                    calibration = Calibration.from_message(deserialize(INFO_TYPE, message.data))
                except (BagError, CalibrationError) as error:
                    raise broken(self.where, self.path, f"{info.name}: {error}", "record it again") from None
                if calibration is None or (calibration.height, calibration.width) != self.size:
                    break
                return calibration
        return None

    def notes(self) -> list[str]:
        """What is worth knowing."""
        lacks = [key for key in ("depth", "frames") if key not in self.topics]
        bent = ["the lens is distorted, but depth is not rectified: neither are events"] if self._bent else []
        unknown = [] if self.intrinsics is not None else ["no intrinsics (CameraInfo of the events' size)"]
        return [*super().notes(), *(f"no {key}" for key in lacks), *unknown, *bent]

    def read_depth(self, index: int) -> np.ndarray:
        """Depth [m], float32 [H, W], NaN where unknown; all NaN in a bag without depth."""
        if "depth" not in self.topics:
            return np.full(self.size, np.nan, np.float32)
        try:
            depth = depth_to_metres(self._image("depth", self.stamps[index]), use_cv_bridge=False)
        except (BagError, ValueError) as error:
            raise broken(
                self.where, self.path, f"{self.topics['depth']}: {error}", "record the depth again", index
            ) from None
        if depth.shape != self.size:
            raise broken(
                self.where, self.path,
                f"{self.topics['depth']} has {depth.shape[1]}x{depth.shape[0]} px, the events "
                f"{self.size[1]}x{self.size[0]}", "record depth that is aligned to the event camera", index,
            )  # fmt: skip
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))

    def read_spikes(self, stamp_ns: int, index: int | None = None) -> tuple[np.ndarray, int]:
        """Spikes of the window before a ROS time, uint8 [T, 2, H, W], and its end on the sensor's clock [us]."""
        decoder, clock = PacketDecoder(), SensorClock()
        parts: list[np.ndarray] = []
        start = stamp_ns - self.config.window_us * 1000 - _BEFORE_NS
        for packet in self._packets(start, stamp_ns + _AFTER_NS, index):
            events = self._decode(decoder, packet, index)
            if events.size:
                clock.update(packet.stamp_ns, int(events["t"][0]))
                parts.append(events)
        if not parts:
            return np.zeros((self.config.bins, 2, *self.size), np.uint8), stamp_ns // 1000
        t_end = (stamp_ns - self._offset(clock.to_ros(0), stamp_ns)) // 1000
        edges = bin_edges(t_end, self.config.window_us, self.config.bins)
        inside = [part for part in parts if part["t"].max() >= edges[0] and part["t"].min() < edges[-1]]
        spikes = np.zeros((self.config.bins, 2, *self.size), np.uint8)
        for e in inside:
            spikes |= bin_on_cells(e["t"], e["x"], e["y"], e["p"], self._cells, self.size, edges)
        return spikes, t_end

    def read(self, index: int) -> Sample:
        """The sample of a depth image's number."""
        stamp_ns = int(self.stamps[index, 0])
        spikes, t_end_us = self.read_spikes(stamp_ns, index)
        intrinsics = self.intrinsics
        return Sample(
            spikes=spikes,
            depth=self.read_depth(index),
            t_end_us=t_end_us,
            stamp_ns=stamp_ns,
            sequence=self.name,
            index=index,
            frame=self._read_frame(stamp_ns),
            intrinsics=None if intrinsics is None else intrinsics.copy(),
        )

    def close(self) -> None:
        """Close the bag."""
        if self._bag is not None and self._pid == os.getpid():
            self._bag.close()
        self._bag = None

    def _offset(self, near_ns: int, stamp_ns: int) -> int:
        """ROS time of the sensor's time 0 as the ten seconds around a stamp tell it [ns].

        The node knows only those before; where a later packet was delayed less, this is nearer to the truth.

        Args:
            near_ns: what the packets around the stamp tell; theirs may all have been delayed.
            stamp_ns: the stamp.
        """
        middle = stamp_ns // _BUCKET_NS
        first = max(middle - _BUCKETS // 2, int(self.packet_times[:, 0].min()) // _BUCKET_NS)
        last = min(middle + _BUCKETS // 2, int(self.packet_times[:, 0].max()) // _BUCKET_NS)
        offset = near_ns
        for bucket in range(first, last + 1):
            if bucket not in self._least:
                self._least[bucket] = self._least_delay(bucket)
            least = self._least[bucket]
            if least is None:
                continue
            difference = least - near_ns
            if self._wrap_ns:  # each slice's times begin somewhere else, by whole wraps
                difference = (difference + self._wrap_ns // 2) % self._wrap_ns - self._wrap_ns // 2
            if abs(difference) < _LEAP_NS:
                offset = min(offset, near_ns + difference)
        return offset

    def _least_delay(self, bucket: int) -> int | None:
        """The least of stamp minus sensor time of half a second's packets [ns]; None where there are none."""
        decoder, least = PacketDecoder(), None
        start = bucket * _BUCKET_NS
        for packet in self._packets(start, start + _BUCKET_NS):
            events = self._decode(decoder, packet)
            if events.size:
                difference = packet.stamp_ns - int(events["t"][0]) * 1000
                least = difference if least is None else min(least, difference)
        return least

    @cached_property
    def _wrap_ns(self) -> int:
        packet = self._packet(next(self._messages(self.topics["events"])).data)
        return _WRAPS_NS.get(packet.encoding.partition(";")[0], 0)

    def _open(self) -> BagReader:
        if self._bag is None or self._pid != os.getpid():
            stored = [self.path] if self.path.is_file() else sorted(self.path.glob("*.*"))
            for file in stored:
                if file.suffix in (".mcap", ".db3"):
                    require(self.where, file, "the bag's storage", "copy the whole bag again")
            try:
                self._bag = open_bag(self.path)
            except BagError as error:
                raise DatasetError(f"{self.where}: {error}") from None
            self._pid = os.getpid()
        return self._bag

    def _messages(self, topic: str, start_ns: int | None = None, stop_ns: int | None = None) -> Any:
        try:
            yield from self._open().messages([topic], start_ns, stop_ns)
        except BagError as error:
            raise DatasetError(f"{self.where}: {error}") from None

    def _packets(self, start_ns: int, stop_ns: int, index: int | None = None) -> Iterator[EventPacket]:
        """The packets whose stamps lie between two times, in the order of recording."""
        stamps, recorded = self.packet_times.T
        between = recorded[(stamps >= start_ns) & (stamps < stop_ns)]
        if not between.size:
            return
        for message in self._messages(self.topics["events"], int(between.min()), int(between.max()) + 1):
            if start_ns <= header_stamp_ns(message.data) < stop_ns:
                yield self._packet(message.data, index)

    def _packet(self, data: bytes, index: int | None = None) -> EventPacket:
        try:
            return parse_event_packet(data)
        except BagError as error:
            raise broken(
                self.where, self.path, f"{self.topics['events']}: {error}", "record the events again", index
            ) from None

    def _decode(self, decoder: PacketDecoder, packet: EventPacket, index: int | None = None) -> np.ndarray:
        try:
            return decoder.decode(
                packet.encoding, packet.width, packet.height, packet.time_base, packet.payload, packet.is_bigendian
            )
        except ValueError as error:
            raise broken(
                self.where, self.path, f"{self.topics['events']}: {error}", "record the events again", index
            ) from None

    def _times(self, key: str) -> np.ndarray:
        times = [(header_stamp_ns(m.data), m.timestamp_ns) for m in self._messages(self.topics[key])]
        return np.array(times, np.int64).reshape(-1, 2)

    def _stamps(self, key: str) -> np.ndarray:
        stamps = self._times(key)
        check_increasing(self.where, self.path, stamps[:, 0], f"stamps of {self.topics[key]}", "ns")
        return stamps

    def _image(self, key: str, times: np.ndarray) -> Any:
        stamp_ns, recorded_ns = (int(time) for time in times)
        for message in self._messages(self.topics[key], recorded_ns, recorded_ns + 1):
            if header_stamp_ns(message.data) == stamp_ns:
                return deserialize(IMAGE_TYPE, message.data)
        raise broken(self.where, self.path, f"{self.topics[key]} has lost its image at {stamp_ns} ns", "copy it again")

    def _read_frame(self, stamp_ns: int) -> np.ndarray | None:
        """The frame nearest in time, uint8 [H, W] or [H, W, 3] RGB; None where none is near or of the events' size."""
        times = self.frame_stamps
        if times is None or not len(times):
            return None
        k = int(np.argmin(np.abs(times[:, 0] - stamp_ns)))
        if abs(int(times[k, 0]) - stamp_ns) > _FRAME_TOLERANCE_NS:
            return None
        message = self._image("frames", times[k])
        try:
            pixels = image_to_array(message, use_cv_bridge=False)
        except ValueError as error:
            raise broken(
                self.where, self.path, f"{self.topics['frames']}: {error}", "record the frames again", k
            ) from None
        if pixels.dtype != np.uint8 or pixels.shape[:2] != self.size:
            return None
        pixels = np.ascontiguousarray(pixels[..., ::-1] if message.encoding == "bgr8" else pixels)
        if self._rectifies and "rect" not in self.topics["frames"]:
            return sample_bilinear(pixels, *self._sensor_places)
        return pixels


def header_stamp_ns(data: bytes) -> int:
    """Stamp of a message that begins with a header, from its CDR bytes [ns]; nothing else is decoded."""
    if len(data) < 12:
        raise DatasetError(f"a message of {len(data)} bytes has no header; record it again")
    seconds, nanoseconds = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def find_bags(root: Path) -> list[Path]:
    """Bags at or below a path: bag folders, also those whose recorder was killed, and bare files outside of them."""
    if root.is_file():
        return [root] if is_storage(root) else []
    if (root / "metadata.yaml").is_file():
        return [root]
    found: list[Path] = []
    bare = _stored(root)
    for folder in folders(root, 1)[1:]:
        files = _stored(folder)
        # rosbag2 names the parts of a bag after its folder.
        whole = all(file.name.startswith(f"{folder.name}_") for file in files)
        if (folder / "metadata.yaml").is_file() or (files and whole):
            found.append(folder)
        else:
            bare += files
    return found + bare


def name_of(path: Path) -> str:
    """A bag's name: its folder's, or its file's without the endings."""
    name = path.resolve().name
    return name if path.is_dir() else PurePath(name.removesuffix(".zstd")).stem


def _stored(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and is_storage(file)) if folder.is_dir() else []
