"""Which depth images have events before them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .errors import broken


def covered(dataset: str, file: Path, stamps_us: np.ndarray, window_us: int, first_us: int, last_us: int) -> np.ndarray:
    """Which windows the events cover; a tenth of a window may lack, as a scene at rest has no events.

    Args:
        dataset: for the message.
        file: the events, for the message.
        stamps_us: where the windows end [us], int64 [N].
        window_us: their duration [us].
        first_us: time of the first event [us].
        last_us: time of the last event [us].

    Returns:
        bool [N].

    Raises:
        DatasetError: there are stamps, and no window is covered.
    """
    slack = window_us // 10
    whole = (stamps_us - window_us >= first_us - slack) & (stamps_us <= last_us + slack)
    if stamps_us.size and not whole.any():
        raise broken(
            dataset, file,
            f"events and depth do not overlap: events from {first_us} to {last_us} us, depth from {stamps_us[0]} to "
            f"{stamps_us[-1]} us, windows of {window_us} us",
            "check that both are of the same recording and on the same clock, or ask for shorter windows",
        )  # fmt: skip
    return np.asarray(whole)
