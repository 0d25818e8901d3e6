"""Losses against the depth that a teacher names, where exact depth is missing or beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from sdt_distill.losses.depth import log_residual
from sdt_ros.network import DepthRange


def relative_proxy(log_depth: Tensor, inverse_depth: Tensor, depth_range: DepthRange) -> Tensor:
    """Loss against relative inverse depth, blind to scale and shift of either side.

    Both maps are brought to median 0 and mean absolute deviation 1 over the known pixels of their frame, then compared
    by their mean absolute difference (MiDaS, arXiv 1907.01341).

    Args:
        log_depth: the estimate, normalised log depth [B, 1, H, W].
        inverse_depth: the teacher's, larger is nearer, of any scale and shift [B, 1, H, W]; not finite means unknown.
        depth_range: what the estimate's 0 and 1 stand for.

    Returns:
        The loss, a scalar: 0 where both agree up to scale and shift, near 2 at worst.
    """
    valid = torch.isfinite(inverse_depth).flatten(1)  # [B, N]
    # In units of 1 / max_m; the unit drops out below. Limited to twice the range in log depth, or exp overflows.
    estimate = torch.exp(depth_range.alpha * (1 - log_depth.clamp(-0.5, 1.5))).flatten(1)
    # A scene without structure says nothing, and dividing by its deviation would blow rounding up to labels.
    label, has_structure = _normalise(inverse_depth.flatten(1), valid)
    difference = (_normalise(estimate, valid)[0] - label).abs() * valid * has_structure
    return (difference.sum(1) / valid.sum(1).clamp_min(1)).mean()


def _normalise(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [B, N] to median 0 and mean absolute deviation 1, 0 where not valid; and whether there is a deviation."""
    values = torch.where(valid, values, 0.0)
    some = valid.any(1, keepdim=True)
    median = torch.where(valid | ~some, torch.where(some, values, 0.0), torch.nan).nanmedian(1, keepdim=True).values
    centred = (values - median) * valid
    deviation = centred.abs().sum(1, keepdim=True) / valid.sum(1, keepdim=True).clamp_min(1)
    # A network that just started gives nearly the same everywhere: the floor keeps its gradient in bounds.
    largest = values.abs().amax(1, keepdim=True).detach()
    floor = (1e-3 * largest).clamp_min(torch.finfo(values.dtype).tiny)
    return centred / deviation.clamp_min(floor), deviation > 1e-6 * largest


def metric_proxy(log_depth: Tensor, depth_m: Tensor, depth_range: DepthRange) -> Tensor:
    """Loss against a teacher's metres: mean of |ln(estimate / teacher)|, which an outlier sways less than a square.

    Args:
        log_depth: the estimate, normalised log depth [B, 1, H, W].
        depth_m: the teacher's metres [B, 1, H, W]; NaN, infinite and not positive mean unknown.
        depth_range: what the estimate's 0 and 1 stand for.

    Returns:
        The loss, a scalar.
    """
    residual, valid = log_residual(log_depth, depth_m, depth_range)
    return (residual.abs().flatten(1).sum(1) / valid.flatten(1).sum(1).clamp_min(1)).mean()
