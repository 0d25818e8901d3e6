"""The firing-rate regulariser: neurons that never fire learn nothing, those that always fire cost energy."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def rate_band(rates: Mapping[str, Tensor], band: tuple[float, float]) -> Tensor:
    """Mean over layers of the squared distance from a layer's firing rate to a band.

    Args:
        rates: spikes a neuron and bin in [0, 1], a scalar with a gradient for each layer by name.
        band: lowest and highest rate that costs nothing; equal for a target.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: there are no layers.
    """
    if not rates:
        raise ValueError("loss 'rate' has a weight but no firing rates came: the network has no neurons, set it to 0")
    stacked = torch.stack([rate.reshape(()) for rate in rates.values()])
    low, high = band
    return (stacked - stacked.clamp(low, high)).square().mean()
