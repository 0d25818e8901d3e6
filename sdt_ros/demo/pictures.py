"""What the demo shows: event frames beside depth in colours, as PNG files and as an animation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdt_ros.colormap import colorize
from sdt_ros.event_frame import event_frame

MARGIN = 8
LINE = 18
BAR = 16
MARKS_M = [round(digit * 10.0**power, 9) for power in range(-2, 4) for digit in (1, 2, 5)]
INK, PAPER, ALARM = (20, 20, 20), (255, 255, 255), (190, 20, 20)


def colour_range(depths: Sequence[np.ndarray]) -> tuple[float, float]:
    """Ends of the colours for all pictures of a recording: round metres that leave out one pixel in fifty.

    Args:
        depths: float [...] metres, of any shapes; what is no number or not positive does not count.

    Returns:
        Near and far end [m], of `MARKS_M`.
    """
    values = np.concatenate([np.empty(0, np.float32), *(depth.ravel() for depth in depths)])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return MARKS_M[0], MARKS_M[-1]
    low, high = np.percentile(values, (1, 99))
    near = max([mark for mark in MARKS_M[:-1] if mark <= low], default=MARKS_M[0])
    return near, min([mark for mark in MARKS_M if mark > max(near, high)], default=MARKS_M[-1])


def panel(
    spikes: np.ndarray,
    depth: np.ndarray,
    near_m: float,
    far_m: float,
    title: str,
    alarm: str,
    truth: np.ndarray | None = None,
) -> Image.Image:
    """One picture: events on the left, depth beside them, then its truth, a scale in metres, and a line of text.

    Args:
        spikes: uint8 [T, 2, h, w].
        depth: float32 [H, W] metres.
        near_m: distance of the near end of the colours [m].
        far_m: distance of the far end of the colours [m].
        title: what is shown.
        alarm: shown in red, if not empty.
        truth: float32 [H', W'] metres, where it is known.
    """
    height, width = depth.shape
    maps = [depth] if truth is None else [depth, truth]
    events = Image.fromarray(event_frame(spikes)).resize((width, height), Image.Resampling.NEAREST)
    head = MARGIN + LINE * (2 if alarm else 1)
    across = (1 + len(maps)) * (width + MARGIN) + MARGIN
    canvas = Image.new("RGB", (across, head + height + 2 * MARGIN + BAR + LINE), PAPER)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(13)
    draw.text((MARGIN, MARGIN // 2), title, INK, font)
    if alarm:
        draw.text((MARGIN, MARGIN // 2 + LINE), alarm, ALARM, font)
    canvas.paste(events, (MARGIN, head))
    for place, metres in enumerate(maps, 1):
        drawn = Image.fromarray(colorize(metres, near_m, far_m)).resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(drawn, (MARGIN + place * (width + MARGIN), head))
    if truth is not None:
        draw.text((MARGIN + 2 * (width + MARGIN), head + height + MARGIN), "the truth", INK, font)
    _scale(canvas, draw, font, (width + 2 * MARGIN, head + height + MARGIN, width), near_m, far_m)
    draw.text((MARGIN, head + height + MARGIN), "events: ON red, OFF blue", INK, font)
    return canvas


def _scale(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    place: tuple[int, int, int],
    near_m: float,
    far_m: float,
) -> None:
    left, top, width = place
    metres = np.geomspace(near_m, far_m, width)[None].repeat(BAR, 0)
    canvas.paste(Image.fromarray(colorize(metres, near_m, far_m)), (left, top))
    marks = [mark for mark in MARKS_M if near_m <= mark <= far_m]
    for mark in marks:
        x = left + round(width * np.log(mark / near_m) / np.log(far_m / near_m))
        label = f"{mark:g} m"
        x = min(x, left + width - int(draw.textlength(label, font)))
        draw.text((x, top + BAR), label, INK, font)


def save(panels: list[Image.Image], folder: Path, stills: int, period_ms: float) -> list[Path]:
    """Write some of the panels as PNG and all of them as an animated GIF; returns the files."""
    chosen = sorted({round(k) for k in np.linspace(0, len(panels) - 1, stills)})
    files = []
    for index in chosen:
        files.append(folder / f"depth_{index:04d}.png")
        panels[index].save(files[-1])
    files.append(folder / "animation.gif")
    first, *rest = [image.quantize(128) for image in panels]
    first.save(files[-1], save_all=True, append_images=rest, duration=max(20, round(period_ms)), loop=0)
    return files
