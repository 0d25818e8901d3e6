"""From arrays of events to the spikes of one window, as `EventStream` makes them of packets."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real

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
        events: `t` whole times [us], `x` columns and `y` rows, whole [px], and `p` polarities, above 0 is ON, each [N]:
            a structured array as `PacketDecoder` gives it, or a mapping of four arrays. In any order; those outside of
            the window are left out.
        sensor_size: height and width of the sensor [px].
        t_end_us: the whole time that the window ends before [us].
        window_ms: duration of the window [ms]; `DepthEstimator.window_ms` is what its network was trained on.
        bins: time bins T of the window; `DepthEstimator.bins`.

    Returns:
        uint8 [T, 2, H, W] in {0, 1}; polarity 0 is OFF, 1 is ON.

    Raises:
        ValueError: an event lies outside of the sensor, or something else is wrong; the message says what.
    """
    t, x, y, p = _arrays(events)
    if not isinstance(t_end_us, Integral):
        raise ValueError(f"t_end_us is {t_end_us!r}, expected whole microseconds")
    if not (isinstance(bins, Integral) and isinstance(window_ms, Real)):
        raise ValueError(f"bins is {bins!r} and window_ms {window_ms!r}, expected a whole number and one in ms")
    sides = sensor_size if isinstance(sensor_size, tuple | list) else ()
    if len(sides) != 2 or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise ValueError(f"sensor_size is {sensor_size!r}, expected (height, width), whole and above 0")
    height, width = (int(side) for side in sides)
    edges = bin_edges(int(t_end_us), WindowConfig(float(window_ms), int(bins), rate_hz=0.1).window_us, int(bins))
    try:
        return bin_on_cells(t, x, y, p, plain_cells(height, width), (height, width), edges)
    except ValueError as error:
        raise ValueError(f"{error}; sensor_size is (height, width)") from None


def _arrays(events: np.ndarray | Mapping[str, ArrayLike]) -> list[np.ndarray]:
    """The events' four arrays, of which nothing will be lost when they are taken as whole numbers."""
    try:
        arrays = [np.asarray(events[name]) for name in "txyp"]
    except (KeyError, ValueError, IndexError, TypeError):
        raise ValueError(
            f"events are a {type(events).__name__} without t, x, y and p: give a structured array, or a mapping such "
            'as {"t": e[:, 0], "x": e[:, 1], "y": e[:, 2], "p": e[:, 3]}'
        ) from None
    shapes = [array.shape for array in arrays]
    if len(shapes[0]) != 1 or any(shape != shapes[0] for shape in shapes):
        raise ValueError("t, x, y and p have shapes {}, {}, {} and {}, expected one [N]".format(*shapes))
    if not arrays[0].size:
        return [array.astype(np.int64) for array in arrays]
    fixes = {"t": "(1e6 * seconds).astype(np.int64)", "x": "np.rint(x).astype(int)", "y": "np.rint(y).astype(int)"}
    for (name, fix), array in zip(fixes.items(), arrays, strict=False):
        if array.dtype.kind not in "iu":
            unit = "microseconds" if name == "t" else "pixels"
            raise ValueError(f"{name} is {array.dtype}, expected whole {unit}: {fix}")
        if array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{name} reaches {array.max()}, more than 64 bits with a sign hold")
    if arrays[3].dtype.kind not in "biuf" or (arrays[3] != arrays[3]).any():
        raise ValueError(f"p is {arrays[3].dtype} or has NaN, expected numbers: above 0 is ON")
    return arrays


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
def _fill(t, x, y, on, cells, edges, spikes):  # type: ignore[no-untyped-def]
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
            spikes[j, 1 if on[i] else 0, cell] = 1
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
    columns, rows = x.astype(np.int64), y.astype(np.int64)
    stray = _fill(t.astype(np.int64), columns, rows, p > 0, cells, edges, spikes)
    if stray >= 0:
        raise ValueError(
            f"event {stray} of the window lies at ({columns[stray]}, {rows[stray]}), outside of the sensor of "
            f"{cells.shape[1]}x{cells.shape[0]} px"
        )
    return spikes.reshape(-1, 2, height, width)
