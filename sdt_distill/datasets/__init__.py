"""Readers of real data sets: each gives the same sample, and says what is wrong with its files."""

from sdt_distill.datasets.errors import DatasetError
from sdt_distill.datasets.registry import FORMATS, detect, open_dataset
from sdt_distill.datasets.sample import Dataset, Sample, SampleConfig, SequenceDataset, SequenceReader
from sdt_distill.datasets.splits import SPLITS

__all__ = [
    "FORMATS",
    "SPLITS",
    "Dataset",
    "DatasetError",
    "Sample",
    "SampleConfig",
    "SequenceDataset",
    "SequenceReader",
    "detect",
    "open_dataset",
]
