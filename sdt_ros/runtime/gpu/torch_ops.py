"""The operations of `Ops` as plain torch: for GPUs without Triton, as those of Jetson boards, and any other device."""

from __future__ import annotations

import torch
from torch import Tensor

from sdt_ros.network.neurons import MLIF


class TorchOps:
    """See `Ops`."""

    name = "torch"

    def fire(
        self,
        x: Tensor,
        steps: int,
        tau: float,
        threshold: float,
        dtype: torch.dtype,
        *,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        pool: bool = False,
    ) -> Tensor:
        """See `Ops.fire`."""
        x = (max_pool(x) if pool else x).float().contiguous(memory_format=torch.channels_last)
        if scale is not None:
            x = x * scale[:, None, None]
        if bias is not None:
            x = x + bias[:, None, None]
        return MLIF(tau, threshold)(x.unflatten(0, (steps, -1))).flatten(0, 1).to(dtype)

    def shortcut(self, membrane: Tensor, currents: Tensor, bias: Tensor) -> Tensor:
        """See `Ops.shortcut`."""
        return (membrane.float() + (currents + bias[:, None, None])).contiguous(memory_format=torch.channels_last)


def max_pool(x: Tensor) -> Tensor:
    """2x2 max pool of [..., H, W], H and W even."""
    rows = torch.maximum(x[..., 0::2, :], x[..., 1::2, :])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])
