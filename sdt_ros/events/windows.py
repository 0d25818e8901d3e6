"""When windows begin and end, and which time bins they have: plain arithmetic on sensor time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

MOST_OPEN = 100  # windows at once; each takes memory, and time for every event


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """The windows that the network sees.

    Window k ends at the sensor time k / rate_hz, whatever packets arrive, so that a recording always gives the same
    windows. Windows overlap when they last longer than 1 / rate_hz.

    Attributes:
        window_ms: duration of a window [ms].
        bins: time bins T of a window.
        rate_hz: windows a second [Hz].
        min_events: a window with fewer events is empty: no depth is made of it.
    """

    window_ms: float = 50.0
    bins: int = 4
    rate_hz: float = 20.0
    min_events: int = 1

    def __post_init__(self) -> None:
        if not 1.0 <= self.window_ms <= 10_000.0:
            raise ValueError(f"window_ms={self.window_ms} is outside of 1 to 10000 ms")
        if not 1 <= self.bins <= 64:
            raise ValueError(f"bins={self.bins} is outside of 1 to 64")
        if not 0.1 <= self.rate_hz <= 1000.0:
            raise ValueError(f"rate_hz={self.rate_hz} is outside of 0.1 to 1000 Hz")
        if self.min_events < 0:
            raise ValueError(f"min_events={self.min_events} is negative")
        if self.most_open > MOST_OPEN:
            raise ValueError(
                f"windows of window_ms={self.window_ms} at rate_hz={self.rate_hz} overlap by more than {MOST_OPEN}; "
                "lower one of them"
            )

    @property
    def window_us(self) -> int:
        """Duration of a window [us]."""
        return round(self.window_ms * 1000)

    @property
    def period_us(self) -> Fraction:
        """Time between the ends of two windows [us], exact."""
        return 1_000_000 / Fraction(self.rate_hz).limit_denominator(1_000_000)

    @property
    def most_open(self) -> int:
        """How many windows can be open at once."""
        return math.ceil(self.window_us / self.period_us) + 1


class WindowSchedule:
    """Bounds of the windows of a configuration, each known by its index k."""

    def __init__(self, config: WindowConfig) -> None:
        self._window_us = config.window_us
        self._bins = config.bins
        # The period in whole numbers: this runs several times a window, and Fraction is slow.
        self._numerator, self._denominator = config.period_us.numerator, config.period_us.denominator

    def end(self, k: int) -> int:
        """The time that window k ends before [us]."""
        return k * self._numerator // self._denominator

    def start(self, k: int) -> int:
        """The first time in window k [us]."""
        return self.end(k) - self._window_us

    def first_from(self, t: int) -> int:
        """The first window that lies entirely at or behind t [us]."""
        return -(-(t + self._window_us) * self._denominator // self._numerator)

    def ended_by(self, t: int) -> int:
        """The last window that has ended at time t [us]."""
        return -(-(t + 1) * self._denominator // self._numerator) - 1

    def edges(self, k: int) -> list[int]:
        """The T + 1 bounds of the bins of window k [us]; bin j holds edges[j] <= t < edges[j + 1]."""
        start = self.start(k)
        return [start + (j * self._window_us) // self._bins for j in range(self._bins + 1)]
