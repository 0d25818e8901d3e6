"""Which runtime a network gets on a device, and why."""

from __future__ import annotations

import copy
import logging
import platform
from pathlib import Path

import torch

from sdt_ros.network import SpikingDepthTransformer
from sdt_ros.runtime.base import Runtime
from sdt_ros.runtime.cpu import CpuRuntime
from sdt_ros.runtime.device import DeviceError
from sdt_ros.runtime.eager import EagerRuntime

_log = logging.getLogger(__name__)

RUNTIMES = ("auto", "eager", "cpu", "cpu_int8")
_DOT_PRODUCTS = ("avx512_vnni", "avx_vnni")  # as Linux names them


def check_runtime(name: str, device: torch.device) -> None:
    """Refuse a name that is none, or that is not for this device.

    Raises:
        DeviceError: with the names there are.
    """
    if name not in RUNTIMES:
        raise DeviceError(f"unknown runtime {name!r}; expected one of {', '.join(RUNTIMES)}")
    if name.startswith("cpu") and device.type != "cpu":
        raise DeviceError(f"runtime {name!r} runs on the CPU, but the device is {device}: set the device to cpu")


def cpu_flags() -> frozenset[str]:
    """Instructions that the CPU reports; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), []))


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
    """
    check_runtime(name, device)
    if name == "auto":
        return _best(network, device)
    if name == "eager":
        return EagerRuntime(network, device), "asked for"
    try:
        return CpuRuntime(network, int8=name == "cpu_int8"), "asked for"
    except (ValueError, RuntimeError, AttributeError) as error:
        raise DeviceError(f"runtime {name!r} was asked for, but {error}; set the runtime to auto or eager") from error


def _best(network: SpikingDepthTransformer, device: torch.device) -> tuple[Runtime, str]:
    if device.type != "cpu":
        return EagerRuntime(network, device), "auto, on a GPU"
    if network.config.attention == "softmax":
        return EagerRuntime(network, device), "auto, softmax attention has no spikes to be fast with"
    found = sorted(cpu_flags().intersection(_DOT_PRODUCTS))
    if not found:
        return CpuRuntime(network, int8=False), f"auto, no int8 dot products on this {platform.machine()} CPU"
    spare = copy.deepcopy(network)
    try:
        return CpuRuntime(network, int8=True), f"auto, the CPU has {found[0]}"
    except (RuntimeError, AttributeError) as error:  # a torch without this convolution
        _log.warning("int8 convolutions do not work here, running in float32, slower: %s", error)
        return CpuRuntime(spare, int8=False), f"auto, FELL BACK: no int8 convolutions in torch {torch.__version__}"
