"""Which format a folder has, and its data set."""

from __future__ import annotations

from pathlib import Path

from . import bag, dense, dsec, mvsec
from .errors import DatasetError
from .sample import SampleConfig, SequenceDataset, SequenceReader
from .splits import SPLITS

FORMATS = ("dsec", "mvsec", "dense", "dense-spike", "bag")
"""Names of the formats."""

LAYOUTS = """\
  dsec         SEQUENCE/events/left/events.h5, SEQUENCE/disparity/event/*.png
  mvsec        NAME_data.hdf5, NAME_gt.hdf5
  dense        SEQUENCE/events/data/events_*.npy, SEQUENCE/depth/data/depth_*.npy
  dense-spike  SEQUENCE/spike/r128/spike_*.npy, SEQUENCE/depth/data/depth_*.npy
  bag          metadata.yaml, or a .mcap or .db3 file"""


def find_readers(root: Path, name: str, config: SampleConfig) -> list[SequenceReader]:
    """The recordings of a format at or below a path; nothing is read yet."""
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
        return [bag.BagSequence(p, p.resolve().stem, config) for p in bag.find_bags(root)]
    raise ValueError(f"unknown data set {name!r}; known are {', '.join(FORMATS)}")


def detect(root: Path) -> str | None:
    """The format of what lies at or below a path, None where it is none of the known."""
    config = SampleConfig()
    # Spikes before events: DENSE-Spike may lie in the folders of DENSE.
    for name in ("dsec", "mvsec", "dense-spike", "dense", "bag"):
        if find_readers(root, name, config):
            return name
    # Depth without events is a broken recording of DENSE, not an unknown folder.
    return "dense" if dense.find_sequences(root, "depth/data") else None


def select(root: Path, name: str, config: SampleConfig, split: str | None = None) -> list[SequenceReader]:
    """The recordings of a format, all or those of a published split; nothing is read yet.

    Raises:
        DatasetError: there are none.
        ValueError: the format or the split is unknown.
    """
    readers = find_readers(root, name, config)
    if not readers and name == "dense":
        readers = [dense.DenseSequence(p, p.resolve().name, config) for p in dense.find_sequences(root, "depth/data")]
    if not readers:
        raise DatasetError(f"{name}: {root}: there is no recording of this layout; expected is\n{LAYOUTS}")
    if split is None:
        return readers
    if split not in SPLITS[name]:
        raise ValueError(f"{name} has no split {split!r}; known are {', '.join(SPLITS[name]) or 'none'}")
    chosen = [reader for reader in readers if reader.name in SPLITS[name][split]]
    if not chosen:
        raise DatasetError(
            f"{name}: {root}: none of the {len(readers)} recordings is in the split {split}: there are "
            f"{', '.join(reader.name for reader in readers[:8])}; wanted are {', '.join(SPLITS[name][split][:8])}, ..."
        )
    return chosen


def open_dataset(
    root: str | Path, name: str | None = None, config: SampleConfig | None = None, split: str | None = None
) -> SequenceDataset:
    """Open a data set: everything but the samples is read and checked at once.

    Args:
        root: folder of the data set or of one recording, or a bag.
        name: one of `FORMATS`; what the folder looks like if None.
        config: window, bins, frames.
        split: a name of `SPLITS[name]`; all recordings if None.

    Raises:
        DatasetError: it is none, or something in it is missing or broken.
        ValueError: unknown name or split.
    """
    root = Path(root)
    name = name or detect(root)
    if name is None:
        raise DatasetError(f"{root} is no data set that is known here; expected is\n{LAYOUTS}")
    return SequenceDataset(select(root, name, config or SampleConfig(), split))
