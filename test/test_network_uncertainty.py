"""The head for uncertainty: two more channels, which leave depth as it was and keep pictures apart."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from sdt_ros.network import NetworkConfig, SpikingDepthTransformer, UncertaintyHead, build_network, synthetic_events

CONFIG = NetworkConfig(embed_dim=32, heads=2, depth=1, mlp_ratio=2, head_widths=(16, 8, 8, 8, 4))
SCALE, PLACE = 1, 2  # channels


def network(config: NetworkConfig = CONFIG) -> SpikingDepthTransformer:
    torch.manual_seed(0)
    return build_network(config).eval()


def with_head() -> SpikingDepthTransformer:
    plain = network()
    plain.uncertainty = UncertaintyHead(CONFIG).eval()
    return plain


def features(pictures: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What the head takes of pictures that differ a lot: features at 1/16 and 1/8, and log depth at 64 x 96."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(pictures, 16, 4, 6), (pictures, 8, 8, 12), (pictures, 1, 64, 96)]
    coarse, fine, log_depth = (torch.rand(shape, generator=generator) for shape in shapes)
    strength = torch.linspace(0.2, 2.0, pictures)[:, None, None, None]
    return coarse * strength, fine * strength, log_depth * strength


@torch.no_grad()
def told_by(some: SpikingDepthTransformer, spikes: Tensor) -> Tensor:
    told: Tensor = some(spikes, with_uncertainty=True)
    return told


@pytest.mark.parametrize(("height", "width"), [(48, 64), (33, 47), (65, 90), (5, 7), (16, 100)])
def test_three_channels_at_any_size(height: int, width: int) -> None:
    told = told_by(with_head(), synthetic_events(4, height, width).expand(2, -1, -1, -1, -1))
    assert told.shape == (2, 3, height, width)
    assert told.dtype == torch.float32
    assert torch.isfinite(told).all()


def test_depth_is_the_same_to_the_bit_with_and_without_the_head() -> None:
    spikes = synthetic_events(4, 65, 90)
    with torch.no_grad():
        expected, default = network()(spikes), with_head()(spikes)
    assert expected.shape == default.shape == (1, 1, 65, 90)
    assert torch.equal(default, expected)
    assert torch.equal(told_by(with_head(), spikes)[:, :1], expected)


@pytest.mark.parametrize("head", ["fusion", "linear"])
def test_a_network_without_the_head_tells_depth_alone(head: str) -> None:
    plain, spikes = network(dataclasses.replace(CONFIG, head=head)), synthetic_events(4, 33, 47)
    with torch.no_grad():
        assert torch.equal(told_by(plain, spikes), plain(spikes))


def test_the_scale_is_one_number_a_picture_and_places_differ() -> None:
    some = with_head()
    windows = [synthetic_events(4, 65, 90, seed=seed) for seed in (1, 2)]
    told = told_by(some, torch.cat(windows))
    scale = told[:, SCALE].flatten(1)
    assert torch.equal(scale, scale[:, :1].expand_as(scale))
    assert abs(scale[0, 0] - scale[1, 0]) > 1e-3
    assert told[:, PLACE].flatten(1).std(1).min() > 0.01


def test_windows_of_a_batch_do_not_see_each_other() -> None:
    some = with_head()
    windows = [synthetic_events(4, 65, 90, seed=seed) for seed in (1, 2)]
    alone = torch.cat([told_by(some, window) for window in windows])
    torch.testing.assert_close(told_by(some, torch.cat(windows)), alone, rtol=0, atol=1e-4)


def test_pictures_of_a_batch_do_not_see_each_other() -> None:
    head, given = with_head().uncertainty, features()
    assert head is not None
    with torch.no_grad():
        together = head(*given)
        alone = torch.cat([head(*(each[number : number + 1] for each in given)) for number in range(3)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    assert together[:, 0, 0, 0].diff().abs().min() > 0.01  # what one picture takes from another would show


def test_the_head_is_given_the_features_of_both_resolutions_and_padded_depth() -> None:
    some = with_head()
    assert some.uncertainty is not None
    given: list[Tensor] = []
    some.uncertainty.register_forward_pre_hook(lambda _, inputs: given.extend(inputs))
    told = told_by(some, synthetic_events(4, 33, 47))
    coarse, fine, log_depth = given
    assert [tuple(each.shape) for each in given] == [(1, 16, 3, 3), (1, 8, 6, 6), (1, 1, 48, 48)]
    assert coarse.min() == 0 < coarse.max() and fine.min() >= 0 and fine.max() > 0
    assert torch.equal(told[:, :1], log_depth[..., :33, :47])


def test_places_do_not_depend_on_how_far_all_is() -> None:
    head, (coarse, fine, log_depth) = with_head().uncertainty, features()
    assert head is not None
    with torch.no_grad():
        near, far = head(coarse, fine, log_depth), head(coarse, fine, log_depth + 0.25)
    torch.testing.assert_close(far[:, 1], near[:, 1], rtol=0, atol=1e-5)
    assert (far[:, 0] - near[:, 0]).abs().min() > 1e-3


def test_deviations_are_bounded() -> None:
    """From 2 % to a factor of e^4, however large the weights."""
    head = with_head().uncertainty
    assert head is not None
    (scale, place), bounds = (list(each.parameters())[-2:] for each in (head.scale, head.place)), []
    with torch.no_grad():
        place[0].mul_(1e4)
        places = head(*features())[:, 1]
        for bias in (-1e6, 1e6):
            nn.init.constant_(scale[1], bias)
            bounds.append(head(*features())[:, 0].unique().tolist())
    assert (places.min(), places.max()) == (-4.0, pytest.approx(1.4))
    assert bounds == [[-4.0], [pytest.approx(1.4)]]


def test_a_picture_of_one_colour_is_told_of() -> None:
    """Where nothing varies, its spread is 0, of which a square root is taken."""
    head = with_head().uncertainty
    assert head is not None
    with torch.no_grad():
        told = head(torch.zeros(1, 16, 1, 1), torch.zeros(1, 8, 2, 2), torch.full((1, 1, 16, 16), 0.5))
    assert told.shape == (1, 2, 16, 16) and torch.isfinite(told).all()


def test_nan_is_not_hidden() -> None:
    head, (coarse, fine, log_depth) = with_head().uncertainty, features()
    assert head is not None
    log_depth[1] = torch.nan
    with torch.no_grad():
        told = head(coarse, fine, log_depth)
    assert told[1].isnan().all() and torch.isfinite(told[::2]).all()


def test_a_network_without_features_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="the head 'linear' has no features"):
        UncertaintyHead(dataclasses.replace(CONFIG, head="linear"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_of_half_precision_are_taken(dtype: torch.dtype) -> None:
    head = with_head().uncertainty
    assert head is not None
    rounded = [each.to(dtype) for each in features()]
    with torch.no_grad():
        told, expected = head(*rounded), head(*(each.float() for each in rounded))
    assert told.dtype == torch.float32 and torch.equal(told, expected)
