"""Bags: every kind that is read, what is written, and what damaged ones say."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.interfaces import QosHistory, QosReliability
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from sdt_ros.bags import (
    CAMERA_INFO_TYPE,
    EVENT_PACKET_TYPE,
    QOS_BEST_EFFORT,
    BagError,
    BagWriter,
    camera_info_topic,
    deserialize,
    open_bag,
    parse_event_packet,
    serialize,
    serialize_event_packet,
    spike_windows,
)
from sdt_ros.bags.prefetch import prefetched
from sdt_ros.bags.types import message_class, typestore
from sdt_ros.events.packet import EventPacket
from sdt_ros.simulation.patterns import camera_info, write_pattern_bag

RECORDINGS = Path(__file__).parents[2] / "shared/data/recordings"
EVENTS = "/event_camera/events"
START_NS = 1_700_000_000_123_456_789
UPSTREAM_HASH = "RIHS01_d6fa176260b1f37e5a40845305315e150a0f18191241eb64f407442aa29844aa"


def packet(number: int, payload: bytes = b"\x01\x02\x03") -> EventPacket:
    return EventPacket(
        stamp_ns=START_NS + number,
        frame_id="camera_optical",
        height=260,
        width=346,
        seq=number,
        time_base=2**63 + number,
        encoding="evt3",
        is_bigendian=False,
        payload=np.frombuffer(payload, np.uint8),
    )


def write_packets(path: Path, numbers: range, storage: str = "mcap", compress: bool = False) -> Path:
    with BagWriter(path, storage, compress) as bag:
        bag.add_topic(EVENTS, EVENT_PACKET_TYPE, QOS_BEST_EFFORT)
        for number in numbers:
            bag.write(EVENTS, EVENT_PACKET_TYPE, START_NS + number * 1000, serialize_event_packet(packet(number)))
    return path


def numbers_in(path: Path) -> list[int]:
    with open_bag(path) as bag:
        return [parse_event_packet(message.data).seq for message in bag.messages()]


def expected_recordings() -> list[dict]:
    summary = RECORDINGS / "expected.json"
    return json.loads(summary.read_text())["recordings"] if summary.exists() else []


@pytest.mark.skipif(not RECORDINGS.exists(), reason="the shared recordings are not beside the checkout")
@pytest.mark.parametrize("whole_folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("expected", expected_recordings(), ids=lambda entry: entry["encoding"])
def test_real_recordings_read_and_survive_the_round_trip(expected: dict, whole_folder: bool) -> None:
    file = RECORDINGS / expected["path"]
    with open_bag(file.parent if whole_folder else file) as bag:
        info = bag.topics[EVENTS]
        messages = list(bag.messages([EVENTS]))
        assert (bag.start_ns, bag.end_ns) == (messages[0].timestamp_ns, messages[-1].timestamp_ns)
    assert info.type == EVENT_PACKET_TYPE
    assert info.count == bag.message_count == len(messages) == expected["messages"]
    stamps = [message.timestamp_ns for message in messages]
    assert stamps == sorted(stamps)
    packets = [parse_event_packet(message.data) for message in messages]
    assert [serialize_event_packet(one) for one in packets] == [message.data for message in messages]
    assert [one.seq for one in packets] == list(range(expected["first_seq"], expected["first_seq"] + len(packets)))
    assert {(one.encoding, one.width, one.height, one.frame_id) for one in packets} == {
        (expected["encoding"], expected["width"], expected["height"], expected["frame_id"])
    }
    assert sum(one.payload.size for one in packets) == expected["total_bytes"]
    assert max(one.payload.size for one in packets) == expected["max_packet_bytes"]


packets = st.builds(
    EventPacket,
    stamp_ns=st.integers(0, 2**31 * 10**9 - 1),
    frame_id=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9),
    height=st.integers(0, 2**32 - 1),
    width=st.integers(0, 2**32 - 1),
    seq=st.integers(0, 2**64 - 1),
    time_base=st.integers(0, 2**64 - 1),
    encoding=st.sampled_from(["evt3", "libcaer_cmp", "evt21;height=720;width=1280", ""]),
    is_bigendian=st.booleans(),
    payload=st.binary(max_size=40).map(lambda data: np.frombuffer(data, np.uint8)),
)


def to_message(value: EventPacket) -> Any:
    header = message_class("std_msgs/msg/Header")
    time = message_class("builtin_interfaces/msg/Time")
    return message_class(EVENT_PACKET_TYPE)(
        header=header(time(*divmod(value.stamp_ns, 10**9)), value.frame_id),
        height=value.height,
        width=value.width,
        seq=value.seq,
        time_base=value.time_base,
        encoding=value.encoding,
        is_bigendian=value.is_bigendian,
        events=value.payload,
    )


def assert_same_packet(left: EventPacket, right: EventPacket) -> None:
    for field in EventPacket.__dataclass_fields__:
        assert np.array_equal(getattr(left, field), getattr(right, field)), field


@settings(deadline=None)  # the first example loads the types
@given(packets)
def test_hand_written_cdr_agrees_with_rosbags(value: EventPacket) -> None:
    little = serialize(to_message(value))
    big = bytes(typestore().serialize_cdr(to_message(value), EVENT_PACKET_TYPE, little_endian=False))
    assert serialize_event_packet(value) == little
    assert_same_packet(parse_event_packet(little), value)
    assert_same_packet(parse_event_packet(big), value)


def test_payload_is_a_view_of_the_message() -> None:
    data = serialize_event_packet(packet(0, b"abcdef"))
    payload = parse_event_packet(data).payload
    assert np.shares_memory(payload, np.frombuffer(data, np.uint8))
    assert not payload.flags.writeable


@given(st.data())
def test_every_truncation_of_a_packet_is_refused(data: st.DataObject) -> None:
    whole = serialize_event_packet(packet(1, b"payload"))
    cut = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BagError, match=re.escape(EVENT_PACKET_TYPE)):
        parse_event_packet(whole[:cut])


def test_unknown_encapsulation_is_refused() -> None:
    with pytest.raises(BagError, match="encapsulation is 0007"):
        parse_event_packet(b"\x00\x07\x00\x00" + bytes(60))


def test_event_packet_has_the_upstream_type_hash() -> None:
    assert typestore().hash_rihs01(EVENT_PACKET_TYPE) == UPSTREAM_HASH


def test_a_database_on_a_full_disk_is_a_bag_error(tmp_path, monkeypatch):
    def full(*arguments):
        raise sqlite3.OperationalError("database or disk is full")

    told = pytest.raises(BagError, match=r"cannot write a bag to .*: database or disk is full")
    with told, BagWriter(tmp_path / "bag", "sqlite3") as bag:
        bag.add_topic("/chatter", "std_msgs/msg/String")
        monkeypatch.setattr(bag._writer, "write", full)
        monkeypatch.setattr(bag._writer, "abort", full)
        bag.write("/chatter", "std_msgs/msg/String", 0, b"")


@pytest.mark.parametrize(("storage", "compress"), [("mcap", False), ("mcap", True), ("sqlite3", False)])
def test_written_bags_read_back_with_qos_hash_and_definition(tmp_path: Path, storage: str, compress: bool) -> None:
    folder = write_packets(tmp_path / "bag", range(5), storage, compress)
    assert numbers_in(folder) == [0, 1, 2, 3, 4]
    with open_bag(folder) as bag:
        info = bag.topics[EVENTS]
        assert (info.type, info.count, info.type_hash) == (EVENT_PACKET_TYPE, 5, UPSTREAM_HASH)
        assert info.offered_qos == (QOS_BEST_EFFORT,)
        assert (bag.start_ns, bag.end_ns, bag.message_count) == (START_NS, START_NS + 4000, 5)
    with Reader(folder) as other:
        assert "uint64 time_base" in other.connections[0].msgdef.data


def test_written_mcap_is_read_by_the_mcap_library(tmp_path: Path) -> None:
    reader = pytest.importorskip("mcap.reader")
    folder = write_packets(tmp_path / "bag", range(5), compress=True)
    with (folder / "bag.mcap").open("rb") as file:
        rows = list(reader.make_reader(file, validate_crcs=True).iter_messages())
    assert [parse_event_packet(message.data).seq for _, _, message in rows] == [0, 1, 2, 3, 4]
    schema, channel, _ = rows[0]
    assert (schema.name, schema.encoding) == (EVENT_PACKET_TYPE, "ros2msg")
    assert "reliability: 2" in channel.metadata["offered_qos_profiles"]


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
@pytest.mark.parametrize("schema", ["ros2msg", "ros2idl"])
def test_foreign_mcap_files_read(tmp_path: Path, compression: str, schema: str) -> None:
    mcap = pytest.importorskip("mcap.writer")
    file = tmp_path / "foreign.mcap"
    with file.open("wb") as stream:
        writer = mcap.Writer(stream, compression=mcap.CompressionType[compression], chunk_size=200)
        writer.start(profile="ros2", library="test")
        schema_id = writer.register_schema(EVENT_PACKET_TYPE, schema, b"module event_camera_msgs {};")
        channel = writer.register_channel(EVENTS, "cdr", schema_id)
        for number in range(9):
            time = START_NS + number
            writer.add_message(channel, time, serialize_event_packet(packet(number)), time, number)
        writer.finish()
    assert numbers_in(file) == list(range(9))


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE"])
@pytest.mark.parametrize("with_metadata", [True, False])
def test_zstd_compressed_bags_read(tmp_path: Path, mode: str, with_metadata: bool) -> None:
    folder = tmp_path / "bag"
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(EVENTS, EVENT_PACKET_TYPE, typestore=typestore())
        for number in range(4):
            writer.write(connection, START_NS + number, serialize_event_packet(packet(number)))
    if not with_metadata:
        (folder / "metadata.yaml").unlink()
    assert numbers_in(folder) == [0, 1, 2, 3]


def edit_metadata(folder: Path, **changes: Any) -> None:
    file = folder / "metadata.yaml"
    content = yaml.safe_load(file.read_text())
    content["rosbag2_bagfile_information"].update(changes)
    file.write_text(yaml.safe_dump(content))


def test_split_bags_are_read_in_time_order_whatever_the_files_order(tmp_path: Path) -> None:
    folder = write_packets(tmp_path / "whole", range(3, 6), "sqlite3")
    (folder / "whole.db3").rename(folder / "whole_1.db3")
    first = write_packets(tmp_path / "first", range(0, 4), "sqlite3")
    shutil.copy(first / "first.db3", folder / "whole_0.db3")
    edit_metadata(folder, relative_file_paths=["whole/whole_1.db3", "whole/whole_0.db3"], version=3)
    assert numbers_in(folder) == [0, 1, 2, 3, 3, 4, 5]  # the files overlap by one
    with open_bag(folder) as bag:
        assert bag.topics[EVENTS].count == bag.message_count == 7
    (folder / "metadata.yaml").unlink()
    assert numbers_in(folder) == [0, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("version", range(4, 10))
@pytest.mark.parametrize("identifier", ["", "mcap"])
def test_every_metadata_version_and_an_empty_storage_identifier(tmp_path: Path, version: int, identifier: str) -> None:
    folder = write_packets(tmp_path / "bag", range(2))
    edit_metadata(folder, version=version, storage_identifier=identifier)
    assert numbers_in(folder) == [0, 1]


NUMERIC_QOS = (
    "- history: 3\n  depth: 0\n  reliability: 2\n  durability: 2\n  deadline: {sec: 9223372036, nsec: 854775807}\n"
    "  lifespan: {sec: 9223372036, nsec: 854775807}\n  liveliness: 1\n"
    "  liveliness_lease_duration: {sec: 9223372036, nsec: 854775807}\n  avoid_ros_namespace_conventions: false"
)
NAMED_QOS = NUMERIC_QOS.replace("history: 3", "history: unknown").replace("reliability: 2", "reliability: best_effort")


@pytest.mark.parametrize("recorded", [NUMERIC_QOS, NAMED_QOS, ""])
def test_qos_is_read_in_every_spelling(tmp_path: Path, recorded: str) -> None:
    folder = write_packets(tmp_path / "bag", range(2), "sqlite3")
    with sqlite3.connect(folder / "bag.db3") as database:
        database.execute("UPDATE topics SET offered_qos_profiles = ?", (recorded,))
    database.close()
    with open_bag(folder) as bag:
        profiles = bag.topics[EVENTS].offered_qos
    if recorded:
        assert (profiles[0].history, profiles[0].reliability) == (QosHistory.UNKNOWN, QosReliability.BEST_EFFORT)
    else:
        assert profiles == ()


def test_messages_can_be_chosen_by_topic_and_time(tmp_path: Path) -> None:
    note = serialize(message_class("std_msgs/msg/String")("hello"))
    with BagWriter(tmp_path / "bag") as bag:
        for number in range(4):
            bag.write("/note", "std_msgs/msg/String", number * 10 + 1, note)
            bag.write(EVENTS, EVENT_PACKET_TYPE, number * 10, serialize_event_packet(packet(number)))
    with open_bag(tmp_path / "bag") as bag:
        assert [message.timestamp_ns for message in bag.messages()] == [0, 1, 10, 11, 20, 21, 30, 31]
        assert [message.timestamp_ns for message in bag.messages(["/note"], 11, 31)] == [11, 21]
        with pytest.raises(BagError, match=r"no topic /typo; there are: /note \(std_msgs/msg/String\), " + EVENTS):
            bag.messages(["/typo"])
        assert deserialize("std_msgs/msg/String", next(iter(bag.messages(["/note"]))).data).data == "hello"


def test_an_empty_bag_reads_as_empty(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", "sqlite3") as bag:
        bag.add_topic(EVENTS, EVENT_PACKET_TYPE)
    with open_bag(tmp_path / "bag") as bag:
        assert list(bag.messages()) == []
        assert (bag.start_ns, bag.end_ns, bag.message_count) == (0, 0, 0)


def test_camera_info_and_image_survive_serialisation() -> None:
    image_type = message_class("sensor_msgs/msg/Image")
    header = message_class("std_msgs/msg/Header")(message_class("builtin_interfaces/msg/Time")(1, 2), "optical")
    pixels = np.arange(8, dtype=np.uint8)
    image = image_type(header=header, height=2, width=4, encoding="mono8", is_bigendian=0, step=4, data=pixels)
    back = deserialize("sensor_msgs/msg/Image", serialize(image))
    assert (back.header.stamp.nanosec, back.width, back.data.tolist()) == (2, 4, pixels.tolist())


def write_bytes(file: Path, data: bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_what_is_no_bag_is_named_with_the_fix(tmp_path: Path) -> None:
    cases = {
        tmp_path / "nowhere": "there is no bag at .*nowhere; give a rosbag2 folder",
        write_bytes(tmp_path / "notes.txt", b"hello"): "notes.txt is no bag; give a rosbag2 folder",
        write_bytes(tmp_path / "old.bag", b"#ROSBAG V2.0\n"): "old.bag is a ROS 1 bag; .*rosbags-convert",
        write_bytes(tmp_path / "folder/readme.md", b"").parent: "folder is no bag: it has no metadata.yaml",
        write_bytes(tmp_path / "a.mcap", b""): "a.mcap cannot be read, .*; .*mcap recover",
        write_bytes(tmp_path / "b.db3", b"SQLite format 3\0" + bytes(99)): "b.db3 cannot be read, .*; .*recover",
        write_bytes(tmp_path / "c/metadata.yaml", b"just: this").parent: "c/metadata.yaml is not what rosbag2 writes",
        write_bytes(tmp_path / "d/metadata.yaml", b"{"): "d/metadata.yaml is not what rosbag2 writes",
        write_bytes(tmp_path / "e.db3.zstd", b"no zstd"): "e.db3.zstd cannot be unpacked",
    }
    for path, message in cases.items():
        with pytest.raises(BagError, match=message):
            open_bag(path)


def test_folders_that_name_what_is_not_there(tmp_path: Path) -> None:
    folder = write_packets(tmp_path / "bag", range(2))
    edit_metadata(folder, compression_format="lz4")
    with pytest.raises(BagError, match="compression 'lz4' is not supported"):
        open_bag(folder)
    edit_metadata(folder, compression_format="", relative_file_paths=["lost.mcap"])
    with pytest.raises(BagError, match=r"bag lacks lost\.mcap, which its metadata\.yaml names"):
        open_bag(folder)
    edit_metadata(folder, relative_file_paths=[])
    with pytest.raises(BagError, match="names no storage files"):
        open_bag(folder)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_files_are_named(tmp_path: Path, storage: str, part: float) -> None:
    folder = tmp_path / "bag"
    with BagWriter(folder, storage) as bag:
        for number in range(20):
            large = np.random.default_rng(number).bytes(20_000)
            bag.write(EVENTS, EVENT_PACKET_TYPE, number, serialize_event_packet(packet(number, large)))
    (file,) = (one for one in folder.iterdir() if one.suffix != ".yaml")
    write_bytes(file, file.read_bytes()[: int(file.stat().st_size * part)])
    with pytest.raises(BagError, match=f"{file.name} cannot be read, it is damaged or incomplete"):
        numbers_in(folder)


def test_a_damaged_compressed_chunk_is_named(tmp_path: Path) -> None:
    folder = write_packets(tmp_path / "bag", range(200), compress=True)
    file = folder / "bag.mcap"
    data = bytearray(file.read_bytes())
    chunk = data.index(b"\x28\xb5\x2f\xfd")
    data[chunk + 20 : chunk + 60] = bytes(40)
    write_bytes(file, bytes(data))
    with pytest.raises(BagError, match=r"bag\.mcap cannot be read"):
        numbers_in(folder)


def test_the_writer_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(BagError, match="bag storage 'rosbag' is unknown"):
        BagWriter(tmp_path / "x", "rosbag")
    with pytest.raises(BagError, match="only mcap bags can be compressed"):
        BagWriter(tmp_path / "x", "sqlite3", compress=True)
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path)
    with BagWriter(tmp_path / "y") as bag:
        with pytest.raises(BagError, match="type 'my_msgs/msg/Odd' of /odd is unknown"):
            bag.write("/odd", "my_msgs/msg/Odd", 0, b"")
        bag.write("/note", "std_msgs/msg/String", 0, serialize(message_class("std_msgs/msg/String")("a")))
        with pytest.raises(BagError, match="/note carries std_msgs/msg/String"):
            bag.write("/note", EVENT_PACKET_TYPE, 0, b"")
    with pytest.raises(BagError, match="is unknown"):
        deserialize("my_msgs/msg/Odd", b"")
    with pytest.raises(BagError, match="these 6 bytes are no sensor_msgs/msg/CameraInfo"):
        deserialize("sensor_msgs/msg/CameraInfo", b"\x00\x01\x00\x00ab")


def test_a_bag_left_by_an_error_has_no_metadata(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), BagWriter(tmp_path / "bag"):
        _ = 1 // 0
    assert not (tmp_path / "bag/metadata.yaml").exists()


def test_prefetching_keeps_order_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with prefetched(iter(range(1000)), depth=4) as items:
        assert list(items) == list(range(1000))
    with prefetched(itertools.count(), depth=4) as endless:
        assert [next(endless) for _ in range(10)] == list(range(10))
    assert threading.active_count() == before


def test_prefetching_raises_an_error_where_its_item_would_come() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise BagError("torn")

    with prefetched(broken()) as items:
        assert next(items) == 1
        with pytest.raises(BagError, match="torn"):
            next(items)


@pytest.mark.parametrize(
    ("calibrations", "expected"),
    [
        ((), None),
        (("/lens",), None),
        (("/lens@camera_optical",), "/lens"),
        (("/lens@camera_optical", "/depth/camera_info"), "/lens"),
        (("/lens@camera_optical", "/depth/camera_info@camera_optical"), None),
        (("/depth/camera_info", "/cam/camera_info", "/lens"), "/cam/camera_info"),
    ],
)
def test_the_calibration_is_the_one_beside_the_events(
    tmp_path: Path, calibrations: tuple[str, ...], expected: str | None
) -> None:
    """A simulated recording has one for its depth images too; that of another camera would be worse than none."""
    with BagWriter(tmp_path / "bag") as bag:
        bag.add_topic("/cam/events", EVENT_PACKET_TYPE)
        bag.write("/cam/events", EVENT_PACKET_TYPE, 1, serialize_event_packet(packet(0)))
        for topic, _, frame in (each.partition("@") for each in calibrations):
            message = deserialize(CAMERA_INFO_TYPE, camera_info(64, 48, 1))
            message.header.frame_id = frame or "another_optical"
            bag.write(topic, CAMERA_INFO_TYPE, 1, serialize(message))
    with open_bag(tmp_path / "bag") as reader:
        assert camera_info_topic(reader, "/cam/events") == expected


def test_packets_that_cannot_be_decoded_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the node goes on behind them."""
    write_pattern_bag(tmp_path / "sound", seconds=0.5, width=64, height=48)
    with open_bag(tmp_path / "sound") as bag, BagWriter(tmp_path / "odd") as odd:
        for number, message in enumerate(bag.messages([EVENTS])):
            one = parse_event_packet(message.data)
            data = serialize_event_packet(dataclasses.replace(one, width=0)) if number == 20 else message.data
            odd.write(EVENTS, message.type, message.timestamp_ns, data)
    expected = [window.stamp_ns for window in spike_windows(tmp_path / "sound")]
    assert not caplog.text
    assert [window.stamp_ns for window in spike_windows(tmp_path / "odd")] == expected
    assert f"odd: {EVENTS}: 1 packets could not be decoded, first packet 20: " in caplog.text


def test_what_a_bag_holds_is_told_to_other_pythons(tmp_path: Path) -> None:
    """As launch/replay.launch.py asks, which may run by a Python that cannot import the reader."""
    write_pattern_bag(tmp_path / "bag", seconds=0.1, width=64, height=48, packet_ms=5)
    asked = [sys.executable, "-m", "sdt_ros.bags"]
    told = subprocess.run([*asked, str(tmp_path / "bag")], capture_output=True, text=True, check=True).stdout
    info = "/event_camera/camera_info"
    assert json.loads(told) == {"events": [EVENTS], "camera_infos": [info], "camera_info_of": {EVENTS: info}}
    refused = subprocess.run([*asked, str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and refused.stderr.startswith(f"there is no bag at {tmp_path / 'none'}")
    assert len(refused.stderr.splitlines()) == 1
