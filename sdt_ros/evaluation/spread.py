"""Which of many samples are taken where not all are."""

from __future__ import annotations

import numpy as np


def spread_evenly(total: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to total - 1; 0 takes all.

    They rise, are from all over and the same each time. One is drawn from each of so many equal stretches: a fixed
    stride would meet one family only where families take turns, as they do in a simulated bank.
    """
    if not most or total <= most:
        return list(range(total))
    edges = np.linspace(0, total, most + 1).astype(int)
    drawn = np.random.default_rng([total, most]).random(most)
    return [int(place) for place in edges[:-1] + drawn * np.diff(edges)]


def is_one_of(every: int, number: int) -> bool:
    """Whether a number is that one which is taken of each `every`: the first, then drawn, the same each time.

    For streams whose length is not known; otherwise as `spread_evenly`.
    """
    block, place = divmod(number, every)
    return place == (int(np.random.default_rng([block, every]).integers(every)) if block else 0)
