"""All figures of an evaluation as plain data, for `--json`, the table and the report."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from sdt_ros.evaluation.metrics import BANDS_M, METRICS, Average
from sdt_ros.evaluation.run import Work
from sdt_ros.evaluation.score import PREDICTION, Frame, Scores, Table
from sdt_ros.network.energy import AC_PJ, MAC_PJ

PACKAGES = ("sdt_ros", "torch", "numpy", "numba", "rosbags")


def figures(
    settings: Mapping[str, Any],
    network: str,
    trained: bool,
    counts: Mapping[str, int],
    scores: Scores,
    work: Work,
    live: Mapping[str, Any] | None = None,
    uncertainty: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What there is to say about an evaluation. All but `timing` is the same each time, bit for bit.

    Args:
        settings: what was evaluated and how; `recording_s` is the time that it covers [s].
        network: in words.
        trained: whether its weights are.
        counts: what became of windows, truth and packets.
        scores: all scores.
        work: what it took.
        live: what was late and missing, where depth was seen on the graph.
        uncertainty: how far what the network tells of it holds, where it does.

    Returns:
        JSON-able; None where there is no value.
    """
    recording_s = settings["recording_s"]
    total = scores.total
    probed = scores.probed
    return {
        "trained": trained,
        "network": network,
        "settings": dict(settings),
        "counts": {
            **counts,
            "frames_scored": total.frames,
            "frames_without_pixels": scores.without_pixels,
            "pixels": total.pixels,
            "missing_share": scores.missing_share,
        },
        "live": None if live is None else dict(live),
        "uncertainty": None if uncertainty is None else dict(uncertainty),
        "definitions": {name: definition for name, (_, definition) in METRICS.items()},
        **_table(total),
        "groups": {name: {"frames": table.frames, "pixels": table.pixels, **_table(table)} for name, table in
                   scores.groups.items()},
        "probes": {name: _probe(table, name) for name, table in scores.probes.items()},
        "probed": None if probed is None else {"frames": probed.frames, **_probe(probed, PREDICTION)},
        "frames": [_frame(frame) for frame in scores.scored],
        "firing_rates": work.activity.firing_rates,
        "energy_mj": work.activity.energy_mj if work.activity.windows else None,
        "energy_counting": {"pj_per_mac": MAC_PJ, "pj_per_ac": AC_PJ, "memory_traffic_counted": False},
        "windows_measured": work.activity.windows,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "timing": {
            "seconds": work.seconds,
            "real_time_factor": recording_s / work.seconds if work.seconds else None,
            "network_share": work.network_s / work.seconds if work.seconds else None,
            "network_ms": 1000 * work.network_s / work.windows if work.seconds and work.windows else None,
        },
    }  # fmt: skip


def _table(table: Table) -> dict[str, Any]:
    return {
        "metric": {guess: _means(row) for guess, row in table.metric.items()},
        "median_scaled": {guess: _means(row) for guess, row in table.scaled.items()},
        "floor_constant_m": _plain(table.constant_m),
        "bands": _bands(table, PREDICTION),
    }


def _probe(table: Table, name: str) -> dict[str, Any]:
    """The same of one probe, which is the only guess of its table."""
    return {
        "metric": _means(table.metric[name]),
        "median_scaled": _means(table.scaled[name]),
        "bands": [
            {"from_m": near, "to_m": _plain(far), "frames": row["abs_rel"].frames, **_means(row)}
            for (near, far), row in zip(BANDS_M, table.bands[name], strict=True)
        ],
    }


def _bands(table: Table, first: str) -> list[dict[str, Any]]:
    return [
        {
            "from_m": near,
            "to_m": _plain(far),
            "pixel_share": table.band_pixels[band],
            "frames": table.bands[first][band]["abs_rel"].frames,
            **{guess: _means(rows[band]) for guess, rows in table.bands.items()},
        }
        for band, (near, far) in enumerate(BANDS_M)
    ]


def _frame(frame: Frame) -> dict[str, Any]:
    assert frame.metric is not None
    return {
        "group": frame.group,
        "stamp_ns": frame.stamp_ns,
        "truth_stamp_ns": frame.truth_ns,
        "events": frame.events,
        "spike_density": frame.spike_density,
        "pixels": frame.pixels,
        "missing": frame.missing,
        **{name: _plain(value) for name, value in frame.metric.items()},
    }


def _means(row: Mapping[str, Average]) -> dict[str, float | None]:
    return {name: _plain(one.mean) for name, one in row.items()}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:  # run from the source tree
        return None
