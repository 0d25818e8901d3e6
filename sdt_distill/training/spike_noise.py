"""What varies spikes as sensors vary them: polarity, threshold, losses, noise and jitter, a whole batch at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from .geometry import per_sample

_GOLDEN = 0x9E3779B9 - (1 << 32)  # int32 wraps around
_MIX = (0x85EBCA6B - (1 << 32), 0xC2B2AE35 - (1 << 32))


@dataclasses.dataclass(frozen=True, slots=True)
class SpikeDraw:
    """What happens to the spikes of one sample.

    Attributes:
        swap: ON and OFF change places.
        kept: share of the spikes that stay, for each polarity.
        noise: share of cells that spike by chance.
        jitter: share of spikes moved into a neighbouring time bin.
        later: jitter moves them into the later one, else into the earlier.
        blocks: top, left, height and width of rectangles in which spikes are taken away [px].
        seed: of which spikes and cells these are.
    """

    swap: bool
    kept: tuple[float, ...]
    noise: float
    jitter: float
    later: bool
    blocks: tuple[tuple[int, int, int, int], ...]
    seed: int


def vary_spikes(spikes: Tensor, draws: Sequence[SpikeDraw]) -> Tensor:
    """Spikes [B, T, P, H, W] varied as sensors would vary them, all samples at once."""
    swap = torch.tensor([draw.swap for draw in draws])
    if swap.any():
        spikes = torch.where(per_sample(swap, spikes), spikes.flip(2), spikes)
    seeds = torch.tensor([draw.seed for draw in draws], dtype=torch.int32).to(spikes.device, non_blocking=True)
    kept = torch.tensor([draw.kept for draw in draws])  # [B, P]
    if (kept < 1).any():
        share = kept.to(spikes.device, non_blocking=True)[:, None, :, None, None]
        spikes = spikes * _chance(seeds, 0, share, spikes.shape)
    if any(draw.blocks for draw in draws):
        spikes = spikes.clone()
    for k, draw in enumerate(draws):
        for top, left, height, width in draw.blocks:
            spikes[k, ..., top : top + height, left : left + width] = 0
    jitter = torch.tensor([draw.jitter for draw in draws])
    if (jitter > 0).any() and spikes.shape[1] > 1:
        moved = spikes * _chance(seeds, 1, per_sample(jitter, spikes), spikes.shape)
        none = torch.zeros_like(moved[:, :1])  # what leaves the window is lost
        later, sooner = torch.cat([none, moved[:, :-1]], 1), torch.cat([moved[:, 1:], none], 1)
        towards = per_sample(torch.tensor([draw.later for draw in draws]), spikes)
        spikes = (spikes ^ moved) | torch.where(towards, later, sooner)
    noise = torch.tensor([draw.noise for draw in draws])
    if (noise > 0).any():
        spikes = spikes | _chance(seeds, 2, per_sample(noise, spikes), spikes.shape)
    return spikes


def _chance(seeds: Tensor, field: int, share: Tensor, shape: torch.Size) -> Tensor:
    """Independent cells [B, ...], uint8, 1 in a share of them that broadcasts over `shape`.

    Which cells follows from the sample's seed, the field and the cell's number alone, by the finaliser of MurmurHash3:
    a generator a sample would be as many calls, which is what augmentation on a GPU costs.
    """
    cells = torch.arange(shape[1:].numel(), dtype=torch.int32, device=seeds.device).mul_(_GOLDEN)
    x = cells + (seeds * 4 + field)[:, None]
    spare = torch.empty_like(x)
    for shift, factor in ((16, _MIX[0]), (13, _MIX[1])):
        _mix(x, shift, spare).mul_(factor)
    uniform = _mix(x, 16, spare).bitwise_and_(0xFFFFFF)  # 24 bits
    most = (share.double() * (1 << 24)).round().to(torch.int32)
    return (uniform.view(shape) < most).view(torch.uint8)


def _mix(x: Tensor, by: int, spare: Tensor) -> Tensor:
    """int32 x ^= x moved to the right without its sign, in place."""
    torch.bitwise_right_shift(x, by, out=spare)
    return x.bitwise_xor_(spare.bitwise_and_((1 << (32 - by)) - 1))
