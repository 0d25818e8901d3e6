"""The simulator as a data set: samples are made when they are asked for, and a number always gives the same one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from sdt_ros.simulation.camera import CAMERAS, Camera, camera
from sdt_ros.simulation.families import FAMILIES
from sdt_ros.simulation.sensor import SensorConfig
from sdt_ros.simulation.simulator import Simulator, SimulatorConfig
from sdt_ros.simulation.textures import TextureAtlas, build_atlas

from .errors import DatasetError, broken
from .sample import Sample, SampleConfig, SequenceDataset, SequenceReader

SPLIT_NAMES = ("train", "validation", "test")
"""Parts with seeds and textures of their own."""

_HELD_OUT = 0.15  # of the photographs, for validation and again for test
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_CROPS = 24  # of photographs in a texture set
_SETS_KEPT = 4  # texture sets held in memory at once, some 56 MB each
_GROUPS_KEPT = 16
_ASPECT_TOLERANCE = 0.03


@dataclasses.dataclass(frozen=True, slots=True)
class SimulatedConfig:
    """What is simulated, and how numbers become samples.

    Attributes:
        family: of scenes, see `sdt_ros.simulation.families`; `mixed` takes them in turn: sample k is of family k mod 4.
        camera: the intrinsics.
        seed: of everything random.
        samples: how many there are.
        split: one of `SPLIT_NAMES`. Splits share neither seeds nor procedural textures nor photographs.
        photographs: folders of photographs to take textures from too; their files are shared out among the splits.
        bins: time bins T of a window.
        window_ms: duration of a window [ms].
        sensor: the event sensor.
        group: samples that are simulated together; they share one stream of noise, so others make other samples.
        texture_sets: different sets of textures; with more, reading in random order has to make them again and again.
        texture_block: samples in a row that share a set.
    """

    family: str = "mixed"
    camera: Camera = CAMERAS["davis346"]
    seed: int = 0
    samples: int = 1000
    split: str = "train"
    photographs: tuple[Path, ...] = ()
    bins: int = 4
    window_ms: float = 50.0
    sensor: SensorConfig = dataclasses.field(default_factory=SensorConfig)
    group: int = 8
    texture_sets: int = 4
    texture_block: int = 512

    def __post_init__(self) -> None:
        if self.family != "mixed" and self.family not in FAMILIES:
            raise ValueError(f"family {self.family!r} is unknown; choose one of {', '.join(FAMILIES)}, mixed")
        if self.split not in SPLIT_NAMES:
            raise ValueError(f"simulation has no split {self.split!r}; known are {', '.join(SPLIT_NAMES)}")
        for name in ("samples", "group", "texture_sets", "texture_block"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of 1 or more")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise ValueError(f"seed={self.seed!r} must be a whole number of 0 or more")
        if self.family == "mixed" and self.group % len(FAMILIES):
            raise ValueError(f"group={self.group} must be a multiple of {len(FAMILIES)}, the families that are mixed")
        if self.texture_block % self.group:
            raise ValueError(f"texture_block={self.texture_block} must be a multiple of group={self.group}")
        self.simulator()  # refuses what the simulator refuses

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: Path = Path()) -> SimulatedConfig:
        """From a description.

        Args:
            values: keys as the attributes; `camera` as `parse_camera` reads it or a mapping, `sensor` a mapping,
                `photographs` one path or several.
            base: what relative paths are relative to.

        Raises:
            ValueError: a key is unknown, or a value makes no sense.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ValueError(f"unknown key {key!r}; known are {', '.join(known)}")
        given = dict(values)
        if "camera" in given:
            value = given["camera"]
            given["camera"] = _part(Camera, "camera", value) if isinstance(value, Mapping) else parse_camera(str(value))
        if "sensor" in given:
            given["sensor"] = _part(SensorConfig, "sensor", given["sensor"])
        if "photographs" in given:
            paths = given["photographs"] or ()
            paths = [paths] if isinstance(paths, str | Path) else paths
            given["photographs"] = tuple(base / Path(path) for path in paths)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it."""
        return {**dataclasses.asdict(self), "photographs": [str(path) for path in self.photographs]}

    @property
    def families(self) -> tuple[str, ...]:
        """Families of samples 0, 1, ..., in turn."""
        return tuple(FAMILIES) if self.family == "mixed" else (self.family,)

    @property
    def end_us(self) -> int:
        """When a window ends, after its scene's beginning [us]."""
        simulator = self.simulator()
        return round(simulator.settle_ms * 1000) + round(simulator.window_ms * 1000)

    def simulator(self) -> SimulatorConfig:
        """The simulator's own settings; textures come apart."""
        return SimulatorConfig(
            family=self.family, camera=self.camera, sensor=self.sensor, bins=self.bins, window_ms=self.window_ms
        )

    def photograph_files(self) -> tuple[Path, ...]:
        """The photographs of this split.

        Raises:
            ValueError: a folder is missing, or they are too few to be shared out.
        """
        return split_photographs(self.photographs, self.split) if self.photographs else ()


def parse_camera(text: str) -> Camera:
    """A camera by its sensor's name, `davis346`, at a part of its size, `davis346/2`, or at any, `davis346@172x130`.

    `172x130` alone is the sensor whose shape is nearest, at that size.

    Raises:
        ValueError: it is none of these, or no sensor has such a shape.
    """
    name, at, size = text.partition("@")
    whole, _, divisor = name.partition("/")
    if divisor:
        found = camera(whole)
        if at or not divisor.isdigit() or not int(divisor):
            raise ValueError(f"camera {text!r}: what follows / is a whole number, as in {whole}/2")
        return found.scaled(found.width // int(divisor), found.height // int(divisor))
    numbers = (size if at else name).split("x")
    if len(numbers) == 2 and all(number.isdigit() for number in numbers):
        width, height = map(int, numbers)
        if at:
            return camera(whole).scaled(width, height)
        if not width or not height:
            raise ValueError(f"camera {text!r} has no pixels")
        off = {key: abs(math.log(width / height * each.height / each.width)) for key, each in CAMERAS.items()}
        nearest = min(off, key=lambda key: off[key])
        if off[nearest] > _ASPECT_TOLERANCE:
            raise ValueError(
                f"camera {text!r} has the shape of none of {', '.join(CAMERAS)}; name one, as in {nearest}@{text}"
            )
        return CAMERAS[nearest].scaled(width, height)
    if at:
        raise ValueError(f"camera {text!r}: what follows @ is WIDTHxHEIGHT")
    return camera(name)


def split_photographs(folders: Sequence[Path], split: str) -> tuple[Path, ...]:
    """Photographs of a split: files are put in the order of a hash of their names, then shared out.

    A photograph of one name in two folders is in one split only.

    Raises:
        ValueError: a folder is missing, or there are less than three different photographs.
    """
    by_name: dict[str, list[Path]] = {}
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder of photographs")
        for path in sorted(folder.iterdir()):
            if path.suffix.lower() in _SUFFIXES and path.is_file():
                by_name.setdefault(path.name, []).append(path)
    names = sorted(by_name, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) < 3:
        raise ValueError(
            f"{', '.join(map(str, folders))}: {len(names)} photograph(s) ({', '.join(sorted(_SUFFIXES))}); at least 3 "
            "are needed, so that train, validation and test share none"
        )
    held = max(1, round(_HELD_OUT * len(names)))
    part = {"validation": names[:held], "test": names[held : 2 * held], "train": names[2 * held :]}[split]
    return tuple(path for name in part for path in by_name[name])


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
        made = self._simulator(number).sample(config.group, number)
        # Torch to numpy: [B, T, 2, H, W], [B, H, W], [B, H, W].
        spikes, depth = made.spikes.cpu().numpy(), made.depth[:, 0].cpu().numpy()
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
                    sequence=config.families[index % len(config.families)],
                    index=index,
                    frame=frame[b],
                    intrinsics=np.array(config.camera.k, np.float64).reshape(3, 3),
                )
            )
        self._groups[number] = samples
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return samples

    def _simulator(self, group: int) -> Simulator:
        config = self.config
        number = group * config.group // config.texture_block % config.texture_sets
        if number not in self._simulators:
            seed = self._seed(number)
            atlas = _atlas(seed, self._photographs, self.device)
            # Batches count over the whole data set, so that a seed for all texture sets gives no scene twice.
            self._simulators[number] = Simulator(config.simulator(), self._seed(-1), self.device, atlas)
            while len(self._simulators) > _SETS_KEPT:
                self._simulators.popitem(last=False)
        self._simulators.move_to_end(number)
        return self._simulators[number]

    def _seed(self, stream: int) -> int:
        """A seed of 63 bits for each texture set from 0, and for scenes at -1."""
        key = [self.config.seed, SPLIT_NAMES.index(self.config.split), stream + 1]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


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
        self._source = source

    @cached_property
    def indices(self) -> np.ndarray:
        """Numbers of the family's samples."""
        return self.all_indices

    @property
    def all_indices(self) -> np.ndarray:
        """The same: each has its events."""
        families = self._source.config.families
        return np.arange(families.index(self.name), self._source.config.samples, len(families), dtype=np.int64)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the camera [px]."""
        return self._source.config.camera.height, self._source.config.camera.width

    def read_depth(self, index: int) -> np.ndarray:
        """Depth of a number, float32 [H, W] metres, NaN where there is nothing."""
        return self.read(index).depth

    def read(self, index: int) -> Sample:
        """The sample of a number."""
        sample = self._source.read(index)
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
            self.source = SimulatedSource(config, device)
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
        return f"{super().describe()}\n  split {config.split}, seed {config.seed}; procedural textures, {textures}"


def read_description(path: Path) -> SimulatedConfig:
    """Read a description: a JSON or YAML file with the keys of `SimulatedConfig`.

    Raises:
        DatasetError: it cannot be read, a key is unknown, or a value makes no sense.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        why = f"the description cannot be read ({' '.join(str(error).split())})"
        raise broken("simulation", path, why, "write it as JSON or YAML") from None
    if not isinstance(values, dict):
        raise broken("simulation", path, "the description holds no keys", "write it as `key: value`")
    try:
        return SimulatedConfig.from_dict(values, path.parent)
    except DatasetError:
        raise
    except (ValueError, TypeError) as error:
        raise broken("simulation", path, str(error), "correct the description") from None


def _part(kind: type, name: str, values: Any) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}={values!r} is no mapping of {', '.join(known)}")
    for key in values:
        if key not in known:
            raise ValueError(f"{name}: unknown key {key!r}; known are {', '.join(known)}")
    return kind(**values)
