"""The scale of a whole picture, read off all of it.

How far away a scene is as a whole is told by its layout; the decoder sees a neighbourhood at a time. So a small head
looks at the coarse features of the whole picture and moves all of its depth by one factor. It is real-valued.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdt_ros.network.config import NetworkConfig

_CHANNELS, _HIDDEN = 48, 48
_GAIN = 8.0  # normalised log depth varies little: what is learnt is in eighths of it


class ScaleHead(nn.Module):
    """One number for each picture, to be added to its normalised log depth; 0 in an untrained network.

    It tells places apart by where they are in the picture, whatever the picture's size. Pictures are padded to whole
    tokens below and to the right, and what is said of all of it includes that band.

    Args:
        config: of the network; its head must be the fusion head.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.read = nn.Sequential(
            nn.Conv2d(config.head_widths[0] + 2, _CHANNELS, 1), nn.ReLU(),
            nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.judge = nn.Sequential(nn.Linear(2 * _CHANNELS + 1, _HIDDEN), nn.ReLU())
        self.shift = nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.shift.weight)
        nn.init.zeros_(self.shift.bias)

    def forward(self, coarse: Tensor, log_depth: Tensor) -> Tensor:
        """Tells by how much a picture is to be moved.

        Args:
            coarse: features [B, C, H/16, W/16], float of any kind, as what follows.
            log_depth: normalised log depth as the decoder made it [B, 1, H, W].

        Returns:
            What is to be added to it, float32 [B, 1, 1, 1].
        """
        with torch.autocast(coarse.device.type, enabled=False):  # bfloat16 knows a picture's level to 2 % only
            coarse = coarse.float()
            read = self.read(torch.cat((coarse, _places(coarse)), 1))
            level = _GAIN * log_depth.float().mean((2, 3))  # [B, 1]
            picture = torch.cat((read.mean((2, 3)), _spread(read), level), 1)
            shift: Tensor = self.shift(self.judge(picture)) / _GAIN
        return shift[:, :, None, None]

    @torch.no_grad()
    def change_range(self, slope: float, offset: float) -> None:
        """Says the same where normalised log depth is `slope` times what it was, plus `offset`."""
        of_level = self.judge[0]
        assert isinstance(of_level, nn.Linear)
        of_level.weight[:, -1].div_(slope)
        of_level.bias.sub_(of_level.weight[:, -1] * (_GAIN * offset))
        self.shift.weight.mul_(slope)
        self.shift.bias.mul_(slope)


def _places(features: Tensor) -> Tensor:
    """Row and column of each place of features [B, C, H, W], from -1 to 1 between their edges: [B, 2, H, W]."""
    rows, columns = (
        (2 * torch.arange(n, device=features.device, dtype=features.dtype) + 1) / n - 1 for n in features.shape[-2:]
    )
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return grid.expand(len(features), *grid.shape)


def _spread(features: Tensor) -> Tensor:
    """Standard deviation over a picture [B, C, H, W], [B, C]; of channels that are the same everywhere nearly 0."""
    centred = features - features.mean((2, 3), keepdim=True)
    return (centred.square().mean((2, 3)) + 1e-6).sqrt()
