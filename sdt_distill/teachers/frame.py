"""A small frame network of the DINOv2 architecture: frames to depth, trained by ourselves on simulated pictures.

With it the gain of a teacher that sees another modality can be measured without a download. It is a plain network from
frames to normalised log depth, so the training loop of the students trains it too.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from sdt_distill.teachers.base import TeacherError, TeacherOutput
from sdt_distill.teachers.config import TeacherConfig
from sdt_distill.teachers.digest import digest
from sdt_distill.teachers.dino import load_model
from sdt_distill.teachers.hub import CONFIG, WEIGHTS, check_folder, read_json
from sdt_distill.teachers.patches import Resizing, layer_numbers, normalise, patch_maps, resize, to_rgb
from sdt_ros.network import DepthRange

HEAD = "head.safetensors"
CARD = "frame.json"


@dataclass(frozen=True)
class FrameConfig:
    """Shape of the frame network.

    Attributes:
        embed_dim: channels of a token; a multiple of `heads`.
        depth: blocks of the transformer.
        heads: attention heads.
        patch: side of a patch in pixels. 8 gives 172x130 as many tokens as 14 gives a frame of 300x224.
        widths: channels of the depth decoder at the patches, at 1/4 and at 1/2 of the resolution.
    """

    embed_dim: int = 192
    depth: int = 6
    heads: int = 3
    patch: int = 8
    widths: tuple[int, int, int] = (96, 48, 24)

    def __post_init__(self) -> None:
        """Refuses what makes no network, naming the key."""
        object.__setattr__(self, "widths", tuple(self.widths))
        for key in ("embed_dim", "depth", "heads", "patch"):
            value = getattr(self, key)
            if not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
                raise ValueError(f"frame network key {key!r} is {value!r}, expected a whole number of at least 1")
        if self.embed_dim % self.heads:
            raise ValueError(f"frame network key 'embed_dim' is {self.embed_dim}, expected a multiple of {self.heads}")
        if len(self.widths) != 3:
            raise ValueError(f"frame network key 'widths' is {self.widths}, expected three channel counts")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FrameConfig:
        """Builds a config from plain values.

        Raises:
            ValueError: a key is unknown, or a value makes no network; the message names it.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown frame network key {', '.join(map(repr, unknown))}; known: {', '.join(known)}")
        return cls(**values)


class FrameNetwork(nn.Module):
    """DINOv2 backbone and convolutional depth decoder, with the frame's own edges as skips.

    Args:
        config: its shape.
        backbone: weights to start from; drawn at random where None.
    """

    def __init__(self, config: FrameConfig | None = None, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.config = config or FrameConfig()
        self.backbone: Any = backbone if backbone is not None else _draw_backbone(self.config)
        blocks = self.config.depth
        self._taps = {f"layer.{i}": i for i in sorted({max(1, blocks // 3), max(1, 2 * blocks // 3), blocks})}
        self._resizing = Resizing(self.config.patch)
        coarse, quarter, half = self.config.widths
        self.edges2 = _conv(3, half, stride=2)
        self.edges4 = _conv(half, quarter, stride=2)
        self.reduce = _conv(len(self._taps) * self.config.embed_dim, coarse, kernel=1)
        self.context = _conv(coarse, coarse)
        self.up4 = _conv(coarse + quarter, quarter)
        self.up2 = _conv(quarter + half, half)
        self.depth = nn.Conv2d(half, 1, 3, padding=1)
        nn.init.zeros_(self.depth.weight)
        nn.init.constant_(self.depth.bias, 0.5)  # type: ignore[arg-type]  # the middle of the range, in log depth

    def forward(self, frames: Tensor) -> Tensor:
        """Estimates depth.

        Args:
            frames: in [0, 1], float32 [B, 1, H, W] grey or [B, 3, H, W] RGB; any height and width.

        Returns:
            Normalised log depth [B, 1, H, W], in no bounds.
        """
        pixels = normalise(to_rgb(frames))
        return self._decode(pixels, self._encode(frames, self._taps))

    def look(self, frames: Tensor, numbers: Mapping[str, int]) -> tuple[dict[str, Tensor], Tensor]:
        """Maps of layers, given as numbers of blocks by name, and the depth of `forward`, in one pass."""
        wanted = {**self._taps, **{f"named {name}": number for name, number in numbers.items()}}
        maps = self._encode(frames, wanted)
        depth = self._decode(normalise(to_rgb(frames)), maps)
        return {name: maps[f"named {name}"] for name in numbers}, depth

    def _encode(self, frames: Tensor, numbers: Mapping[str, int]) -> dict[str, Tensor]:
        frames = to_rgb(frames)
        size = self._resizing.size(*frames.shape[-2:])
        return patch_maps(self.backbone, normalise(resize(frames, size)), numbers)

    def _decode(self, pixels: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        edges2 = self.edges2(pixels)  # [B, half, H/2, W/2]
        edges4 = self.edges4(edges2)  # [B, quarter, H/4, W/4]
        features = self.reduce(torch.cat([maps[name] for name in self._taps], 1))
        features = features + self.context(features)
        features = self.up4(torch.cat([_to(features, edges4), edges4], 1))
        features = self.up2(torch.cat([_to(features, edges2), edges2], 1))
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would round depth to 2 %
            return _to(self.depth(features.float()), pixels)


class FrameTeacher:
    """The frame network as a teacher of features and of metric depth.

    Frames must be aligned to the event camera: what it sees is compared with the student's in place.

    Args:
        config: of kind "frame"; `patch`, where given, must be the network's.
        device: where it computes.

    Raises:
        TeacherError: files are missing, damaged or of another patch size.
    """

    def __init__(self, config: TeacherConfig, device: torch.device | str = "cpu") -> None:
        folder = Path(str(config.weights)).expanduser()
        if config.grid is not None or config.short_side is not None:
            raise TeacherError(
                "teacher keys 'grid' and 'short_side' are not for kind 'frame': it takes frames as they are"
            )
        network, self.depth_range = load_frame_network(folder, config.patch)
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = torch.device(device)
        self._bf16 = config.bf16
        self._numbers = layer_numbers(config.layers, network.config.depth)
        settings = {"layers": list(config.layers), "bf16": config.bf16, "depth_range": vars(self.depth_range)}
        self.name = f"frame network {folder}"
        self.key = digest([folder / CONFIG, folder / WEIGHTS, folder / HEAD], settings)
        self.layers = {name: network.config.embed_dim for name in config.layers}

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> TeacherOutput:
        """Frames in [0, 1], float32 [B, 1 or 3, H, W], to float32 maps [B, C, h, w] and metres [B, 1, H, W]."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            maps, depth = self._network.look(frames.to(self._device, torch.float32), self._numbers)
        features = {name: each.float().to(frames.device) for name, each in maps.items()}
        return TeacherOutput(features, self.depth_range.to_metres(depth.float()).to(frames.device), "metric")


def save_frame_network(
    folder: str | Path, network: FrameNetwork, depth_range: DepthRange, card: Mapping[str, Any] | None = None
) -> None:
    """Writes a frame network: the backbone in the hub's format, head and card beside it.

    Each file is written whole and then renamed. The card comes last and holds the digest of the weights: if a crash
    falls between, loading says so.

    Args:
        folder: made where it is missing.
        network: on any device.
        depth_range: what its 0 and 1 stand for.
        card: more to write down, as training data and scores; plain values.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith("backbone.")
    }
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as temporary:
        new = Path(temporary)
        network.backbone.save_pretrained(new, safe_serialization=True)
        save_file(head, new / HEAD)
        values = {
            "network": dataclasses.asdict(network.config),
            "depth_range": dataclasses.asdict(depth_range),
            "weights_sha256": digest([new / WEIGHTS, new / HEAD], {}),
            **(card or {}),
        }
        (new / CARD).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        for name in (CONFIG, WEIGHTS, HEAD, CARD):
            (new / name).chmod((new / CARD).stat().st_mode)  # safetensors makes its files private
            with (new / name).open("rb") as stream:
                os.fsync(stream.fileno())
        for name in (CONFIG, WEIGHTS, HEAD, CARD):
            (new / name).replace(folder / name)


def load_frame_network(folder: str | Path, patch: int | None = None) -> tuple[FrameNetwork, DepthRange]:
    """Reads a frame network.

    Args:
        folder: as `save_frame_network` wrote it.
        patch: patch size that it must have, None for any.

    Returns:
        The network on the CPU in evaluation mode, and what its 0 and 1 stand for.

    Raises:
        TeacherError: a file is missing or damaged, or the patch size is another.
    """
    folder = Path(folder)
    missing = [name for name in (CONFIG, WEIGHTS, HEAD, CARD) if not (folder / name).is_file()]
    if missing:
        raise TeacherError(
            f"frame network {folder}: {', '.join(missing)} missing. "
            "Copy the whole folder there, or train one: see docs/training.md"
        )
    check_folder(folder)
    card = read_json(folder / CARD)
    if card.get("weights_sha256") != digest([folder / WEIGHTS, folder / HEAD], {}):
        raise TeacherError(f"frame network {folder}: {CARD} and weights do not belong together; copy the whole folder")
    try:
        config, depth_range = FrameConfig.from_dict(card["network"]), DepthRange(**card["depth_range"])
    except (KeyError, TypeError, ValueError) as error:
        raise TeacherError(f"{folder / CARD}: damaged: {error}; copy the whole folder") from error
    backbone = load_model(folder, patch)
    try:
        network = FrameNetwork(config, backbone)
        loaded = network.load_state_dict(load_file(folder / HEAD), strict=False)
    except (SafetensorError, RuntimeError) as error:
        raise TeacherError(f"frame network {folder}: {CARD} and weights do not fit: {error}") from error
    absent = [name for name in loaded.missing_keys if not name.startswith("backbone.")] + loaded.unexpected_keys
    if absent:
        raise TeacherError(f"frame network {folder / HEAD}: {absent[0]} does not fit; copy the whole folder")
    return network.eval(), depth_range


def _draw_backbone(config: FrameConfig) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise TeacherError("the frame network needs transformers: pip install 'sdt_ros[distill]'") from error
    return transformers.Dinov2Model(
        transformers.Dinov2Config(
            hidden_size=config.embed_dim,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            patch_size=config.patch,
            image_size=16 * config.patch,  # grid of the position embedding, which is interpolated to any other
        )
    )


def _conv(channels: int, width: int, *, kernel: int = 3, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.GELU())


def _to(features: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(features, like.shape[-2:], mode="bilinear", align_corners=False)
