"""`sdt node` with a network whose device is lost after some windows: run as `python lost_device.py WINDOWS node ...`.

The failure is that of the estimator, as the runtime raises it; everything else is the node's own.
"""

from __future__ import annotations

import sys

from sdt_ros import cli
from sdt_ros.runtime import DepthEstimator
from sdt_ros.runtime.device import DeviceLost

WINDOWS = int(sys.argv[1])
_call = DepthEstimator.__call__
_count = 0
_first: DepthEstimator | None = None


def failing(self, spikes, output_size=None, focal_px=None):
    global _count, _first
    _first = _first or self
    if self is _first and spikes.any():
        _count += 1
        if _count > WINDOWS:
            raise DeviceLost("CUDA error: the GPU has fallen off the bus")
    return _call(self, spikes, output_size, focal_px)


DepthEstimator.__call__ = failing
sys.exit(cli.main(sys.argv[2:]))
