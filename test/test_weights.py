"""The weights that come with the package, found by name."""

from pathlib import Path

import pytest
import torch

from sdt_ros import weights
from sdt_ros.network import CheckpointError
from sdt_ros.runtime import DepthEstimator
from sdt_ros.weights import default_weights, packaged_names, weights_file


def test_a_packaged_name_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    assert packaged_names() == [] and default_weights() is None
    assert weights_file("sdt_small") == Path("sdt_small")
    (tmp_path / "other.safetensors").touch()
    assert packaged_names() == ["other"] and default_weights() is None
    (tmp_path / "sdt_small.safetensors").touch()
    assert default_weights() == weights_file("sdt_small") == tmp_path / "sdt_small.safetensors"
    assert weights_file("runs/sdt_small") == Path("runs/sdt_small")
    assert weights_file("~/net.safetensors") == Path.home() / "net.safetensors"


def test_a_name_that_is_not_packaged_is_told_those_that_are() -> None:
    with pytest.raises(
        CheckpointError, match=rf"sdt_smal: .*a packaged one \({', '.join(packaged_names())}\) by its name"
    ):
        DepthEstimator.from_checkpoint("sdt_smal")


@pytest.mark.parametrize("name", packaged_names())
def test_what_is_packaged_loads_and_says_what_it_is(name: str) -> None:
    estimator = DepthEstimator.from_checkpoint(name, "cpu")
    assert estimator.card.preset == name and not estimator.is_untrained
    assert DepthEstimator.from_checkpoint(name, torch.device("cpu")).card == estimator.card
    assert estimator.card.limits and estimator.card.scores
    assert weights_file(name).stat().st_size < 20e6
