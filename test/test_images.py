"""Image messages: against bytes worked out by hand, against cv_bridge where it is installed, and there and back."""

from __future__ import annotations

import importlib.util
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdt_ros.images import ENCODINGS, array_to_image, depth_to_metres, image_to_array

DTYPES = {"32FC1": np.float32, "16UC1": np.uint16, "mono16": np.uint16}


def message(encoding: str, height: int, width: int, step: int, data: bytes, big: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        encoding=encoding, height=height, width=width, step=step, data=data, is_bigendian=int(big), header=None
    )


@pytest.mark.parametrize(
    ("encoding", "big", "data", "expected"),
    [
        ("mono8", False, "01 02 aa 03 04 aa", [[1, 2], [3, 4]]),
        ("8UC1", False, "01 02 aa 03 04 aa", [[1, 2], [3, 4]]),
        ("mono16", False, "01 02 03 04 aa 05 06 07 08 aa", [[0x0201, 0x0403], [0x0605, 0x0807]]),
        ("16UC1", True, "01 02 03 04 aa 05 06 07 08 aa", [[0x0102, 0x0304], [0x0506, 0x0708]]),
        ("32FC1", False, "00 00 80 3f 00 00 20 c1 aa 00 00 00 3f 00 00 c0 7f aa", [[1, -10], [0.5, np.nan]]),
        ("32FC1", True, "3f 80 00 00 c1 20 00 00 aa 3f 00 00 00 7f c0 00 00 aa", [[1, -10], [0.5, np.nan]]),
        (
            "rgb8",
            False,
            "01 02 03 04 05 06 aa 07 08 09 0a 0b 0c aa",
            [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]],
        ),
        (
            "bgr8",
            False,
            "01 02 03 04 05 06 aa 07 08 09 0a 0b 0c aa",
            [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 12]]],
        ),
    ],
)
def test_bytes_worked_out_by_hand(encoding: str, big: bool, data: str, expected: list) -> None:
    raw = bytes.fromhex(data)
    pixels = image_to_array(message(encoding, 2, 2, len(raw) // 2, raw, big), use_cv_bridge=False)
    assert pixels.dtype == DTYPES.get(encoding, np.uint8)
    np.testing.assert_array_equal(pixels, expected)


@st.composite
def images(draw: st.DrawFn) -> tuple[SimpleNamespace, np.ndarray]:
    encoding = draw(st.sampled_from(ENCODINGS))
    height, width, padding = draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw(st.integers(0, 7))
    big = draw(st.booleans())
    shape = (height, width, 3) if encoding.endswith("8") and "mono" not in encoding else (height, width)
    dtype = np.dtype(DTYPES.get(encoding, np.uint8))
    bits = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 250, (*shape, dtype.itemsize), np.uint8)
    pixels = bits.view(dtype)[..., 0]
    stored = pixels.astype(dtype.newbyteorder(">" if big else "<"))
    rows = [row.tobytes() + b"\xee" * padding for row in stored]
    return message(encoding, height, width, len(rows[0]), b"".join(rows), big), pixels


@given(images())
def test_any_padding_and_byte_order(case: tuple[SimpleNamespace, np.ndarray]) -> None:
    msg, pixels = case
    out = image_to_array(msg, use_cv_bridge=False)
    assert out.dtype == pixels.dtype and out.dtype.isnative
    np.testing.assert_array_equal(out, pixels)


@given(images())
def test_there_and_back(case: tuple[SimpleNamespace, np.ndarray]) -> None:
    msg, pixels = case
    back = array_to_image(pixels, msg.encoding, "the header", message("", 0, 0, 0, b""))
    assert (back.header, back.encoding, back.height, back.width) == ("the header", msg.encoding, msg.height, msg.width)
    assert back.step * back.height == len(back.data)
    np.testing.assert_array_equal(image_to_array(back, use_cv_bridge=False), pixels)


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is None, reason="cv_bridge is not installed")
@given(images())
def test_equal_to_cv_bridge(case: tuple[SimpleNamespace, np.ndarray]) -> None:
    msg, _ = case
    theirs = image_to_array(msg, use_cv_bridge=True)
    ours = image_to_array(msg, use_cv_bridge=False)
    assert theirs.dtype == ours.dtype and theirs.shape == ours.shape
    np.testing.assert_array_equal(theirs, ours)


def test_no_copy_where_none_is_needed() -> None:
    data = bytes(range(24))
    pixels = image_to_array(message("32FC1", 2, 3, 12, data), use_cv_bridge=False)
    assert np.shares_memory(pixels, np.frombuffer(data, np.uint8))


def test_views_and_foreign_byte_orders_are_written_in_full() -> None:
    pixels = np.arange(24, dtype=">u2").reshape(4, 6)[::2, ::3]
    back = array_to_image(pixels, "16UC1", message=message("", 0, 0, 0, b""))
    np.testing.assert_array_equal(image_to_array(back, use_cv_bridge=False), [[0, 3], [12, 15]])


def test_depth_in_metres() -> None:
    millimetres = message("16UC1", 1, 3, 6, np.array([0, 1500, 65535], "<u2").tobytes())
    np.testing.assert_allclose(depth_to_metres(millimetres), [[np.nan, 1.5, 65.535]], rtol=1e-6)
    metres = message("32FC1", 1, 3, 12, np.array([np.nan, np.inf, 2.5], "<f4").tobytes())
    depth = depth_to_metres(metres)
    np.testing.assert_array_equal(depth, np.array([[np.nan, np.inf, 2.5]], np.float32))
    depth[0, 0] = 1  # memory of its own
    with pytest.raises(ValueError, match=r"must be 32FC1 \[m\] or 16UC1 \[mm\], not 'rgb8'"):
        depth_to_metres(message("rgb8", 1, 1, 3, b"abc"))


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (message("bayer_rggb8", 1, 1, 1, b"a"), "'bayer_rggb8' needs cv_bridge"),
        (message("mono8", 2, 3, 3, b"abcde"), "2 rows of 3 bytes has only 5 bytes"),
        (message("mono16", 1, 3, 3, b"abc"), "3 columns needs 6 bytes a row, but its step is 3"),
        (message("mono8", 0, 3, 3, b""), "3x0 pixels has no content"),
    ],
)
def test_broken_images_are_named(broken: SimpleNamespace, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        image_to_array(broken, use_cv_bridge=False)


@pytest.mark.parametrize(
    ("pixels", "encoding", "expected"),
    [
        (np.zeros((2, 2)), "32FC1", r"float64 \[2, 2\] is no 32FC1 image"),
        (np.zeros((2, 2, 3), np.float32), "32FC1", r"is no 32FC1 image"),
        (np.zeros((2, 2), np.uint8), "rgb8", r"uint8 \[2, 2\] is no rgb8 image"),
        (np.zeros(4, np.uint8), "mono8", r"shape \[4\] is no image"),
        (np.zeros((2, 2), np.uint8), "yuv422", "'yuv422' is unknown; choose one of 32FC1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(pixels: np.ndarray, encoding: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        array_to_image(pixels, encoding, message=message("", 0, 0, 0, b""))


def test_real_messages_are_filled_quickly() -> None:
    pytest.importorskip("sensor_msgs.msg", reason="sensor_msgs is not installed")
    from std_msgs.msg import Header

    depth = np.full((720, 1280), 2.5, np.float32)
    started = time.perf_counter()
    image = array_to_image(depth, "32FC1", Header(frame_id="optical"))
    passed_ms = (time.perf_counter() - started) * 1e3
    assert image.header.frame_id == "optical"
    np.testing.assert_array_equal(image_to_array(image, use_cv_bridge=False), depth)
    assert passed_ms < 40  # assigning numpy or a list takes 170 ms here
