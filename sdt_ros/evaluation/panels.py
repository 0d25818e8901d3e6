"""Pictures of an evaluation as PNG in data URIs: events, truth, prediction and error of a frame, and their scales."""

from __future__ import annotations

import base64
import io
from functools import lru_cache

import numpy as np
from PIL import Image

from sdt_ros.colormap import colorize
from sdt_ros.event_frame import event_frame

RATIO = 4.0  # errors by this factor and more have the last colour
_UNKNOWN = np.array([236, 236, 232], np.uint8)


def data_uri(pixels: np.ndarray) -> str:
    """uint8 [H, W, 3] RGB as a PNG that a page can hold."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def events(spikes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A window's spikes uint8 [T, 2, h, w]: ON red, OFF blue; RGB of that height and width."""
    frame = Image.fromarray(event_frame(spikes))
    return np.asarray(frame.resize((size[1], size[0]), Image.Resampling.NEAREST))


def depth(metres: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Depth [H, W] in colours by its logarithm, near red and far blue; unknown is light grey."""
    known = np.isfinite(metres) & (metres > 0)
    return np.where(known[..., None], colorize(metres, near_m, far_m), _UNKNOWN).astype(np.uint8)


def error(prediction: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The ratio of prediction to truth [H, W] in colours: blue too far, white right, red too near; grey not scored."""
    ratio = np.log(np.where(mask, prediction, 1) / np.where(mask, truth, 1)) / np.log(RATIO)
    index = (np.clip(0.5 - ratio / 2, 0, 1) * 255 + 0.5).astype(np.intp)
    return np.where(mask[..., None], _diverging()[index], _UNKNOWN).astype(np.uint8)


def depth_scale(near_m: float, far_m: float) -> np.ndarray:
    """The colours of depth from near to far: RGB [12, 240, 3]."""
    return depth(np.geomspace(near_m, far_m, 240)[None].repeat(12, 0), near_m, far_m)


def error_scale() -> np.ndarray:
    """The colours of errors from too near to too far: RGB [12, 240, 3]."""
    ratio = np.geomspace(1 / RATIO, RATIO, 240)[None].repeat(12, 0)
    return error(ratio, np.ones_like(ratio), np.ones_like(ratio, bool))


@lru_cache(maxsize=1)
def _diverging() -> np.ndarray:
    from matplotlib import colormaps

    return np.rint(colormaps["RdBu_r"](np.linspace(0, 1, 256))[:, :3] * 255).astype(np.uint8)
