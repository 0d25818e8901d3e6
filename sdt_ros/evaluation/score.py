"""Depth against truth, frame by frame: every metric, the floors on the same pixels, by group and by distance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.floors import Floors
from sdt_ros.evaluation.metrics import BANDS_M, METRICS, Average, Averager, Comparison
from sdt_ros.evaluation.protocol import Protocol
from sdt_ros.evaluation.spool import Spool
from sdt_ros.evaluation.truth import onto

PREDICTION, CONSTANT, MAP = "network", "constant median", "mean map"
GUESSES = (PREDICTION, CONSTANT, MAP)
"""What is scored: the network and the two floors."""


@dataclass(slots=True)
class Frame:
    """One depth image that was made.

    Attributes:
        group: the recording or scene family that it is of.
        number: of it among the depth images of its group.
        stamp_ns: its stamp [ns].
        truth_ns: stamp of the truth it is scored against; None where there is none near enough in time.
        events: events in its window; None where they were not counted.
        spike_density: share of ones in its spikes.
        pixels: that were compared.
        missing: pixels with a truth and no prediction.
        metric: name to value; None where no pixel was compared.
    """

    group: str
    number: int
    stamp_ns: int
    truth_ns: int | None
    events: int | None
    spike_density: float
    pixels: int = 0
    missing: int = 0
    metric: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """The metrics of one guess: of depth as it is, scaled by the truth's median, and for each of `BANDS_M`."""

    metric: Mapping[str, float]
    scaled: Mapping[str, float]
    bands: Sequence[Mapping[str, float]]

    @classmethod
    def of(cls, truth: Comparison, prediction: np.ndarray, log_prediction: np.ndarray | None = None) -> Rows:
        """Compare a guess [N] metres with the truth of a frame."""
        log_prediction = np.log(prediction) if log_prediction is None else log_prediction
        metric, bands = truth.metrics(prediction, log_prediction)
        return cls(metric, truth.metrics(prediction, log_prediction, truth.scale_of(prediction))[0], bands)


class Tally:
    """Averages of one guess over frames."""

    def __init__(self) -> None:
        self.metric, self.scaled = Averager(), Averager()
        self.bands = [Averager() for _ in BANDS_M]
        self.band_pixels = np.zeros(len(BANDS_M))
        self.frames = 0

    def add(self, rows: Rows) -> None:
        """Take a frame."""
        self.frames += 1
        self.metric.add(rows.metric)
        self.scaled.add(rows.scaled)
        for number, (averager, band) in enumerate(zip(self.bands, rows.bands, strict=True)):
            averager.add(band)
            self.band_pixels[number] += band["pixels"]


@dataclass(frozen=True)
class Table:
    """Averages over a set of frames.

    Attributes:
        frames: how many.
        pixels: compared in them.
        metric: who guesses: metric name to average, of depth as it is.
        scaled: the same of depth that was scaled by the truth's median, which forgives the scale.
        bands: who guesses: for each of `BANDS_M` metric name to average.
        band_pixels: share of the pixels that lie in each of the bands.
        constant_m: depth of the floor "constant median" [m]; NaN in a table without floors.
    """

    frames: int
    pixels: int
    metric: Mapping[str, Mapping[str, Average]]
    scaled: Mapping[str, Mapping[str, Average]]
    bands: Mapping[str, Sequence[Mapping[str, Average]]]
    band_pixels: Sequence[float]
    constant_m: float = math.nan

    @classmethod
    def of(cls, tallies: Mapping[str, Tally], constant_m: float = math.nan) -> Table:
        """The table of some guesses about the same pixels."""
        first = next(iter(tallies.values()))
        pixels = int(first.band_pixels.sum())
        return cls(
            frames=first.frames,
            pixels=pixels,
            metric={guess: tally.metric.averages() for guess, tally in tallies.items()},
            scaled={guess: tally.scaled.averages() for guess, tally in tallies.items()},
            bands={guess: [band.averages() for band in tally.bands] for guess, tally in tallies.items()},
            band_pixels=(first.band_pixels / max(1, pixels)).tolist(),
            constant_m=constant_m,
        )


class Group:
    """What is kept of one recording, on disk: what was compared, and on request depth, truth and spikes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tally = Tally()
        self.frames: list[Frame] = []
        self.compared, self.depth, self.truth, self.spikes = Spool(), Spool(), Spool(), Spool()
        self.spike_shape: tuple[int, ...] = ()
        self.truth_of: dict[int, int] = {}  # number of a frame: index of its truth

    def spikes_of(self, frame: Frame) -> np.ndarray:
        """Spikes of a frame's window: uint8 [T, P, h, w]."""
        count = int(np.prod(self.spike_shape))
        return np.unpackbits(self.spikes[frame.number], count=count).reshape(self.spike_shape)

    def all_compared(self) -> Iterator[np.ndarray]:
        """The truth that was compared, frame by frame: float32 [H, W] metres, 0 elsewhere."""
        return (self.compared[index] for index in range(len(self.compared)))

    def close(self) -> None:
        """Remove what is kept."""
        for spool in (self.compared, self.depth, self.truth, self.spikes):
            spool.close()


@dataclass
class Scores:
    """All scores.

    Attributes:
        frames: one entry a depth image, those without a truth too.
        total: over all frames.
        groups: over the frames of each group, with floors of its own.
        probes: for each probe, over the frames that were probed; in each table the probe is the only guess.
        probed: the network on these very frames; None where there are no probes.
        without_pixels: frames with a truth of which no pixel could be compared.
        missing_share: share of pixels with a valid truth that have no prediction.
    """

    frames: list[Frame]
    total: Table
    groups: dict[str, Table] = field(default_factory=dict)
    probes: dict[str, Table] = field(default_factory=dict)
    probed: Table | None = None
    without_pixels: int = 0
    missing_share: float = 0.0

    @property
    def scored(self) -> list[Frame]:
        """Frames with pixels that were compared."""
        return [frame for frame in self.frames if frame.metric is not None]


class Scorer:
    """Takes depth images and scores them at once; the floors when all have come. A context manager.

    Args:
        protocol: which pixels count.
        where: what is scored, for messages.
        keep_depth: keep depth, for `--save`.
        keep_pictures: keep depth, truth and spikes, for a report.
    """

    def __init__(self, protocol: Protocol, where: str, keep_depth: bool = False, keep_pictures: bool = False) -> None:
        self.protocol = protocol
        self.where = where
        self.groups: dict[str, Group] = {}
        self.frames: list[Frame] = []
        self._keep_depth = keep_depth or keep_pictures
        self._keep_pictures = keep_pictures
        self._total = Tally()
        self._probes: dict[str, Tally] = {}
        self._probed = Tally()

    def add(
        self,
        group: str,
        stamp_ns: int,
        depth: np.ndarray,
        truth: np.ndarray | None,
        spikes: np.ndarray,
        truth_ns: int | None = None,
        events: int | None = None,
        probes: Mapping[str, np.ndarray] | None = None,
    ) -> Frame:
        """Take a depth image and score it.

        Args:
            group: the recording or scene family that it is of.
            stamp_ns: its stamp [ns].
            depth: [h, w] metres; NaN where unknown.
            truth: [H, W] metres; None where there is none for it.
            spikes: uint8 [T, P, h, w], what it was made of.
            truth_ns: stamp of the truth [ns].
            events: in the window.
            probes: what the network made of the spikes when they were spoilt, by name: [h, w] metres.

        Raises:
            EvaluationError: depth and truth are of different views, or of another size than before.
            OSError: the disk is full.
        """
        if group not in self.groups:
            self.groups[group] = Group(group)
        kept = self.groups[group]
        density = np.count_nonzero(spikes) / spikes.size
        frame = Frame(
            group, len(kept.frames), stamp_ns, None if truth is None else truth_ns or stamp_ns, events, density
        )
        kept.frames.append(frame)
        self.frames.append(frame)
        where = f"{self.where}, {group}, image {frame.number}"
        if self._keep_depth:
            self._keep(kept.depth, depth.astype(np.float32, copy=False), where)
        if self._keep_pictures:
            kept.spike_shape = spikes.shape
            self._keep(kept.spikes, np.packbits(spikes), where)
        if truth is not None:
            self._score(kept, frame, depth, truth, probes or {}, where)
        return frame

    def _score(
        self, kept: Group, frame: Frame, depth: np.ndarray, truth: np.ndarray, probes: Mapping[str, np.ndarray],
        where: str,
    ) -> None:  # fmt: skip
        chosen = self.protocol.select(onto(depth, truth.shape, where), truth)
        frame.pixels, frame.missing = chosen.truth.size, chosen.missing
        if self._keep_pictures:
            kept.truth_of[frame.number] = len(kept.truth)
            self._keep(kept.truth, truth.astype(np.float32, copy=False), where)
        if not frame.pixels:
            return
        compared = np.zeros(truth.shape, np.float32)
        compared[chosen.mask] = chosen.truth
        self._keep(kept.compared, compared, where)
        comparison = Comparison(chosen.truth)
        rows = Rows.of(comparison, chosen.prediction)
        frame.metric = rows.metric
        for tally in (self._total, kept.tally, *([self._probed] if probes else [])):
            tally.add(rows)
        for name, spoilt in probes.items():
            guess = np.where(np.isfinite(spoilt) & (spoilt > 0), spoilt, depth)  # the same pixels for all
            guess = onto(guess, truth.shape, where)[chosen.mask].astype(np.float64)
            guess = guess if self.protocol.far_m is None else np.minimum(guess, self.protocol.far_m)
            self._probes.setdefault(name, Tally()).add(Rows.of(comparison, guess))

    @staticmethod
    def _keep(spool: Spool, array: np.ndarray, where: str) -> None:
        try:
            spool.append(array)
        except ValueError as error:
            raise EvaluationError(f"{where}: {error}; one recording must be of one size") from error

    def finish(self) -> Scores:
        """Score the floors and average everything.

        Raises:
            EvaluationError: no frame has a pixel to compare.
        """
        with_truth = [frame for frame in self.frames if frame.truth_ns is not None]
        if not self._total.frames:
            raise EvaluationError(self._why_nothing(with_truth))
        floors = Floors() if len(self.groups) > 1 else None
        tables = {}
        for group in self.groups.values():
            if group.tally.frames:
                tables[group.name] = self._floored([group], group.tally, Floors(), floors)
        if floors is None:
            total = next(iter(tables.values()))
        else:
            total = self._floored(list(self.groups.values()), self._total, floors)
        pixels, missing = (sum(getattr(frame, name) for frame in with_truth) for name in ("pixels", "missing"))
        return Scores(
            frames=self.frames,
            total=total,
            groups=tables,
            probes={name: Table.of({name: tally}) for name, tally in self._probes.items()},
            probed=Table.of({PREDICTION: self._probed}) if self._probed.frames else None,
            without_pixels=len(with_truth) - self._total.frames,
            missing_share=missing / max(1, missing + pixels),
        )

    def _floored(self, groups: Sequence[Group], own: Tally, floors: Floors, of_all: Floors | None = None) -> Table:
        """The table of some groups, with floors made of them; `of_all` sees their truth once too."""

        def frames() -> Iterator[np.ndarray]:
            return (frame for group in groups for frame in group.all_compared())

        if of_all is not None or len(self.groups) == 1:  # those of all have seen everything with the groups
            for frame in frames():
                floors.see(frame)
                if of_all is not None:
                    of_all.see(frame)
        floors.turn()
        for frame in frames():
            floors.see_again(frame)
        floors.finish()
        tallies = {PREDICTION: own, CONSTANT: Tally(), MAP: Tally()}
        maps: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = {}
        for frame in frames():
            if frame.shape not in maps:
                log_map = floors.log_map(frame.shape)
                maps[frame.shape] = np.exp(log_map), log_map
            depth, log_depth = maps[frame.shape]
            mask = frame > 0
            truth = Comparison(frame[mask])
            constant = np.full(truth.truth.shape, floors.constant_m)
            tallies[CONSTANT].add(Rows.of(truth, constant, np.full_like(constant, math.log(floors.constant_m))))
            tallies[MAP].add(Rows.of(truth, depth[mask], log_depth[mask]))
        return Table.of(tallies, floors.constant_m)

    def _why_nothing(self, with_truth: Sequence[Frame]) -> str:
        if any(frame.missing for frame in with_truth):
            return f"{self.where}: no frame has both a valid truth and a prediction; look at what --save writes"
        return (
            f"{self.where}: the truth has no valid pixel in the {len(with_truth)} images that depth was made for; "
            "record the truth of what the camera sees" + (", or try --protocol none" if self.protocol.below_max else "")
        )

    def close(self) -> None:
        """Remove what is kept on disk."""
        for group in self.groups.values():
            group.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def worst(scores: Scores, count: int, by: str = "abs_rel") -> list[Frame]:
    """The frames with the highest value of a metric, the highest first."""
    assert by in METRICS
    return sorted(scores.scored, key=lambda frame: -(frame.metric or {})[by])[:count]
