"""Teachers of proxy labels: ONNX networks made here, and the one of the shared data."""

from pathlib import Path

import numpy as np
import pytest
import torch

from sdt_distill.teachers import TeacherConfig, TeacherError, open_teacher

onnx = pytest.importorskip("onnx", reason="makes the models of these tests")
helper, TensorProto = onnx.helper, onnx.TensorProto
pytest.importorskip("onnxruntime", reason="needs the extra distill")

SHARED = Path(__file__).parents[2] / "shared/data"


def write_model(path, *, shape=(1, 3, 8, 12), kind=TensorProto.FLOAT, outputs=1, squeeze=False):
    """A network whose depth is twice the mean of the channels."""
    axis = 1 if shape[1] == 3 else 3
    nodes = [helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("ReduceMean", ["float", "axes"], ["mean"], keepdims=0 if squeeze else 1))
    names = [f"depth{i}" for i in range(outputs)]
    nodes += [helper.make_node("Mul", ["mean", "two"], [name]) for name in names]
    rest = [size for i, size in enumerate(shape) if i != axis]
    out = rest if squeeze else [*rest[:axis], 1, *rest[axis:]]
    graph = helper.make_graph(
        nodes,
        "depth",
        [helper.make_tensor_value_info("image", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, out) for name in names],
        [
            helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0]),
            helper.make_tensor("axes", TensorProto.INT64, [1], [axis]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, str(path))
    return path


def teacher(path, **settings):
    return open_teacher(
        TeacherConfig(kind="onnx", weights=str(path), **{"pixels": "byte", "depth": "metric", **settings})
    )


def grey(batch=2, height=8, width=12):
    return torch.rand(batch, 1, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("squeeze", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 8, 12), (1, 8, 12, 3), ("batch", 3, 8, 12), (2, 8, 12, 3)])
def test_layouts_and_batches(tmp_path, shape, squeeze):
    network = teacher(write_model(tmp_path / "a.onnx", shape=shape, squeeze=squeeze))
    output = network(grey())
    assert output.depth_kind == "metric"
    assert output.features == {} == network.layers
    torch.testing.assert_close(output.depth, 2 * 255 * grey())


def test_pixels(tmp_path):
    path = write_model(tmp_path / "a.onnx")
    torch.testing.assert_close(teacher(path, pixels="unit")(grey()).depth, 2 * grey())
    normalised = (grey() - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(teacher(path, pixels="imagenet")(grey()).depth, 2 * normalised.mean(1, keepdim=True))


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.FLOAT16])
def test_types(tmp_path, kind):
    network = teacher(write_model(tmp_path / "a.onnx", kind=kind))
    torch.testing.assert_close(network(grey()).depth, 2 * 255 * grey(), atol=1.01, rtol=1e-3)


def test_relative_depth_is_scaled_by_frame_and_brought_to_size(tmp_path):
    network = teacher(write_model(tmp_path / "a.onnx"), depth="relative")
    images = grey(2, 20, 30)
    images[1] = 0.1 * images[0]
    output = network(images)
    assert output.depth_kind == "relative"
    assert output.depth.shape == (2, 1, 20, 30)
    torch.testing.assert_close(output.depth.amax((1, 2, 3)), torch.ones(2))
    torch.testing.assert_close(output.depth[1], output.depth[0], atol=1e-4, rtol=1e-4)


def test_open_sizes_must_be_given(tmp_path):
    path = write_model(tmp_path / "a.onnx", shape=("b", 3, "h", "w"))
    with pytest.raises(TeacherError, match="leaves its input size open: give teacher key 'size'"):
        teacher(path)
    assert teacher(path, size=(4, 6))(grey()).depth.shape == (2, 1, 8, 12)


def test_what_cannot_teach_is_refused(tmp_path):
    with pytest.raises(TeacherError, match=r"none\.onnx: no such file"):
        teacher(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(TeacherError, match=r"text\.onnx: not an ONNX network"):
        teacher(tmp_path / "text.onnx")
    with pytest.raises(TeacherError, match="expected three channels"):
        teacher(write_model(tmp_path / "four.onnx", shape=(1, 4, 8, 12)))
    with pytest.raises(TeacherError, match=r"input is \[8, 12\] px, teacher key 'size' is \[4, 6\]"):
        teacher(write_model(tmp_path / "a.onnx"), size=(4, 6))
    with pytest.raises(TeacherError, match="'output' is None, expected one of depth0, depth1"):
        teacher(write_model(tmp_path / "two.onnx", outputs=2))
    assert teacher(tmp_path / "two.onnx", output="depth1")(grey()).depth is not None
    with pytest.raises(TeacherError, match="'pixels' must be 'byte', not 'unit'"):
        teacher(write_model(tmp_path / "byte.onnx", kind=TensorProto.UINT8), pixels="unit")
    with pytest.raises(TeacherError, match="takes batches of 2 frames only, got 3"):
        teacher(write_model(tmp_path / "pair.onnx", shape=(2, 3, 8, 12)))(grey(3))


def test_key_follows_weights_and_settings(tmp_path):
    path = write_model(tmp_path / "a.onnx")
    assert teacher(path).key == teacher(path).key
    assert teacher(path).key != teacher(path, pixels="unit").key
    assert teacher(path).key != teacher(write_model(tmp_path / "b.onnx", shape=(1, 3, 8, 16))).key


SHARED_TEACHER = SHARED / "teacher/tcmonodepth_tcsmallnet_192x320.onnx"


@pytest.mark.skipif(not SHARED_TEACHER.is_file(), reason=f"{SHARED_TEACHER} is missing")
def test_the_shared_teacher_sees_that_ground_is_nearer_than_sky():
    network = teacher(SHARED_TEACHER, depth="relative")
    height, width = 192, 320
    y = np.linspace(0, 1, height)[:, None]
    noise = np.random.default_rng(0).random((height, width))
    # Sky above, and below a floor whose texture grows towards the camera.
    row = np.clip(y - 0.45, 0.01, None)
    x = (np.arange(width)[None] - width / 2) / width
    tiles = (np.floor(0.5 / row) + np.floor(x / row * 3)) % 2
    image = np.where(y > 0.45, 0.25 + 0.4 * tiles, 0.9) + 0.02 * noise
    depth = network(torch.from_numpy(image).float().clamp(0, 1)[None, None]).depth[0, 0]
    assert depth.shape == (height, width)
    assert depth[-20:].mean() > 2 * depth[:20].mean()
