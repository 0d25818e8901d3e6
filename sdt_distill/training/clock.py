"""How long a run has worked, and whether its time is over."""

from __future__ import annotations

import time


class RunClock:
    """Counts laps of work; what lies between them, such as validation and saving, does not count.

    Args:
        minutes: that the run has; 0 for as long as it takes.

    Attributes:
        seconds: of the laps that ended, in all processes that worked on the run.
    """

    def __init__(self, minutes: float) -> None:
        self._limit_s = 60 * minutes
        self.seconds = 0.0
        self.start_lap()

    def start_lap(self) -> None:
        """Work begins."""
        self._lap = time.monotonic()

    def end_lap(self) -> float:
        """Count the lap, and begin another; its seconds."""
        lap = self.lap
        self.seconds += lap
        self._lap += lap
        return lap

    @property
    def lap(self) -> float:
        """Seconds since this lap began."""
        return time.monotonic() - self._lap

    @property
    def part(self) -> float:
        """Share of the run's time that is over, this lap included; 0 where there is no limit."""
        return (self.seconds + self.lap) / self._limit_s if self._limit_s else 0.0

    @property
    def is_over(self) -> bool:
        """Whether the laps that ended have taken all of the time."""
        return bool(self._limit_s) and self.seconds >= self._limit_s
