"""Simulated recordings: ROS 2 bags of events, exact depth, images, poses and velocities."""

from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from sdt_ros.bags import EVENT_PACKET_TYPE, QOS_BEST_EFFORT, BagError, BagWriter, serialize_event_packet
from sdt_ros.bags.types import message_class, serialize
from sdt_ros.egomotion import Twist
from sdt_ros.events import EventPacket, WindowConfig
from sdt_ros.events.encoder import PacketEncoder
from sdt_ros.events.windows import WindowSchedule
from sdt_ros.images import array_to_image
from sdt_ros.simulation.camera import Camera, camera
from sdt_ros.simulation.families import FAMILIES, sample_scenes
from sdt_ros.simulation.render import Renderer
from sdt_ros.simulation.scenes import SceneBatch
from sdt_ros.simulation.sensor import SensorConfig
from sdt_ros.simulation.simulator import EventCamera, exposure, to_frame
from sdt_ros.simulation.textures import build_atlas

EVENTS_TOPIC = "/event_camera/events"
EVENTS_INFO_TOPIC = "/event_camera/camera_info"
DEPTH_TOPIC = "/depth/image_rect"
DEPTH_INFO_TOPIC = "/depth/camera_info"
IMAGE_TOPIC = "/camera/image_raw"
TF_TOPIC = "/tf"
ODOMETRY_TOPIC = "/odometry"
WORLD_FRAME = "world"
FRAME_ID = "event_camera_optical"
START_NS = 1_700_000_000_000_000_000  # a fixed date, so that equal arguments give equal bags
TAIL_US = 20_000  # events go on behind the last depth, so that the window that ends there is complete

_ENDINGS = {"mcap": ".mcap", "sqlite3": ".db3"}
_INFO_PERIOD_US = 100_000
_DELTA_S = 1e-4  # to either side, for a velocity: short against any change of it


@dataclass(frozen=True, slots=True)
class RecordingConfig:
    """What to record.

    Attributes:
        family: of the scene, one of `families.FAMILIES`.
        seconds: length [s]; depth is there until then, events for 20 ms more.
        seed: of textures, scene and noise.
        camera: name in `camera.CAMERAS`, or a camera of one's own.
        encoding: of the packets, see `sdt_ros.events.encoder.ENCODINGS`.
        rate_hz: depth and grey images a second [Hz].
        packet_ms: length of a packet [ms].
        photographs: folder of photographs for textures, or None.
        sensor: the event sensor.
        storage: `mcap` or `sqlite3`.
        device: where to compute.
    """

    family: str = "driving"
    seconds: float = 5.0
    seed: int = 0
    camera: str | Camera = "davis346"
    encoding: str = "evt3"
    rate_hz: float = 20.0
    packet_ms: float = 5.0
    photographs: Path | None = None
    sensor: SensorConfig = field(default_factory=SensorConfig)
    storage: str = "mcap"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r} is unknown; choose one of {', '.join(FAMILIES)}")
        if not 0 < self.seconds <= 3600:
            raise ValueError(f"seconds={self.seconds} is outside of 0 to 3600")
        if not 0.1 <= self.rate_hz <= 1000:
            raise ValueError(f"rate_hz={self.rate_hz} is outside of 0.1 to 1000 Hz")
        if not 1 <= self.packet_ms <= 1000:
            raise ValueError(f"packet_ms={self.packet_ms} is outside of 1 to 1000 ms")
        if self.seed < 0:
            raise ValueError(f"seed={self.seed} is negative")
        self.model()

    def model(self) -> Camera:
        """The camera's intrinsics."""
        return camera(self.camera) if isinstance(self.camera, str) else self.camera


@dataclass(frozen=True, slots=True)
class RecordingSummary:
    """What a recording holds.

    Attributes:
        events: how many.
        packets: of events.
        depths: depth images; as many grey images.
        frames: rendered for the events.
        duration_s: of the events [s].
        depth_quantiles_m: 5 %, 50 % and 95 % of all valid depth [m], averaged over the images.
    """

    events: int
    packets: int
    depths: int
    frames: int
    duration_s: float
    depth_quantiles_m: tuple[float, float, float]


def write_recording(
    path: str | Path, config: RecordingConfig | None = None, force: bool = False, progress: bool = False
) -> RecordingSummary:
    """Simulate a camera's drive through one scene and write what it would have recorded.

    Topics, all of the frame `event_camera_optical`: `/event_camera/events`, `/event_camera/camera_info` (plumb_bob),
    `/depth/image_rect` (32FC1 [m] along z, rectified, NaN for the sky), `/depth/camera_info`, `/camera/image_raw`
    (mono8, exposed by itself, distorted as the events are), `/tf` (world to the optical frame) and `/odometry` (pose
    and exact velocity of the optical frame).

    A packet is stamped with its first event's time and recorded at its end, so that ROS time is the sensor's time plus
    a constant. Depth is that of the times k / rate_hz on the sensor's clock, at which the node's windows end.

    Args:
        path: the bag folder to make. It appears when it is whole. The file in it has the folder's name and the ending
            of the storage, which the folder may have too.
        config: what to record.
        force: replace a bag that is there.
        progress: whether to show a progress bar.

    Raises:
        BagError: the folder exists (without `force`, or it is no bag) or cannot be written.
        ValueError: the encoding is unknown or cannot hold the sensor or a packet; there are no photographs; or the
            recording is too short for a single depth image.
    """
    path, config = Path(path), config or RecordingConfig()
    if path.exists() or path.is_symlink():
        if not force:
            raise BagError(f"{path} exists already; choose another name, or replace it with --force")
        if not (path / "metadata.yaml").is_file():
            raise BagError(f"{path} exists and is no bag folder, so it is not replaced; choose another name")
    PacketEncoder(config.encoding, config.model().width, config.model().height)  # complains before any work is done
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
            made = Path(folder) / (path.stem if path.suffix == _ENDINGS[config.storage] else path.name)
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # the steps are short: a second thread costs more in waiting than it saves
            try:
                summary = _record(made, config, progress)
            finally:
                torch.set_num_threads(threads)
            if path.exists():
                shutil.rmtree(path)
            made.rename(path)
    except OSError as error:
        raise BagError(f"cannot write a bag to {path}: {error.strerror}; choose another folder") from None
    return summary


def _record(path: Path, config: RecordingConfig, progress: bool) -> RecordingSummary:
    model = config.model()
    encoder = PacketEncoder(config.encoding, model.width, model.height)
    origin_us = START_NS // 1000 if encoder.since_epoch else 0  # of the sensor's clock
    wanted_us = round(config.seconds * 1e6)
    schedule = WindowSchedule(WindowConfig(rate_hz=config.rate_hz, window_ms=1.0))
    k = schedule.ended_by(origin_us) + 1
    depth_us: list[int] = []
    while (at := schedule.end(k) - origin_us) <= wanted_us:
        if at > 0:
            depth_us.append(at)
        k += 1
    if not depth_us:
        raise ValueError(f"{config.seconds} s are too short for a depth image at {config.rate_hz} Hz; record longer")
    end_us = wanted_us + TAIL_US
    atlas = build_atlas(config.seed, photographs=config.photographs, device=config.device)
    scene = sample_scenes(config.family, 1, end_us * 1e-6, config.seed, atlas.count, config.device)
    eye = EventCamera(scene, model, config.sensor, atlas, config.seed, config.device)
    rectified = Camera(model.width, model.height, model.fx, model.fy, model.cx, model.cy)
    depth_eye = Renderer(rectified, None, config.device)
    index = torch.zeros(1, dtype=torch.int64, device=config.device)
    packet_us = round(config.packet_ms * 1000)
    stops = sorted({*range(packet_us, end_us, packet_us), *depth_us, end_us})
    images_at = set(depth_us)
    written = packets = 0
    gain = exposure(eye.last.seen())
    quantiles = []
    next_info_us = 0
    with BagWriter(path, config.storage, compress=config.storage == "mcap") as bag:
        bag.add_topic(EVENTS_TOPIC, EVENT_PACKET_TYPE, QOS_BEST_EFFORT)
        for topic, kind in _TOPICS.items():
            bag.add_topic(topic, kind)
        for stop_us in tqdm(stops, f"simulating {config.family}", unit="packet", disable=not progress):
            events = eye.advance(stop_us)
            now_ns = START_NS + stop_us * 1000
            if stop_us > next_info_us:
                bag.write(EVENTS_INFO_TOPIC, _INFO, now_ns, _info(model, now_ns))
                next_info_us += _INFO_PERIOD_US
            pose = scene.path.pose(index, index + stop_us * 1e-6)
            bag.write(TF_TOPIC, _TF, now_ns, _transform(*pose, now_ns))
            bag.write(ODOMETRY_TOPIC, _ODOMETRY, now_ns, _odometry(*pose, _velocity(scene, stop_us * 1e-6), now_ns))
            if len(events):
                stamp_ns = START_NS + int(events["t"][0]) * 1000
                events["t"] += origin_us
                time_base, payload = encoder.encode(events)
                packet = EventPacket(
                    stamp_ns=stamp_ns,
                    frame_id=FRAME_ID,
                    height=model.height,
                    width=model.width,
                    seq=packets,
                    time_base=time_base,
                    encoding=config.encoding,
                    is_bigendian=False,
                    payload=np.frombuffer(payload, np.uint8),
                )
                bag.write(EVENTS_TOPIC, EVENT_PACKET_TYPE, now_ns, serialize_event_packet(packet))
                packets += 1
                written += len(events)
            if stop_us in images_at:
                views = depth_eye.render(scene, index, index + stop_us * 1e-6, brightness=False)
                depth = torch.where(views.depth.isinf(), torch.nan, views.depth)[0].cpu().numpy()
                bag.write(DEPTH_TOPIC, _IMAGE, now_ns, _image(depth, "32FC1", now_ns))
                bag.write(DEPTH_INFO_TOPIC, _INFO, now_ns, _info(rectified, now_ns))
                quantiles.append(
                    np.nanquantile(depth, (0.05, 0.5, 0.95)) if np.isfinite(depth).any() else [math.nan] * 3
                )
                gain = torch.lerp(gain, exposure(eye.last.seen()), 0.2)  # as slowly as automatic exposure
                grey = (to_frame(eye.last.seen(), gain)[0] * 255).round().to(torch.uint8).cpu().numpy()
                bag.write(IMAGE_TOPIC, _IMAGE, now_ns, _image(grey, "mono8", now_ns))
    low, middle, high = np.nanmean(quantiles, axis=0).tolist()
    return RecordingSummary(written, packets, len(depth_us), eye.frames, end_us * 1e-6, (low, middle, high))


_INFO = "sensor_msgs/msg/CameraInfo"
_IMAGE = "sensor_msgs/msg/Image"
_TF = "tf2_msgs/msg/TFMessage"
_ODOMETRY = "nav_msgs/msg/Odometry"
_TOPICS = {
    EVENTS_INFO_TOPIC: _INFO, DEPTH_TOPIC: _IMAGE, DEPTH_INFO_TOPIC: _INFO, IMAGE_TOPIC: _IMAGE, TF_TOPIC: _TF,
    ODOMETRY_TOPIC: _ODOMETRY,
}  # fmt: skip


def _header(stamp_ns: int, frame_id: str = FRAME_ID) -> Any:
    time = message_class("builtin_interfaces/msg/Time")(*divmod(stamp_ns, 10**9))
    return message_class("std_msgs/msg/Header")(time, frame_id)


def _info(model: Camera, stamp_ns: int) -> bytes:
    k = np.array(model.k)
    message = message_class(_INFO)(
        header=_header(stamp_ns),
        height=model.height,
        width=model.width,
        distortion_model="plumb_bob",
        d=np.array(model.d),
        k=k,
        r=np.eye(3).ravel(),
        p=np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=message_class("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False),
    )
    return serialize(message)


def _image(pixels: np.ndarray, encoding: str, stamp_ns: int) -> bytes:
    message = message_class(_IMAGE)(_header(stamp_ns), 0, 0, "", 0, 0, np.empty(0, np.uint8))
    filled = array_to_image(pixels, encoding, message=message)
    filled.data = np.frombuffer(filled.data, np.uint8)
    return serialize(filled)


def _transform(rotation: torch.Tensor, position: torch.Tensor, stamp_ns: int) -> bytes:
    turn = message_class("geometry_msgs/msg/Quaternion")(*quaternion(rotation[0].cpu().numpy()))
    shift = message_class("geometry_msgs/msg/Vector3")(*position[0].tolist())
    transform = message_class("geometry_msgs/msg/Transform")(shift, turn)
    stamped = message_class("geometry_msgs/msg/TransformStamped")(_header(stamp_ns, WORLD_FRAME), FRAME_ID, transform)
    return serialize(message_class(_TF)([stamped]))


def _velocity(scene: SceneBatch, seconds: float) -> Twist:
    """The camera's, in its own axes, at a time of the scene [s]."""
    times = torch.tensor([seconds - _DELTA_S, seconds + _DELTA_S], dtype=torch.float64, device=scene.kind.device)
    rotations, positions = scene.path.pose(torch.zeros_like(times, dtype=torch.int64), times)
    return Twist.between(rotations.cpu().numpy(), positions.cpu().numpy(), 2 * _DELTA_S)


def _odometry(rotation: torch.Tensor, position: torch.Tensor, velocity: Twist, stamp_ns: int) -> bytes:
    vector = message_class("geometry_msgs/msg/Vector3")
    turn = message_class("geometry_msgs/msg/Quaternion")(*quaternion(rotation[0].cpu().numpy()))
    pose = message_class("geometry_msgs/msg/Pose")(
        message_class("geometry_msgs/msg/Point")(*position[0].tolist()), turn
    )
    twist = message_class("geometry_msgs/msg/Twist")(
        vector(*velocity.linear.tolist()), vector(*velocity.angular.tolist())
    )
    message = message_class(_ODOMETRY)(
        _header(stamp_ns, WORLD_FRAME),
        FRAME_ID,
        message_class("geometry_msgs/msg/PoseWithCovariance")(pose, np.zeros(36)),
        message_class("geometry_msgs/msg/TwistWithCovariance")(twist, np.zeros(36)),
    )
    return serialize(message)


def quaternion(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """Unit quaternion x, y, z, w with w >= 0 of a rotation float64 [3, 3].

    Taken as the eigenvector of Bar-Itzhack's matrix (2000), which is well conditioned for every rotation.
    """
    m = rotation
    k = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], np.trace(m)],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]
    x, y, z, w = (q if q[3] >= 0 else -q).tolist()
    return x, y, z, w
