"""The depth node with a stopwatch in it, for `sdt bench node --profile` and `--cold`.

Run as `python -m sdt_ros.bench.node_trace FILE ARGUMENTS`, the arguments being those of `sdt node`. Functions that a
window passes through note when they began and ended; FILE takes the notes as JSON when the node ends. A note costs
about a microsecond, and a packet makes a handful.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Span = tuple[str, str, int, int]  # what, thread, beginning and end on the monotonic clock [ns]


class Trace:
    """Notes of what happened when.

    Attributes:
        spans: what the functions noted.
        windows: of each published window its index, the arrival of its last packet, and when it was finished [ns].
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.windows: list[tuple[int, int, int]] = []
        self._gc_began = 0

    def watch(self, owner: Any, name: str, what: str, before: Callable[..., None] | None = None) -> None:
        """Have a function note its calls; `before` is called with its arguments."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if before is not None:
                before(*args, **kwargs)
            began = time.monotonic_ns()
            try:
                return function(*args, **kwargs)
            finally:
                self.spans.append((what, threading.current_thread().name, began, time.monotonic_ns()))

        setattr(owner, name, timed)

    def watch_garbage(self) -> None:
        """Note the pauses of the garbage collector."""

        def collect(phase: str, info: dict[str, int]) -> None:
            if phase == "start":
                self._gc_began = time.monotonic_ns()
            else:
                what = f"garbage, generation {info['generation']}"
                self.spans.append((what, threading.current_thread().name, self._gc_began, time.monotonic_ns()))

        gc.callbacks.append(collect)

    def take_window(self, _: Any, window: Any) -> None:
        """Note which window is being published."""
        self.windows.append((window.index, window.received_ns, window.finished_ns))


def main(argv: list[str]) -> int:
    """Run the node with the arguments of `sdt node`; returns its exit code."""
    trace = Trace()
    began_ns = _process_began_ns()
    import torch  # noqa: F401  (the largest import, on its own)

    torch_ns = time.monotonic_ns()
    import rclpy
    import rclpy.executors

    from sdt_ros import cli, node, pipeline
    from sdt_ros.events.spikes import SpikeBinner, SpikeWindow
    from sdt_ros.inference import InferenceThread
    from sdt_ros.outputs import Outputs
    from sdt_ros.runtime import DepthEstimator

    imported_ns = time.monotonic_ns()
    trace.spans += [("import torch", "MainThread", began_ns, torch_ns)]
    trace.spans += [("import the rest", "MainThread", torch_ns, imported_ns)]
    trace.watch(rclpy, "init", "rclpy.init")
    trace.watch(node.DepthNode, "__init__", "make node")
    trace.watch(node.DepthNode, "_subscribe", "subscribe")
    trace.watch(node.DepthNode, "_on_packet", "callback")
    trace.watch(rclpy.executors.Executor, "_take_subscription", "take")
    trace.watch(pipeline, "load_estimator", "load network")
    trace.watch(DepthEstimator, "warm_up", "warm up")
    trace.watch(DepthEstimator, "estimate", "network")
    trace.watch(pipeline.Pipeline, "_compile", "decoders")
    trace.watch(pipeline.Pipeline, "_publish", "window", trace.take_window)
    trace.watch(pipeline, "statistics", "statistics")
    trace.watch(SpikeBinner, "add", "decode and bin")
    trace.watch(SpikeWindow, "release", "clear")
    trace.watch(InferenceThread, "offer", "offer")
    trace.watch(Outputs, "depth", "publish depth")
    trace.watch(Outputs, "stats", "publish stats")
    trace.watch_garbage()
    try:
        return cli.main(["node", *argv[1:]])
    finally:
        notes = {"began_ns": began_ns, "spans": trace.spans, "windows": trace.windows}
        Path(argv[0]).write_text(json.dumps(notes), encoding="utf-8")


def _process_began_ns() -> int:
    """When this process was started, on the monotonic clock [ns]; to a hundredth of a second."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    since_boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * (10**9 // os.sysconf("SC_CLK_TCK"))
    return time.monotonic_ns() - since_boot


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
