"""From arrays of events to the spikes of one window, as `EventStream` makes them of packets."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from sdt_ros.compiled import njit
from sdt_ros.events.windows import WindowConfig


def bin_events(
    events: np.ndarray | Mapping[str, ArrayLike],
    sensor_size: tuple[int, int],
    t_end_us: int,
    window_ms: float = 50.0,
    bins: int = 4,
) -> np.ndarray:
    """The spikes of the window that ends before a time, as a network takes them.

    Args:
        events: `t` whole times [us], `x` columns and `y` rows [px] and `p` polarities, above 0 is ON, each [N]: a
            structured array as `PacketDecoder` gives it, or a mapping of four arrays. In any order; those outside of
            the window are left out.
        sensor_size: height and width of the sensor [px].
        t_end_us: the time that the window ends before [us].
        window_ms: duration of the window [ms]; `DepthEstimator.window_ms` is what its network was trained on.
        bins: time bins T of the window; `DepthEstimator.bins`.

    Returns:
        uint8 [T, 2, H, W] in {0, 1}; polarity 0 is OFF, 1 is ON.

    Raises:
        ValueError: an event lies outside of the sensor, the arrays are not such, or the window is none; the message
            says which.
    """
    try:
        t, x, y, p = (np.asarray(events[name]) for name in "txyp")
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"events need t [us], x and y [px] and p: {error}") from None
    if t.dtype.kind not in "iu":
        raise ValueError(f"the times are {t.dtype}, expected whole microseconds: (1e6 * seconds).astype(np.int64)")
    if not (t.ndim == 1 and t.shape == x.shape == y.shape == p.shape):
        raise ValueError(
            f"t, x, y and p have shapes {t.shape}, {x.shape}, {y.shape} and {p.shape}, expected one length"
        )
    window_us = WindowConfig(window_ms, bins, rate_hz=0.1).window_us
    edges = bin_edges(int(t_end_us), window_us, bins)
    return bin_on_cells(t, x, y, p, plain_cells(*sensor_size), sensor_size, edges)


def bin_edges(t_end_us: int, window_us: int, bins: int) -> np.ndarray:
    """The T + 1 bounds of a window's bins, int64 [us]; bin j holds edges[j] <= t < edges[j + 1].

    The same whole-number arithmetic as `sdt_ros.events.windows`, so that offline and live windows are the same.
    """
    start = t_end_us - window_us
    return np.array([start + (j * window_us) // bins for j in range(bins + 1)], np.int64)


def plain_cells(height: int, width: int) -> np.ndarray:
    """The cells of a camera that needs no rectification, int32 [height, width]."""
    return np.arange(height * width, dtype=np.int32).reshape(height, width)


@njit(nogil=True, cache=True)
def _fill(t, x, y, p, cells, edges, spikes):  # type: ignore[no-untyped-def]
    """Set the spikes; returns the first event outside of the sensor, -1 if none is."""
    bins, plane = spikes.shape[0], spikes.shape[2]
    height, width = cells.shape
    j = 0
    for i in range(t.size):
        if t[i] < edges[0] or t[i] >= edges[bins]:
            continue
        if x[i] < 0 or x[i] >= width or y[i] < 0 or y[i] >= height:
            return i
        while t[i] >= edges[j + 1]:
            j += 1
        while t[i] < edges[j]:
            j -= 1
        cell = cells[y[i], x[i]]
        if 0 <= cell < plane:
            spikes[j, 1 if p[i] > 0 else 0, cell] = 1
    return -1


def bin_on_cells(
    t: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    p: np.ndarray,
    cells: np.ndarray,
    size: tuple[int, int],
    edges: np.ndarray,
) -> np.ndarray:
    """Bins events on a grid of any kind; those outside of the window or off the grid are dropped.

    Args:
        t: times [us], integers [N].
        x: columns on the sensor [px], [N].
        y: rows on the sensor [px], [N].
        p: polarities [N], above 0 is ON.
        cells: where each pixel's events go, int32 [h, w]: row * width + column of the grid, -1 for none.
        size: height and width of the grid [px].
        edges: bounds of the bins, from `bin_edges`.

    Returns:
        uint8 [T, 2, H, W] in {0, 1}.

    Raises:
        ValueError: an event lies outside of the sensor; the message says which.
    """
    height, width = size
    spikes = np.zeros((len(edges) - 1, 2, height * width), np.uint8)
    # One type of each, so that the loop is compiled once.
    columns, rows = x.astype(np.int32), y.astype(np.int32)
    stray = _fill(t.astype(np.int64), columns, rows, p.astype(np.int8), cells, edges, spikes)
    if stray >= 0:
        raise ValueError(
            f"event {stray} of the window lies at ({columns[stray]}, {rows[stray]}), outside of the sensor of "
            f"{cells.shape[1]}x{cells.shape[0]} px"
        )
    return spikes.reshape(-1, 2, height, width)
