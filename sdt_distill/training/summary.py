"""A run on one page: curves of losses, scores and firing rates, examples, and the config."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .log import read_log

_NOT_LOSSES = {"kind", "step", "lr", "samples_per_second", "gradient_norm"}
_SHOWN = ("abs_rel", "rmse_log", "delta1")


def write_summary(folder: Path) -> None:
    """Write `summary.png` and `summary.html`, which needs no other file, from a run's log."""
    rows = read_log(folder)
    if not any(row["kind"] == "train" for row in rows):
        return
    chart = _chart(rows)
    (folder / "summary.png").write_bytes(chart)
    examples = folder / "examples.png"
    parts = ["<h2>Losses, scores and firing rates</h2>", _image(chart)]
    if examples.is_file():
        parts += ["<h2>Held-out samples</h2><p>Events, frame, true depth, estimate; near is red.</p>",
                  _image(examples.read_bytes())]  # fmt: skip
    scores = [row for row in rows if row["kind"] == "validation"]
    if scores:
        parts += ["<h2>Scores on held-out samples</h2>", _table(scores)]
    rates = [row for row in rows if row["kind"] == "rates"]
    if rates:
        shares = [
            {"layer": name, "firing rate": f"{100 * value:.2f} %"}
            for name, value in rates[-1].items()
            if name not in ("kind", "step")
        ]
        parts += [f"<h2>Firing rates at step {rates[-1]['step']}</h2>", _table(shares)]
    config = folder / "config.yaml"
    if config.is_file():
        parts.append(f"<h2>Config</h2><pre>{html.escape(config.read_text(encoding='utf-8'))}</pre>")
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(folder.name)}</title>"
        "<style>body{font:15px sans-serif;margin:2em auto;max-width:1100px}img{max-width:100%}"
        "td,th{padding:2px 12px;text-align:right}th{border-bottom:1px solid}</style>"
        f"<h1>{html.escape(folder.name)}</h1>{''.join(parts)}</html>"
    )
    (folder / "summary.html").write_text(page, encoding="utf-8")


def _chart(rows: Sequence[dict[str, Any]]) -> bytes:
    from matplotlib.figure import Figure

    train = [row for row in rows if row["kind"] == "train"]
    scores = [row for row in rows if row["kind"] == "validation"]
    rates = [row for row in rows if row["kind"] == "rates"]
    figure = Figure(figsize=(14, 8), layout="constrained")
    losses, rate, score, neurons = figure.subplots(2, 2).flat
    steps = [row["step"] for row in train]
    for name in [key for key in train[-1] if key not in _NOT_LOSSES]:
        values = [row.get(name) for row in train]
        losses.plot(steps, _smooth(values), label=name)
    losses.set(title="losses, unweighted but for the total", xlabel="step", yscale="log")
    losses.legend()
    rate.plot(steps, [row["lr"] for row in train])
    rate.set(title="learning rate", xlabel="step")
    for name in _SHOWN:
        score.plot([row["step"] for row in scores], [row.get(name) for row in scores], marker=".", label=name)
    score.set(title="scores on held-out samples", xlabel="step")
    if scores:
        score.legend()
    for name in [key for key in rates[-1] if key not in ("kind", "step")] if rates else []:
        neurons.plot(
            [row["step"] for row in rates], [100 * row[name] for row in rates], linewidth=0.8, marker=".", markersize=3
        )
    neurons.set(title="firing rates of the layers [%]", xlabel="step")
    for axes in (losses, rate, score, neurons):
        axes.grid(alpha=0.3)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=80)
    return written.getvalue()


def _smooth(values: Sequence[float | None]) -> list[float | None]:
    """A running mean over a fiftieth of the run."""
    keep = 1 - 1 / max(1.0, len(values) / 50)
    smoothed: list[float | None] = []
    last: float | None = None
    for value in values:
        if value is not None:
            last = value if last is None else keep * last + (1 - keep) * value
        smoothed.append(last)
    return smoothed


def _table(rows: Sequence[dict[str, Any]]) -> str:
    names = [key for key in rows[0] if key != "kind"]
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in names) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else html.escape(str(value))


def _image(png: bytes) -> str:
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}">'
