"""Whether an exported graph, run by somebody else, gives the depth of the network that it was made of.

Convolutions add in another order elsewhere, so that a neuron which stands exactly at its threshold may fire or not. One
such neuron can move the scale of a whole picture by a few per cent: of `sdt_small` at 640x480 it did in two windows of
twelve, by 2 %, and the network's own layouts of memory differ as much. So windows with events are held to what no
graph that computes something else would reach, and the window without events, where nothing fires, to rounding: the
lens, the range of depth and the enlargement are all in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdt_ros.network import synthetic_events
from sdt_ros.runtime import DepthEstimator

MOST_BLANK = 1e-4
"""How far any pixel of a window without events may be off: of its depth, and of its deviation, relative."""
MOST_MEDIAN = 0.05
"""How far the median pixel of each window with events may be off."""
EXACT = 1e-4
"""A window whose median pixel is off by less was computed with the very same spikes."""
_WINDOWS = 4


class RunError(RuntimeError):
    """A graph cannot be opened or run; the message says why."""


@dataclass(frozen=True)
class Agreement:
    """How far a graph's output lies from the network's; the larger of depth's and deviation's relative differences.

    Attributes:
        by: what ran the graph.
        blank: of a window without events, the largest difference of a pixel.
        medians: of each window with events, the median difference of its pixels.
    """

    by: str
    blank: float
    medians: tuple[float, ...]

    @property
    def holds(self) -> bool:
        """Whether the graph can be taken for the network; NaN is no agreement."""
        return self.blank <= MOST_BLANK and all(median <= MOST_MEDIAN for median in self.medians)

    @property
    def exact(self) -> int:
        """Windows with events that were computed with the very same spikes."""
        return sum(median <= EXACT for median in self.medians)


def compare(path: Path, estimator: DepthEstimator, size: tuple[int, int], focal_px: float) -> Agreement | None:
    """Runs an exported graph on windows of synthetic events and on an empty one, and the network beside it.

    Args:
        path: the graph's file.
        estimator: of the same weights, in the eager runtime.
        size: height and width of the sensor [px].
        focal_px: a focal length, where the graph asks for one.

    Returns:
        None where onnxruntime is not installed.

    Raises:
        RunError: onnxruntime is broken, or cannot open or run the graph.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return None
    except ImportError as error:
        raise RunError(f"onnxruntime is installed but does not load: {error}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of what it optimises
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds, without a common base
        raise RunError(
            f"onnxruntime {onnxruntime.__version__} cannot open what was exported: {_first(error)}"
        ) from error
    polarities = estimator.card.network.polarities
    windows = [synthetic_events(estimator.bins, *size, polarities, seed)[0].numpy() for seed in range(_WINDOWS)]
    blank = _differences(session, estimator, np.zeros_like(windows[0]), focal_px)
    told = [_differences(session, estimator, spikes, focal_px) for spikes in windows]
    return Agreement(
        by=f"onnxruntime {onnxruntime.__version__}",
        blank=max(float(each.max()) for each in blank),
        medians=tuple(max(float(np.median(each)) for each in window) for window in told),
    )


def _differences(
    session: Any, estimator: DepthEstimator, spikes: NDArray[np.uint8], focal_px: float
) -> list[NDArray[np.float32]]:
    """Relative differences of depth and, where it is told, of deviation, of each pixel; NaN where either is NaN."""
    asked = {"spikes": spikes[None], "focal_px": np.array([focal_px], np.float32)}
    try:
        outputs = session.run(None, {each.name: asked[each.name] for each in session.get_inputs()})
    except Exception as error:  # as above
        raise RunError(f"onnxruntime cannot run what was exported: {_first(error)}") from error
    told = estimator.estimate(spikes, focal_px=focal_px)
    wanted = [each for each in (told.depth, told.deviation()) if each is not None]
    return [np.abs(found[0, 0] / want - 1) for found, want in zip(outputs, wanted, strict=True)]


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
