"""An ONNX file of an estimator's graph, which says in its metadata what it is of and what goes in and comes out."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sdt_ros.export.graph import EstimatorGraph
from sdt_ros.network import Card
from sdt_ros.version import package_version

if TYPE_CHECKING:
    import onnx

OPSETS = (18, 23)
"""The oldest and the newest ONNX operator set that the exporter writes."""
INSTALL = "pip install onnx onnxscript onnxruntime"
"""What brings all that exporting needs."""
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class ExportError(RuntimeError):
    """An estimator cannot be exported; the message says why and what to do."""


def require_exporter() -> None:
    """Raises where torch's exporter lacks what it needs.

    Raises:
        ExportError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except Exception as error:  # also one that does not fit the other packages, in whatever way
        raise ExportError(f"needs onnx and onnxscript ({error}): {INSTALL}") from error


def to_onnx(graph: EstimatorGraph, card: Card, opset: int = OPSETS[0]) -> onnx.ModelProto:
    """Exports an estimator.

    Args:
        graph: of the estimator.
        card: of its weights; all of it goes into the metadata `sdt_ros.card`.
        opset: version of the ONNX operators to use.

    Returns:
        The model, weights within it. Inputs `spikes` and, where asked for, `focal_px`; outputs `depth` and, where told,
        `deviation`; see `EstimatorGraph.forward`.

    Raises:
        ExportError: torch's exporter cannot do it; the message has its reason.
    """
    require_exporter()
    spikes = torch.zeros(graph.spikes_shape, dtype=torch.uint8)
    inputs = (spikes, torch.tensor([graph.usual_focal_px])) if graph.asks_focal_length else (spikes,)
    names = ["spikes", "focal_px"][: len(inputs)]
    outputs = ["depth", "deviation"] if graph.network.uncertainty is not None else ["depth"]
    try:
        with torch.inference_mode(), _quiet():
            program = torch.onnx.export(
                graph.eval(), inputs, dynamo=True, input_names=names, output_names=outputs, opset_version=opset,
                verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter's own kinds, of which most are private
        chain = list(_causes(error))
        if any(isinstance(each, KeyboardInterrupt) for each in chain):  # taken for a failed import
            raise KeyboardInterrupt from error
        reason = _COLOURS.sub("", str(chain[-1])).strip().partition("\n")[0] or type(chain[-1]).__name__
        raise ExportError(
            f"torch {torch.__version__} cannot export this network to opset {opset}: {reason}; another --opset or "
            "another version of torch and onnxscript may"
        ) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:  # lines of our source, and where it lies on this machine
        node.ClearField("doc_string")
        del node.metadata_props[:]
    model.producer_name, model.producer_version = "sdt_ros", package_version()
    model.doc_string = _description(graph, card)
    for key, value in _facts(graph, card).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    return model


def write(model: onnx.ModelProto, path: Path, check: Callable[[Path], None]) -> None:
    """Writes a model into one file, and keeps it if it is sound; what was there before stays until then.

    Args:
        model: as `to_onnx` makes it.
        path: the file.
        check: is given the file under another name, and raises where it is not to be kept.

    Raises:
        OSError: it cannot be written; the message names the file.
        Exception: what `check` raises.
    """
    target = path.resolve()  # of a link, what it points to
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}-", dir=target.parent) as folder:
            part = Path(folder) / target.name
            part.write_bytes(model.SerializeToString())
            check(part)
            part.replace(target)
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror}; name a file elsewhere") from error


def describe_inputs(graph: EstimatorGraph, card: Card) -> list[str]:
    """What goes in, and what comes out: a line each."""
    height, width = graph.size
    lines = [
        f"in   spikes     uint8 {list(graph.spikes_shape)} in {{0, 1}}: a window of {card.window_ms:g} ms in T = "
        f"{card.bins}, oldest first; polarity 0 is OFF, 1 is ON"
    ]
    if graph.asks_focal_length:
        usual = f"{graph.usual_focal_px:.6g} where nobody knows it"
        lines.append(f"in   focal_px   float32 [1]: the camera's focal length in pixels of the sensor, {usual}")
    lines.append(f"out  depth      float32 [1, 1, {height}, {width}]: metres along z")
    if graph.network.uncertainty is not None:
        lines.append(f"out  deviation  float32 [1, 1, {height}, {width}]: standard deviation of ln(depth), lens known")
    return lines


def _description(graph: EstimatorGraph, card: Card) -> str:
    state = f"trained on {card.training_data}" if card.trained else "UNTRAINED: its depth means nothing"
    name = card.preset or "own network"
    what = f"Depth from event spikes (SDT, arXiv 2404.17335): {name}, {state}"
    return "\n".join([what, *describe_inputs(graph, card)])


def _facts(graph: EstimatorGraph, card: Card) -> dict[str, str]:
    height, width = graph.size
    facts = {
        "sdt_ros.card": json.dumps(card.plain()),
        "sdt_ros.sensor": json.dumps({"height": height, "width": width}),
        "sdt_ros.window": json.dumps({"bins": card.bins, "window_ms": card.window_ms}),
    }
    if graph.asks_focal_length:
        facts["sdt_ros.usual_focal_px"] = json.dumps(graph.usual_focal_px)
    return facts


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and what led to it, the innermost last."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__ or each.__context__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own progress and warnings, which speak of its inside."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
