"""Spoilt input: a network that sees depth must do worse on it, or it has learned no more than a mean picture.

- `blank`: no spikes at all. What is left is what the network answers without looking.
- `first_bin`: the first time bin in the place of all others: no motion.
- `reversed`: the time bins in reverse order: motion the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

PROBES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "blank": np.zeros_like,
        "first_bin": lambda spikes: np.repeat(spikes[:1], len(spikes), 0),
        "reversed": lambda spikes: np.ascontiguousarray(spikes[::-1]),
    }
)
"""Name: from the spikes of a window, uint8 [T, P, H, W], to spoilt ones of the same shape."""


class Prober:
    """Shows a network spoilt windows.

    Blank windows of a size before one lens look all the same: the network sees those of the last one once.

    Args:
        predict: spikes uint8 [T, P, H, W] and focal length [px] to depth [h, w] metres.
    """

    def __init__(self, predict: Callable[[np.ndarray, float | None], np.ndarray]) -> None:
        self._predict = predict
        self._blank: tuple[object, np.ndarray] | None = None

    def __call__(self, spikes: np.ndarray, focal_px: float | None = None) -> dict[str, np.ndarray]:
        """What the network makes of a window's spikes when they are spoilt, by name."""
        kind = spikes.shape, focal_px
        if self._blank is None or self._blank[0] != kind:
            self._blank = kind, self._predict(PROBES["blank"](spikes), focal_px)
        others = {name: self._predict(spoil(spikes), focal_px) for name, spoil in PROBES.items() if name != "blank"}
        return {"blank": self._blank[1], **others}
