"""MVSEC: 346x260 events, grey frames and lidar depth in hdf5.

Source: Zhu et al., The Multi Vehicle Stereo Event Camera Dataset, RA-L 2018, and its data format page.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from sdt_ros.events.binning import bin_edges, bin_on_cells

from . import files
from .coverage import covered
from .errors import broken
from .rectification import rectified_cells
from .sample import Sample, SampleConfig, SequenceReader
from .timeline import Timeline, microseconds
from .warp import invert_map, sample_bilinear

_EVENTS = "davis/left/events"
_FRAMES, _FRAME_TIMES = "davis/left/image_raw", "davis/left/image_raw_ts"
_DEPTH, _DEPTH_TIMES = "davis/left/depth_image_rect", "davis/left/depth_image_rect_ts"
_FRAME_TOLERANCE_US = 25_000  # half of the distance of two depth images


class MvsecSequence(SequenceReader):
    """One recording: `NAME_data.hdf5`, `NAME_gt.hdf5`, and the maps of its scene."""

    format = "mvsec"
    parts = ("maps", "stamps", "span", "indices", "frame_stamps")

    def __init__(self, path: Path, name: str, config: SampleConfig) -> None:
        super().__init__(path, name, config)
        self._data = files.Hdf5File(self.where, path / f"{name}_data.hdf5", "the file of events and frames")
        self._truth = files.Hdf5File(
            self.where, path / f"{name}_gt.hdf5", "the file of depth (NAME_gt.hdf5, apart from NAME_data.hdf5)"
        )
        self._timeline = Timeline(self._data, _EVENTS, 2)

    @cached_property
    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Rectified column and row of each pixel, float64 [H, W] each."""
        scene = self.name.rstrip("0123456789")
        found = []
        for axis in "xy":
            names = (f"{self.name}_left_{axis}_map.txt", f"{scene}_left_{axis}_map.txt")
            places = [folder / name for name in names for folder in self._calibration_folders()]
            path = next((place for place in places if place.is_file()), self.path / f"{scene}_calib" / names[1])
            fix = f"unpack {scene}_calib.zip beside the hdf5 files"
            files.require(self.where, path, "the rectification map", fix)
            try:
                found.append(np.loadtxt(path, ndmin=2))
            except ValueError as error:
                raise broken(self.where, path, f"the rectification map is no table of numbers ({error})", fix) from None
            if found[-1].shape != self._sensor:
                shape = found[-1].shape
                raise broken(
                    self.where, path,
                    f"the rectification map has {shape[1]}x{shape[0]} px, the camera "
                    f"{self._sensor[1]}x{self._sensor[0]}",
                    "take the maps of this scene and of the left camera",
                )  # fmt: skip
        return found[0], found[1]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width [px]."""
        return self._sensor

    @cached_property
    def stamps(self) -> np.ndarray:
        """Stamps of the depth images [us], int64."""
        times = microseconds(self._truth.read(_DEPTH_TIMES))
        shape = self._truth.array(_DEPTH).shape
        if len(shape) != 3 or len(times) != shape[0]:
            raise broken(
                self.where, self._truth.path, f"{len(times)} stamps for depth images of shape {list(shape)}",
                "copy or download it again",
            )  # fmt: skip
        files.check_increasing(self.where, self._truth.path, times, f"stamps {_DEPTH_TIMES}")
        if tuple(shape[1:]) != self._sensor:
            raise broken(
                self.where, self._truth.path,
                f"depth has {shape[2]}x{shape[1]} px, the camera {self._sensor[1]}x{self._sensor[0]}",
                "use the gt and data files of the same recording",
            )  # fmt: skip
        return times

    @property
    def all_indices(self) -> np.ndarray:
        """Rows of all depth images."""
        return np.arange(len(self.stamps), dtype=np.int64)

    @cached_property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last event [us]."""
        shape = self._data.array(_EVENTS).shape
        if len(shape) != 2 or shape[1] != 4 or shape[0] == 0:
            raise broken(
                self.where, self._data.path, f"{_EVENTS} has shape {list(shape)}, not [N, 4] with N above 0",
                "copy or download it again",
            )  # fmt: skip
        return self._timeline.at(0), self._timeline.at(shape[0] - 1)

    @cached_property
    def indices(self) -> np.ndarray:
        """Rows of the depth images that have events before them."""
        whole = covered(self.where, self._data.path, self.stamps, self.config.window_us, *self.span)
        return self.all_indices[whole]

    @cached_property
    def frame_stamps(self) -> np.ndarray | None:
        """Stamps of the frames [us]; None where there are none, as in the recordings at night."""
        if not self.config.frames or _FRAMES not in self._data.open():
            return None
        times = microseconds(self._data.read(_FRAME_TIMES))
        files.check_increasing(self.where, self._data.path, times, f"stamps {_FRAME_TIMES}")
        return times

    @cached_property
    def intrinsics(self) -> np.ndarray | None:
        """Of the rectified grid, float64 [3, 3]; None where the scene's camchain is not there."""
        for folder in self._calibration_folders():
            for path in sorted(folder.glob("camchain-imucam-*.yaml")):
                content = files.read_yaml(self.where, path, "the calibration", "unpack the scene's calib archive")
                try:
                    return np.array(content["cam0"]["projection_matrix"], float).reshape(3, 4)[:, :3]
                except (KeyError, TypeError, ValueError) as error:
                    raise broken(
                        self.where, path, f"cam0 has no projection_matrix [3, 4] ({error!r})", "take MVSEC's own file"
                    ) from None
        return None

    def notes(self) -> list[str]:
        """What is worth knowing."""
        frames = [] if self.frame_stamps is not None or not self.config.frames else [f"no frames ({_FRAMES})"]
        unknown = [] if self.intrinsics is not None else ["no intrinsics (camchain-imucam-SCENE.yaml)"]
        return [*super().notes(), *frames, *unknown]

    def read_depth(self, index: int) -> np.ndarray:
        """Depth [m], float32 [H, W]; 0 and NaN are unknown."""
        depth = self._truth.read(_DEPTH, index, index + 1, index)[0].astype(np.float32)
        return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(np.nan))

    def read_spikes(self, t_end_us: int, index: int | None = None) -> np.ndarray:
        """Spikes of the window before a time, uint8 [T, 2, H, W]."""
        edges = bin_edges(t_end_us, self.config.window_us, self.config.bins)
        first, last = (self._timeline.first_from(int(t)) for t in (edges[0], edges[-1]))
        events = self._data.read(_EVENTS, first, max(first, last), index)
        t = microseconds(events[:, 2])
        back = np.flatnonzero(np.diff(t) < 0)
        if last < first or back.size or (t.size and not edges[0] <= t[0] <= t[-1] < edges[-1]):
            place = first + (int(back[0]) if back.size else 0)
            raise broken(
                self.where, self._data.path, f"the times of events go back near event {place}",
                "copy or download it again", index,
            )  # fmt: skip
        try:
            return bin_on_cells(t, events[:, 0], events[:, 1], events[:, 3], self._cells, self.size, edges)
        except ValueError as error:
            raise broken(self.where, self._data.path, str(error), "take the maps of this camera", index) from None

    def read(self, index: int) -> Sample:
        """The sample of a depth image's row."""
        stamp = int(self.stamps[index])
        return Sample(
            spikes=self.read_spikes(stamp, index),
            depth=self.read_depth(index),
            t_end_us=stamp,
            stamp_ns=stamp * 1000,
            sequence=self.name,
            index=index,
            frame=self._read_frame(stamp),
            intrinsics=None if self.intrinsics is None else self.intrinsics.copy(),
        )

    def close(self) -> None:
        """Close both files."""
        self._data.close()
        self._truth.close()

    @cached_property
    def _sensor(self) -> tuple[int, int]:
        """Height and width of the camera [px]: the frames say it, or else what every DAVIS346 has."""
        if _FRAMES in self._data.open():
            height, width = self._data.array(_FRAMES).shape[1:3]
            return int(height), int(width)
        return 260, 346

    @cached_property
    def _cells(self) -> np.ndarray:
        return rectified_cells(*self.maps, *self.size)

    @cached_property
    def _sources(self) -> tuple[np.ndarray, np.ndarray]:
        return invert_map(*self.maps)

    def _calibration_folders(self) -> list[Path]:
        scene = self.name.rstrip("0123456789")
        return [
            folder
            for base in (self.path, self.path.parent)
            for folder in (base / f"{scene}_calib", base / f"{self.name}_calib", base / "calib", base)
            if folder.is_dir()
        ]

    def _read_frame(self, stamp_us: int) -> np.ndarray | None:
        """The frame nearest in time on the rectified grid, uint8 [H, W]; None where there is none near."""
        times = self.frame_stamps
        if times is None or not times.size:
            return None
        row = int(np.argmin(np.abs(times - stamp_us)))
        if abs(int(times[row]) - stamp_us) > _FRAME_TOLERANCE_US:
            return None
        return sample_bilinear(self._data.read(_FRAMES, row, row + 1, row)[0], *self._sources)


def find_sequences(root: Path) -> list[tuple[Path, str]]:
    """Folder and name of each recording at or below a folder."""
    found = set()
    for pattern in ("*.hdf5", "*/*.hdf5", "*/*/*.hdf5"):
        for file in root.glob(pattern):
            for ending in ("_data", "_gt"):
                if file.stem.endswith(ending):
                    found.add((file.parent, file.stem.removesuffix(ending)))
    return sorted(found)
