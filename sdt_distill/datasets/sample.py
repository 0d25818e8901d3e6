"""What every data set gives, and how sequences of any format make one data set."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np

from sdt_ros.events import WindowConfig

from .errors import DatasetError


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """One window of spikes with the depth at its end.

    Attributes:
        spikes: uint8 [T, 2, H, W] in {0, 1}, polarity 0 is OFF, 1 is ON; [T, 1, H, W] from a spiking camera, which
            has one kind of spike.
        depth: float32 [H, W] along z [m], NaN where unknown.
        t_end_us: the time that the window ends before, on the data set's own clock [us].
        stamp_ns: the stamp of the depth image, on the same clock [ns].
        sequence: name of the recording.
        index: number of the depth image as the data set counts them.
        frame: uint8 [H, W, 3] RGB or [H, W] grey, aligned to the event camera; None where there is none.
        intrinsics: float64 [3, 3] of the grid that spikes and depth are on [px]; None where they are not known.
    """

    spikes: np.ndarray
    depth: np.ndarray
    t_end_us: int
    stamp_ns: int
    sequence: str
    index: int
    frame: np.ndarray | None = None
    intrinsics: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class SampleConfig:
    """What is made of the events.

    Attributes:
        window_ms: duration of the window before each depth image [ms].
        bins: time bins T of a window.
        frames: whether to read the camera's frames.
    """

    window_ms: float = 50.0
    bins: int = 4
    frames: bool = True

    def __post_init__(self) -> None:
        WindowConfig(window_ms=self.window_ms, bins=self.bins, rate_hz=1.0)  # refuses what the node refuses

    @property
    def window_us(self) -> int:
        """Duration of a window [us]."""
        return round(self.window_ms * 1000)


class Dataset(Protocol):
    """What a trainer reads: a map-style data set that may be sent to the workers of a data loader."""

    @property
    def sequences(self) -> Sequence[str]:
        """Names of the recordings."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def describe(self) -> str:
        """What there is, in words."""


class SequenceReader(ABC):
    """One recording of a format. It is made without reading; each part is read on first use."""

    format: ClassVar[str]  # as on the command line
    parts: ClassVar[tuple[str, ...]]  # properties that must be readable, in the order in which they are checked

    def __init__(self, path: Path, name: str, config: SampleConfig) -> None:
        self.path = path
        self.name = name
        self.config = config

    @property
    def where(self) -> str:
        """Format and name, for messages."""
        return f"{self.format} {self.name}"

    @property
    @abstractmethod
    def indices(self) -> np.ndarray:
        """Numbers of the depth images that have events before them, int64 [N]."""

    @property
    @abstractmethod
    def all_indices(self) -> np.ndarray:
        """Numbers of all depth images that the data set means to be used, int64."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of the samples [px]."""

    @abstractmethod
    def read_depth(self, index: int) -> np.ndarray:
        """Depth image of a number, float32 [H, W] metres, NaN where unknown."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The sample of a depth image's number."""

    def notes(self) -> list[str]:
        """What is worth knowing without being wrong."""
        left_out = len(self.all_indices) - len(self.indices)
        return (
            [f"{left_out} depth images have no whole window of events before them and are left out"] if left_out else []
        )

    def check_parts(self) -> Iterator[DatasetError]:
        """Yield what is wrong with the parts."""
        for part in self.parts:
            try:
                getattr(self, part)
            except DatasetError as error:
                yield error

    def check_content(self) -> Iterator[DatasetError]:
        """Yield what is wrong within files whose form is right, as a checksum tells; reads them whole."""
        return iter(())

    def close(self) -> None:  # noqa: B027  most formats keep nothing open
        """Close what is open; the next use opens it again."""

    def __len__(self) -> int:
        return len(self.indices)


class SequenceDataset:
    """Recordings of one format, one after the other.

    Args:
        readers: the recordings; every part of each is read at once, so that what is broken is told before training.

    Raises:
        DatasetError: a part is missing or broken.
    """

    def __init__(self, readers: Sequence[SequenceReader]) -> None:
        self._readers = tuple(readers)
        for reader in self._readers:
            for error in reader.check_parts():
                raise error
            reader.close()
        self._ends = list(itertools.accumulate(len(reader) for reader in self._readers))

    @property
    def readers(self) -> tuple[SequenceReader, ...]:
        """The recordings."""
        return self._readers

    @property
    def sequences(self) -> tuple[str, ...]:
        """Names of the recordings."""
        return tuple(reader.name for reader in self._readers)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        k = bisect.bisect_right(self._ends, position)
        reader = self._readers[k]
        return reader.read(int(reader.indices[position - self._ends[k] + len(reader)]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def describe(self) -> str:
        """What there is, in words: a line for the whole, one for each recording."""
        if not self._readers:
            return "no sequences"
        config, kind = self._readers[0].config, self._readers[0].format
        height, width = self._readers[0].size
        lines = [
            f"{kind}: {len(self)} samples of {width}x{height} px in {len(self._readers)} sequences, "
            f"{config.bins} bins, windows of {config.window_ms:g} ms"
        ]
        for reader in self._readers:
            lines.append("; ".join([f"  {reader.name}: {len(reader)} samples", *reader.notes()]))
        return "\n".join(lines)
