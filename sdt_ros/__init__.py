"""Depth from event cameras, in real time, with a spiking transformer.

This file imports nothing: each layer is imported by the name of its folder (`sdt_ros.events`, `sdt_ros.network`, ...).
"""

from pkgutil import extend_path

# The generated `sdt_ros.msg` may lie in another folder (site-packages, a colcon install) than this source tree.
__path__ = extend_path(__path__, __name__)
