"""One self-contained HTML page about an evaluation: no script, no address outside of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from sdt_ros.evaluation import charts, panels
from sdt_ros.evaluation.metrics import HIGHER_IS_BETTER, METRICS
from sdt_ros.evaluation.predict import Predictions
from sdt_ros.evaluation.protocol import Protocol
from sdt_ros.evaluation.score import GUESSES, MAP, PREDICTION, FrameScore, Scores, worst
from sdt_ros.evaluation.table import UNTRAINED, describe, left_out, number
from sdt_ros.evaluation.truth import Truth, onto

WORST = 3
TYPICAL = 3

_STYLE = """
:root { --ink: #24241f; --soft: #6d6c64; --line: #e4e2da; --paper: #fbfaf6; --card: #fff; --blue: #1f5fa8; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 64px; }
h1 { font-size: 27px; margin: 0 0 4px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 6px; }
p { margin: 4px 0 14px; color: var(--soft); max-width: 78ch; }
.alarm { background: #a81f1f; color: #fff; padding: 14px 20px; border-radius: 8px; font-weight: 600;
  margin: 0 0 24px; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 14px; margin: 22px 0 8px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 18px; }
.card b { display: block; font-size: 29px; font-weight: 600; letter-spacing: -.02em; line-height: 1.2; }
.card span { color: var(--soft); font-size: 13px; }
.card em { display: block; font-style: normal; font-size: 12.5px; color: var(--soft); margin-top: 4px; }
.box { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 8px 16px; }
.box svg { width: 100%; height: auto; display: block; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 8px; border-bottom: 1px solid var(--line); vertical-align: baseline; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; font-size: 13px; color: var(--soft); }
sup { font-size: .72em; line-height: 0; }
th:first-child, td:first-child { text-align: left; }
td.note { text-align: left; color: var(--soft); font-size: 13px; }
td.best { font-weight: 700; color: var(--blue); }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 18px; }
figure { margin: 0 0 18px; }
figcaption { font-size: 13.5px; margin: 0 0 6px; }
figcaption span { color: var(--soft); }
.four { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
.four img { width: 100%; display: block; border-radius: 5px; border: 1px solid var(--line);
  image-rendering: pixelated; }
.four div { font-size: 12.5px; color: var(--soft); }
.scale { display: flex; gap: 8px; align-items: center; font-size: 12.5px; color: var(--soft); margin-top: 2px; }
.scale img { flex: 1; min-width: 0; height: 9px; border: 0; border-radius: 2px; }
.settings td { text-align: left; overflow-wrap: anywhere; }
.settings td:first-child { color: var(--soft); width: 180px; }
footer { margin-top: 36px; color: var(--soft); font-size: 13px; }
@media (max-width: 820px) { .cards { grid-template-columns: repeat(2, 1fr); } .two { grid-template-columns: 1fr; }
  .four { grid-template-columns: repeat(2, 1fr); } }
"""


def page(content: Mapping[str, Any], predictions: Predictions, truth: Truth, scores: Scores, protocol: Protocol) -> str:
    """The report.

    Args:
        content: what `figures` gives.
        predictions: depth and spikes, for the pictures.
        truth: the same of the truth.
        scores: which frames are the worst.
        protocol: which pixels are scored.
    """
    settings = content["settings"]
    name = str(settings["bag"]).rstrip("/").rpartition("/")[2]
    frames = content["frames"]
    when = "one window before each truth" if settings["schedule"] == "truth" else "the node's own windows"
    pictures = _Pictures(content, predictions, truth, protocol)
    worst_frames = worst(scores, WORST)
    typical = _typical(scores, worst_frames)
    sections = [
        f"<h1>Depth of {escape(name)}</h1>",
        f"<p>{escape(content['network'])}<br>{when}; protocol {escape(protocol.name)}; "
        f"{settings['recording_s']:.1f} s, {content['counts']['events']:,} events</p>",
        _alarm(content),
        _cards(content),
        "<h2>Scores</h2>",
        "<p>Metric depth as it is, averaged over frames. Beside it two guesses that see no events, on the same pixels: "
        f"{content['floor_constant_m']:.2f} m everywhere, the median of the truth; and for each pixel the mean of its "
        "log depth over the recording. Both are made from this very truth. What does not beat the first has "
        "learned nothing from events; the second also knows the layout of this place. The best of a row is blue.</p>",
        _scores(content["metric"], definitions=True),
        "<h2>Scores when the scale is given away</h2>",
        "<p>Each frame is first scaled so that its median is that of the truth. This shows how well the shape is seen; "
        "it is no metric depth and not to be compared with the table above.</p>",
        _scores(content["median_scaled"], definitions=False),
        "<h2>By distance</h2>",
        f'<div class="box">{charts.by_distance(content["bands"])}</div>',
        _bands(content["bands"]),
        "<h2>Over time</h2>",
        f'<div class="box">{charts.over_time(frames)}</div>',
        "<h2>Worst frames</h2>",
        f"<p>Those with the highest Abs Rel. {pictures.legend}</p>",
        *(pictures.row(frame) for frame in worst_frames),
        pictures.scales(),
        *(["<h2>Typical frames</h2>", "<p>Those in the middle of the ranking by Abs Rel.</p>"] if typical else []),
        *(pictures.row(frame) for frame in typical),
        pictures.scales() if typical else "",
        "<h2>Spikes and energy</h2>",
        f"<p>{content['energy_mj']:.3f} mJ a window, averaged over {content['windows_measured']} windows of this "
        f"recording: {content['energy_counting']['pj_per_mac']} pJ a multiplication of real input, "
        f"{content['energy_counting']['pj_per_ac']} pJ an addition for each spike (45 nm, 32 bit). Memory traffic, "
        "which costs more on most hardware, is not in it.</p>",
        f'<div class="box">{charts.firing_rates(content["firing_rates"])}</div>',
        "<h2>Settings and versions</h2>",
        _settings(content),
        f"<footer>{content['timing']['seconds']:.1f} s of work for {settings['recording_s']:.1f} s of recording. "
        "Made by sdt eval; two runs give the same depth and scores to the last bit.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Depth of {escape(name)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _alarm(content: Mapping[str, Any]) -> str:
    return "" if content["trained"] else f'<div class="alarm">{UNTRAINED}</div>'


def _cards(content: Mapping[str, Any]) -> str:
    own, floor, counts = content["metric"][PREDICTION], content["metric"][MAP], content["counts"]
    cards = [
        (number(own[name]) + unit, label, f"{MAP}: {number(floor[name])}{unit}")
        for name, label, unit in (
            ("abs_rel", "Abs Rel", ""),
            ("rmse", "RMSE", " m"),
            ("delta1", "delta < 1.25", ""),
        )
    ]
    omitted = "; ".join(left_out(counts))
    cards.append((f"{counts['frames_scored']}", "frames scored", f"not scored: {omitted}"))
    return '<div class="cards">' + "".join(
        f'<div class="card"><span>{_formula(label)}</span><b>{value}</b><em>{escape(note)}</em></div>'
        for value, label, note in cards
    ) + "</div>"  # fmt: skip


def _scores(rows: Mapping[str, Mapping[str, float | None]], definitions: bool) -> str:
    lines = []
    for name, (label, definition) in METRICS.items():
        values = [rows[guess][name] for guess in GUESSES]
        best = _best(name, values)
        cells = "".join(
            f'<td class="best">{number(value)}</td>' if index == best else f"<td>{number(value)}</td>"
            for index, value in enumerate(values)
        )
        note = f'<td class="note">{_formula(definition)}</td>' if definitions else ""
        lines.append(f"<tr><td>{_formula(label)}</td>{cells}{note}</tr>")
    head = "".join(f"<th>{guess}</th>" for guess in GUESSES)
    note = '<th style="text-align:left">D = p - gt, d = ln p - ln gt</th>' if definitions else ""
    return f'<div class="box"><table><tr><th></th>{head}{note}</tr>{"".join(lines)}</table></div>'


def _formula(text: str) -> str:
    """Plain text with powers and deltas as they are printed."""
    return re.sub(r"\^(\d)", r"<sup>\1</sup>", escape(text)).replace("delta", "&delta;")


def _best(name: str, values: list[float | None]) -> int | None:
    known = [(value, index) for index, value in enumerate(values) if value is not None]
    if not known:
        return None
    if name in HIGHER_IS_BETTER:
        return max(known, key=lambda one: one[0])[1]
    return min(known, key=lambda one: abs(one[0]))[1]


def _bands(bands: list[dict[str, Any]]) -> str:
    shown = ("abs_rel", "mean_abs_error", "rmse", "delta1", "mean_error")
    head = "".join(f"<th>{_formula(METRICS[name][0])}</th>" for name in shown)
    lines = [
        f"<tr><td>{band['from_m']}-{band['to_m']} m</td><td>{100 * band['pixel_share']:.1f} %</td>"
        f"<td>{band['frames']}</td>" + "".join(f"<td>{number(band[PREDICTION][name])}</td>" for name in shown) + "</tr>"
        for band in bands
    ]
    return (
        f'<div class="box" style="margin-top:14px"><table><tr><th>truth</th><th>pixels</th><th>frames</th>{head}</tr>'
        f"{''.join(lines)}</table></div>"
    )


def _settings(content: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items() if version)
    rows = {**content["settings"], **content["counts"], "versions": versions}
    rows["protocol"] = describe(content["settings"]["protocol"])
    lines = [
        f"<tr><td>{escape(key.replace('_', ' '))}</td><td>{escape(_text(value))}</td></tr>"
        for key, value in rows.items()
        if value is not None
    ]
    return f'<div class="box settings"><table>{"".join(lines)}</table></div>'


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _typical(scores: Scores, shown: list[FrameScore]) -> list[FrameScore]:
    """Frames in the middle of the ranking that are not shown yet."""
    rest = [frame for frame in worst(scores, len(scores.frames)) if frame not in shown]
    middle = max(0, (len(rest) - TYPICAL) // 2)
    return rest[middle : middle + TYPICAL]


class _Pictures:
    """Rows of pictures with one scale for all."""

    def __init__(self, content: Mapping[str, Any], predictions: Predictions, truth: Truth, protocol: Protocol) -> None:
        self._content = content
        self._predictions = predictions
        self._truth = truth
        self._protocol = protocol
        sample = np.concatenate([self._known(number) for number in {0, len(truth.frames) // 2, len(truth.frames) - 1}])
        self._near, self._far = (float(one) for one in np.percentile(sample, [1, 99])) if sample.size else (1.0, 80.0)
        self._far = max(self._far, 1.5 * self._near)
        self.legend = (
            "Events: ON red, OFF blue. Depth: near red, far blue, unknown light grey. "
            "Error: red too near, blue too far, light grey not scored."
        )

    def _known(self, number: int) -> np.ndarray:
        frame = self._truth.frames[number]
        known: np.ndarray = frame[self._protocol.valid(frame)]
        return known

    def row(self, frame: FrameScore) -> str:
        """Events, truth, prediction and error of one frame, side by side."""
        truth = self._truth.frames[frame.truth]
        depth = onto(self._predictions.depth[frame.index], self._truth.size, "")
        mask = self._protocol.select(depth, truth).mask
        window = self._predictions.windows[frame.index]
        seconds = (window.stamp_ns - self._content["frames"][0]["stamp_ns"]) / 1e9
        limit = np.inf if self._protocol.far_m is None else self._protocol.far_m
        pictures = {
            "events": panels.events(self._predictions.spikes_of(frame.index), self._truth.size),
            "truth": panels.depth(truth, self._near, self._far),
            "prediction": panels.depth(depth, self._near, self._far),
            "error": panels.error(np.minimum(depth, limit), np.minimum(truth, limit), mask),
        }
        cells = "".join(
            f'<div><img src="{panels.data_uri(pixels)}" alt="{what}">{what}</div>' for what, pixels in pictures.items()
        )
        return (
            f"<figure><figcaption><b>{seconds:.3f} s</b> &nbsp; Abs Rel {number(frame.metric['abs_rel'])} &nbsp; "
            f"RMSE {number(frame.metric['rmse'])} m &nbsp; <span>{window.events:,} events, stamp {window.stamp_ns} ns"
            f'</span></figcaption><div class="four">{cells}</div></figure>'
        )

    def scales(self) -> str:
        """What the colours mean, under the columns that they belong to."""
        depth = panels.data_uri(panels.depth_scale(self._near, self._far))
        error = panels.data_uri(panels.error_scale())
        metres = f'<div class="scale">{self._near:.2g} m<img src="{depth}" alt="scale">{self._far:.2g} m</div>'
        ratio = f'<div class="scale">1/{panels.RATIO:g}<img src="{error}" alt="scale">x{panels.RATIO:g}</div>'
        return f'<div class="four"><div></div>{metres}{metres}{ratio}</div>'
