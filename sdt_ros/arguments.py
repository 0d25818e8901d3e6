"""What commands check of their arguments before any work is done: seeds, and files that are to be written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

MOST_SEED = 2**63 - 1  # that torch and numpy both take


def wrong_seed(seed: int) -> str:
    """What is wrong with `--seed`; empty if nothing."""
    return "" if 0 <= seed <= MOST_SEED else f"--seed is {seed}, expected 0 to {MOST_SEED}"


def checkpoint_files(weights: Path | None) -> dict[Path, str]:
    """The files of a checkpoint, resolved, and what each is; for `wrong_outputs`."""
    if weights is None or not (path := weights.resolve()).name:
        return {}
    return {path: "the weights", path.with_suffix(".json"): "the card of the weights"}


def wrong_outputs(
    files: Mapping[str, Path | None], folders: Mapping[str, Path | None] | None = None, kept: Mapping[Path, str] = {}
) -> str:
    """Why outputs cannot be written, told before the work; empty where nothing speaks against them.

    Args:
        files: option to the file that it names.
        folders: option to the folder that it names.
        kept: resolved files that must not be overwritten, and what they are.
    """
    taken = dict(kept)
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
