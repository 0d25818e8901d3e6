"""What the subcommands of `sdt-distill` share: numbers as arguments, and files that can be written before any work."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from sdt_ros.arguments import wrong_outputs


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


def unwritable(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> str:
    """Why a file that is to be written cannot be, or must not, in one line; empty where all can.

    Args:
        outputs: option to the file that it names, None where it was not given.
        inputs: what must stay as it is, in words, to its file.
    """
    return wrong_outputs(outputs, kept={path.resolve(): what for what, path in inputs.items() if path is not None})


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths are of one file, whether or not it is there yet."""
    return one.resolve() == other.resolve() or (one.exists() and other.exists() and one.samefile(other))
