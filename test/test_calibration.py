"""Calibrations: read and refused by name; rectification against a scene whose depth is known in both images."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from sdt_ros.calibration import Calibration, CalibrationError, CalibrationSource

HEIGHT, WIDTH = 90, 120
LENSES = {
    "plumb_bob": [-0.28, 0.07, 0.001, -0.0015, 0.002],
    "rational_polynomial": [0.4, 0.05, 0.0005, 0.0003, 0.01, 0.7, 0.12, 0.01],
    "equidistant": [-0.02, 0.004, -0.002, 0.0003],
}
NO_ROI = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
FILE = """
image_width: 120
image_height: 90
camera_name: dvs
camera_matrix: {rows: 3, cols: 3, data: [100, 0, 60, 0, 101, 45, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [-0.3, 0.1, 0.001, 0.002, 0]}
rectification_matrix: {rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {rows: 3, cols: 4, data: [95, 0, 59, 0, 0, 96, 44, 0, 0, 0, 1, 0]}
"""


def rotation(degrees: float) -> np.ndarray:
    """A turn about a slanted axis, by Rodrigues' formula."""
    axis = np.array([0.3, 0.9, -0.2]) / np.linalg.norm([0.3, 0.9, -0.2])
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def lens(model: str, degrees: float = 0.0, d: list[float] | None = None, focal: float = 70.0) -> Calibration:
    k = np.array([[focal, 0, 58.3], [0, focal + 1, 46.2], [0, 0, 1]])
    p = np.array([[0.9 * focal, 0, 61.0, 0], [0, 0.9 * focal, 44.0, 0], [0, 0, 1, 0]])
    coefficients = np.array(LENSES[model] if d is None else d)
    return Calibration(WIDTH, HEIGHT, k, coefficients, model, rotation(degrees), p)


def distort(model: str, d: list[float], x: float, y: float) -> tuple[float, float]:
    """One point, written from the formulas of OpenCV's documentation (calib3d, fisheye)."""
    d = [*d, *[0.0] * (8 - len(d))]
    r = math.hypot(x, y)
    if model == "equidistant":
        theta = math.atan(r)
        theta_d = theta * (1 + d[0] * theta**2 + d[1] * theta**4 + d[2] * theta**6 + d[3] * theta**8)
        return (x * theta_d / r, y * theta_d / r) if r > 0 else (x, y)
    k1, k2, p1, p2, k3, k4, k5, k6 = d
    radial = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
    return (
        x * radial + 2 * p1 * x * y + p2 * (r**2 + 2 * x**2),
        y * radial + p1 * (r**2 + 2 * y**2) + 2 * p2 * x * y,
    )


def undistort(model: str, d: list[float], x: float, y: float) -> tuple[float, float]:
    """The inverse, by Newton's method on differences."""
    a, b, step = x, y, 1e-6
    for _ in range(50):
        fx, fy = distort(model, d, a, b)
        if math.hypot(fx - x, fy - y) < 1e-12:
            break
        (ax, ay), (bx, by) = distort(model, d, a + step, b), distort(model, d, a, b + step)
        jacobian = np.array([[ax - fx, bx - fx], [ay - fy, by - fy]]) / step
        move = np.linalg.solve(jacobian, [x - fx, y - fy])
        a, b = a + move[0], b + move[1]
    return a, b


def sensor_ray(c: Calibration, u: float, v: float) -> np.ndarray:
    """Direction [3] that a sensor pixel looks in, with z = 1."""
    x, y = undistort(c.model, list(c.d), (u - c.k[0, 2]) / c.k[0, 0], (v - c.k[1, 2]) / c.k[1, 1])
    return np.array([x, y, 1.0])


def rectified_pixel(c: Calibration, ray: np.ndarray) -> tuple[float, float]:
    turned = c.r @ ray
    projected = c.p[:, :3] @ turned
    return projected[0] / projected[2], projected[1] / projected[2]


@pytest.mark.parametrize("degrees", [0.0, 6.0])
@pytest.mark.parametrize("model", LENSES)
def test_every_rectified_pixel_shows_what_its_sensor_pixel_sees(model: str, degrees: float) -> None:
    """Backward: the ray of the chosen sensor pixel falls onto the rectified pixel, to within half a sensor pixel."""
    c = lens(model, degrees)
    source, _ = c.rectification()
    seen = np.flatnonzero(source < source.size)
    assert seen.size > 0.5 * source.size
    for index in seen[:: seen.size // 400]:
        row, column = divmod(int(index), WIDTH)
        v, u = divmod(int(source[index]), WIDTH)
        # The rectified pixel lies in the quadrangle that the sensor pixel's square becomes.
        half = [rectified_pixel(c, sensor_ray(c, u + du, v + dv)) for du in (-0.5, 0.5) for dv in (-0.5, 0.5)]
        xs, ys = zip(*half, strict=True)
        assert min(xs) - 0.05 <= column <= max(xs) + 0.05
        assert min(ys) - 0.05 <= row <= max(ys) + 0.05


@pytest.mark.parametrize("degrees", [0.0, 6.0])
@pytest.mark.parametrize("model", LENSES)
def test_pixels_are_unknown_only_where_the_sensor_does_not_see(model: str, degrees: float) -> None:
    """Forward: what the sensor sees is known, and each unknown pixel's ray passes the sensor by."""
    c = lens(model, degrees)
    known = (c.rectification()[0] < HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    for v in range(1, HEIGHT - 1, 4):
        for u in range(1, WIDTH - 1, 4):
            x, y = rectified_pixel(c, sensor_ray(c, u, v))
            column, row = round(x), round(y)
            assert not (0 <= row < HEIGHT and 0 <= column < WIDTH) or known[row, column]
    unknown = np.argwhere(~known)
    assert 20 < len(unknown) < 0.5 * known.size
    for row, column in unknown:
        ray = c.r.T @ np.linalg.inv(c.p[:, :3]) @ (column, row, 1)
        if ray[2] > 0:
            x, y = distort(model, list(c.d), ray[0] / ray[2], ray[1] / ray[2])
            u, v = c.k[0, 0] * x + c.k[0, 2], c.k[1, 1] * y + c.k[1, 2]
            assert not (-0.49 < u < WIDTH - 0.51 and -0.49 < v < HEIGHT - 0.51)


@pytest.mark.parametrize("degrees", [0.0, 6.0])
@pytest.mark.parametrize("model", LENSES)
def test_a_slanted_plane_has_its_depth_in_the_rectified_frame(model: str, degrees: float) -> None:
    c = lens(model, degrees)
    normal = np.array([0.15, -0.1, 1.0])  # points P with normal . P = 5 m, in the sensor's frame
    depth = np.empty(HEIGHT * WIDTH + 1)
    depth[-1] = np.nan
    source, scale = c.rectification()
    needed = np.unique(source[source < source.size][::37])
    for index in needed:
        v, u = divmod(int(index), WIDTH)
        depth[index] = 5 / (normal @ sensor_ray(c, u, v))
    checked = 0
    for index in np.flatnonzero(np.isin(source, needed)):
        row, column = divmod(int(index), WIDTH)
        ray = np.linalg.inv(c.p[:, :3]) @ (column, row, 1)  # in the rectified frame, z = 1
        truth = 5 / (c.r @ normal @ ray)
        assert depth[source[index]] * scale[index] == pytest.approx(
            truth, rel=0.008
        )  # the nearest pixel, not the point itself
        checked += 1
    assert checked > 100
    if degrees:  # with the depth left as it was, this would not hold
        assert np.abs(scale[source < source.size] - 1).max() > 0.03


def test_a_polynomial_that_turns_back_shows_nothing_twice() -> None:
    """Behind r = 0.816 this lens's radius falls again: what lies there is not what the middle of the sensor sees."""
    k, p = np.diag([40.0, 40.0, 1.0]), np.diag([25.0, 25.0, 1.0])
    k[:2, 2] = p[:2, 2] = 60.0, 45.0
    c = Calibration(
        WIDTH, HEIGHT, k, np.array([-0.5, 0, 0, 0, 0]), "plumb_bob", np.eye(3), np.hstack([p, np.zeros((3, 1))])
    )
    source = c.rectification()[0].reshape(HEIGHT, WIDTH)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    radius = np.hypot(columns - 60, rows - 45) / 25
    turn = math.sqrt(2 / 3)
    assert (source[radius > turn + 0.01] == HEIGHT * WIDTH).all()
    assert (source[radius < turn - 0.01] < HEIGHT * WIDTH).all()


def test_without_distortion_the_grid_stays() -> None:
    c = Calibration(
        WIDTH, HEIGHT, *(lambda k: (k, np.zeros(5), "plumb_bob", np.eye(3), np.hstack([k, np.zeros((3, 1))])))(
            np.array([[70, 0, 58.3], [0, 71, 46.2], [0, 0, 1]])
        )
    )  # fmt: skip
    assert c.is_rectified
    source, scale = c.rectification()
    np.testing.assert_array_equal(source, np.arange(HEIGHT * WIDTH))
    np.testing.assert_array_equal(scale, 1)


def test_an_equidistant_lens_is_no_pinhole_even_without_coefficients() -> None:
    c = lens("equidistant", d=[0.0, 0.0, 0.0, 0.0])
    assert not c.is_rectified
    test_index = 10 * WIDTH + 20
    ray = np.linalg.inv(c.p[:, :3]) @ (20, 10, 1)
    x, y = distort("equidistant", [0.0] * 4, ray[0], ray[1])
    u, v = round(c.k[0, 0] * x + c.k[0, 2]), round(c.k[1, 1] * y + c.k[1, 2])
    source = Calibration(WIDTH, HEIGHT, c.k, c.d, c.model, np.eye(3), c.p).rectification()[0]
    assert source[test_index] == v * WIDTH + u


def message(**changes: Any) -> SimpleNamespace:
    fields = {
        "width": WIDTH, "height": HEIGHT, "distortion_model": "plumb_bob", "d": [-0.3, 0.1, 0.001, 0.002, 0.0],
        "k": [100.0, 0, 60, 0, 101, 45, 0, 0, 1], "r": np.eye(3).ravel(), "binning_x": 0, "binning_y": 0,
        "p": [95.0, 0, 59, 0, 0, 96, 44, 0, 0, 0, 1, 0], "roi": NO_ROI, "header": SimpleNamespace(frame_id="/cam"),
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **changes})


def test_file_and_message_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a camera.yaml"
    path.write_text(FILE)
    from_file = Calibration.from_url(path.as_uri())  # with %20 in it
    from_message = Calibration.from_message(message())
    assert from_file.equals(from_message) and not from_file.equals(None)
    assert not from_file.equals(Calibration.from_message(message(d=[-0.3, 0.1, 0.001, 0.002, 0.001])))
    assert not from_file.equals(Calibration.from_message(message(d=[])))
    assert (from_file.width, from_file.height, from_file.k[1, 1], from_file.p[1, 2]) == (120, 90, 101, 44)


def test_package_urls_are_found() -> None:
    pytest.importorskip("ament_index_python")
    with pytest.raises(CalibrationError, match="no_such_package"):
        Calibration.from_url("package://no_such_package/camera.yaml")


def test_uncalibrated_camera_is_no_calibration() -> None:
    assert Calibration.from_message(message(k=[0.0] * 9, p=[0.0] * 12, r=[0.0] * 9, d=[])) is None


def test_missing_r_and_p_are_filled_in() -> None:
    c = Calibration.from_message(message(r=[0.0] * 9, p=[0.0] * 12))
    assert c is not None
    np.testing.assert_array_equal(c.r, np.eye(3))
    np.testing.assert_array_equal(c.p[:, :3], c.k)
    assert not c.is_rectified  # D is not zero


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"distortion_model": "thin_prism"}, "thin_prism"),
        ({"distortion_model": ""}, "distortion model"),
        ({"d": [0.1] * 8}, "5 coefficients, not 8"),
        ({"k": [-1.0, 0, 60, 0, 101, 45, 0, 0, 1]}, "focal lengths"),
        ({"k": [100.0, 0, float("nan"), 0, 101, 45, 0, 0, 1]}, "finite"),
        ({"p": [95.0, 0, 59, 0, 0, 0, 44, 0, 0, 0, 1, 0]}, "focal lengths"),
        ({"p": [95.0, 0, 59, 0, 0, 96, 44, 0, 0, 0, 0, 0]}, "projection matrix P"),
        ({"p": [95.0, 95, 59, 0, 96, 96, 44, 0, 0, 0, 1, 0]}, "maps a plane to a line"),
        ({"r": [1.0, 0, 0, 0, 2, 0, 0, 0, 1]}, "no rotation"),
        ({"binning_x": 2, "binning_y": 2}, "binning"),
        ({"roi": SimpleNamespace(**{**vars(NO_ROI), "width": 40, "height": 30})}, "regions of interest"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        Calibration.from_message(message(**changes))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "No such file"),
        ("{", "no YAML"),
        ("", "camera_calibration writes it"),
        ("just words", "camera_calibration writes it"),
        (FILE.replace("camera_matrix", "kamera_matrix"), "camera_matrix"),
        (FILE.replace("[100, 0, 60, 0, 101, 45, 0, 0, 1]", "[1, 2]"), "reshape"),
        (FILE.replace("plumb_bob", "cylinder"), "cylinder"),
        (FILE.replace("image_width: 120", "image_width: wide"), "wide"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: str | None, text: str) -> None:
    path = tmp_path / "camera.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CalibrationError, match=text) as caught:
        Calibration.from_url(path.as_uri())
    assert "camera.yaml" in str(caught.value)


@pytest.mark.parametrize("url", ["camera.yaml", "/tmp/camera.yaml", "http://host/camera.yaml", "file://host/c.yaml"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(CalibrationError, match="neither file:///path nor package"):
        Calibration.from_url(url)


def test_a_calibration_of_another_frame_is_named(tmp_path: Path) -> None:
    source = CalibrationSource()
    assert source.stranger("other") == ""
    source.take(message())
    assert source.stranger("other") and "'cam'" in source.stranger("other") and "'other'" in source.stranger("other")
    assert source.stranger("cam") == source.stranger("/cam") == source.stranger("") == ""
    source.take(message(header=SimpleNamespace(frame_id="")))  # drivers that name none
    assert source.stranger("other") == ""
    source.take(message())
    source.take(message(k=[0.0] * 9))
    assert source.stranger("other") == ""
    path = tmp_path / "camera.yaml"
    path.write_text(FILE)
    source.take(message())
    source.load(path.as_uri())
    assert source.stranger("other") == ""


def test_source_keeps_a_repeated_calibration_and_follows_a_new_one() -> None:
    source = CalibrationSource()
    assert source.current is None and source.problem(HEIGHT, WIDTH) == ""
    source.take(message())
    first = source.current
    source.take(message())
    assert source.current is first, "what was worked out for it would be lost 30 times a second"
    source.take(message(d=[0.0] * 5))
    second = source.current
    assert second is not first and source.changes == 2
    for _ in range(3):  # two who publish in turn, one of them not calibrated now and then
        source.take(message())
        assert source.current is first
        source.take(message(k=[0.0] * 9))
        source.take(message(d=[0.0] * 5))
        assert source.current is second
    assert source.changes == 2 + 3 * 3
    assert source.problem(HEIGHT, WIDTH) == "" and source.problem(0, 0) == ""
    assert "120x90" in source.problem(260, 346) and "346x260" in source.problem(260, 346)
    source.take(message(distortion_model="cylinder"))
    assert source.current is None and "cylinder" in source.problem(0, 0)
    source.take(message(k=[0.0] * 9))
    assert source.current is None and source.problem(HEIGHT, WIDTH) == ""
    source.take(message())
    source.clear()
    assert source.current is None and source.changes == 0
