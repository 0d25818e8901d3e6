"""`sdt simulate`: the bag is whole, holds exactly what was simulated, and is as ROS 2 wants it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from rosbags.rosbag2 import Reader

from sdt_ros import cli
from sdt_ros.bags import BagError, open_bag, parse_event_packet
from sdt_ros.bags.types import deserialize
from sdt_ros.bags.windows import spike_windows
from sdt_ros.events import PacketDecoder
from sdt_ros.images import depth_to_metres, image_to_array
from sdt_ros.simulation import recording
from sdt_ros.simulation.camera import Camera
from sdt_ros.simulation.families import sample_scenes
from sdt_ros.simulation.recording import START_NS, RecordingConfig, quaternion, write_recording
from sdt_ros.simulation.render import Renderer
from sdt_ros.simulation.simulator import EventCamera
from sdt_ros.simulation.textures import build_atlas

CAMERA = Camera(64, 48, 45.0, 45.0, 31.5, 23.5, k1=-0.1, k2=0.03)
CONFIG = RecordingConfig("hallway", seconds=0.25, seed=3, camera=CAMERA, rate_hz=20.0)
TYPES = {
    "/event_camera/events": "event_camera_msgs/msg/EventPacket",
    "/event_camera/camera_info": "sensor_msgs/msg/CameraInfo",
    "/depth/image_rect": "sensor_msgs/msg/Image",
    "/depth/camera_info": "sensor_msgs/msg/CameraInfo",
    "/camera/image_raw": "sensor_msgs/msg/Image",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/odometry": "nav_msgs/msg/Odometry",
}


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("simulated") / "out.mcap"
    return path, write_recording(path, CONFIG)


def messages(path, topic):
    with open_bag(path) as opened:
        return [(m.timestamp_ns, deserialize(m.type, m.data)) for m in opened.messages([topic])]


def decoded(path):
    decoder = PacketDecoder()
    with open_bag(path) as opened:
        packets = [parse_event_packet(m.data) for m in opened.messages(["/event_camera/events"])]
    assert [packet.seq for packet in packets] == list(range(len(packets)))
    parts = [decoder.decode(p.encoding, p.width, p.height, p.time_base, p.payload) for p in packets]
    return packets, np.concatenate(parts)


@pytest.mark.parametrize("encoding", ["evt3", "libcaer_cmp", "mono"])
def test_events_decode_to_exactly_those_simulated(encoding, tmp_path, monkeypatch):
    simulated = []
    advance = EventCamera.advance

    def listen(self, until_us):
        events = advance(self, until_us)
        simulated.append(events.copy())
        return events

    monkeypatch.setattr(EventCamera, "advance", listen)
    config = RecordingConfig("tabletop", 0.06, 1, CAMERA, encoding)
    summary = write_recording(tmp_path / "bag", config)
    _, events = decoded(tmp_path / "bag")
    expected = np.concatenate(simulated)
    assert len(events) == summary.events == len(expected) > 100
    expected["t"] += 0 if encoding == "evt3" else START_NS // 1000
    assert np.array_equal(events, expected)


def test_topics_types_and_stamps(bag):
    path, summary = bag
    with open_bag(path) as opened:
        assert {info.name: info.type for info in opened.topics.values()} == TYPES
        assert opened.topics["/depth/image_rect"].count == summary.depths == 5
    for topic in TYPES:
        times = [at for at, _ in messages(path, topic)]
        assert times == sorted(times)
    for at, message in messages(path, "/depth/image_rect"):
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        assert stamp == at
        assert (stamp - START_NS) % 50_000_000 == 0
        assert message.header.frame_id == "event_camera_optical"


def test_windows_of_the_node_end_exactly_at_the_depth_stamps(bag):
    path, _ = bag
    stamps = [at for at, _ in messages(path, "/depth/image_rect")]
    # The first window begins with the sensor's clock, before the first event, so that it is not whole for the node.
    assert [window.stamp_ns for window in spike_windows(path)] == stamps[1:]


def test_depth_and_image_are_those_of_the_scene(bag):
    path, _ = bag
    atlas = build_atlas(CONFIG.seed)
    scene = sample_scenes("hallway", 1, 0.27, CONFIG.seed, atlas.count)
    rectified = Camera(64, 48, 45.0, 45.0, 31.5, 23.5)
    for at, message in messages(path, "/depth/image_rect"):
        assert message.encoding == "32FC1"
        t = torch.tensor([(at - START_NS) * 1e-9], dtype=torch.float64)
        views = Renderer(rectified).render(scene, torch.zeros(1, dtype=torch.int64), t, brightness=False)
        assert np.allclose(depth_to_metres(message), views.depth[0].numpy(), rtol=1e-5)
    for _, message in messages(path, "/camera/image_raw"):
        pixels = image_to_array(message)
        assert message.encoding == "mono8"
        assert pixels.shape == (48, 64)
        assert pixels.std() > 5
        assert np.mean(pixels == 255) < 0.2


def test_calibration_of_both_images(bag):
    path, _ = bag
    (_, distorted), *_ = messages(path, "/event_camera/camera_info")
    (_, rectified), *_ = messages(path, "/depth/camera_info")
    assert distorted.distortion_model == "plumb_bob"
    assert distorted.d.tolist() == [-0.1, 0.03, 0, 0, 0]
    assert rectified.d.tolist() == [0, 0, 0, 0, 0]
    assert np.array_equal(distorted.k, rectified.k)
    assert distorted.k.tolist() == [45, 0, 31.5, 0, 45, 23.5, 0, 0, 1]
    assert np.array_equal(rectified.p.reshape(3, 4)[:, :3], rectified.k.reshape(3, 3))


def test_poses_are_the_cameras(bag):
    path, _ = bag
    scene = sample_scenes("hallway", 1, 0.27, CONFIG.seed, build_atlas(CONFIG.seed).count)
    poses = messages(path, "/tf")
    assert len(poses) > 50
    for at, message in poses[::10]:
        (transform,) = message.transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ("world", "event_camera_optical")
        t = torch.tensor([(at - START_NS) * 1e-9], dtype=torch.float64)
        rotation, position = (part[0].numpy() for part in scene.path.pose(torch.zeros(1, dtype=torch.int64), t))
        q, p = transform.transform.rotation, transform.transform.translation
        assert np.allclose([p.x, p.y, p.z], position)
        x, y, z, w = q.x, q.y, q.z, q.w
        forward = [2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]  # what turns z into
        right = [1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)]
        assert np.allclose(forward, rotation[:, 2])
        assert np.allclose(right, rotation[:, 0])


def test_quaternion_of_a_half_turn():
    assert np.allclose(np.abs(quaternion(np.diag([1.0, -1, -1]))), [1, 0, 0, 0])


def test_rosbags_reads_it_and_the_metadata_is_rosbag2s(bag):
    path, summary = bag
    with Reader(path) as reader:
        counts = {c.topic: c.msgcount for c in reader.connections}
        assert sum(1 for _ in reader.messages()) == reader.message_count == sum(counts.values())
        assert counts["/event_camera/events"] == summary.packets
    about = yaml.safe_load((path / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    assert about["storage_identifier"] == "mcap"
    assert about["message_count"] == sum(counts.values())
    for name in about["relative_file_paths"]:
        assert (path / name).is_file()
    assert {entry["topic_metadata"]["name"] for entry in about["topics_with_message_count"]} == set(TYPES)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["out.mcap"]  # nothing left over


def test_equal_arguments_give_equal_bags(bag, tmp_path):
    path, summary = bag
    assert write_recording(tmp_path / "again", CONFIG) == summary
    for topic in ("/event_camera/events", "/depth/image_rect", "/camera/image_raw", "/tf", "/odometry"):
        with open_bag(path) as one, open_bag(tmp_path / "again") as two:
            assert [m.data for m in one.messages([topic])] == [m.data for m in two.messages([topic])]


def test_nothing_is_overwritten_unless_forced(bag, tmp_path):
    path, _ = bag
    with pytest.raises(BagError, match="exists already; choose another name, or replace it with --force"):
        write_recording(path, CONFIG)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(BagError, match="no bag folder, so it is not replaced"):
        write_recording(tmp_path / "mine", CONFIG, force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()
    short = RecordingConfig("hallway", 0.05, 0, CAMERA, storage="sqlite3")
    write_recording(tmp_path / "bag", short)
    write_recording(tmp_path / "bag", short, force=True)
    assert [entry.name for entry in (tmp_path / "bag").iterdir() if entry.suffix == ".db3"] == ["bag.db3"]


@pytest.mark.parametrize(
    ("name", "storage", "inside"),
    [("a.mcap", "mcap", "a.mcap"), ("b.db3", "sqlite3", "b.db3"), ("c.v2", "mcap", "c.v2.mcap")],
)
def test_the_file_has_the_folders_name_and_one_ending(tmp_path, name, storage, inside):
    write_recording(tmp_path / name, RecordingConfig("hallway", 0.05, 0, CAMERA, storage=storage))
    assert sorted(entry.name for entry in (tmp_path / name).iterdir()) == sorted([inside, "metadata.yaml"])
    assert f"- {inside}\n" in (tmp_path / name / "metadata.yaml").read_text()
    assert len(messages(tmp_path / name, recording.DEPTH_TOPIC)) == 1


def test_a_failed_recording_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise ValueError("no light")

    monkeypatch.setattr(recording, "_image", fail)
    with pytest.raises(ValueError, match="no light"):
        write_recording(tmp_path / "bag", RecordingConfig("hallway", 0.05, 0, CAMERA))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "seconds=0.0 is outside"),
        (["--seconds", "0.01"], "too short for a depth image at 20.0 Hz"),
        (["--encoding", "evt9"], "encoding 'evt9' is unknown"),
        (["--textures", "/nowhere"], "/nowhere is no folder"),
        (["--rate-hz", "0"], "rate_hz=0.0 is outside"),
        (["--device", "tpu9"], "--device tpu9: not usable here"),
        (["--seed", "-1"], "--seed is -1, expected 0 to 9223372036854775807"),
        (["--seed", "9" * 23], f"--seed is {'9' * 23}, expected 0 to"),
        (["--json", "/"], "--json / is a folder; name a file"),
    ],
)
def test_bad_arguments_exit_with_2_and_say_why(arguments, message, tmp_path, capsys):
    assert cli.main(["simulate", str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_bag_and_figures(tmp_path):
    figures = tmp_path / "figures.json"
    command = [
        "simulate",
        str(tmp_path / "b.mcap"),
        "--family",
        "tabletop",
        "--seconds",
        "0.05",
        "--json",
        str(figures),
    ]
    done = subprocess.run([sys.executable, "-m", "sdt_ros.cli", *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = json.loads(figures.read_text())
    assert written["depths"] == 1
    assert written["config"]["family"] == "tabletop"
    _, events = decoded(tmp_path / "b.mcap")
    assert len(events) == written["events"]
    assert "events in 0.07 s" in done.stdout
