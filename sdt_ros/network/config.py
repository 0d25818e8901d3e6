"""What defines a network: its shape, its neurons, and the presets by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

PATCH = 16  # pixels a token: the stem halves four times
ATTENTIONS = ("ssa", "spike_driven", "softmax")
HEADS = ("fusion", "linear")
LARGEST = 1e6  # of the neurons' constants
MOST = 4096  # channels, blocks, heads: a damaged card shall not ask for a network that never comes to an end


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST


def _require(condition: bool, key: str, value: object, expected: str) -> None:
    if not condition:
        raise ValueError(f"network key {key!r} is {value!r}, expected {expected}")


@dataclass(frozen=True)
class NetworkConfig:
    """Shape of a spiking depth transformer (SDT, arXiv 2404.17335).

    The paper's body fixes four blocks; widths, heads and neuron constants are this project's choice.

    Attributes:
        embed_dim: channels D of a token; the stem widens D/8, D/4, D/2, D.
        depth: number of transformer blocks L; the fusion head reads all of them.
        heads: attention heads; must divide `embed_dim`.
        mlp_ratio: hidden channels of the spiking MLP, in units of `embed_dim`.
        attention: "ssa", Q(K^T V) without softmax; "spike_driven", which masks Q by LIF(sum of K*V); or "softmax", the
            real-valued attention of other transformers, to compare with.
        head: "fusion", all stages with skips up to full resolution, or "linear", one projection of the last stage.
        head_widths: channels of the fusion head at 1/16, 1/8, 1/4, 1/2 and full resolution.
        polarities: input channels a bin, 2 for ON and OFF.
        tau: membrane time constant in bins.
        threshold: membrane potential at which a neuron fires; it then resets to 0.
        surrogate_alpha: slope of the ATan surrogate gradient.
    """

    embed_dim: int = 512
    depth: int = 4
    heads: int = 8
    mlp_ratio: int = 4
    attention: str = "ssa"
    head: str = "fusion"
    head_widths: tuple[int, int, int, int, int] = (96, 64, 32, 16, 8)
    polarities: int = 2
    tau: float = 2.0
    threshold: float = 1.0
    surrogate_alpha: float = 2.0

    def __post_init__(self) -> None:
        """Refuses values that make no network, naming the key."""
        object.__setattr__(self, "head_widths", tuple(self.head_widths))
        for key in ("embed_dim", "depth", "heads", "mlp_ratio", "polarities"):
            _require(_is_count(getattr(self, key)), key, getattr(self, key), f"a whole number of 1 to {MOST}")
        _require(self.embed_dim % 8 == 0, "embed_dim", self.embed_dim, "a multiple of 8, the stem starts at D/8")
        _require(self.embed_dim % self.heads == 0, "heads", self.heads, f"a divisor of embed_dim {self.embed_dim}")
        _require(self.attention in ATTENTIONS, "attention", self.attention, f"one of {', '.join(ATTENTIONS)}")
        _require(self.head in HEADS, "head", self.head, f"one of {', '.join(HEADS)}")
        widths = self.head_widths
        _require(len(widths) == 5 and all(map(_is_count, widths)), "head_widths", widths, "five channel counts")
        _require(1 < self.tau <= LARGEST, "tau", self.tau, f"above 1, and {LARGEST:g} at most")
        _require(0 < self.threshold <= LARGEST, "threshold", self.threshold, f"above 0, and {LARGEST:g} at most")
        alpha = self.surrogate_alpha
        _require(0 < alpha <= LARGEST, "surrogate_alpha", alpha, f"above 0, and {LARGEST:g} at most")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkConfig:
        """Builds a config from plain values, as a JSON card holds them.

        Raises:
            ValueError: a key is unknown, or a value makes no network; the message names it.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"unknown network key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"network config {dict(values)} has a value of the wrong type: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The config as plain values that JSON can hold; `from_dict` reads them back."""
        return {**dataclasses.asdict(self), "head_widths": list(self.head_widths)}


presets: Mapping[str, NetworkConfig] = MappingProxyType(
    {
        # 20.5 M parameters: the size that the paper names. 16.5 M of them are stem and blocks.
        "sdt": NetworkConfig(),
        # A quarter of it, for boards without a large GPU.
        "sdt_small": NetworkConfig(embed_dim=256, head_widths=(64, 48, 32, 16, 8)),
        # About 1 M, for two CPU cores at camera rate: a narrow stem, where pixels are many, and a wide MLP, where few.
        "sdt_tiny": NetworkConfig(embed_dim=96, heads=3, mlp_ratio=6, head_widths=(64, 32, 16, 8, 8)),
    }
)


def get_preset(name: str) -> NetworkConfig:
    """The preset of that name.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in presets:
        raise ValueError(f"unknown preset {name!r}; presets: {', '.join(presets)}")
    return presets[name]
