"""What the subcommands of `sdt-distill` share: numbers as arguments, and files that can be written before any work."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path


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


def unwritable(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> str | None:
    """Why a file that is to be written cannot be, or must not, in one line; None where all can.

    Args:
        outputs: option to the file that it names, None where it was not given.
        inputs: what must stay as it is, in words, to its file.
    """
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            return f"{option} {path} is a folder; name a file"
        if (above := next((each for each in path.parents if each.exists()), None)) is not None and not above.is_dir():
            return f"{option} {path}: {above} is no folder; name a file elsewhere"
        for what, kept in inputs.items():
            if kept is not None and is_same(path, kept):
                return f"{option} {path} would overwrite {what}; name another file"
    return None


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths are of one file, whether or not it is there yet."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
