"""What is drawn anew for each sample can be used: every lens inverts, however wide and bent."""

import numpy as np
import pytest
import torch

from sdt_ros.simulation.camera import CAMERAS
from sdt_ros.simulation.randomise import Randomisation


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
