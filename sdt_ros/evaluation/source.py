"""Where windows and their truth come from: recordings and data sets give the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from sdt_ros.evaluation.spread import spread_evenly
from sdt_ros.lens import focal_length


@dataclass(frozen=True, slots=True)
class Window:
    """One window of spikes, and the depth at its end.

    Attributes:
        group: the recording or scene family that it is of.
        stamp_ns: of the depth image that is to be made [ns].
        spikes: uint8 [T, P, H, W] in {0, 1}, oldest bin first.
        truth: float32 [H, W] metres; None where there is none near enough in time.
        truth_ns: stamp of the truth [ns].
        events: in the window; None where they are not counted.
        focal_px: focal length of the camera on the grid of the spikes [px]; None where it is not known.
        end_ns: its end on the sensor's clock [ns]; None where `stamp_ns` is of no other clock.
    """

    group: str
    stamp_ns: int
    spikes: np.ndarray
    truth: np.ndarray | None
    truth_ns: int | None = None
    events: int | None = None
    focal_px: float | None = None
    end_ns: int | None = None


class Source(Protocol):
    """Gives windows, one after the other, and says afterwards what it left out."""

    where: str
    """File and topic, or data set and folder, for messages."""

    def __iter__(self) -> Iterator[Window]: ...

    def finish(self, depth: np.ndarray) -> np.ndarray:
        """Depth of a window as it is published: on the grid of the truth."""

    def notes(self) -> dict[str, str]:
        """Settings that are known only when all windows were given."""

    def counts(self) -> dict[str, int]:
        """What became of windows, truth and packets; asked when all windows were given."""

    def why_nothing(self) -> str:
        """Why there was no window with a truth."""


@dataclass
class DatasetSource:
    """The samples of a data set, or some of them spread evenly.

    Args:
        dataset: gives samples by index, as `sdt_distill.datasets.Dataset` describes it.
        where: format and folder, for messages.
        samples: how many; all if None.
        min_events: windows with fewer spikes are left out.
    """

    dataset: Any
    where: str
    samples: int | None = None
    min_events: int = 0
    _counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.dataset) if self.samples is None else min(self.samples, len(self.dataset))

    def __iter__(self) -> Iterator[Window]:
        self._counts = {"samples": len(self.dataset), "truth_images": 0, "windows_empty": 0}
        for number in spread_evenly(len(self.dataset), len(self)):
            sample = self.dataset[number]
            self._counts["truth_images"] += 1
            spikes = int(np.count_nonzero(sample.spikes))
            if spikes < self.min_events:
                self._counts["windows_empty"] += 1
                continue
            stamp_ns, k = int(sample.stamp_ns), sample.intrinsics
            focal_px = None if k is None else focal_length(k)
            yield Window(sample.sequence, stamp_ns, sample.spikes, sample.depth, truth_ns=stamp_ns, focal_px=focal_px)

    def finish(self, depth: np.ndarray) -> np.ndarray:
        """Data sets give spikes on the grid of their truth."""
        return depth

    def notes(self) -> dict[str, str]:
        """Nothing more."""
        return {}

    def counts(self) -> dict[str, int]:
        """Samples there are, samples taken, windows left out."""
        return self._counts

    def why_nothing(self) -> str:
        """Why there was no window with a truth."""
        if self._counts.get("windows_empty"):
            return (
                f"{self.where}: all {self._counts['windows_empty']} windows have fewer spikes than --min-events "
                f"{self.min_events}; lower it"
            )
        return f"{self.where}: there is no sample; look at it by sdt-distill data check"
