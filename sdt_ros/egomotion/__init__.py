"""What the camera's own motion tells: the scale of depth.

A camera that moves twice as fast through a world twice as large gives the same events, so that a network can only guess
between the two. Whoever knows how fast the camera moves, as a robot does from its odometry, knows which of them it is.
"""

from sdt_ros.egomotion.agreement import Look
from sdt_ros.egomotion.odometry import CameraMotion
from sdt_ros.egomotion.rescaler import Rescaler
from sdt_ros.egomotion.scale import ScaleConfig, ScaleFilter
from sdt_ros.egomotion.twist import Travel, Twist
from sdt_ros.egomotion.view import View

__all__ = ["CameraMotion", "Look", "Rescaler", "ScaleConfig", "ScaleFilter", "Travel", "Twist", "View"]
