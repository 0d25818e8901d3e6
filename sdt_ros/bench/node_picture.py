"""The picture of `sdt bench node --profile`: one window's way through the node, thread by thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Span = tuple[str, str, int, int]

_THREADS = ("executor", "inference")
_COLOURS = {  # in the order that they are drawn: what lies within another comes later
    "take": "#9ecae1",
    "callback": "#6baed6",
    "decode and bin": "#2171b5",
    "offer": "#08306b",
    "window": "#d9d9d9",
    "network": "#fdae6b",
    "publish depth": "#31a354",
    "statistics": "#9e9ac8",
    "publish stats": "#756bb1",
    "clear": "#bdbdbd",
    "garbage": "#de2d26",
}
_NAMES = {
    "take": "take from DDS",
    "callback": "callback",
    "window": "inference thread, other",
    "offer": "hand over",
    "garbage": "garbage collection",
}
_PHASES = (
    "import torch",
    "import the rest",
    "rclpy.init",
    "make node",
    "load network",
    "warm up",
    "decoders",
    "subscribe",
)


def median_window(notes: dict[str, Any], skip_ns: int) -> tuple[int, int, int, int]:
    """The window of median latency: index, arrival of its last packet, finished, published [ns].

    Args:
        notes: of `node_trace`.
        skip_ns: windows that ended this soon after the first one do not count.

    Raises:
        ValueError: there is none.
    """
    published = sorted(end for what, _, _, end in notes["spans"] if what == "publish depth")
    found = []
    for index, received, finished in notes["windows"]:
        end = next((end for end in published if end > finished), None)
        if end is not None and received - notes["windows"][0][1] > skip_ns:
            found.append((end - received, index, received, finished, end))
    if not found:
        raise ValueError("no window was published: there is nothing to draw")
    return sorted(found)[len(found) // 2][1:]


def phases(notes: dict[str, Any]) -> dict[str, float]:
    """What happened from the process's start to its first depth image, in seconds."""
    began, spans = notes["began_ns"], notes["spans"]
    first = min((end for what, _, _, end in spans if what == "publish depth"), default=None)
    parts = {}
    for phase in _PHASES:
        calls = [end - start for what, _, start, end in spans if what == phase]
        if calls:
            parts[phase] = calls[0] / 1e9
    subscribed = next((end for what, _, _, end in spans if what == "subscribe"), None)
    if subscribed is not None:
        parts["start to subscribed"] = (subscribed - began) / 1e9
    packet = min((start for what, _, start, _ in spans if what == "callback"), default=None)
    if first is not None and packet is not None:
        parts["first packet to first depth"] = (first - packet) / 1e9
    return {name: round(seconds, 2) for name, seconds in parts.items()}


def draw(notes: dict[str, Any], file: Path, title: str, skip_ns: int, window_ms: float) -> None:
    """Draw the median window: all of it, and from close by its end and its publishing.

    Args:
        notes: of `node_trace`.
        file: takes the picture.
        title: of the picture.
        skip_ns: windows that ended this soon after the first one do not count.
        window_ms: length of a window [ms].
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    index, received, finished, published = median_window(notes, skip_ns)

    def ms(at: int) -> float:
        return (at - received) / 1e6

    figure, axes = pyplot.subplot_mosaic(
        [["all", "all"], ["end", "publish"]], figsize=(12, 5.6), layout="constrained", gridspec_kw={"hspace": 0.08}
    )
    network_end = max(end for what, _, _, end in notes["spans"] if what == "network" and end <= published)
    views = {
        "all": (-window_ms * 1.1, ms(published) * 1.05 + 2, "the whole window"),
        "end": (-1.5, ms(finished) + 2.5, "its last packet"),
        "publish": (ms(network_end) - 0.5, ms(published) + 2.0, "its depth"),
    }
    used = set()
    for name, (low, high, caption) in views.items():
        axis = axes[name]
        for what, colour in _COLOURS.items():
            for note, thread, start, end in notes["spans"]:
                if note.partition(",")[0] != what or thread not in _THREADS or ms(end) < low or ms(start) > high:
                    continue
                used.add(what)
                width = max(ms(end) - ms(start), (high - low) / 2000)
                axis.barh(_THREADS.index(thread), width, left=ms(start), height=0.7, color=colour, linewidth=0)
        for at, text in ((0.0, "last packet\nreceived"), (ms(finished), "binned"), (ms(published), "published")):
            if low <= at <= high and not (name == "all" and text == "binned"):
                axis.axvline(at, color="black", linewidth=0.8, linestyle=":")
                axis.annotate(
                    text, (at, 1.46), fontsize=7.5, ha="left", va="bottom", xytext=(2, 0), textcoords="offset points"
                )
        axis.set_xlim(low, high)
        axis.set_ylim(-0.5, 1.95)
        axis.set_yticks(range(len(_THREADS)), _THREADS)
        axis.set_xlabel(f"{caption} [ms since its last packet was received]", fontsize=8.5)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [Patch(color=colour, label=_NAMES.get(what, what)) for what, colour in _COLOURS.items() if what in used]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    figure.suptitle(f"{title}; window {index}, of median latency", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
