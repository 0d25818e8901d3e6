"""Depth, flow, paths and textures of the simulator, against hand-worked cases and an independent ray caster."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from sdt_ros.simulation.camera import CAMERAS, Camera, camera
from sdt_ros.simulation.families import FAMILIES, sample_scenes
from sdt_ros.simulation.render import Renderer
from sdt_ros.simulation.scenes import ABSENT, BOX, CYLINDER, PLANE, SPHERE, SceneBuilder, stack
from sdt_ros.simulation.textures import LEVELS, SIZE, TEXELS, build_atlas

SMALL = camera("davis346").scaled(64, 48)
CENTRED = Camera(33, 33, 40.0, 40.0, 16.0, 16.0)  # looks along pixel (16, 16)
PHOTOGRAPHS = Path(__file__).parents[2] / "shared" / "data" / "textures"


def zeros(n):
    return torch.zeros(n, dtype=torch.int64)


def seconds(*t):
    return torch.tensor(t, dtype=torch.float64)


def still_life(*objects, z=0.0):
    """A scene with the camera at height z, looking along the world's x."""
    build = SceneBuilder(np.random.default_rng(0), 1)
    for kind, centre, half, extra in objects:
        build.add(kind, centre, half, **extra)
    build.start(z=z)
    build.set_light([0, 0, 1], 0.5, 0.5)
    return stack([build])


@pytest.mark.parametrize(
    ("thing", "pixel", "expected"),
    [
        ((BOX, [5, 0, 0], [1, 1, 1], {}), (16, 16), 4.0),
        ((BOX, [5, 0, 0], [1, 1, 1], {"yaw": math.pi / 4}), (16, 16), 5 - math.sqrt(2)),
        ((SPHERE, [5, 0, 0], [1, 1, 1], {}), (16, 16), 4.0),
        # x + y/x-slope s = 0.1: |(z, s z) - (5, 0)| = 1 -> z = (5 - sqrt(25 - 24 * 1.01)) / 1.01
        ((SPHERE, [5, 0, 0], [1, 1, 1], {}), (20, 16), (5 - math.sqrt(25 - 24 * 1.01)) / 1.01),
        ((CYLINDER, [5, 0, 0], [1, 1, 2], {}), (16, 16), 4.0),
        ((CYLINDER, [5, 0, 0], [1, 1, 0.2], {}), (16, 22), math.inf),  # 0.15 * 4 m = 0.6 m below: passes under it
        ((CYLINDER, [0, 0, -3], [9, 9, 1], {}), (16, 32), 5.0),  # its top, 2 m below, at a slope of 0.4
        ((PLANE, [0, 0, -2], [1, 1, 1], {}), (16, 32), 5.0),
        ((PLANE, [0, 0, -2], [1, 1, 1], {}), (16, 10), math.inf),  # above the horizon
        ((PLANE, [0, 0, 2], [1, 1, 1], {}), (16, 0), math.inf),  # from behind
        ((BOX, [-5, 0, 0], [1, 1, 1], {}), (16, 16), math.inf),  # behind the camera
        ((BOX, [0, 0, 0], [3, 3, 3], {}), (16, 16), 3.0),  # from inside
    ],
)
def test_depth_is_what_one_works_out_by_hand(thing, pixel, expected):
    views = Renderer(CENTRED, dtype=torch.float64).render(still_life(thing), zeros(1), seconds(0), brightness=False)
    assert views.depth[0, pixel[1], pixel[0]].item() == pytest.approx(expected, rel=1e-12)


def test_the_nearest_of_several_is_seen_and_named():
    scene = still_life((BOX, [9, 0, 0], [1, 4, 4], {}), (SPHERE, [5, 0, 0], [1, 1, 1], {}))
    views = Renderer(CENTRED).render(scene, zeros(1), seconds(0), brightness=False)
    assert views.hit[0, 16, 16] == 1
    assert views.hit[0, 16, 27] == 0
    assert views.hit[0, 0, 0] == 0
    outside = Renderer(CENTRED).render(still_life((SPHERE, [5, 0, 0], [1, 1, 1], {})), zeros(1), seconds(0), False)
    assert outside.hit[0, 0, 0] == 1  # the sky comes last
    assert outside.depth[0, 0, 0] == math.inf


MUJOCO_KINDS = {BOX: "box", SPHERE: "sphere", CYLINDER: "cylinder"}


def mujoco_depth(scene, t):
    """Depth [48, 64] of a batch of one as SMALL sees it, by MuJoCo's rays."""
    mujoco = pytest.importorskip("mujoco", reason="the independent ray caster is MuJoCo's: pip install mujoco")
    rotation, centre = (part[0].numpy() for part in scene.object_pose(zeros(1), t))
    eye, position = (part[0].numpy() for part in scene.path.pose(zeros(1), t))
    spec = mujoco.MjSpec()
    planes = []
    for n, kind in enumerate(scene.kind[0].tolist()):
        if kind == PLANE:
            planes.append((rotation[n, :, 2], centre[n]))
        elif kind != ABSENT:
            geom = spec.worldbody.add_geom()
            geom.type = getattr(mujoco.mjtGeom, f"mjGEOM_{MUJOCO_KINDS[kind].upper()}")
            half = scene.half[0, n].numpy()
            geom.size = [half[0], half[2], 0] if kind == CYLINDER else half
            geom.pos = centre[n]
            quat = np.zeros(4)
            mujoco.mju_mat2Quat(quat, rotation[n].ravel())
            geom.quat = quat
    for normal, at in planes:
        geom = spec.worldbody.add_geom()
        geom.type = mujoco.mjtGeom.mjGEOM_PLANE
        geom.size = [0, 0, 1]
        geom.pos = at
        quat = np.zeros(4)
        mujoco.mju_quatZ2Vec(quat, np.ascontiguousarray(normal))
        geom.quat = quat
    model = spec.compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    x, y = np.meshgrid(np.arange(64.0), np.arange(48.0))
    rays = SMALL.rays(torch.from_numpy(x), torch.from_numpy(y)).numpy()
    geomid = np.zeros(1, np.int32)
    expected = np.full((48, 64), np.inf)
    for row in range(48):
        for column in range(64):
            direction = eye @ rays[row, column]
            length = np.linalg.norm(direction)
            found = mujoco.mj_ray(model, data, position, direction / length, None, 1, -1, geomid)
            found = found[0] if isinstance(found, tuple) else found
            if found >= 0:
                expected[row, column] = found / length  # z = 1 along the ray's own direction
    return expected


@pytest.mark.parametrize(("family", "seed"), [*((family, 3) for family in FAMILIES), ("driving", 11)])
def test_depth_equals_that_of_mujoco(family, seed):
    scene, t = sample_scenes(family, 1, 1.0, seed, 4), seconds(0.7)
    seen = Renderer(SMALL).render(scene, zeros(1), t, brightness=False).depth[0].double().numpy()
    expected = mujoco_depth(scene, t)
    agree = np.isclose(seen, expected, rtol=1e-4, atol=0) | (np.isinf(seen) & np.isinf(expected))
    # Where a ray grazes an edge, rounding decides what it meets.
    assert agree.mean() > 0.999, f"{(~agree).sum()} pixels differ"
    assert np.isfinite(expected).mean() > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_float32_depth_equals_float64_depth(family):
    scene = sample_scenes(family, 3, 20.0, 2, 4)  # far from the origin
    index, t = torch.arange(3), seconds(19.0, 10.0, 0.5)
    single = Renderer(SMALL).render(scene, index, t, brightness=False)
    double = Renderer(SMALL, dtype=torch.float64).render(scene, index, t, brightness=False)
    same = single.hit == double.hit
    assert same.float().mean() > 0.998
    near = same & double.depth.isfinite() & (double.depth < 200)
    assert (single.depth[near] / double.depth[near] - 1).abs().max() < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_flow_leads_to_the_same_points_seen_later(family):
    renderer = Renderer(SMALL, dtype=torch.float64)
    scene, start, end = sample_scenes(family, 1, 1.0, 5, 4), seconds(0.5), seconds(0.53)
    views = renderer.render(scene, zeros(1), start, brightness=False)
    flow = renderer.flow(scene, zeros(1), start, end, views)[0]
    for row in range(3, 48, 9):
        for column in range(3, 64, 9):
            n, depth = int(views.hit[0, row, column]), views.depth[0, row, column]
            if n == scene.kind.shape[1]:
                continue
            # One point, by hand: pixel -> camera -> world -> object -> world later -> camera later -> pixel.
            point = SMALL.rays(seconds(column)[0], seconds(row)[0]) * depth
            (r0,), (p0,) = scene.path.pose(zeros(1), start)
            (r1,), (p1,) = scene.path.pose(zeros(1), end)
            o0, c0 = (part[0, n] for part in scene.object_pose(zeros(1), start))
            o1, c1 = (part[0, n] for part in scene.object_pose(zeros(1), end))
            later = r1.T @ (o1 @ (o0.T @ (r0 @ point + p0 - c0)) + c1 - p1)
            moved = SMALL.project(later) - torch.tensor([column, row])
            assert torch.allclose(flow[row, column], moved, atol=1e-9)


def test_flow_of_the_sky_is_that_of_the_rotation():
    build = SceneBuilder(np.random.default_rng(0), 1)
    build.add(SPHERE, [-9, 0, 0], [1, 1, 1])
    build.set_light([0, 0, 1], 1, 0)
    build.rate[3] = 0.1  # turns to the left: all moves to the right
    scene = stack([build])
    renderer = Renderer(CENTRED, dtype=torch.float64)
    views = renderer.render(scene, zeros(1), seconds(0), brightness=False)
    flow = renderer.flow(scene, zeros(1), seconds(0), seconds(0.5), views)
    assert flow[0, 16, 16].tolist() == pytest.approx([40 * math.tan(0.05), 0])


@pytest.mark.parametrize("name", CAMERAS)
def test_rays_are_the_inverse_of_projection(name):
    model = CAMERAS[name]
    x, y = torch.meshgrid(
        torch.linspace(0, model.width - 1, 30, dtype=torch.float64),
        torch.linspace(0, model.height - 1, 30, dtype=torch.float64),
        indexing="xy",
    )
    back = model.project(model.rays(x, y) * 7.0)
    assert torch.allclose(back, torch.stack([x, y], -1), atol=1e-4)


def test_a_distortion_that_folds_the_image_is_refused():
    with pytest.raises(ValueError, match="cannot be inverted"):
        Renderer(Camera(64, 48, 40, 40, 32, 24, k1=-2.0))


@pytest.mark.parametrize("family", FAMILIES)
def test_worlds_have_broad_depth_and_structure(family):
    atlas = build_atlas(0, 8)
    scene = sample_scenes(family, 6, 2.0, 1, atlas.count)
    views = Renderer(SMALL, atlas).render(scene, torch.arange(6), torch.full((6,), 1.0, dtype=torch.float64))
    depth = views.depth[views.depth.isfinite()]
    spread = depth.quantile(0.98) / depth.quantile(0.02)
    assert spread > (4 if family == "tabletop" else 8)
    assert depth.min() > 0.15
    change = views.seen().log().diff(dim=2).abs()
    assert (change > 0.05).float().mean() > 0.25  # a good share of the pixels sees structure
    assert (views.seen() > 0).all()


def _widest(family, kind, axis):
    """Of 60 scenes the largest half side of a kind of object, or for planes how far they lie to a side."""
    scene = sample_scenes(family, 60, 1.0, 5, 4)
    extent = scene.centre.abs() if kind == PLANE else scene.half
    return extent[..., axis].where(scene.kind == kind, torch.zeros(())).amax(1)


@pytest.mark.parametrize(
    ("family", "kind", "axis", "usual"),
    [("driving", BOX, 2, 8.0), ("hallway", PLANE, 1, 2.2), ("tabletop", BOX, 0, 1.1)],
)
def test_one_scene_in_three_is_larger_than_the_others(family, kind, axis, usual):
    share = (_widest(family, kind, axis) > usual).double().mean()
    assert 0.2 < share < 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_cameras_move_as_real_ones_do(family):
    scene = sample_scenes(family, 4, 4.0, 9, 4)
    t = torch.arange(0, 4, 0.005, dtype=torch.float64)
    for b in range(4):
        rotation, position = scene.path.pose(torch.full_like(t, b, dtype=torch.int64), t)
        assert torch.allclose(rotation.mT @ rotation, torch.eye(3, dtype=torch.float64).expand_as(rotation), atol=1e-12)
        assert torch.linalg.det(rotation).min() > 0
        velocity = position.diff(dim=0) / 0.005
        assert velocity.norm(dim=1).max() < 18
        assert (velocity.diff(dim=0) / 0.005).norm(dim=1).max() < 60  # vibration included [m/s^2]


def test_equal_seeds_give_equal_worlds():
    one, two, other = (sample_scenes("flying", 2, 1.0, seed, 4) for seed in (1, 1, 2))
    assert torch.equal(one.centre, two.centre)
    assert torch.equal(one.path.phase, two.path.phase)
    assert one.centre.shape != other.centre.shape or not torch.equal(one.centre, other.centre)


def test_textures_blur_with_distance_and_tile():
    atlas = build_atlas(3, 8)
    base = torch.full((4096,), 2 * TEXELS, dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    u, v = torch.rand((2, 4096), generator=generator)
    level = torch.zeros(4096)
    deviations = [atlas.sample(base, u, v, level + k).std().item() for k in range(LEVELS)]
    assert deviations[0] > 1.5 * deviations[6] > 0
    assert atlas.sample(base, u, v, level + 8).sub(1).abs().max() < 0.02  # mean 1
    assert torch.allclose(atlas.sample(base, u, v, level), atlas.sample(base, u + 3, v - 2, level), atol=2e-3)
    centre = (torch.arange(4096) % SIZE + 0.5) / SIZE
    texels = atlas.table[2 * TEXELS : 2 * TEXELS + SIZE, 0].repeat(16)
    assert torch.allclose(atlas.sample(base, centre, torch.full_like(u, 0.5 / SIZE), level), texels, atol=1e-5)


def test_far_textures_do_not_shimmer():
    """A hundredth of a pixel of motion must not change much anywhere, near or far."""
    atlas = build_atlas(0, 8)
    scene = sample_scenes("driving", 4, 1.0, 1, atlas.count)
    renderer, index = Renderer(SMALL, atlas), torch.arange(4)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    one, two = (renderer.render(scene, index, t + dt) for dt in (0.0, 1e-4))
    same = (one.hit == two.hit) & one.depth.isfinite()
    change = (one.seen().log() - two.seen().log()).abs()
    assert change[same & (one.depth > 15)].quantile(0.999) < 0.03
    assert change[same].quantile(0.99) < 0.05


def test_photographs_become_textures(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        build_atlas(0, photographs=tmp_path / "none")
    with pytest.raises(ValueError, match="no photograph of at least 64 px"):
        build_atlas(0, photographs=tmp_path)
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.jpg cannot be read"):
        build_atlas(0, photographs=tmp_path)
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"no photographs at {PHOTOGRAPHS}")
    atlas = build_atlas(0, procedural=1, photographs=PHOTOGRAPHS, crops=3)
    assert atlas.count == 4
    fine = atlas.table[:, 0].view(4, TEXELS)[:, : SIZE * SIZE].view(4, SIZE, SIZE)
    assert fine[1:].std((1, 2)).min() > 0.1
    seam = (fine[1:, :, 0] - fine[1:, :, -1]).abs().mean() / fine[1:].diff(dim=2).abs().mean()
    assert seam < 2  # across the border as within


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="davis346"):
        camera("davis")
    with pytest.raises(ValueError, match="hallway"):
        sample_scenes("space", 1, 1.0, 0, 1)
