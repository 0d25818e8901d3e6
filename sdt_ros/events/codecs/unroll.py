"""Times that never wrap, from the few bits of them that a format sends."""

from __future__ import annotations

from numba import int64

from sdt_ros.compiled import njit

JITTER = 10  # an upper part that goes back by at most this many units is jitter of the sensor, not a wrap

LAST = 1 << 60  # [us]; only words made for it wrap so often, and times must not overflow


@njit(inline="always")
def unroll(high, field, bits, shift):  # type: ignore[no-untyped-def]
    """The upper part of the time [us] after a TIME_HIGH word.

    `high` is the upper part before it, `field` the word's value, `bits` wide and in units of 2^`shift` us.
    """
    period = int64(1) << (bits + shift)
    now = int64(field) << shift
    wraps = high & ~(period - 1)
    if now < (high & (period - 1)) - (int64(JITTER) << shift) and wraps < LAST:
        wraps += period
    return wraps | now
