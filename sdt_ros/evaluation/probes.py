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

    Blank windows of a size look all the same, so that the network sees each size once.

    Args:
        predict: spikes uint8 [T, P, H, W] to depth [h, w] metres.
    """

    def __init__(self, predict: Callable[[np.ndarray], np.ndarray]) -> None:
        self._predict = predict
        self._blank: dict[tuple[int, ...], np.ndarray] = {}

    def __call__(self, spikes: np.ndarray) -> dict[str, np.ndarray]:
        """What the network makes of a window's spikes when they are spoilt, by name."""
        if spikes.shape not in self._blank:
            self._blank[spikes.shape] = self._predict(PROBES["blank"](spikes))
        others = {name: self._predict(spoil(spikes)) for name, spoil in PROBES.items() if name != "blank"}
        return {"blank": self._blank[spikes.shape], **others}
