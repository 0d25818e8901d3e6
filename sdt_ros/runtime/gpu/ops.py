"""What a GPU runtime asks of its kernels; `triton_ops` and `torch_ops` are two ways to give it."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Ops(Protocol):
    """Operations between convolutions, on tensors that lie channels last; membranes are float32 whatever comes in."""

    name: str

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
        """Multi-step neurons as `sdt_ros.network.MLIF` has them, fed with scale * pool(x) + bias.

        Args:
            x: [T * B, C, H, W] floating point, time first.
            steps: T.
            tau: membrane time constant in steps.
            threshold: potential at which a neuron fires.
            dtype: of the spikes.
            scale: [C] float32; None is 1. Not negative where it is pooled.
            bias: [C] float32; None is 0.
            pool: take the largest of each 2x2 values before; H and W must be even.

        Returns:
            Spikes [T * B, C, H, W] in {0, 1}, or half as high and wide, channels last.
        """

    def shortcut(self, membrane: Tensor, currents: Tensor, bias: Tensor) -> Tensor:
        """The sum membrane + (currents + bias), float32.

        Args:
            membrane: [N, C, H, W] floating point.
            currents: [N, C, H, W] floating point.
            bias: [C] float32.

        Returns:
            [N, C, H, W], channels last.
        """
