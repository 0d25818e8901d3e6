"""A bank: simulated samples kept on disk, so that training reads them as often as it likes, in any order."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from sdt_ros.version import package_version

from .bank_files import (
    DEPTH_ERROR,
    Bank,
    ShardWriter,
    identity_key,
    remove_leftovers,
    scan_shards,
    write_manifest,
)
from .errors import DatasetError
from .sample import Sample, SampleConfig, SequenceDataset, SequenceReader
from .simulated_config import RENDERERS

if TYPE_CHECKING:
    from .simulated import SimulatedSource
    from .simulated_config import SimulatedConfig

SHARD = 256
"""Samples of a shard."""


class BankSequence(SequenceReader):
    """The samples of one family in a bank."""

    format = "simulation"
    parts = ("files", "indices")

    def __init__(self, bank: Bank, name: str, config: SampleConfig) -> None:
        super().__init__(bank.folder, name, config)
        self.bank = bank

    @property
    def files(self) -> None:
        """Nothing; DatasetError where a file of the bank is missing or cut off."""
        self.bank.check_files()

    @cached_property
    def indices(self) -> np.ndarray:
        """Numbers of the family's samples."""
        return self.all_indices

    @property
    def all_indices(self) -> np.ndarray:
        """The same: each has its events."""
        return np.flatnonzero(self.bank.families == self.name).astype(np.int64)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the samples [px]."""
        return self.bank.size

    def read_depth(self, index: int) -> np.ndarray:
        """Depth of a number, float32 [H, W] metres, NaN where unknown."""
        return self.bank.depth(index)

    def read(self, index: int) -> Sample:
        """The sample of a number."""
        return self.bank.read(index, self.config.frames)

    def check_content(self) -> Iterator[DatasetError]:
        """Yield the files whose checksum is wrong."""
        yield from self.bank.damaged_files()

    def close(self) -> None:
        """Let go of the files."""
        self.bank.close()


class BankDataset(SequenceDataset):
    """The samples of a bank in the order in which they were made, families in turn.

    Args:
        folder: of the bank.
        split: what the bank's samples must be of; anything if None.
        families: only these; all if None.
        config: must ask for what the bank holds; None takes it as it is, with frames.

    Raises:
        DatasetError: it is no bank, not finished or broken, of another split or with other windows.
        ValueError: the bank has none of such a family.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str | None = None,
        families: Sequence[str] | None = None,
        config: SampleConfig | None = None,
    ) -> None:
        readers = bank_readers(Path(folder), config, families)
        self.bank = readers[0].bank
        if split is not None and split != self.bank.split:
            raise DatasetError(
                f"simulation: {folder}: the bank is of the split {self.bank.split}, not {split}; open another one, or "
                f"write one with --split {split}"
            )
        super().__init__(readers)
        self._order = np.sort(np.concatenate([reader.indices for reader in readers]))
        self._frames = readers[0].config.frames

    @property
    def split(self) -> str:
        """The split that all samples are of."""
        return self.bank.split

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Sample:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        return self.bank.read(int(self._order[position]), self._frames)

    def describe(self) -> str:
        """What there is, in words."""
        config = self.bank.config
        kind = f"a bank of the split {self.split}, seed {config['seed']}, family {config['family']}"
        if config.get("randomisation"):
            kind += ", lens, sensor and light drawn for each sample"
        if config.get("renderer", RENDERERS[0]) != RENDERERS[0]:
            kind += f", rendered by {config['renderer']}"
        return f"{super().describe()}\n  {kind}"


def bank_readers(
    folder: Path, config: SampleConfig | None = None, families: Sequence[str] | None = None
) -> list[BankSequence]:
    """The families of a bank, each as a recording; only the manifest is read.

    Raises:
        DatasetError: the manifest is missing or broken, or the windows are not those asked for.
        ValueError: the bank has none of such a family.
    """
    bank = Bank(folder)
    config = config or SampleConfig(bank.window_ms, bank.bins)
    if (config.bins, config.window_us) != (bank.bins, round(bank.window_ms * 1000)):
        raise DatasetError(
            f"simulation: {folder}: the bank holds windows of {bank.window_ms:g} ms in {bank.bins} bins, not of "
            f"{config.window_ms:g} ms in {config.bins}; ask for these, or write another bank"
        )
    there = list(dict.fromkeys(bank.families.tolist()))
    for name in families or ():
        if name not in there:
            known = ", ".join(there)
            raise ValueError(f"simulation: {folder} has no samples of the family {name!r}; there are {known}")
    if not there:
        raise DatasetError(f"simulation: {folder}: the bank is empty; write it again")
    return [BankSequence(bank, name, config) for name in there if families is None or name in families]


@dataclasses.dataclass(frozen=True, slots=True)
class BankSummary:
    """What a run of `write_bank` did.

    Attributes:
        samples: asked for.
        present: samples that are there now, the run's own and those of others.
        written: samples that this run made.
        finished: whether the bank is whole and can be read.
        seconds: that it took.
        samples_s: samples a second of this run; 0 where it made none.
        bytes: on disk, of what is there.
        depth_error: greatest relative error of the kept depths.
    """

    samples: int
    present: int
    written: int
    finished: bool
    seconds: float
    samples_s: float
    bytes: int
    depth_error: float


def write_bank(
    folder: str | Path,
    config: SimulatedConfig,
    samples: int | None = None,
    *,
    shard: int | None = None,
    part: int = 0,
    parts: int = 1,
    device: str = "cpu",
    workers: int = 1,
    progress: bool = False,
) -> BankSummary:
    """Write a bank, or go on with one: shards that are there stay, so a stopped run loses one shard at most.

    Args:
        folder: of the bank.
        config: what is simulated.
        samples: how many the bank shall have; `config.samples` if None. More than before makes it grow.
        shard: samples of a shard, a multiple of `config.group`; `SHARD`, or fewer for large cameras, if None.
        part: which shards are this process's: those with number % parts == part.
        parts: processes, of this machine or others, that share the work.
        device: where to simulate.
        workers: processes that this one starts.
        progress: whether to show a bar.

    Raises:
        DatasetError: there is a bank of other settings, or photographs are missing.
        ValueError: an argument makes no sense.
        OSError: the disk is full, or the folder cannot be written.
    """
    from .simulated import source_of

    folder = Path(folder)
    samples = config.samples if samples is None else samples
    shard = _shard(config) if shard is None else shard
    if samples < 1 or workers < 1 or not 0 <= part < parts:
        raise ValueError(
            f"samples={samples} and workers={workers} must be positive, and part={part} one of 0 to {parts - 1}"
        )
    config.require_groups("shard", shard)
    began = time.perf_counter()
    source = source_of(config, device)
    identity = _identity(config, shard)
    key = identity_key(identity)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    there = scan_shards(folder, key)
    # A bank never shrinks: what is there beyond the samples asked for stays in it.
    most = max([samples, *(entry["number"] * shard + entry["samples"] for entry in there.values())])
    plan = {k: min(shard, most - k * shard) for k in range(-(-most // shard))}
    todo = [k for k, n in plan.items() if k % parts == part and (k not in there or there[k]["samples"] < n)]
    written = sum(plan[k] for k in todo)
    with tqdm(total=written, desc=f"bank {folder.name}", unit="sample", disable=not progress, smoothing=0.1) as bar:
        if workers == 1:
            for k in todo:
                _write_shard(folder, k, plan[k], shard, source, key, bar)
        else:
            _write_in_processes(folder, {k: plan[k] for k in todo}, shard, source, key, workers, bar)
    there = scan_shards(folder, key)
    finished = all(k in there and there[k]["samples"] >= n for k, n in plan.items())
    if finished:
        content = {
            "written_by": f"sdt_ros {package_version()}",
            "config": {**config.to_dict(), "samples": most},
            "identity": identity,
            "end_us": config.end_us,
            "depth": {"relative_error": DEPTH_ERROR, "unit": "m"},
        }
        write_manifest(folder, content, [there[k] for k in sorted(there)])
    seconds = time.perf_counter() - began
    return BankSummary(
        samples=samples,
        present=sum(entry["samples"] for entry in there.values()),
        written=written,
        finished=finished,
        seconds=seconds,
        samples_s=written / seconds if written else 0.0,
        bytes=sum(file["bytes"] for entry in there.values() for file in entry["files"].values()),
        depth_error=DEPTH_ERROR,
    )


def _shard(config: SimulatedConfig) -> int:
    """Samples of a shard: fewer of large cameras, so that little is lost when a run is stopped."""
    pixels = config.camera.width * config.camera.height
    return max(1, min(SHARD, 256_000_000 // (4 * pixels)) // config.group) * config.group


def _identity(config: SimulatedConfig, shard: int) -> dict[str, Any]:
    """All that decides what a bank's samples are: not their number, nor where the photographs lie."""
    identity = config.to_dict()
    del identity["samples"]
    identity["photographs"] = sorted(f"{path.name}:{path.stat().st_size}" for path in config.photograph_files())
    return {**identity, "shard": shard}


def _write_shard(folder: Path, k: int, count: int, shard: int, source: SimulatedSource, key: str, bar: Any) -> None:
    config = source.config
    writer = ShardWriter(folder, k, count, config.bins, (config.camera.height, config.camera.width), key)
    try:
        for start in range(0, count, config.group):
            members = source.group((k * shard + start) // config.group)[: count - start]
            for sample in members:
                writer.add(sample)
            if bar is not None:
                bar.update(len(members))
        writer.finish()
    except BaseException:  # a full disk, or Ctrl-C: what is unfinished must not stay
        writer.discard()
        raise


_source: SimulatedSource | None = None  # of a worker process: keeps its textures from shard to shard


def _begin_worker(source: SimulatedSource, threads: int) -> None:
    global _source
    import torch

    torch.set_num_threads(threads)
    _source = source


def _work(folder: Path, k: int, count: int, shard: int, key: str) -> int:
    assert _source is not None
    _write_shard(folder, k, count, shard, _source, key, None)
    return count


def _write_in_processes(
    folder: Path, counts: dict[int, int], shard: int, source: SimulatedSource, key: str, workers: int, bar: Any
) -> None:
    import os

    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _begin_worker, (source, threads)
    ) as pool:
        futures = [pool.submit(_work, folder, k, count, shard, key) for k, count in counts.items()]
        try:
            for future in concurrent.futures.as_completed(futures):
                bar.update(future.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
