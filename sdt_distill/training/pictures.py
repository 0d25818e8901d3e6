"""What the network makes of a few held-out samples, as one picture."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from sdt_ros.colormap import colorize
from sdt_ros.event_frame import event_frame
from sdt_ros.network import DepthRange

from .batch import Batch

_GAP = 4


@dataclasses.dataclass(frozen=True)
class Picture:
    """Pixels, uint8 [H, W, 3]."""

    pixels: np.ndarray

    def save(self, path: Path) -> None:
        """Write it as PNG, whole or not at all."""
        temporary = path.with_name(f".{path.name}.new")
        Image.fromarray(self.pixels).save(temporary, format="png")
        temporary.replace(path)


@torch.no_grad()
def example_picture(batch: Batch, network: nn.Module, depth_range: DepthRange, device: torch.device) -> Picture:
    """A row for each sample: events, frame where there is one, true depth, estimate; near red, far blue.

    Args:
        batch: the samples.
        network: in evaluation mode.
        depth_range: of its output.
        device: it is on.
    """
    estimates = depth_range.to_metres(network(batch.spikes.to(device)).float().cpu())[:, 0].numpy()
    rows = []
    for k, estimate in enumerate(estimates):
        truth = batch.depth[k, 0].numpy()
        known = truth[np.isfinite(truth)]
        near, far = (float(v) for v in np.percentile(known, (1, 99))) if known.size else (1.0, 10.0)
        far = max(far, near * 1.05)
        spikes = batch.spikes[k].numpy()
        if spikes.shape[1] == 1:  # of a spiking camera: all are drawn as ON
            spikes = np.concatenate([np.zeros_like(spikes), spikes], 1)
        panels = [event_frame(spikes)]
        if batch.frame is not None:
            grey = np.rint(batch.frame[k].numpy() * 255).astype(np.uint8)
            panels.append(np.broadcast_to(grey.transpose(1, 2, 0), (*truth.shape, 3)))
        panels += [colorize(truth, near, far), colorize(estimate, near, far)]
        rows.append(np.concatenate([np.pad(p, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=255) for p in panels], 1))
    return Picture(np.concatenate(rows))
