"""From arrays of events to spikes of one window: exact in time, each event on the rectified grid."""

from __future__ import annotations

import numpy as np

from sdt_ros.compiled import njit


def bin_edges(t_end_us: int, window_us: int, bins: int) -> np.ndarray:
    """The T + 1 bounds of a window's bins, int64 [us]; bin j holds edges[j] <= t < edges[j + 1].

    The same whole-number arithmetic as `sdt_ros.events.windows`, so that offline and live windows are the same.
    """
    start = t_end_us - window_us
    return np.array([start + (j * window_us) // bins for j in range(bins + 1)], np.int64)


def rectified_cells(map_x: np.ndarray, map_y: np.ndarray, height: int, width: int) -> np.ndarray:
    """The cell of the rectified grid that each pixel's events go to.

    Args:
        map_x: [h, w] rectified column of each pixel of the sensor [px].
        map_y: the same for rows.
        height: rows of the rectified grid.
        width: its columns.

    Returns:
        int32 [h, w]: row * width + column, rounded to the nearest; -1 for pixels that fall off the grid.
    """
    known = np.isfinite(map_x) & np.isfinite(map_y)
    x, y = (np.rint(np.where(known, m, -1.0)).clip(-1, 1 << 20).astype(np.int64) for m in (map_x, map_y))
    inside = known & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return np.where(inside, y * width + x, -1).astype(np.int32)


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


def bin_events(
    t: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    p: np.ndarray,
    cells: np.ndarray,
    size: tuple[int, int],
    edges: np.ndarray,
) -> np.ndarray:
    """Bin events; those outside of the window or off the grid are dropped.

    Args:
        t: times [us], integers [N].
        x: columns on the sensor [px], [N].
        y: rows on the sensor [px], [N].
        p: polarities [N], above 0 is ON.
        cells: where each pixel's events go, from `rectified_cells` or `plain_cells`.
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
