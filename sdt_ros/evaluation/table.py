"""The figures of an evaluation on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sdt_ros.evaluation import uncertainty
from sdt_ros.evaluation.metrics import METRICS
from sdt_ros.evaluation.score import CONSTANT, GUESSES, MAP, PREDICTION

UNTRAINED = "UNTRAINED WEIGHTS: these are the scores of random numbers, not of depth"
_SHORT = ("abs_rel", "rmse", "rmse_log", "delta1")


def number(value: float | None) -> str:
    """A score in as many digits as are worth reading; a dash where there is none."""
    if value is None:
        return "-"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    decimals = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    return f"{value:.{decimals}f}"


def band_name(band: Mapping[str, Any]) -> str:
    """A band of distance in words."""
    if band["to_m"] is None:
        return f"from {band['from_m']:g} m"
    return f"{band['from_m']:g}-{band['to_m']:g} m"


def share(part: float) -> str:
    """A share in per cent; what is there is never written as 0."""
    return "< 1 %" if 0 < part < 0.01 else f"{100 * part:.0f} %"


def table(content: Mapping[str, Any]) -> str:
    """Everything that matters, in lines."""
    counts, settings, timing = content["counts"], content["settings"], content["timing"]
    lines = [] if content["trained"] else [f"*** {UNTRAINED} ***", ""]
    events = f", {counts['events']:,} events" if "events" in counts else ""
    lines += [
        f"network    {content['network']}",
        f"recording  {settings['recording']}, {settings['recording_s']:.1f} s{events}",
        *([f"events     {settings['events']}"] if "events" in settings else []),
        *([f"lens       {settings['rectification']}"] if "rectification" in settings else []),
        f"truth      {settings['truth']}, {counts['truth_images']} images",
        f"protocol   {describe(settings['protocol'])}",
        f"scored     {counts['frames_scored']} frames, {counts['pixels']:,} pixels; "
        f"{100 * counts['missing_share']:.2f} % of the valid pixels have no prediction",
        "not scored " + "; ".join(left_out(counts)),
        *([f"live       {arrivals(content['live'])}"] if content["live"] else []),
        "",
        "metric depth (mean over frames)",
        *_scores(content["metric"]),
        "",
        "scaled by the truth's median in each frame: the scale is given away, not comparable with the above",
        *_scores(content["median_scaled"]),
        "",
        *_bands(content["bands"]),
        *(["", *_groups(content["groups"])] if len(content["groups"]) > 1 else []),
        *(["", *_probes(content)] if content["probes"] else []),
        "",
        f"floors: {CONSTANT} is {content['floor_constant_m']:.3f} m everywhere; {MAP} is each pixel's mean "
        "log depth; both are made from this very truth",
    ]
    if content["uncertainty"] is not None:
        lines.append(f"uncertainty: {uncertainty.describe(content['uncertainty'])}")
    if content["energy_mj"] is not None:
        lines.append(
            f"energy: {content['energy_mj']:.3f} mJ a window by operations alone, mean of {content['windows_measured']}"
        )
    if timing["real_time_factor"] is not None:  # depth from the graph was made by the node, in its own time
        lines.append(
            f"time: {timing['seconds']:.1f} s, {timing['real_time_factor']:.2f} times real time; the network took "
            f"{timing['network_ms']:.1f} ms a window, {100 * timing['network_share']:.0f} % of it"
        )
    if not content["trained"]:
        lines += ["", f"*** {UNTRAINED} ***"]
    return "\n".join(lines)


def describe(protocol: Mapping[str, Any]) -> str:
    """A protocol in words."""
    parts = [f"cut at {protocol['far_m']:g} m" if protocol["far_m"] else "no cut"]
    parts += ["each frame's farthest left out"] if protocol["below_max"] else []
    parts += [f"upper {protocol['rows']} rows"] if protocol["rows"] else []
    return f"{protocol['name']}: {', '.join(parts)}"


def arrivals(live: Mapping[str, Any]) -> str:
    """What arrived on the graph, in words."""
    parts = [
        f"{live['due']} windows due, {live['arrived']} depth images arrived: {live['missing']} missing, "
        f"{live['late']} late (later than {live['late_ms']:.0f} ms)"
    ]
    parts += [f"{live['unexpected']} not due"] if live["unexpected"] else []
    parts += [f"{live['packets_lost']} packets lost on the way"] if live["packets_lost"] else []
    if live["latency_ms"]:
        parts.append(f"latency {live['latency_ms']['p50']:.1f} ms median, {live['latency_ms']['p99']:.1f} ms p99")
    return "; ".join(parts)


def _scores(rows: Mapping[str, Mapping[str, float | None]], guesses: Sequence[str] = GUESSES) -> list[str]:
    lines = [f"{'':<16}" + "".join(f"{guess:>17}" for guess in guesses)]
    for name, (label, _) in METRICS.items():
        lines.append(f"{label:<16}" + "".join(f"{number(rows[guess][name]):>17}" for guess in guesses))
    return lines


def _bands(bands: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = ("Abs Rel", "median", "map", "MAE [m]", "RMSE [m]", "delta<1.25", "median", "map")
    lines = [f"{'distance':<12}{'pixels':>8}" + "".join(f"{head:>12}" for head in heads)]
    for band in bands:
        if not band["pixel_share"]:
            continue
        own, median, pixels = band[PREDICTION], band[CONSTANT], band[MAP]
        cells = [own["abs_rel"], median["abs_rel"], pixels["abs_rel"], own["mean_abs_error"], own["rmse"]]
        cells += [own["delta1"], median["delta1"], pixels["delta1"]]
        lines.append(
            f"{band_name(band):<12}{100 * band['pixel_share']:>7.1f}%" + "".join(f"{number(one):>12}" for one in cells)
        )
    return lines


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One line a group: the network, and in the same columns the floors made of this group's own truth."""
    width = max(12, *(len(name) + 2 for name in groups))
    heads = [head for label in ("Abs Rel", "RMSE", "RMSE log", "delta<1.25") for head in (label, "median", "map")]
    lines = [f"{'group':<{width}}{'frames':>7}" + "".join(f"{head:>11}" for head in heads)]
    for name, group in groups.items():
        cells = [group["metric"][guess][metric] for metric in _SHORT for guess in GUESSES]
        lines.append(f"{name:<{width}}{group['frames']:>7}" + "".join(f"{number(cell):>11}" for cell in cells))
    return [*lines, "median and map are the floors, made from each group's own truth"]


def _probes(content: Mapping[str, Any]) -> list[str]:
    rows = {PREDICTION: content["probed"], **content["probes"]}
    return [
        f"probes: the network on spoilt input, beside itself on the same {content['probed']['frames']} frames; one "
        "that sees does worse on all",
        *_scores({name: row["metric"] for name, row in rows.items()}, tuple(rows)),
        "",
        "the same, scaled by the truth's median",
        *_scores({name: row["median_scaled"] for name, row in rows.items()}, tuple(rows)),
    ]


def left_out(counts: Mapping[str, int]) -> list[str]:
    """What was not scored, in words."""
    texts = {
        "truth_dropped": "truth images with bad stamps",
        "truth_unmatched": "truth images without depth",
        "depth_unmatched": "depth images without truth",
        "windows_before_events": "of them before the events",
        "windows_after_events": "of them behind the events",
        "windows_empty": "windows with too few events",
        "frames_without_pixels": "frames without a valid pixel",
        "packets_lost": "packets lost",
        "packets_unreadable": "packets that cannot be read",
    }
    return [f"{counts[name]} {text}" for name, text in texts.items() if counts.get(name)] or ["nothing"]
