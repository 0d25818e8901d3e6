"""`use_fused_layers`: a network's neurons, batch norms, pools and means over time as compiled loops, channels last."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sdt_distill.kernels import finish, norm, pool
from sdt_distill.kernels.neurons import triton_lif, use_fused_neurons
from sdt_distill.kernels.triton_module import open_triton_module
from sdt_ros.network.head import FusionHead, Upsample
from sdt_ros.network.layers import ConvBN
from sdt_ros.network.rectifier import LEAK, rectify
from sdt_ros.network.stem import Downsample
from sdt_ros.runtime.kernels.parallel import array, spread

_COMPILED = (torch.float32, torch.bfloat16)
_PERIOD = 256  # values, at least, over which coefficients are repeated
_Network = TypeVar("_Network", bound=nn.Module)


def use_fused_layers(network: _Network) -> _Network:
    """Give a network compiled neurons, norms, pools, means and last step, and channels-last convolutions, in place.

    For training on a CPU in float32 or under bfloat16 autocast, and on a CUDA GPU by Triton. Parameters
    keep names, shapes and layouts, so checkpoints load and save as before. Hooks stay and run, but for those on the
    `ConvBN` and norms inside `Downsample` and `Upsample`, which are not called there; their convolutions are. Other
    dtypes and other devices are computed as ever, and so are batch norms in evaluation mode where nothing
    learns. Neurons fire as plain ones do for the same currents; norms differ by rounding.

    Args:
        network: a network of `sdt_ros.network`, or any module that holds parts of one.

    Returns:
        The same object.

    Raises:
        ValueError: it has no MLIF, or a derived one.
    """
    use_fused_neurons(network)
    for module in network.modules():
        module.__class__ = _FUSED.get(type(module), type(module))
    return network


class FusedBatchNorm2d(nn.BatchNorm2d):
    """`BatchNorm2d` whose training pass reads its input once for the statistics and once to normalise it."""

    def forward(self, input: Tensor) -> Tensor:
        """The same as `BatchNorm2d.forward`, with its output channels last."""
        return super().forward(input) if (mean := _norm_mean(self, input, steps=1)) is None else mean


class FusedConvBN(ConvBN):
    """`ConvBN` with a channels-last convolution, which is the layout that the CPU's convolutions are fast in."""

    def forward(self, spikes: Tensor) -> Tensor:
        """The same as `ConvBN.forward`."""
        currents: Tensor = self.bn(_convolve(self.conv, spikes))
        return currents.unflatten(0, spikes.shape[:2])


class FusedDownsample(Downsample):
    """`Downsample` whose norm and pool are one pass, each way."""

    def forward(self, spikes: Tensor) -> Tensor:
        """The same as `Downsample.forward`."""
        bn, x = self.conv_bn.bn, _convolve(self.conv_bn.conv, spikes)
        pooled = _norm_pool(bn, x)
        return (_pool(bn(x)) if pooled is None else pooled).unflatten(0, spikes.shape[:2])


class FusedUpsample(Upsample):
    """`Upsample` whose lateral norm and mean over time are one pass, each way."""

    def mean_lateral(self, skip: Tensor) -> Tensor:
        """The same as `Upsample.mean_lateral`."""
        x = _convolve(self.lateral.conv, skip)
        mean = _norm_mean(self.lateral.bn, x, steps=skip.shape[0])
        return self.lateral.bn(x).unflatten(0, skip.shape[:2]).mean(0) if mean is None else mean


class FusedFusionHead(FusionHead):
    """`FusionHead` that joins stages channels last, and whose last step is one pass, each way.

    Its depth is float32, also under autocast.
    """

    def join(self, stages: Sequence[Tensor]) -> Tensor:
        """The same as `FusionHead.join`."""
        if stages[0].device.type != "cpu":
            return super().join(stages)
        return torch.cat([stage.permute(0, 1, 3, 4, 2) for stage in stages], dim=-1).permute(0, 1, 4, 2, 3)

    def finish(self, features: Tensor, events: Tensor) -> Tensor:
        """The same as `FusionHead.finish`."""
        up, depth = self.up1, self.depth
        if events.device.type != "cpu" or not isinstance(up, FusedUpsample) or _is_watched(up) or _is_watched(depth):
            return super().finish(features, events)
        lateral, reduced = up.mean_lateral(events), up.reduce(features)
        assert up.refine is None and depth.bias is not None
        if lateral.dtype not in _COMPILED or reduced.dtype not in _COMPILED:
            plain: Tensor = depth(rectify(up.sum_of(reduced, lateral)))
            return plain
        lateral = lateral.contiguous(memory_format=torch.channels_last)
        coarse = reduced.to(lateral.dtype).contiguous(memory_format=torch.channels_last)
        fused: Tensor = _Finish.apply(coarse, lateral, depth.weight, depth.bias)
        return fused


_FUSED: dict[type, type] = {
    FusionHead: FusedFusionHead,
    nn.BatchNorm2d: FusedBatchNorm2d,
    ConvBN: FusedConvBN,
    Downsample: FusedDownsample,
    Upsample: FusedUpsample,
}


def _is_watched(module: nn.Module) -> bool:
    """Whether a hook of the module's own waits for its being called."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(hooks)


def _norm_mean(bn: nn.BatchNorm2d, x: Tensor, steps: int) -> Tensor | None:
    """Norm of [T * B, C, H, W], and the mean over `steps` T; None where no kernels do what this norm would do."""
    if _is_compiled(bn, x):
        x = x.contiguous(memory_format=torch.channels_last)
        y: Tensor = _NormMean.apply(x, bn.weight, bn.bias, *_statistics(bn, x), not bn.training, steps)
        return y
    on_gpu = _triton_norm(bn, x)
    return None if on_gpu is None else on_gpu.norm_mean(bn, x, steps)


def _norm_pool(bn: nn.BatchNorm2d, x: Tensor) -> Tensor | None:
    """Norm of [N, C, H, W] and a 2x2 max pool; None where no kernels do what these would do."""
    if x.shape[-2] % 2 or x.shape[-1] % 2:
        return None
    if _is_compiled(bn, x):
        pooled: Tensor = _NormPool.apply(x, bn.weight, bn.bias, *_statistics(bn, x), not bn.training)
        return pooled
    on_gpu = _triton_norm(bn, x)
    return None if on_gpu is None else on_gpu.norm_pool(bn, x)


def _triton_norm(bn: nn.BatchNorm2d, x: Tensor) -> Any:
    """The module of Triton's norms where it takes this one, else None."""
    if not (x.is_cuda and type(bn) is FusedBatchNorm2d and torch.is_grad_enabled()):
        return None
    kernels = _triton_norms(x.device)
    return kernels if kernels is not None and kernels.takes(bn, x) else None


@functools.cache
def _triton_norms(device: torch.device) -> Any:
    """The module of Triton's norms, or None where it is missing or does not work; that is logged once."""
    if triton_lif(device) is None:
        return None

    def prove(kernels: Any) -> Tensor:
        x = torch.rand(4, 8, 2, 2, device=device, requires_grad=True)
        bn = nn.BatchNorm2d(8, device=device)
        total: Tensor = kernels.norm_mean(bn, x, 2).sum() + kernels.norm_pool(bn, x).sum()
        return total

    return open_triton_module("sdt_distill.kernels.triton_norm", "norms", device, prove)


def _is_compiled(bn: nn.BatchNorm2d, x: Tensor) -> bool:
    """Whether the compiled loops of a CPU do what this norm would do with this input."""
    return (
        type(bn) is FusedBatchNorm2d  # one that is shared between processes does its own sums
        and (_is_held(bn) or (bn.training and bn.momentum is not None and x.numel() > x.shape[1]))
        and bn.affine
        and x.device.type == "cpu"
        and x.dtype in _COMPILED
        and bn.weight.dtype == torch.float32
    )


def _is_held(bn: nn.BatchNorm2d) -> bool:
    """Whether a norm learns its weights and holds its statistics."""
    return not bn.training and bn.running_mean is not None and bn.running_var is not None and torch.is_grad_enabled()


def _convolve(conv: nn.Conv2d, spikes: Tensor) -> Tensor:
    """[T, B, C, H, W] to [T * B, C', H, W], channels last."""
    if spikes.device.type != "cpu":
        elsewhere: Tensor = conv(spikes.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        return elsewhere
    is_cast = torch.is_autocast_enabled("cpu") and spikes.dtype != torch.float64
    wanted = torch.get_autocast_dtype("cpu") if is_cast else spikes.dtype
    convolved: Tensor = conv(spikes.flatten(0, 1).to(wanted, memory_format=torch.channels_last))
    return convolved.contiguous(memory_format=torch.channels_last)


def _pool(currents: Tensor) -> Tensor:
    """What `_NormPool` does behind its norm."""
    rows = torch.maximum(currents[..., 0::2, :], currents[..., 1::2, :])
    return torch.maximum(rows[..., 0::2], rows[..., 1::2])


def _statistics(bn: nn.BatchNorm2d, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation [C] float64 of channels-last [N, C, H, W], with which the running ones move.

    Of a norm in evaluation mode they are the running ones.
    """
    if not bn.training:
        assert bn.running_mean is not None and bn.running_var is not None
        return bn.running_mean.double(), torch.rsqrt(bn.running_var.double() + bn.eps)
    channels, values = x.shape[1], array_of(x.detach())
    count = values.size // channels
    around = x[0, :, 0, 0].detach().float()  # near the mean, so that squares of differences are small
    first, second = _sums(norm.moments, channels, values.size, values, _repeat(around.numpy(), channels), values.size)
    offset = first / count
    variance = np.maximum(second / count - offset**2, 0)
    mean = torch.from_numpy(around.numpy() + offset)
    if bn.track_running_stats and bn.running_mean is not None and bn.running_var is not None:
        assert bn.momentum is not None
        with torch.no_grad():
            bn.running_mean.lerp_(mean.to(bn.running_mean.dtype), bn.momentum)
            unbiased = torch.from_numpy(variance * (count / (count - 1)))
            bn.running_var.lerp_(unbiased.to(bn.running_var.dtype), bn.momentum)
            if bn.num_batches_tracked is not None:
                bn.num_batches_tracked.add_(1)
    return mean, torch.from_numpy(1 / np.sqrt(variance + bn.eps))


class _NormMean(torch.autograd.Function):
    """Batch norm with given statistics, of this batch or `held`, then a mean over steps; keeps the input."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, held: bool, steps: int
    ) -> Tensor:
        channels, size = x.shape[1], x.numel() // steps
        scale, offset = _coefficients(weight, bias, mean, inverse)
        y = torch.empty_like(x[: len(x) // steps])
        repeated = _repeat(scale, channels), _repeat(offset, channels)
        periods = -(-size // repeated[0].size)
        spread(norm.normalise, periods, x.numel(), array_of(x), array_of(y), steps, size, *repeated)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.held, ctx.steps = held, steps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        steps, channels, size = ctx.steps, x.shape[1], x.numel() // ctx.steps
        grad = array_of(grad_outputs[0].contiguous(memory_format=torch.channels_last))
        around = _repeat(mean.numpy(), channels)
        sums = _sums(norm.grad_moments, channels, size, array_of(x), grad, steps, size, around)
        moved = None if ctx.held else sums
        gain, slope, constant = _gradient_coefficients(weight, mean, inverse, moved, x.numel() // channels)
        grad_x = torch.empty_like(x)
        repeated = [_repeat(values, channels) for values in (gain, slope, constant)]
        periods = -(-size // repeated[0].size)
        spread(norm.grad_input, periods, x.numel(), array_of(x), grad, array_of(grad_x), steps, size, *repeated)
        return grad_x, *_parameter_gradients(sums, inverse, weight), None, None, None, None


class _NormPool(torch.autograd.Function):
    """Batch norm with given statistics, of this batch or `held`, then a 2x2 max pool; keeps the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, held: bool) -> Tensor:
        images, channels, height, width = x.shape
        scale, offset = (np.tile(values, width) for values in _coefficients(weight, bias, mean, inverse))
        y = torch.empty_like(x[:, :, : height // 2, : width // 2], memory_format=torch.channels_last)
        rows = images * height // 2
        spread(pool.pool, rows, x.numel(), array_of(x), array_of(y), channels, scale, offset)
        ctx.save_for_backward(x, weight, bias, mean, inverse)
        ctx.held = held
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse = ctx.saved_tensors
        images, channels, height, width = x.shape
        grad = array_of(grad_outputs[0].contiguous(memory_format=torch.channels_last))
        scale, offset = (np.tile(values, width) for values in _coefficients(weight, bias, mean, inverse))
        rows = images * height // 2
        partial = np.empty((-(-rows // pool.ROWS), 2, scale.size), np.float32)
        around = np.tile(mean.numpy().astype(np.float32), width)
        grad_x = torch.empty_like(x)  # first the gradient of the norm's output, then, in its place, of its input
        values, size = array_of(grad_x), x.numel()
        spread(pool.pool_grad, len(partial), size, array_of(x), grad, values, channels, scale, offset, around, partial)
        sums = partial.sum(0, dtype=np.float64).reshape(2, -1, channels).sum(1)
        moved = None if ctx.held else sums
        coefficients = _gradient_coefficients(weight, mean, inverse, moved, size // channels)
        repeated = [_repeat(coefficient, channels) for coefficient in coefficients]
        spread(norm.grad_input, -(-size // repeated[0].size), size, array_of(x), values, values, 1, size, *repeated)
        return grad_x, *_parameter_gradients(sums, inverse, weight), None, None, None


class _Finish(torch.autograd.Function):
    """The last step of the decoder; keeps its inputs."""

    @staticmethod
    def forward(ctx: Any, coarse: Tensor, lateral: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        images, _, rows, columns = coarse.shape
        out = torch.empty((images, 1, 2 * rows, 2 * columns))
        spread(
            finish.finish, images, lateral.numel(), array_of(coarse), array_of(lateral), weight.detach()[0].numpy(),
            np.float32(bias.item()), out[:, 0].numpy(), rows, columns,
        )  # fmt: skip
        ctx.save_for_backward(coarse, lateral, weight)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        coarse, lateral, weight = ctx.saved_tensors
        grad = grad_outputs[0].float()
        grad_coarse, grad_lateral = torch.empty_like(coarse), torch.empty_like(lateral)
        shares = torch.empty((len(coarse), *weight.shape[1:]))
        spread(
            finish.finish_grad, len(coarse), lateral.numel(), array_of(coarse), array_of(lateral),
            weight.detach()[0].numpy(), grad[:, 0].contiguous().numpy(), array_of(grad_coarse), array_of(grad_lateral),
            shares.numpy(), *coarse.shape[-2:], np.float32(LEAK),
        )  # fmt: skip
        total = shares.sum(0, dtype=torch.float64)[None].to(weight.dtype)
        return grad_coarse, grad_lateral, total, grad.sum().to(weight.dtype)[None]


def array_of(x: Tensor) -> np.ndarray:
    """The values of a channels-last [N, C, H, W] in the order of memory."""
    return array(x.permute(0, 2, 3, 1))


def _repeat(values: np.ndarray, channels: int) -> np.ndarray:
    """Coefficients [C] as float32, repeated to a period."""
    return np.tile(values.astype(np.float32), max(1, _PERIOD // channels))


def _sums(kernel: Any, channels: int, size: int, *args: Any) -> np.ndarray:
    """Two sums [2, C] float64 by a kernel that writes them for blocks of `size` values; `args` are its own."""
    period = channels * max(1, _PERIOD // channels)
    blocks = -(-size // (max(1, norm.BLOCK // period) * period))
    partial = np.empty((blocks, 2, period), np.float32)
    spread(kernel, blocks, args[0].size, *args, partial)
    sums: np.ndarray = partial.sum(0, dtype=np.float64).reshape(2, -1, channels).sum(1)
    return sums


def _coefficients(weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset [C] float32 of the norm."""
    scale = weight.detach().double() * inverse
    offset = bias.detach().double() - mean * scale
    return scale.float().numpy(), offset.float().numpy()


def _gradient_coefficients(
    weight: Tensor, mean: Tensor, inverse: Tensor, sums: np.ndarray | None, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The input's gradient as gain * g + slope * x + constant.

    `sums` are those of g and g * (x - mean); None where the input does not move the statistics.
    """
    gain = weight.detach().double().numpy() * inverse.numpy()
    if sums is None:
        return gain.astype(np.float32), np.zeros_like(gain, np.float32), np.zeros_like(gain, np.float32)
    slope = -gain * inverse.numpy() ** 2 * sums[1] / count
    constant = -gain * sums[0] / count - slope * mean.numpy()
    return gain.astype(np.float32), slope.astype(np.float32), constant.astype(np.float32)


def _parameter_gradients(sums: np.ndarray, inverse: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias [C]."""
    return torch.from_numpy(sums[1] * inverse.numpy()).to(weight.dtype), torch.from_numpy(sums[0]).to(weight.dtype)
