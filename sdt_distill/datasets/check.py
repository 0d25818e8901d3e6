"""What is missing or broken in a data set: every part and file of every recording is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .errors import DatasetError
from .sample import Sample, SequenceReader


@dataclasses.dataclass(frozen=True, slots=True)
class SequenceReport:
    """What was found of one recording.

    Attributes:
        name: of the recording.
        depth_images: depth images that there should be.
        samples: those with events before them; 0 where that could not be found out.
        read: samples that were read whole, without error.
        events_per_sample: mean number of spikes in those.
        depth_share: mean share of pixels with a depth in those.
        nearest_m: least depth in those [m], None where there is none.
        farthest_m: greatest depth in those [m], None where there is none.
        problems: what is missing or broken, one message a file.
        notes: what is worth knowing without being wrong.
    """

    name: str
    depth_images: int
    samples: int
    read: int
    events_per_sample: float
    depth_share: float
    nearest_m: float | None
    farthest_m: float | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was found of a data set.

    Attributes:
        root: where it is.
        format: what it is.
        sequences: its recordings.
        missing: recordings of the split asked for that are not there.
    """

    root: Path
    format: str
    sequences: tuple[SequenceReport, ...]
    missing: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether there are samples and nothing is wrong or missing."""
        return any(s.samples for s in self.sequences) and not self._broken

    @property
    def _broken(self) -> bool:
        return bool(self.missing) or any(s.problems for s in self.sequences)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        sequences = [dataclasses.asdict(sequence) for sequence in self.sequences]
        return {
            "root": str(self.root), "dataset": self.format, "sound": self.sound, "missing": list(self.missing),
            "sequences": sequences,
        }  # fmt: skip

    def text(self, most_problems: int = 10) -> str:
        """For people: a line for each recording, and its problems below."""
        total = sum(s.samples for s in self.sequences)
        lines = [f"{self.root}: {self.format}, {len(self.sequences)} sequence(s), {total} samples"]
        for s in self.sequences:
            state = f"{len(s.problems)} PROBLEM(S)" if s.problems else "sound"
            lines.append(f"  {s.name}: {state}; {s.samples} samples of {s.depth_images} depth images, {s.read} read")
            if s.read:
                reach = "" if s.nearest_m is None else f" from {s.nearest_m:.2f} to {s.farthest_m:.2f} m"
                lines.append(
                    f"    {s.events_per_sample:.0f} spikes a sample, depth in {s.depth_share:.0%} of pixels{reach}"
                )
            lines += [f"    note: {note}" for note in s.notes]
            lines += [f"    broken: {problem}" for problem in s.problems[:most_problems]]
            if len(s.problems) > most_problems:
                lines.append(f"    ... and {len(s.problems) - most_problems} more; --json FILE has all of them")
        if self.missing:
            lines.append(f"  of the split there lack {', '.join(self.missing)}")
        lines.append("sound" if self.sound else "broken" if self._broken else "no samples")
        return "\n".join(lines)


def check_sequence(reader: SequenceReader, most_samples: int | None = None, progress: bool = False) -> SequenceReport:
    """Read one recording: its parts, then its samples.

    Args:
        reader: the recording.
        most_samples: samples to read, evenly spread; all if None.
        progress: whether to show a bar on the terminal.
    """
    problems: dict[str, None] = {}  # one file may fail in several places: each message once
    for error in reader.check_parts():
        problems[str(error)] = None
    whole = not problems
    for error in reader.check_content():
        problems[str(error)] = None
    expected = _or_nothing(reader, "all_indices")
    usable = _or_nothing(reader, "indices")
    tally = _Tally()
    chosen = expected if most_samples is None else expected[_spread(len(expected), most_samples)]
    for index in tqdm(chosen.tolist(), desc=reader.name, unit="sample", disable=not progress, leave=False):
        try:
            if whole and index in usable:
                tally.add(reader.read(index))
            else:
                reader.read_depth(index)
        except DatasetError as error:
            problems[str(error)] = None
    try:
        notes = tuple(reader.notes())
    except DatasetError as error:
        notes = ()
        problems[str(error)] = None
    if tally.count and not tally.spikes:
        blank = f"none of the {tally.count} samples that were read has a spike"
        problems[f"{reader.where}: {blank}; do the stamps of events and depth come from one clock?"] = None
    reader.close()
    return SequenceReport(
        name=reader.name,
        depth_images=len(expected),
        samples=len(usable),
        read=tally.count,
        events_per_sample=tally.spikes / max(tally.count, 1),
        depth_share=tally.share / max(tally.count, 1),
        nearest_m=tally.nearest,
        farthest_m=tally.farthest,
        problems=tuple(problems),
        notes=notes,
    )


def check(
    root: Path, name: str, readers: Iterable[SequenceReader], most_samples: int | None = None, progress: bool = False
) -> Report:
    """Read every recording, and go on where one is broken."""
    return Report(root, name, tuple(check_sequence(reader, most_samples, progress) for reader in readers))


class _Tally:
    def __init__(self) -> None:
        self.count = 0
        self.spikes = 0
        self.share = 0.0
        self.nearest: float | None = None
        self.farthest: float | None = None

    def add(self, sample: Sample) -> None:
        self.count += 1
        self.spikes += int(sample.spikes.sum(dtype=np.int64))
        known = sample.depth[np.isfinite(sample.depth)]
        self.share += known.size / sample.depth.size
        if known.size:
            nearest, farthest = float(known.min()), float(known.max())
            self.nearest = nearest if self.nearest is None else min(self.nearest, nearest)
            self.farthest = farthest if self.farthest is None else max(self.farthest, farthest)


def _or_nothing(reader: SequenceReader, part: str) -> np.ndarray:
    try:
        return np.asarray(getattr(reader, part))
    except DatasetError:  # told by check_parts
        return np.empty(0, np.int64)


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.intp))
