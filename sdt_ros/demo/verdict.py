"""Figures of a demo run, and whether the output was as it should be."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdt_ros.evaluation.expected import Expected
from sdt_ros.evaluation.published import Received


def summarize(received: Received, expected: Expected, replay_rate: float) -> dict[str, Any]:
    """Everything that `summary.json` says about the output; `problems` is empty when all is well."""
    last = received.stats[-1] if received.stats else None
    count = len(received.times)
    span_s = received.times[-1] - received.times[0] if count > 1 else 0.0
    latencies = [stats.latency_ms for stats in received.stats]
    networks = [stats.network_ms for stats in received.stats]
    pixels = np.concatenate(received.samples) if count else np.empty(0, np.float32)
    known = pixels[np.isfinite(pixels)]
    return {
        "windows_due": expected.due,
        "windows_received": count,
        "windows_skipped": int(last.windows_skipped) if last else 0,
        "windows_empty": expected.empty,
        "packets_lost": int(last.packets_lost) if last else 0,
        "rate_hz": round((count - 1) / span_s, 3) if span_s else 0.0,
        "replay_rate": replay_rate,
        "event_rate_mev_s": round(expected.events / expected.seconds / 1e6, 4),
        "latency_ms": _percentiles(latencies),
        "network_ms": _percentiles(networks),
        "runtime": last.runtime if last else "",
        "trained": bool(last.trained) if last else False,
        "sensor": {"height": expected.sensor_size[0], "width": expected.sensor_size[1]},
        "depth_m": _range(known),
        "nan_share": round(1 - known.size / pixels.size, 6) if pixels.size else None,
        "problems": _problems(received, expected),
    }


def _percentiles(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    p50, p99 = np.percentile(values, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2)}


def _range(known: np.ndarray) -> dict[str, float] | None:
    if not known.size:
        return None
    low, median, high = np.percentile(known, [0, 50, 100])
    return {"min": round(float(low), 3), "median": round(float(median), 3), "max": round(float(high), 3)}


def _problems(received: Received, expected: Expected) -> list[str]:
    """What a subscriber would complain of, in words."""
    found = []
    stamps = [stamp for stamp, _ in received.image_headers]
    if not stamps:
        return ["no depth image arrived"]
    if len(set(stamps)) < len(stamps):
        found.append(f"{len(stamps) - len(set(stamps))} depth images share their stamp with another")
    if stamps != sorted(stamps):
        found.append("stamps went back")
    images, infos = set(received.image_headers), set(received.info_headers)
    if images - infos:
        found.append(f"{len(images - infos)} depth images have no camera_info with the same header")
    if infos - images:
        found.append(f"{len(infos - images)} camera_info have no depth image with the same header")
    if received.encodings != {"32FC1"}:
        found.append(f"depth images are {', '.join(sorted(received.encodings))}, not 32FC1")
    for what, sizes in (("depth images", received.sizes), ("camera_info", received.info_sizes)):
        if sizes != {expected.sensor_size}:
            found.append(f"{what} have the sizes {sorted(sizes)}, the sensor has {expected.sensor_size}")
    blank = sum(not np.isfinite(sample).any() for sample in received.samples)
    if blank:
        found.append(f"{blank} depth images know no depth at all")
    unexpected = set(stamps) - {window.stamp_ns for window in expected.windows}
    if unexpected:
        found.append(f"{len(unexpected)} depth images have stamps that are no window's end")
    for stats in received.stats:
        if stats.windows_published + stats.windows_skipped + stats.windows_empty != stats.windows_due:
            found.append(f"window {stats.window}: published + skipped + empty is not due")
            break
    return found
