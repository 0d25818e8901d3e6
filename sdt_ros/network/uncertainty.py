"""How uncertain depth is: standard deviations that a small head reads off a trained network's features.

Errors of depth are factors, and of two kinds. The scale of a whole picture is a guess that all of its pixels share;
around it each pixel is off by its own. So there are two numbers for each pixel, of ln(depth): the deviation of its
picture's scale, and that of its own place in the picture. The network's depth does not depend on this head, which is
fitted afterwards, with everything else at rest (`sdt-distill uncertainty`), to errors whose distribution is Laplace's:
ln(b) + |error| / b, of which the deviation is sqrt(2) b (Kendall and Gal, NeurIPS 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdt_ros.network.config import NetworkConfig

_CHANNELS, _HIDDEN = 24, 32
_CONTRAST = 8.0  # normalised log depth varies little within a picture
# Of the network's untrained output, and the bounds of what is told: deviations of 2 % and of a factor of e^4.
_USUAL = -1.5
_LEAST, _MOST = -4.0, 1.4


class UncertaintyHead(nn.Module):
    """Deviations of ln(depth), from the fusion head's features at 1/16 and 1/8, and the depth that it made of them.

    Args:
        config: of the network; its head must be the fusion head.

    Raises:
        ValueError: its head is another.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        if config.head != "fusion":
            raise ValueError(f"a network with the head {config.head!r} has no features to tell uncertainty from")
        coarse, fine = config.head_widths[:2]
        self.scale = nn.Sequential(nn.Linear(2 * coarse + 2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, 1))
        self.place = nn.Sequential(nn.Conv2d(fine + 1, _CHANNELS, 3, padding=1), nn.ReLU(), nn.Conv2d(_CHANNELS, 1, 1))

    def forward(self, coarse: Tensor, fine: Tensor, log_depth: Tensor) -> Tensor:
        """Tells how far depth may be off.

        Args:
            coarse: features [B, C, H/16, W/16], float of any kind, as all that follow.
            fine: features [B, C', H/8, W/8].
            log_depth: normalised log depth [B, 1, H, W].

        Returns:
            ln of standard deviations of ln(depth), float32 [B, 2, H, W]: of the scale, the same at all pixels of a
            picture, and of each place.
        """
        coarse, fine, log_depth = coarse.float(), fine.float(), log_depth.float()
        small = functional.interpolate(
            functional.avg_pool2d(log_depth, 4, ceil_mode=True, count_include_pad=False),
            size=fine.shape[-2:], mode="bilinear", align_corners=False,
        )  # fmt: skip
        level = small.mean((1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
        contrast = _CONTRAST * (small - level)
        picture = [_mean(coarse), _spread(coarse), _CONTRAST * level.flatten(1), _spread(contrast)]
        scale = _bounded(self.scale(torch.cat(picture, 1)))  # [B, 1]
        place = _bounded(self.place(torch.cat((fine, contrast), 1)))  # [B, 1, H/8, W/8]
        place = functional.interpolate(place, scale_factor=8, mode="bilinear", align_corners=False)
        place = place[..., : log_depth.shape[-2], : log_depth.shape[-1]]
        return torch.cat((scale[:, :, None, None].expand_as(place), place), 1)


def _mean(features: Tensor) -> Tensor:
    return features.mean((-2, -1))


def _spread(features: Tensor) -> Tensor:
    """Standard deviation over a picture [B, C, H, W], [B, C]; of one place it is 0."""
    centred = features - features.mean((-2, -1), keepdim=True)
    return centred.square().mean((-2, -1)).sqrt()


def _bounded(raw: Tensor) -> Tensor:
    return (raw + _USUAL).clamp(_LEAST, _MOST)
