"""The network as `sdt export` writes it, run by onnxruntime on the CPU."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sdt_ros.network import Card, SpikingDepthTransformer


def in_onnxruntime(network: SpikingDepthTransformer, card: Card, size: tuple[int, int]) -> nn.Module:
    """A module that gives depth of spikes [1, T, P, H, W] uint8, by onnxruntime with as many threads as torch has.

    Args:
        network: as written; it is taken over.
        card: its own.
        size: (height, width) that the network sees.

    Raises:
        ImportError: onnxruntime, or what exporting needs, is missing.
    """
    import onnx  # noqa: F401  named where it is missing, and what follows
    import onnxruntime
    import onnxscript  # noqa: F401
    import torch

    from sdt_ros.export.graph import EstimatorGraph
    from sdt_ros.export.onnx_file import to_onnx

    seen = dataclasses.replace(card, input_scale=1.0, focal_px=None)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    model = to_onnx(EstimatorGraph(network, seen, size), seen).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    class Session(torch.nn.Module):
        def forward(self, spikes: Tensor) -> Tensor:
            return torch.from_numpy(session.run(["depth"], {"spikes": spikes.numpy()})[0])

    return Session()
