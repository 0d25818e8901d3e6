"""What a node published, held against what it owed: scores of what came, and a count of what did not or came late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.recording import RecordingSource
from sdt_ros.evaluation.run import Activity
from sdt_ros.evaluation.score import Scorer
from sdt_ros.evaluation.spool import Spool
from sdt_ros.evaluation.truth import nearest


class DepthByStamp:
    """Depth images by their stamp [ns], on disk."""

    def __init__(self) -> None:
        self._index: dict[int, tuple[tuple[int, ...], int]] = {}
        self._spools: dict[tuple[int, ...], Spool] = {}

    def put(self, stamp_ns: int, depth: np.ndarray) -> None:
        """Keep a depth image [H, W] metres; the first one of a stamp."""
        if stamp_ns not in self._index:
            spool = self._spools.setdefault(depth.shape, Spool())
            self._index[stamp_ns] = depth.shape, spool.append(depth.astype(np.float32, copy=False))

    def __getitem__(self, stamp_ns: int) -> np.ndarray:
        shape, index = self._index[stamp_ns]
        return self._spools[shape][index]

    def __contains__(self, stamp_ns: int) -> bool:
        return stamp_ns in self._index

    def __len__(self) -> int:
        return len(self._index)

    @property
    def stamps(self) -> np.ndarray:
        """All stamps, growing: int64 [N] ns."""
        return np.array(sorted(self._index), np.int64)


@dataclass
class Received:
    """What has arrived of a node's output.

    Attributes:
        depth: the depth images.
        samples: float32 [N] metres, every eighth pixel of every eighth row of each depth image.
        sizes: (height, width) of each depth image.
        image_headers: (stamp, frame) of each depth image, in the order of arrival.
        info_headers: the same of each camera_info.
        info_sizes: (height, width) of each camera_info.
        encodings: encodings of depth images met.
        stats: statistics, in the order of arrival.
        times: arrival of each depth image on the monotonic clock [s].
    """

    depth: DepthByStamp = field(default_factory=DepthByStamp)
    samples: list[np.ndarray] = field(default_factory=list)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    image_headers: list[tuple[int, str]] = field(default_factory=list)
    info_headers: list[tuple[int, str]] = field(default_factory=list)
    info_sizes: set[tuple[int, int]] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)
    stats: list[Any] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Live:
    """What became of the windows that were due.

    Attributes:
        due: windows of the recording that depth is due for.
        arrived: of these, those that depth arrived for.
        missing: those that it did not arrive for.
        late: depth images that arrived after the next window was due, or after the bound that was asked for.
        late_ms: from the last packet of a window to its depth: more is late [ms].
        unexpected: depth images that no window was due for, or a second one for the same.
        without_stats: depth images without statistics, of which nobody knows whether they were late.
        skipped: windows that the node says it has skipped since its first depth image here.
        packets_lost: packets that the node says it has missed since.
        pace: seconds on the wall for a second of the recording.
        latency_ms: from the last packet of a window to its depth [ms]: `p50`, `p99`, `max`.
    """

    due: int
    arrived: int
    missing: int
    late: int
    late_ms: float
    unexpected: int
    without_stats: int
    skipped: int
    packets_lost: int
    pace: float
    latency_ms: dict[str, float] | None

    @property
    def complete(self) -> bool:
        """Whether everything came, and in time."""
        return not self.missing and not self.late

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def score_published(
    source: RecordingSource, received: Received, scorer: Scorer, period_ns: int, late_ms: float | None = None
) -> tuple[Live, dict[str, int]]:
    """Score depth images that arrived against the truth nearest in time to their windows.

    Args:
        source: the recording's windows as the node cuts them.
        received: what has arrived.
        scorer: takes the depth.
        period_ns: time between windows [ns]; depth belongs to a window if its stamp is within half of that.
        late_ms: a latency above is late [ms]; the time to the next window, at the pace of the replay, if None.

    Returns:
        What became of the windows that were due, and the counts of windows, truth and packets.

    Raises:
        EvaluationError: no depth arrived that has a truth, or depth and truth show different views.
    """
    stamps = received.depth.stamps
    used: set[int] = set()
    due = 0
    for window in source:
        due += 1
        index = nearest(stamps, window.stamp_ns, period_ns // 2)
        if index is None or index in used:
            continue
        used.add(index)
        depth = received.depth[int(stamps[index])]
        scorer.add(
            window.group, int(stamps[index]), depth, window.truth, window.spikes, window.truth_ns, window.events
        )  # fmt: skip
    counts = source.counts()
    truths = {frame.truth_ns for frame in scorer.frames if frame.truth_ns is not None}
    counts |= {
        "depth_images": len(used),
        "depth_unmatched": sum(frame.truth_ns is None for frame in scorer.frames),
        "truth_unmatched": counts["truth_images"] - len(truths),
    }
    if not used:
        raise EvaluationError(
            f"{source.where}: no depth arrived for any of {due} windows; is the node active, and on the bag's topics?"
        )
    if not truths:
        raise EvaluationError(f"{source.where}: none of {len(used)} depth images has a truth within half a period")
    latencies, pace = _latencies(received)
    bound = late_ms if late_ms is not None else period_ns / 1e6 * pace
    known = np.array([latencies[int(stamps[index])] for index in used if int(stamps[index]) in latencies])
    skipped, packets_lost = _since_the_first(received.stats)
    live = Live(
        due=due,
        arrived=len(used),
        missing=due - len(used),
        late=int(np.count_nonzero(known > bound)),
        late_ms=bound,
        unexpected=len(received.image_headers) - len(used),
        without_stats=len(used) - known.size,
        skipped=skipped,
        packets_lost=packets_lost,
        pace=pace,
        latency_ms=_percentiles(known),
    )
    return live, counts


def _since_the_first(stats: Sequence[Any]) -> tuple[int, int]:
    """Windows skipped and packets lost, of those that the node has counted, which may have been active for long before.

    What was skipped before the first depth image counts where that is the node's first one too.
    """
    if not stats:
        return 0, 0
    first, last = stats[0], stats[-1]
    if first.windows_published <= 1 or last.windows_published < first.windows_published:  # activated, or anew
        return int(last.windows_skipped), int(last.packets_lost)
    lost_before = int(first.packets_lost) - int(first.window_packets_lost)
    return max(0, int(last.windows_skipped) - int(first.windows_skipped)), max(0, int(last.packets_lost) - lost_before)


def _latencies(received: Received) -> tuple[dict[int, float], float]:
    """Latency of each depth image by its stamp [ms], and seconds on the wall for a second of the recording.

    A window is due when its last packet has come, which is its arrival less its latency; how fast that grows with the
    stamps is the pace of the replay.
    """
    latencies = {_stamp_ns(stats): float(stats.latency_ms) for stats in received.stats}
    dues = [
        (stamp, arrived - latencies[stamp] / 1000)
        for (stamp, _), arrived in zip(received.image_headers, received.times, strict=True)
        if stamp in latencies
    ]
    if len(dues) < 2 or dues[-1][0] <= dues[0][0]:
        return latencies, 1.0
    return latencies, (dues[-1][1] - dues[0][1]) / ((dues[-1][0] - dues[0][0]) / 1e9)


def activity_of(stats: Sequence[Any]) -> Activity:
    """Firing rates and energy as the node measured them last; empty where it never did."""
    for one in reversed(stats):
        if len(one.firing_layers) and math.isfinite(one.energy_mj):
            rates = {name: float(rate) for name, rate in zip(one.firing_layers, one.firing_rates, strict=True)}
            return Activity(rates, float(one.energy_mj), 1)
    return Activity()


def _stamp_ns(stats: Any) -> int:
    return int(stats.header.stamp.sec) * 1_000_000_000 + int(stats.header.stamp.nanosec)


def _percentiles(values: np.ndarray) -> dict[str, float] | None:
    if not values.size:
        return None
    p50, p99, most = np.percentile(values, [50, 99, 100])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "max": round(float(most), 2)}
