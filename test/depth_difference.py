"""How far two runtimes of one network are apart."""

from __future__ import annotations

from torch import Tensor


def apart(ours: Tensor, expected: Tensor) -> float:
    """Mean absolute difference, as a share of how much the expected depth varies over the picture."""
    return float((ours - expected).abs().mean() / expected.std())
