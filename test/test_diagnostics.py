"""Diagnostics: the level is that of the worst finding, and every finding names the thing and the fix."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

pytest.importorskip("diagnostic_msgs", reason="no ROS: pip install '.[ros]'")

from diagnostic_msgs.msg import DiagnosticStatus

from sdt_ros.diagnostics import Counts, Health, Seconds, status
from sdt_ros.events import EventStream, WindowConfig
from sdt_ros.inference import Ledger
from sdt_ros.load import Carried
from sdt_ros.outputs import Totals

SOUND = Health(
    state="active", runtime="sdt, trained", topic="/events", publishers=1, calibrated=True,
    second=Counts(packets=500, events=100_000, published=20), total=Counts(packets=900, published=40),
    latency_ms=12.0, network_ms=10.0, period_ms=50.0,
)  # fmt: skip


def level_and_text(health: Health) -> tuple[bytes, str]:
    message = status(health, "depth: depth from events", "camera")
    assert (message.name, message.hardware_id) == ("depth: depth from events", "camera")
    return message.level, message.message


def second(**counts: int) -> Health:
    return replace(SOUND, second=replace(SOUND.second, **counts))


def test_all_is_well() -> None:
    assert level_and_text(SOUND) == (DiagnosticStatus.OK, "20 depth images in the last second")


@pytest.mark.parametrize("state", ["unconfigured", "inactive", "finalized"])
def test_a_node_that_is_not_active_complains_of_nothing(state: str) -> None:
    health = replace(SOUND, state=state, silence_s=100.0, calibrated=False)
    assert level_and_text(health) == (DiagnosticStatus.OK, state)


@pytest.mark.parametrize(
    ("health", "texts"),
    [
        (replace(second(rejected=3), rejection="encoding 'x'"), ["3 packets rejected", "encoding 'x'"]),
        (replace(second(failed=2), failure="out of memory"), ["failed on 2 windows", "out of memory"]),
        (replace(SOUND, silence_s=1.5), ["no event packets for 1.5 s on /events", "publishers: 1"]),
        (replace(SOUND, silence_s=1.5, publishers=0), ["nobody publishes it"]),
        (Health(state="unconfigured", problem="cannot configure: no such file"), ["cannot configure: no such file"]),
    ],
)
def test_errors(health: Health, texts: list[str]) -> None:
    level, text = level_and_text(health)
    assert level == DiagnosticStatus.ERROR
    assert all(part in text for part in texts), text


@pytest.mark.parametrize(
    ("health", "texts"),
    [
        (second(skipped=5), ["5 of 25 windows skipped", "network takes 10 of 50 ms", "lower rate_hz"]),
        (second(skipped=5, shed=8), ["8 packets left undecoded"]),
        (replace(SOUND, network_ms=42.0), ["near the limit", "network takes 42 of 50 ms"]),
        (
            replace(SOUND, load=Carried(0.85, 23.4)),
            ["near the limit", "decoding would fill its core at 23.4 Mev/s, now 0.1"],
        ),
        (
            second(lost=7, payload_bytes=500 * 800_000),
            ["7 packets lost", "800 kB", "FASTDDS_BUILTIN_TRANSPORTS=LARGE_DATA", "LOCALHOST disables"],
        ),
        (second(lost=7, payload_bytes=500 * 800), ["7 packets lost", "overloaded"]),
        (second(reordered=3, duplicates=2), ["3 packets out of order and 2 duplicates dropped"]),
        (second(time_jumps=1), ["time jumped 1 times"]),
        (replace(SOUND, eventless_s=3.0), ["packets without events for 3.0 s", "the camera lives"]),
        (replace(SOUND, density=0.8), ["event storm: 80 %"]),
        (replace(SOUND, hot_pixels=((7, 9), (1, 2))), ["hot pixels", "(7, 9), (1, 2)", "mask_hot_pixels:=true"]),
        (replace(SOUND, rivals=1, depth_topic="/depth/x"), ["1 more publish on /depth/x", "namespace"]),
        (replace(SOUND, device_lost="out of memory"), ["runs on the CPU", "out of memory"]),
        (second(truncated=1), ["1 bytes cut off"]),
        (second(unknown=2), ["2 words unknown"]),
        (second(outside=9), ["9 events outside"]),
        (second(restarts=1), ["started over 1 times"]),
        (replace(second(restarts=4), publishers=2), ["2 publishers mix their packets on /events"]),
        (replace(SOUND, withheld=0.97), ["97 % of the last image's pixels", "raise max_deviation", "odometry"]),
        (replace(SOUND, calibrated=False), ["no calibration", "camera_info_url"]),
        (replace(SOUND, calibrated=False, calibration_problem="is for 10x10"), ["is for 10x10"]),
        (replace(SOUND, calibration_stranger="of frame 'left'"), ["of frame 'left'"]),
        (
            replace(SOUND, calibration_changes=30, calibration_publishers=2, calibrated=False),
            ["changed 30 times in the last second, 2 publish it", "remap ~/camera_info"],
        ),
        (replace(SOUND, calibrated=False, needs_lens=True), ["no calibration", "for a lens of 71 degrees across"]),
        (replace(SOUND, fallback="auto, FELL BACK: no kernels"), ["slower than it could", "no kernels"]),
        (replace(SOUND, untrained=True), ["UNTRAINED"]),
        (replace(SOUND, state="inactive", untrained=True), ["UNTRAINED"]),
    ],
)
def test_warnings(health: Health, texts: list[str]) -> None:
    level, text = level_and_text(health)
    assert level == DiagnosticStatus.WARN
    assert all(part in text for part in texts), text


def test_a_dead_camera_is_told_from_a_scene_at_rest() -> None:
    dead = replace(SOUND, second=Counts(), silence_s=9.0, eventless_s=9.0)
    resting = replace(SOUND, second=Counts(packets=100, empty=20), silence_s=0.0, eventless_s=9.0)
    assert level_and_text(dead)[0] == DiagnosticStatus.ERROR and "dead" in level_and_text(dead)[1]
    assert level_and_text(resting)[0] == DiagnosticStatus.WARN and "dead" not in level_and_text(resting)[1]


def test_small_packets_are_not_sent_to_another_transport() -> None:
    assert "LARGE_DATA" not in level_and_text(second(lost=7, payload_bytes=500 * 800))[1]


def test_silence_within_its_limit_is_fine() -> None:
    assert level_and_text(replace(SOUND, silence_s=4.9, max_silence_s=5.0))[0] == DiagnosticStatus.OK


def test_untrained_is_said_beside_every_error() -> None:
    for health in (replace(second(rejected=1), untrained=True), replace(SOUND, silence_s=9.0, untrained=True)):
        level, text = level_and_text(health)
        assert level == DiagnosticStatus.ERROR and "UNTRAINED" in text


def test_figures_stand_behind_the_words() -> None:
    message = status(second(skipped=5, lost=7), "depth", "")
    figures = {value.key: value.value for value in message.values}
    assert figures["windows due [1/s]"] == "25" and figures["windows skipped [1/s]"] == "5"
    assert figures["packets lost [1/s]"] == "7" and figures["packets [1/s]"] == "500"
    assert figures["latency, last packet to depth [ms]"] == "12.0"
    assert len(figures) == len(message.values), "each key once"


def test_seconds_are_differences_and_begin_anew() -> None:
    seconds = Seconds()
    assert seconds.passed(Counts(packets=5, empty=1)) == Counts(packets=5, empty=1)
    assert seconds.passed(Counts(packets=12, empty=1)) == Counts(packets=7)
    assert seconds.passed(Counts(packets=12, empty=1)) == Counts()
    seconds.restart()
    assert seconds.passed(Counts(packets=2)) == Counts(packets=2)


def test_counts_are_taken_from_those_who_count() -> None:
    stream = EventStream(WindowConfig(), lambda window: window.release())
    stream.packets.received, stream.packets.lost, stream.packets.rejected, stream.packets.restarts = 1, 2, 3, 4
    stream.windows.decoded, stream.windows.empty, stream.windows.shed = 5, 6, 3
    counts = Counts.of(stream, Ledger(offered=20, taken=9, skipped=10, waiting=1), Totals(published=7, failed=2))
    assert counts == Counts(
        packets=1, lost=2, rejected=3, restarts=4, events=5, empty=6, published=7, failed=2, skipped=13
    )
    assert counts.due == 7 + 2 + 13 + 6
    assert {entry.name for entry in fields(Counts)} >= {"outside", "unknown", "truncated"}
