"""Whether an exported graph, run by somebody else, gives the depth of the network that it was made of.

Convolutions add in another order elsewhere, so that a neuron which stands exactly at its threshold may fire or not, and
a place of the picture may change. Hence shares of pixels, not a largest difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdt_ros.network import synthetic_events
from sdt_ros.runtime import DepthEstimator

TOLERANCE = 0.01
"""Of a pixel's depth, and of its deviation: relative."""
MOST_OFF = 0.01
"""Share of the pixels that may be off by more."""
_WINDOWS = 3


@dataclass(frozen=True)
class Agreement:
    """How far a graph's output lies from the network's, over some windows.

    Attributes:
        by: what ran the graph.
        windows: how many, the last of them without any event.
        median: of the pixels' relative differences; the larger one of depth's and deviation's, as what follows.
        most: the largest of them.
        off: share of the pixels that are off by more than `TOLERANCE`.
    """

    by: str
    windows: int
    median: float
    most: float
    off: float

    @property
    def holds(self) -> bool:
        """Whether the graph can be taken for the network."""
        return self.off <= MOST_OFF


def compare(path: Path, estimator: DepthEstimator, size: tuple[int, int], focal_px: float) -> Agreement | None:
    """Runs an exported graph on windows of synthetic events, and the network beside it.

    Args:
        path: the graph's file.
        estimator: of the same weights, in the eager runtime.
        size: height and width of the sensor [px].
        focal_px: a focal length, where the graph asks for one.

    Returns:
        None where onnxruntime is not installed.

    Raises:
        RuntimeError: onnxruntime cannot open or run the graph.
    """
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; it warns of what it optimises
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        differences = [_differences(session, estimator, spikes, focal_px) for spikes in _windows(estimator, size)]
    except Exception as error:  # onnxruntime's own kinds, without a common base
        raise RuntimeError(f"onnxruntime cannot run {path}: {str(error).strip().partition(chr(10))[0]}") from error
    depth, deviation = (np.concatenate(each) for each in zip(*differences, strict=True))
    return Agreement(
        by=f"onnxruntime {onnxruntime.__version__}",
        windows=len(differences),
        median=max(float(np.median(each)) for each in (depth, deviation)),
        most=max(float(each.max()) for each in (depth, deviation)),
        off=max(float((~(each <= TOLERANCE)).mean()) for each in (depth, deviation)),
    )


def _windows(estimator: DepthEstimator, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    polarities = estimator.card.network.polarities
    windows = [synthetic_events(estimator.bins, *size, polarities, seed)[0].numpy() for seed in range(_WINDOWS - 1)]
    return [*windows, np.zeros_like(windows[0])]


def _differences(
    session: Any, estimator: DepthEstimator, spikes: NDArray[np.uint8], focal_px: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Relative differences of depth and of deviation, of each pixel; of the latter 0 where it is not told."""
    asked = {"spikes": spikes[None], "focal_px": np.array([focal_px], np.float32)}
    outputs = session.run(None, {each.name: asked[each.name] for each in session.get_inputs()})
    told = estimator.estimate(spikes, focal_px=focal_px)
    wanted = [each for each in (told.depth, told.deviation()) if each is not None]
    depth, *rest = (_off(found[0, 0], want) for found, want in zip(outputs, wanted, strict=True))
    return depth, rest[0] if rest else np.zeros_like(depth)


def _off(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.abs(found / wanted - 1).ravel()
