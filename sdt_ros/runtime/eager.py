"""The reference runtime: the network as written, in float32, on any device that torch knows."""

from __future__ import annotations

import torch
from torch import Tensor

from sdt_ros.network import EnergyRecorder, EnergyReport, SpikingDepthTransformer
from sdt_ros.runtime.fold import fold_batch_norms


class EagerRuntime:
    """A `Runtime` of plain torch operations, channels last, batch norms folded.

    Args:
        network: the network; it is taken over, moved and folded.
        device: where it runs.
    """

    def __init__(self, network: SpikingDepthTransformer, device: torch.device) -> None:
        fold_batch_norms(network)
        self._device = device
        self._network = network.requires_grad_(False).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, spikes: Tensor) -> Tensor:
        """See `Runtime`."""
        with torch.inference_mode():
            told: Tensor = self._network(spikes[None].to(self._device), with_uncertainty=True)
        return told

    def warm_up(self, spikes: Tensor) -> None:
        """See `Runtime`; a call has done all."""

    def measured(self, spikes: Tensor) -> tuple[Tensor, EnergyReport]:
        """See `Runtime`."""
        with EnergyRecorder(self._network) as recorder:
            told = self(spikes)
        return told, recorder.report()

    def describe(self) -> str:
        """See `Runtime`."""
        if self._device.type == "cpu":
            return f"eager float32 on cpu, {torch.get_num_threads()} threads"
        return f"eager float32 on {self._device} ({torch.cuda.get_device_name(self._device)})"
