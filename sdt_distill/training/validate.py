"""Scores on held-out samples, at the network's resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from sdt_distill.datasets import DatasetError
from sdt_ros.evaluation.metrics import average, frame_metrics
from sdt_ros.network import DepthRange

from .batch import Batch, collate
from .data import Source, spread_over
from .distributed import Group

SCORES = ("abs_rel", "rmse_log", "silog", "delta1", "delta2", "delta3", "rmse")


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a network reached.

    Attributes:
        mean: each of `SCORES`, the mean over frames.
        by_sequence: the same for each sequence of the sources alone.
        frames: frames scored.
    """

    mean: dict[str, float]
    by_sequence: dict[str, dict[str, float]]
    frames: int


class Validator:
    """Scores networks on the same held-out samples each time.

    Args:
        sources: held out.
        most: samples at most, spread evenly; 0 for all.
        depth_range: depths outside of it are not scored.
        batch: samples of a pass.
        group: shares the work.
    """

    def __init__(self, sources: Sequence[Source], most: int, depth_range: DepthRange, batch: int, group: Group) -> None:
        self._sources, self._range, self._group = tuple(sources), depth_range, group
        places = list(enumerate(spread_over(self._sources, most)))
        mine = places[group.rank :: group.world]
        by_source = [
            [place for place in mine if place[1][0] == k] for k in range(len(self._sources))
        ]  # of one size each
        self._batches = [part[first : first + batch] for part in by_source for first in range(0, len(part), batch)]

    def _read(self, places: list[tuple[int, tuple[int, int]]]) -> Batch:
        return collate([self._sources[k].item(index, number) for number, (k, index) in places])

    @torch.no_grad()
    def __call__(self, network: nn.Module, device: torch.device, precision: torch.dtype) -> Scores:
        """Score a network in evaluation mode.

        Raises:
            DatasetError: no frame has known depth.
        """
        rows = []
        for places in self._batches:
            batch = self._read(places)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                log_depth = network(batch.spikes.to(device)).float().cpu()
            estimate = self._range.to_metres(log_depth).numpy()
            truth = batch.depth.numpy()
            for k, (number, _) in enumerate(places):
                valid = (truth[k] >= self._range.min_m) & (truth[k] <= self._range.max_m)
                if valid.any():
                    metrics = frame_metrics(estimate[k][valid], truth[k][valid])
                    rows.append((number, batch.keys[k].rpartition("/")[0], metrics))
        every = sorted((row for part in self._group.gather(rows) for row in part), key=lambda row: row[0])
        if not every:
            raise DatasetError(
                f"the validation set has no frame with depth between {self._range.min_m} and {self._range.max_m} m"
            )
        sequences = {row[1] for row in every}
        by_sequence = {name: _mean([row[2] for row in every if row[1] == name]) for name in sorted(sequences)}
        return Scores(_mean([row[2] for row in every]), by_sequence, len(every))

    def examples(self, count: int) -> Batch:
        """A few of the first process's samples, from all over the first set."""
        places = [place for part in self._batches for place in part if place[1][0] == self._batches[0][0][1][0]]
        chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
        return self._read([places[i] for i in chosen])


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    averages = average(rows)
    return {name: averages[name].mean for name in SCORES}
