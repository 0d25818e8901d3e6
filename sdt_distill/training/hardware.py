"""What the machine at hand does best: number formats and neurons."""

from __future__ import annotations

import logging

import torch
from torch import nn

from sdt_distill.kernels import use_fused_layers, use_fused_neurons
from sdt_ros.network import MLIF

from .tree import ConfigError

_log = logging.getLogger(__name__)


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype that a config's `run.precision` stands for on a device."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # Elsewhere torch computes bfloat16 by way of float32, which is slower than float32 itself.
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512" and _cpu_has("avx512_bf16", "amx_bf16")
    return torch.bfloat16 if fast else torch.float32


def pick_layers(wanted: str, network: nn.Module, *, shared_norms: bool) -> str:
    """Swap a network's layers for compiled ones where that is wanted and possible; says which there are now.

    Args:
        wanted: `run.fused` of a config.
        network: changed in place.
        shared_norms: batch norms are shared between processes, so that only the neurons can be swapped.

    Raises:
        ConfigError: compiled layers were asked for and cannot be had.
    """
    has_neurons = any(isinstance(module, MLIF) for module in network.modules())
    if wanted == "off" or (wanted == "auto" and not has_neurons):
        return "plain"
    try:
        (use_fused_neurons if shared_norms else use_fused_layers)(network)
    except (ValueError, ImportError) as error:
        if wanted == "on":
            raise ConfigError(f"config key 'run.fused' is 'on': {error}") from error
        _log.warning("plain layers: %s", error)
        return "plain"
    return "compiled neurons and plain" if shared_norms else "compiled"


def _cpu_has(*flags: str) -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:  # noqa: PTH123  a device, not a file
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return any(flag in line.split() for flag in flags)
