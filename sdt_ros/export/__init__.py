"""`sdt export`: an estimator as one ONNX graph, for runtimes that are not ours (TensorRT, OpenVINO, onnxruntime).

Read `graph.py` first, what is exported; `onnx_file.py` writes it, `agreement.py` holds it against the network.
"""

from sdt_ros.export.command import add_parser

__all__ = ["add_parser"]
