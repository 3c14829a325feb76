"""ONNX files, written by torch's exporter and run by ONNX Runtime. The only module that knows the packages of ONNX."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor
from torch.onnx import OnnxExporterError

from autoprune.errors import ConfigError, ModelError
from autoprune.models.storage.exports.base import Exportable, Forward

INPUT, OUTPUT = "images", "output"

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401  torch's exporter translates with it
except ImportError as error:
    raise ConfigError(
        f"ONNX needs packages that are not installed ({error.name} is missing): pip install 'autoprune[onnx]'"
    ) from error


def _convolution(*args: Any) -> Tensor:
    """Returns what the last four of its arguments, flags of cuDNN, say nothing about."""
    found: Tensor = torch.ops.aten.convolution.default(*args[:9])
    return found


#: What `torch.jit.trace` records and the exporter does not know, as what it does.
_AS_TRACED = {torch.ops.aten._convolution.default: _convolution}


def _reason(error: BaseException) -> BaseException:
    """Returns the innermost of the exporter's errors, which alone names the operation; the others are of its steps."""
    while isinstance(error.__cause__, OnnxExporterError):
        error = error.__cause__
    return error


class Onnx:
    """`torch.onnx.export(dynamo=True)`; weights lie in the file itself."""

    runtime = f"onnxruntime {onnxruntime.__version__}"

    def write(self, source: Exportable) -> bytes:
        """Returns the content of an `.onnx` file.

        Raises:
            ModelError: the operator set that was asked for cannot be written.
        """
        outputs = len(source.program.graph_signature.user_outputs)
        names = [OUTPUT] if outputs == 1 else [f"{OUTPUT}_{number}" for number in range(outputs)]
        graph = source.program
        if any(node.target in _AS_TRACED for node in graph.graph.nodes):
            graph = graph.run_decompositions(_AS_TRACED)
        try:
            program = torch.onnx.export(
                graph,
                dynamo=True,
                verbose=False,
                opset_version=source.opset,
                input_names=[INPUT],
                output_names=names,
            )
        except OnnxExporterError as error:
            raise _reason(error) from None
        assert program is not None
        proto = program.model_proto
        version = next(item.version for item in proto.opset_import if item.domain in ("", "ai.onnx"))
        if source.opset not in (None, version):
            raise ModelError(f"The exporter writes operator set {version} instead of {source.opset}. Change --opset.")
        about = {key: value if isinstance(value, str) else json.dumps(value) for key, value in source.about.items()}
        onnx.helper.set_model_props(proto, about)
        proto.producer_name = "autoprune"
        onnx.checker.check_model(proto)
        content: bytes = proto.SerializeToString()
        return content

    def read(self, content: bytes, source: Exportable) -> Forward:
        """Returns a session on the CPU as a function."""
        del source
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors: what it optimises is nobody's concern
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

        def forward(images: Tensor) -> list[Tensor]:
            return [torch.from_numpy(array) for array in session.run(None, {INPUT: images.numpy()})]

        return forward
