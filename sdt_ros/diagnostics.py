"""What the node says about itself once a second."""

from __future__ import annotations

from dataclasses import dataclass, fields

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from sdt_ros.events import EventStream
from sdt_ros.inference import Ledger
from sdt_ros.outputs import Totals

# With ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST the transports have no effect: 17 of 300 packets of 0.8 MB arrived.
LARGE_DATA_HINT = (
    "set FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA for camera and node, as depth.launch.py does, and leave "
    "ROS_AUTOMATIC_DISCOVERY_RANGE at SUBNET"
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What the parts of the node have counted, since activation or within a second.

    Attributes:
        packets: packets received.
        lost: packets that never arrived.
        rejected: packets that could not be read.
        restarts: times that the stream started over.
        events: events in any window.
        outside: events outside the sensor.
        unknown: words that the encoding does not define.
        truncated: bytes at packets' ends that make no whole word.
        published: windows published.
        failed: windows that the network failed on.
        skipped: windows skipped.
        empty: windows with too few events.
    """

    packets: int = 0
    lost: int = 0
    rejected: int = 0
    restarts: int = 0
    events: int = 0
    outside: int = 0
    unknown: int = 0
    truncated: int = 0
    published: int = 0
    failed: int = 0
    skipped: int = 0
    empty: int = 0

    @classmethod
    def of(cls, stream: EventStream, ledger: Ledger, totals: Totals) -> Counts:
        """The counts now."""
        packets, decoding, windows = stream.packets, stream.decoding, stream.windows
        return cls(
            packets=packets.received,
            lost=packets.lost,
            rejected=packets.rejected,
            restarts=packets.restarts,
            events=windows.events,
            outside=decoding.outside,
            unknown=decoding.unknown,
            truncated=decoding.truncated,
            published=totals.published,
            failed=totals.failed,
            skipped=ledger.skipped,
            empty=windows.empty,
        )

    def __sub__(self, before: Counts) -> Counts:
        return Counts(*(getattr(self, entry.name) - getattr(before, entry.name) for entry in fields(Counts)))

    @property
    def due(self) -> int:
        """Windows that ended and were dealt with."""
        return self.published + self.failed + self.skipped + self.empty

    @property
    def damaged(self) -> int:
        """Signs that payloads are damaged."""
        return self.outside + self.unknown + self.truncated


class Seconds:
    """Tells what was counted in each second from what has been counted since activation."""

    def __init__(self) -> None:
        self._before = Counts()

    def restart(self) -> None:
        """Begin at zero, as the counts do."""
        self._before = Counts()

    def passed(self, total: Counts) -> Counts:
        """What was counted since the last call."""
        second, self._before = total - self._before, total
        return second


@dataclass(frozen=True, slots=True)
class Health:
    """One second of the node's life.

    Attributes:
        state: lifecycle state.
        problem: why the last transition failed; empty where it did not.
        runtime: weights and runtime in one line; empty while not configured.
        untrained: whether the weights are random.
        topic: the events topic.
        publishers: how many publish on it.
        silence_s: seconds since the last packet, or since activation.
        max_silence_s: how long that may be.
        calibrated: whether a calibration of the sensor's size is known.
        calibration_problem: why a calibration cannot be used; empty where none is wrong.
        rejection: why the last rejected packet was.
        failure: how the network last failed on a window.
        latency_ms: of the last depth image.
        network_ms: the same, the network's part.
        period_ms: time from window to window.
        second: counts of the second.
        total: counts since activation.
    """

    state: str
    problem: str = ""
    runtime: str = ""
    untrained: bool = False
    topic: str = ""
    publishers: int = 0
    silence_s: float = 0.0
    max_silence_s: float = 1.0
    calibrated: bool = False
    calibration_problem: str = ""
    rejection: str = ""
    failure: str = ""
    latency_ms: float = 0.0
    network_ms: float = 0.0
    period_ms: float = 0.0
    second: Counts = Counts()
    total: Counts = Counts()


def _errors(health: Health) -> list[str]:
    """Why there is no depth, worst first."""
    second = health.second
    if health.problem:
        return [health.problem]
    if health.state != "active":
        return []
    found = []
    if second.rejected:
        found.append(f"{second.rejected} packets rejected: {health.rejection}")
    if second.failed:
        found.append(f"the network failed on {second.failed} windows: {health.failure}")
    if health.silence_s > health.max_silence_s:
        who = f"publishers: {health.publishers}" if health.publishers else "nobody publishes it"
        found.append(f"no event packets for {health.silence_s:.1f} s on {health.topic} ({who})")
    return found


def _warnings(health: Health) -> list[str]:
    """What makes the depth worse than it could be."""
    second = health.second
    found = []
    if health.state == "active":
        if second.skipped:
            found.append(
                f"falling behind: {second.skipped} of {second.due} windows skipped; the network takes "
                f"{health.network_ms:.0f} ms, a window is due every {health.period_ms:.0f} ms: lower rate_hz"
            )
        if second.lost:
            found.append(f"{second.lost} packets lost; {LARGE_DATA_HINT}")
        if second.damaged:
            found.append(
                f"damaged packets: {second.truncated} bytes cut off, {second.unknown} words unknown, {second.outside} "
                "events outside of the sensor"
            )
        if second.restarts and health.publishers > 1:
            found.append(
                f"the stream started over {second.restarts} times; {health.publishers} publishers mix their packets on "
                f"{health.topic}: let there be one"
            )
        elif second.restarts:
            found.append(f"the stream started over {second.restarts} times")
        if health.calibration_problem:
            found.append(health.calibration_problem)
        elif not health.calibrated:
            found.append("no calibration: camera_info is empty, set camera_info_url or publish ~/camera_info")
    if health.untrained:
        found.append("UNTRAINED WEIGHTS: the depth has no meaning")
    return found


def status(health: Health, name: str, hardware_id: str) -> DiagnosticStatus:
    """The status message: the worst level, every finding in words, and the figures behind them."""
    errors, warnings = _errors(health), _warnings(health)
    second, total = health.second, health.total
    message = DiagnosticStatus(name=name, hardware_id=hardware_id)
    message.level = DiagnosticStatus.ERROR if errors else DiagnosticStatus.WARN if warnings else DiagnosticStatus.OK
    sound = f"{second.published} depth images in the last second" if health.state == "active" else health.state
    message.message = "; ".join(errors + warnings) or sound
    figures = {
        "state": health.state,
        "runtime": health.runtime,
        "windows due [1/s]": second.due,
        "windows published [1/s]": second.published,
        "windows skipped [1/s]": second.skipped,
        "windows empty [1/s]": second.empty,
        "packets [1/s]": second.packets,
        "packets lost [1/s]": second.lost,
        "packets lost in all": total.lost,
        "packets rejected [1/s]": second.rejected,
        "stream resets in all": total.restarts,
        "events [1/s]": second.events,
        "silence [s]": f"{health.silence_s:.2f}",
        "latency, last packet to depth [ms]": f"{health.latency_ms:.1f}",
        "network [ms]": f"{health.network_ms:.1f}",
        "calibrated": health.calibrated,
    }
    message.values = [KeyValue(key=key, value=str(value)) for key, value in figures.items()]
    return message
