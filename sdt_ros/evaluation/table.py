"""The figures of an evaluation on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdt_ros.evaluation.metrics import METRICS
from sdt_ros.evaluation.score import GUESSES, PREDICTION

UNTRAINED = "UNTRAINED WEIGHTS: these are the scores of random numbers, not of depth"


def number(value: float | None) -> str:
    """A score in as many digits as are worth reading; a dash where there is none."""
    if value is None:
        return "-"
    if 0 < abs(value) < 0.001:
        return f"{value:.1e}"
    decimals = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    return f"{value:.{decimals}f}"


def table(content: Mapping[str, Any]) -> str:
    """Everything that matters, in lines."""
    counts, settings, timing = content["counts"], content["settings"], content["timing"]
    lines = [] if content["trained"] else [f"*** {UNTRAINED} ***", ""]
    lines += [
        f"network    {content['network']}",
        f"recording  {settings['bag']}, {settings['recording_s']:.1f} s, {counts['events']:,} events",
        f"truth      {settings['truth_topic']}, {counts['truth_images']} images",
        f"protocol   {describe(settings['protocol'])}",
        f"scored     {counts['frames_scored']} frames, {counts['pixels']:,} pixels; "
        f"{100 * counts['missing_share']:.2f} % of the valid pixels have no prediction",
        "not scored " + "; ".join(left_out(counts)),
        "",
        "metric depth (mean over frames)",
        *_scores(content["metric"]),
        "",
        "scaled by the truth's median in each frame: the scale is given away, not comparable with the above",
        *_scores(content["median_scaled"]),
        "",
        f"{'distance':<12}{'pixels':>8}"
        + "".join(f"{head:>12}" for head in ("Abs Rel", "MAE [m]", "RMSE [m]", "delta<1.25", "map AbsRel")),
    ]
    for band in content["bands"]:
        own, floor = band[PREDICTION], band[GUESSES[2]]
        cells = "".join(f"{number(own[name]):>12}" for name in ("abs_rel", "mean_abs_error", "rmse", "delta1"))
        name = f"{band['from_m']}-{band['to_m']} m"
        lines.append(f"{name:<12}{100 * band['pixel_share']:>7.1f}%{cells}{number(floor['abs_rel']):>12}")
    lines += [
        "",
        f"floors: {GUESSES[1]} is {content['floor_constant_m']:.3f} m everywhere; {GUESSES[2]} is each pixel's mean "
        "log depth; both are made from this very truth",
        f"energy: {content['energy_mj']:.3f} mJ a window by operations alone, mean of {content['windows_measured']}",
    ]
    if timing["real_time_factor"] is not None:  # depth of the demo was made by the node, in its own time
        lines.append(f"time: {timing['seconds']:.1f} s, {timing['real_time_factor']:.1f} times real time")
    if not content["trained"]:
        lines += ["", f"*** {UNTRAINED} ***"]
    return "\n".join(lines)


def describe(protocol: Mapping[str, Any]) -> str:
    """A protocol in words."""
    parts = [f"cut at {protocol['far_m']:g} m" if protocol["far_m"] else "no cut"]
    parts += ["each frame's farthest left out"] if protocol["below_max"] else []
    parts += [f"upper {protocol['rows']} rows"] if protocol["rows"] else []
    return f"{protocol['name']}: {', '.join(parts)}"


def _scores(rows: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    lines = [f"{'':<16}" + "".join(f"{guess:>17}" for guess in GUESSES)]
    for name, (label, _) in METRICS.items():
        lines.append(f"{label:<16}" + "".join(f"{number(rows[guess][name]):>17}" for guess in GUESSES))
    return lines


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
    }
    return [f"{counts[name]} {text}" for name, text in texts.items() if counts.get(name)] or ["nothing"]
