"""Any ONNX network from one image to depth, as a teacher of proxy labels."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sdt_distill.teachers.base import DepthKind, TeacherError, TeacherOutput
from sdt_distill.teachers.config import TeacherConfig
from sdt_distill.teachers.digest import digest
from sdt_distill.teachers.patches import normalise, resize, to_rgb

logger = logging.getLogger(__name__)

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


class OnnxTeacher:
    """Depth of an ONNX network.

    Name, size, layout and type of the input are read from the model. What its pixels and its depth mean no model says:
    `config.pixels` and `config.depth` do. Relative inverse depth is divided by the largest value of its frame, which
    changes nothing for a loss that is blind to scale, and bounds what the cache holds.

    Frames must be aligned to the event camera: each label is compared with the student's depth at the same place.

    Args:
        config: of kind "onnx".
        device: where it computes; a GPU needs onnxruntime-gpu.

    Raises:
        TeacherError: the file is missing or no ONNX, or it is not a network from one image to one map.
    """

    def __init__(self, config: TeacherConfig, device: torch.device | str = "cpu") -> None:
        path = Path(str(config.weights)).expanduser()
        if not path.is_file():
            raise TeacherError(f"teacher weights {path}: no such file. Put the .onnx file of a depth network there")
        self._path = path
        self._session = _open(path, torch.device(device))
        self._pixels = config.pixels
        self._input = self._session.get_inputs()[0]
        self._dtype = self._check_input()
        self._channels_last, fixed = self._layout()
        self._size = self._choose_size(fixed, config.size)
        self._output = self._choose_output(config.output)
        self._kind: DepthKind = "metric" if config.depth == "metric" else "relative"
        settings = {"size": self._size, "pixels": config.pixels, "depth": config.depth, "output": self._output}
        self.name = f"onnx {path.name}"
        self.key = digest([path], settings)
        self.layers: dict[str, int] = {}

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> TeacherOutput:
        """Frames in [0, 1], float32 [B, 1 or 3, H, W], to depth, float32 [B, 1, H, W] on the frames' device."""
        images = resize(to_rgb(frames.detach().cpu().float()), self._size)
        if self._pixels == "imagenet":
            images = normalise(images)
        elif self._pixels == "byte":
            images = 255 * images
        array = images.permute(0, 2, 3, 1).numpy() if self._channels_last else images.numpy()
        array = np.ascontiguousarray(np.rint(array) if self._dtype == np.uint8 else array, dtype=self._dtype)
        batch = self._input.shape[0]
        step = batch if isinstance(batch, int) and batch > 0 else len(array)
        if step != 1 and len(array) % step:
            raise TeacherError(f"{self._path}: takes batches of {step} frames only, got {len(array)}")
        maps = [self._run(array[i : i + step]) for i in range(0, len(array), step)]
        depth = functional.interpolate(torch.cat(maps), tuple(frames.shape[-2:]), mode="bilinear", align_corners=False)
        if self._kind == "relative":
            largest = torch.nan_to_num(depth, 0, 0, 0).abs().amax((1, 2, 3), keepdim=True)
            depth = depth / largest.clamp_min(torch.finfo(depth.dtype).tiny)
        return TeacherOutput({}, depth.to(frames.device), self._kind)

    def _run(self, array: np.ndarray) -> Tensor:
        """A batch through the network: float32 [B, 1, h, w]."""
        (result,) = self._session.run([self._output], {self._input.name: array})
        result = np.asarray(result, dtype=np.float32)
        if result.ndim == 4 and result.shape[1] != 1 and result.shape[3] == 1:
            result = result[..., 0]
        if result.ndim == 3:
            result = result[:, None]
        if result.ndim != 4 or result.shape[1] != 1 or len(result) != len(array):
            shape = list(result.shape)
            raise TeacherError(f"{self._path}: output {self._output!r} has shape {shape}, expected one map a frame")
        return torch.from_numpy(result)

    def _check_input(self) -> Any:
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(self._input.shape) != 4:
            found = ", ".join(f"{each.name} {each.shape}" for each in inputs)
            raise TeacherError(f"{self._path}: takes {found}; expected one image [B, 3, H, W] or [B, H, W, 3]")
        if self._input.type not in TYPES:
            raise TeacherError(f"{self._path}: input is a {self._input.type}; these can be fed: {', '.join(TYPES)}")
        if self._input.type == "tensor(uint8)" and self._pixels != "byte":
            raise TeacherError(
                f"{self._path}: takes uint8, so teacher key 'pixels' must be 'byte', not {self._pixels!r}"
            )
        return TYPES[self._input.type]

    def _layout(self) -> tuple[bool, list[Any]]:
        """Whether channels come last, and height and width as the model states them."""
        shape = self._input.shape
        if shape[1] == 3:
            return False, shape[2:]
        if shape[3] == 3:
            return True, shape[1:3]
        raise TeacherError(f"{self._path}: input is {shape}, expected three channels, second or last")

    def _choose_size(self, fixed: list[Any], asked: tuple[int, int] | None) -> tuple[int, int]:
        stated = tuple(value if isinstance(value, int) and value > 0 else None for value in fixed)
        if asked is None:
            if None in stated:
                raise TeacherError(
                    f"{self._path}: leaves its input size open: give teacher key 'size' as [height, width]"
                )
            return (int(fixed[0]), int(fixed[1]))
        if any(have not in (None, want) for have, want in zip(stated, asked, strict=True)):
            raise TeacherError(
                f"{self._path}: input is {list(fixed)} px, teacher key 'size' is {list(asked)}: leave it out"
            )
        return asked

    def _choose_output(self, asked: str | None) -> str:
        names = [output.name for output in self._session.get_outputs()]
        if asked is None and len(names) == 1:
            return str(names[0])
        if asked is None or asked not in names:
            raise TeacherError(f"{self._path}: teacher key 'output' is {asked!r}, expected one of {', '.join(names)}")
        return asked


def _open(path: Path, device: torch.device) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise TeacherError("this teacher needs onnxruntime: pip install 'sdt_ros[distill]'") from error
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
        else:
            logger.warning("onnxruntime here has no CUDA: %s runs on the CPU; install onnxruntime-gpu", path.name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime's own kinds, without a common base
        first = str(error).strip().splitlines()[0]
        raise TeacherError(f"teacher weights {path}: not an ONNX network that onnxruntime opens: {first}") from error
