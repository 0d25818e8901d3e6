"""What is drawn anew for each sample can be used, and is what it says."""

import numpy as np
import pytest
import torch

from sdt_ros.simulation.camera import CAMERAS
from sdt_ros.simulation.compiled import CompiledRenderer
from sdt_ros.simulation.families import sample_scenes
from sdt_ros.simulation.randomise import Randomisation
from sdt_ros.simulation.render import Renderer
from sdt_ros.simulation.textures import build_atlas


@pytest.mark.parametrize("ranges", [{}, {"field_of_view_deg": (100, 150), "distortion": (-0.3, -0.3)}])
def test_every_drawn_lens_inverts_at_the_corners_of_the_image(ranges):
    model = CAMERAS["davis346"]
    bends = []
    for seed in range(200):
        camera = Randomisation(**ranges).camera(np.random.default_rng(seed), model)
        columns = torch.tensor([0.0, 0, model.width - 1, model.width - 1], dtype=torch.float64)
        rows = torch.tensor([0.0, model.height - 1, 0, model.height - 1], dtype=torch.float64)
        rays = camera.rays(columns, rows)  # raises where the distortion cannot be inverted
        back = camera.project(rays)
        torch.testing.assert_close(back, torch.stack([columns, rows], -1), atol=1e-3, rtol=0)
        bends.append(camera.d[0])
    assert min(bends) < -0.01  # there was something to invert


def one_scene(**ranges):
    """A street before and behind its draw."""
    scene = sample_scenes("driving", 1, 0.4, 3, 4)
    usual = {name: (1.0, 1.0) for name in ("light", "contrast", "tiling", "softness", "pace")}
    return scene, Randomisation(**{**usual, **ranges}).scene(np.random.default_rng(0), scene)


def test_pace_is_another_clock_for_camera_and_things():
    slow, fast = one_scene(pace=(2.0, 2.0))
    index, renderer = torch.zeros(3, dtype=torch.int64), Renderer(CAMERAS["davis346"].scaled(43, 32))
    t = torch.tensor([0.0, 0.05, 0.15], dtype=torch.float64)
    twice = renderer.render(slow, index, 2 * t, brightness=False)
    torch.testing.assert_close(renderer.render(fast, index, t, brightness=False).depth, twice.depth)
    assert not torch.equal(renderer.render(slow, index, t, brightness=False).depth[2], twice.depth[2])


@pytest.mark.parametrize("engine", [Renderer, CompiledRenderer])
def test_softness_takes_detail_away_or_lets_it_flicker(engine):
    atlas, index, t = build_atlas(0, 4), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    detail = []
    for softness in (0.1, 1.0, 4.0):
        _, scene = one_scene(softness=(softness, softness))
        seen = engine(CAMERAS["davis346"].scaled(86, 65), atlas).render(scene, index, t).seen()[0].log()
        detail.append(float(seen[40:].diff(dim=0).abs().mean()))  # the road
    assert detail[0] > 1.2 * detail[1] > 1.2 * 1.2 * detail[2]


def test_both_engines_are_soft_alike():
    atlas, index, t = build_atlas(0, 4), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    _, scene = one_scene(softness=(0.2, 0.2))
    model = CAMERAS["davis346"].scaled(86, 65)
    one, two = (engine(model, atlas).render(scene, index, t) for engine in (Renderer, CompiledRenderer))
    ratio = (one.seen() / two.seen() - 1).abs()[one.hit == two.hit]
    assert ratio.quantile(0.99) < 1e-3
