"""The networks that are trained and compared: the spiking depth transformer of `sdt_ros.network` and its peers."""

from .checkpoint import AnyCard, PeerCard, load_network, make_card, network_name, read_card, save_network, take_weights
from .e2depth import E2Depth, E2DepthConfig
from .registry import NAMES, AnyConfig, NetworkSpec, bare, build, config_of, name_of, resolve
from .twin import AnnTwin, TwinConfig, build_twin

__all__ = [
    "NAMES",
    "AnnTwin",
    "AnyCard",
    "AnyConfig",
    "E2Depth",
    "E2DepthConfig",
    "NetworkSpec",
    "PeerCard",
    "TwinConfig",
    "bare",
    "build",
    "build_twin",
    "config_of",
    "load_network",
    "make_card",
    "name_of",
    "network_name",
    "read_card",
    "resolve",
    "save_network",
    "take_weights",
]
