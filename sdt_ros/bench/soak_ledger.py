"""What `sdt bench soak` sees of the node, and the ledger that has to close."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from sdt_ros.bench.node_watch import Usage
from sdt_ros.msg import Stats

_SAMPLE_S = 1.0
_STAMP_SLACK_NS = 500_000_000  # by which stamps may be ahead of the camera's
_SLACK = 40  # windows that may be under way between counted as due and published


@dataclass(frozen=True)
class Ledger:
    """The account of a soak; the keys of `--json`.

    Attributes:
        faults: injected.
        kinds: of them, each with its number.
        recovered: faults behind which depth came back.
        max_recovery_s: the longest from the first good packet sent to the first depth of good data only.
        windows_due: windows that ended, as the node counts.
        windows_published: of these.
        windows_skipped: of these.
        windows_empty: of these.
        rss_mb_start: resident memory of the node after five minutes or a tenth of the run [MB].
        rss_mb_end: the same at the end.
        closes: whether each message's counts added up, windows and their numbers agreed, all faults were recovered
            from, and the node ended cleanly.
    """

    faults: int
    kinds: dict[str, int]
    recovered: int
    max_recovery_s: float
    windows_due: int
    windows_published: int
    windows_skipped: int
    windows_empty: int
    rss_mb_start: float
    rss_mb_end: float
    closes: bool


_COUNTS = ("windows_due", "windows_published", "windows_skipped", "windows_empty")


@dataclass
class Watch:
    """Takes depth and statistics, and adds up what the node counts from activation to activation.

    Args:
        node: an rclpy node to subscribe with.
        name: full name of the depth node.
        pid: its process.

    Attributes:
        images: arrival on the monotonic clock [s], stamp [ns] and size of the last images.
        arrived: images in all.
        complaints: what does not add up, in words.
        totals: the counts in all.
        rss_mb: time on the monotonic clock [s] and resident memory [MB], once a second.
        last: the last statistics.
        on_stats: takes each message, and when it arrived [s].
    """

    node: Node
    name: str
    pid: int
    images: deque[tuple[float, int, tuple[int, int]]] = field(default_factory=lambda: deque(maxlen=2000))
    arrived: int = 0
    complaints: list[str] = field(default_factory=list)
    totals: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    rss_mb: list[tuple[float, float]] = field(default_factory=list)
    last: Any = None
    on_stats: Any = None
    _compares: bool = False
    _origin: Any = None  # the message that windows are numbered from

    def __post_init__(self) -> None:
        # As deep as may be: the listener must not be what loses windows.
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(Stats, f"{self.name}/stats", self._on_stats, qos)
        self.node.create_subscription(Image, f"{self.name}/depth/image_rect", self._on_image, qos)

    def _on_image(self, message: Image) -> None:
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 1_000_000_000 + stamp.nanosec
        self.images.append((time.monotonic(), stamp_ns, (message.width, message.height)))
        self.arrived += 1

    def _on_stats(self, message: Stats) -> None:
        now_s = time.monotonic()
        accounted = message.windows_published + message.windows_skipped + message.windows_empty
        if accounted != message.windows_due:
            self.complaints.append(f"window {message.window}: {accounted} accounted for, {message.windows_due} due")
        before = self.last
        anew = before is None or message.windows_published <= before.windows_published  # activated since
        for name in _COUNTS:
            self.totals[name] += getattr(message, name) - (0 if anew else getattr(before, name))
        self._compare_numbers(message, anew)
        self.last = message
        if not self.rss_mb or now_s - self.rss_mb[-1][0] >= _SAMPLE_S:
            self.sample(now_s)
        if self.on_stats is not None:
            self.on_stats(message, now_s)

    def sample(self, now_s: float) -> None:
        """Note the node's memory."""
        self.rss_mb.append((now_s, Usage.of(self.pid).rss_mb))

    def compare_numbers(self, whether: bool) -> None:
        """Whether to compare windows' numbers with their count from now on: a fault may give windows up."""
        self._compares, self._origin = whether, None

    def _compare_numbers(self, message: Stats, anew: bool) -> None:
        """Windows are numbered by the sensor's time alone: as many as that has passed must have been due."""
        if not self._compares:
            return
        origin = self._origin
        same = origin is not None and not anew and all(
            getattr(origin, name) == getattr(message, name) for name in ("stream_resets", "time_jumps")
        )  # fmt: skip
        if not same:
            self._origin = message
            return
        passed, due = message.window - origin.window, message.windows_due - origin.windows_due
        if abs(passed - due) > _SLACK:
            self.complaints.append(f"{passed} windows have passed since window {origin.window}, {due} were due")
            self._origin = message

    def recovered_s(self, good: dict[str, Any], window_ms: float, size: tuple[int, int]) -> float | None:
        """From a good packet sent to the first depth of nothing older [s]; None while there is none."""
        first_ns = good["stamp_ns"] + round(window_ms * 1e6)
        for at_s, stamp_ns, of_size in self.images:
            passed_ns = round((at_s - good["at_s"]) * 1e9)
            if passed_ns >= 0 and of_size == size and first_ns <= stamp_ns <= first_ns + passed_ns + _STAMP_SLACK_NS:
                return at_s - good["at_s"]
        return None

    def memory(self, from_s: float, until_s: float) -> float:
        """Median of the node's resident memory in that time, or the sample next to its begin [MB]."""
        values = [mb for at_s, mb in self.rss_mb if from_s <= at_s <= until_s]
        if values:
            return statistics.median(values)
        return min(self.rss_mb, key=lambda sample: abs(sample[0] - from_s))[1] if self.rss_mb else 0.0


def traceback_in(log: Path) -> bool:
    """Whether a process has printed a traceback."""
    return "Traceback" in log.read_text(errors="replace")
