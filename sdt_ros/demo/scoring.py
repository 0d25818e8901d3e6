"""What the node published, scored against the recording's exact depth by the same code as `sdt eval`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from sdt_ros.bags import open_bag
from sdt_ros.demo.expected import Expected
from sdt_ros.evaluation.figures import figures
from sdt_ros.evaluation.predict import PredictedWindow, Predictions
from sdt_ros.evaluation.protocol import protocols
from sdt_ros.evaluation.report import page
from sdt_ros.evaluation.score import score
from sdt_ros.evaluation.spool import Spool
from sdt_ros.evaluation.truth import nearest, read_truth
from sdt_ros.events import WindowConfig
from sdt_ros.runtime import DepthEstimator

TRUTH_TOPIC = "/depth/image_rect"
PROTOCOL = "mvsec"


def has_truth(bag: Path) -> bool:
    """Whether a recording has depth images to compare with."""
    with open_bag(bag) as reader:
        info = reader.topics.get(TRUTH_TOPIC)
        return info is not None and info.count > 0


def score_published(
    bag: Path, depth: dict[int, np.ndarray], expected: Expected, estimator: DepthEstimator, windows: WindowConfig
) -> tuple[dict[str, Any], str]:
    """Score depth images against the truth nearest in time.

    Args:
        bag: the recording.
        depth: float32 [H, W] metres by stamp [ns], as received.
        expected: the recording's windows, for their spikes.
        estimator: the network that the node ran; its firing rates are measured on the first window.
        windows: the node's windows.

    Returns:
        All figures, and a self-contained HTML page about them.

    Raises:
        EvaluationError: nothing can be compared, and why.
    """
    with ExitStack() as stack:
        reader = stack.enter_context(open_bag(bag))
        frames, predicted, spikes = (stack.enter_context(Spool()) for _ in range(3))
        protocol = protocols[PROTOCOL]
        truth = read_truth(reader, TRUTH_TOPIC, frames, protocol)
        predictions = Predictions(predicted, spikes)
        within_ns = round(float(windows.period_us) * 500)
        for window in expected.windows[: expected.shown]:
            if window.stamp_ns not in depth:
                continue
            predicted.append(depth[window.stamp_ns])
            spikes.append(np.packbits(window.spikes))
            predictions.spike_shape = window.spikes.shape
            near = nearest(truth.stamps, window.stamp_ns, within_ns)
            density = np.count_nonzero(window.spikes) / window.spikes.size
            predictions.windows.append(PredictedWindow(window.stamp_ns, near, window.events, density))
        report = estimator.measured(expected.windows[0].spikes, expected.sensor_size)[1]
        predictions.firing_rates, predictions.energy_mj = report.firing_rates, report.energy_mj or 0.0
        predictions.measured = 1
        matched = {window.truth for window in predictions.windows if window.truth is not None}
        predictions.counts = {
            "truth_images": len(truth.stamps),
            "truth_dropped": truth.dropped,
            "truth_unmatched": len(truth.stamps) - len(matched),
            "depth_images": len(predictions.windows),
            "depth_unmatched": sum(window.truth is None for window in predictions.windows),
            "windows_empty": expected.empty,
            "events": expected.events,
        }
        scores = score(predictions, truth, protocol, f"{bag}: {TRUTH_TOPIC}")
        settings = {
            "bag": str(bag),
            "events_topic": expected.topic,
            "truth_topic": TRUTH_TOPIC,
            "schedule": "node",
            "protocol": {"name": protocol.name, "far_m": protocol.far_m, "below_max": protocol.below_max, "rows": None},
            "window_ms": windows.window_ms,
            "bins": windows.bins,
            "rate_hz": windows.rate_hz,
            "min_events": windows.min_events,
            "rectification": "as the node published it",
            "weights": None if estimator.is_untrained else estimator.card.preset,
            "recording_s": expected.seconds,
        }
        content = figures(settings, estimator, predictions, scores, truth)
        return content, page(content, predictions, truth, scores, protocol)
