"""A sample as a picture: events, frame and depth side by side."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sdt_ros.colormap import colorize
from sdt_ros.event_frame import event_frame

from .sample import Sample

_MARGIN, _LINE, _BAR = 8, 20, 12
_LEAST_WIDTH = 320  # of a panel, so that its caption fits
_INK, _PAPER, _NOTHING = (20, 20, 20), (255, 255, 255), (225, 225, 225)


def sample_picture(sample: Sample) -> Image.Image:
    """Draw a sample.

    Args:
        sample: of any data set.

    Returns:
        RGB picture: events (ON red, OFF blue), the frame, depth by its logarithm (near red, far blue, unknown black).
    """
    height, width = sample.depth.shape
    zoom = max(1, -(-_LEAST_WIDTH // width))
    spikes = sample.spikes
    known = sample.depth[np.isfinite(sample.depth)]
    near, far = (float(v) for v in np.percentile(known, (1, 99))) if known.size else (1.0, 10.0)
    far = max(far, near * 1.05)
    panels = [
        Image.fromarray(event_frame(spikes)),
        None if sample.frame is None else Image.fromarray(sample.frame).convert("RGB"),
        Image.fromarray(colorize(sample.depth, near, far)) if known.size else None,
    ]
    captions = [
        f"events: {int(spikes.sum(dtype=np.int64))} spikes in {len(spikes)} bins",
        "frame" if sample.frame is not None else "no frame",
        f"depth {near:.2f} to {far:.2f} m, {known.size / sample.depth.size:.0%} known" if known.size else "no depth",
    ]
    top = _MARGIN + _LINE
    height, width = zoom * height, zoom * width
    canvas = Image.new("RGB", (3 * width + 4 * _MARGIN, top + height + _BAR + 2 * _LINE + _MARGIN), _PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    columns, rows = sample.depth.shape[::-1]
    title = f"{sample.sequence}, index {sample.index}, {columns}x{rows} px, stamp {sample.stamp_ns / 1e9:.6f} s"
    draw.text((_MARGIN, _MARGIN // 2), title, _INK, font)
    for k, (panel, caption) in enumerate(zip(panels, captions, strict=True)):
        left = _MARGIN + k * (width + _MARGIN)
        whole = panel or Image.new("RGB", (1, 1), _NOTHING)
        canvas.paste(whole.resize((width, height), Image.Resampling.NEAREST), (left, top))
        draw.text((left, top + height + 2), caption, _INK, font)
    if known.size:
        scale = np.geomspace(near, far, width)[None].repeat(_BAR, 0)
        canvas.paste(
            Image.fromarray(colorize(scale, near, far)), (_MARGIN + 2 * (width + _MARGIN), top + height + _LINE + 4)
        )
    return canvas
