"""What the node says about itself once a second."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from sdt_ros.events import EventStream
from sdt_ros.inference import Ledger
from sdt_ros.lens import LENS_UNKNOWN
from sdt_ros.load import Carried
from sdt_ros.outputs import Totals

# With ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST the transports have no effect: 17 of 300 packets of 0.8 MB arrived.
LARGE_DATA_HINT = (
    "set FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA for camera and node, as depth.launch.py does, and leave "
    "ROS_AUTOMATIC_DISCOVERY_RANGE at SUBNET, because LOCALHOST disables it"
)
LARGE_BYTES = 64_000  # of a packet: above, it is cut into datagrams, and one lost piece loses it all
_UNKNOWN = Carried()
_NEAR = 0.8  # share of what can be carried above which the limit is told
_NEARLY_ALL = 0.9  # share of the pixels left out above which it is told
_STORM = 0.5  # share of ones in a window's spikes: no scene does that


@dataclass(frozen=True, slots=True)
class Counts:
    """What the parts of the node have counted, since activation or within a second.

    Attributes:
        packets: packets received.
        lost: packets that never arrived.
        rejected: packets that could not be read.
        restarts: times that the stream started over.
        events: events decoded, on the sensor.
        outside: events outside the sensor.
        unknown: words that the encoding does not define.
        truncated: bytes at packets' ends that make no whole word.
        published: windows published.
        failed: windows that the network failed on.
        skipped: windows skipped, those of undecoded packets among them.
        empty: windows with too few events.
        late: events behind their window's end.
        early: windows closed by silence.
        duplicates: packets that had arrived before.
        reordered: packets that arrived behind a later one.
        shed: packets left undecoded because decoding was behind.
        payload_bytes: bytes of the packets.
        time_jumps: jumps of the sensor's time.
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
    late: int = 0
    early: int = 0
    duplicates: int = 0
    reordered: int = 0
    shed: int = 0
    payload_bytes: int = 0
    time_jumps: int = 0

    @classmethod
    def of(cls, stream: EventStream, ledger: Ledger, totals: Totals) -> Counts:
        """The counts now."""
        packets, decoding, windows = stream.packets, stream.decoding, stream.windows
        return cls(
            packets=packets.received,
            lost=packets.lost,
            rejected=packets.rejected,
            restarts=packets.restarts,
            events=windows.decoded,
            outside=decoding.outside,
            unknown=decoding.unknown,
            truncated=decoding.truncated,
            published=totals.published,
            failed=totals.failed,
            skipped=ledger.skipped + windows.shed,
            empty=windows.empty,
            late=windows.late,
            early=windows.early,
            duplicates=packets.duplicates,
            reordered=packets.reordered,
            shed=packets.shed,
            payload_bytes=packets.payload_bytes,
            time_jumps=windows.time_jumps + packets.clock_leaps,
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
        calibration_changes: times that the calibration became another one in the last second.
        calibration_publishers: how many publish calibrations.
        calibration_stranger: why a calibration that is used may be another camera's; empty where nothing speaks for it.
        has_odometry: whether odometry came in.
        motion_problem: why odometry does not tell how the camera moves; empty where it does, or there is none.
        scale_deviation: standard deviation of ln of the last depth image's scale; NaN where nobody tells it.
        withheld: share of its pixels that were left out for their uncertainty.
        needs_lens: whether the metres depend on the lens, so that one has to be assumed without a calibration.
        rejection: why the last rejected packet was.
        failure: how the network last failed on a window.
        device_lost: why the network had to leave its device; empty where it did not.
        fallback: why the network is not run as it should be here; empty where it is.
        latency_ms: of the last depth image.
        network_ms: what the network takes for a window.
        period_ms: time from window to window.
        load: what decoding takes, and what it could carry.
        density: share of ones in the spikes of the densest window of the second.
        eventless_s: seconds since the last packet with events.
        hot_pixels: columns and rows of pixels that never rest.
        masks_hot_pixels: whether they are left out.
        rivals: how many others publish on `depth_topic`.
        depth_topic: where depth is published.
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
    calibration_changes: int = 0
    calibration_publishers: int = 0
    calibration_stranger: str = ""
    has_odometry: bool = False
    motion_problem: str = ""
    scale_deviation: float = math.nan
    withheld: float = 0.0
    needs_lens: bool = False
    rejection: str = ""
    failure: str = ""
    device_lost: str = ""
    fallback: str = ""
    latency_ms: float = 0.0
    network_ms: float = 0.0
    period_ms: float = 0.0
    load: Carried = _UNKNOWN
    density: float = 0.0
    eventless_s: float = 0.0
    hot_pixels: tuple[tuple[int, int], ...] = ()
    masks_hot_pixels: bool = False
    rivals: int = 0
    depth_topic: str = ""
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
        found.append(f"no event packets for {health.silence_s:.1f} s on {health.topic} ({who}): the camera is dead")
    return found


def _limits(health: Health) -> str:
    """From which load on windows will be skipped, as far as it is known."""
    known = [f"network takes {health.network_ms:.0f} of {health.period_ms:.0f} ms"] if health.network_ms else []
    if health.load.most_mev_s:
        now = health.second.events / 1e6
        known.append(f"decoding would fill its core at {health.load.most_mev_s:.3g} Mev/s, now {now:.3g}")
    return "; ".join(known)


def _load_warnings(health: Health) -> list[str]:
    """Windows that are skipped, or soon will be."""
    second, load = health.second, health.load
    if second.skipped:
        return [
            f"falling behind: {second.skipped} of {second.due} windows skipped"
            + (f", {second.shed} packets left undecoded" if second.shed else "")
            + f"; {_limits(health)}; lower rate_hz"
        ]
    is_near = health.network_ms > _NEAR * health.period_ms > 0 or load.busy > _NEAR
    return [f"near the limit, windows will be skipped above it: {_limits(health)}"] if is_near else []


def _sequence_warnings(health: Health) -> list[str]:
    """Packets that were lost, or took a detour."""
    second, found = health.second, []
    if second.lost:
        mean = second.payload_bytes / max(1, second.packets)
        cure = (
            f"packets have {mean / 1000:.0f} kB: {LARGE_DATA_HINT}"
            if mean > LARGE_BYTES
            else "the machine or the network between camera and node is overloaded"
        )
        found.append(f"{second.lost} packets lost; {cure}")
    if second.reordered or second.duplicates:
        found.append(f"{second.reordered} packets out of order and {second.duplicates} duplicates dropped")
    if second.time_jumps:
        found.append(f"the sensor's time jumped {second.time_jumps} times")
    return found


def _scene_warnings(health: Health) -> list[str]:
    """What the events themselves say about the camera."""
    found = []
    if health.second.packets and health.silence_s <= health.max_silence_s < health.eventless_s:
        found.append(
            f"packets without events for {health.eventless_s:.1f} s: the camera lives, and nothing moves before it "
            "(or its lens is covered)"
        )
    if health.density > _STORM:
        found.append(
            f"event storm: {100 * health.density:.0f} % of a window's pixels and bins have events: look for flickering "
            "light or too low thresholds"
        )
    if health.hot_pixels:
        first = ", ".join(f"({x}, {y})" for x, y in health.hot_pixels[:5])
        more = f" and {len(health.hot_pixels) - 5} more" if len(health.hot_pixels) > 5 else ""
        done = "masked" if health.masks_hot_pixels else "mask_hot_pixels:=true leaves them out"
        found.append(f"hot pixels (column, row): {first}{more}; {done}")
    return found


def _warnings(health: Health) -> list[str]:
    """What makes the depth worse than it could be."""
    second = health.second
    found = []
    if health.state == "active":
        found += _load_warnings(health) + _sequence_warnings(health) + _scene_warnings(health)
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
        if health.calibration_changes > 1:  # one is a new calibration
            found.append(
                f"the calibration changed {health.calibration_changes} times in the last second, "
                f"{health.calibration_publishers} publish it: remap ~/camera_info to that of the event camera alone, "
                "or set camera_info_url"
            )
        elif health.calibration_problem:
            found.append(health.calibration_problem)
        elif not health.calibrated:
            found.append("no calibration: camera_info is empty, set camera_info_url or publish ~/camera_info")
        elif health.calibration_stranger:
            found.append(health.calibration_stranger)
        if health.has_odometry and not health.calibrated:
            found.append("odometry is not used: it needs the camera's calibration")
        elif health.motion_problem:
            found.append(f"the scale of depth is the network's guess: {health.motion_problem}")
        if health.withheld > _NEARLY_ALL:
            found.append(
                f"{100 * health.withheld:.0f} % of the last image's pixels are left out as too uncertain: raise "
                "max_deviation" + ("" if health.has_odometry else ", or give the node odometry")
            )
        if health.needs_lens and not health.calibrated:
            found.append(LENS_UNKNOWN)
        if health.rivals:
            found.append(f"{health.rivals} more publish on {health.depth_topic}: give each node a namespace")
    if health.device_lost:
        found.append(f"the device is lost, the network runs on the CPU: {health.device_lost}")
    if health.fallback:
        found.append(f"the network runs slower than it could: {health.fallback}")
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
        "windows closed by silence in all": total.early,
        "packets [1/s]": second.packets,
        "packets lost [1/s]": second.lost,
        "packets lost in all": total.lost,
        "packets reordered in all": total.reordered,
        "packets duplicate in all": total.duplicates,
        "packets left undecoded in all": total.shed,
        "packets rejected [1/s]": second.rejected,
        "stream resets in all": total.restarts,
        "events [1/s]": second.events,
        "events late in all": total.late,
        "silence [s]": f"{health.silence_s:.2f}",
        "latency, last packet to depth [ms]": f"{health.latency_ms:.1f}",
        "network [ms]": f"{health.network_ms:.1f}",
        "decoding, share of its core": f"{health.load.busy:.3f}",
        "decoding would fill its core at [Mev/s]": f"{health.load.most_mev_s:.4g}",
        "load": _limits(health),
        "hot pixels": len(health.hot_pixels),
        "calibrated": health.calibrated,
        "odometry": health.has_odometry,
        "scale of depth, deviation of its logarithm": f"{health.scale_deviation:.2f}",
        "pixels left out as too uncertain": f"{health.withheld:.3f}",
    }
    message.values = [KeyValue(key=key, value=str(value)) for key, value in figures.items()]
    return message
