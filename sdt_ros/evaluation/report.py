"""One self-contained HTML page about an evaluation: no script, no address outside of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from sdt_ros.evaluation import charts, panels, uncertainty
from sdt_ros.evaluation.metrics import HIGHER_IS_BETTER, METRICS
from sdt_ros.evaluation.score import GUESSES, MAP, PREDICTION, Frame, Scorer, Scores, worst
from sdt_ros.evaluation.table import UNTRAINED, arrivals, band_name, describe, left_out, number
from sdt_ros.evaluation.truth import onto

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
tr.floor td { color: var(--soft); padding-top: 0; }
tr.own td { border-bottom: 0; }
.bands tr:nth-child(3n+2) td, .bands tr:nth-child(3n+3) td { border-bottom: 0; padding-bottom: 1px; }
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


def page(content: Mapping[str, Any], scorer: Scorer, scores: Scores) -> str:
    """The report.

    Args:
        content: what `figures` gives.
        scorer: depth, truth and spikes, for the pictures; made with `keep_pictures`.
        scores: which frames are the worst.
    """
    settings = content["settings"]
    name = str(settings["recording"]).rstrip("/").rpartition("/")[2]
    frames = content["frames"]
    when = "one window before each truth" if settings["schedule"] == "truth" else "the node's own windows"
    when = "what the node published" if content["live"] else when
    pictures = _Pictures(content, scorer)
    worst_frames = worst(scores, WORST)
    typical = _typical(scores, worst_frames)
    events = f", {content['counts']['events']:,} events" if "events" in content["counts"] else ""
    several = len(content["groups"]) > 1
    bands = [band for band in content["bands"] if band["pixel_share"]]
    sections = [
        f"<h1>Depth of {escape(name)}</h1>",
        f"<p>{escape(content['network'])}<br>{when}; protocol {escape(describe(settings['protocol']))}; "
        f"{settings['recording_s']:.1f} s{events}</p>",
        _alarm(content),
        _cards(content),
        *_live(content),
        "<h2>Scores</h2>",
        "<p>Metric depth as it is, averaged over frames. Beside it two guesses that see no events, on the same pixels: "
        f"{content['floor_constant_m']:.2f} m everywhere, the median of the truth; and for each pixel the mean of its "
        "log depth over all frames. Both are made from this very truth. What does not beat the first has "
        "learned nothing from events; the second also knows the layout of this place. The best of a row is blue.</p>",
        _scores(content["metric"], definitions=True),
        "<h2>Scores when the scale is given away</h2>",
        "<p>Each frame is first scaled so that its median is that of the truth. This shows how well the shape is seen; "
        "it is no metric depth and not to be compared with the table above.</p>",
        _scores(content["median_scaled"], definitions=False),
        *(_probes(content) if content["probes"] else []),
        *(_groups(content["groups"]) if several else []),
        "<h2>By distance</h2>",
        f'<div class="box">{charts.by_distance(bands)}</div>',
        _bands(bands),
        f"<h2>{'Frame by frame' if several else 'Over time'}</h2>",
        f'<div class="box">{charts.over_time(frames)}</div>',
        "<h2>Worst frames</h2>",
        f"<p>Those with the highest Abs Rel. {pictures.legend}</p>",
        *(pictures.row(frame) for frame in worst_frames),
        pictures.scales(),
        *(["<h2>Typical frames</h2>", "<p>Those in the middle of the ranking by Abs Rel.</p>"] if typical else []),
        *(pictures.row(frame) for frame in typical),
        pictures.scales() if typical else "",
        *_uncertainty(content),
        *_activity(content),
        "<h2>Settings and versions</h2>",
        _settings(content),
        _footer(content),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Depth of {escape(name)}</title><style>{_STYLE}</style></head>\n<body><main>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def _live(content: Mapping[str, Any]) -> list[str]:
    live = content["live"]
    if not live:
        return []
    return ["<h2>On the graph</h2>", f"<p>{escape(arrivals(live))}. A window that is missing has no score.</p>"]


def _uncertainty(content: Mapping[str, Any]) -> list[str]:
    if content["uncertainty"] is None:
        return []
    said = uncertainty.describe(content["uncertainty"])
    return ["<h2>Uncertainty</h2>", f"<p>By what the network tells of it, {escape(said)} of the pixels.</p>"]


def _activity(content: Mapping[str, Any]) -> list[str]:
    if not content["windows_measured"]:
        return []
    return [
        "<h2>Spikes and energy</h2>",
        f"<p>{content['energy_mj']:.3f} mJ a window, averaged over {content['windows_measured']} windows of this "
        f"recording: {content['energy_counting']['pj_per_mac']} pJ a multiplication of real input, "
        f"{content['energy_counting']['pj_per_ac']} pJ an addition for each spike (45 nm, 32 bit). Memory traffic, "
        "which costs more on most hardware, is not in it.</p>",
        f'<div class="box">{charts.firing_rates(content["firing_rates"])}</div>',
    ]


def _footer(content: Mapping[str, Any]) -> str:
    timing = content["timing"]
    if timing["real_time_factor"] is None:
        return "<footer>Made by sdt eval from what a node published.</footer>"
    return (
        f"<footer>{timing['seconds']:.1f} s of work for {content['settings']['recording_s']:.1f} s of events, "
        f"{100 * timing['network_share']:.0f} % of it in the network. "
        "Made by sdt eval; two runs give the same depth and scores to the last bit.</footer>"
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


def _scores(rows: Mapping[str, Mapping[str, float | None]], definitions: bool, guesses: Sequence[str] = GUESSES) -> str:
    lines = []
    for name, (label, definition) in METRICS.items():
        values = [rows[guess][name] for guess in guesses]
        best = _best(name, values)
        cells = "".join(
            f'<td class="best">{number(value)}</td>' if index == best else f"<td>{number(value)}</td>"
            for index, value in enumerate(values)
        )
        note = f'<td class="note">{_formula(definition)}</td>' if definitions else ""
        lines.append(f"<tr><td>{_formula(label)}</td>{cells}{note}</tr>")
    head = "".join(f"<th>{guess.replace('_', ' ')}</th>" for guess in guesses)
    note = '<th style="text-align:left">D = p - gt, d = ln p - ln gt</th>' if definitions else ""
    return f'<div class="box"><table><tr><th></th>{head}{note}</tr>{"".join(lines)}</table></div>'


def _probes(content: Mapping[str, Any]) -> list[str]:
    rows = {PREDICTION: content["probed"]["metric"], **{name: row["metric"] for name, row in content["probes"].items()}}
    return [
        "<h2>Probes</h2>",
        f"<p>The network on spoilt input, beside itself on the same {content['probed']['frames']} frames: no spikes at "
        "all, the first time bin in the place of all, and time reversed. A network that sees depth in events does "
        "worse on the first, and one that sees it in motion on the others too.</p>",
        _scores(rows, False, tuple(rows)),
    ]


def _groups(groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    shown = ("abs_rel", "rmse", "delta1")
    heads = "".join(f"<th>{_formula(METRICS[name][0])}</th><th>median</th><th>map</th>" for name in shown)
    lines = []
    for group, one in groups.items():
        cells = ""
        for name in shown:
            values = [one["metric"][guess][name] for guess in GUESSES]
            best = _best(name, values)
            cells += "".join(
                f'<td class="best">{number(value)}</td>' if index == best else f"<td>{number(value)}</td>"
                for index, value in enumerate(values)
            )
        lines.append(f"<tr><td>{escape(group)}</td><td>{one['frames']}</td>{cells}</tr>")
    return [
        "<h2>By recording</h2>",
        "<p>Each with the floors made from its own truth: the constant median, and the map of means.</p>",
        f'<div class="box"><table><tr><th></th><th>frames</th>{heads}</tr>{"".join(lines)}</table></div>',
    ]


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
    lines = []
    for band in bands:
        for guess in GUESSES:
            first = guess == PREDICTION
            lead = f"<td>{band_name(band)}</td><td>{100 * band['pixel_share']:.1f} %</td><td>{band['frames']}</td>"
            cells = "".join(f"<td>{number(band[guess][name])}</td>" for name in shown)
            lines.append(
                f'<tr class="{"own" if first else "floor"}">{lead if first else "<td></td>" * 3}'
                f"<td>{guess}</td>{cells}</tr>"
            )
    return (
        '<div class="box" style="margin-top:14px"><table class="bands"><tr><th>truth</th><th>pixels</th><th>frames</th>'
        f"<th></th>{head}</tr>{''.join(lines)}</table></div>"
    )


def _settings(content: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items() if version)
    rows = {**content["settings"], **content["counts"], "versions": versions}
    rows |= {f"live {name}": value for name, value in (content["live"] or {}).items() if not isinstance(value, dict)}
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


def _typical(scores: Scores, shown: list[Frame]) -> list[Frame]:
    """Frames in the middle of the ranking that are not shown yet."""
    rest = [frame for frame in worst(scores, len(scores.frames)) if frame not in shown]
    middle = max(0, (len(rest) - TYPICAL) // 2)
    return rest[middle : middle + TYPICAL]


class _Pictures:
    """Rows of pictures with one scale for all."""

    def __init__(self, content: Mapping[str, Any], scorer: Scorer) -> None:
        self._scorer = scorer
        self._protocol = scorer.protocol
        self._several = len(content["groups"]) > 1
        self._began = {group.name: group.frames[0].stamp_ns for group in scorer.groups.values()}
        samples = []
        for group in scorer.groups.values():
            count = len(group.compared)
            frames = [group.compared[index] for index in sorted({0, count // 2, count - 1}) if 0 <= index < count]
            samples += [frame[frame > 0] for frame in frames]
        sample = np.concatenate(samples)
        self._near, self._far = (float(one) for one in np.percentile(sample, [1, 99]))
        self._far = max(self._far, 1.5 * self._near)
        self.legend = (
            "Events: ON red, OFF blue. Depth: near red, far blue, unknown light grey. "
            "Error: red too near, blue too far, light grey not scored."
        )

    def row(self, frame: Frame) -> str:
        """Events, truth, prediction and error of one frame, side by side."""
        group = self._scorer.groups[frame.group]
        truth = group.truth[group.truth_of[frame.number]]
        size = (truth.shape[0], truth.shape[1])
        depth = onto(group.depth[frame.number], size, "")
        mask = self._protocol.select(depth, truth).mask
        seconds = (frame.stamp_ns - self._began[frame.group]) / 1e9
        limit = np.inf if self._protocol.far_m is None else self._protocol.far_m
        pictures = {
            "events": panels.events(group.spikes_of(frame), size),
            "truth": panels.depth(truth, self._near, self._far),
            "prediction": panels.depth(depth, self._near, self._far),
            "error": panels.error(np.minimum(depth, limit), np.minimum(truth, limit), mask),
        }
        cells = "".join(
            f'<div><img src="{panels.data_uri(pixels)}" alt="{what}">{what}</div>' for what, pixels in pictures.items()
        )
        assert frame.metric is not None
        events = "" if frame.events is None else f"{frame.events:,} events, "
        where = f"{escape(frame.group)}, " if self._several else ""
        return (
            f"<figure><figcaption><b>{where}{seconds:.3f} s</b> &nbsp; Abs Rel {number(frame.metric['abs_rel'])} "
            f"&nbsp; RMSE {number(frame.metric['rmse'])} m &nbsp; <span>{events}stamp {frame.stamp_ns} ns"
            f'</span></figcaption><div class="four">{cells}</div></figure>'
        )

    def scales(self) -> str:
        """What the colours mean, under the columns that they belong to."""
        depth = panels.data_uri(panels.depth_scale(self._near, self._far))
        error = panels.data_uri(panels.error_scale())
        metres = f'<div class="scale">{self._near:.2g} m<img src="{depth}" alt="scale">{self._far:.2g} m</div>'
        ratio = f'<div class="scale">1/{panels.RATIO:g}<img src="{error}" alt="scale">x{panels.RATIO:g}</div>'
        return f'<div class="four"><div></div>{metres}{metres}{ratio}</div>'
