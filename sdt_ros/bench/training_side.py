"""One side of `sdt bench training`, in a process of its own: a network with its neurons, and whole training steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sdt_ros.bench.other_process import Answers, serve

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SIDES = ("compiled", "plain", "spikingjelly")
BINS, _EVENT_RATE = 4, 0.08


def _made(preset: str, side: str) -> nn.Module:
    """A network with the weights that all sides begin with."""
    import torch

    from sdt_ros.network import build_network

    torch.manual_seed(0)
    network = build_network(preset)
    if side == "compiled":
        from sdt_distill.kernels import use_fused_layers

        use_fused_layers(network)
    elif side == "spikingjelly":
        from sdt_ros.bench.spikingjelly_neurons import use_spikingjelly

        use_spikingjelly(network)
    return network


def _step(network: nn.Module, precision: str) -> Callable[[Tensor, Tensor], Tensor]:
    """One training step: from spikes [B, T, P, H, W] and depth [B, 1, H, W] to the loss."""
    import torch

    from sdt_distill.losses.depth import log_residual, scale_invariant
    from sdt_distill.training.config import OptimiserConfig
    from sdt_distill.training.optimise import make_optimiser
    from sdt_ros.network import DepthRange

    optimiser = make_optimiser([network], OptimiserConfig(lr=1e-4, weight_decay=0.01))
    depth_range = DepthRange(0.5, 80.0)

    def learn(spikes: Tensor, depth_m: Tensor) -> Tensor:
        with torch.autocast(spikes.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            log_depth = network(spikes)
        residual, valid = log_residual(log_depth.float(), depth_m, depth_range)
        loss = scale_invariant(residual, valid.float(), 0.85)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        return loss.detach()

    return learn


def _peak_bytes(step: Callable[[], object], device: torch.device) -> int | None:
    """Bytes of a GPU that a step takes at most above those of before; None on a CPU."""
    import torch

    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device) - before


def _kept_bytes(network: nn.Module, step: Callable[[], object]) -> int:
    """Bytes of distinct storages that autograd keeps during a step, parameters aside."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, Any] = {}  # holding the storages, so that no address is given out twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for storage in kept.values())


def _prepare(told: dict[str, Any]) -> Answers:
    import torch

    from sdt_distill.training.graphed import GraphedStep

    torch.set_num_threads(told["threads"])
    device = torch.device(told["device"])
    network = _made(told["preset"], told["side"]).to(device)
    batch, height, width = told["batch"], told["height"], told["width"]
    spikes = (torch.rand(batch, BINS, 2, height, width) < _EVENT_RATE).float().to(device)
    depth_m = (torch.rand(batch, 1, height, width) * 20 + 1).to(device)

    step = _step(network, told["precision"])
    graphed = GraphedStep(step) if told["side"] == "compiled" and device.type == "cuda" else step

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.process_time() if told["cpu_time"] else time.perf_counter()

    def seconds() -> float:
        if isinstance(graphed, GraphedStep):
            graphed.prepare(spikes, depth_m)
        began = clock()
        graphed(spikes, depth_m)
        return clock() - began

    return {
        "run": lambda: {"seconds": seconds()},
        "kept": lambda: {"bytes": _kept_bytes(network, lambda: step(spikes, depth_m))},
        "peak": lambda: {"bytes": _peak_bytes(lambda: step(spikes, depth_m), device)},
    }


if __name__ == "__main__":
    serve(_prepare)
