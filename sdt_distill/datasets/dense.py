"""DENSE and DENSE-Spike: 346x260 recordings of the CARLA simulator as numbered numpy files.

Sources: Hidalgo-Carrio et al., Learning Monocular Dense Depth from Events, 3DV 2020 (DENSE, and the field of view of
its recorder); Zhang et al., Spike Transformer, ECCV 2022 (DENSE-Spike).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import cached_property
from pathlib import Path

import numpy as np

from sdt_ros.events.binning import bin_edges, bin_on_cells, plain_cells

from . import files
from .coverage import covered
from .errors import broken
from .numbered import NumberedFiles
from .sample import Sample, SampleConfig, SequenceReader

FIELD_OF_VIEW_DEG = 83.0  # horizontal, of the recorder that made DENSE
_TOLERANCE_US = 1_000  # stamps of one moment differ by no more than their text's digits
_UNITS = {"s": 1e6, "us": 1.0, "ns": 1e-3}  # of event times, in us; CARLA counts ns, exports differ


class CarlaSequence(SequenceReader):
    """What DENSE and DENSE-Spike share: depth, frames and the pinhole camera."""

    def __init__(self, path: Path, name: str, config: SampleConfig) -> None:
        super().__init__(path, name, config)
        self._depth = NumberedFiles(self.where, path, "depth/data", "depth_", ".npy", "depth")
        self._frames = NumberedFiles(self.where, path, "rgb/frames", "frame_", ".png", "frame")

    @cached_property
    def stamps(self) -> dict[int, int]:
        """Stamp [us] of each depth image, by its number."""
        numbers, times = self._depth.stamps
        return dict(zip(numbers.tolist(), times.tolist(), strict=True))

    @property
    def all_indices(self) -> np.ndarray:
        """Numbers of all depth images."""
        return self._depth.stamps[0]

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width [px], those of the first depth image that is there."""
        for number in self.all_indices.tolist():
            if self._depth.path(number).is_file():
                array = files.read_array(self.where, self._depth.path(number), "the depth image", number)
                return int(array.shape[-2]), int(array.shape[-1])
        raise broken(
            self.where, self._depth.folder, "there are no depth images",
            "unpack the whole recording; test sequences without depth cannot be used",
        )  # fmt: skip

    @property
    def has_frames(self) -> bool:
        """Whether frames are there and wanted."""
        return self.config.frames and self._frames.folder.is_dir()

    @property
    def frame_stamps(self) -> np.ndarray | None:
        """Stamps of the frames [us]; None where there are none."""
        return self._frames.stamps[1] if self.has_frames else None

    @property
    def intrinsics(self) -> np.ndarray:
        """Of the pinhole camera that CARLA renders with, float64 [3, 3]."""
        height, width = self.size
        focal = width / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])

    def notes(self) -> list[str]:
        """What is worth knowing."""
        return [*super().notes(), *([] if self.has_frames or not self.config.frames else ["no frames (rgb/frames)"])]

    def read_depth(self, index: int) -> np.ndarray:
        """Depth [m], float32 [H, W]; the sky is at 1000 m."""
        path = self._depth.path(index)
        depth = files.read_array(self.where, path, "the depth image", index)
        depth = depth[0] if depth.ndim == 3 and depth.shape[0] == 1 else depth
        if depth.shape != self.size or depth.dtype.kind not in "fui":
            raise broken(
                self.where, path,
                f"the depth image is {depth.dtype} {list(depth.shape)}, the recording's {list(self.size)} in metres",
                "take the file of this recording", index,
            )  # fmt: skip
        metres = np.asarray(depth, np.float32)
        return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(np.nan))

    @abstractmethod
    def read_spikes(self, index: int) -> np.ndarray:
        """Spikes of the window before a depth image, uint8 [T, P, H, W]."""

    def read(self, index: int) -> Sample:
        """The sample of a depth image's number."""
        stamp = self.stamps[index]
        return Sample(
            spikes=self.read_spikes(index),
            depth=self.read_depth(index),
            t_end_us=stamp,
            stamp_ns=stamp * 1000,
            sequence=self.name,
            index=index,
            frame=self._read_frame(stamp),
            intrinsics=self.intrinsics,
        )

    def _read_frame(self, stamp_us: int) -> np.ndarray | None:
        number = self._frames.near(stamp_us, _TOLERANCE_US) if self.has_frames else None
        if number is None:
            return None
        path = self._frames.path(number)
        frame = np.asarray(files.read_image(self.where, path, "the frame", number).convert("RGB"))
        if frame.shape[:2] != self.size:
            raise broken(
                self.where, path, f"the frame has {frame.shape[1]}x{frame.shape[0]} px, depth "
                f"{self.size[1]}x{self.size[0]}", "take the file of this recording", number,
            )  # fmt: skip
        return frame


class DenseSequence(CarlaSequence):
    """One recording of DENSE; an event file holds what happened since the stamp before its own."""

    format = "dense"
    parts = ("stamps", "size", "unit", "indices", "frame_stamps")

    def __init__(self, path: Path, name: str, config: SampleConfig) -> None:
        super().__init__(path, name, config)
        self._events = NumberedFiles(self.where, path, "events/data", "events_", ".npy", "event")

    @cached_property
    def unit(self) -> str:
        """Unit of the event times: the one in which a file's events lie before its stamp."""
        numbers, times = self._events.stamps
        for k, number in enumerate(numbers.tolist()):
            if not self._events.path(number).is_file():
                continue
            events = self._load(number)
            if not len(events):
                continue
            first, last, stamp = float(events[0, 0]), float(events[-1, 0]), int(times[k])
            earliest = (int(times[k - 1]) if k else stamp - self._period) - _TOLERANCE_US
            for unit, scale in _UNITS.items():
                if earliest <= first * scale and last * scale <= stamp + _TOLERANCE_US:
                    return unit
            raise broken(
                self.where, self._events.path(number),
                f"events and stamps do not overlap: event times {first:g} to {last:g} lie in no unit between the "
                f"stamps {earliest / 1e6:.6f} and {stamp / 1e6:.6f} s",
                "take events and timestamps.txt of the same recording", number,
            )  # fmt: skip
        raise broken(self.where, self._events.folder, "there are no events", "unpack the whole recording")

    @cached_property
    def indices(self) -> np.ndarray:
        """Numbers of the depth images that have events before them."""
        times = self._events.stamps[1]
        ends = np.array(list(self.stamps.values()), np.int64)
        first = int(times[0]) - self._period
        whole = covered(self.where, self._events.folder, ends, self.config.window_us, first, int(times[-1]))
        return self.all_indices[whole]

    def read_spikes(self, index: int) -> np.ndarray:
        """Spikes of the window before a depth image, uint8 [T, 2, H, W]."""
        edges = bin_edges(self.stamps[index], self.config.window_us, self.config.bins)
        numbers, times = self._events.stamps
        begins = np.concatenate([[times[0] - self._period], times[:-1]])
        spikes = np.zeros((self.config.bins, 2, *self.size), np.uint8)
        for k in np.flatnonzero((times >= edges[0]) & (begins < edges[-1])):
            number = int(numbers[k])
            events = self._load(number)
            t = self._microseconds(events[:, 0])
            back = np.flatnonzero(np.diff(t) < 0)
            if back.size:
                raise broken(
                    self.where, self._events.path(number), f"the times of events go back after row {back[0]}",
                    "restore the original file", index,
                )  # fmt: skip
            if t.size and not begins[k] - _TOLERANCE_US <= t[0] <= t[-1] <= times[k] + _TOLERANCE_US:
                raise broken(
                    self.where, self._events.path(number),
                    f"events and stamps do not overlap: events from {t[0]} to {t[-1]} us, stamps from {begins[k]} to "
                    f"{times[k]} us", "take events and timestamps.txt of the same recording", index,
                )  # fmt: skip
            try:
                spikes |= bin_on_cells(
                    t, events[:, 1], events[:, 2], events[:, 3], plain_cells(*self.size), self.size, edges
                )
            except ValueError as error:
                raise broken(
                    self.where, self._events.path(number), f"{error}: events and depth have other sizes",
                    "take events and depth of the same recording", index,
                ) from None  # fmt: skip
        return spikes

    @cached_property
    def _period(self) -> int:
        times = self._events.stamps[1]
        return int(np.median(np.diff(times))) if len(times) > 1 else self.config.window_us

    def _load(self, number: int) -> np.ndarray:
        path = self._events.path(number)
        events = files.read_array(self.where, path, "the event file", number)
        if not events.size:
            return np.zeros((0, 4))
        if events.ndim != 2 or events.shape[1] != 4:
            raise broken(
                self.where, path, f"the event file has shape {list(events.shape)}, not [N, 4] of t, x, y, p",
                "take events/data, not events/voxels", number,
            )  # fmt: skip
        return events

    def _microseconds(self, t: np.ndarray) -> np.ndarray:
        if t.dtype.kind in "iu" and self.unit == "ns":
            return np.asarray(t, np.int64) // 1000
        if self.unit == "ns":
            return np.floor(np.asarray(t, np.float64) / 1000).astype(np.int64)
        return np.rint(np.asarray(t, np.float64) * _UNITS[self.unit]).astype(np.int64)


class DenseSpikeSequence(CarlaSequence):
    """One recording of DENSE-Spike: what a spiking camera of one polarity would fire between two depth images.

    A file's planes [128, H, W] end at its stamp. They make the bins, a bin fires where any of its planes does;
    `window_ms` has no meaning here, as the file has its own duration.
    """

    format = "dense-spike"
    parts = ("stamps", "size", "indices", "frame_stamps")

    def __init__(self, path: Path, name: str, config: SampleConfig) -> None:
        super().__init__(path, name, config)
        self._spikes = NumberedFiles(self.where, path, "spike/r128", "spike_", ".npy", "spike")

    @cached_property
    def indices(self) -> np.ndarray:
        """Numbers of the depth images that have spikes before them."""
        spikes = self._spikes.stamps[1]
        depth = np.array(list(self.stamps.values()), np.int64)
        k = np.searchsorted(spikes, depth)
        nearest = np.minimum(*(np.abs(depth - spikes[side.clip(0, len(spikes) - 1)]) for side in (k - 1, k)))
        both = nearest <= _TOLERANCE_US
        # The first file has no whole interval before it, as DENSE's first has none.
        both &= (depth > spikes[0] + _TOLERANCE_US) if len(spikes) > 1 else True
        if not both.any():
            raise broken(
                self.where, self._spikes.folder,
                f"spikes and depth do not overlap: spikes from {spikes[0]} to {spikes[-1]} us, depth from {depth[0]} "
                f"to {depth[-1]} us", "take spikes and depth of the same recording",
            )  # fmt: skip
        return self.all_indices[both]

    def notes(self) -> list[str]:
        """What is worth knowing."""
        return [*super().notes(), "windows are as long as the files' own, one polarity"]

    def read_spikes(self, index: int) -> np.ndarray:
        """Spikes between the depth image before and this one, uint8 [T, 1, H, W]."""
        number = self._spikes.near(self.stamps[index], _TOLERANCE_US)
        assert number is not None, "indices has only those that are near"
        path = self._spikes.path(number)
        planes = files.read_array(self.where, path, "the spike file", index)
        if planes.ndim != 3 or planes.shape[1:] != self.size:
            raise broken(
                self.where, path, f"the spike file has shape {list(planes.shape)}, depth {list(self.size)}",
                "take spikes and depth of the same recording", index,
            )  # fmt: skip
        count, bins = len(planes), self.config.bins
        if bins > count:
            raise broken(
                self.where, path, f"the spike file has {count} planes for {bins} bins", "ask for fewer bins", index
            )
        spikes = np.zeros((bins, 1, *self.size), np.uint8)
        for j in range(bins):
            block = np.asarray(planes[j * count // bins : (j + 1) * count // bins])
            if not np.isin(block, (0, 1)).all():
                raise broken(
                    self.where, path, "the spike file has values other than 0 and 1", "take the original file", index
                )
            spikes[j, 0] = (block != 0).any(0)
        return spikes


def find_sequences(root: Path, folder: str) -> list[Path]:
    """Folders of recordings at or below a folder, by what they must hold."""
    places = files.folders(root, 3)
    return sorted(p for p in places if (p / folder).is_dir())
