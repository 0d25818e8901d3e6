"""Several processes that learn as one: the group, exact batch norms, and means over ranks."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Group:
    """The processes of a run.

    Attributes:
        rank: this one's number.
        world: how many there are.
        local_rank: this one's number on its machine, which picks its GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return any(self.gather(flag))

    def gather(self, value: Any) -> list[Any]:
        """A small value of each process, in all of them."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait for the others."""
        if self.world > 1:
            dist.barrier()


def join(device_type: str) -> Group:
    """Join the processes that torchrun started, if it did: nccl between GPUs, gloo between CPUs."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Group()
    dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    return Group(dist.get_rank(), dist.get_world_size(), int(os.environ.get("LOCAL_RANK", "0")))


def leave(group: Group) -> None:
    """Leave the group."""
    if group.world > 1:
        dist.destroy_process_group()


class _Sum(torch.autograd.Function):
    """The sum over processes; its gradient is the sum of theirs, since each one's loss depends on all inputs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def shared_mean(values: Tensor, group: Group) -> Tensor:
    """The mean over processes, with its gradient."""
    return values if group.world == 1 else _Sum.apply(values) / group.world


class SharedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm over the samples of all processes, on any device.

    `torch.nn.SyncBatchNorm` does that on GPUs only. This one makes two gloo processes learn what one process with twice
    the batch learns. It computes in float32, mean first and then variance, which is exact where sums of squares are
    not.
    """

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] to the same, in its dtype."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        count = torch.full((1,), values.numel() / values.shape[1], device=values.device)
        sums = _Sum.apply(torch.cat([values.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / total
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None and self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * (total / (total - 1)), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def share_batch_norms(network: nn.Module, device_type: str) -> nn.Module:
    """Makes batch norms see the samples of all processes; names and tensors stay the same."""
    if device_type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm2d
    return network


def shard(values: Sequence[int], group: Group) -> Sequence[int]:
    """Every `world`-th value, beginning with the rank's."""
    return values[group.rank :: group.world]
