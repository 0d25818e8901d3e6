"""Parameters without a graph: values, ranges, choices, and what may change when."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from sdt_ros.parameters import NodeConfig, check

rclpy_parameter = pytest.importorskip("rclpy.parameter", reason="no ROS: pip install '.[ros]'")
Parameter = rclpy_parameter.Parameter

LIVE = {
    "rate_hz", "min_events", "frame_id", "max_silence_s", "colormap_min_m", "colormap_max_m", "rates_every",
    "idle_flush_ms", "mask_hot_pixels", "smoothing_s", "hold_scale", "max_deviation",
}  # fmt: skip


def other_value(name: str, value: object) -> object:
    """Return another value that the parameter can have."""
    special = {
        "preset": "sdt",
        "decoder": "event_camera_py",
        "on_device_error": "stop",
        "runtime": "eager",
        "rate_hz": 21.0,
        "window_ms": 40.0,
    }
    if name in special:
        return special[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x"


def test_what_may_change_at_run_time_is_what_we_say() -> None:
    assert {entry.name for entry in fields(NodeConfig) if entry.metadata["live"]} == LIVE


@pytest.mark.parametrize("entry", fields(NodeConfig), ids=lambda entry: entry.name)
def test_every_parameter_is_described(entry) -> None:
    text = entry.metadata["text"]
    assert len(text) > 10 and text == text.strip()
    is_number = isinstance(entry.default, (int, float)) and not isinstance(entry.default, bool)
    assert (entry.metadata["low"] is not None) == is_number, "numbers, and only they, have ranges"
    if is_number:
        assert entry.metadata["low"] <= entry.default <= entry.metadata["high"]
        assert type(entry.default) in (int, float)
    if entry.name.endswith(("_ms", "_s", "_m", "_hz")):
        unit = {"ms": "[ms]", "s": "[s]", "m": "[m]", "hz": "[Hz]"}[entry.name.rsplit("_", 1)[1]]
        assert unit in text


@pytest.mark.parametrize("entry", fields(NodeConfig), ids=lambda entry: entry.name)
def test_configured_nodes_change_live_parameters_only(entry) -> None:
    before = NodeConfig()
    value = other_value(entry.name, entry.default)
    result, after = check(before, [Parameter(entry.name, value=value)], configured=True)
    assert result.successful == (entry.name in LIVE)
    if result.successful:
        assert after == replace(before, **{entry.name: value})
    else:
        assert after is before and entry.name in result.reason and "cleanup" in result.reason
    result, after = check(before, [Parameter(entry.name, value=value)], configured=False)
    assert result.successful and getattr(after, entry.name) == value


def test_setting_the_present_value_is_never_refused() -> None:
    config = NodeConfig()
    changes = [Parameter(entry.name, value=getattr(config, entry.name)) for entry in fields(NodeConfig)]
    result, after = check(config, changes, configured=True)
    assert result.successful and after == config


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_hz", 0.0),
        ("rate_hz", float("nan")),
        ("rate_hz", float("inf")),
        ("min_events", -1),
        ("max_silence_s", 0.0),
        ("rates_every", -1),
        ("window_ms", 0.5),
        ("threads", 257),
        ("bins", 65),
        ("preset", "huge"),
        ("decoder", "guess"),
        ("colormap_min_m", 50.0),
        ("colormap_max_m", 1.0),
    ],
)
def test_impossible_values_are_refused_by_name(name: str, value: object) -> None:
    before = NodeConfig()
    result, after = check(before, [Parameter(name, value=value)], configured=False)
    assert not result.successful and after is before
    assert name in result.reason and str(value).strip("'") in result.reason


def test_values_that_go_together_are_judged_together() -> None:
    changes = [Parameter("colormap_min_m", value=60.0), Parameter("colormap_max_m", value=90.0)]
    result, after = check(NodeConfig(), changes, configured=True)
    assert result.successful and (after.colormap_min_m, after.colormap_max_m) == (60.0, 90.0)
    assert not check(NodeConfig(), changes[:1], configured=True)[0].successful


def test_parameters_of_others_are_left_to_them() -> None:
    result, after = check(NodeConfig(), [Parameter("use_sim_time", value=True)], configured=True)
    assert result.successful and after == NodeConfig()


def test_unknown_names_cannot_be_put_in() -> None:
    with pytest.raises(TypeError, match="wieghts"):
        NodeConfig(wieghts="x")
