"""What the node says about itself once a second."""

from __future__ import annotations

from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

_ORDER = {DiagnosticStatus.OK: 0, DiagnosticStatus.WARN: 1, DiagnosticStatus.ERROR: 2, DiagnosticStatus.STALE: 3}

LARGE_DATA_HINT = "set FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA for camera and node, as depth.launch.py does"


@dataclass(frozen=True, slots=True)
class Health:
    """One second of the node's life; counts are those of the second, unless they say otherwise.

    Attributes:
        state: lifecycle state.
        runtime: weights and runtime in one line; empty while not configured.
        untrained: whether the weights are random.
        silence_s: seconds since the last packet, or since activation.
        max_silence_s: how long that may be.
        publishers: how many publish on the events topic.
        topic: the events topic.
        calibrated: whether a calibration of the sensor's size is known.
        calibration_problem: why a calibration cannot be used; empty where none is wrong.
        packets: packets received.
        packets_lost: packets that never arrived.
        packets_lost_total: the same since activation.
        packets_rejected: packets that could not be read.
        rejection: why the last rejected packet was.
        due: windows that ended.
        published: windows published.
        skipped: windows skipped.
        empty: windows with too few events.
        failed: windows that the network failed on.
        failure: how the last of them failed.
        events: events received.
        latency_ms: of the last depth image.
        network_ms: the same, the network's part.
        period_ms: time from window to window.
    """

    state: str
    runtime: str
    untrained: bool
    silence_s: float
    max_silence_s: float
    publishers: int
    topic: str
    calibrated: bool
    calibration_problem: str
    packets: int
    packets_lost: int
    packets_lost_total: int
    packets_rejected: int
    rejection: str
    due: int
    published: int
    skipped: int
    empty: int
    failed: int
    failure: str
    events: int
    latency_ms: float
    network_ms: float
    period_ms: float


def _findings(health: Health) -> list[tuple[bytes, str]]:
    """What is not as it should be, worst things first within each level."""
    error, warn = DiagnosticStatus.ERROR, DiagnosticStatus.WARN
    found: list[tuple[bytes, str]] = []
    if health.state == "active":
        if health.packets_rejected:
            found.append((error, f"{health.packets_rejected} packets rejected: {health.rejection}"))
        if health.failed:
            found.append((error, f"the network failed on {health.failed} windows: {health.failure}"))
        if health.silence_s > health.max_silence_s:
            who = f"{health.publishers} publishers" if health.publishers else "nobody publishes it"
            found.append((error, f"no event packets for {health.silence_s:.1f} s on {health.topic} ({who})"))
        if health.skipped:
            found.append(
                (
                    warn,
                    f"falling behind: {health.skipped} of {health.due} windows skipped; the network takes "
                    f"{health.network_ms:.0f} ms, a window is due every {health.period_ms:.0f} ms: lower rate_hz",
                )
            )
        if health.packets_lost:
            found.append((warn, f"{health.packets_lost} packets lost; {LARGE_DATA_HINT}"))
        if health.calibration_problem:
            found.append((warn, health.calibration_problem))
        elif not health.calibrated:
            found.append((warn, "no calibration: camera_info is empty, set camera_info_url or publish ~/camera_info"))
    if health.untrained:
        found.append((warn, "UNTRAINED WEIGHTS: the depth has no meaning"))
    return found


def status(health: Health, name: str, hardware_id: str) -> DiagnosticStatus:
    """The status message: the worst level, every finding in words, and the figures behind them."""
    found = _findings(health)
    message = DiagnosticStatus(name=name, hardware_id=hardware_id)
    message.level = max((level for level, _ in found), key=lambda level: _ORDER[level], default=DiagnosticStatus.OK)
    sound = f"{health.published} depth images in the last second" if health.state == "active" else health.state
    message.message = "; ".join(text for _, text in found) or sound
    figures = {
        "state": health.state,
        "runtime": health.runtime,
        "windows due [1/s]": health.due,
        "windows published [1/s]": health.published,
        "windows skipped [1/s]": health.skipped,
        "windows empty [1/s]": health.empty,
        "packets [1/s]": health.packets,
        "packets lost [1/s]": health.packets_lost,
        "packets lost in all": health.packets_lost_total,
        "packets rejected [1/s]": health.packets_rejected,
        "events [1/s]": health.events,
        "silence [s]": f"{health.silence_s:.2f}",
        "latency, last packet to depth [ms]": f"{health.latency_ms:.1f}",
        "network [ms]": f"{health.network_ms:.1f}",
        "calibrated": health.calibrated,
    }
    message.values = [KeyValue(key=key, value=str(value)) for key, value in figures.items()]
    return message
