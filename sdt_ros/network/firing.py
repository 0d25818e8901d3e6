"""How often spikes fire."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def firing_rate(spikes: Tensor) -> float | None:
    """Share of ones; None where values other than 0 and 1 are among them.

    Args:
        spikes: of any shape and dtype.
    """
    values: Any = spikes.detach()
    library: Any = torch
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:  # which numpy does not have
        library, values = np, values.numpy()  # many times as fast
    ones = int(library.count_nonzero(values == 1))
    return ones / spikes.numel() if ones == int(library.count_nonzero(values != 0)) else None
