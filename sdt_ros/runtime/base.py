"""What every runtime offers: the same weights, run its own way."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from sdt_ros.network import EnergyReport


class Runtime(Protocol):
    """Runs a network on windows of spikes. Eager torch is one; compiled and quantised ones fit in the same place."""

    def __call__(self, spikes: Tensor) -> Tensor:
        """Spikes [T, 2, H, W] uint8 on the CPU to what the network tells of them, float32 on the runtime's device.

        Normalised log depth [1, 1, H, W], or where the network has a head for uncertainty [1, 3, H, W]: that, and ln of
        the deviations of scale and places.
        """

    def warm_up(self, spikes: Tensor) -> None:
        """Do at once what other windows of this resolution may ask for, beyond what a call with these did."""

    def measured(self, spikes: Tensor) -> tuple[Tensor, EnergyReport]:
        """The same, with the firing rates and energy of this window; slower."""

    def describe(self) -> str:
        """Name, precision and device, for logs and reports."""
