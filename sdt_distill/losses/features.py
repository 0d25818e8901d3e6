"""Losses between features: what the student sees in events against what the teacher sees in the frame."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Below this length a feature counts as none; it bounds the gradient of a silent cell.
SHORTEST = 1e-3


def feature_distance(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean squared distance of features of length 1, which is twice 1 less the cosine.

    Args:
        student: projected features [B, C, h, w].
        teacher: the teacher's on the same cells [B, C, h, w].
        mask: cells that count, bool [B, 1, h, w].

    Returns:
        The loss, a scalar in [0, 4]: the mean over frames; a frame without cells costs 0.
    """
    student = functional.normalize(student, dim=1, eps=SHORTEST)
    teacher = functional.normalize(teacher, dim=1, eps=SHORTEST)
    distance = (student - teacher).square().sum(1, keepdim=True) * mask
    return (distance.flatten(1).sum(1) / mask.flatten(1).sum(1).clamp_min(1)).mean()


def similarity_distance(student: Tensor, teacher: Tensor, mask: Tensor, patches: int) -> Tensor:
    """Mean squared difference of the cosine similarities between cells, over all pairs of two different cells.

    Which places look alike is compared, not what they look like. So widths may differ and no projection is learned, and
    cells that saw no event, of which the student can know nothing, are left out.

    Args:
        student: features [B, C, h, w].
        teacher: the teacher's on the same cells [B, C', h, w].
        mask: cells that count, bool [B, 1, h, w].
        patches: cells a frame at most. More are thinned out, always the same for the same mask; memory is
            O(B patches^2).

    Returns:
        The loss, a scalar in [0, 4]: the mean over frames; a frame of fewer than two cells costs 0.
    """
    index, used = pick_cells(mask.flatten(1), patches)
    pairs = used[:, :, None] & used[:, None, :]  # [B, K, K]
    pairs = pairs & ~torch.eye(index.shape[1], dtype=torch.bool, device=mask.device)
    difference = (_similarities(student, index) - _similarities(teacher, index)).square() * pairs
    return (difference.flatten(1).sum(1) / pairs.flatten(1).sum(1).clamp_min(1)).mean()


def pick_cells(mask: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Picks cells that count, of each frame by itself.

    A fixed shuffle decides, since every n-th cell would fall into columns.

    Args:
        mask: cells that count, bool [B, N].
        count: how many to pick at most.

    Returns:
        Indices of cells, int64 [B, K] with K = min(count, N), and which of them count, bool [B, K].
    """
    cells = mask.shape[1]
    shuffle = torch.randperm(cells, generator=torch.Generator().manual_seed(0)).to(mask.device)
    order = torch.argsort((~mask[:, shuffle]).to(torch.uint8), dim=1, stable=True)[:, :count]  # those that count first
    index = shuffle[order]
    return index, mask.gather(1, index)


def _similarities(features: Tensor, index: Tensor) -> Tensor:
    """Cosines between the cells [B, K] of maps [B, C, h, w]: [B, K, K]."""
    cells = features.flatten(2).gather(2, index[:, None].expand(-1, features.shape[1], -1))  # [B, C, K]
    cells = functional.normalize(cells, dim=1, eps=SHORTEST)
    return cells.transpose(1, 2) @ cells
