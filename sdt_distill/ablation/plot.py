"""Error against energy, one mark a seed, as a PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdt_ros.evaluation.score import MAP


def plot(summary: Mapping[str, Any], title: str, path: Path) -> None:
    """Draw the arms of an ablation: energy of a window to the right, RMSE log upwards, so that low and left is good.

    Args:
        summary: of `summarise`.
        title: above the plot.
        path: the PNG file.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    figure = Figure(figsize=(6.4, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, arm) in enumerate(summary["arms"].items()):
        if not arm["seeds"]:
            continue
        energy, error = arm["figures"]["energy_mj"], arm["figures"]["rmse_log"]
        colour = f"C{number}"
        axes.plot(energy["seeds"], error["seeds"], "o", color=colour, alpha=0.45, markersize=5)
        axes.errorbar(
            energy["mean"], error["mean"], xerr=energy["std"] or 0, yerr=error["std"] or 0,
            fmt="D", color=colour, capsize=3, label=name,
        )  # fmt: skip
    if MAP in summary["floors"]:
        axes.axhline(
            summary["floors"][MAP]["rmse_log"], color="0.5", linestyle="--", linewidth=1, label=f"floor: {MAP}"
        )
    axes.set_xscale("log")
    least, most = axes.get_xlim()
    few = LogLocator(subs=(1, 2, 5)) if most > 4 * least else MaxNLocator(6)  # more labels lie upon each other
    axes.xaxis.set_major_locator(few)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("energy of a window [mJ], operations alone")
    axes.set_ylabel("RMSE log, held out")
    axes.set_title(textwrap.fill(title, 80), fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
