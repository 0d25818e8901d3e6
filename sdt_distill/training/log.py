"""What a run writes down: a line of JSON for every figure, and the same in TensorBoard where that is installed."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_log = logging.getLogger(__name__)

LOG_NAME = "log.jsonl"


class RunLog:
    """The figures of a run.

    Args:
        folder: of the run.
        step: optimiser steps done; what an earlier process wrote of later ones is removed, as they are done again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / LOG_NAME
        rows = [row for row in read_log(folder) if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        temporary = self._path.with_suffix(".new")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self._path)
        self._board = _open_board(folder / "tensorboard", step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a row: `kind` is `train`, `validation` or `rates`; values are numbers, by name."""
        row = {"kind": kind, "step": step, **{key: _plain(value) for key, value in values.items()}}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:  # a full disk must not end a run that can still compute
            _log.error("%s: a line of the log is lost: %s", self._path, error)
        for key, value in row.items():
            if isinstance(value, int | float) and key != "step":
                self._show("add_scalar", f"{kind}/{key}", value, step)

    def picture(self, name: str, step: int, pixels: np.ndarray) -> None:
        """Show a picture, uint8 [H, W, 3], in TensorBoard."""
        self._show("add_image", name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        self._show("close")

    def _show(self, call: str, *args: Any, **options: Any) -> None:
        """Call TensorBoard's writer, which raises what its own thread met; a full disk must not end a run."""
        if self._board is None:
            return
        try:
            getattr(self._board, call)(*args, **options)
        except OSError as error:
            _log.error("TensorBoard gets no more of this run, %s goes on: %s", self._path, error)
            self._board = None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All rows of a run's log; a last line that a kill cut short is left out."""
    path = folder / LOG_NAME
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value  # JSON knows no NaN


def _open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        _log.info("TensorBoard is not installed (pip install tensorboard); figures go to %s only", LOG_NAME)
        return None
    return SummaryWriter(folder, purge_step=step + 1)
