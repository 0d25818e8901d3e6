"""The state of a run on disk: one file that is either the old one or the new one, whenever the process dies."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

FORMAT_VERSION = 2  # 1 numbered the optimiser's memory otherwise


class StateError(ValueError):
    """A saved state is damaged or is that of another run; the message says which and what to do."""


class UnsavedError(OSError):
    """The last state of a run could not be written; the message says what is kept."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a crash or a full disk at any moment leaves the previous one.

    Raises:
        OSError: it could not be written; nothing has changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)  # the new name is on disk only when its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def save_state(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write tensors and plain values into one safetensors file, values as JSON in its header.

    Args:
        path: the file.
        tensors: anything, on any device.
        values: what JSON can hold.

    Raises:
        OSError: disk full or not writable; the previous file is as it was.
    """
    flat = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"state": json.dumps({"format_version": FORMAT_VERSION, **values})}
    write_atomically(path, save(flat, header))


def load_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state back.

    Raises:
        StateError: it is damaged or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        tensors = load_file(path)
        values = json.loads(header["state"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise StateError(f"{path}: damaged or no state of a run ({error}); delete it to start over") from error
    if values.pop("format_version", None) != FORMAT_VERSION:
        raise StateError(f"{path}: a state of another version of this software; finish the run with that one")
    return tensors, values


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {name[len(prefix) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix before their names."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
