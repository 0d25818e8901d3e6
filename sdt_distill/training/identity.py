"""What a saved state shares with a run that may go on from it: what its weights mean, and what they were shown."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from sdt_distill.networks import config_of

from .config import TrainingConfig
from .state import StateError
from .tree import same, to_plain

_log = logging.getLogger(__name__)

# Of the data, what the card says of the weights; who reads them otherwise reads other metres.
_MEANING = ("bins", "window_ms", "min_m", "max_m", "input_scale", "focal_px")


def identity_of(config: TrainingConfig, network: nn.Module) -> dict[str, Any]:
    """What a state must share with a run that goes on from it, by the config's keys, as JSON holds it."""
    plain = to_plain(config)
    meaning = {f"data.{key}": plain["data"][key] for key in _MEANING}
    told = {"network": config_of(network).to_dict(), "loss": plain["loss"], "seed": plain["run"]["seed"], **meaning}
    return {key: to_plain(value) for key, value in told.items()}


def shown_by(config: TrainingConfig, world: int) -> dict[str, Any]:
    """What may change between the calls of a run, but is told: its sources, and the samples of a step."""
    run = config.run
    return {"data.sources": to_plain(config.data.sources), "samples of a step": run.batch * run.accumulation * world}


def require_same_run(path: Path, stored: Mapping[str, Any], config: TrainingConfig, network: nn.Module) -> None:
    """Refuse a state of another run; what an earlier version did not store is not compared.

    Raises:
        StateError: the identities differ.
    """
    own = identity_of(config, network)
    grown = {"network": config_of(network), "loss": config.loss}  # get new keys, whose defaults do nothing
    for key, value in own.items():
        if key not in stored or stored[key] == value or (key in grown and same(stored[key], grown[key])):
            continue
        raise StateError(
            f"{path} is the state of another run: its {key} is {stored[key]}, the config's is {value}. "
            "Choose another --out, or delete the folder to start over"
        )


def warn_of_changes(path: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say what a run that goes on is shown otherwise than before."""
    for key, value in now.items():
        if key in before and before[key] != value:
            _log.warning("%s: goes on with other %s: %s, before %s", path, key, value, before[key])
