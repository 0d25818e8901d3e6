"""The one error of this layer."""

from __future__ import annotations

from pathlib import Path


class DatasetError(ValueError):
    """A file of a data set cannot be used; the text names data set, file, index and fix."""

    file: str = ""


def broken(dataset: str, file: Path, what: str, fix: str, index: int | None = None) -> DatasetError:
    """Make the error.

    Args:
        dataset: name of the format, and of the sequence where it is known.
        file: what cannot be used.
        what: what is wrong with it.
        fix: what to do about it.
        index: position within the file or the sequence.
    """
    place = "" if index is None else f", index {index}"
    # Only text: data loaders carry errors from their workers by making them anew from their message.
    error = DatasetError(f"{dataset}: {file}{place}: {what}; {fix}")
    error.file = str(file)
    return error
