"""Files of data sets, opened with care: what is missing, cut off or not the file itself is named, with the fix."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdt_ros import text_files

from .errors import DatasetError, broken

_log = logging.getLogger(__name__)

_LFS = b"version https://git-lfs"
_AGAIN = "copy or download it again"


def folders(root: Path, levels: int) -> list[Path]:
    """A folder and those below it, so many levels deep; what may not be read is told and left out."""
    found = level = [root] if root.is_dir() else []
    for _ in range(levels):
        level = [child for parent in level for child in sorted(parent.iterdir()) if child.is_dir() and _may_read(child)]
        found = found + level
    return found


def _may_read(folder: Path) -> bool:
    allowed = os.access(folder, os.R_OK | os.X_OK)
    if not allowed:
        _log.warning("%s may not be read and is left out", folder)
    return allowed


def require(dataset: str, path: Path, what: str, fix: str) -> Path:
    """Return the path of a file that is there, and is not empty or a git-LFS pointer.

    Raises:
        DatasetError: otherwise; `what` says what the file is, `fix` where it comes from.
    """
    if not path.is_file():
        raise broken(dataset, path, f"{what} is missing", fix)
    size = path.stat().st_size
    if size == 0:
        raise broken(dataset, path, f"{what} is empty", _AGAIN)
    if size < 1024:  # pointers are some 130 bytes
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                raise broken(
                    dataset,
                    path,
                    f"{what} is only a git-LFS pointer to the file",
                    "fetch the files with `git lfs pull`",
                )
    return path


def read_image(dataset: str, path: Path, what: str, index: int | None = None) -> Image.Image:
    """Decode an image file.

    Raises:
        DatasetError: it is missing or damaged.
    """
    require(dataset, path, what, _AGAIN)
    try:
        with Image.open(path) as image:
            image.load()
            return image.copy()
    except (OSError, SyntaxError, ValueError) as error:
        raise broken(
            dataset, path, f"{what} cannot be decoded, it is damaged or cut off ({error})", _AGAIN, index
        ) from None


def read_array(dataset: str, path: Path, what: str, index: int | None = None) -> np.ndarray:
    """Map an .npy file into memory; nothing is read yet.

    Raises:
        DatasetError: it is missing or damaged, or holds objects.
    """
    require(dataset, path, what, _AGAIN)
    array: np.ndarray
    try:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:  # an array without elements cannot be mapped; what is broken fails again
            array = np.load(path, allow_pickle=False)
    except (OSError, EOFError, SyntaxError, ValueError) as error:
        why = f"{what} cannot be read, it is damaged or cut off ({error})"
        raise broken(dataset, path, why, _AGAIN, index) from None
    return array


def read_yaml(dataset: str, path: Path, what: str, fix: str) -> dict[str, Any]:
    """Read a calibration.

    Raises:
        DatasetError: it is missing, or no YAML mapping.
    """
    require(dataset, path, what, fix)
    try:
        content = text_files.read_yaml(path)
    except text_files.TextFileError as error:
        raise broken(dataset, path, f"{what}: {error}", _AGAIN) from None
    if not isinstance(content, dict):
        raise broken(dataset, path, f"{what} holds no keys", _AGAIN)
    return content


def read_numbers(dataset: str, path: Path, columns: int, what: str) -> list[list[str]]:
    """Read the rows of a text file of numbers, as text: times have more digits than a float holds.

    Raises:
        DatasetError: it is missing or has no rows, or a row has other columns or no number in one.
    """
    require(dataset, path, what, _AGAIN)
    rows: list[list[str]] = []
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except UnicodeDecodeError:
        raise broken(dataset, path, f"{what} is no text", _AGAIN) from None
    for number, line in enumerate(lines):
        fields = line.split("#")[0].split()
        if not fields:
            continue
        try:
            [float(field) for field in fields]
        except ValueError:
            fields = []
        if len(fields) != columns:
            raise broken(dataset, path, f"{what}: {line.strip()[:60]!r} is not {columns} number(s)", _AGAIN, number)
        rows.append(fields)
    if not rows:
        raise broken(dataset, path, f"{what} has no rows", _AGAIN)
    return rows


def check_increasing(dataset: str, path: Path, stamps: np.ndarray, what: str, unit: str = "us") -> None:
    """Refuse stamps that do not strictly increase.

    Raises:
        DatasetError: the first one that repeats or goes back is named.
    """
    wrong = np.flatnonzero(np.diff(stamps) <= 0)
    if wrong.size:
        i = int(wrong[0]) + 1
        how = (
            "repeats the one before"
            if stamps[i] == stamps[i - 1]
            else f"lies before the one before, {stamps[i - 1]} {unit}"
        )
        raise broken(
            dataset, path, f"{what} are not increasing: {stamps[i]} {unit} {how}",
            "restore the original file; stamps and the images they belong to must keep their order", i,
        )  # fmt: skip


class Hdf5File:
    """An hdf5 file, opened on first use in each process, so that it can be sent to a data loader's workers.

    Args:
        dataset: name for messages.
        path: the file.
        what: what the file is, for messages.
    """

    def __init__(self, dataset: str, path: Path, what: str) -> None:
        self.dataset = dataset
        self.path = path
        self.what = what
        self._file: Any = None
        self._pid = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_pid": 0}

    def open(self) -> Any:
        """Return the open file.

        Raises:
            DatasetError: it is missing, cut off or no hdf5.
            ImportError: h5py or its filters are not installed.
        """
        if self._file is None or self._pid != os.getpid():
            try:
                import h5py
                import hdf5plugin  # noqa: F401  registers blosc and zstd
            except ImportError as error:
                raise ImportError(f"reading {self.path} needs {error.name}: pip install 'sdt_ros[datasets]'") from error
            require(self.dataset, self.path, self.what, _AGAIN)
            try:
                self._file = h5py.File(self.path, "r")
            except OSError as error:
                raise broken(
                    self.dataset, self.path, f"{self.what} cannot be opened, it is damaged or cut off ({error})", _AGAIN
                ) from None
            self._pid = os.getpid()
        return self._file

    def array(self, key: str) -> Any:
        """Return an array of the file, of which slices are read.

        Raises:
            DatasetError: as `open`, or the file has no such array.
        """
        file = self.open()
        found = file.get(key) if key in file else None
        if found is None or not hasattr(found, "shape"):
            names: list[str] = []
            file.visit(names.append)
            there = ", ".join(names[:12]) or "nothing"
            raise broken(
                self.dataset, self.path, f"{self.what} has no array {key}; it has {there}",
                "check that this is the data set's own file",
            )  # fmt: skip
        return found

    def read(self, key: str, start: int | None = None, stop: int | None = None, index: int | None = None) -> np.ndarray:
        """Read a slice of an array, or with neither bound a scalar or all of it.

        Raises:
            DatasetError: as `array`, or the bytes are damaged.
        """
        array = self.array(key)
        try:
            return np.asarray(array[()] if start is None and stop is None else array[start:stop])
        except (OSError, RuntimeError) as error:
            place = "" if start is None else f" from {start} to {stop}"
            raise broken(
                self.dataset, self.path, f"{key}{place} cannot be read, the file is damaged ({error})", _AGAIN, index
            ) from None

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None


__all__ = [
    "DatasetError",
    "Hdf5File",
    "check_increasing",
    "read_array",
    "read_image",
    "read_numbers",
    "read_yaml",
    "require",
]
