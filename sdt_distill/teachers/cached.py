"""What a teacher saw, on disk, so that only the first epoch pays for it.

A folder `<cache>/<key of the teacher>/` holds pairs of files: `NAME.bin`, float16 records one after the other, and
`NAME.json`, which says what a record is made of and which frame has which. A pair is never changed. Both are written
under another name and renamed, the JSON last: what has no JSON does not exist. So a kill at any moment leaves nothing
broken, and processes that share the folder need no lock; at worst a frame is there twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdt_distill.teachers.base import DepthKind, Teacher, TeacherError, TeacherOutput
from sdt_ros.text_files import read_json

logger = logging.getLogger(__name__)

FORMAT = 1
_MOST_BYTES = 256 << 20  # of an index: it names every frame
STALE_SECONDS = 3600.0  # a half-written file of that age belongs to no running process


@dataclass(frozen=True)
class Layout:
    """What a record is made of.

    Attributes:
        shapes: shape [C, h, w] of each layer by name, in the order of the record.
        depth: shape [1, H, W] of the depth behind them, None without.
        kind: what the depth is.
    """

    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    depth: tuple[int, ...] | None
    kind: DepthKind | None

    @property
    def values(self) -> int:
        """Numbers in a record."""
        return sum(math.prod(shape) for _, shape in self.shapes) + (math.prod(self.depth) if self.depth else 0)

    @classmethod
    def of(cls, output: TeacherOutput) -> Layout:
        """The layout of a batch's records."""
        shapes = tuple((name, tuple(each.shape[1:])) for name, each in output.features.items())
        depth = None if output.depth is None else tuple(output.depth.shape[1:])
        return cls(shapes, depth, output.depth_kind)


class CachedTeacher:
    """A teacher that sees every frame once.

    What it gives is what the disk holds, rounded to float16, at the first call too: an epoch that computes and an epoch
    that reads train alike.

    Args:
        teacher: the teacher.
        folder: where teachers are cached; each has its own folder in it, named by its key.
        frames: frames that there will be in all; with it the size is told, and checked against the disk, before the
            first is written.
        buffer_bytes: written in one go. What is not yet written when the process is killed is computed again.
    """

    def __init__(
        self, teacher: Teacher, folder: str | Path, frames: int | None = None, buffer_bytes: int = 64 << 20
    ) -> None:
        self._teacher = teacher
        self._folder = Path(folder) / teacher.key[:16]
        self._frames = frames
        self._buffer_bytes = buffer_bytes
        self._places: dict[str, tuple[np.ndarray, Layout]] = {}
        self._pending: dict[str, np.ndarray] = {}
        self._pending_layout: Layout | None = None
        self._seen: set[str] = set()
        self._told = False
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TeacherError(
                f"teacher cache {folder}: cannot be made: {error.strerror}; name another folder"
            ) from error
        self._remove_stale()
        self._read_indices()

    @property
    def name(self) -> str:
        """The teacher's."""
        return self._teacher.name

    @property
    def key(self) -> str:
        """The teacher's."""
        return self._teacher.key

    @property
    def layers(self) -> dict[str, int]:
        """The teacher's."""
        return self._teacher.layers

    def __len__(self) -> int:
        return len(self._places) + len(self._pending)

    def __contains__(self, key: str) -> bool:
        return key in self._places or key in self._pending

    def __call__(self, frames: Tensor, keys: Sequence[str]) -> TeacherOutput:
        """What the teacher sees.

        Args:
            frames: in [0, 1], float32 [B, 1 or 3, H, W], before any augmentation.
            keys: a stable name of each frame, B of them; equal keys are equal frames.

        Returns:
            Float32 maps and depth on the device of `frames`.

        Raises:
            TeacherError: the disk has no room for all frames, or those of one batch were cached at different sizes.
        """
        if len(keys) != len(frames):
            raise ValueError(f"{len(frames)} frames came with {len(keys)} keys")
        if any(key not in self for key in keys):
            self._read_indices()  # another process may have been there
        missing = [i for i, key in enumerate(keys) if key not in self and key not in keys[:i]]
        if missing:
            self._add([keys[i] for i in missing], self._teacher(frames[missing]))
        records = [self._record(key) for key in keys]
        layout = records[0][1]
        for key, (_, other) in zip(keys, records, strict=True):
            if other != layout:
                raise TeacherError(f"teacher cache {self._folder}: {key} was cached at another size than {keys[0]}; "
                                   "one key names two frames: delete the folder")  # fmt: skip
        output = _unpack(np.stack([record for record, _ in records]), layout, frames.device)
        if sum(record.nbytes for record in self._pending.values()) >= self._buffer_bytes:
            self.keep()
        return output

    def keep(self) -> None:
        """Writes what has not been written. A disk that does not take it costs time later, and is told."""
        try:
            self.flush()
        except TeacherError as error:
            logger.warning("%s. %d frames will be computed again", error, len(self._pending))
            self._pending, self._pending_layout = {}, None

    def flush(self) -> None:
        """Writes what has not been written.

        Raises:
            TeacherError: the disk does not take it; it can be tried again.
        """
        if not self._pending:
            return
        layout, pending = self._pending_layout, self._pending
        assert layout is not None
        name = f"{time.time_ns():x}-{uuid.uuid4().hex[:12]}"
        index = {
            "format": FORMAT,
            "teacher": {"name": self.name, "key": self.key},
            "layers": {layer: list(shape) for layer, shape in layout.shapes},
            "depth": None if layout.depth is None else list(layout.depth),
            "depth_kind": layout.kind,
            "frames": list(pending),
        }
        try:
            with (self._folder / f"{name}.bin.new").open("wb") as stream:
                for record in pending.values():
                    stream.write(record.tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            (self._folder / f"{name}.json.new").write_text(json.dumps(index), encoding="utf-8")
            for ending in ("bin", "json"):
                (self._folder / f"{name}.{ending}.new").replace(self._folder / f"{name}.{ending}")
        except OSError as error:
            for ending in ("bin", "json", "bin.new", "json.new"):
                (self._folder / f"{name}.{ending}").unlink(missing_ok=True)
            raise TeacherError(
                f"teacher cache {self._folder}: cannot be written: {error.strerror}; "
                "free space, name another folder, or leave teacher key 'cache' out"
            ) from error
        self._pending, self._pending_layout = {}, None
        self._read_index(self._folder / f"{name}.json")

    def close(self) -> None:
        """Writes what has not been written and lets go of the files."""
        self.flush()
        self._places.clear()
        self._seen.clear()

    def _add(self, keys: Sequence[str], output: TeacherOutput) -> None:
        layout = Layout.of(output)
        self._tell(layout)
        if self._pending and self._pending_layout != layout:
            self.keep()
        self._pending_layout = layout
        for key, record in zip(keys, _pack(output, len(keys)), strict=True):
            self._pending[key] = record

    def _record(self, key: str) -> tuple[np.ndarray, Layout]:
        if key in self._pending:
            assert self._pending_layout is not None
            return self._pending[key], self._pending_layout
        return self._places[key]

    def _tell(self, layout: Layout) -> None:
        if self._told:
            return
        self._told = True
        each, free = 2 * layout.values, shutil.disk_usage(self._folder).free
        if self._frames is None:
            logger.info("teacher cache %s: %.2f MB a frame, %.1f GB free", self._folder, each / 1e6, free / 1e9)
            return
        left = max(0, self._frames - len(self))
        logger.info(
            "teacher cache %s: %d of %d frames to come, %.2f MB each, %.2f GB in all, %.1f GB free",
            self._folder, left, self._frames, each / 1e6, left * each / 1e9, free / 1e9,
        )  # fmt: skip
        if left * each > free:
            raise TeacherError(
                f"teacher cache {self._folder}: {left} frames need {left * each / 1e9:.1f} GB, {free / 1e9:.1f} GB are "
                "free: name another folder, take fewer layers, or leave teacher key 'cache' out"
            )

    def _remove_stale(self) -> None:
        for path in self._folder.glob("*.new"):
            try:
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:  # its process renamed it meanwhile
                continue

    def _read_indices(self) -> None:
        for path in sorted(self._folder.glob("*.json")):
            if path.name not in self._seen:
                self._read_index(path)

    def _read_index(self, path: Path) -> None:
        """Maps a pair of files; what is damaged is left aside, and its frames are computed again."""
        self._seen.add(path.name)
        data = path.with_suffix(".bin")
        try:
            index = read_json(path, _MOST_BYTES)
            if index["format"] != FORMAT or index["teacher"]["key"] != self.key:
                raise ValueError("it is another teacher's, or of another version")
            shapes = tuple((name, tuple(shape)) for name, shape in index["layers"].items())
            depth = None if index["depth"] is None else tuple(index["depth"])
            layout = Layout(shapes, depth, index["depth_kind"])
            frames = index["frames"]
            if data.stat().st_size != 2 * layout.values * len(frames):
                raise ValueError(f"{data.name} is not as long as the index says")
            records = np.memmap(data, np.float16, "r", shape=(len(frames), layout.values))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("teacher cache %s: damaged (%s); its frames are computed again", path, error)
            return
        for i, key in enumerate(frames):
            self._places.setdefault(key, (records[i], layout))


def _pack(output: TeacherOutput, frames: int) -> np.ndarray:
    """A batch as float16 records [B, values].

    Raises:
        TeacherError: a feature is not finite, or too large for float16.
    """
    flat = [each.reshape(frames, -1) for each in output.features.values()]
    if flat and not torch.isfinite(torch.cat(flat, 1).half()).all():
        raise TeacherError("the teacher gives features that are not finite or beyond 65504: its weights are damaged")
    if output.depth is not None:
        flat.append(output.depth.reshape(frames, -1))
    return torch.cat([each.float() for each in flat], 1).half().cpu().numpy()


def _unpack(records: np.ndarray, layout: Layout, device: torch.device) -> TeacherOutput:
    """Float16 records [B, values] to float32 maps."""
    values = torch.from_numpy(records).to(device).float()
    sizes = [math.prod(shape) for _, shape in layout.shapes]
    if layout.depth is not None:
        sizes.append(math.prod(layout.depth))
    pieces = values.split(sizes, 1)
    features = {name: piece.reshape(-1, *shape) for (name, shape), piece in zip(layout.shapes, pieces, strict=False)}
    depth = None if layout.depth is None else pieces[-1].reshape(-1, *layout.depth)
    return TeacherOutput(features, depth, layout.kind)
