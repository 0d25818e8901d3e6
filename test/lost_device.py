"""`sdt node` with a network whose device is lost after some windows: run as `python lost_device.py WINDOWS node ...`.

With -1 windows it is lost while the network is loaded.

The failure is that of the estimator, as the runtime raises it; everything else is the node's own.
"""

from __future__ import annotations

import sys

from sdt_ros import cli
from sdt_ros.runtime import DepthEstimator
from sdt_ros.runtime.device import DeviceLost

WINDOWS = int(sys.argv[1])
_estimate = DepthEstimator._estimate
_init = DepthEstimator.__init__
_loads = 0
_count = 0
_first: DepthEstimator | None = None


def failing(self, spikes, output_size, focal_px, **options):
    global _count, _first
    _first = _first or self
    if self is _first and spikes.any():
        _count += 1
        if _count > WINDOWS:
            raise DeviceLost("CUDA error: the GPU has fallen off the bus")
    return _estimate(self, spikes, output_size, focal_px, **options)


def failing_to_load(self, *arguments, **options):
    global _loads
    _loads += 1
    if _loads == 1 and WINDOWS < 0:
        raise DeviceLost("the GPU ran out of memory: another process has it all")
    _init(self, *arguments, **options)


DepthEstimator._estimate = failing if WINDOWS >= 0 else _estimate
DepthEstimator.__init__ = failing_to_load
sys.exit(cli.main(sys.argv[2:]))
