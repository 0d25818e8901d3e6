"""The simulator's scenes as MuJoCo and a plain event model show them: another renderer and another sensor.

What a network learnt of our own pictures besides depth shows in the difference. MuJoCo's cameras have no distortion and
look through their middle; its light casts no shadows, as ours. The sensor is ESIM's (Rebecq et al., CoRL 2018): log
brightness of eight-bit frames, linear in between, with thresholds and refractory period and nothing else. Light is
not varied, as such frames have no room for dim ones.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from sdt_ros.bench.mujoco_peer import MujocoPeer, centred, find_platform
from sdt_ros.simulation.simulator import Clockwork, SimulatorConfig
from sdt_ros.simulation.simulator import Sample as Made

from .errors import DatasetError
from .simulated import SimulatedSource
from .simulated_config import SimulatedConfig

SETTLE_MS = 30.0
"""How long the sensor looks before its window begins: pixels start with equal references [ms]."""

FARTHEST_M = 100.0
"""Farther depth is left out, the depth buffer being too coarse [m]."""


class MujocoSource(SimulatedSource):
    """Makes samples with MuJoCo; the CPU renders.

    Args:
        config: what to simulate; of the sensor thresholds, their spread and the refractory period count.
        device: must be `cpu`.

    Raises:
        DatasetError: MuJoCo is missing, or cannot render here.
        ValueError: another device.
    """

    def __init__(self, config: SimulatedConfig, device: str = "cpu") -> None:
        super().__init__(config, device)
        if device != "cpu":
            raise ValueError(f"renderer mujoco runs on cpu, not {device}")
        platform, why = find_platform()
        if platform is None:
            raise DatasetError(f"simulation: the renderer mujoco cannot be used: {why}")
        self._platform = platform

    def _settings(self) -> SimulatorConfig:
        settings, camera = self.config.simulator(), centred(self.config.camera)
        drawn = self.config.randomisation
        if drawn is not None:
            drawn = dataclasses.replace(drawn, off_centre=(0.0, 0.0), distortion=(0.0, 0.0), light=(1.0, 1.0))
        return dataclasses.replace(settings, camera=camera, settle_ms=SETTLE_MS, randomisation=drawn)

    def _made(self, number: int) -> Made:
        simulator, group = self._simulator(number), self.config.group
        settings, drawn = simulator.config, simulator.draw(group, number)
        settle_us, window_us = round(settings.settle_ms * 1000), round(settings.window_ms * 1000)
        cameras = [centred(camera) for camera in drawn.cameras]
        spikes, depth, frames, counts = [], [], [], []
        for b, camera in enumerate(cameras):
            batch, place = drawn.scene(b)
            start = torch.zeros(len(batch.kind), dtype=torch.int64)
            times = Clockwork(camera).frame_times(batch, start, start + settle_us + window_us)[place]
            times_us = np.concatenate([[0], times.numpy()])
            peer = MujocoPeer(
                self._platform, batch, place, camera, simulator.atlas, times_us, settle_us, settings.bins
            )  # fmt: skip
            try:
                seen = peer.sample(drawn.sensors[b], drawn.seed + b)
            finally:
                peer.close()
            spikes.append(seen.spikes)
            depth.append(np.where(seen.depth < FARTHEST_M, seen.depth, np.nan))
            frames.append(seen.frame.mean(-1) / 255)
            counts.append(len(times_us))
        return Made(
            torch.from_numpy(np.stack(spikes)),
            torch.from_numpy(np.stack(depth).astype(np.float32))[:, None],
            torch.from_numpy(np.stack(frames).astype(np.float32))[:, None],
            counts,
            cameras,
            drawn.families,
        )
