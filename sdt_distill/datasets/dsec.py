"""DSEC: 640x480 events in hdf5, disparity as 16 bit PNG, frames of a second camera.

Source: Gehrig et al., DSEC: A Stereo Event Camera Dataset for Driving Scenarios, RA-L 2021, and its data format page.
Cameras: 0 is the left event camera, 1 the left frame camera, 3 the right event camera.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sdt_ros.events.binning import bin_edges, bin_on_cells

from . import files
from .coverage import covered
from .errors import broken
from .rectification import rectified_cells
from .sample import Sample, SampleConfig, SequenceReader
from .warp import homography_grid, sample_bilinear

_FRAME_TOLERANCE_US = 5_000  # frames and disparities share a trigger; further apart they are not of one moment
_FILE_RATE_US = 75_000  # between the 50 ms of frames and the 100 ms of disparities


class DsecSequence(SequenceReader):
    """One recording: `events/left`, `disparity/event`, `calibration` and, if there, `images/left/rectified`."""

    format = "dsec"
    parts = ("calibration", "cells", "stamps", "span", "indices", "frame_stamps")

    def __init__(self, path: Path, name: str, config: SampleConfig) -> None:
        super().__init__(path, name, config)
        self._events = files.Hdf5File(self.where, path / "events/left/events.h5", "the event file")

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """`Q` [4, 4]; `K0` and `K1` [3, 3]; `frames` [3, 3], from rectified pixels of events to those of frames."""
        path = self.path / "calibration/cam_to_cam.yaml"
        fix = "unpack the sequence's calibration archive here; sequences of the test set are published without depth"
        content = files.read_yaml(self.where, path, "the calibration", fix)
        try:
            q = np.array(content["disparity_to_depth"]["cams_03"], float).reshape(4, 4)
            k0, k1 = (_pinhole(content["intrinsics"][name]["camera_matrix"]) for name in ("camRect0", "camRect1"))
            extrinsics = content["extrinsics"]
            r0, r1 = (np.array(extrinsics[name], float).reshape(3, 3) for name in ("R_rect0", "R_rect1"))
            t10 = np.array(extrinsics["T_10"], float).reshape(4, 4)
        except (KeyError, TypeError, ValueError) as error:
            raise broken(
                self.where, path, f"the calibration lacks a value or has another shape ({error!r})",
                "take DSEC's own cam_to_cam.yaml",
            ) from None  # fmt: skip
        if q[2, 3] == 0 or q[3, 2] == 0:
            raise broken(self.where, path, "cams_03 has a zero focal length or baseline", "take DSEC's own file")
        # The cameras' centres lie some centimetres apart; without dense depth that shift cannot be undone, and far away
        # it vanishes: only the rotation is.
        return {"Q": q, "K0": k0, "K1": k1, "frames": k1 @ r1 @ t10[:3, :3] @ r0.T @ np.linalg.inv(k0)}

    @cached_property
    def cells(self) -> np.ndarray:
        """Where each pixel's events go on the rectified grid, int32 [H, W]."""
        path = self.path / "events/left/rectify_map.h5"
        file = files.Hdf5File(self.where, path, "the rectification map")
        rectify = file.read("rectify_map")
        file.close()
        if rectify.ndim != 3 or rectify.shape[2] != 2:
            raise broken(
                self.where, path, f"the rectification map has shape {list(rectify.shape)}, not [H, W, 2]",
                "take DSEC's own rectify_map.h5",
            )  # fmt: skip
        return rectified_cells(rectify[..., 0], rectify[..., 1], *rectify.shape[:2])

    @property
    def size(self) -> tuple[int, int]:
        """Height and width [px]."""
        height, width = self.cells.shape
        return height, width

    @cached_property
    def stamps(self) -> dict[int, int]:
        """Stamp [us] of each depth image, by its number: even ones, the first is dropped."""
        folder, path = self.path / "disparity/event", self.path / "disparity/timestamps.txt"
        rows = files.read_numbers(self.where, path, 1, "the list of disparity stamps")
        times = np.array([round(float(row[0])) for row in rows], np.int64)
        files.check_increasing(self.where, path, times, "disparity stamps")
        numbers = sorted(int(file.stem) for file in folder.glob("*.png") if file.stem.isdigit())
        if not numbers:
            raise broken(
                self.where, folder, "there are no disparity images",
                "unpack disparity_event here; sequences of the test set have none, use those of the training set",
            )  # fmt: skip
        if odd := [number for number in numbers if number % 2]:
            raise broken(
                self.where, folder / f"{odd[0]:06d}.png", "disparities on the event camera's grid have even numbers",
                "disparity/image may have been copied over disparity/event: unpack the latter again", odd[0],
            )  # fmt: skip
        # A row for each disparity, or one for each frame, of which every second has a disparity.
        per_frame = len(times) not in (len(numbers), 1) and len(times) > numbers[-1]
        per_frame = per_frame and float(np.median(np.diff(times))) < _FILE_RATE_US
        row_of = {number: number if per_frame else number // 2 for number in numbers}
        if row_of[numbers[-1]] >= len(times):
            raise broken(
                self.where, path, f"{len(times)} stamps do not reach disparity {numbers[-1]:06d}.png",
                "take the timestamps.txt of this sequence", row_of[numbers[-1]],
            )  # fmt: skip
        # All that the list names, so that a missing image is told.
        last = (len(times) - 1) if per_frame else 2 * (len(times) - 1)
        return {number: int(times[number if per_frame else number // 2]) for number in range(2, last + 1, 2)}

    @property
    def all_indices(self) -> np.ndarray:
        """Numbers of all disparity images but the first."""
        return np.array(list(self.stamps), np.int64)

    @cached_property
    def span(self) -> tuple[int, int]:
        """Times of the first and the last event [us]."""
        count = len(self._events.array("events/t"))
        for key in ("events/x", "events/y", "events/p"):
            if len(self._events.array(key)) != count:
                raise broken(
                    self.where, self._events.path, f"{key} has {len(self._events.array(key))} values, events/t {count}",
                    "copy or download it again",
                )  # fmt: skip
        self._events.array("ms_to_idx")
        if count == 0:
            raise broken(self.where, self._events.path, "there are no events", "copy or download it again")
        ends = [int(self._events.read("events/t", i, i + 1)[0]) for i in (0, count - 1)]
        return ends[0] + self._offset, ends[1] + self._offset

    @cached_property
    def indices(self) -> np.ndarray:
        """Numbers of the disparity images that have events before them."""
        ends = np.array(list(self.stamps.values()), np.int64)
        return self.all_indices[covered(self.where, self._events.path, ends, self.config.window_us, *self.span)]

    @cached_property
    def frame_stamps(self) -> np.ndarray | None:
        """Stamps of the frames [us]; None where there are none."""
        if not self.config.frames or not self._frames.is_dir():
            return None
        path = self.path / "images/timestamps.txt"
        rows = files.read_numbers(self.where, path, 1, "the list of frame stamps")
        times = np.array([round(float(row[0])) for row in rows], np.int64)
        files.check_increasing(self.where, path, times, "frame stamps")
        return times

    def notes(self) -> list[str]:
        """What is worth knowing."""
        frames = (
            [] if self.frame_stamps is not None or not self.config.frames else ["no frames (images/left/rectified)"]
        )
        return [*super().notes(), *frames]

    def read_depth(self, index: int) -> np.ndarray:
        """Depth |Q[2,3]| / (|Q[3,2]| disparity) [m], float32 [H, W]."""
        path = self.path / f"disparity/event/{index:06d}.png"
        image = files.read_image(self.where, path, "the disparity image", index)
        values = np.asarray(image)
        if values.ndim != 2 or not image.mode.startswith("I"):
            raise broken(
                self.where, path, f"the disparity image has mode {image.mode}, not 16 bit grey",
                "take DSEC's own file; image tools may have converted it", index,
            )  # fmt: skip
        if values.shape != self.size:
            raise broken(
                self.where, path,
                f"the disparity image has {values.shape[1]}x{values.shape[0]} px, the events "
                f"{self.size[1]}x{self.size[0]}",
                "use disparity/event of the same sequence, not disparity/image", index,
            )  # fmt: skip
        disparity = values.astype(np.float32) / 256
        q = self.calibration["Q"]
        with np.errstate(divide="ignore"):
            depth = np.float32(abs(q[2, 3]) / abs(q[3, 2])) / disparity
        return np.where(disparity > 0, depth, np.float32(np.nan)).astype(np.float32)

    def read_spikes(self, t_end_us: int, index: int | None = None) -> np.ndarray:
        """Spikes of the window before a time, uint8 [T, 2, H, W]."""
        edges = bin_edges(t_end_us - self._offset, self.config.window_us, self.config.bins)
        first, last = self._slice(int(edges[0]), int(edges[-1]), index)
        t, x, y, p = (self._events.read(f"events/{key}", first, last, index) for key in "txyp")
        t = t.astype(np.int64)
        back = np.flatnonzero(np.diff(t) < 0)
        if back.size:
            raise broken(
                self.where, self._events.path, f"the times of events go back after event {first + int(back[0])}",
                "copy or download it again", index,
            )  # fmt: skip
        try:
            return bin_on_cells(t, x, y, p, self.cells, self.size, edges)
        except ValueError as error:
            raise broken(self.where, self._events.path, str(error), "take the events of this camera", index) from None

    def read(self, index: int) -> Sample:
        """The sample of a disparity image's number."""
        stamp = self.stamps[index]
        return Sample(
            spikes=self.read_spikes(stamp, index),
            depth=self.read_depth(index),
            t_end_us=stamp,
            stamp_ns=stamp * 1000,
            sequence=self.name,
            index=index,
            frame=self._read_frame(stamp),
            intrinsics=self.calibration["K0"].copy(),
        )

    def close(self) -> None:
        """Close the event file."""
        self._events.close()

    @cached_property
    def _offset(self) -> int:
        return int(self._events.read("t_offset").reshape(-1)[0])

    @property
    def _frames(self) -> Path:
        return self.path / "images/left/rectified"

    def _slice(self, start_us: int, end_us: int, index: int | None) -> tuple[int, int]:
        """Bounds of the events in whole milliseconds around a window, by the index of the file."""
        start_ms, end_ms = max(0, start_us // 1000), max(0, -(-end_us // 1000))
        table = self._events.array("ms_to_idx")
        count = len(self._events.array("events/t"))
        edges = [
            int(self._events.read("ms_to_idx", ms, ms + 1, index)[0]) if ms < len(table) else count
            for ms in (start_ms, end_ms)
        ]
        first, last = edges
        if first > last or last > count:
            raise broken(
                self.where, self._events.path,
                f"ms_to_idx at {start_ms} and {end_ms} ms gives events {first} to {last} of {count}",
                "copy or download it again", index,
            )  # fmt: skip
        # The first event of the slice must not lie before the millisecond that the table promises, nor the one before
        # it behind.
        for k, wrong in ((first, lambda t: t < start_ms * 1000), (first - 1, lambda t: t >= start_ms * 1000)):
            if 0 <= k < count and wrong(int(self._events.read("events/t", k, k + 1, index)[0])):
                raise broken(
                    self.where, self._events.path, f"ms_to_idx does not fit the times of events at {start_ms} ms",
                    "copy or download it again", index,
                )  # fmt: skip
        return first, last

    def _read_frame(self, stamp_us: int) -> np.ndarray | None:
        """The frame of a moment on the event camera's rectified grid, uint8 [H, W, 3]; None where there is none."""
        times = self.frame_stamps
        if times is None:
            return None
        row = int(np.argmin(np.abs(times - stamp_us)))
        if abs(int(times[row]) - stamp_us) > _FRAME_TOLERANCE_US:
            return None
        path = self._frames / f"{row:06d}.png"
        image = files.read_image(self.where, path, "the frame", row).convert("RGB")
        factor, x, y = self._frame_grid
        return sample_bilinear(np.asarray(image.reduce(factor) if factor > 1 else image), x, y)

    @cached_property
    def _frame_grid(self) -> tuple[int, np.ndarray, np.ndarray]:
        """How far frames are reduced, and where each event pixel lies in the reduced one [px]."""
        # Where a pixel of events covers several of the frame, their mean is taken, or fine texture would alias.
        factor = max(1, round(self.calibration["K1"][0, 0] / self.calibration["K0"][0, 0]))
        x, y = homography_grid(self.calibration["frames"], *self.size)
        return factor, (x + 0.5) / factor - 0.5, (y + 0.5) / factor - 0.5


def _pinhole(values: Any) -> np.ndarray:
    """Intrinsics [3, 3] from fx, fy, cx, cy."""
    fx, fy, cx, cy = (float(value) for value in values)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def find_sequences(root: Path) -> list[Path]:
    """Folders of recordings at or below a folder."""
    places = files.folders(root, 2)
    return sorted(p for p in places if (p / "events/left").is_dir() or (p / "disparity/event").is_dir())


__all__ = ["DsecSequence", "find_sequences"]
