"""What came out of an ablation: means over seeds with their spread, as plain data and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from sdt_ros.evaluation.score import CONSTANT, MAP, PREDICTION

METRICS = {"abs_rel": "Abs Rel", "rmse_log": "RMSE log", "delta1": "delta1"}
PROBES = {"blank": "blank", "first_bin": "first bin repeated", "reversed": "time reversed"}

_READ_EVENTS = ("stem.downs.0.conv_bn.conv", "head.up1.lateral.conv", "head.conv")  # their rate is the sensor's


def summarise(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All figures of an ablation.

    Args:
        results: of its trials, as `run_trials` returns them.

    Returns:
        JSON-able: `arms`, in the order of the results, each with `mean`, `std` (over seeds, n - 1; None of one seed)
        and `seeds` of every figure; `floors`, which are the same for all.
    """
    names = list(dict.fromkeys(result["arm"] for result in results))
    arms = {name: _arm([result for result in results if result["arm"] == name]) for name in names}
    sound = next((result for result in results if not result["failed"]), None)
    floors = {}
    if sound is not None:
        metric = sound["scores"]["metric"]
        floors = {guess: {key: metric[guess][key] for key in METRICS} for guess in (CONSTANT, MAP)}
    return {"arms": arms, "floors": floors, "frames": sound["scores"]["counts"]["frames_scored"] if sound else 0}


def figures_of(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of one trial that tables show, by name."""
    scores = result["scores"]
    own = scores["metric"][PREDICTION]
    rates = [rate for name, rate in scores["firing_rates"].items() if name not in _READ_EVENTS]
    found: dict[str, float | None] = {key: own[key] for key in METRICS}
    found |= {
        "energy_mj": scores["energy_mj"],
        "firing_rate": mean(rates) if rates else None,
        "samples_per_second": result["samples_per_second"],
        "parameters": result["parameters"],
    }
    for probe in PROBES:
        for key in ("abs_rel", "rmse_log"):
            found[f"{probe}.{key}"] = scores["probes"][probe]["metric"][key]
    for name, group in scores["groups"].items():
        found[f"group.{name}.rmse_log"] = group["metric"][PREDICTION]["rmse_log"]
    for band in scores["bands"]:
        found[f"band.{band['from_m']}-{band['to_m']}.abs_rel"] = band[PREDICTION]["abs_rel"]
    return found


def _arm(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    sound = [result for result in results if not result["failed"]]
    rows = [figures_of(result) for result in sound]
    figures = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [value for row in rows if (value := row.get(key)) is not None and math.isfinite(value)]
        figures[key] = {
            "mean": mean(values) if values else None,
            "std": stdev(values) if len(values) > 1 else None,
            "seeds": values,
        }
    return {
        "seeds": [result["seed"] for result in sound],
        "failed": {str(result["seed"]): result["failed"] for result in results if result["failed"]},
        "steps": sound[0]["steps"] if sound else 0,
        "samples": sound[0]["samples"] if sound else 0,
        "figures": figures,
    }


def markdown(summary: Mapping[str, Any]) -> str:
    """The tables of an ablation: scores with their cost, then probes."""
    arms = summary["arms"]
    heads = ["", "seeds", *METRICS.values(), "parameters", "energy [mJ]", "firing rate", "training [samples/s]"]
    keys = [*METRICS, "parameters", "energy_mj", "firing_rate", "samples_per_second"]
    rows = [[name, str(len(arm["seeds"])), *(_cell(arm, key) for key in keys)] for name, arm in arms.items()]
    for guess, floor in summary["floors"].items():
        rows.append([f"*floor: {guess}*", "", *(f"{floor[key]:.4f}" for key in METRICS), "", "", "", ""])
    lines = _table(heads, rows)
    lines += ["", "RMSE log with spoilt input, beside that of sound input; what does not rise was not used.", ""]
    rows = []
    for name, arm in arms.items():
        rows.append([name, _cell(arm, "rmse_log"), *(_cell(arm, f"{probe}.rmse_log") for probe in PROBES)])
    lines += _table(["", "sound", *PROBES.values()], rows)
    groups = list(dict.fromkeys(key for arm in arms.values() for key in arm["figures"] if key.startswith("group.")))
    if len(groups) > 1:
        lines += ["", "RMSE log by sequence or scene family.", ""]
        rows = [[name, *(_cell(arm, key) for key in groups)] for name, arm in arms.items()]
        lines += _table(["", *(key.removeprefix("group.").removesuffix(".rmse_log") for key in groups)], rows)
    for name, arm in arms.items():
        lines += ["", *(f"{name}, seed {seed}, failed: {why}" for seed, why in arm["failed"].items())]
    return "\n".join(lines).rstrip() + "\n"


def _cell(arm: Mapping[str, Any], key: str) -> str:
    figure = arm["figures"].get(key)
    if figure is None or figure["mean"] is None:
        return "-"
    if key == "parameters":
        return f"{figure['mean'] / 1e6:.2f} M"
    digits = {"energy_mj": 3, "samples_per_second": 1, "firing_rate": 3}.get(key, 4)
    spread = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{spread}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]
