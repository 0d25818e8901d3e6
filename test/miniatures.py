"""Writes data sets of a few samples, in the layouts, types and names of the real ones, with values worked by hand.

Every scene is a box before a wall and a ground; times are chosen so that windows of 50 ms lie between stamps.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import yaml
from PIL import Image

from sdt_ros.bags import EVENT_PACKET_TYPE, BagWriter, serialize, serialize_event_packet
from sdt_ros.bags.types import message_class
from sdt_ros.events import EVENT_DTYPE, EventPacket
from sdt_ros.events.encoder import PacketEncoder

DSEC_OFFSET_US = 49_599_300_523  # as large as real ones
MVSEC_START_US = 1_504_645_177_420_000
BAG_START_NS = 1_700_000_000_000_000_000

Event = tuple[int, int, int, int]  # t us, x, y, polarity 1 is ON


def box_depth(height: int, width: int) -> np.ndarray:
    """A box at 5 m before a wall at 40 m, over a ground from 4 m on; float32 [H, W]."""
    rows = np.arange(height, dtype=np.float32)[:, None]
    ground = np.float32(2.0 * height) / np.maximum(rows - height / 2, 1)
    depth = np.minimum(np.float32(40), np.broadcast_to(ground, (height, width))).copy()
    depth[height // 3 : 2 * height // 3, width // 3 : width // 2] = 5
    return depth


def random_events(height: int, width: int, start_us: int, stop_us: int, count: int, seed: int = 0) -> np.ndarray:
    """Events along the box's sides and at random, sorted; int64 [N, 4] of t, x, y, p."""
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(start_us, stop_us, count))
    x, y = rng.integers(8, width - 8, count), rng.integers(8, height - 8, count)
    on_side = rng.random(count) < 0.7
    left = rng.random(count) < 0.5
    x = np.where(on_side, np.where(left, width // 3, width // 2) + rng.integers(-2, 3, count), x)
    y = np.where(on_side, rng.integers(height // 3, 2 * height // 3, count), y)
    return np.stack([t, x, y, np.where(on_side, left, rng.random(count) < 0.5)], 1)


def with_marks(events: np.ndarray, marks: list[Event]) -> np.ndarray:
    """Events in the order of time, with some of one's own among them; the pixels of those have no others."""
    own = np.array(marks, np.int64).reshape(-1, 4)
    taken = {(x, y) for _, x, y, _ in marks}
    free = [(x, y) not in taken for x, y in events[:, 1:3].tolist()]
    both = np.concatenate([events[np.array(free, bool)], own])
    return both[np.argsort(both[:, 0], kind="stable")]


def ramp(height: int, width: int) -> np.ndarray:
    """Grey that grows with the column, uint8 [H, W]."""
    return np.broadcast_to(np.rint(np.linspace(0, 255, width)), (height, width)).astype(np.uint8)


def write_dsec(root: Path, name: str = "zurich_city_00_a", marks: list[Event] | None = None, count: int = 8000) -> Path:
    """DSEC: disparities 0, 2, 4, 6 at 0, 100, 200, 300 ms; events from 0 to 320 ms, marks relative to the offset.

    Rectification moves by (+3.4, -2.6) px; disparity of depth d is 280 / d px; frames are ramps, of twice the focal
    length of the events' camera.
    """
    folder = root / name
    events = with_marks(random_events(480, 640, 0, 320_000, count), marks or [])
    (folder / "events/left").mkdir(parents=True)
    with h5py.File(folder / "events/left/events.h5", "w") as file:
        blosc = hdf5plugin.Blosc(cname="zstd")
        for key, column, dtype in (("p", 3, "u1"), ("t", 0, "u4"), ("x", 1, "u2"), ("y", 2, "u2")):
            file.create_dataset(
                f"events/{key}", data=events[:, column].astype(dtype), chunks=(min(4096, len(events)),), **blosc
            )
        ms = np.arange(0, events[-1, 0] // 1000 + 1) * 1000
        file.create_dataset("ms_to_idx", data=np.searchsorted(events[:, 0], ms).astype("u8"), **blosc)
        file.create_dataset("t_offset", data=np.int64(DSEC_OFFSET_US))
    rows, columns = np.mgrid[0:480, 0:640].astype(np.float32)
    with h5py.File(folder / "events/left/rectify_map.h5", "w") as file:
        file.create_dataset("rectify_map", data=np.stack([columns + 3.4, rows - 2.6], -1).astype("f4"), **blosc)
    (folder / "disparity/event").mkdir(parents=True)
    disparity = np.rint(280 / box_depth(480, 640) * 256).astype(np.uint16)
    disparity[:40] = 0  # the lidar does not see the sky
    for number in (0, 2, 4, 6):
        Image.fromarray(disparity).save(folder / f"disparity/event/{number:06d}.png")
    stamps = [DSEC_OFFSET_US + 100_000 * k for k in range(4)]
    (folder / "disparity/timestamps.txt").write_text("".join(f"{stamp}\n" for stamp in stamps))
    (folder / "images/left/rectified").mkdir(parents=True)
    frame = np.repeat(ramp(1080, 1440)[..., None], 3, 2).copy()
    frame[..., 2] = 40
    for number in range(7):
        Image.fromarray(frame).save(folder / f"images/left/rectified/{number:06d}.png", compress_level=1)
    stamps = [DSEC_OFFSET_US + 50_000 * k for k in range(7)]
    (folder / "images/timestamps.txt").write_text("".join(f"{stamp}\n" for stamp in stamps))
    (folder / "calibration").mkdir()
    (folder / "calibration/cam_to_cam.yaml").write_text(yaml.safe_dump(dsec_calibration()))
    return folder


def dsec_calibration() -> dict:
    """What cam_to_cam.yaml holds: 560 px and 0.5 m between the event cameras, 1120 px in the frames."""
    eye3, eye4 = np.eye(3).tolist(), np.eye(4).tolist()
    events = {"camera_matrix": [560.0, 560.0, 320.0, 240.0], "resolution": [640, 480]}
    frames = {"camera_matrix": [1120.0, 1120.0, 720.0, 540.0], "resolution": [1440, 1080]}
    t10 = np.eye(4)
    t10[0, 3] = -0.045
    q = [[1.0, 0, 0, -320.0], [0, 1.0, 0, -240.0], [0, 0, 0, 560.0], [0, 0, 2.0, 0]]
    return {
        "intrinsics": {"camRect0": events, "camRect1": frames, "camRect2": frames, "camRect3": events},
        "extrinsics": {"T_10": t10.tolist(), "T_21": eye4, "T_32": eye4} | {f"R_rect{k}": eye3 for k in range(4)},
        "disparity_to_depth": {"cams_03": q, "cams_12": q},
    }


def write_mvsec(root: Path, name: str = "outdoor_day1", marks: list[Event] | None = None, count: int = 8000) -> Path:
    """MVSEC: depth at 0, 50, ..., 200 ms after the start, events from 0 to 210 ms; marks relative to the start.

    Rectification moves by (+1.3, +0.8) px; frames are ramps.
    """
    events = with_marks(random_events(260, 346, 0, 210_000, count), marks or [])
    seconds = (events[:, 0] + MVSEC_START_US) / 1e6
    table = np.stack([events[:, 1], events[:, 2], seconds, np.where(events[:, 3] > 0, 1, -1)], 1)
    root.mkdir(parents=True, exist_ok=True)
    with h5py.File(root / f"{name}_data.hdf5", "w") as file:
        file.create_dataset(
            "davis/left/events", data=table.astype("f8"), chunks=(min(4096, len(table)), 4), compression="gzip"
        )
        times = (MVSEC_START_US + np.arange(0, 210_000, 30_000)) / 1e6
        file.create_dataset("davis/left/image_raw", data=np.stack([ramp(260, 346)] * len(times)), compression="gzip")
        file.create_dataset("davis/left/image_raw_ts", data=times)
    depth = box_depth(260, 346)
    depth[:20] = np.nan
    depth[20:30] = 0
    with h5py.File(root / f"{name}_gt.hdf5", "w") as file:
        file.create_dataset("davis/left/depth_image_rect", data=np.stack([depth] * 5), compression="gzip")
        times = (MVSEC_START_US + 50_000 * np.arange(5)) / 1e6
        file.create_dataset("davis/left/depth_image_rect_ts", data=times)
    scene = name.rstrip("0123456789")
    folder = root / f"{scene}_calib"
    folder.mkdir(exist_ok=True)
    rows, columns = np.mgrid[0:260, 0:346]
    np.savetxt(folder / f"{scene}_left_x_map.txt", columns + 1.3, fmt="%.4f")
    np.savetxt(folder / f"{scene}_left_y_map.txt", rows + 0.8, fmt="%.4f")
    projection = [[199.6, 0.0, 177.4, 0.0], [0.0, 199.6, 126.8, 0.0], [0.0, 0.0, 1.0, 0.0]]
    chain = {"cam0": {"projection_matrix": projection, "resolution": [346, 260]}}
    (folder / f"camchain-imucam-{scene}.yaml").write_text(yaml.safe_dump(chain))
    return root


def carla_stamps(count: int) -> np.ndarray:
    """Thirty a second, in whole microseconds [us]."""
    return np.rint((np.arange(count) + 1) * 1e6 / 30).astype(np.int64)


def write_carla(root: Path, name: str, count: int = 5) -> Path:
    """What DENSE and DENSE-Spike share: depth, frames, stamps."""
    folder = root / name
    lines = "".join(f"{k} {stamp / 1e6:.6f}\n" for k, stamp in enumerate(carla_stamps(count)))
    depth = box_depth(260, 346).astype(np.float32)
    depth[:30] = 1000
    for place, prefix in (("depth/data", "depth"), ("rgb/frames", "frame")):
        (folder / place).mkdir(parents=True)
        (folder / place / "timestamps.txt").write_text(lines)
        for k in range(count):
            if prefix == "depth":
                np.save(folder / place / f"depth_{k:010d}.npy", depth)
            else:
                rgb = np.repeat(ramp(260, 346)[..., None], 3, 2)
                Image.fromarray(rgb).save(folder / place / f"frame_{k:010d}.png")
    return folder


def write_dense(
    root: Path, name: str = "train_sequence_00_town01", marks: list[Event] | None = None, unit: str = "ns"
) -> Path:
    """DENSE: five stamps, 1/30 s apart; an event file holds (stamp before, stamp]; marks in us."""
    folder = write_carla(root, name)
    place = folder / "events/data"
    place.mkdir(parents=True)
    (place / "timestamps.txt").write_text((folder / "depth/data/timestamps.txt").read_text())
    stamps = carla_stamps(5)
    events = with_marks(random_events(260, 346, 1000, int(stamps[-1]), 10_000), marks or [])
    begin = 0
    for k, stamp in enumerate(stamps):
        part = events[(events[:, 0] > begin) & (events[:, 0] <= stamp)]
        if unit == "ns":
            table = part * [1000, 1, 1, 1] + [7, 0, 0, 0] * (part[:, :1] < stamp)
        else:
            table = part.astype(np.float64) / [1e6, 1, 1, 1]
        np.save(place / f"events_{k:010d}.npy", table)
        begin = int(stamp)
    return folder


def write_dense_spike(root: Path, name: str = "train_sequence_00_town01") -> Path:
    """DENSE-Spike: files 1 to 4 of 128 planes; plane j of pixel (10, 20) fires if j is 40 or 127."""
    folder = write_carla(root, name)
    place = folder / "spike/r128"
    place.mkdir(parents=True)
    (place / "timestamps.txt").write_text((folder / "depth/data/timestamps.txt").read_text())
    rng = np.random.default_rng(0)
    for k in range(5):
        planes = (rng.random((128, 260, 346)) < 0.004).astype(np.uint8)
        planes[:, 20, 10] = 0
        planes[[40, 127], 20, 10] = 1
        np.save(place / f"spike_{k:010d}.npy", planes)
    return folder


def write_bag(
    path: Path,
    marks: list[Event] | None = None,
    depth: bool = True,
    encoding: str = "evt3",
    drop: tuple[str, ...] = (),
    k1: float = 0.0,
    depth_topic: str = "/depth/image_rect",
    late_from: int = 60,
) -> Path:
    """A bag as a robot records it: packets of 5 ms from 0 to 300 ms, depth and grey frames at 100, 200, 300 ms.

    The sensor's clock is 1 s ahead of the marks, as clocks of sensors are anywhere; marks are relative to the start.
    Packets from `late_from` on arrive 4 ms late.
    """
    height, width = 120, 160
    events = with_marks(random_events(height, width, 0, 299_000, 6000), marks or [])
    info = message_class("sensor_msgs/msg/CameraInfo")
    with BagWriter(path) as bag:
        encoder = PacketEncoder(encoding, width, height)
        for k in range(60):
            part = events[(events[:, 0] >= 5000 * k) & (events[:, 0] < 5000 * (k + 1))]
            array = np.zeros(len(part), EVENT_DTYPE)
            array["t"], array["x"], array["y"], array["p"] = part.T
            array["t"] += 1_000_000
            base, payload = encoder.encode(array)
            stamp = BAG_START_NS + int(part[0, 0]) * 1000 + 4_000_000 * (k >= late_from)
            packet = EventPacket(
                stamp, "camera", height, width, k, base, encoding, False, np.frombuffer(payload, np.uint8)
            )
            if "events" not in drop:
                topic = "/event_camera/events"
                bag.write(topic, EVENT_PACKET_TYPE, stamp + 6_000_000, serialize_event_packet(packet))
        for k in (1, 2, 3):
            stamp = BAG_START_NS + 100_000_000 * k
            if depth:
                metres = box_depth(height, width)
                metres[:10] = np.nan
                image = image_message(metres, "32FC1", stamp)
                bag.write(depth_topic, "sensor_msgs/msg/Image", stamp + 1, serialize(image))
            if "frames" not in drop:
                image = image_message(ramp(height, width), "mono8", stamp)
                bag.write("/camera/image_raw", "sensor_msgs/msg/Image", stamp + 2, serialize(image))
        roi = message_class("sensor_msgs/msg/RegionOfInterest")(0, 0, 0, 0, False)
        matrix = np.array([150.0, 0, 80, 0, 150, 60, 0, 0, 1])
        projection = np.hstack([matrix.reshape(3, 3), np.zeros((3, 1))]).ravel()
        message = info(
            header_message(BAG_START_NS), height, width, "plumb_bob", np.array([k1, 0, 0, 0, 0]), matrix,
            np.eye(3).ravel(), projection, 0, 0, roi,
        )  # fmt: skip
        bag.write("/event_camera/camera_info", "sensor_msgs/msg/CameraInfo", BAG_START_NS, serialize(message))
    return path


def header_message(stamp_ns: int) -> object:
    """A header."""
    time = message_class("builtin_interfaces/msg/Time")(stamp_ns // 10**9, stamp_ns % 10**9)
    return message_class("std_msgs/msg/Header")(time, "camera")


def image_message(pixels: np.ndarray, encoding: str, stamp_ns: int) -> object:
    """An image without padding."""
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).view(np.uint8).ravel()
    image = message_class("sensor_msgs/msg/Image")
    return image(header_message(stamp_ns), height, width, encoding, 0, data.size // height, data)


LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


def truncate(path: Path, keep: float = 0.5) -> None:
    """Cut a file off."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
