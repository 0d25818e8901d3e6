"""Charts of an evaluation as inline SVG."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from sdt_ros.evaluation.score import CONSTANT, GUESSES, MAP, PREDICTION
from sdt_ros.evaluation.table import band_name, share

COLOURS = {PREDICTION: "#1f5fa8", CONSTANT: "#b9a67a", MAP: "#8b8b83"}
_NAMED = 8  # groups whose names fit above a chart
_INK, _GRID = "#3a3a36", "#e4e2da"
# A fixed salt and no date: equal figures give equal pages.
_STYLE: Any = {"svg.hashsalt": "sdt_eval", "svg.fonttype": "none", "font.family": "DejaVu Sans", "font.size": 10}


def over_time(frames: list[dict[str, Any]]) -> str:
    """Abs Rel, mean error and spikes of each frame: over time, or recording by recording where there are several."""
    groups = list(dict.fromkeys(frame["group"] for frame in frames))
    if len(groups) == 1:
        times = (np.array([frame["stamp_ns"] for frame in frames]) - frames[0]["stamp_ns"]) / 1e9
        starts = []
    else:
        frames = [frame for group in groups for frame in frames if frame["group"] == group]
        times = np.arange(len(frames), dtype=float)
        starts = [next(i for i, frame in enumerate(frames) if frame["group"] == group) for group in groups]
    rows = (
        ("abs_rel", "Abs Rel", COLOURS[PREDICTION]),
        ("mean_error", "mean error [m]", "#a8431f"),
        ("spike_density", "spikes [%]", "#6b7f3a"),
    )
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 4.4), layout="constrained")
        for place, (axes, (name, label, colour)) in enumerate(
            zip(figure.subplots(len(rows), 1, sharex=True), rows, strict=True)
        ):
            values = np.array([frame[name] for frame in frames], float) * (100 if name == "spike_density" else 1)
            for first, behind in zip(starts or [0], [*starts[1:], len(frames)], strict=True):
                marker = "o" if len(frames) < 60 else ""
                axes.plot(times[first:behind], values[first:behind], color=colour, linewidth=1.4, marker=marker,
                          markersize=3)  # fmt: skip
            for first in starts[1:]:
                axes.axvline(first - 0.5, color=_INK, linewidth=0.6, linestyle=(0, (2, 3)))
            if name == "mean_error":
                axes.axhline(0, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
            else:
                axes.set_ylim(0, 1.15 * np.nanmax(values, initial=1e-9))
            axes.set_ylabel(label)
            _plain(axes)
            if starts and place == 0 and len(groups) <= _NAMED:
                for group, first, behind in zip(groups, starts, [*starts[1:], len(frames)], strict=True):
                    axes.text((first + behind - 1) / 2, 1.02, group, transform=axes.get_xaxis_transform(),
                              ha="center", va="bottom", fontsize=8, color=_INK)  # fmt: skip
        axes.set_xlabel("frame" if starts else "time since the first frame [s]")
        figure.align_ylabels()
        return _svg(figure)


def by_distance(bands: list[dict[str, Any]]) -> str:
    """Abs Rel by distance, of the network and of the floors."""
    places = np.arange(len(bands))
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 2.7), layout="constrained")
        axes = figure.subplots()
        for number, guess in enumerate(GUESSES):
            values = [np.nan if band[guess]["abs_rel"] is None else band[guess]["abs_rel"] for band in bands]
            axes.bar(places + 0.26 * (number - 1), values, 0.24, color=COLOURS[guess], label=guess)
        names = [f"{band_name(band)}\n{share(band['pixel_share'])} of pixels" for band in bands]
        axes.set_xticks(places, names)
        axes.tick_params(axis="x", length=0)
        axes.set_ylabel("Abs Rel")
        axes.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
        _plain(axes, "y")
        return _svg(figure)


def firing_rates(rates: dict[str, float]) -> str:
    """Share of ones in the input of each spiking layer."""
    names = list(rates)
    with rc_context(_STYLE):
        figure = Figure(figsize=(9.6, 0.6 + 0.22 * len(names)), layout="constrained")
        axes = figure.subplots()
        values = [100 * rates[name] for name in names]
        bars = axes.barh(names, values, 0.66, color="#6b7f3a")
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=8, color=_INK)
        axes.invert_yaxis()
        axes.margins(x=0.08, y=0.01)
        axes.tick_params(axis="y", labelsize=8)
        axes.set_xlabel("ones in the layer's input [%]")
        _plain(axes, "x")
        return _svg(figure)


def _plain(axes: Axes, grid: Literal["both", "x", "y"] = "both") -> None:
    axes.grid(axis=grid, color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    axes.tick_params(colors=_INK, length=0)
    axes.yaxis.label.set_color(_INK)
    axes.xaxis.label.set_color(_INK)


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]  # without the XML head and its address of a DTD
    return text.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif")
