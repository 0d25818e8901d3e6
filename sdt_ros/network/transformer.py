"""The spiking depth transformer (SDT, arXiv 2404.17335): event spikes in, log depth out.

    spikes [B,T,P,H,W] -> PatchEmbedding -> L x TransformerBlock -> head -> log depth [B,1,H,W]
                              |  spikes at 1, 1/2, 1/4, 1/8            ^
                              +----------------- skips ----------------+

Inside, features are [T, B, C, H, W], time first. The membrane stream runs through the blocks; neurons read it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from sdt_ros.network.block import TransformerBlock
from sdt_ros.network.config import PATCH, NetworkConfig
from sdt_ros.network.head import FusionHead, LinearHead
from sdt_ros.network.stem import PatchEmbedding
from sdt_ros.network.uncertainty import UncertaintyHead


class SpikingDepthTransformer(nn.Module):
    """The complete network of a config, weights as torch draws them; `build_network` gives one ready to use.

    Attributes:
        uncertainty: a head that tells how far depth may be off, fitted to these weights; None where there is none.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = PatchEmbedding(config)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.depth))
        self.head = FusionHead(config) if config.head == "fusion" else LinearHead(config)
        self.uncertainty: UncertaintyHead | None = None

    def forward(self, spikes: Tensor, *, with_uncertainty: bool = False) -> Tensor:
        """Estimates depth.

        Args:
            spikes: event bins [B, T, P, H, W] in {0, 1}, any dtype, H and W; oldest bin first;
                polarity 0 is OFF, 1 is ON.
            with_uncertainty: tell how far depth may be off as well, where the network has a head for it.

        Returns:
            Normalised log depth [B, 1, H, W]; see `DepthRange` for metres. Training keeps it in no bounds. With
            uncertainty [B, 3, H, W]: depth, and what `UncertaintyHead` gives.

        Raises:
            ValueError: the shape is another.
        """
        if spikes.ndim != 5 or spikes.shape[2] != self.config.polarities or 0 in spikes.shape:
            expected = f"[B, T, {self.config.polarities}, H, W]"
            raise ValueError(f"spikes have shape {list(spikes.shape)}, expected {expected} and nothing empty")
        height, width = spikes.shape[-2:]
        padding = (0, -width % PATCH, 0, -height % PATCH)  # no events outside the sensor
        bins = functional.pad(spikes, padding).transpose(0, 1).contiguous()  # [T, B, P, H', W']
        membrane, skips = self.stem(bins.to(self.stem.position.conv.weight.dtype))
        stages = []
        for block in self.blocks:
            membrane = block(membrane)
            stages.append(membrane)
        told: Tensor = self.head(stages, skips, self.uncertainty if with_uncertainty else None)
        return told[..., :height, :width]
