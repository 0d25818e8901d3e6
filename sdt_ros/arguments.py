"""What commands check of their arguments before any work is done: numbers, and files that are to be written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

MOST_SEED = 2**63 - 1  # that torch and numpy both take


def count(text: str) -> int:
    """A whole number of 1 or more, as a type for argparse."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


def minutes(text: str) -> float:
    """A number above 0, as a type for argparse."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def sensor_size(text: str, least: int = 1) -> tuple[int, int]:
    """Width and height [px] written as WIDTHxHEIGHT, as a type for argparse; neither is less than `least`."""
    from sdt_ros.events.encodings import MAX_PIXELS, MAX_SIDE  # loads numba

    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r} is no size; expected WIDTHxHEIGHT, such as 346x260")
    if max(int(width), int(height)) > MAX_SIDE or int(width) * int(height) > MAX_PIXELS:
        raise argparse.ArgumentTypeError(
            f"{text} is larger than any sensor: at most {MAX_SIDE} px a side and {MAX_PIXELS} in all"
        )
    if min(int(width), int(height)) < least:
        raise argparse.ArgumentTypeError(f"{text} is too small: at least {least} px a side")
    return int(width), int(height)


def network_size(text: str) -> tuple[int, int]:
    """The same, of at least one token of the network a side."""
    from sdt_ros.network.config import PATCH  # loads torch

    return sensor_size(text, PATCH)


def wrong_seed(seed: int) -> str:
    """What is wrong with `--seed`; empty if nothing."""
    return "" if 0 <= seed <= MOST_SEED else f"--seed is {seed}, expected 0 to {MOST_SEED}"


def checkpoint_files(weights: Path | None) -> dict[Path, str]:
    """The files of a checkpoint, and what each is; for `wrong_outputs`."""
    if weights is None or not weights.name:
        return {}
    return {weights: "the weights", weights.with_suffix(".json"): "the card of the weights"}


def wrong_outputs(
    files: Mapping[str, Path | None], folders: Mapping[str, Path | None] | None = None, kept: Mapping[Path, str] = {}
) -> str:
    """Why outputs cannot be written, told before the work; empty where nothing speaks against them.

    Args:
        files: option to the file that it names.
        folders: option to the folder that it names.
        kept: files that must not be overwritten, and what they are.
    """
    taken = {path.resolve(): what for path, what in kept.items()}
    for option, path in files.items():
        if path is None:
            continue
        if why := _unwritable((path, *path.parents)):
            return f"{option} {path}: {why}"
        if path.is_dir():
            return f"{option} {path} is a folder; name a file"
        if what := taken.get(path.resolve()):
            return f"{option} {path} is {what}, which it would overwrite; name another file"
        if path.is_file() or not path.exists():  # devices may be named twice
            taken[path.resolve()] = f"the file of {option}"
    for option, path in (folders or {}).items():
        if path is not None and (why := _unwritable((path / "file", path, *path.parents))):
            return f"{option} {path}: {why}"
    return ""


def _unwritable(paths: Iterable[Path]) -> str:
    """Why the first of a file and the folders above it cannot be written; the first of them that is there decides."""
    for number, path in enumerate(paths):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return f"{error.strerror}; name another"
        if number and not path.is_dir():
            return f"{path} is a file, no folder; name another"
        return "" if os.access(path, os.W_OK) else f"{path} cannot be written; name another"
    return ""


def is_lack_of_memory(error: Exception) -> bool:
    """Whether memory was asked for that is not there; torch has no error of its own for it on the CPU."""
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def write_text(path: Path, text: str) -> None:
    """Write a file, in folders that need not be there.

    Raises:
        OSError: it cannot be written; the message names it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; name a file elsewhere") from error
