"""Losses of depth against exact or measured depth, on residuals of log depth.

Everything here is a mean over frames, each frame alone first. So a batch costs the mean of its frames, whatever else is
in it, and two processes with half the batch each take the step of one with all of it. A frame without known depth
costs 0 and counts as a frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sdt_ros.network import DepthRange


def log_residual(log_depth: Tensor, depth_m: Tensor, depth_range: DepthRange) -> tuple[Tensor, Tensor]:
    """How far an estimate is off, as ln(estimate / truth).

    Truth beyond the range counts as the range's end, since the network's metres end there too.

    Args:
        log_depth: the estimate, normalised log depth [B, 1, H, W].
        depth_m: truth in metres [B, 1, H, W]; NaN, infinite and not positive mean unknown.
        depth_range: what the estimate's 0 and 1 stand for.

    Returns:
        The residual [B, 1, H, W], 0 where truth is unknown, and where it is known, bool [B, 1, H, W].
    """
    valid = torch.isfinite(depth_m) & (depth_m > 0)
    # Replaced before the logarithm: a NaN that is masked afterwards still gives NaN gradients.
    metres = torch.where(valid, depth_m, depth_range.max_m).clamp(depth_range.min_m, depth_range.max_m)
    residual = depth_range.alpha * (log_depth - depth_range.from_metres(metres))
    return torch.where(valid, residual, 0.0), valid


_SMALLEST = 1e-4  # below a frame's root: the slope of a root at 0 is infinite


def scale_invariant(residual: Tensor, weight: Tensor, si_lambda: float, root: bool = False) -> Tensor:
    """Scale-invariant log depth loss (Eigen et al., arXiv 1406.2283): mean of r^2 less lambda times mean(r)^2.

    Args:
        residual: ln(estimate / truth) [B, 1, H, W], finite everywhere.
        weight: weight of each pixel [B, 1, H, W], at least 0; 0 where truth is unknown.
        si_lambda: 0 for the plain mean square, 1 for the variance, which no common factor on the depth changes.
        root: take each frame's square root, so that hopeless frames do not outweigh the others.

    Returns:
        The loss, a scalar.
    """
    square, mean = _frame_mean(residual.square(), weight), _frame_mean(residual, weight)
    frames = square - si_lambda * mean.square()
    return (frames + _SMALLEST).sqrt().mean() if root else frames.mean()


_KNEE = 1.5  # residual above which the relative error goes on along its tangent, so that no frame's slope outgrows 4.5


def relative_error(residual: Tensor, weight: Tensor) -> Tensor:
    """Mean of |estimate / truth - 1|, the Abs Rel that depth is scored by; far too large estimates count linearly.

    Where the scale of a scene cannot be told it favours the nearer guess: too far by a factor of four costs 3, too near
    by as much costs 3/4.

    Args:
        residual: ln(estimate / truth) [B, 1, H, W], finite everywhere.
        weight: weight of each pixel [B, 1, H, W], at least 0; 0 where truth is unknown.

    Returns:
        The loss, a scalar.
    """
    beyond = (residual - _KNEE).clamp_min(0)
    return _frame_mean(torch.expm1(residual.clamp_max(_KNEE)).abs() + math.exp(_KNEE) * beyond, weight).mean()


def sky_shortfall(log_depth: Tensor, depth_m: Tensor, depth_range: DepthRange, sky_m: float) -> Tensor:
    """How much nearer than the sky its pixels are put: a mean of ln(sky_m / estimate), where that is above 0.

    The sky has no depth, so that no other loss speaks of it; what counts is that nobody brakes for it. Other pixels of
    a frame cost 0, so that a scrap of sky weighs as much as it covers.

    Args:
        log_depth: the estimate, normalised log depth [B, 1, H, W].
        depth_m: truth in metres [B, 1, H, W]; infinite where there is sky, NaN where nothing is known.
        depth_range: what the estimate's 0 and 1 stand for.
        sky_m: how far is far enough [m]; beyond the range's end its end is.

    Returns:
        The loss, a scalar.
    """
    sky = torch.isposinf(depth_m)
    enough = 1 + math.log(min(sky_m, depth_range.max_m) / depth_range.max_m) / depth_range.alpha
    short = torch.where(sky, depth_range.alpha * (enough - log_depth), 0.0).clamp_min(0)
    return _frame_mean(short, ~torch.isnan(depth_m)).mean()


def _frame_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of each frame's pixels: [B]; 0 for a frame without weight."""
    weight = weight.to(values.dtype)
    total = weight.flatten(1).sum(1).clamp_min(torch.finfo(values.dtype).tiny)
    return (weight * values).flatten(1).sum(1) / total


def gradient_matching(residual: Tensor, valid: Tensor, scales: int) -> Tensor:
    """Multi-scale gradient matching (MegaDepth, arXiv 1804.00607): no steps in the residual but where truth has them.

    On every scale the absolute differences between neighbours are averaged over the pairs whose both ends are known,
    along x and along y; the scales are added up. A coarser pixel is the mean of the known pixels that it covers.

    Args:
        residual: ln(estimate / truth) [B, 1, H, W], 0 where truth is unknown.
        valid: where truth is known, bool [B, 1, H, W].
        scales: number of scales; those at which less than two pixels are left add nothing.

    Returns:
        The loss, a scalar.
    """
    count = valid.to(residual.dtype)
    total = residual * count
    loss = residual.new_zeros(len(residual))
    for scale in range(scales):
        if scale:
            total, count = _halve(total), _halve(count)  # sums, so that a mean is over pixels, not over means
        mean = total / count.clamp_min(1)
        known = count > 0
        loss = loss + _steps(mean, known, 3) + _steps(mean, known, 2)
    return loss.mean()


def _halve(image: Tensor) -> Tensor:
    """Sums of 2x2 pixels; at an odd edge of those there are."""
    return functional.avg_pool2d(image, 2, ceil_mode=True, divisor_override=1)


def _steps(image: Tensor, known: Tensor, dim: int) -> Tensor:
    """Mean absolute difference between known neighbours along an axis, a frame: [B]."""
    length = image.shape[dim] - 1
    pairs = known.narrow(dim, 1, length) & known.narrow(dim, 0, length)
    steps = (image.narrow(dim, 1, length) - image.narrow(dim, 0, length)).abs() * pairs
    return steps.flatten(1).sum(1) / pairs.flatten(1).sum(1).clamp_min(1)


def far_weight_log(depth_m: Tensor, valid: Tensor, depth_range: DepthRange, gain: float) -> Tensor:
    """Weights that grow with normalised log depth, from 1 at the nearest to `gain` at the farthest.

    Args:
        depth_m: truth in metres [B, 1, H, W].
        valid: where it is known, bool [B, 1, H, W].
        depth_range: its ends have the weights 1 and `gain`.
        gain: weight of the farthest.

    Returns:
        Weights [B, 1, H, W] of the dtype of `depth_m`, 0 where truth is unknown.
    """
    position = depth_range.from_metres(torch.where(valid, depth_m, depth_range.min_m)).clamp(0, 1)
    return (1 + (gain - 1) * position) * valid


def far_weight_bands(depth_m: Tensor, valid: Tensor, edges_m: Sequence[float], cap: float) -> Tensor:
    """Weights that make every distance band of a frame count alike.

    Args:
        depth_m: truth in metres [B, 1, H, W].
        valid: where it is known, bool [B, 1, H, W].
        edges_m: edges between bands in metres, rising; a depth on an edge belongs to the band beyond it.
        cap: largest weight; without a cap the mean weight of a frame is 1.

    Returns:
        Weights [B, 1, H, W] of the dtype of `depth_m`, 0 where truth is unknown.
    """
    edges = torch.as_tensor(edges_m, dtype=depth_m.dtype, device=depth_m.device)
    band = torch.bucketize(torch.where(valid, depth_m, 0.0), edges, right=True).flatten(1)  # [B, N]
    known = valid.flatten(1).to(depth_m.dtype)
    counts = torch.zeros(len(band), len(edges) + 1, dtype=depth_m.dtype, device=depth_m.device)
    counts = counts.scatter_add(1, band, known)  # [B, bands]; whole numbers, so the order of adding is no matter
    present = (counts > 0).sum(1, keepdim=True).clamp_min(1)
    share = known.sum(1, keepdim=True) / (present * counts.clamp_min(1))
    return (share.clamp_max(cap).gather(1, band) * known).view_as(depth_m)
