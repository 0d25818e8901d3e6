"""How well a head tells uncertainty, on windows that it was not fitted to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sdt_distill.uncertainty.mistakes import Mistakes
from sdt_ros.evaluation.uncertainty import Reliability
from sdt_ros.network import UncertaintyHead

_BATCH = 32


@torch.inference_mode()
def score(head: UncertaintyHead, mistakes: Mistakes) -> dict[str, Any]:
    """Hold what a head tells against the truth.

    Returns:
        What `Reliability.figures` gives of pixels, and of pictures' scales under `scale`; and how many `windows`.
    """
    pixels, scales = Reliability(), Reliability()
    for batch in (mistakes.of(slice(k, k + _BATCH)) for k in range(0, len(mistakes), _BATCH)):
        told = batch.told_by(head).exp()
        error = (batch.place.float() + batch.scale[:, None, None]).abs()
        known = error.isfinite()
        pixels.add(_array(error[known]), _array(torch.hypot(told[:, 0], told[:, 1])[known]))
        scales.add(_array(batch.scale.abs()), _array(told[:, 0, 0, 0]))
    return {"windows": len(mistakes), **(pixels.figures() or {}), "scale": scales.figures()}


def _array(values: torch.Tensor) -> np.ndarray:
    return values.double().numpy()
