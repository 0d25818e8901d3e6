"""What the node published in the demo, scored as `sdt eval --live` scores it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdt_ros.bags import open_bag
from sdt_ros.evaluation.expected import Expected
from sdt_ros.evaluation.figures import figures
from sdt_ros.evaluation.protocol import OF_DATASET, protocols
from sdt_ros.evaluation.published import Received, activity_of, score_published
from sdt_ros.evaluation.recording import RecordingSource
from sdt_ros.evaluation.rectify import Rectifier
from sdt_ros.evaluation.report import page
from sdt_ros.evaluation.run import Work
from sdt_ros.evaluation.score import Scorer
from sdt_ros.evaluation.spool import Spool
from sdt_ros.evaluation.truth import nearest, read_truth
from sdt_ros.events import WindowConfig

TRUTH_TOPIC = "/depth/image_rect"


@dataclass(frozen=True, slots=True)
class Scored:
    """What came out.

    Attributes:
        content: all figures.
        page: a self-contained HTML page about them.
        truths: float32 [H, W] metres by the stamp [ns] of the windows that are shown, where there is one.
    """

    content: dict[str, Any]
    page: str
    truths: dict[int, np.ndarray]


def has_truth(bag: Path) -> bool:
    """Whether a recording has depth images to compare with."""
    with open_bag(bag) as reader:
        info = reader.topics.get(TRUTH_TOPIC)
        return info is not None and info.count > 0


def score_and_draw(bag: Path, received: Received, expected: Expected, windows: WindowConfig) -> Scored:
    """Score depth images against the truth nearest in time.

    Args:
        bag: the recording.
        received: what arrived.
        expected: what the recording should give.
        windows: the node's windows.

    Raises:
        EvaluationError: nothing can be compared, and why.
    """
    protocol = protocols[OF_DATASET["bag"]]
    with ExitStack() as stack:
        reader = stack.enter_context(open_bag(bag))
        truth = read_truth(reader, TRUTH_TOPIC, stack.enter_context(Spool()), protocol)
        source = RecordingSource(reader, expected.topic, truth, windows, Rectifier(None, expected.topic), "node")
        scorer = stack.enter_context(Scorer(protocol, source.where, keep_pictures=True))
        period_ns = round(float(windows.period_us) * 1000)
        live, counts = score_published(source, received, scorer, period_ns)
        scores = scorer.finish()
        last = received.stats[-1]
        settings = {
            "recording": str(bag),
            "events": expected.topic,
            "truth": TRUTH_TOPIC,
            "schedule": "node",
            "protocol": {"name": protocol.name, "far_m": protocol.far_m, "below_max": protocol.below_max, "rows": None},
            "window_ms": windows.window_ms,
            "bins": windows.bins,
            "rate_hz": windows.rate_hz,
            "min_events": windows.min_events,
            "rectification": "as the node published it",
            "recording_s": expected.seconds,
        }
        work = Work(activity=activity_of(received.stats))
        content = figures(settings, last.runtime, bool(last.trained), counts, scores, work, live.as_dict())
        shown = [window.stamp_ns for window in expected.windows[: expected.shown]]
        places = {stamp: nearest(truth.stamps, stamp, period_ns // 2) for stamp in shown}
        truths = {stamp: truth.frames[place].copy() for stamp, place in places.items() if place is not None}
        return Scored(content, page(content, scorer, scores), truths)
