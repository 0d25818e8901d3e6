"""Descriptions of simulated data sets: what is simulated, with which camera, and who gets which photographs."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdt_ros.simulation.camera import CAMERAS, Camera, camera
from sdt_ros.simulation.families import FAMILIES, MIXED
from sdt_ros.simulation.randomise import Randomisation
from sdt_ros.simulation.sensor import SensorConfig
from sdt_ros.simulation.simulator import SimulatorConfig
from sdt_ros.text_files import TextFileError, read_json, read_yaml

from .errors import DatasetError, broken

SPLIT_NAMES = ("train", "validation", "test")
"""Parts with seeds and textures of their own."""

RENDERERS = ("sdt", "mujoco")
"""Who renders: our own simulator, or MuJoCo with a plain event model, see `datasets.mujoco`."""

_HELD_OUT = 0.15  # of the photographs, for validation and again for test
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
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
        randomisation: what else differs from sample to sample, such as lens, sensor and light; None for nothing.
        group: samples that are simulated together; they share one stream of noise, so others make other samples.
        texture_sets: different sets of textures; with more, reading in random order has to make them again and again.
        texture_block: samples in a row that share a set.
        renderer: one of `RENDERERS`.
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
    randomisation: Randomisation | None = None
    group: int = 8
    texture_sets: int = 4
    texture_block: int = 1024
    renderer: str = RENDERERS[0]

    def __post_init__(self) -> None:
        if self.renderer not in RENDERERS:
            raise ValueError(f"renderer {self.renderer!r} is unknown; choose one of {', '.join(RENDERERS)}")
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
        if self.family == "mixed" and self.group % len(MIXED):
            raise ValueError(f"group={self.group} must be a multiple of {len(MIXED)}, the families that are mixed")
        self.require_groups("texture_block", self.texture_block)
        self.simulator()  # refuses what the simulator refuses

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: Path = Path()) -> SimulatedConfig:
        """From a description.

        Args:
            values: keys as the attributes; `camera` as `parse_camera` reads it or a mapping, `sensor` a mapping,
                `randomisation` a mapping of ranges or true for those of `Randomisation`, `photographs` one path or
                several.
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
        if "randomisation" in given:
            given["randomisation"] = _randomisation(given["randomisation"])
        if "photographs" in given:
            paths = given["photographs"] or ()
            paths = [paths] if isinstance(paths, str | Path) else paths
            given["photographs"] = tuple(base / Path(path) for path in paths)
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `from_dict` reads it."""
        return {**dataclasses.asdict(self), "photographs": [str(path) for path in self.photographs]}

    def require_groups(self, name: str, samples: int) -> None:
        """Refuse a number of samples that is no multiple of those made together.

        Raises:
            ValueError: that is so, or it is below 1.
        """
        if samples < 1 or samples % self.group:
            fitting = max(1, -(-samples // self.group)) * self.group
            raise ValueError(
                f"{name}={samples} must be a multiple of {self.group}, the samples made together: give {fitting}"
            )

    @property
    def families(self) -> tuple[str, ...]:
        """Families of samples 0, 1, ..., in turn."""
        return MIXED if self.family == "mixed" else (self.family,)

    @property
    def end_us(self) -> int:
        """When a window ends, after its scene's beginning [us]."""
        simulator = self.simulator()
        return round(simulator.settle_ms * 1000) + round(simulator.window_ms * 1000)

    def simulator(self) -> SimulatorConfig:
        """The simulator's own settings; textures come apart."""
        return SimulatorConfig(
            family=self.family,
            camera=self.camera,
            sensor=self.sensor,
            bins=self.bins,
            window_ms=self.window_ms,
            randomisation=self.randomisation,
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


def read_description(path: Path) -> SimulatedConfig:
    """Read a description: a JSON or YAML file with the keys of `SimulatedConfig`.

    Raises:
        DatasetError: it cannot be read, a key is unknown, or a value makes no sense.
    """
    try:
        values = read_json(path) if path.suffix.lower() == ".json" else read_yaml(path)
    except (OSError, TextFileError) as error:
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


def _randomisation(value: Any) -> Randomisation | None:
    if value is None or isinstance(value, bool):
        return Randomisation() if value else None
    # JSON and YAML have lists for ranges.
    ranges = {key: tuple(pair) if isinstance(pair, list) else pair for key, pair in dict(value).items()}
    return _part(Randomisation, "randomisation", ranges)


def _part(kind: type, name: str, values: Any) -> Any:
    known = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}={values!r} is no mapping of {', '.join(known)}")
    for key in values:
        if key not in known:
            raise ValueError(f"{name}: unknown key {key!r}; known are {', '.join(known)}")
    return kind(**values)
