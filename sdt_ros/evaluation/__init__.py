"""How good a depth image is: the field's metrics and protocol, on recordings with truth."""

from sdt_ros.evaluation.errors import EvaluationError
from sdt_ros.evaluation.metrics import METRICS, average, frame_metrics, median_scaled
from sdt_ros.evaluation.protocol import Protocol, Selection, protocols

__all__ = [
    "METRICS",
    "EvaluationError",
    "Protocol",
    "Selection",
    "average",
    "frame_metrics",
    "median_scaled",
    "protocols",
]
