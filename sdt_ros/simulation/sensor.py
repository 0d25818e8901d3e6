"""The event sensor: from log brightness at successive times to events, or straight to spikes.

Between two frames the log brightness of a pixel is taken as linear in time, so that the times of its crossings are
exact for that line (ESIM: Rebecq et al., CoRL 2018). Thresholds that differ by pixel, refractory period, leak, shot
noise and limited bandwidth follow v2e (Hu et al., CVPRW 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdt_ros.events import EVENT_DTYPE

_NEVER_US = -(1 << 60)

LATELY = 0.7
"""How far [thresholds] pixels are spread against their trend when a sensor starts: chosen so that all bins of a window
are about equally full (without a trend the first held half as many events as the others, with 0 a third more)."""


@dataclass(frozen=True, slots=True)
class SensorConfig:
    """How an event sensor behaves.

    Attributes:
        threshold_on: change of log brightness that makes an ON event.
        threshold_off: the same for OFF.
        threshold_spread: deviation of both from pixel to pixel.
        refractory_us: after an event a pixel makes none for this long [us]; its reference goes on following.
        leak_hz: ON events a second that leakage makes in a pixel at rest [Hz].
        shot_noise_hz: noise events a second and pixel in the dark [Hz]; a quarter of it in the brightest light.
        hot_pixels: share of pixels that fire by themselves.
        hot_hz: at up to this rate [Hz].
        bandwidth_hz: corner of the pixels' first-order low pass [Hz]; 0 is unlimited.
    """

    threshold_on: float = 0.2
    threshold_off: float = 0.2
    threshold_spread: float = 0.03
    refractory_us: int = 300
    leak_hz: float = 0.1
    shot_noise_hz: float = 0.5
    hot_pixels: float = 2e-4
    hot_hz: float = 300.0
    bandwidth_hz: float = 800.0

    def __post_init__(self) -> None:
        if not (0.01 <= self.threshold_on <= 5 and 0.01 <= self.threshold_off <= 5):
            raise ValueError(
                f"thresholds {self.threshold_on} and {self.threshold_off} are outside of 0.01 to 5 (log brightness)"
            )
        for name in ("threshold_spread", "refractory_us", "leak_hz", "shot_noise_hz", "hot_hz", "bandwidth_hz"):
            if not 0 <= getattr(self, name) < 1e7:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.hot_pixels <= 1:
            raise ValueError(f"hot_pixels={self.hot_pixels} is a share, from 0 to 1")

    @classmethod
    def ideal(cls) -> SensorConfig:
        """Equal pixels without noise, leak, refractory period or low pass."""
        return cls(0.2, 0.2, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Crossings:
    """Events of one step of several sensors, in no order.

    Attributes:
        pixel: int64 [N], index in the flattened [B, H, W].
        t_us: int64 [N], on each sensor's own clock.
        on: bool [N].
    """

    pixel: Tensor
    t_us: Tensor
    on: Tensor


class EventSensor:
    """B sensors of H x W pixels each, all at rest in what they see first.

    A step takes the events with start <= t < end, so that successive steps part time without gap or overlap.

    Args:
        config: how they behave.
        brightness: [B, H, W] linear, at the time `start_us`.
        start_us: int64 [B].
        generator: for spread and noise; on the device of `brightness`.

    Attributes:
        on: [B, H, W], the threshold of each pixel; `off` likewise.
        leak: [B, H, W], drift towards ON [log brightness / us].
    """

    def __init__(self, config: SensorConfig, brightness: Tensor, start_us: Tensor, generator: torch.Generator) -> None:
        self.config = config
        self._generator = generator
        shape, device = brightness.shape, brightness.device
        self._device, self._dtype = device, brightness.dtype
        spread = (
            torch.randn((2, *shape), generator=generator, device=self._device, dtype=self._dtype)
            * config.threshold_spread
        )
        self.on = (config.threshold_on + spread[0]).clamp_min(0.25 * config.threshold_on)
        self.off = (config.threshold_off + spread[1]).clamp_min(0.25 * config.threshold_off)
        draw = torch.rand((2, *shape), generator=generator, device=self._device, dtype=self._dtype)
        rate = torch.where(draw[0] < config.hot_pixels, draw[1] * config.hot_hz, config.leak_hz)
        self.leak = rate * self.on * 1e-6
        self._seen = brightness.log()  # behind the low pass
        # How far log brightness is above the reference; each event moves the reference by a threshold.
        self._above = (torch.rand(shape, generator=generator, device=self._device, dtype=self._dtype) - 0.5) * 0.9
        self._above = torch.where(self._above > 0, self._above * self.on, self._above * self.off)
        self._last_us = torch.full(shape, _NEVER_US, dtype=torch.int64, device=device)
        self._now_us = start_us.clone()

    @property
    def above(self) -> Tensor:
        """Log brightness less reference, [B, H, W]; a copy."""
        return self._above.clone()

    def lean(self, brightness: Tensor) -> None:
        """Let pixels be as if they had long been watching: each is somewhere on its way to the next crossing.

        Where light rises for long, a pixel lies between its reference and the threshold above it; where it has turned
        lately, a little below the reference.

        Args:
            brightness: [B, H, W] linear, shortly after the start.
        """
        part = 2 / 0.9 * self._above.abs() / torch.where(self._above > 0, self.on, self.off)
        place = 0.999 * ((1 + LATELY) * part - LATELY)
        place = torch.where(brightness.log() > self._seen, place, -place)
        self._above = place * torch.where(place > 0, self.on, self.off)

    def step(self, brightness: Tensor, end_us: Tensor, take: Callable[[Crossings], None]) -> None:
        """Go on to the next frame.

        Args:
            brightness: [A, H, W] linear, of the first A sensors; the others wait.
            end_us: int64 [A], later than the step before.
            take: called with the events, several times.
        """
        a = len(brightness)
        start_us = self._now_us[:a].clone()
        duration = end_us - start_us
        dt = duration.to(brightness.dtype)[:, None, None]
        log = brightness.log()
        if self.config.bandwidth_hz:
            keep = torch.exp(dt * (-2e-6 * torch.pi * self.config.bandwidth_hz))
            log = torch.lerp(log, self._seen[:a], keep)
        before = self._above[:a].clone()
        above = before + (log - self._seen[:a]) + self.leak[:a] * dt
        self._seen[:a] = log
        on = above >= self.on[:a]
        fired = on | (above <= -self.off[:a])
        pixel = fired.flatten().nonzero().squeeze(1)
        if self.config.shot_noise_hz:
            self._noise(brightness, fired, start_us, duration, take)
        self._above[:a] = above
        self._now_us[:a] = end_us
        if len(pixel):
            self._crossings(pixel, on.flatten()[pixel], before.flatten()[pixel], start_us, duration, take)

    def _crossings(
        self,
        pixel: Tensor,
        on: Tensor,
        before: Tensor,
        start_us: Tensor,
        duration: Tensor,
        take: Callable[[Crossings], None],
    ) -> None:
        """Emit the events of those pixels that cross a threshold, one crossing of each at a time."""
        above = self._above.flatten()  # a view: contiguous
        last = self._last_us.view(-1)
        after = above[pixel]
        threshold = torch.where(on, self.on.flatten()[pixel], -self.off.flatten()[pixel])
        sensor = pixel // (self.on.shape[1] * self.on.shape[2])
        start, span = start_us[sensor], duration[sensor]
        count = (after / threshold).floor()
        self._above.view(-1)[pixel] = after - count * threshold
        step = threshold / (after - before)  # of the interval, between two crossings
        first = step - before / (after - before)
        k = 0
        while len(pixel):
            part = (first + k * step).clamp(0, 1)
            t = start + torch.minimum((part * span).floor().to(torch.int64), span - 1)
            ready = t - last[pixel] >= self.config.refractory_us
            who = pixel[ready]
            last[who] = t[ready]
            if len(who):
                take(Crossings(who, t[ready], on[ready]))
            k += 1
            more = count > k
            pixel, on, start, span, first, step, count = (
                values[more] for values in (pixel, on, start, span, first, step, count)
            )

    def _noise(
        self,
        brightness: Tensor,
        fired: Tensor,
        start_us: Tensor,
        duration: Tensor,
        take: Callable[[Crossings], None],
    ) -> None:
        """Emit shot noise in pixels that cross no threshold now: at most one event each, of either polarity."""
        size = brightness.shape[1] * brightness.shape[2]
        mean = duration.to(self._dtype) * (1e-6 * self.config.shot_noise_hz * size)
        counts = torch.poisson(mean, generator=self._generator).to(torch.int64)
        most = int(counts.max())
        if not most:
            return
        draw = torch.rand((4, len(counts), most), generator=self._generator, device=self._device, dtype=self._dtype)
        place = (draw[0] * size).to(torch.int64).clamp_max(size - 1)
        pixel = place + torch.arange(len(counts), device=place.device)[:, None] * size
        t = start_us[:, None] + torch.minimum((draw[1] * duration[:, None]).to(torch.int64), duration[:, None] - 1)
        wanted = torch.arange(most, device=place.device) < counts[:, None]
        darker = 1 - 0.75 * brightness.flatten()[pixel].clamp(0, 1)
        wanted &= (
            (draw[2] < darker)
            & ~fired.flatten()[pixel]
            & (t - self._last_us.view(-1)[pixel] >= self.config.refractory_us)
        )
        pixel, t, on = pixel[wanted], t[wanted], draw[3][wanted] < 0.5
        # The same pixel drawn twice: keep one, the same one on every device.
        order = torch.argsort(pixel, stable=True)
        pixel, t, on = pixel[order], t[order], on[order]
        once = torch.ones_like(on)
        once[1:] = pixel[1:] != pixel[:-1]
        pixel, t, on = pixel[once], t[once], on[once]
        self._last_us.view(-1)[pixel] = t
        if len(pixel):
            take(Crossings(pixel, t, on))


class EventList:
    """Takes one sensor's crossings, and gives them as events in the order of time."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._parts: list[Crossings] = []

    def __call__(self, crossings: Crossings) -> None:
        """Take some."""
        self._parts.append(crossings)

    def take(self) -> np.ndarray:
        """EVENT_DTYPE [N]: all since the last call, ordered by time, then polarity, row and column."""
        parts, self._parts = self._parts, []
        events = np.empty(sum(len(part.pixel) for part in parts), EVENT_DTYPE)
        if not parts:
            return events
        pixel = torch.cat([part.pixel for part in parts]).cpu().numpy()
        events["t"] = torch.cat([part.t_us for part in parts]).cpu().numpy()
        events["y"], events["x"] = np.divmod(pixel, self._width)
        events["p"] = torch.cat([part.on for part in parts]).cpu().numpy()
        # So ordered, neighbours of one time share a vector word of evt3.
        return events[np.lexsort((pixel, events["p"], events["t"]))]


class SpikeTensor:
    """Takes the crossings of B sensors, and sets one cell each: no list of events is made.

    Args:
        shape: B, T, H and W.
        edges_us: int64 [B, T + 1], bounds of the bins; bin j holds edges[j] <= t < edges[j + 1].
        device: of the tensor.

    Attributes:
        spikes: uint8 [B, T, 2, H, W] in {0, 1}; polarity 0 is OFF, 1 is ON.
    """

    def __init__(self, shape: tuple[int, int, int, int], edges_us: Tensor, device: torch.device | str = "cpu") -> None:
        batch, bins, height, width = shape
        self.spikes = torch.zeros((batch, bins, 2, height, width), dtype=torch.uint8, device=device)
        self._edges = edges_us
        self._bins, self._plane = bins, height * width

    def __call__(self, crossings: Crossings) -> None:
        """Set their cells; events outside of the window are left out."""
        sensor = crossings.pixel // self._plane
        bin_ = (crossings.t_us[:, None] >= self._edges[sensor]).sum(1) - 1
        inside = (bin_ >= 0) & (bin_ < self._bins)
        cell = ((sensor * self._bins + bin_) * 2 + crossings.on) * self._plane + crossings.pixel % self._plane
        self.spikes.view(-1)[cell[inside]] = 1
