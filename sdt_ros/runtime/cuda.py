"""The fast runtimes of a GPU: the network's own modules in float16, one kernel for neurons, one graph a window."""

from __future__ import annotations

import torch
from torch import Tensor

from sdt_ros.network import EnergyRecorder, EnergyReport, SpikingDepthTransformer, synthetic_events
from sdt_ros.runtime.fold import fold_batch_norms
from sdt_ros.runtime.gpu.accelerator import Accelerator, CudaAccelerator
from sdt_ros.runtime.gpu.layers import use_gpu_layers
from sdt_ros.runtime.gpu.ops import Ops
from sdt_ros.runtime.gpu.precision import pick_dtype
from sdt_ros.runtime.gpu.steps import Inputs, Steps
from sdt_ros.runtime.gpu.torch_ops import TorchOps

_PROOF_SIZE = (32, 48)  # pixels on which a new runtime shows that it works


class CudaRuntime:
    """A `Runtime` that records the whole pass as one CUDA graph for each resolution.

    The constructor compiles the kernels and records and replays a small graph, so that what does not work on a machine
    shows there and not on the first window.

    Args:
        network: the network; it is taken over, moved and changed for good.
        device: a CUDA device with its index.
        triton: kernels by Triton; else torch's own operations.
        accelerator: in the place of CUDA, for tests.
        dtype: in the place of the format that the GPU is fast in, and in words why it is that.

    Attributes:
        dtype: of weights, spikes and currents.

    Raises:
        ImportError: Triton is asked for and not installed.
        ValueError: its attention is softmax.
        RuntimeError: a kernel does not compile or run here, or the pass cannot be recorded.
    """

    def __init__(
        self,
        network: SpikingDepthTransformer,
        device: torch.device,
        *,
        triton: bool,
        accelerator: Accelerator | None = None,
        dtype: tuple[torch.dtype, str] | None = None,
    ) -> None:
        ops = _ops(triton)
        fold_batch_norms(network)
        chosen, self._why = dtype or pick_dtype(network, torch.cuda.get_device_capability(device))
        self.dtype = chosen
        self._device, self._kernels = device, ops.name
        self._name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        self._network = use_gpu_layers(network, ops, chosen).to(device)
        self._accelerator = CudaAccelerator(device) if accelerator is None else accelerator
        self._steps = Steps(self._accelerator, self.uncaptured)
        self._inputs = Inputs(self._accelerator)
        config = network.config
        self(synthetic_events(4, *_PROOF_SIZE, config.polarities)[0].to(torch.uint8)).cpu()

    def __call__(self, spikes: Tensor) -> Tensor:
        """See `Runtime`. Returns before the device is done; the result is in the order of its current stream."""
        with torch.inference_mode(), self._accelerator.active():
            step = self._steps.of(spikes.shape)
            self._inputs.send(spikes, step.input)
            step.replay()
            return step.output.clone()  # the next window overwrites it

    def warm_up(self, spikes: Tensor) -> None:
        """See `Runtime`; a call has recorded all."""

    def uncaptured(self, spikes: Tensor) -> Tensor:
        """The same pass of spikes on the device, launched kernel by kernel, so that hooks see it."""
        with torch.inference_mode(), self._accelerator.active():
            told: Tensor = self._network(spikes[None], with_uncertainty=True)
            return told.float()

    def measured(self, spikes: Tensor) -> tuple[Tensor, EnergyReport]:
        """See `Runtime`; the rates are those of this runtime's own spikes."""
        with EnergyRecorder(self._network) as recorder:
            told = self.uncaptured(spikes.to(self._device))
        return told, recorder.report()

    def describe(self) -> str:
        """See `Runtime`."""
        precision = str(self.dtype).removeprefix("torch.")
        return f"captured, {precision} ({self._why}), kernels by {self._kernels}, on {self._device}{self._name}"


def _ops(triton: bool) -> Ops:
    if not triton:
        return TorchOps()
    from sdt_ros.runtime.gpu.triton_ops import TritonOps

    return TritonOps()
