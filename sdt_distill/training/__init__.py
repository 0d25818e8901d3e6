"""The training engine: a config, a data stream, one loop, and runs that survive being killed.

Read `engine.py` first: it is the loop. What it calls stands in the order of the data: `data.py`, `resident.py`,
`batch.py`, `augment.py`, `geometry.py`, `spike_noise.py`, `taps.py`, `graphed.py`, `optimise.py`, `state.py`,
`validate.py`, `log.py`, `summary.py`.
"""

from .augment import Augmentation, AugmentConfig
from .batch import Batch, collate
from .config import ConfigError, TrainingConfig, load_config
from .geometry import Geometry
from .taps import Taps

__all__ = [
    "AugmentConfig",
    "Augmentation",
    "Batch",
    "ConfigError",
    "Geometry",
    "Taps",
    "TrainingConfig",
    "collate",
    "load_config",
]
