"""How a bank of samples lies on disk: shards of plain .npy files, and one JSON that is written last.

    BANK/bank.json                     what the bank is, its shards with sizes and checksums
    BANK/shard-00000-256/spikes.npy    uint8 [256, bytes], a bit a cell of [T, 2, H, W]
                         depth.npy     uint16 [256, H, W], codes of the logarithm, 0 unknown
                         frame.npy     uint8 [256, H, W]
                         intrinsics.npy  float64 [256, 3, 3]
                         shard.json    its own description, so that a stopped run can go on

The depth codes keep 1 cm to 1000 km with an error of at most 0.014 %.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sdt_ros.text_files import TextFileError, read_json

from .errors import DatasetError, broken
from .files import folders
from .sample import Sample

FORMAT, VERSION = "sdt-bank", 1
MANIFEST = "bank.json"
_SHARD = "shard.json"
_MOST_BYTES = 64 << 20  # of a manifest: it lists every shard
_KIND = "simulation"  # the data set's name in messages

_LEAST_M, _MOST_M = 1e-2, 1e6
_STEP = float(np.log(_MOST_M / _LEAST_M) / 65534)  # of the logarithm, between two codes
DEPTH_ERROR = float(np.expm1(0.51 * _STEP))
"""Greatest relative error of a depth that is kept: half a code, and what float32 adds."""

_AGAIN = "delete its folder and write the bank again with the same arguments: only what is missing is made"


def encode_depth(depth: np.ndarray) -> np.ndarray:
    """Depth [m] to uint16 codes of the same shape; 0 for NaN and for what lies outside of 1 cm to 1000 km."""
    with np.errstate(invalid="ignore", divide="ignore"):
        place = np.log(depth.astype(np.float32) / np.float32(_LEAST_M)) * np.float32(1 / _STEP)
        known = (place >= 0) & (place <= 65534)
    return (np.where(known, np.rint(np.where(known, place, 0)) + 1, 0)).astype(np.uint16)


@cache
def _metres() -> np.ndarray:
    table = np.exp(np.arange(-1, 65535) * _STEP) * _LEAST_M
    table[0] = np.nan
    return table.astype(np.float32)


def decode_depth(codes: np.ndarray) -> np.ndarray:
    """Codes to depth float32 [m], NaN where unknown."""
    return np.asarray(_metres()[codes])


def layout(count: int, bins: int, size: tuple[int, int]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each array of a shard of `count` samples of size (height, width)."""
    height, width = size
    return {
        "spikes": ("|u1", (count, -(-bins * 2 * height * width // 8))),
        "depth": ("<u2", (count, height, width)),
        "frame": ("|u1", (count, height, width)),
        "intrinsics": ("<f8", (count, 3, 3)),
    }


def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """The first bytes of an .npy file."""
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out.getvalue()


def shard_name(number: int, count: int) -> str:
    """Name of a shard's folder; a short last one is replaced by a longer one when the bank grows."""
    return f"shard-{number:05d}-{count}"


class ShardWriter:
    """Writes one shard to a folder of another name, and gives it its own when it is whole.

    Args:
        bank: folder of the bank.
        number: of the shard.
        count: samples that it will have.
        bins: time bins of a sample.
        size: height and width of a sample [px].
        key: what tells this bank from others, see `identity_key`.
    """

    def __init__(self, bank: Path, number: int, count: int, bins: int, size: tuple[int, int], key: str) -> None:
        self._bank, self._number, self._count, self._key = bank, number, count, key
        self._temporary = bank / f".{shard_name(number, count)}.{socket.gethostname()}.{os.getpid()}"
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self._families: list[str] = []
        self._files: dict[str, Any] = {}
        self._sums: dict[str, int] = {}
        for name, (dtype, shape) in layout(count, bins, size).items():
            self._files[name] = (self._temporary / f"{name}.npy").open("wb")
            self._sums[name] = 0
            self._write(name, _header(dtype, shape))

    def add(self, sample: Sample) -> None:
        """Append a sample, which has a frame and intrinsics."""
        assert sample.frame is not None and sample.intrinsics is not None
        self._write("spikes", np.packbits(sample.spikes).tobytes())
        self._write("depth", encode_depth(sample.depth).astype("<u2").tobytes())
        self._write("frame", np.ascontiguousarray(sample.frame).tobytes())
        self._write("intrinsics", sample.intrinsics.astype("<f8").tobytes())
        self._families.append(sample.sequence)

    def finish(self) -> None:
        """Make the shard visible; where another process was faster, its shard stays."""
        assert len(self._families) == self._count
        sizes = {name: file.tell() for name, file in self._files.items()}
        for file in self._files.values():
            file.close()
        name = shard_name(self._number, self._count)
        entry = {
            "name": name,
            "number": self._number,
            "samples": self._count,
            "families": self._families,
            "files": {f"{part}.npy": {"bytes": sizes[part], "crc32": self._sums[part]} for part in self._files},
        }
        text = json.dumps({"key": self._key, **entry})
        (self._temporary / _SHARD).write_text(text, encoding="utf-8")
        try:
            self._temporary.rename(self._bank / name)
        except OSError:
            if not (self._bank / name / _SHARD).is_file():
                raise
            self.discard()

    def discard(self) -> None:
        """Remove what was written."""
        for file in self._files.values():
            with contextlib.suppress(OSError):  # on a full disk it tries once more to write
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        self._files[name].write(content)
        self._sums[name] = zlib.crc32(content, self._sums[name])


def identity_key(identity: Mapping[str, Any]) -> str:
    """A short name for all that decides what a bank's samples are."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def scan_shards(bank: Path, key: str) -> dict[int, dict[str, Any]]:
    """The finished shards by number, of several with one number the longest.

    Raises:
        DatasetError: a shard cannot be read, or is of a bank with other settings.
    """
    found: dict[int, dict[str, Any]] = {}
    for path in sorted(bank.glob(f"shard-*/{_SHARD}")):
        entry = _json(path, "the shard's description", _AGAIN)
        if entry.get("key") != key:
            raise broken(
                _KIND, path, "this shard was written with other settings",
                "write to another folder, or ask for what bank.json says",
            )  # fmt: skip
        try:
            entry = {name: entry[name] for name in ("name", "number", "samples", "families", "files")}
        except KeyError as error:
            raise broken(_KIND, path, f"the shard's description has no {error}", _AGAIN) from None
        if entry["number"] not in found or found[entry["number"]]["samples"] < entry["samples"]:
            found[entry["number"]] = entry
    return found


def remove_leftovers(bank: Path) -> None:
    """Remove shards that a process of this machine began and no longer runs to finish."""
    for path in bank.glob(f".shard-*.{socket.gethostname()}.*"):
        process = path.name.rpartition(".")[2]
        if not (process.isdigit() and Path("/proc", process).exists()):
            shutil.rmtree(path, ignore_errors=True)


def write_manifest(bank: Path, content: Mapping[str, Any], shards: Sequence[Mapping[str, Any]]) -> None:
    """Write `bank.json` at once, then remove the shards that longer ones replace."""
    manifest = {"format": FORMAT, "version": VERSION, **content, "shards": list(shards)}
    temporary = bank / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    temporary.replace(bank / MANIFEST)
    names = {shard["name"] for shard in shards}
    numbers = {shard["number"] for shard in shards}
    for path in bank.glob("shard-*-*"):
        part = path.name.split("-")[1]
        if path.name not in names and part.isdigit() and int(part) in numbers:
            shutil.rmtree(path, ignore_errors=True)


def is_bank(path: Path) -> bool:
    """Whether a folder is a bank, or one that is being written."""
    return (path / MANIFEST).is_file() or next(path.glob("*shard-*"), None) is not None


def find_banks(root: Path) -> list[Path]:
    """The banks at a path or in the folders within it."""
    if not root.is_dir():
        return []
    return [root] if is_bank(root) else [path for path in folders(root, 1)[1:] if is_bank(path)]


def _json(path: Path, what: str, fix: str) -> dict[str, Any]:
    try:
        content = read_json(path, _MOST_BYTES)
    except (OSError, TextFileError) as error:
        raise broken(_KIND, path, f"{what} cannot be read ({error})", fix) from None
    if not isinstance(content, dict):
        raise broken(_KIND, path, f"{what} holds no keys", fix)
    return content


class Bank:
    """A bank on disk, open for reading: files are mapped into memory on first use, in each process.

    Args:
        folder: of the bank.

    Raises:
        DatasetError: it is none, is not finished, or its manifest is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / MANIFEST
        again = "write the bank again with the same arguments: shards that are there are kept"
        if not path.is_file():
            shards = len(list(folder.glob(f"shard-*/{_SHARD}"))) if folder.is_dir() else 0
            what = f"the bank is not finished: {shards} shard(s) and no manifest" if shards else "there is no bank here"
            raise broken(_KIND, path, what, again if shards else "write one with `sdt-distill data simulate`")
        manifest = _json(path, "the manifest", again)
        if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
            raise broken(
                _KIND, path, f"format {manifest.get('format')!r} version {manifest.get('version')!r} is not "
                f"{FORMAT!r} version {VERSION}", "write the bank to a new folder with this version of the project",
            )  # fmt: skip
        try:
            self.config: dict[str, Any] = dict(manifest["config"])
            self.split = str(self.config["split"])
            self.bins, self.window_ms = int(self.config["bins"]), float(self.config["window_ms"])
            self.end_us = int(manifest["end_us"])
            self.size = (int(self.config["camera"]["height"]), int(self.config["camera"]["width"]))
            self.shards: list[dict[str, Any]] = list(manifest["shards"])
            self.families = np.array([name for shard in self.shards for name in shard["families"]])
            self._counts = [int(shard["samples"]) for shard in self.shards]
            names = [shard["name"] for shard in self.shards]
            if [len(shard["families"]) for shard in self.shards] != self._counts or len(set(names)) != len(names):
                raise ValueError("its shards and their samples do not agree")
        except (KeyError, TypeError, ValueError) as error:
            raise broken(_KIND, path, f"the manifest is damaged ({error!r})", again) from None
        self._ends = np.cumsum(self._counts)
        self._maps: dict[int, dict[str, np.ndarray]] = {}
        self._summed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def check_files(self) -> None:
        """See that every file is there and as long as it was written.

        Raises:
            DatasetError: the first that is not.
        """
        for shard in self.shards:
            for name, entry in shard["files"].items():
                path = self.folder / shard["name"] / name
                if not path.is_file():
                    raise broken(_KIND, path, "this file of the bank is missing", _AGAIN)
                size = path.stat().st_size
                if size != entry["bytes"]:
                    how = "cut off" if size < entry["bytes"] else "too long"
                    raise broken(_KIND, path, f"the file is {how}: {size} bytes, not {entry['bytes']}", _AGAIN)

    def damaged_files(self) -> list[DatasetError]:
        """Read all of every file, once, and compare checksums."""
        if self._summed:
            return []
        self._summed = True
        errors = []
        for shard in self.shards:
            for name, entry in shard["files"].items():
                path = self.folder / shard["name"] / name
                if path.is_file() and _crc32(path) != entry["crc32"]:
                    errors.append(broken(_KIND, path, "the file's checksum is wrong: it was changed", _AGAIN))
        return errors

    def depth(self, index: int) -> np.ndarray:
        """Depth of a sample, float32 [H, W] metres, NaN where unknown."""
        shard, place = self._place(index)
        return decode_depth(self._map(shard, index)["depth"][place])

    def read(self, index: int, frames: bool = True) -> Sample:
        """A sample by its number.

        Raises:
            DatasetError: its shard is damaged.
        """
        shard, place = self._place(index)
        arrays = self._map(shard, index)
        height, width = self.size
        cells = self.bins * 2 * height * width
        end_us = (index + 1) * self.end_us
        return Sample(
            spikes=np.unpackbits(arrays["spikes"][place], count=cells).reshape(self.bins, 2, height, width),
            depth=decode_depth(arrays["depth"][place]),
            t_end_us=end_us,
            stamp_ns=end_us * 1000,
            sequence=str(self.families[index]),
            index=index,
            frame=np.array(arrays["frame"][place]) if frames else None,
            intrinsics=np.array(arrays["intrinsics"][place]),
        )

    def close(self) -> None:
        """Let go of the files; the next use maps them again."""
        self._maps = {}

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        shard = int(np.searchsorted(self._ends, index, "right"))
        return shard, index - int(self._ends[shard]) + self._counts[shard]

    def _map(self, shard: int, index: int) -> dict[str, np.ndarray]:
        """The arrays of a shard."""
        if shard not in self._maps:
            arrays = {}
            for name, (dtype, shape) in layout(self._counts[shard], self.bins, self.size).items():
                path = self.folder / str(self.shards[shard]["name"]) / f"{name}.npy"
                try:
                    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
                except (OSError, EOFError, SyntaxError, ValueError) as error:
                    why = f"the file cannot be read, it is missing, damaged or cut off ({error})"
                    raise broken(_KIND, path, why, _AGAIN, index) from None
                if array.shape != shape or array.dtype != np.dtype(dtype):
                    why = f"the file has {array.dtype} {list(array.shape)}, not {np.dtype(dtype)} {list(shape)}"
                    raise broken(_KIND, path, why, _AGAIN, index)
                arrays[name] = array
            self._maps[shard] = arrays
        return self._maps[shard]


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while content := file.read(1 << 20):
            value = zlib.crc32(content, value)
    return value
