"""The spiking depth transformer: event spikes [B, T, 2, H, W] to normalised log depth [B, 1, H, W].

Read `transformer.py` first, then its parts in the order of the data: `stem.py`, `block.py`, `attention.py`, `head.py`,
`uncertainty.py`, all of them made of `neurons.py` and `layers.py`.
"""

import sdt_ros.threads  # noqa: F401  before torch is loaded
from sdt_ros.network.card import Card, CheckpointError
from sdt_ros.network.checkpoint import load_card, load_checkpoint, save_checkpoint
from sdt_ros.network.config import NetworkConfig, get_preset, presets
from sdt_ros.network.depth_range import DepthRange, depth_ranges
from sdt_ros.network.energy import EnergyRecorder, EnergyReport, LayerEnergy
from sdt_ros.network.initialise import build_network, synthetic_events
from sdt_ros.network.neurons import MLIF
from sdt_ros.network.transformer import SpikingDepthTransformer
from sdt_ros.network.uncertainty import UncertaintyHead

__all__ = [
    "MLIF",
    "Card",
    "CheckpointError",
    "DepthRange",
    "EnergyRecorder",
    "EnergyReport",
    "LayerEnergy",
    "NetworkConfig",
    "SpikingDepthTransformer",
    "UncertaintyHead",
    "build_network",
    "depth_ranges",
    "get_preset",
    "load_card",
    "load_checkpoint",
    "presets",
    "save_checkpoint",
    "synthetic_events",
]
