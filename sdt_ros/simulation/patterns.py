"""A small recording of moving patterns, generated: input for the demo and the tests on any machine.

Three layers slide over each other, the nearer the faster: a cloudy background, a fence of bars, and a few discs. The
event model is that of ESIM (Rebecq et al., CoRL 2018): a pixel fires each time its log intensity has moved by its
contrast threshold, at a time interpolated between two frames that lie less than a pixel of motion apart.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdt_ros.bags import EVENT_PACKET_TYPE, QOS_BEST_EFFORT, BagWriter, serialize, serialize_event_packet
from sdt_ros.bags.types import message_class
from sdt_ros.compiled import njit
from sdt_ros.events.encoder import PacketEncoder
from sdt_ros.events.packet import EventPacket
from sdt_ros.events.sinks import EVENT_DTYPE

EVENTS_TOPIC = "/event_camera/events"
INFO_TOPIC = "/event_camera/camera_info"
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
FRAME_ID = "event_camera_optical"
START_NS = 1_700_000_000_000_000_000  # a fixed date, so that equal arguments give equal bags

_TILE = 512  # the layers repeat after so many pixels; a power of two
_SPEEDS_PX_S = np.array([[14.0, 4.0], [-70.0, 0.0], [170.0, 90.0]])  # of background, bars, discs
_STEP_PX = 0.5  # motion between two frames, at most
_THRESHOLD, _THRESHOLD_SPREAD = 0.2, 0.03  # contrast in log intensity, and its standard deviation between pixels
_INFO_PERIOD_NS = 100_000_000


class MovingPatterns:
    """The scene: log intensity at any time.

    Args:
        width: columns of the image [px].
        height: rows of the image [px].
        seed: of the textures, and of bars and discs.
    """

    def __init__(self, width: int, height: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        rows, columns = np.mgrid[0:_TILE, 0:_TILE]
        self.shape = (height, width)
        self._brightness = np.stack([_clouds(rng, scale) for scale in (18, 14, 14)]).astype(
            np.float32
        )  # [3, tile, tile]
        self._cover = np.zeros_like(self._brightness)
        self._cover[0] = 1
        edges = np.sort(rng.choice(np.arange(0, _TILE, 14), 24, replace=False)).reshape(-1, 2)
        for left, right in edges:
            inside = np.minimum(columns - left, right - columns)
            in_band = np.minimum(rows - 0.55 * height, 0.9 * height - rows)
            shape = np.clip(np.minimum(inside, in_band) / 2 + 0.5, 0, 1)
            self._cover[1] = np.maximum(self._cover[1], shape)
            self._brightness[1] += shape * rng.choice([-1.2, 0.9])
        clouds = self._brightness[2].copy()
        for x, y in rng.uniform(0, _TILE, (9, 2)):
            radius = rng.uniform(0.04, 0.12) * _TILE
            dx, dy = ((a + _TILE / 2) % _TILE - _TILE / 2 for a in (columns - x, rows - y))  # the tile is periodic
            shape = np.clip((radius - np.hypot(dx, dy)) / 2 + 0.5, 0, 1)
            self._cover[2] = np.maximum(self._cover[2], shape)
            self._brightness[2] += shape * (clouds + rng.choice([-1.0, 1.0]) - self._brightness[2])

    def log_intensity(self, t_s: float) -> np.ndarray:
        """Return the image at a time [s]: natural logarithm of the intensity, float32 [H, W], about -2 to 2."""
        out = np.empty(self.shape, np.float32)
        _compose(self._brightness, self._cover, np.mod(-_SPEEDS_PX_S * t_s, _TILE), out)
        return out


def _clouds(rng: np.random.Generator, scale_px: float) -> np.ndarray:
    """Periodic noise with structures of about `scale_px`, mean 0, standard deviation 0.3: [tile, tile]."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(_TILE), np.fft.rfftfreq(_TILE), indexing="ij"))
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) * np.exp(-((frequency * scale_px) ** 2))
    noise = np.fft.irfft2(spectrum)
    return 0.3 * (noise - noise.mean()) / noise.std()


@njit(nogil=True, cache=True, fastmath=True)
def _compose(brightness, cover, offset, out):  # type: ignore[no-untyped-def]
    """Lay the shifted layers over each other, sampled bilinearly: [L, tile, tile] twice and [L, 2] (x, y) to [H, W]."""
    for layer in range(brightness.shape[0]):
        left, top = int(offset[layer, 0]), int(offset[layer, 1])
        fx, fy = np.float32(offset[layer, 0] - left), np.float32(offset[layer, 1] - top)
        one = np.float32(1)
        w00, w01, w10, w11 = (one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx
        for row in range(out.shape[0]):
            y0, y1 = (top + row) & (_TILE - 1), (top + row + 1) & (_TILE - 1)
            for column in range(out.shape[1]):
                x0, x1 = (left + column) & (_TILE - 1), (left + column + 1) & (_TILE - 1)
                c = cover[layer]
                share = w00 * c[y0, x0] + w01 * c[y0, x1] + w10 * c[y1, x0] + w11 * c[y1, x1]
                if share > 0:
                    b = brightness[layer]
                    value = w00 * b[y0, x0] + w01 * b[y0, x1] + w10 * b[y1, x0] + w11 * b[y1, x1]
                    below = out[row, column] if layer else np.float32(0)
                    out[row, column] = below + share * (value - below)


class EventModel:
    """Pixels that fire when their log intensity has changed by a threshold (ESIM).

    Args:
        log_intensity: first image, float32 [H, W].
        t_us: its time [us].
        seed: of the pixels' thresholds.

    Attributes:
        thresholds: contrast of OFF and of ON events, float32 [2, H, W].
    """

    def __init__(self, log_intensity: np.ndarray, t_us: int, seed: int = 0) -> None:
        spread = np.random.default_rng(seed).standard_normal((2, *log_intensity.shape)) * _THRESHOLD_SPREAD
        self.thresholds = np.maximum(_THRESHOLD + spread, 0.01).astype(np.float32)  # [off/on, H, W]
        self._level = log_intensity.copy()  # at each pixel's last event
        self._before = log_intensity.copy()
        self._before_us = t_us

    def advance(self, log_intensity: np.ndarray, t_us: int) -> np.ndarray:
        """Return the events up to the time of a new image.

        Args:
            log_intensity: float32 [H, W].
            t_us: its time [us], after that of the last image.

        Returns:
            EVENT_DTYPE [N] ordered by time, then row and column; times lie in (last image, this image].
        """
        count = _count_events(self._level, log_intensity, self.thresholds)
        fields = np.empty((4, count), np.int64)
        _fire(self._level, self._before, log_intensity, self.thresholds, self._before_us, t_us, fields)
        self._before, self._before_us = log_intensity.copy(), t_us
        t, x, y, p = fields[:, np.argsort((fields[0] - t_us) << 32 | fields[2] << 16 | fields[1], kind="stable")]
        events = np.empty(count, EVENT_DTYPE)
        events["t"], events["x"], events["y"], events["p"] = t, x, y, p
        return events


@njit(nogil=True, cache=True)
def _count_events(level, after, thresholds):  # type: ignore[no-untyped-def]
    count = 0
    for row in range(level.shape[0]):
        for column in range(level.shape[1]):
            change = after[row, column] - level[row, column]
            polarity = 1 if change > 0 else 0
            count += int(abs(change) / thresholds[polarity, row, column])
    return count


@njit(nogil=True, cache=True)
def _fire(level, before, after, thresholds, before_us, after_us, fields):  # type: ignore[no-untyped-def]
    """Move every pixel's level up to the new image, and note each crossing: fields [4, count] of t, x, y, p."""
    n = 0
    for row in range(level.shape[0]):
        for column in range(level.shape[1]):
            change = after[row, column] - level[row, column]
            polarity = 1 if change > 0 else 0
            step = thresholds[polarity, row, column]
            count = int(abs(change) / step)
            start, slope = before[row, column], after[row, column] - before[row, column]
            for _ in range(count):
                level[row, column] += step if polarity else -step
                # Between equal images only rounding can fire; such events belong to the end.
                part = (level[row, column] - start) / slope if slope != 0 else 1.0
                part = min(max(part, 0.0), 1.0)
                fields[0, n] = before_us + max(1, math.ceil(part * (after_us - before_us)))
                fields[1, n] = column
                fields[2, n] = row
                fields[3, n] = polarity
                n += 1


def camera_info(width: int, height: int, stamp_ns: int) -> bytes:
    """Return the CDR of a `sensor_msgs/msg/CameraInfo`: no distortion, 58 degrees of horizontal view."""
    focal = 0.9 * width
    k = np.array([focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1])
    time = message_class("builtin_interfaces/msg/Time")(*divmod(stamp_ns, 10**9))
    return serialize(
        message_class(INFO_TYPE)(
            header=message_class("std_msgs/msg/Header")(time, FRAME_ID),
            height=height,
            width=width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=k,
            r=np.eye(3).ravel(),
            p=np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=message_class("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False),
        )
    )


def write_pattern_bag(
    path: str | Path,
    seconds: float = 4,
    width: int = 346,
    height: int = 260,
    seed: int = 0,
    encoding: str = "evt3",
    packet_ms: float = 2,
    storage: str = "mcap",
    progress: bool = False,
) -> int:
    """Write a recording of moving patterns, as an event camera's driver would have made it.

    Topics: `/event_camera/events` (best effort) and `/event_camera/camera_info` (10 Hz, reliable). A packet is stamped
    and recorded at its end, the moment at which a driver could have it.

    Args:
        path: the bag folder to make.
        seconds: length [s].
        width: columns of the sensor [px].
        height: rows of the sensor [px].
        seed: of everything random; equal arguments give equal messages.
        encoding: of the packets, see `sdt_ros.events.encoder.ENCODINGS`.
        packet_ms: length of a packet [ms].
        storage: `mcap` or `sqlite3`.
        progress: whether to show a progress bar.

    Returns:
        The number of events.

    Raises:
        BagError: the folder exists or cannot be written.
        ValueError: a length is not positive, or the encoding is unknown or cannot hold the sensor or the packet.
    """
    if not (seconds > 0 and packet_ms > 0):
        raise ValueError(f"seconds and packet_ms must be positive, not {seconds} and {packet_ms}")
    encoder = PacketEncoder(encoding, width, height)
    scene = MovingPatterns(width, height, seed)
    model = EventModel(scene.log_intensity(0), 0, seed)
    packet_us = round(packet_ms * 1000)
    frames = math.ceil(np.hypot(*_SPEEDS_PX_S.T).max() * packet_us * 1e-6 / _STEP_PX)  # in each packet
    sensor_start_us = START_NS // 1000 if encoder.since_epoch else 0
    written = 0
    next_info_ns = START_NS
    with BagWriter(path, storage, compress=storage == "mcap") as bag:
        bag.add_topic(EVENTS_TOPIC, EVENT_PACKET_TYPE, QOS_BEST_EFFORT)
        bag.add_topic(INFO_TOPIC, INFO_TYPE)
        for number in tqdm(range(math.ceil(seconds * 1e6 / packet_us)), "moving patterns", disable=not progress):
            ends_us = [number * packet_us + packet_us * frame // frames for frame in range(1, frames + 1)]
            events = np.concatenate([model.advance(scene.log_intensity(t_us * 1e-6), t_us) for t_us in ends_us])
            events["t"] += sensor_start_us
            written += events.size
            stamp_ns = START_NS + ends_us[-1] * 1000
            if stamp_ns >= next_info_ns:
                bag.write(INFO_TOPIC, INFO_TYPE, stamp_ns, camera_info(width, height, stamp_ns))
                next_info_ns += _INFO_PERIOD_NS
            time_base, payload = encoder.encode(events)
            packet = EventPacket(
                stamp_ns=stamp_ns,
                frame_id=FRAME_ID,
                height=height,
                width=width,
                seq=number,
                time_base=time_base,
                encoding=encoding,
                is_bigendian=False,
                payload=np.frombuffer(payload, np.uint8),
            )
            bag.write(EVENTS_TOPIC, EVENT_PACKET_TYPE, stamp_ns, serialize_event_packet(packet))
    return written
