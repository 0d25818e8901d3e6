"""Readers of data sets, real and simulated: each gives the same sample, and says what is wrong with its files."""

from sdt_distill.datasets.bank import BankDataset, BankSummary, write_bank
from sdt_distill.datasets.errors import DatasetError
from sdt_distill.datasets.registry import FORMATS, detect, open_dataset
from sdt_distill.datasets.sample import Dataset, Sample, SampleConfig, SequenceDataset, SequenceReader
from sdt_distill.datasets.splits import SPLITS

__all__ = [
    "FORMATS",
    "SPLITS",
    "BankDataset",
    "BankSummary",
    "Dataset",
    "DatasetError",
    "Sample",
    "SampleConfig",
    "SequenceDataset",
    "SequenceReader",
    "detect",
    "open_dataset",
    "write_bank",
]
