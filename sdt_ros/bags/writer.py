"""Write a bag that rosbag2 plays: sqlite3 or MCAP, with message definitions, type hashes and QoS."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.typesys.msg import normalize_msgtype

from .errors import BagError
from .types import typestore

_STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# Format 8 rather than 9: Humble and Jazzy read the QoS only as the string that 8 has.
_METADATA_VERSION: Literal[8] = 8


def _qos(reliability: QosReliability, depth: int) -> Qos:
    forever = QosTime(9223372036, 854775807)  # what rosbag2 writes for "no limit"
    return Qos(
        QosHistory.KEEP_LAST,
        depth,
        reliability,
        QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


QOS_BEST_EFFORT = _qos(QosReliability.BEST_EFFORT, 1000)  # as event camera drivers publish
QOS_RELIABLE = _qos(QosReliability.RELIABLE, 10)


class BagWriter:
    """Writes one new bag folder; a context manager.

    Left by an exception it writes no index, so that a broken bag is not taken for a whole one.

    Args:
        path: the folder to make; it must not exist.
        storage: `mcap` or `sqlite3`.
        compress: compress MCAP chunks with zstd.

    Raises:
        BagError: the folder exists, or the storage is unknown or cannot compress.
    """

    def __init__(self, path: str | Path, storage: str = "mcap", compress: bool = False) -> None:
        self.path = Path(path)
        if storage not in _STORAGE:
            raise BagError(f"bag storage {storage!r} is unknown; choose one of {', '.join(_STORAGE)}")
        if compress and storage != "mcap":
            raise BagError(f"only mcap bags can be compressed here, not {storage}")
        try:
            self._writer = Writer(self.path, version=_METADATA_VERSION, storage_plugin=_STORAGE[storage])
            if compress:
                self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
        except WriterError as error:
            raise BagError(f"cannot write a bag to {self.path}: {error}") from None
        except OSError as error:
            raise BagError(f"cannot write a bag to {self.path}: {error.strerror}; choose another folder") from None
        self._connections: dict[str, Connection] = {}

    def add_topic(
        self,
        topic: str,
        type_name: str,
        qos: Qos = QOS_RELIABLE,
        definition: str | None = None,
        type_hash: str | None = None,
    ) -> None:
        """Announce a topic; needed before `write` only for another QoS or a type of one's own.

        Args:
            topic: absolute name, such as `/event_camera/events`.
            type_name: such as `sensor_msgs/msg/CameraInfo`.
            qos: the profile that a player offers.
            definition: message definition with its dependencies, for types that `rosbags` does not know.
            type_hash: `RIHS01_...` that belongs to `definition`.

        Raises:
            BagError: the topic exists already, or the type is unknown and comes without definition and hash.
        """
        if topic in self._connections:
            raise BagError(f"{self.path}: topic {topic} exists already")
        store = typestore()
        if normalize_msgtype(type_name) not in store.fielddefs and (definition is None or type_hash is None):
            raise BagError(f"{self.path}: type {type_name!r} of {topic} is unknown; pass its definition and type_hash")
        self._connections[topic] = self._writer.add_connection(
            topic, type_name, typestore=store, msgdef=definition, rihs01=type_hash, offered_qos_profiles=[qos]
        )

    def write(self, topic: str, type_name: str, timestamp_ns: int, data: bytes | memoryview) -> None:
        """Append one CDR message; a topic not seen before is announced with reliable QoS.

        Raises:
            BagError: the topic was announced with another type, or a database cannot be written.
            OSError: a file cannot be written.
        """
        if topic not in self._connections:
            self.add_topic(topic, type_name)
        connection = self._connections[topic]
        if connection.msgtype != type_name:
            raise BagError(f"{self.path}: {topic} carries {connection.msgtype}, not {type_name}")
        with self._told():
            self._writer.write(connection, timestamp_ns, data)

    def close(self) -> None:
        """Finish the bag: index and metadata.yaml.

        Raises:
            BagError: as `write`.
        """
        with self._told():
            self._writer.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite has errors of its own for a disk that is full."""
        try:
            yield
        except sqlite3.Error as error:
            raise BagError(f"cannot write a bag to {self.path}: {error}; choose another folder") from error

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(sqlite3.Error):  # the error that there is tells more
                self._writer.abort()
