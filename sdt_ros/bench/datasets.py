"""`sdt bench datasets`: samples a second from a DSEC-layout recording, against h5py slices binned by numpy.

The recording is written for the purpose: DSEC's files, compression and resolution, at an event rate to choose. Both
sides read the same windows and disparities; the peer does what DSEC's examples do in numpy, without any check.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sdt_ros.bench.measure import machine, median_seconds

if TYPE_CHECKING:
    from sdt_distill.datasets import SequenceDataset

_HEIGHT, _WIDTH, _WINDOW_US, _BINS = 480, 640, 50_000, 4
_DISPARITY_EVERY_US = 100_000


@dataclass(frozen=True)
class DatasetsResult:
    """Figures of one run.

    Attributes:
        samples: samples in a round.
        events_per_window: mean number of events in a window.
        samples_s: ours, samples a second in one process, without frames.
        samples_s_frames: the same with frames of 1440x1080 warped to the events.
        samples_s_workers: ours without frames, by a data loader with two worker processes.
        peer_samples_s: the peer's, in one process, without frames.
        ratio: ours over the peer's, both in one process without frames.
    """

    samples: int
    events_per_window: float
    samples_s: float
    samples_s_frames: float
    samples_s_workers: float
    peer_samples_s: float
    ratio: float


def add_parser(benchmarks: Any) -> None:
    """Add `bench datasets` to the command line."""
    parser: argparse.ArgumentParser = benchmarks.add_parser(
        "datasets",
        help="samples a second from a DSEC-layout recording",
        description="Samples a second (spikes [4, 2, 480, 640] and depth) from a recording in DSEC's layout, written "
        "for the purpose to a temporary folder, beside h5py slices that numpy rectifies and bins.",
    )
    parser.add_argument("--rate", type=float, default=5.0, metavar="MEV", help="million events a second (5)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="duration of the recording (2)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs, of which the median counts (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run `sdt bench datasets`; returns the exit code."""
    if args.rounds < 1 or not 0.01 <= args.rate <= 100 or not 0.3 <= args.seconds <= 60:
        print("sdt bench datasets: --rounds from 1, --rate 0.01 to 100, --seconds 0.3 to 60", file=sys.stderr)
        return 2
    try:
        result = measure(args.rate, args.seconds, args.rounds)
    except ImportError as error:
        print(f"sdt bench datasets: {error.name} is missing: pip install 'sdt_ros[datasets]'", file=sys.stderr)
        return 1
    print(f"{machine()}; median of {args.rounds} runs of {result.samples} samples")
    print(f"640x480, 50 ms windows of {result.events_per_window:.0f} events, 4 bins, blosc zstd as DSEC's")
    print(f"  one process               {result.samples_s:8.1f} samples/s")
    print(f"  two workers               {result.samples_s_workers:8.1f} samples/s")
    print(f"  one process, with frames  {result.samples_s_frames:8.1f} samples/s")
    print(f"  h5py and numpy            {result.peer_samples_s:8.1f} samples/s; ratio {result.ratio:.2f}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    return 0


def measure(rate_mev_s: float, seconds: float, rounds: int) -> DatasetsResult:
    """Write a recording and time how it is read.

    Args:
        rate_mev_s: million events a second.
        seconds: duration of the recording.
        rounds: runs of each side, of which the median counts.

    Raises:
        ImportError: h5py or hdf5plugin is missing.
    """
    from sdt_distill.datasets import SampleConfig, open_dataset

    with TemporaryDirectory(prefix="sdt_bench_") as root:
        folder = Path(root, "zurich_city_00_a")
        write_recording(folder, rate_mev_s, seconds)
        plain = open_dataset(root, "dsec", SampleConfig(frames=False))
        framed = open_dataset(root, "dsec", SampleConfig(frames=True))
        peer = _numpy_reader(folder)
        indices = plain.readers[0].indices.tolist()
        for k, index in enumerate(indices):  # both sides must agree before they are compared
            if not np.array_equal(plain[k].spikes, peer(index)[0]):
                raise AssertionError(f"the peer's spikes of disparity {index} differ")
        candidates: dict[str, Callable[[], float]] = {
            "ours": lambda: _timed(lambda: [plain[k] for k in range(len(plain))]),
            "frames": lambda: _timed(lambda: [framed[k] for k in range(len(framed))]),
            "workers": lambda: _loaded(plain),
            "peer": lambda: _timed(lambda: [peer(index) for index in indices]),
        }
        spent = median_seconds(candidates, rounds, "datasets")
        speed = {name: len(plain) / value for name, value in spent.items()}
    return DatasetsResult(
        samples=len(indices),
        events_per_window=rate_mev_s * _WINDOW_US,
        samples_s=speed["ours"],
        samples_s_frames=speed["frames"],
        samples_s_workers=speed["workers"],
        peer_samples_s=speed["peer"],
        ratio=speed["ours"] / speed["peer"],
    )


def write_recording(folder: Path, rate_mev_s: float, seconds: float) -> None:
    """Write a recording in DSEC's layout, with events at random and frames and disparities as smooth as a road's."""
    import h5py
    import hdf5plugin
    import yaml

    rng = np.random.default_rng(0)
    count, duration_us = int(rate_mev_s * 1e6 * seconds), int(seconds * 1e6)
    t = np.sort(rng.integers(0, duration_us, count)).astype(np.uint32)
    blosc = hdf5plugin.Blosc(cname="zstd", clevel=1)
    (folder / "events/left").mkdir(parents=True)
    with h5py.File(folder / "events/left/events.h5", "w") as file:
        chunks = (min(count, 1 << 15),)
        file.create_dataset("events/t", data=t, chunks=chunks, **blosc)
        for key, most, dtype in (("x", _WIDTH, "u2"), ("y", _HEIGHT, "u2"), ("p", 2, "u1")):
            file.create_dataset(f"events/{key}", data=rng.integers(0, most, count, dtype), chunks=chunks, **blosc)
        milliseconds = np.arange(0, duration_us, 1000)
        file.create_dataset("ms_to_idx", data=np.searchsorted(t, milliseconds).astype("u8"), **blosc)
        file.create_dataset("t_offset", data=np.int64(0))
    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH].astype(np.float32)
    with h5py.File(folder / "events/left/rectify_map.h5", "w") as file:
        file.create_dataset("rectify_map", data=np.stack([columns * 1.01 - 3.2, rows * 1.01 - 2.4], -1), **blosc)
    for place in ("disparity/event", "images/left/rectified", "calibration"):
        (folder / place).mkdir(parents=True)
    stamps = range(0, duration_us + 1, _DISPARITY_EVERY_US)
    disparity = Image.fromarray((rows * 20 + 512).astype(np.uint16))
    frame = Image.fromarray(np.add.outer(np.arange(1080), np.arange(1440)).astype(np.uint8)).convert("RGB")
    for k in range(len(stamps)):
        disparity.save(folder / f"disparity/event/{2 * k:06d}.png")
        frame.save(folder / f"images/left/rectified/{k:06d}.png", compress_level=1)
    for place in ("disparity", "images"):
        (folder / place / "timestamps.txt").write_text("".join(f"{stamp}\n" for stamp in stamps))
    eye = np.eye(3).tolist()
    content = {
        "intrinsics": {
            "camRect0": {"camera_matrix": [560.0, 560.0, 320.0, 240.0]},
            "camRect1": {"camera_matrix": [1150.0, 1150.0, 720.0, 540.0]},
        },
        "extrinsics": {"R_rect0": eye, "R_rect1": eye, "T_10": np.eye(4).tolist()},
        "disparity_to_depth": {"cams_03": [[1, 0, 0, -320], [0, 1, 0, -240], [0, 0, 0, 560], [0, 0, 1.67, 0]]},
    }
    (folder / "calibration/cam_to_cam.yaml").write_text(yaml.safe_dump(content))


def _numpy_reader(folder: Path) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """The peer: spikes and depth of a disparity's number."""
    import h5py

    file = h5py.File(folder / "events/left/events.h5")
    with h5py.File(folder / "events/left/rectify_map.h5") as maps:
        rectify = maps["rectify_map"][:]
    stamps = np.loadtxt(folder / "disparity/timestamps.txt", dtype=np.int64)

    def read(number: int) -> tuple[np.ndarray, np.ndarray]:
        end = int(stamps[number // 2])
        table = file["ms_to_idx"]
        first = int(table[(end - _WINDOW_US) // 1000])
        last = int(table[end // 1000]) if end // 1000 < len(table) else len(file["events/t"])
        t, x, y, p = (file[f"events/{key}"][first:last] for key in "txyp")
        xy = np.rint(rectify[y, x]).astype(np.int64)
        inside = ((xy >= 0) & (xy < (_WIDTH, _HEIGHT))).all(1)
        k = (t.astype(np.int64) - (end - _WINDOW_US)) * _BINS // _WINDOW_US
        spikes = np.zeros((_BINS, 2, _HEIGHT, _WIDTH), np.uint8)
        spikes[k[inside], p[inside].astype(np.intp), xy[inside, 1], xy[inside, 0]] = 1
        disparity = np.asarray(Image.open(folder / f"disparity/event/{number:06d}.png")).astype(np.float32) / 256
        return spikes, np.where(disparity > 0, 560 / (1.67 * disparity), np.nan)

    return read


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _loaded(dataset: SequenceDataset) -> float:
    """Seconds for all samples from a data loader, its start not counted."""
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(dataset, num_workers=2, collate_fn=list, persistent_workers=True)  # type: ignore[arg-type]
    for _ in loader:  # starts the workers, opens their files
        pass
    return _timed(lambda: [None for _ in loader])
