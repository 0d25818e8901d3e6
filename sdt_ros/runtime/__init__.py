"""The network's weights, run fast: spikes [T, 2, H, W] to metres [H, W]."""

import sdt_ros.memory
import sdt_ros.threads  # noqa: F401  before torch is loaded
from sdt_ros.runtime.base import Runtime
from sdt_ros.runtime.choose import RUNTIMES, open_runtime
from sdt_ros.runtime.cpu import CpuRuntime
from sdt_ros.runtime.cuda import CudaRuntime
from sdt_ros.runtime.device import DeviceError, DeviceLost, resolve_device
from sdt_ros.runtime.eager import EagerRuntime
from sdt_ros.runtime.estimate import Estimate
from sdt_ros.runtime.estimator import DepthEstimator

__all__ = [
    "RUNTIMES",
    "CpuRuntime",
    "CudaRuntime",
    "DepthEstimator",
    "DeviceError",
    "DeviceLost",
    "EagerRuntime",
    "Estimate",
    "Runtime",
    "open_runtime",
    "resolve_device",
]
