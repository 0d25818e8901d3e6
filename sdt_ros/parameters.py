"""The node's parameters: names, defaults, ranges, units, and which of them may change when."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from sdt_ros.events.stream import DECODERS
from sdt_ros.network import presets
from sdt_ros.runtime.choose import RUNTIMES
from sdt_ros.smoothing import USUAL_SMOOTHING_S

if TYPE_CHECKING:
    from rcl_interfaces.msg import SetParametersResult
    from rclpy.lifecycle import LifecycleNode
    from rclpy.parameter import Parameter


def _parameter(
    default: Any,
    text: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """One parameter: its default, description with unit, range or choices, and whether it may change at any time."""
    notes = {"text": text, "low": low, "high": high, "choices": choices, "live": live}
    return field(default=default, metadata=notes)


@dataclass(frozen=True)
class NodeConfig:
    """The values of all parameters; see `config/depth.yaml`."""

    weights: str = _parameter("", "path of a checkpoint with its card, or name of a packaged one; empty: sdt_small")
    allow_untrained: bool = _parameter(False, "random weights of preset where weights is empty: no depth")
    preset: str = _parameter("sdt_tiny", "network used while untrained", choices=tuple(presets))
    device: str = _parameter("auto", "auto, cpu, cuda or cuda:N")
    runtime: str = _parameter("auto", "how the network is run; auto: the fastest of the device", choices=RUNTIMES)
    on_device_error: str = _parameter(
        "cpu", "when the GPU is lost or out of memory: cpu goes on there, stop ends the node", choices=("cpu", "stop")
    )
    threads: int = _parameter(0, "CPU threads of the network; 0: the fewest that keep up with rate_hz", 0, 256)
    window_ms: float = _parameter(0.0, "length of a window [ms]; 0: as trained", 0.0, 10_000.0)
    bins: int = _parameter(0, "time bins of a window; 0: as trained", 0, 64)
    rate_hz: float = _parameter(20.0, "depth images per second of sensor time [Hz]", 0.1, 1000.0, live=True)
    min_events: int = _parameter(100, "a window with fewer events gives no depth [events]", 0, 1_000_000_000, live=True)
    decoder: str = _parameter("native", "which code decodes packets", choices=tuple(DECODERS))
    camera_info_url: str = _parameter("", "calibration, file:///... or package://...; empty: the topic ~/camera_info")
    frame_id: str = _parameter("", "optical frame of the images; empty: the camera's", live=True)
    max_silence_s: float = _parameter(1.0, "longest silence that is no error [s]", 0.05, 3600.0, live=True)
    idle_flush_ms: float = _parameter(
        0.0,
        "silence after which an open window is closed, two windows at least [ms]; 0: never",
        0.0,
        60_000.0,
        live=True,
    )
    smoothing_s: float = _parameter(
        USUAL_SMOOTHING_S,
        "time constant over which depth is averaged, more where it is uncertain [s]; 0: not",
        0.0,
        60.0,
        live=True,
    )
    hold_scale: bool = _parameter(
        True, "hold the scale of whole images where it jumps; not where smoothing_s is 0", live=True
    )
    max_deviation: float = _parameter(
        0.0,
        "leave out pixels whose depth is more uncertain: standard deviation of ln(depth); 0: publish all",
        0.0,
        10.0,
        live=True,
    )
    mask_hot_pixels: bool = _parameter(False, "leave pixels that never rest out of the windows", live=True)
    colormap_min_m: float = _parameter(1.0, "distance at the near end of ~/depth/color [m]", 0.01, 10_000.0, live=True)
    colormap_max_m: float = _parameter(50.0, "distance at the far end of ~/depth/color [m]", 0.01, 10_000.0, live=True)
    rates_every: int = _parameter(
        50, "measure firing rates and energy every N windows; 0: never", 0, 1_000_000, live=True
    )
    autostart: bool = _parameter(True, "configure and activate at start")

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, notes = getattr(self, entry.name), entry.metadata
            if notes["choices"] and value not in notes["choices"]:
                raise ValueError(f"{entry.name} is {value!r}; choose one of {', '.join(notes['choices'])}")
            if notes["low"] is not None and not notes["low"] <= value <= notes["high"]:
                raise ValueError(f"{entry.name} is {value}, outside of {notes['low']} to {notes['high']}")
        if 0 < self.window_ms < 1:
            raise ValueError(
                f"window_ms is {self.window_ms}; 0 takes what the network was trained with, else 1 or more"
            )
        if self.colormap_min_m >= self.colormap_max_m:
            raise ValueError(
                f"colormap_min_m is {self.colormap_min_m}, not below colormap_max_m, {self.colormap_max_m}"
            )


def declare(node: LifecycleNode) -> None:
    """Declare every parameter with its description, range and default on a node."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for entry in fields(NodeConfig):
        notes = entry.metadata
        descriptor = ParameterDescriptor(description=notes["text"], read_only=entry.name == "autostart")
        if notes["choices"]:
            descriptor.additional_constraints = f"one of {', '.join(notes['choices'])}"
        elif notes["low"] is not None and isinstance(entry.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=notes["low"], to_value=notes["high"])]
        elif notes["low"] is not None:
            descriptor.integer_range = [IntegerRange(from_value=notes["low"], to_value=notes["high"], step=1)]
        node.declare_parameter(entry.name, entry.default, descriptor)


def strays(node: LifecycleNode) -> list[str]:
    """What was set for a node that has no such parameter, in words; ROS itself drops it without one."""
    known = [entry.name for entry in fields(NodeConfig)]
    found = []
    for name in getattr(node, "_parameter_overrides", {}):  # rclpy tells of them nowhere else
        if not node.has_parameter(name) and not name.startswith("qos_overrides."):
            near = get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            found.append(f"there is no parameter {name!r}, it has no effect; {meant}")
    return found


def read(node: LifecycleNode) -> NodeConfig:
    """The values as they are now.

    Raises:
        ValueError: they do not go together, or one is out of its range; the message names it.
    """
    return NodeConfig(**{entry.name: node.get_parameter(entry.name).value for entry in fields(NodeConfig)})


def check(current: NodeConfig, changes: list[Parameter], configured: bool) -> tuple[SetParametersResult, NodeConfig]:
    """Whether changes are possible now, with the reason where not; and the values with them.

    Args:
        current: the values now.
        changes: what is to be set; names that are not this node's own are left to others.
        configured: whether the network is loaded: parameters that went into it can then not change.
    """
    from rcl_interfaces.msg import SetParametersResult

    own = {entry.name: entry for entry in fields(NodeConfig)}
    values = {entry.name: getattr(current, entry.name) for entry in fields(NodeConfig)}
    for change in changes:
        if change.name not in own:
            continue
        if configured and not own[change.name].metadata["live"] and change.value != values[change.name]:
            reason = f"{change.name} takes effect on configure only; bring the node to unconfigured (cleanup) first"
            return SetParametersResult(successful=False, reason=reason), current
        values[change.name] = change.value
    try:
        return SetParametersResult(successful=True), NodeConfig(**values)
    except (TypeError, ValueError) as error:
        return SetParametersResult(successful=False, reason=str(error)), current
