"""The scale of depth from the camera's own motion: velocities, mountings, travel, and what events say of a factor."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sdt_ros.bags import BagWriter, open_bag
from sdt_ros.calibration import Calibration
from sdt_ros.cli import main
from sdt_ros.egomotion import CameraMotion, Look, Rescaler, ScaleConfig, ScaleFilter, Travel, Twist, View
from sdt_ros.egomotion import agreement as egomotion_agreement
from sdt_ros.egomotion.agreement import agreement
from sdt_ros.egomotion.mounting import Mounting, rotation_of
from sdt_ros.egomotion.tiles import at_cells
from sdt_ros.events.reduce import reduce_spikes
from sdt_ros.simulation.camera import CAMERAS, Camera
from sdt_ros.simulation.families import sample_scenes
from sdt_ros.simulation.recording import RecordingConfig, quaternion, write_recording
from sdt_ros.simulation.sensor import SensorConfig
from sdt_ros.simulation.simulator import EventCamera
from sdt_ros.simulation.textures import build_atlas

WINDOW_S = 0.05


def turned(axis: tuple[float, float, float], angle: float) -> np.ndarray:
    sine = math.sin(angle / 2)
    rotation = rotation_of(*(sine * part / math.hypot(*axis) for part in axis), math.cos(angle / 2))
    assert rotation is not None
    return rotation


def odometry(stamp_ns: int, linear: object, angular: object, frame: str = "camera") -> SimpleNamespace:
    vectors = [SimpleNamespace(**dict(zip("xyz", v, strict=True))) for v in (linear, angular)]  # type: ignore[call-overload]
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds)),
        child_frame_id=frame,
        twist=SimpleNamespace(twist=SimpleNamespace(linear=vectors[0], angular=vectors[1])),
    )


def static(parent: str, child: str, rotation: np.ndarray, offset: tuple[float, float, float]) -> SimpleNamespace:
    turn = SimpleNamespace(**dict(zip("xyzw", quaternion(rotation), strict=True)))
    shift = SimpleNamespace(**dict(zip("xyz", offset, strict=True)))
    transform = SimpleNamespace(rotation=turn, translation=shift)
    header = SimpleNamespace(frame_id=parent)
    return SimpleNamespace(transforms=[SimpleNamespace(header=header, child_frame_id=child, transform=transform)])


# --- velocities -------------------------------------------------------------------------------------------------------


def test_the_velocity_between_two_poses_is_that_of_the_way() -> None:
    """A body on a circle of 2 m at 0.5 rad/s goes 1 m/s forward and turns about its own axis."""
    before, after = -0.005, 0.005
    rotations = [turned((0, 0, 1), 0.5 * t) for t in (before, after)]
    positions = [2 * np.array([math.sin(0.5 * t), -math.cos(0.5 * t), 0]) for t in (before, after)]
    twist = Twist.between(rotations, positions, after - before)
    np.testing.assert_allclose(twist.linear, [1, 0, 0], atol=1e-4)
    np.testing.assert_allclose(twist.angular, [0, 0, 0.5], atol=1e-6)
    with pytest.raises(ValueError, match=r"0\.0 s apart"):
        Twist.between(rotations, positions, 0.0)
    with pytest.raises(ValueError, match="angular velocity is"):
        Twist(np.zeros(3), np.array([0, math.nan, 0]))


def test_a_camera_on_a_lever_moves_with_the_turning_base() -> None:
    """A camera 0.5 m ahead of a base that turns left at 2 rad/s goes 1 m/s to the left; it looks ahead."""
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # columns: right, down, ahead in the base's axes
    twist = Twist(np.array([3.0, 0, 0]), np.array([0, 0, 2.0])).of_point(optical, [0.5, 0, 0])
    np.testing.assert_allclose(twist.linear, [-1, 0, 3], atol=1e-12)
    np.testing.assert_allclose(twist.angular, [0, -2, 0], atol=1e-12)


def test_mountings_are_followed_both_ways_and_over_several_frames() -> None:
    mounting = Mounting()
    a, b = turned((1, 2, 3), 0.7), turned((0, 1, 0), -1.1)
    mounting.take(static("base", "mast", a, (0.1, 0.2, 0.3)))
    mounting.take(static("/mast", "camera", b, (0, 0, 0.5)))
    mounting.take(static("base", "loop", np.eye(3), (math.nan, 0, 0)))
    rotation, offset = mounting.pose("base", "camera") or pytest.fail("no way")
    np.testing.assert_allclose(rotation, a @ b, atol=1e-9)
    np.testing.assert_allclose(offset, np.array([0.1, 0.2, 0.3]) + a @ [0, 0, 0.5], atol=1e-9)
    back, there = mounting.pose("camera", "base") or pytest.fail("no way")
    np.testing.assert_allclose(back @ rotation, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(back @ offset + there, 0, atol=1e-9)
    assert mounting.pose("base", "loop") is mounting.pose("base", "elsewhere") is None
    assert rotation_of(0, 0, 0, 0) is None


def test_a_frame_that_gets_another_parent_leaves_the_first() -> None:
    """As in tf2: a mounting that was told wrongly is put right by way of another frame."""
    mounting, right = Mounting(), turned((0, 0, 1), 0.3)
    mounting.take(static("base", "camera", turned((0, 0, 1), math.pi), (9, 9, 9)))
    mounting.take(static("base", "mast", np.eye(3), (0, 0, 1)))
    mounting.take(static("mast", "camera", right, (0, 0, 0.5)))
    for _ in range(2):  # said again, nothing changes
        rotation, offset = mounting.pose("base", "camera") or pytest.fail("no way")
        np.testing.assert_allclose(rotation, right, atol=1e-9)
        np.testing.assert_allclose(offset, [0, 0, 1.5], atol=1e-9)
        mounting.take(static("mast", "camera", right, (0, 0, 0.5)))
    mounting.take(static("elsewhere", "camera", right, (0, 0, 0)))
    assert mounting.pose("base", "camera") is None
    mounting.take(static("camera", "elsewhere", np.eye(3), (1, 0, 0)))  # turned about: the camera keeps its parent
    assert mounting.pose("elsewhere", "camera") is not None
    mounting.take(static("mast", "camera", right, (0, 0, 0.5)))
    mounting.take(static("mast", "elsewhere", right, (0, 0, 0.5)))
    assert mounting.pose("camera", "elsewhere") is not None and mounting.pose("base", "elsewhere") is not None


# --- travel -----------------------------------------------------------------------------------------------------------


def test_travel_is_the_integral_of_what_odometry_says() -> None:
    """A camera that shakes at 20 Hz goes far less within a window than its velocity in the middle says."""
    shaking, turning, w = CameraMotion(), CameraMotion(), 2 * math.pi * 20
    for k in range(400):
        t = k / 1000
        shaking.take(odometry(k * 1_000_000, (0.3, 0, math.cos(w * t)), (0, 0, 0)))
        turning.take(odometry(k * 1_000_000, (0, 0, 0), (0, math.sin(w * t), 0)))
    at, middle = 0.15 + WINDOW_S * (np.arange(4) + 0.5) / 4, 0.175
    travel = shaking.travel("camera", 200_000_000, WINDOW_S, 4)
    assert travel is not None and not shaking.problem
    np.testing.assert_allclose(travel.turn, np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(travel.shift[:, 0], 0.3 * (at - middle), atol=1e-9)
    np.testing.assert_allclose(travel.shift[:, 2], (np.sin(w * at) - np.sin(w * middle)) / w, atol=2e-5)
    travel = turning.travel("camera", 200_000_000, WINDOW_S, 4)
    assert travel is not None
    angle = (np.cos(w * middle) - np.cos(w * at)) / w  # of each bin's axes, as the middle's see them
    np.testing.assert_allclose(travel.turn[:, 0, 2], np.sin(angle), atol=2e-5)
    np.testing.assert_allclose(travel.shift, 0, atol=1e-12)
    rattling = Travel.along([0.0], 20e6, 1e6 * np.arange(21), [[(-1.0) ** k, 0, 0, 0, 0, 0] for k in range(21)])
    np.testing.assert_allclose(rattling.shift, 0, atol=1e-12)  # measured at 1 kHz, twice to and fro a step


def test_a_camera_on_a_circle_comes_back() -> None:
    """Half a turn about a point 1 m to the left: it has gone 2 m to where it now calls right, and looks back."""
    twist = Twist(np.array([0.0, 0, math.pi]), np.array([0, -math.pi, 0]))  # ahead at pi m/s, turning left
    travel = Travel.along([0, 5e8], 1e9, [0.0], [[*twist.linear, *twist.angular]])
    ahead = np.array([0.0, 0, 1])  # seen a metre ahead at the start
    np.testing.assert_allclose(travel.turn[0] @ ahead + travel.shift[0], [-2, 0, -1], atol=1e-4)
    np.testing.assert_allclose(travel.turn[1] @ ahead + travel.shift[1], [0, 0, -1], atol=1e-4)
    np.testing.assert_allclose(travel.turn @ np.swapaxes(travel.turn, 1, 2), np.tile(np.eye(3), (2, 1, 1)), atol=1e-12)
    there, back = (Travel.along([a], b, [0.0], [[*twist.linear, *twist.angular]]) for a, b in ((0, 5e8), (5e8, 0)))
    moved = there.turn[0] @ ahead + there.shift[0]
    np.testing.assert_allclose(back.turn[0] @ moved + back.shift[0], ahead, atol=1e-12)


def test_slow_odometry_is_taken_as_steady_and_old_odometry_not_at_all() -> None:
    motion = CameraMotion()
    assert motion.travel("camera", 0, WINDOW_S, 4) is None and "no odometry within 100 ms" in motion.problem
    motion.take(odometry(1_000_000_000, (1, 2, 3), (0.1, 0, 0)))
    travel = motion.travel("camera", 1_060_000_000, WINDOW_S, 4)
    expected = Travel.steady(Twist(np.array([1.0, 2, 3]), np.array([0.1, 0, 0])), WINDOW_S, 4)
    assert travel is not None
    np.testing.assert_allclose(travel.shift, expected.shift, atol=1e-9)
    np.testing.assert_allclose(travel.turn, expected.turn, atol=1e-9)
    assert motion.travel("camera", 1_200_000_000, WINDOW_S, 4) is None
    assert motion.travel("optical", 1_060_000_000, WINDOW_S, 4) is None
    assert "'camera'" in motion.problem and "how 'optical' is mounted" in motion.problem
    motion.take_static(static("camera", "optical", turned((0, 0, 1), math.pi / 2), (0, 0, 0)))
    mounted = motion.travel("optical", 1_060_000_000, WINDOW_S, 4)
    assert mounted is not None and not motion.problem
    np.testing.assert_allclose(mounted.shift[:, 0], expected.shift[:, 1], atol=1e-9)
    motion.take(odometry(1_010_000_000, (math.nan, 0, 0), (0, 0, 0)))
    assert motion.travel("camera", 1_300_000_000, WINDOW_S, 4) is None and "linear velocity is" in motion.problem
    motion.take(odometry(400_000_000, (5, 0, 0), (0, 0, 0)))  # the clock was set back: what was known is of no use
    assert motion.travel("camera", 1_030_000_000, WINDOW_S, 4) is None
    motion.clear()
    assert motion.messages == 0 and motion.travel("camera", 400_000_000, WINDOW_S, 4) is None


# --- lenses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", [-0.35, 0.12, 0.001, -0.002, 0.0]),
        ("plumb_bob", [0.0] * 5),
        ("rational_polynomial", [0.1, -0.02, 0.001, 0.001, 0.0, 0.3, 0.01, 0.0]),
        ("equidistant", [-0.02, 0.01, 0.0, 0.0]),
    ],
)
def test_distortion_is_taken_off(model: str, d: list[float]) -> None:
    k = np.array([[200.0, 0, 173], [0, 201.0, 130], [0, 0, 1]])
    calibration = Calibration(346, 260, k, np.array(d), model, np.eye(3), np.hstack([k, np.zeros((3, 1))]))
    x, y = np.meshgrid(np.linspace(-0.8, 0.8, 17), np.linspace(-0.6, 0.6, 13))
    back = calibration.undistorted(*calibration._distorted(x, y))
    np.testing.assert_allclose(back, [x, y], atol=2e-5)
    view = View.of(calibration, (130, 173))
    assert view.rays.shape == (2, 130, 173)
    column = (view.centre[0] + view.rays[0] * view.focal[0])[65, 86]
    assert column == pytest.approx(86, abs=0.6), "near the axis all lenses are alike"


# --- what events say --------------------------------------------------------------------------------------------------


class Shot:
    """One simulated window with exact depth, and how the camera moved."""

    def __init__(
        self,
        family: str,
        seed: int,
        camera: Camera = CAMERAS["davis346"],
        cells: tuple[int, int] = (130, 173),
        number: int = 0,
    ) -> None:
        atlas = build_atlas(seed)
        scene = sample_scenes(family, 1, 0.2, seed, atlas.count)
        eye = EventCamera(scene, camera, SensorConfig(), atlas, seed)
        begin_us = 2_000 + 50_000 * number
        eye.advance(begin_us)
        events = eye.advance(begin_us + 50_000)
        whole = np.zeros((4, 2, camera.height, camera.width), np.uint8)
        whole[np.clip((events["t"] - begin_us) // 12_500, 0, 3), events["p"], events["y"], events["x"]] = 1
        self.spikes = reduce_spikes(whole, *cells)
        self.depth = eye.last.depth[0].numpy().astype(np.float32)
        self.depth[np.isinf(self.depth)] = np.nan
        self.path = scene.path
        self.twist = self.moved(begin_us / 1e6, WINDOW_S)
        self.travel = Travel.steady(self.twist, WINDOW_S, 4)
        k = np.array(camera.k).reshape(3, 3)
        d, p = np.array([*camera.d, 0, 0, 0][:5], float), np.hstack([k, np.zeros((3, 1))])
        self.calibration = Calibration(camera.width, camera.height, k, d, "plumb_bob", np.eye(3), p)
        self.view = View.of(self.calibration, cells)

    def moved(self, begin_s: float, seconds: float) -> Twist:
        """The mean velocity of the camera."""
        times = torch.tensor([begin_s, begin_s + seconds], dtype=torch.float64)
        rotations, positions = self.path.pose(torch.zeros(2, dtype=torch.int64), times)
        return Twist.between(rotations.numpy(), positions.numpy(), seconds)

    def looks(self, depth: np.ndarray) -> list[Look]:
        """The window with a depth that may be wrong."""
        return [Look(self.spikes, depth, self.travel)]


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    return [Shot("driving", seed) for seed in (3, 4, 6)]


def test_depth_that_is_off_by_a_factor_is_put_right(shots: list[Shot]) -> None:
    errors = []
    for shot in shots:
        for wrong in (0.5, 1.0, 2.0):
            scale = ScaleFilter(ScaleConfig(memory_s=0))
            depth = shot.depth * np.float32(wrong)
            out = scale(depth, 1, shot.view, shot.looks(depth))
            assert out.dtype == np.float32
            np.testing.assert_array_equal(np.isnan(out), np.isnan(shot.depth))
            assert 0.1 <= scale.deviation < 0.25
            errors.append(float(np.nanmedian(np.log(out / shot.depth))))
    assert np.abs(errors).max() < 0.2 and np.mean(np.abs(errors)) < 0.1, errors


def test_a_camera_that_does_not_move_from_its_place_says_nothing(shots: list[Shot]) -> None:
    """Turning tells nothing of depth, whatever it is: every factor agrees alike."""
    shot = shots[0]
    for angular in ((0, 0, 0), (0.2, -0.3, 0.1)):
        scale = ScaleFilter()
        still = Travel.steady(Twist(np.zeros(3), np.array(angular, float)), WINDOW_S, 4)
        out = scale(shot.depth, 1, shot.view, [Look(shot.spikes, shot.depth, still)])
        assert scale.ln_factor == pytest.approx(0, abs=0.02)
        assert scale.deviation == pytest.approx(ScaleConfig().prior, rel=0.1)
        np.testing.assert_allclose(out[~np.isnan(out)], shot.depth[~np.isnan(out)], rtol=0.03)


@pytest.mark.parametrize("angular", [(0, 0, 0), (0.2, -0.3, 0.1)])
def test_where_motion_says_nothing_the_networks_word_on_its_scale_stands(
    shots: list[Shot], angular: tuple[float, float, float]
) -> None:
    shot, motion = shots[0], CameraMotion()
    rescaler = Rescaler(motion)
    for k in range(40):
        assert k or rescaler.deviation_beside(0.2) == 0.2, "nothing was heard at all"
        motion.take(odometry(10**9 + k * 50_000_000, (0, 0, 0), angular))
        rescaler(shot.spikes, shot.depth, shot.calibration, "camera", 10**9 + k * 50_000_000, WINDOW_S)
    assert rescaler.used == 40 and not rescaler.problem
    for told in (0.1, 0.3, 1.3):
        assert rescaler.deviation_beside(told) == pytest.approx(told, rel=0.15), "neither surer nor less sure"


def test_motion_makes_the_scale_surer_and_two_minds_less_sure(shots: list[Shot]) -> None:
    shot, scale = shots[0], ScaleFilter()
    scale(shot.depth, 1, shot.view, shot.looks(shot.depth))
    assert scale.deviation < 0.25
    for told in (0.3, 0.8, 2.0):
        assert scale.deviation_beside(told) <= scale.deviation + 0.02 < told
    assert scale.deviation_beside(0.12) == pytest.approx(0.12, rel=0.01), "who knows already does not get less sure"
    scale._believe(np.where(np.isin(np.arange(17), (1, 15)), 0.5, 0.0))  # e^-1.3 or e^1.3
    assert scale.deviation_beside(0.2) == scale.deviation > 1.2
    assert scale.deviation_beside(2.0) == 2.0


def test_what_was_learnt_is_kept_for_a_while_and_forgotten(shots: list[Shot]) -> None:
    shot = shots[0]
    scale = ScaleFilter()
    scale(shot.depth * 2, 10**9, shot.view, shot.looks(shot.depth * 2))
    learnt = scale.ln_factor
    assert learnt < -0.4
    scale(shot.depth, 10**9 + 10**8, shot.view, [])
    assert 1.05 * learnt < scale.ln_factor < 0.8 * learnt, "a tenth of a second"
    out = scale(shot.depth, 10 * 10**9, shot.view, [])
    assert scale.ln_factor == pytest.approx(0, abs=0.02) and scale.deviation == pytest.approx(0.5, rel=0.1)
    np.testing.assert_allclose(out, shot.depth * math.exp(scale.ln_factor), rtol=1e-5)
    scale(shot.depth * 2, 11 * 10**9, shot.view, shot.looks(shot.depth * 2))
    scale(shot.depth, 5 * 10**9, shot.view, [])  # a recording that starts over
    assert scale.ln_factor == pytest.approx(0, abs=0.02)


def test_one_window_does_not_overturn_what_many_said(shots: list[Shot]) -> None:
    """Odometry four times too fast in one window would make all four times too far; for good, it is believed."""
    for shot in shots:
        far = shot.depth * 2
        fast = [Look(shot.spikes, far, Travel(shot.travel.turn, 4 * shot.travel.shift))]
        scale, time = ScaleFilter(), iter(range(10**9, 2 * 10**9, 50_000_000))
        for _ in range(5):
            scale(far, next(time), shot.view, shot.looks(far))
        learnt, deviation = scale.ln_factor, scale.deviation
        assert abs(learnt + math.log(2)) < 0.2
        scale(far, next(time), shot.view, fast)
        assert abs(scale.ln_factor - learnt) < 0.15 and scale.deviation > 1.2 * deviation
        scale(far, next(time), shot.view, shot.looks(far))
        assert scale.ln_factor == pytest.approx(learnt, abs=0.05)
        for _ in range(4):
            scale(far, next(time), shot.view, fast)
        assert abs(scale.ln_factor - math.log(2)) < 0.2 and scale.deviation < 0.2


def test_each_place_has_a_factor_of_its_own(shots: list[Shot]) -> None:
    """The left half of the depth too near by a quarter, the right half too far: both come nearer to the truth."""
    gained = []
    for shot in shots:
        wrong = shot.depth.copy()
        wrong[:, :173] *= 0.8
        wrong[:, 173:] *= 1.25
        out = ScaleFilter(ScaleConfig(memory_s=0))(wrong, 1, shot.view, shot.looks(wrong))
        for half in (slice(0, 140), slice(206, None)):
            before, after = (float(np.nanmedian(np.log(d / shot.depth)[:, half])) for d in (wrong, out))
            gained.append(abs(before) - abs(after))
    assert np.mean(gained) > 0.08, gained


def test_a_place_is_remembered_where_nothing_is_seen_of_it(shots: list[Shot]) -> None:
    """The right half is too near; then its events are missing: what was learnt of it holds for a while."""
    shot = shots[0]
    wrong = shot.depth.copy()
    wrong[:, 173:] *= 0.75
    blind = shot.spikes.copy()
    blind[..., 86:] = 0
    right = {}
    for memory_s in (0.0, 0.3, 1.0):
        scale = ScaleFilter(ScaleConfig(place_memory_s=memory_s))
        scale(wrong, 10**9, shot.view, shot.looks(wrong))
        out = scale(wrong, 10**9 + 50_000_000, shot.view, [Look(blind, wrong, shot.travel)])
        right[memory_s] = float(np.nanmedian(np.log(out / wrong)[:, 240:])) - scale.ln_factor
    assert abs(right[0.0]) < 0.01 and 0.1 < right[0.3] < right[1.0], right


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows were looked at, each time that the scale was asked of the events."""
    counts: list[int] = []

    def counted(looks: list[Look], *args: Any) -> Any:
        counts.append(len(looks))
        return agreement(looks, *args)

    monkeypatch.setattr("sdt_ros.egomotion.scale.agreement", counted)
    return counts


def summed(looks: list[Look], view: View, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """What `agreement` says, spike by spike and bin by bin as its docstring has it."""
    (height, width), pictures = view.size, []
    for look in looks:
        for k, (off, on) in enumerate(look.spikes):
            picture = np.zeros((height, width))
            for sign, cells in ((1, on), (-1, off)):
                for row, column in np.argwhere(cells):
                    depth = look.depth[2 * row + 1, 2 * column + 1]  # twice as fine; in the middle of the cell
                    ray = np.array([*view.rays[:, row, column], 1])
                    x, y, z = look.travel.turn[k] @ (factor * depth * ray) + look.travel.shift[k]
                    if not z >= 0.02:  # NaN is none either
                        continue
                    u, v = view.focal[0] * x / z + view.centre[0], view.focal[1] * y / z + view.centre[1]
                    if 0 <= u < width - 1 and 0 <= v < height - 1:
                        weights = np.outer([1 - v % 1, v % 1], [1 - u % 1, u % 1])
                        picture[int(v) : int(v) + 2, int(u) : int(u) + 2] += sign * weights
            pictures.append(picture)
    apart = max(1, len(pictures) // 2)
    pairs = [(a, b) for b in range(len(pictures)) for a in range(b - apart + 1)]
    across = sum(pictures[a] * pictures[b] for a, b in pairs) * len(pictures) / len(pairs)
    tiles = [np.zeros((-(-height // 8), -(-width // 8))) for _ in range(2)]
    for tile, cells in zip(tiles, (across, sum(picture**2 for picture in pictures)), strict=True):
        np.add.at(tile, (np.arange(height)[:, None] // 8, np.arange(width) // 8), cells)
    return tiles[0], tiles[1]


@pytest.mark.parametrize("bins", [[2], [4], [1, 1], [4, 4], [3, 3, 3]])
def test_bins_are_compared_as_a_plain_sum_has_it(bins: list[int]) -> None:
    """Random spikes, often ON and OFF in one cell, that fly apart, out of the picture and behind the camera."""
    random = np.random.default_rng(sum(bins))
    view = View.pinhole(np.array([[15.0, 0, 10.3], [0, 14.0, 8.2], [0, 0, 1]]), (19, 23))
    view.rays[:, 3, 5] = np.nan
    looks = []
    for count in bins:
        spikes = (random.random((count, 2, 19, 23)) < 0.3).astype(np.uint8)
        depth = random.uniform(0.2, 4, (38, 46)).astype(np.float32)
        depth[7, 9] = np.nan
        turn = np.stack([turned((1, -2, 0.5), 0.03 * k) for k in range(count)])
        looks.append(Look(spikes, depth, Travel(turn, random.normal(0, 0.1, (count, 3)) - [0, 0, 0.15])))
    factors = np.array([0.5, 1.0, 1.7], np.float32)
    found = agreement(looks, view, factors)
    for n, factor in enumerate(factors):
        across, within = summed(looks, view, float(factor))
        assert within.min() > 0
        np.testing.assert_allclose(found.within[n], within, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found.across[n], across, rtol=1e-3, atol=2e-3)


def test_of_too_many_spikes_some_are_compared(shots: list[Shot], monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm costs no more than any window; a third of the spikes still tells the factor."""
    shot, listed = shots[0], []
    most = int((shot.spikes[:, 0] != shot.spikes[:, 1]).sum()) // 3
    monkeypatch.setattr("sdt_ros.egomotion.agreement.MOST_SPIKES", most)
    original = egomotion_agreement.spread
    monkeypatch.setattr(
        egomotion_agreement, "spread", lambda *args, **kwargs: listed.append(args[3:5]) or original(*args, **kwargs)
    )
    scale = ScaleFilter(ScaleConfig(memory_s=0, independence=1))
    scale(shot.depth * 2, 1, shot.view, shot.looks(shot.depth * 2))
    assert abs(scale.ln_factor + math.log(2)) < 0.2
    [(points, counts)] = listed
    assert 0.9 * most < points.shape[1] == counts.sum() <= most
    whole = (shot.spikes[:, 0] != shot.spikes[:, 1]).sum((1, 2))
    np.testing.assert_allclose(counts / counts.sum(), whole / whole.sum(), atol=0.02)  # of each bin alike


def test_the_window_before_tells_more() -> None:
    """The factor that events ask for, where depth is right: of a window alone, and behind the one before it."""
    grid = np.linspace(-1, 1, 33)
    asked: dict[int, list[float]] = {1: [], 2: []}
    for family, seed in [(family, seed) for family in ("driving", "flying") for seed in (1, 2, 3)]:
        shots = [Shot(family, seed, number=number) for number in (1, 2)]
        moment_ns = 127_000_000  # the second's middle
        velocities = [shots[0].moved(0.002 * k - 0.001, 0.002) for k in range(1, 76)]
        velocity = [[*each.linear, *each.angular] for each in velocities]
        looks = []
        for shot, end_ms in zip(shots, (102, 152), strict=True):
            at_ns = 1e6 * (end_ms - 50 + 50 * (np.arange(4) + 0.5) / 4)
            travel = Travel.along(at_ns, moment_ns, 2e6 * np.arange(1, 76), velocity)
            looks.append(Look(shot.spikes, shot.depth, travel))
        for count, errors in asked.items():
            found = agreement(looks[-count:], shots[1].view, np.exp(grid).astype(np.float32))
            correlation = found.across.sum((1, 2)) / found.within.sum((1, 2))
            weight = np.exp((correlation - correlation.max()) / 0.01)
            errors.append(abs(float(grid @ weight / weight.sum())))
    assert np.mean(asked[1]) < 0.1 and np.mean(asked[2]) < 0.6 * np.mean(asked[1]), asked


def test_windows_are_compared_with_one_that_ended_shortly_before_they_began(
    shots: list[Shot], compared: list[int]
) -> None:
    shot, motion, ms = shots[0], CameraMotion(), 1_000_000
    for k in range(300):
        motion.take(odometry(k * 5 * ms, shot.twist.linear, shot.twist.angular))

    def looks(ends_ms: list[int], spikes: list[np.ndarray] | None = None) -> list[int]:
        compared.clear()
        rescaler = Rescaler(motion)
        for end, some in zip(ends_ms, spikes or [shot.spikes] * len(ends_ms), strict=True):
            rescaler(some, shot.depth, shot.calibration, "camera", end * ms, WINDOW_S)
        return list(compared)

    assert looks([500, 550, 600]) == [1, 2, 2]
    assert looks([500, 525, 550, 575]) == [1, 1, 2, 2], "windows that overlap are not compared"
    assert looks([500, 590, 691]) == [1, 2, 1], "but for a gap as long as a window"
    assert looks([500, 550, 500, 550]) == [1, 2, 1, 2], "a recording that starts over"
    assert looks([500, 550], [shot.spikes[:2], shot.spikes]) == [1, 1], "other bins"


def test_something_that_moves_by_itself_does_not_decide(shots: list[Shot]) -> None:
    """A third of the picture says twice as near, as an oncoming car does: the rest keeps its depth, nearly."""
    for shot in shots:
        wrong = shot.depth.copy()
        wrong[:, :115] *= 2  # what is there agrees best at half of this
        scale = ScaleFilter(ScaleConfig(memory_s=0))
        out = scale(wrong, 1, shot.view, shot.looks(wrong))
        assert abs(scale.ln_factor) < 0.2
        rest = np.log(out / shot.depth)[:, 170:]
        assert abs(np.nanmedian(rest)) < 0.2
        assert np.nanmax(np.abs(np.log(out / wrong) - scale.ln_factor)) <= ScaleConfig().most + 1e-3


def test_behind_a_lens_that_distorts_places_keep_their_place() -> None:
    """Factors are found in the picture without distortion, and must come back to the cells that they are of."""
    k = np.array([[200.0, 0, 172.5], [0, 200.0, 129.5], [0, 0, 1]])
    d = np.array([-0.35, 0.12, 0, 0, 0])
    calibration = Calibration(346, 260, k, d, "plumb_bob", np.eye(3), np.hstack([k, np.zeros((3, 1))]))
    view = View.of(calibration, (130, 173))
    u = view.rays[0] * view.focal[0] + view.centre[0]
    v = view.rays[1] * view.focal[1] + view.centre[1]
    assert np.isfinite(u).mean() > 0.97 and np.nanmin(u) > -1 and np.nanmax(u) < 173
    assert np.nanmin(v) > -1 and np.nanmax(v) < 130, "the whole picture fits"
    tiles = np.add.outer(np.zeros(17), 8.0 * np.arange(22) + 3.5)  # each tile's value is its column
    np.testing.assert_allclose(at_cells(tiles, view, 0.0)[65, 20:150], u[65, 20:150], atol=0.01)


def test_a_lens_is_looked_through_once(shots: list[Shot], monkeypatch: pytest.MonkeyPatch) -> None:
    shot, made = shots[0], []
    original = View.of
    monkeypatch.setattr(View, "of", lambda *args: made.append(args[1]) or original(*args))
    rescaler = Rescaler(CameraMotion())
    rescaler.prepare(shot.calibration, (260, 346))
    for end_ms in (50, 100):
        rescaler(np.repeat(np.repeat(shot.spikes, 2, 2), 2, 3), shot.depth, shot.calibration, "", end_ms, WINDOW_S)
    assert made == [(130, 173)]


def test_a_stranger_a_gap_and_another_lens(shots: list[Shot]) -> None:
    shot, motion = shots[0], CameraMotion()
    rescaler, end = Rescaler(motion), 10**9

    def window(calibration: Calibration, frame: str, end_ns: int, spikes: np.ndarray = shot.spikes) -> np.ndarray:
        return rescaler(spikes, shot.depth * 2, calibration, frame, end_ns, WINDOW_S)

    motion.take(odometry(end, shot.twist.linear, shot.twist.angular, frame=""))
    assert window(shot.calibration, "", end) is not None and "no child_frame_id" in rescaler.problem
    motion.take(odometry(end, shot.twist.linear, shot.twist.angular))
    window(shot.calibration, "", end)
    assert "events have no frame_id" in rescaler.problem and not rescaler.used
    window(shot.calibration, "camera", end)
    assert rescaler.used == 1 and not rescaler.problem and rescaler.scale.ln_factor < -0.4
    window(shot.calibration, "camera", end + 300_000_000)
    assert rescaler.used == 1 and not rescaler.problem, "it is remembered"
    window(shot.calibration, "camera", end + 1_500_000_000)
    assert "newest is 1.48 s before them" in rescaler.problem
    other = dataclasses.replace(shot.calibration, k=shot.calibration.k * [[1.1], [1.1], [1]])
    window(other, "camera", end + 1_600_000_000)
    assert rescaler.used == 0 and abs(rescaler.scale.ln_factor) < 1e-9, "depth before another lens is of another scale"
    depth = window(other, "camera", end, shot.spikes[:1])
    np.testing.assert_array_equal(depth, shot.depth * 2)
    assert "one bin" in rescaler.problem
    motion.take(odometry(3 * end, (2e3, 0, 0), (0, 0, 0)))
    window(other, "camera", 3 * end)
    assert "a velocity above 1000" in rescaler.problem
    deaf = CameraMotion(hears_static=False)
    deaf.take(odometry(end, (1, 0, 0), (0, 0, 0), "base_link"))
    assert deaf.travel("camera", end, WINDOW_S, 4) is None and "without the package tf2_msgs" in deaf.problem


def test_what_makes_no_sense_is_refused(shots: list[Shot]) -> None:
    shot, one = shots[0], np.ones(1, np.float32)
    with pytest.raises(ValueError, match="one bin has nothing"):
        agreement([Look(shot.spikes[:1], shot.depth, Travel.steady(shot.twist, WINDOW_S, 1))], shot.view, one)
    with pytest.raises(ValueError, match="view is of 130x173 cells, the spikes are of 65x173"):
        agreement([Look(shot.spikes[:, :, :65], shot.depth, shot.travel)], shot.view, one)
    for name, value in (("prior", 0.0), ("weight", math.inf), ("memory_s", -1.0), ("local", math.nan), ("strays", 1.0)):
        with pytest.raises(ValueError, match=f"{name} is"):
            ScaleConfig(**{name: value})


def test_without_odometry_depth_is_left_as_it_is(shots: list[Shot]) -> None:
    shot, motion = shots[0], CameraMotion()
    rescaler = Rescaler(motion)
    arguments = shot.calibration, "camera", 10**9, WINDOW_S
    assert rescaler(shot.spikes, shot.depth, *arguments) is shot.depth and not rescaler.used
    for k in range(20):
        motion.take(odometry(10**9 - k * 5_000_000, shot.twist.linear, shot.twist.angular))
    out = rescaler(shot.spikes, shot.depth * 2, *arguments)
    assert rescaler.used == 1 and abs(np.nanmedian(np.log(out / shot.depth))) < 0.25


def test_a_large_sensor_is_looked_at_on_a_coarser_grid() -> None:
    """At 640x480 the spikes come on 320x240 cells, and are compared on 160x120: depth is put right all the same."""
    shot, motion = Shot("driving", 4, CAMERAS["gen3_vga"], (240, 320)), CameraMotion()
    for k in range(20):
        motion.take(odometry(10**9 - k * 5_000_000, shot.twist.linear, shot.twist.angular))
    out = Rescaler(motion)(shot.spikes, shot.depth * 2, shot.calibration, "camera", 10**9, WINDOW_S)
    assert out.shape == (480, 640) and abs(np.nanmedian(np.log(out / shot.depth))) < 0.2


# --- recordings -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("egomotion") / "drive"
    write_recording(path, RecordingConfig("driving", 0.5, seed=5))
    return path


def scores(capsys: pytest.CaptureFixture[str], path: Path, json_file: Path, *arguments: str) -> dict[str, object]:
    assert main(["eval", str(path), "--weights", "sdt_tiny", "--json", str(json_file), *arguments]) == 0
    capsys.readouterr()
    content: dict[str, object] = json.loads(json_file.read_text())
    return content


def test_a_recordings_odometry_brings_its_depth_nearer_to_the_truth(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = scores(capsys, recording, tmp_path / "a.json")
    known = scores(capsys, recording, tmp_path / "b.json", "--odometry", "/odometry")
    error = [content["metric"]["network"]["rmse_log"] for content in (alone, known)]  # type: ignore[index]
    assert error[1] < error[0], error
    assert known["settings"]["odometry"] == "/odometry" and alone["settings"]["odometry"] is None  # type: ignore[index]
    counts: dict[str, int] = known["counts"]  # type: ignore[assignment]
    assert counts["windows_with_motion"] >= 8
    assert counts["windows_without_motion"] == 0
    limits = [content["uncertainty"]["surest"][1]["deviation_up_to"] for content in (alone, known)]  # type: ignore[index]
    assert limits[1] < 0.95 * limits[0], "with odometry the scale is surer"


def test_odometry_that_cannot_be_used_is_named(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path, *arguments: str) -> str:
        assert main(["eval", str(path), "--weights", "sdt_tiny", *arguments]) == 1
        return capsys.readouterr().err

    assert "has no topic /nowhere" in refused(recording, "--odometry", "/nowhere")
    assert "/tf is of tf2_msgs/msg/TFMessage, --odometry takes nav_msgs/msg/Odometry" in refused(
        recording, "--odometry", "/tf"
    )
    assert main(["eval", "--dataset", "simulation", "--root", "x", "--odometry", "/odometry"]) == 2
    assert "--odometry is for a bag only" in capsys.readouterr().err
    bare = tmp_path / "bare"
    with open_bag(recording) as bag, BagWriter(bare) as out:
        kept = {name: info for name, info in bag.topics.items() if "camera_info" not in name}
        for name, info in kept.items():
            out.add_topic(name, info.type)
        for message in bag.messages(kept):
            out.write(message.topic, message.type, message.timestamp_ns, message.data)
    assert "--odometry needs the camera's calibration" in refused(bare, "--odometry", "/odometry")


def test_a_recordings_odometry_is_its_poses_derivative(recording: Path) -> None:
    from sdt_ros.bags import deserialize

    with open_bag(recording) as bag:
        messages = [deserialize(m.type, m.data) for m in bag.messages(["/odometry"])]
    assert {m.child_frame_id for m in messages} == {"event_camera_optical"} and len(messages) >= 100

    def pose(m: object) -> tuple[np.ndarray, np.ndarray]:
        q, p = m.pose.pose.orientation, m.pose.pose.position  # type: ignore[attr-defined]
        rotation = rotation_of(q.x, q.y, q.z, q.w)
        assert rotation is not None
        return rotation, np.array([p.x, p.y, p.z])

    for before, here, after in zip(messages[10:13], messages[11:14], messages[12:15], strict=True):
        (r0, p0), (r1, p1) = pose(before), pose(after)
        times = [m.header.stamp.sec + m.header.stamp.nanosec / 1e9 for m in (before, after)]
        twist = Twist.between([r0, r1], [p0, p1], times[1] - times[0])
        linear, angular = here.twist.twist.linear, here.twist.twist.angular
        np.testing.assert_allclose([linear.x, linear.y, linear.z], twist.linear, atol=0.02)
        np.testing.assert_allclose([angular.x, angular.y, angular.z], twist.angular, atol=0.02)
