"""From parameters to an estimator that is ready to run: which weights, and whether they fit."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sdt_ros.parameters import NodeConfig
from sdt_ros.runtime import DepthEstimator
from sdt_ros.runtime.thread_count import ALL_THREADS
from sdt_ros.weights import default_weights, weights_file


def load_estimator(config: NodeConfig, on_notice: Callable[[str], None]) -> DepthEstimator:
    """Load the network that the parameters ask for; in the thread that is to run it.

    Args:
        config: the parameters.
        on_notice: takes a line of text about what is odd and yet possible.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or does not fit.
        DeviceError: the GPU asked for is not there.
        ValueError: there are no weights and untrained ones are not allowed, or bins are not the network's.
    """
    torch.set_num_threads(config.threads or ALL_THREADS)
    packaged = None if config.allow_untrained else default_weights()  # who allows untrained weights asks for the preset
    weights = weights_file(config.weights) if config.weights else packaged
    if weights is not None:
        estimator = DepthEstimator.from_checkpoint(
            weights, config.device, bins=config.bins or None, runtime=config.runtime
        )
    elif config.allow_untrained:
        estimator = DepthEstimator.untrained(config.preset, config.device, runtime=config.runtime)
    else:
        raise ValueError("there are no weights: set weights to a checkpoint, or try without by allow_untrained:=true")
    if estimator.is_untrained and not config.allow_untrained:
        raise ValueError(f"{weights} is untrained: set weights to another checkpoint, or allow_untrained:=true")
    if config.bins not in (0, estimator.bins):
        raise ValueError(f"bins is {config.bins}, the network takes {estimator.bins}: set bins to 0")
    if config.window_ms not in (0.0, estimator.window_ms):
        on_notice(f"window_ms is {config.window_ms:g}, the network was made for {estimator.window_ms:g} ms")
    require_uncertainty(config, estimator)
    return estimator


def require_uncertainty(config: NodeConfig, estimator: DepthEstimator) -> None:
    """Refuse a limit on what nobody tells.

    Raises:
        ValueError: `max_deviation` is set, and the weights do not tell uncertainty.
    """
    if config.max_deviation and not estimator.tells_uncertainty:
        raise ValueError(
            f"max_deviation is {config.max_deviation:g}, but these weights do not tell uncertainty: set it to 0, or "
            "give them a head for it by sdt-distill uncertainty"
        )
