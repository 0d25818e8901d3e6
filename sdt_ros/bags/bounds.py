"""What a storage file may ask of memory and of the machine: `rosbags` believes every size that it reads.

A few kilobytes of zstd or lz4 can unpack to as many gigabytes, and a database can hold views that never come to an end.
"""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path
from typing import IO

import lz4.frame
import zstandard
from rosbags.rosbag2 import storage_mcap

from .errors import BagError

MOST_UNPACKED = 1 << 28  # [bytes] of one message or chunk; recorders write chunks of some megabytes
MOST_RATIO = 2000  # of a packed file; event data packs to a half, empty pages of a database to a thousandth
_FREE_BYTES = 1 << 29  # left on the disk
_STEP = 1 << 20
_ODD_SCHEMA = (
    "SELECT name FROM sqlite_master WHERE type NOT IN ('table', 'index') "
    "OR sql LIKE '%VIRTUAL%' OR sql LIKE '%GENERATED%' OR sql LIKE '% AS (%' OR sql LIKE '% AS(%' LIMIT 1"
)


def unpack_zstd(data: bytes, most: int = MOST_UNPACKED) -> bytes:
    """Unpack zstd, to at most so many bytes.

    Raises:
        BagError: it would be more.
        zstandard.ZstdError: it is damaged.
    """
    out = bytearray()
    with zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True) as source:
        while piece := source.read(_STEP):
            out += piece
            if len(out) > most:
                raise BagError(f"{len(data)} bytes unpack to more than the {most} that they may")
    return bytes(out)


def _unpack_lz4(data: bytes, most: int) -> bytes:
    decompressor = lz4.frame.LZ4FrameDecompressor()
    out = bytearray(decompressor.decompress(data, max_length=_STEP))
    while not decompressor.eof and not decompressor.needs_input:
        out += decompressor.decompress(b"", max_length=_STEP)
        if len(out) > most:
            raise BagError(f"{len(data)} bytes unpack to more than the {most} that they may")
    if not decompressor.eof:
        raise BagError("an lz4 chunk ends too early")
    return bytes(out)


def _bounded(size: int) -> int:
    if size > MOST_UNPACKED:
        raise BagError(f"a chunk of {size} bytes; at most {MOST_UNPACKED} are read")
    return size


def bound_chunks() -> None:
    """Have rosbags unpack a chunk of an MCAP file to no more than the size that its header tells.

    It has no setting for this; `test_bad_files.py` tells when another version of it no longer looks here.
    """
    storage_mcap.DECOMPRESSORS["zstd"] = lambda data, size: unpack_zstd(data, _bounded(size))
    storage_mcap.DECOMPRESSORS["lz4"] = lambda data, size: _unpack_lz4(data, _bounded(size))


def unpack_file(packed: IO[bytes], target: IO[bytes], packed_bytes: int, folder: Path) -> None:
    """Unpack a zstd file to disk, while that has room and the ratio is one that data have.

    Raises:
        BagError: there is no room, or the ratio is beyond all data.
        zstandard.ZstdError: it is damaged.
    """
    written, most = 0, MOST_RATIO * packed_bytes + _STEP
    with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as source:
        while piece := source.read(_STEP):
            written += len(piece)
            if written > most:
                raise BagError(f"{packed_bytes} bytes unpack to more than {most}: no recording does")
            if shutil.disk_usage(folder).free < _FREE_BYTES:
                raise BagError(f"no room to unpack it to in {folder}; set TMPDIR to a larger disk")
            target.write(piece)


def require_plain_tables(file: Path) -> None:
    """Refuse a database with anything but tables and indexes: views and computed columns run as code.

    Raises:
        BagError: it has such things.
        sqlite3.Error: it is damaged.
    """
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        odd = connection.execute(_ODD_SCHEMA).fetchone()
    finally:
        connection.close()
    if odd is not None:
        raise BagError(f"its {odd[0]!r} is a view, a trigger or computed, which no recorder writes")
