"""The fast runtimes of a CPU: the network's own modules as compiled loops and oneDNN, in int8 or float32."""

from __future__ import annotations

import torch
from torch import Tensor

from sdt_ros.network import EnergyRecorder, EnergyReport, SpikingDepthTransformer
from sdt_ros.runtime.spike_conv import Int8Conv2d
from sdt_ros.runtime.spiking import use_cpu_layers


class CpuRuntime:
    """A `Runtime` of fused neurons, one pass for each of the stem's layers and for attention, and folded norms.

    Depth does not depend on the number of threads but for the rounding of float32 convolutions.

    Args:
        network: the network; it is taken over and changed for good.
        int8: weights of spiking convolutions in int8; else float32.

    Raises:
        ValueError: its attention is softmax.
        RuntimeError: int8 is asked for and torch has no such convolution for this CPU.
    """

    def __init__(self, network: SpikingDepthTransformer, *, int8: bool) -> None:
        self._int8 = int8
        self._network = use_cpu_layers(network, int8=int8)

    def __call__(self, spikes: Tensor) -> Tensor:
        """See `Runtime`."""
        with torch.inference_mode():
            told: Tensor = self._network(spikes[None], with_uncertainty=True)
        return told

    def warm_up(self, spikes: Tensor) -> None:
        """See `Runtime`; a layer may add weights in one window and multiply in the next, so all do both once."""
        layers = [module for module in self._network.modules() if isinstance(module, Int8Conv2d)]
        try:
            for gathers in (True, False) if layers else ():
                for layer in layers:
                    layer.gathers = gathers
                self(spikes)
        finally:
            for layer in layers:
                layer.gathers = None

    def measured(self, spikes: Tensor) -> tuple[Tensor, EnergyReport]:
        """See `Runtime`; the rates are those of this runtime's own spikes."""
        with EnergyRecorder(self._network) as recorder:
            told = self(spikes)
        return told, recorder.report()

    def describe(self) -> str:
        """See `Runtime`."""
        precision = "int8 weights" if self._int8 else "float32"
        return f"compiled, {precision}, on cpu, {torch.get_num_threads()} threads"
