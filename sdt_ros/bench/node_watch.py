"""What `sdt bench node` sees: the node's statistics as they arrive, and the system's account of its process."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from sdt_ros.msg import Stats

_TICKS_S = os.sysconf("SC_CLK_TCK")
_SNAPSHOT_S = 0.25
STAGES = ("receive and bin", "wait for network", "network", "publish")


@dataclass(frozen=True)
class Usage:
    """What a process has used so far.

    Attributes:
        at_s: when that was, on the monotonic clock [s].
        cpu_s: seconds of processor time by threads of one name.
        rss_mb: resident memory [MB].
        peak_mb: the most that it ever was [MB].
    """

    at_s: float
    cpu_s: dict[str, float]
    rss_mb: float
    peak_mb: float

    @classmethod
    def of(cls, pid: int) -> Usage:
        """The usage of a process now."""
        cpu_s: dict[str, float] = defaultdict(float)
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:  # it has just ended
                continue
            ticks = rest.split()[11:13]  # of the system: utime and stime, fields 14 and 15
            cpu_s["middleware" if name.startswith("dds.") else name] += sum(map(int, ticks)) / _TICKS_S
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        rss, peak = (int(status[key].split()[0]) * 1024 / 1e6 for key in ("VmRSS", "VmHWM"))
        return cls(time.monotonic(), dict(cpu_s), rss, peak)

    def since(self, before: Usage) -> dict[str, float]:
        """Seconds of processor time a second since an earlier usage, by threads of one name, busiest first."""
        seconds = max(self.at_s - before.at_s, 1e-9)
        load = {name: (spent - before.cpu_s.get(name, 0.0)) / seconds for name, spent in self.cpu_s.items()}
        return dict(sorted(load.items(), key=lambda item: -item[1]))


@dataclass
class Listener:
    """Takes depth and statistics of the node, and snapshots of its process beside them.

    Args:
        node: an rclpy node to subscribe with.
        name: full name of the depth node.
        pid: its process.
        lead_s: what arrives in these seconds after the first window does not count [s].

    Attributes:
        images: depth images that arrived.
        size: their columns and rows [px].
        first_s: when the first of them did, on the monotonic clock [s].
        last: the last statistics.
        before: the last statistics of the lead.
        counted: the statistics behind the lead.
        usage: snapshots, the first at the lead's end.
    """

    node: Node
    name: str
    pid: int
    lead_s: float
    images: int = 0
    size: tuple[int, int] = (0, 0)
    first_s: float | None = None
    last: Any = None
    before: Any = None
    counted: list[Any] = field(default_factory=list)
    usage: list[Usage] = field(default_factory=list)

    def __post_init__(self) -> None:
        # As deep as any run is long: the listener must not be what loses windows.
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)
        self.node.create_subscription(Stats, f"{self.name}/stats", self._on_stats, qos)
        self.node.create_subscription(Image, f"{self.name}/depth/image_rect", self._on_image, qos)

    def _on_image(self, message: Image) -> None:
        self.images += 1
        self.size = message.width, message.height
        if self.first_s is None:
            self.first_s = time.monotonic()

    def _on_stats(self, message: Stats) -> None:
        now = time.monotonic()
        self.last = message
        if self.lead_s and (self.first_s is None or now - self.first_s < self.lead_s):
            self.before = message
            return
        if not self.usage or now - self.usage[-1].at_s > _SNAPSHOT_S:
            self.usage.append(Usage.of(self.pid))
        self.counted.append(message)

    def counted_since(self, name: str) -> int:
        """How much one of the node's counts has grown since the lead."""
        return int(getattr(self.last, name) - (getattr(self.before, name) if self.before is not None else 0))


def quantiles(values: Any) -> dict[str, float]:
    """p50, p99 and maximum, rounded to microseconds where values are milliseconds."""
    array = np.asarray(values, np.float64)
    p50, p99 = np.percentile(array, (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(array.max()), 3)}


def stages(counted: list[Any]) -> dict[str, np.ndarray]:
    """The way of each window, from its last packet's arrival to depth published, in milliseconds by stage."""
    wait, network, publish, latency = (
        np.array([getattr(one, name) for one in counted], np.float64)
        for name in ("wait_ms", "network_ms", "publish_ms", "latency_ms")
    )
    return dict(zip(STAGES, (latency - wait - network - publish, wait, network, publish), strict=True))
