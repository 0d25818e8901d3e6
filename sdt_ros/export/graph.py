"""What `DepthEstimator` does with a window, as one module of plain tensor operations, for one size of the sensor."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdt_ros.events.reduce import reduced_size
from sdt_ros.lens import USUAL_FOCAL_LENGTH, depth_factor
from sdt_ros.network import MLIF, Card, SpikingDepthTransformer
from sdt_ros.runtime.fold import fold_batch_norms


class EstimatorGraph(nn.Module):
    """Spikes of the whole sensor in, metres out, and their deviation where the weights tell it.

    Args:
        network: with its weights; it is taken over, folded, and can then no longer be trained.
        card: theirs.
        size: height and width of the sensor [px].

    Attributes:
        spikes_shape: of the input, [1, T, 2, H, W].
        asks_focal_length: whether depth depends on the camera's focal length.
        usual_focal_px: what to feed where nobody knows it [px].
    """

    def __init__(self, network: SpikingDepthTransformer, card: Card, size: tuple[int, int]) -> None:
        super().__init__()
        fold_batch_norms(network)
        for module in network.modules():
            if isinstance(module, MLIF):
                module.__class__ = _GraphMLIF
        self.network = network.requires_grad_(False).float().cpu()
        height, width = self.size = size
        seen = reduced_size(height, width, card.input_scale)
        self.spikes_shape = (1, card.bins, card.network.polarities, height, width)
        self.asks_focal_length = card.focal_px is not None
        self.usual_focal_px = USUAL_FOCAL_LENGTH * width
        # It is proportional to the focal length; `depth_factor` refuses a length of one pixel, which no lens has.
        self._factor_a_px = depth_factor(card.focal_px, float(width), seen, size) / width
        self._depth_range = card.depth_range
        self._rows = _members(height, seen[0])
        self._columns = _members(width, seen[1])

    def forward(self, spikes: Tensor, focal_px: Tensor | None = None) -> tuple[Tensor, ...]:
        """Estimates depth.

        Args:
            spikes: [1, T, 2, H, W] uint8, oldest bin first; polarity 0 is OFF, 1 is ON; counts are taken for 1.
            focal_px: float32 [1], the camera's focal length in pixels of the sensor; where `asks_focal_length`. It is
                not checked: nothing in a graph can refuse.

        Returns:
            Depth float32 [1, 1, H, W] in metres along z, within the card's range times the lens's factor. With
            weights that tell it, the standard deviation of ln(depth), float32 [1, 1, H, W], too; an unknown lens is
            not in it.
        """
        seen = _any(_any(spikes.clamp(max=1).float(), -2, self._rows), -1, self._columns)
        told = self.network(seen, with_uncertainty=True)
        metres = self._depth_range.to_metres(self._enlarged(told[:, :1]))
        if focal_px is not None:
            metres = metres * (focal_px * self._factor_a_px).view(1, 1, 1, 1)
        if told.shape[1] == 1:
            return (metres,)
        scale, place = told[:, 1:2, :1, :1], self._enlarged(told[:, 2:])
        return metres, torch.sqrt(torch.exp(2 * place) + torch.exp(2 * scale))

    def _enlarged(self, picture: Tensor) -> Tensor:
        if tuple(picture.shape[-2:]) == self.size:
            return picture
        return functional.interpolate(picture, size=self.size, mode="bilinear", align_corners=False)


class _GraphMLIF(MLIF):
    """`MLIF` without writing into tensors, which exporters take for copies; to the same bit."""

    def forward(self, current: Tensor) -> Tensor:
        """The same as `MLIF.forward`."""
        rest = torch.zeros((), dtype=current.dtype)  # a tensor of zeros would be stored in the file, for each layer
        membrane = rest
        spikes = []
        for step in current.unbind(0):
            membrane = membrane + (step - membrane) * (1 / self.tau)
            fired = membrane >= self.threshold
            membrane = torch.where(fired, rest, membrane)
            spikes.append(fired.to(current.dtype))
        return torch.stack(spikes)


def _members(full: int, size: int) -> list[Tensor]:
    """For each of a cell's pixels along one axis: which one it is, of all cells; [] where cells are pixels.

    Pixel y of `full` belongs to cell y * size // full, as `EventStream` bins; cells of fewer pixels name one twice.
    """
    if size == full:
        return []
    starts = [-(-cell * full // size) for cell in range(size + 1)]
    most = math.ceil(full / size)
    return [torch.tensor([min(start + k, end - 1) for start, end in itertools.pairwise(starts)]) for k in range(most)]


def _any(spikes: Tensor, axis: int, members: list[Tensor]) -> Tensor:
    """The largest of each cell's pixels along an axis."""
    if not members:
        return spikes
    cells = spikes.index_select(axis, members[0])
    for each in members[1:]:
        cells = torch.maximum(cells, spikes.index_select(axis, each))
    return cells
