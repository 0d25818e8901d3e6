"""Read ROS 2 bags: folders with or without metadata.yaml, bare files, sqlite3 and MCAP, split and compressed.

Each storage file is read by `rosbags`, one at a time, which takes `ros2idl` schemas and every chunk compression. What
metadata.yaml says about the storage is not trusted: real recorders leave `storage_identifier` empty, and the file's
own ending says it anyway. It gives the list and order of files, the type hashes, and whether files are compressed.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import zstandard
from rosbags.interfaces import Connection, ConnectionExtRosbag2, Qos
from rosbags.rosbag2 import Reader

from sdt_ros.text_files import read_yaml

from .bounds import bound_chunks, require_plain_tables, unpack_file, unpack_zstd
from .errors import BagError

_log = logging.getLogger(__name__)

bound_chunks()

_STORAGE_ENDINGS = (".db3", ".mcap")
_NEWEST_METADATA = 9
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_REPAIR = {
    ".mcap": "if the recorder was cut off, `mcap recover FILE -o NEW.mcap` saves what is there",
    ".db3": "if the recorder was cut off, `sqlite3 FILE .recover | sqlite3 NEW.db3` saves what is there",
}


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """One topic of a bag.

    Attributes:
        name: absolute topic name.
        type: message type, such as `event_camera_msgs/msg/EventPacket`.
        count: number of messages.
        offered_qos: the recorded publishers' profiles, numeric and named spellings alike; empty where not recorded.
        type_hash: `RIHS01_...`, empty where not recorded.
    """

    name: str
    type: str
    count: int
    offered_qos: tuple[Qos, ...]
    type_hash: str


@dataclass(frozen=True, slots=True)
class BagMessage:
    """One message: its topic, its type, the time it was recorded [ns since the epoch], and its CDR bytes."""

    topic: str
    type: str
    timestamp_ns: int
    data: bytes


def open_bag(path: str | Path) -> BagReader:
    """Open a bag: a rosbag2 folder, or one `.db3` or `.mcap` file (zstd-compressed files included).

    Raises:
        BagError: there is nothing, it is no bag, or it is damaged.
    """
    return BagReader(path)


class BagReader:
    """A bag open for reading; a context manager. Use `open_bag`.

    Attributes:
        path: what was opened.
        topics: every topic by name.
        start_ns: time of the first message [ns], 0 in an empty bag.
        end_ns: time of the last message [ns], 0 in an empty bag.
        message_count: number of messages.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._stack = ExitStack()
        self._named: dict[Reader, Path] = {}  # the files as the user knows them, packed ones too
        try:
            files, self._metadata = _find_files(self.path)
            self._readers = [self._open_file(file) for file in files]
        except BaseException:
            self._stack.close()
            raise
        filled = [reader for reader in self._readers if reader.message_count]
        self.message_count = sum(reader.message_count for reader in filled)
        self.start_ns = min((reader.start_time for reader in filled), default=0)
        self.end_ns = max((reader.end_time - 1 for reader in filled), default=0)  # rosbags counts one past the last
        self.topics = self._collect_topics()

    def messages(
        self, topics: Iterable[str] | None = None, start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[BagMessage]:
        """Iterate over messages in time order.

        Args:
            topics: names to read; all if None.
            start_ns: leave out what was recorded before [ns].
            stop_ns: leave out what was recorded at or after [ns].

        Raises:
            BagError: a topic is not in the bag (at once), or the file turns out to be damaged (on the way).
        """
        wanted = set(self.topics) if topics is None else set(topics)
        if missing := sorted(wanted - set(self.topics)):
            there = ", ".join(f"{info.name} ({info.type})" for info in self.topics.values()) or "none"
            raise BagError(f"{self.path} has no topic {', '.join(missing)}; there are: {there}")
        streams = [self._file_messages(reader, wanted, start_ns, stop_ns) for reader in self._readers]
        # Split files may overlap by a few messages, so they are merged, not chained.
        return streams[0] if len(streams) == 1 else heapq.merge(*streams, key=attrgetter("timestamp_ns"))

    def close(self) -> None:
        """Close every file and remove what was unpacked."""
        self._stack.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_file(self, file: Path) -> Reader:
        named = file
        if file.suffix == ".zstd":
            folder = self._stack.enter_context(TemporaryDirectory(prefix="sdt_bag_"))
            unpacked = Path(folder, file.stem)
            try:
                with file.open("rb") as packed, unpacked.open("wb") as target:
                    unpack_file(packed, target, file.stat().st_size, Path(folder))
            except (zstandard.ZstdError, BagError) as error:
                raise BagError(f"{file} cannot be unpacked: {error}") from None
            file = unpacked
        journal = file.with_name(file.name + "-wal")
        if journal.exists() and journal.stat().st_size:
            _log.warning("%s has an unmerged journal %s: its last messages are missing here", file, journal.name)
        try:
            if file.suffix == ".db3":
                require_plain_tables(file)
            reader = self._stack.enter_context(Reader(file))
            _require_plain_values(reader)
        except Exception as error:  # on damaged files the reader raises whatever the bytes lead it to
            raise _damaged(named, error) from error
        self._named[reader] = named
        return reader

    def _collect_topics(self) -> dict[str, TopicInfo]:
        hashes = self._metadata.get("hashes", {})
        topics: dict[str, TopicInfo] = {}
        for connection in (connection for reader in self._readers for connection in reader.connections):
            name, kind = connection.topic, connection.msgtype
            known = topics.get(name)
            if known is not None and known.type != kind:
                _log.warning(
                    "%s: %s was recorded as %s and as %s; only the first is read", self.path, name, known.type, kind
                )
                continue
            qos = () if known is None else known.offered_qos
            topics[name] = TopicInfo(
                name=name,
                type=kind,
                count=connection.msgcount + (0 if known is None else known.count),
                offered_qos=qos + tuple(profile for profile in _offered_qos(connection) if profile not in qos),
                type_hash=connection.digest or hashes.get(name, ""),
            )
        return topics

    def _file_messages(
        self, reader: Reader, topics: set[str], start_ns: int | None, stop_ns: int | None
    ) -> Iterator[BagMessage]:
        connections = [
            connection
            for connection in reader.connections
            if connection.topic in topics and connection.msgtype == self.topics[connection.topic].type
        ]
        if not connections:
            return  # rosbags would take an empty list for "all"
        stream = reader.messages(connections, start=start_ns, stop=stop_ns)
        while True:
            try:
                connection, timestamp_ns, data = next(stream)
                # CDR starts with a zero byte, so a compressed message cannot be mistaken for a plain one.
                if data[:4] == _ZSTD_MAGIC:
                    data = unpack_zstd(data)
                if not isinstance(data, bytes) or not isinstance(timestamp_ns, int):
                    raise BagError("a message is no bytes, or its time is no number")
            except StopIteration:
                return
            except Exception as error:  # as in _open_file
                raise _damaged(self._named[reader], error) from error
            yield BagMessage(connection.topic, connection.msgtype, timestamp_ns, data)


def _offered_qos(connection: Connection) -> list[Qos]:
    return list(connection.ext.offered_qos_profiles) if isinstance(connection.ext, ConnectionExtRosbag2) else []


def _damaged(file: Path, error: Exception) -> BagError:
    reason = str(error).strip().rstrip(".") or type(error).__name__
    return BagError(f"{file} cannot be read, it is damaged or incomplete: {reason}; {_REPAIR[_storage_ending(file)]}")


def _require_plain_values(reader: Reader) -> None:
    """Refuse what a database can hold in place of texts and numbers."""
    times = (reader.message_count, reader.start_time, reader.end_time)
    texts = [text for connection in reader.connections for text in (connection.topic, connection.msgtype)]
    if not all(isinstance(value, int) for value in times) or not all(isinstance(text, str) for text in texts):
        raise BagError("a topic has no name or type, or the times are no numbers")


def _find_files(path: Path) -> tuple[list[Path], dict[str, Any]]:
    """Return the storage files of a bag and what is used of its metadata.yaml, empty where there is none."""
    what_fits = "give a rosbag2 folder (with metadata.yaml), a .db3 or an .mcap file"
    if not path.exists():
        raise BagError(f"there is no bag at {path}; {what_fits}")
    if path.is_file():
        if path.suffix == ".bag":
            raise BagError(f"{path} is a ROS 1 bag; convert it: rosbags-convert --src {path} --dst FOLDER")
        if path.name == "metadata.yaml":
            return _find_files(path.parent)
        if not is_storage(path):
            raise BagError(f"{path} is no bag; {what_fits}")
        return [path], {}
    metadata_file = path / "metadata.yaml"
    if metadata_file.exists():
        metadata = _read_metadata(metadata_file)
        # Old recorders wrote the paths with the bag's folder in front.
        files = [path / PurePath(name).name for name in metadata["relative_file_paths"]]
        if missing := [file.name for file in files if not file.exists()]:
            raise BagError(f"{path} lacks {', '.join(missing)}, which its metadata.yaml names; copy the whole folder")
        if odd := [file.name for file in files if not is_storage(file)]:
            raise BagError(f"{path}: the storage of {', '.join(odd)} is not supported, only sqlite3 (.db3) and MCAP")
        if not files:
            raise BagError(f"{metadata_file} names no storage files; the recording is empty")
        return files, metadata
    files = sorted(file for file in path.iterdir() if is_storage(file))
    if not files:
        raise BagError(f"{path} is no bag: it has no metadata.yaml, .db3 or .mcap file; {what_fits}")
    _log.warning("%s has no metadata.yaml; reading %s", path, ", ".join(file.name for file in files))
    return files, {}


def _storage_ending(file: Path) -> str:
    return PurePath(file.stem).suffix if file.suffix == ".zstd" else file.suffix


def is_storage(file: Path) -> bool:
    """Whether a file's name is that of a bag's storage, packed or not."""
    return _storage_ending(file) in _STORAGE_ENDINGS


def _read_metadata(file: Path) -> dict[str, Any]:
    try:
        metadata = read_yaml(file)["rosbag2_bagfile_information"]
        version, names = int(metadata["version"]), metadata["relative_file_paths"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("relative_file_paths is no list of texts")
        compression = str(metadata.get("compression_format") or "").lower()
        hashes = _recorded_hashes(metadata)
    except (OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise BagError(f"{file} is not what rosbag2 writes ({reason}); give the .db3 or .mcap file itself") from None
    if version > _NEWEST_METADATA:
        _log.warning("%s has format %d, newer than %d, the newest known here", file, version, _NEWEST_METADATA)
    if compression not in ("", "none", "zstd"):
        raise BagError(f"{file}: compression {compression!r} is not supported, only zstd; see `ros2 bag convert`")
    return {"relative_file_paths": names, "hashes": hashes}


def _recorded_hashes(metadata: dict[str, Any]) -> dict[str, str]:
    topics = [entry.get("topic_metadata", {}) for entry in metadata.get("topics_with_message_count") or []]
    return {str(topic["name"]): str(topic.get("type_description_hash") or "") for topic in topics if "name" in topic}
