"""The simulator as a data set: samples are made when they are asked for, and a number always gives the same one."""

from __future__ import annotations

import dataclasses
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdt_ros.simulation.simulator import Sample as Made
from sdt_ros.simulation.simulator import Simulator, SimulatorConfig
from sdt_ros.simulation.textures import TextureAtlas, build_atlas

from .errors import broken
from .sample import Sample, SampleConfig, SequenceDataset, SequenceReader
from .simulated_config import SPLIT_NAMES, SimulatedConfig

_CROPS = 24  # of photographs in a texture set
_SETS_KEPT = 4  # texture sets held in memory at once, some 56 MB each
_GROUPS_KEPT = 16


class SimulatedSource:
    """Makes the samples of a description; the last ones and their textures are kept. It can be sent to other processes.

    Args:
        config: what to simulate.
        device: where to compute. Noise differs between a CPU and a GPU, scenes do not.
    """

    def __init__(self, config: SimulatedConfig, device: str = "cpu") -> None:
        self.config = config
        self.device = device
        self._photographs = config.photograph_files()
        self._simulators: OrderedDict[int, Simulator] = OrderedDict()
        self._groups: OrderedDict[int, list[Sample]] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_simulators": OrderedDict(), "_groups": OrderedDict()}

    def read(self, index: int) -> Sample:
        """The sample of a number of 0 or more; numbers beyond `config.samples` exist too."""
        group, place = divmod(index, self.config.group)
        return self.group(group)[place]

    def group(self, number: int) -> list[Sample]:
        """A whole group, samples number * group to (number + 1) * group - 1."""
        if number in self._groups:
            self._groups.move_to_end(number)
            return self._groups[number]
        config = self.config
        made = self._made(number)
        # Torch to numpy: [B, T, 2, H, W], [B, H, W], [B, H, W].
        spikes, depth = made.spikes.cpu().numpy(), made.depth[:, 0].cpu().numpy()
        intrinsics = made.intrinsics.numpy()  # [B, 3, 3]
        frame = made.frame[:, 0].mul(255).round().to(torch.uint8).cpu().numpy()
        samples = []
        for b in range(config.group):
            index = number * config.group + b
            # One scene begins where the last ended, so that stamps differ.
            end_us = (index + 1) * config.end_us
            samples.append(
                Sample(
                    spikes=spikes[b],
                    depth=depth[b],
                    t_end_us=end_us,
                    stamp_ns=end_us * 1000,
                    sequence=made.families[b],
                    index=index,
                    frame=frame[b],
                    intrinsics=intrinsics[b],
                )
            )
        self._groups[number] = samples
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return samples

    def _made(self, number: int) -> Made:
        return self._simulator(number).sample(self.config.group, number)

    def _simulator(self, group: int) -> Simulator:
        config = self.config
        number = group * config.group // config.texture_block % config.texture_sets
        if number not in self._simulators:
            seed = self._seed(number)
            atlas = _atlas(seed, self._photographs, self.device)
            # Batches count over the whole data set, so that a seed for all texture sets gives no scene twice.
            self._simulators[number] = Simulator(self._settings(), self._seed(-1), self.device, atlas)
            while len(self._simulators) > _SETS_KEPT:
                self._simulators.popitem(last=False)
        self._simulators.move_to_end(number)
        return self._simulators[number]

    def _settings(self) -> SimulatorConfig:
        return self.config.simulator()

    def _seed(self, stream: int) -> int:
        """A seed of 63 bits for each texture set from 0, and for scenes at -1."""
        key = [self.config.seed, SPLIT_NAMES.index(self.config.split), stream + 1]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


def source_of(config: SimulatedConfig, device: str = "cpu") -> SimulatedSource:
    """What makes the samples of a description, by its renderer.

    Raises:
        DatasetError: MuJoCo is asked for and cannot render here.
        ValueError: photographs are missing, or the renderer cannot do what is asked.
    """
    if config.renderer == "mujoco":
        from .mujoco import MujocoSource

        return MujocoSource(config, device)
    return SimulatedSource(config, device)


def _atlas(seed: int, photographs: Sequence[Path], device: str) -> TextureAtlas:
    """Textures of a seed, with crops from some of the photographs."""
    if not photographs:
        return build_atlas(seed, device=device)
    chosen = np.random.default_rng([seed, 5]).permutation(len(photographs))[:_CROPS]
    # The simulator reads a folder whole; this one has links to what the split may see, and no more than is used.
    with tempfile.TemporaryDirectory(prefix="sdt_textures_") as folder:
        for k, choice in enumerate(chosen.tolist()):
            source = photographs[choice].resolve()
            Path(folder, f"{k:03d}_{source.name}").symlink_to(source)
        return build_atlas(seed, photographs=Path(folder), crops=_CROPS, device=device)


class SimulatedSequence(SequenceReader):
    """The samples of one family."""

    format = "simulation"
    parts = ("indices",)

    def __init__(self, path: Path, name: str, config: SampleConfig, source: SimulatedSource) -> None:
        super().__init__(path, name, config)
        self.source = source

    @cached_property
    def indices(self) -> np.ndarray:
        """Numbers of the family's samples."""
        return self.all_indices

    @property
    def all_indices(self) -> np.ndarray:
        """The same: each has its events."""
        families = self.source.config.families
        return np.arange(families.index(self.name), self.source.config.samples, len(families), dtype=np.int64)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the camera [px]."""
        return self.source.config.camera.height, self.source.config.camera.width

    def read_depth(self, index: int) -> np.ndarray:
        """Depth of a number, float32 [H, W] metres, NaN where there is nothing."""
        return self.read(index).depth

    def read(self, index: int) -> Sample:
        """The sample of a number."""
        sample = self.source.read(index)
        return sample if self.config.frames else dataclasses.replace(sample, frame=None)


class SimulatedDataset(SequenceDataset):
    """Simulated samples, made anew at each access; families take turns.

    Read in order, or with whole groups of `config.group` numbers together: single numbers at random cost a group each.
    A bank (`datasets.bank`) keeps samples on disk, for reading in any order.

    Args:
        config: what to simulate.
        device: where to compute; `cpu` in the workers of a data loader.
        frames: whether samples have frames.
        path: of the description, for messages.

    Raises:
        DatasetError: photographs are missing.
    """

    def __init__(
        self, config: SimulatedConfig, device: str = "cpu", frames: bool = True, path: Path = Path("simulation")
    ) -> None:
        try:
            self.source = source_of(config, device)
        except ValueError as error:
            raise broken("simulation", path, str(error), "correct `photographs`") from None
        self.config = config
        sample_config = SampleConfig(config.window_ms, config.bins, frames)
        # Fewer samples than families leave some of them out.
        names = config.families[: config.samples]
        super().__init__([SimulatedSequence(path, name, sample_config, self.source) for name in names])

    def __getitem__(self, index: int) -> Sample:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.readers[position % len(self.readers)].read(position)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def describe(self) -> str:
        """What there is, in words."""
        config = self.config
        textures = f"photographs of {len(config.photograph_files())} files" if config.photographs else "no photographs"
        drawn = "" if config.randomisation is None else "; lens, sensor and light drawn for each sample"
        return (
            f"{super().describe()}\n  split {config.split}, seed {config.seed}; procedural textures, {textures}{drawn}"
        )
