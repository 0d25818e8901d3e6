"""Which of many samples are taken where not all are."""

from __future__ import annotations

import itertools

import numpy as np

_PERIODS = np.arange(2, 9)  # with which kinds may take turns
_BINS = np.cumsum(_PERIODS) - _PERIODS  # where the remainders of each period are counted
_MOST_WEIGHED = 64  # places of a stretch


def spread_evenly(total: int, most: int) -> list[int]:
    """At most so many of the numbers from 0 to total - 1; 0 takes all.

    They rise, are from all over and the same each time. One is taken from each of so many equal stretches: that whose
    remainders by 2 to 8 were taken least so far, so that families that take turns, as they do in a simulated bank, are
    met evenly. Where most are taken, those that are left out are chosen so.
    """
    if not most or total <= most:
        return list(range(total))
    if 2 * most > total:
        left_out = set(spread_evenly(total, total - most))
        return [place for place in range(total) if place not in left_out]
    edges = np.linspace(0, total, most + 1).astype(int)
    chance = np.random.default_rng([total, most])
    met = np.zeros(int(_PERIODS.sum()))
    taken = []
    for first, end in itertools.pairwise(edges):
        places = chance.permutation(end - first)[:_MOST_WEIGHED] + first
        weights = (met[places[:, None] % _PERIODS + _BINS] * _PERIODS).sum(1)
        place = int(places[np.argmin(weights)])
        met[place % _PERIODS + _BINS] += 1
        taken.append(place)
    return taken


def is_one_of(every: int, number: int) -> bool:
    """Whether a number is that one which is taken of each `every`: the first, then drawn, the same each time.

    For streams whose length is not known.
    """
    block, place = divmod(number, every)
    return place == (int(np.random.default_rng([block, every]).integers(every)) if block else 0)
