"""Which format a folder has, and its data set."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from sdt_ros.text_files import TextFileError, read_yaml

from . import bag, bank, dense, dsec, mvsec
from .bank_files import find_banks
from .errors import DatasetError
from .sample import SampleConfig, SequenceDataset, SequenceReader
from .splits import SPLITS

if TYPE_CHECKING:
    from .simulated import SimulatedDataset

_log = logging.getLogger(__name__)

FORMATS = ("dsec", "mvsec", "dense", "dense-spike", "bag", "simulation")
"""Names of the formats."""

LAYOUTS = """\
  dsec         SEQUENCE/events/left/events.h5, SEQUENCE/disparity/event/*.png
  mvsec        NAME_data.hdf5, NAME_gt.hdf5
  dense        SEQUENCE/events/data/events_*.npy, SEQUENCE/depth/data/depth_*.npy
  dense-spike  SEQUENCE/spike/r128/spike_*.npy, SEQUENCE/depth/data/depth_*.npy
  bag          metadata.yaml, or a .mcap or .db3 file
  simulation   bank.json and shard-*/ (sdt-distill data simulate), or a .json or .yaml file with `family: ...`"""

_DESCRIPTIONS = {".json", ".yaml", ".yml"}


def find_readers(root: Path, name: str, config: SampleConfig | None = None) -> list[SequenceReader]:
    """The recordings of a format at or below a path; of a simulation only the description is read, of others nothing.

    Raises:
        DatasetError: a simulation's description is broken, or its windows are not those of `config`.
        ValueError: the format is unknown.
    """
    if name == "simulation":
        return list(_simulations(root, config))
    config = config or SampleConfig()
    if name == "dsec":
        return [dsec.DsecSequence(p, p.resolve().name, config) for p in dsec.find_sequences(root)]
    if name == "mvsec":
        return [mvsec.MvsecSequence(p, stem, config) for p, stem in mvsec.find_sequences(root)]
    if name == "dense":
        return [dense.DenseSequence(p, p.resolve().name, config) for p in dense.find_sequences(root, "events/data")]
    if name == "dense-spike":
        found = dense.find_sequences(root, "spike/r128")
        return [dense.DenseSpikeSequence(p, p.resolve().name, config) for p in found]
    if name == "bag":
        return [bag.BagSequence(p, bag.name_of(p), config) for p in bag.find_bags(root)]
    raise ValueError(f"unknown data set {name!r}; known are {', '.join(FORMATS)}")


def detect(root: Path) -> str | None:
    """The format of what lies at or below a path, None where it is none of the known."""
    if find_banks(root) or _is_description(root):
        return "simulation"
    # Spikes before events: DENSE-Spike may lie in the folders of DENSE.
    for name in ("dsec", "mvsec", "dense-spike", "dense", "bag"):
        if find_readers(root, name):
            return name
    # Depth without events is a broken recording of DENSE, not an unknown folder.
    return "dense" if dense.find_sequences(root, "depth/data") else None


def select(root: Path, name: str, config: SampleConfig | None = None, split: str | None = None) -> list[SequenceReader]:
    """The recordings of a format, all or those of a split; nothing but a simulation's description is read yet.

    Raises:
        DatasetError: there are none.
        ValueError: the format or the split is unknown.
    """
    if name == "simulation":
        return list(_simulations(root, config, split))
    config = config or SampleConfig()
    if not root.exists():
        raise DatasetError(f"{name}: there is nothing at {root}")
    readers = find_readers(root, name, config)
    if not readers and name == "dense":
        readers = [dense.DenseSequence(p, p.resolve().name, config) for p in dense.find_sequences(root, "depth/data")]
    if not readers:
        raise DatasetError(f"{name}: {root}: there is no recording of this layout; expected is\n{LAYOUTS}")
    if split is None:
        return _distinct(readers, root)
    if split not in SPLITS[name]:
        raise ValueError(f"{name} has no split {split!r}; known are {', '.join(SPLITS[name]) or 'none'}")
    chosen = [reader for reader in readers if reader.name in SPLITS[name][split]]
    if not chosen:
        raise DatasetError(
            f"{name}: {root}: none of the {len(readers)} recordings is in the split {split}: there are "
            f"{', '.join(reader.name for reader in readers[:8])}; wanted are {', '.join(SPLITS[name][split][:8])}, ..."
        )
    if missing := missing_recordings(name, split, [reader.name for reader in chosen]):
        _log.warning("%s: %s: split %s lacks %s", name, root, split, ", ".join(missing))
    return _distinct(chosen, root)


def missing_recordings(name: str, split: str | None, sequences: Iterable[str]) -> list[str]:
    """Recordings of a published split that are not among some; scores without them are of another split."""
    wanted = SPLITS.get(name, {}).get(split or "", ())
    return sorted(set(wanted) - {PurePath(sequence).name for sequence in sequences})


def _distinct(readers: list[SequenceReader], root: Path) -> list[SequenceReader]:
    """The same, named by their path below the root where two have one name: names are groups of scores."""
    counts = Counter(reader.name for reader in readers)
    for reader in readers:
        if counts[reader.name] > 1 and reader.path != root:
            reader.name = reader.path.relative_to(root).as_posix()
    return readers


def open_dataset(
    root: str | Path, name: str | None = None, config: SampleConfig | None = None, split: str | None = None
) -> SequenceDataset:
    """Open a data set: everything but the samples is read and checked at once.

    Args:
        root: folder of the data set or of one recording, or a bag.
        name: one of `FORMATS`; what the folder looks like if None.
        config: window, bins, frames; if None those of a simulation's description, or 50 ms in 4 bins.
        split: a name of `SPLITS[name]`, or of a simulation `train`, `validation` or `test`; all recordings if None.

    Raises:
        DatasetError: it is none, or something in it is missing or broken.
        ValueError: unknown name or split.
    """
    root = Path(root)
    name = name or detect(root)
    if name is None:
        raise DatasetError(f"{root} is no data set that is known here; expected is\n{LAYOUTS}")
    if name == "simulation":
        if _is_description(root):
            return _described(root, config, split)
        if len(banks := find_banks(root)) == 1:
            return bank.BankDataset(banks[0], split, config=config)
    return SequenceDataset(select(root, name, config, split))


def _is_description(path: Path) -> bool:
    if not path.is_file() or path.suffix.lower() not in _DESCRIPTIONS:
        return False
    try:
        content = read_yaml(path)  # JSON is YAML
    except TextFileError:
        return False
    return isinstance(content, dict) and "family" in content


def _described(path: Path, config: SampleConfig | None, split: str | None) -> SimulatedDataset:
    """The data set of a description; a split that is asked for comes before the file's own."""
    from .simulated import SimulatedDataset  # imports torch
    from .simulated_config import read_description

    found = read_description(path)
    if split is not None:
        found = dataclasses.replace(found, split=split)
    if config is not None:
        found = dataclasses.replace(found, window_ms=config.window_ms, bins=config.bins)
    return SimulatedDataset(found, frames=config is None or config.frames, path=path)


def _simulations(root: Path, config: SampleConfig | None, split: str | None = None) -> Sequence[SequenceReader]:
    """The families of a description, or of the banks at or in a folder."""
    if root.is_file():
        return _described(root, config, split).readers
    banks = find_banks(root)
    if not banks:
        raise DatasetError(f"simulation: {root}: there is no bank and no description; expected is\n{LAYOUTS}")
    by_bank = {path: bank.bank_readers(path, config) for path in banks}
    every = [reader for readers in by_bank.values() for reader in readers]
    chosen = [reader for reader in every if split is None or reader.bank.split == split]
    if not chosen:
        have = ", ".join(f"{path.name}: {readers[0].bank.split}" for path, readers in by_bank.items() if readers)
        raise DatasetError(f"simulation: {root}: there is no bank of the split {split}; there are {have}")
    return chosen
