"""Windows through a network into the scorer: one loop for recordings, data sets and any network."""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.probes import Prober
from sdt_ros.evaluation.score import Scorer
from sdt_ros.evaluation.source import Source, Window
from sdt_ros.evaluation.spread import is_one_of
from sdt_ros.evaluation.truth import onto
from sdt_ros.network import EnergyReport
from sdt_ros.runtime import DepthEstimator, Estimate

MEASURE_EVERY = 25  # windows; counting spikes layer by layer takes its time

Predict = Callable[[np.ndarray, float | None], np.ndarray]
"""What the evaluation calls: spikes uint8 [T, P, H, W] and the focal length [px] give depth float32 [h, w] metres."""
Measure = Callable[[np.ndarray, float | None], tuple[np.ndarray, EnergyReport]]
"""The same, and what the window cost."""
Smooth = Callable[[np.ndarray, int, float | None], np.ndarray]
"""Takes a window's depth float32 [h, w] metres, its end [ns], and the focal length; gives depth held over time."""
Rescale = Callable[[Window, np.ndarray], np.ndarray]
"""Brings a window's depth float32 [H, W] metres to a scale that is known from elsewhere."""
Doubt = Callable[[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]], None]
"""Takes depth float32 [h, w] metres, its truth [H, W], and what brings the one to the grid of the other."""


@dataclass
class Activity:
    """Firing rates and energy, averaged over the windows that they were measured on.

    Attributes:
        firing_rates: by layer.
        energy_mj: of a window.
        windows: that were measured; 0 where the network cannot tell.
    """

    firing_rates: dict[str, float] = field(default_factory=dict)
    energy_mj: float = 0.0
    windows: int = 0

    def add(self, report: EnergyReport) -> None:
        """Take one window's measurement."""
        before, self.windows = self.windows, self.windows + 1
        for name, rate in report.firing_rates.items():
            self.firing_rates[name] = (self.firing_rates.get(name, 0.0) * before + rate) / self.windows
        self.energy_mj = (self.energy_mj * before + (report.energy_mj or 0.0)) / self.windows


@dataclass
class Work:
    """What an evaluation took.

    Attributes:
        activity: of the network.
        windows: that depth was made of.
        seconds: all of it [s].
        network_s: in the network, probes and measurements too [s].
    """

    activity: Activity = field(default_factory=Activity)
    windows: int = 0
    seconds: float = 0.0
    network_s: float = 0.0


class EstimatorNetwork:
    """A `DepthEstimator` as the evaluation calls it: `Predict` and `Measure`.

    Args:
        estimator: the estimator.

    Attributes:
        last: what it made of the last window, how far it may be off included.
    """

    def __init__(self, estimator: DepthEstimator) -> None:
        self._estimator = estimator
        self.last: Estimate | None = None

    def __call__(self, spikes: np.ndarray, focal_px: float | None = None) -> np.ndarray:
        """Depth [H, W] metres of spikes uint8 [T, P, H, W] from a camera of a focal length [px]."""
        self.last = self._estimator.estimate(spikes, None, focal_px)
        return self.last.depth

    def measured(self, spikes: np.ndarray, focal_px: float | None = None) -> tuple[np.ndarray, EnergyReport]:
        """The same, and what the window cost; slower."""
        self.last = self._estimator.estimate(spikes, None, focal_px, measure=True)
        assert self.last.report is not None
        return self.last.depth, self.last.report


def evaluate(
    source: Source,
    predict: Predict,
    scorer: Scorer,
    probe_every: int = 0,
    measure: Measure | None = None,
    smooth: Smooth | None = None,
    rescale: Rescale | None = None,
    doubt: Doubt | None = None,
) -> Work:
    """Show a network all windows of a source and score what it makes of them.

    Args:
        source: the windows and their truth.
        predict: the network.
        scorer: takes the depth.
        probe_every: show spoilt input of one in so many windows with a truth too; 0 for none.
        measure: the network with its firing rates and energy, used for some of the windows.
        smooth: holds depth over time as the node does; for windows that follow each other.
        rescale: takes smoothed depth; probes are left as they are.
        doubt: holds what the network tells of its uncertainty against the truth.

    Raises:
        EvaluationError: no window has a truth, or truth and sensor show different views.
        BagError, ValueError, OSError: what the source or the network cannot read.
    """
    work = Work()
    began = time.perf_counter()

    def timed(spikes: np.ndarray, focal_px: float | None) -> np.ndarray:
        start = time.perf_counter()
        depth = predict(spikes, focal_px)
        work.network_s += time.perf_counter() - start
        return depth

    prober = Prober(timed)
    with_truth = 0
    total = len(source) if isinstance(source, Sized) else None
    for window in tqdm(source, "windows", total, leave=False, disable=None):
        if window.truth is not None and not with_truth:  # before the network's time is spent
            onto(np.empty(window.spikes.shape[2:]), window.truth.shape, source.where)
        if measure is not None and work.windows % MEASURE_EVERY == 0:
            start = time.perf_counter()
            depth, report = measure(window.spikes, window.focal_px)
            work.network_s += time.perf_counter() - start
            work.activity.add(report)
        else:
            depth = timed(window.spikes, window.focal_px)
        if smooth is not None:
            end_ns = window.stamp_ns if window.end_ns is None else window.end_ns
            depth = smooth(depth, end_ns, window.focal_px)
        if rescale is not None:
            depth = rescale(window, depth)
        work.windows += 1
        if doubt is not None and window.truth is not None:
            doubt(depth, window.truth, source.finish)
        probed = {}
        if probe_every and window.truth is not None and is_one_of(probe_every, with_truth):
            probed = {name: source.finish(spoilt) for name, spoilt in prober(window.spikes, window.focal_px).items()}
        with_truth += window.truth is not None
        scorer.add(
            window.group, window.stamp_ns, source.finish(depth), window.truth, window.spikes, window.truth_ns,
            window.events, probed,
        )  # fmt: skip
    work.seconds = time.perf_counter() - began
    if not with_truth:
        raise EvaluationError(source.why_nothing())
    return work
