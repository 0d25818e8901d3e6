"""Networks by name: the spiking depth transformer, its variants and its peers.

A network is named by a word or by a mapping, as a training config has it:

    network: sdt_small
    network: {name: sdt_tiny, attention: softmax}
    network: {name: sdt_tiny, neuron: relu}         # its ANN twin, also called sdt_tiny_ann
    network: e2depth_small

For `sdt*` the other keys are those of `NetworkConfig` and `neuron`; for `e2depth*` those of `E2DepthConfig`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from sdt_ros.network import NetworkConfig, SpikingDepthTransformer, build_network, get_preset, presets

from .e2depth import E2Depth, E2DepthConfig
from .twin import AnnTwin, TwinConfig, build_twin

AnyConfig = NetworkConfig | TwinConfig | E2DepthConfig
NetworkSpec = str | Mapping[str, Any] | AnyConfig

NEURONS = ("mlif", "relu")
TWIN_SUFFIX = "_ann"

peer_presets: Mapping[str, E2DepthConfig] = MappingProxyType(
    {
        "e2depth": E2DepthConfig(),  # 10.71 M parameters, the paper's
        "e2depth_small": E2DepthConfig(widths=(24, 44, 88, 180)),  # 5.24 M, as sdt_small
        "e2depth_tiny": E2DepthConfig(widths=(8, 20, 36, 76)),  # 0.93 M, as sdt_tiny
    }
)

NAMES = (*presets, *(name + TWIN_SUFFIX for name in presets), *peer_presets)
"""All names that `build` takes."""


def resolve(spec: NetworkSpec, bins: int = 4) -> AnyConfig:
    """The config that a name or mapping stands for.

    Args:
        spec: see the module; a config comes back as it is.
        bins: time bins T of the windows, which only a twin has to know.

    Raises:
        ValueError: name or key are unknown, or a value makes no network; the message names it.
    """
    if isinstance(spec, NetworkConfig | TwinConfig | E2DepthConfig):
        return spec
    if isinstance(spec, str):
        spec = {"name": spec}
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        raise ValueError(f"network is {spec!r}, expected a name ({', '.join(NAMES)}), or a mapping with the key 'name'")
    values = dict(spec)
    name: str = values.pop("name")
    if name not in NAMES:
        raise ValueError(f"unknown network {name!r}; networks: {', '.join(NAMES)}")
    if name in peer_presets:
        return E2DepthConfig.from_dict({**peer_presets[name].to_dict(), **values})
    neuron = values.pop("neuron", "relu" if name.endswith(TWIN_SUFFIX) else "mlif")
    if neuron not in NEURONS:
        raise ValueError(f"network key 'neuron' is {neuron!r}, expected one of {', '.join(NEURONS)}")
    if name.endswith(TWIN_SUFFIX) and neuron != "relu":
        raise ValueError(f"network {name!r} is a twin, its neuron cannot be {neuron!r}: leave out {TWIN_SUFFIX!r}")
    try:
        config = NetworkConfig.from_dict({**get_preset(name.removesuffix(TWIN_SUFFIX)).to_dict(), **values})
    except ValueError as error:
        if "unknown network key" in str(error):
            raise ValueError(f"{error}, neuron") from error
        raise
    return TwinConfig(config, bins) if neuron == "relu" else config


def build(spec: NetworkSpec, bins: int = 4) -> nn.Module:
    """Builds an untrained network, in training mode, weights drawn from torch's global generator.

    Args:
        spec: a name, a mapping or a config; see the module.
        bins: time bins T of the windows.

    Returns:
        A module: spikes [B, T, 2, H, W] in {0, 1} to normalised log depth [B, 1, H, W].

    Raises:
        ValueError: as `resolve`.
    """
    config = resolve(spec, bins)
    if isinstance(config, TwinConfig):
        return build_twin(config)
    return build_network(config) if isinstance(config, NetworkConfig) else E2Depth(config).train()


def bare(config: AnyConfig) -> nn.Module:
    """The network of a config with weights that only wait to be loaded."""
    if isinstance(config, TwinConfig):
        return AnnTwin(config)
    return SpikingDepthTransformer(config) if isinstance(config, NetworkConfig) else E2Depth(config)


def config_of(network: nn.Module) -> AnyConfig:
    """The config that a network was built of.

    Raises:
        TypeError: it is none of ours.
    """
    if isinstance(network, AnnTwin):
        return network.twin_config
    if isinstance(network, SpikingDepthTransformer | E2Depth):
        return network.config
    raise TypeError(f"a {type(network).__name__} is no network of {__name__}")


def name_of(config: AnyConfig) -> str:
    """The shortest name of a config: of `NAMES`, with what differs from it where something does."""
    if isinstance(config, E2DepthConfig):
        own = (name for name, preset in peer_presets.items() if preset == config)
        return next(own, "e2depth" + str(list(config.widths)))
    network, suffix = (config.network, TWIN_SUFFIX) if isinstance(config, TwinConfig) else (config, "")
    fewest = min(presets, key=lambda name: len(_differing(network, presets[name])))
    changes = _differing(network, presets[fewest])
    return fewest + suffix + "".join(f", {key} {getattr(network, key)}" for key in changes)


def _differing(one: NetworkConfig, other: NetworkConfig) -> list[str]:
    return [f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(other, f.name)]
