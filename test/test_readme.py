"""What the README shows in Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference_windows import encode, random_events

from sdt_ros.weights import packaged_names

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_example_makes_depth_of_a_packet() -> None:
    if "sdt_small" not in packaged_names():
        pytest.skip("the weights are not packaged")
    [example] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [packet] = encode("evt3", [random_events(np.random.default_rng(5), 30_000, 50_000, sensor=(480, 640))], (480, 640))
    names: dict[str, Any] = {"payload": packet.payload, "t_end_us": 50_000}
    exec(compile(example, "README.md", "exec"), names)
    assert names["spikes"].shape == (4, 2, 480, 640) and names["spikes"].sum() > 20_000
    assert names["depth"].shape == (480, 640) and names["depth"].dtype == np.float32
    assert np.isfinite(names["depth"]).all() and (names["depth"] > 0).all() and np.ptp(names["depth"]) > 0
    assert names["off_by"].shape == (480, 640) and (names["off_by"] > 0.01).all() and np.ptp(names["off_by"]) > 0
