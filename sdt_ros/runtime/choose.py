"""Which runtime a network gets on a device, and why."""

from __future__ import annotations

import copy
import importlib.util
import logging
import platform

import torch

from sdt_ros.network import SpikingDepthTransformer
from sdt_ros.runtime.base import Runtime
from sdt_ros.runtime.cpu import CpuRuntime
from sdt_ros.runtime.cpu_flags import cpu_flags
from sdt_ros.runtime.cuda import CudaRuntime
from sdt_ros.runtime.device import DeviceError, device_errors
from sdt_ros.runtime.eager import EagerRuntime

_log = logging.getLogger(__name__)

FELL_BACK = "FELL BACK"
"""In the reason of a runtime that is not the one that it should be."""
RUNTIMES = ("auto", "eager", "cpu", "cpu_int8", "cuda", "cuda_torch")
INT8_PAYS = ("avx512_vnni", "avx_vnni", "avx2")
"""Instructions, as Linux names them, any of which makes int8 faster than float32; the best first."""


def check_runtime(name: str, device: torch.device) -> None:
    """Refuse a name that is none, or that is not for this device.

    Raises:
        DeviceError: with the names there are.
    """
    if name not in RUNTIMES:
        raise DeviceError(f"unknown runtime {name!r}; expected one of {', '.join(RUNTIMES)}")
    if name.startswith("cpu") and device.type != "cpu":
        raise DeviceError(f"runtime {name!r} runs on the CPU, but the device is {device}: set the device to cpu")
    if name.startswith("cuda") and device.type != "cuda":
        raise DeviceError(f"runtime {name!r} runs on a CUDA GPU, but the device is {device}: set the runtime to auto")


def open_runtime(network: SpikingDepthTransformer, name: str, device: torch.device) -> tuple[Runtime, str]:
    """Make the runtime of a name. Only "auto" chooses and may fall back, with a warning; others are made or refused.

    Args:
        network: is taken over.
        name: one of `RUNTIMES`.
        device: where it is to run.

    Returns:
        The runtime, and in words why it is that one.

    Raises:
        DeviceError: there is no such runtime here.
        DeviceLost: the GPU ran out of memory or stopped working.
    """
    check_runtime(name, device)
    with device_errors():
        if name == "auto":
            return (_best if device.type == "cpu" else _best_of_gpu)(network, device)
        if name == "eager":
            return EagerRuntime(network, device), "asked for"
        if name.startswith("cuda"):
            return _gpu_runtime(network, name, device), "asked for"
    try:
        return CpuRuntime(network, int8=name == "cpu_int8"), "asked for"
    except (ValueError, RuntimeError, AttributeError) as error:
        raise DeviceError(f"runtime {name!r} was asked for, but {error}; set the runtime to auto or eager") from error


def _best(network: SpikingDepthTransformer, device: torch.device) -> tuple[Runtime, str]:
    if network.config.attention == "softmax":
        return EagerRuntime(network, device), "auto, softmax attention has no spikes to be fast with"
    flags = cpu_flags()
    found = [name for name in INT8_PAYS if name in flags]
    if not found:
        return CpuRuntime(network, int8=False), f"auto, no fast int8 products on this {platform.machine()} CPU"
    spare = copy.deepcopy(network)
    try:
        return CpuRuntime(network, int8=True), f"auto, the CPU has {found[0]}"
    except (RuntimeError, AttributeError) as error:  # a torch without this convolution
        _log.warning("int8 convolutions do not work here, running in float32, slower: %s", error)
        return CpuRuntime(spare, int8=False), f"auto, {FELL_BACK}: no int8 convolutions in torch {torch.__version__}"


def _gpu_runtime(network: SpikingDepthTransformer, name: str, device: torch.device) -> Runtime:
    with device_errors():
        try:
            return CudaRuntime(network, device, triton=name == "cuda")
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # compilers raise whatever they like
            raise DeviceError(
                f"runtime {name!r} was asked for, but it does not work here: {error}; set the runtime to auto or eager"
            ) from error


def _best_of_gpu(network: SpikingDepthTransformer, device: torch.device) -> tuple[Runtime, str]:
    """Triton's kernels, else torch's in a graph, else eager; what failed is told, what is not installed only said."""
    if network.config.attention == "softmax":
        return EagerRuntime(network, device), "auto, softmax attention has no spikes to be fast with"
    why, names = "the fastest on a GPU", ["cuda", "cuda_torch"]
    if importlib.util.find_spec("triton") is None:
        why = "Triton is not installed"
        names.remove("cuda")
    for name in names:
        spare = copy.deepcopy(network)
        try:
            return CudaRuntime(network, device, triton=name == "cuda"), f"auto, {why}"
        except Exception as error:  # compilers raise whatever they like; without memory the next one fails alike
            _log.warning("runtime %s does not work here, trying a slower one: %s", name, error)
            why, network = f"{FELL_BACK}: {name} failed with {type(error).__name__}", spare
    return EagerRuntime(network, device), f"auto, {why}"
