"""Teachers of features: DINOv2 and DINOv3 in the hub's format, and the frame network of our own."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", reason="needs the extra distill")

from teacher_models import save_dino

from sdt_distill.teachers import TeacherConfig, TeacherError, open_teacher
from sdt_distill.teachers.frame import FrameConfig, FrameNetwork, load_frame_network, save_frame_network
from sdt_distill.teachers.patches import IMAGENET_MEAN, IMAGENET_STD, Resizing
from sdt_ros.network import DepthRange

TINY = FrameConfig(embed_dim=32, depth=3, heads=2, patch=8, widths=(16, 12, 8))


def frames(batch=2, channels=3, height=60, width=80, seed=0):
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


def dino(folder, **settings):
    return open_teacher(TeacherConfig(kind="dino", weights=str(folder), **{"bf16": False, **settings}))


# DINO


@pytest.mark.parametrize(
    ("family", "patch", "registers"), [("dinov2", 14, 0), ("dinov2_with_registers", 14, 4), ("dinov3", 16, 4)]
)
def test_maps_are_the_models_patch_tokens(tmp_path, family, patch, registers):
    model = save_dino(tmp_path, family, patch)
    teacher = dino(tmp_path, layers=("layer.2", "last"), grid=(3, 5), patch=patch)
    output = teacher(frames(height=3 * patch, width=5 * patch))
    assert teacher.layers == {"layer.2": 32, "last": 32}
    assert output.depth is None
    pixels = (frames(height=3 * patch, width=5 * patch) - torch.tensor(IMAGENET_MEAN)[:, None, None]) / torch.tensor(
        IMAGENET_STD
    )[:, None, None]
    with torch.no_grad():
        tokens = model(pixel_values=pixels).last_hidden_state  # [B, 1 + registers + 15, 32]
    assert tokens.shape[1] == 1 + registers + 15
    expected = tokens[:, -15:].view(2, 3, 5, 32).permute(0, 3, 1, 2)
    torch.testing.assert_close(output.features["last"], expected, atol=1e-5, rtol=1e-5)
    assert output.features["layer.2"].shape == (2, 32, 3, 5)
    assert (output.features["layer.2"] - output.features["last"]).abs().max() > 0.01


def test_a_patch_answers_where_the_frame_changed(tmp_path):
    save_dino(tmp_path)
    teacher = dino(tmp_path, layers=("layer.1",), grid=(4, 6))
    plain = frames(1, height=56, width=84)
    changed = plain.clone()
    changed[..., 28:42, 56:70] = 1 - changed[..., 28:42, 56:70]  # third row, fifth column
    difference = (teacher(plain).features["layer.1"] - teacher(changed).features["layer.1"]).abs().sum(1)[0]
    assert divmod(int(difference.argmax()), 6) == (2, 4)


@pytest.mark.parametrize(
    ("settings", "size"),
    [({}, (4, 6)), ({"short_side": 28}, (2, 3)), ({"short_side": 112}, (8, 11)), ({"grid": (5, 2)}, (5, 2))],
)
def test_sizes_are_whole_patches(tmp_path, settings, size):
    save_dino(tmp_path)
    assert dino(tmp_path, **settings)(frames()).features["last"].shape[-2:] == size  # 60x80 at patch 14


def test_resizing_keeps_the_shape_of_a_frame():
    assert Resizing(14).size(260, 346) == (266, 350)
    assert Resizing(16, short_side=224).size(260, 346) == (224, 304)
    assert Resizing(16).size(3, 3) == (16, 16)


def test_grey_is_repeated_and_other_shapes_are_refused(tmp_path):
    save_dino(tmp_path)
    teacher = dino(tmp_path)
    grey = frames(channels=1)
    colour = teacher(grey.expand(-1, 3, -1, -1)).features["last"]
    assert torch.equal(teacher(grey).features["last"], colour)
    with pytest.raises(ValueError, match=r"frames have shape \[2, 4, 60, 80\]"):
        teacher(frames(channels=4))


def test_frozen_and_bf16(tmp_path):
    save_dino(tmp_path)
    exact, rounded = dino(tmp_path), dino(tmp_path, bf16=True)
    images = frames().requires_grad_()
    a, b = exact(images).features["last"], rounded(images).features["last"]
    assert not a.requires_grad
    assert a.dtype == b.dtype == torch.float32
    assert 0 < (a - b).abs().max() < 0.3
    assert exact.key != rounded.key
    assert torch.equal(exact(images).features["last"], a)  # no dropout


def test_key_follows_weights_and_settings(tmp_path):
    save_dino(tmp_path / "a")
    save_dino(tmp_path / "b", seed=1)
    save_dino(tmp_path / "c")
    key = dino(tmp_path / "a").key
    assert dino(tmp_path / "c").key == key  # the place does not matter
    assert dino(tmp_path / "b").key != key
    assert dino(tmp_path / "a", layers=("layer.1",)).key != key
    assert dino(tmp_path / "a", short_side=28).key != key


def test_statistics_of_the_folder_are_used(tmp_path):
    save_dino(tmp_path)
    plain = dino(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}))
    other = dino(tmp_path)
    assert other.key != plain.key
    assert not torch.equal(other(frames()).features["last"], plain(frames()).features["last"])


def test_another_patch_size_is_refused(tmp_path):
    save_dino(tmp_path, patch=14)
    with pytest.raises(TeacherError, match="patch size is 14 px, the config asks for 16"):
        dino(tmp_path, patch=16)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "patch_size": 16}))
    with pytest.raises(TeacherError, match=str(tmp_path)):  # the weights are of patch 14 still
        dino(tmp_path, patch=16)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(TeacherError, match=r"/nowhere.*no such folder. Put config.json and model.safetensors there"):
        dino("/nowhere")
    with pytest.raises(TeacherError, match=r"config\.json and model\.safetensors missing"):
        dino(tmp_path)
    save_dino(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop("layernorm.weight")
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"1 missing keys, as layernorm\.weight"):
        dino(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(TeacherError, match="cannot be loaded"):
        dino(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(TeacherError, match=r"model\.safetensors missing .*pickles are not read"):
        dino(tmp_path)
    save_dino(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TeacherError, match="model_type is 'bert'"):
        dino(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(TeacherError, match=r"config\.json: cannot be read as JSON"):
        dino(tmp_path)


def test_a_hub_name_without_network_says_what_to_fetch(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(TeacherError, match="hf download facebook/dinov2-small --local-dir DIR"):
        dino("facebook/dinov2-small")


def test_a_hub_name_is_found_in_the_local_cache(tmp_path, monkeypatch):
    save_dino(tmp_path)

    def cached(name, *, allow_patterns, local_files_only=False):
        assert name == "owner/model"
        assert local_files_only
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert dino("owner/model").key == dino(tmp_path).key


def test_layers_that_are_not_there_are_refused(tmp_path):
    save_dino(tmp_path)
    with pytest.raises(TeacherError, match=r"no layer 'layer\.4'; there are layer\.1 to layer\.3, and last"):
        dino(tmp_path, layers=("layer.4",))


# The config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"knd": "dino"}, "unknown teacher key 'knd'; known keys: kind, weights"),
        ({"kind": "clip"}, "'kind' is 'clip'"),
        ({"kind": "dino"}, "'weights' is None"),
        ({"kind": "onnx", "weights": "a.onnx"}, "'pixels' is None"),
        ({"kind": "dino", "weights": "a", "layers": "last"}, "'layers' is 'last'"),
        ({"kind": "dino", "weights": "a", "patch": 0}, "'patch' is 0"),
        ({"kind": "dino", "weights": "a", "grid": [3, 4], "short_side": 5}, "without short_side"),
        ({"kind": "onnx", "weights": "a", "pixels": "byte", "depth": "log"}, "'depth' is 'log'"),
    ],
)
def test_config_refuses(values, message):
    with pytest.raises(TeacherError, match=message):
        TeacherConfig.from_dict(values)


def test_config_survives_the_way_through_plain_values(tmp_path):
    config = TeacherConfig(kind="dino", weights="a/b", grid=(3, 4), layers=("layer.1",), cache=tmp_path)
    assert TeacherConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_no_teacher():
    assert open_teacher(TeacherConfig()) is None


# The frame network


def frame_network(seed=0):
    torch.manual_seed(seed)
    network = FrameNetwork(TINY)
    torch.nn.init.normal_(network.depth.weight, std=0.1)  # as drawn it gives the same everywhere
    return network.eval()


def test_frame_network_gives_log_depth_of_any_size():
    network = FrameNetwork(TINY).eval()
    depth = network(frames(channels=1, height=67, width=51))
    assert depth.shape == (2, 1, 67, 51)
    torch.testing.assert_close(depth, torch.full_like(depth, 0.5))  # the middle of the range, before any training


def test_frame_network_learns():
    torch.manual_seed(0)
    network = FrameNetwork(TINY).train()
    images = frames(4, 1, 32, 40)
    target = torch.nn.functional.avg_pool2d(images, 9, 1, 4)  # something that a frame shows
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        loss = (network(images) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    gradients = [name for name, each in network.named_parameters() if each.grad is None]
    assert gradients == ["backbone.embeddings.mask_token"]


def test_frame_network_survives_the_disk_and_teaches(tmp_path):
    network = frame_network()
    save_frame_network(tmp_path, network, DepthRange(1, 50), {"steps": 7})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "frame.json",
        "head.safetensors",
        "model.safetensors",
    ]
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # who may read one may read all
    loaded, depth_range = load_frame_network(tmp_path, patch=8)
    assert depth_range == DepthRange(1, 50)
    images = frames(channels=1)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(loaded(images), expected)
    config = TeacherConfig(kind="frame", weights=str(tmp_path), layers=("layer.1", "last"), bf16=False)
    teacher = open_teacher(config)
    output = teacher(images)
    assert output.depth_kind == "metric"
    torch.testing.assert_close(output.depth, DepthRange(1, 50).to_metres(expected))
    assert {name: each.shape[1:] for name, each in output.features.items()} == {
        "layer.1": (32, 8, 10),
        "last": (32, 8, 10),
    }
    # The backbone alone opens as any DINOv2 does, and gives the same.
    alone = dino(tmp_path, layers=("layer.1",))(images).features["layer.1"]
    torch.testing.assert_close(alone, output.features["layer.1"])


def test_frame_network_refuses_what_does_not_fit(tmp_path):
    with pytest.raises(TeacherError, match=r"config\.json, model\.safetensors, head\.safetensors, frame\.json missing"):
        load_frame_network(tmp_path)
    save_frame_network(tmp_path, frame_network(), DepthRange())
    with pytest.raises(TeacherError, match="patch size is 8 px, the config asks for 14"):
        load_frame_network(tmp_path, patch=14)
    with pytest.raises(TeacherError, match="'grid' and 'short_side'"):
        open_teacher(TeacherConfig(kind="frame", weights=str(tmp_path), grid=(2, 2)))
    save_frame_network(tmp_path / "other", frame_network(seed=1), DepthRange())
    (tmp_path / "other/head.safetensors").replace(tmp_path / "head.safetensors")
    with pytest.raises(TeacherError, match="do not belong together"):
        load_frame_network(tmp_path)
    with pytest.raises(ValueError, match="unknown frame network key 'width'"):
        FrameConfig.from_dict({"width": 3})
    with pytest.raises(ValueError, match="'embed_dim' is 32"):
        FrameConfig(embed_dim=32, heads=3)
