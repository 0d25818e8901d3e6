"""What a trained network is off by on the samples of a data set, beside the features that may tell it beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from sdt_distill.datasets import Dataset, DatasetError
from sdt_ros.evaluation.spread import spread_evenly
from sdt_ros.events.reduce import reduce_spikes, reduced_size
from sdt_ros.lens import depth_factor, focal_length
from sdt_ros.network import Card, SpikingDepthTransformer, UncertaintyHead
from sdt_ros.runtime import open_runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST = 100  # pixels of known depth


@dataclass(frozen=True)
class Mistakes:
    """Windows of one size; float16 on the CPU but where another dtype is named. Features are padded to whole tokens.

    Attributes:
        coarse: features [N, C, H'/16, W'/16].
        fine: features [N, C', H'/8, W'/8].
        log_depth: normalised log depth [N, 1, H', W'].
        place: ln(truth / estimate) of each pixel around that of its picture [N, H, W], NaN where the truth is unknown.
        scale: median of ln(truth / estimate) of each picture, float32 [N].
    """

    coarse: Tensor
    fine: Tensor
    log_depth: Tensor
    place: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.scale)

    def of(self, which: Tensor | slice) -> Mistakes:
        """Some of the windows."""
        return Mistakes(*(getattr(self, each.name)[which] for each in fields(self)))

    def told_by(self, head: UncertaintyHead) -> Tensor:
        """What a head makes of the features, float32 [N, 2, H, W]."""
        height, width = self.place.shape[-2:]
        told: Tensor = head(self.coarse, self.fine, self.log_depth)
        return told[..., :height, :width]


class _Listener(nn.Module):
    """Stands where a head for uncertainty would, and keeps what it is shown."""

    def forward(self, coarse: Tensor, fine: Tensor, log_depth: Tensor) -> Tensor:
        self.seen = [x.to(torch.float16, copy=True).cpu() for x in (coarse, fine, log_depth)]
        return log_depth.new_zeros((len(log_depth), 2, *log_depth.shape[-2:]))


class Comparer:
    """Runs a network and compares its depth with the truth.

    Args:
        network: with its weights; it is taken over, in the runtime that is the fastest here.
        card: its card.
        device: where it runs.
    """

    def __init__(self, network: SpikingDepthTransformer, card: Card, device: torch.device) -> None:
        self._card = card
        self._listener = _Listener()
        network.uncertainty = self._listener  # type: ignore[assignment]
        # A graph that is replayed calls no module: on a GPU the network runs as it is written.
        self._runtime, _ = open_runtime(network, "auto" if device.type == "cpu" else "eager", device)

    def __call__(self, dataset: Dataset, name: str, samples: int | None = None, far_m: float = 80.0) -> Mistakes:
        """Compare all samples of a data set, or some spread evenly.

        Args:
            dataset: of windows as the card asks for, all of one size.
            name: of it, for messages and progress.
            samples: how many.
            far_m: truth behind it does not count [m], nor what is beyond the network's range.

        Raises:
            DatasetError: no sample has enough known depth, a sample has no intrinsics, or sizes differ.
        """
        wanted = range(len(dataset)) if samples is None else spread_evenly(len(dataset), min(samples, len(dataset)))
        rows: list[list[Tensor]] = []
        for index in tqdm(wanted, desc=name, unit="window"):
            sample = dataset[index]
            if sample.intrinsics is None and self._card.focal_px is not None:
                raise DatasetError(f"{name}: sample {index} has no intrinsics, and these weights ask for the lens")
            focal = None if sample.intrinsics is None else focal_length(sample.intrinsics)
            row = self._compare(sample.spikes, torch.from_numpy(sample.depth), focal, far_m)
            if row is None:
                continue
            if rows and row[3].shape != rows[0][3].shape:
                raise DatasetError(f"{name}: samples differ in size; name folders of one size each")
            rows.append(row)
        if not rows:
            raise DatasetError(f"{name}: no sample has {_FEWEST} pixels of known depth up to {far_m:g} m")
        coarse, fine, log_depth, place, scale = (torch.cat(column) for column in zip(*rows, strict=True))
        return Mistakes(coarse, fine, log_depth, place, scale)

    def _compare(self, spikes: np.ndarray, truth: Tensor, focal_px: float | None, far_m: float) -> list[Tensor] | None:
        height, width = spikes.shape[-2:]
        seen = reduce_spikes(spikes, *reduced_size(height, width, self._card.input_scale))
        told = self._runtime(torch.from_numpy(np.ascontiguousarray(seen)))[:, :1].cpu()
        rows, columns = told.shape[-2:]
        factor = depth_factor(self._card.focal_px, focal_px, (rows, columns), (height, width))
        estimate = self._card.depth_range.to_metres(told)[0, 0] * factor
        # The truth at the middle of each cell that the network sees.
        y, x = ((2 * torch.arange(n) + 1) * full // (2 * n) for n, full in ((rows, height), (columns, width)))
        truth = truth[y][:, x]
        error = torch.log(truth / estimate)
        known = error.isfinite() & (truth <= min(far_m, self._card.depth_range.max_m * factor))
        if int(known.sum()) < _FEWEST:
            return None
        scale = error[known].median()
        error[~known] = math.nan
        return [*self._listener.seen, (error - scale)[None].to(torch.float16), scale[None].float()]


def joined(parts: Sequence[Mistakes]) -> list[Mistakes]:
    """Windows of one size together."""
    sizes: dict[tuple[int, ...], list[Mistakes]] = {}
    for part in parts:
        sizes.setdefault(tuple(part.place.shape[1:]), []).append(part)
    return [
        Mistakes(*(torch.cat([getattr(part, each.name) for part in alike]) for each in fields(Mistakes)))
        for alike in sizes.values()
    ]
