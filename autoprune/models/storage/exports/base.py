"""What every export format does: make the bytes of a file, and read them back as something that can be called."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from autoprune.models.storage.exports.graphs import graph_of

#: From images (B, C, H, W) to the tensors that came back, in the order of the eager network's.
Forward = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True, eq=False)
class Exportable:
    """A network on its way into a file.

    Attributes:
        model: in eval mode, on the CPU.
        example: (B, C, H, W) images to trace it with.
        dynamic: whether other batches than B must work.
        about: what to write into the file: strings, numbers, lists and dictionaries of these.
        dense: makes a network of the same class with dense widths; its weights do not matter.
        opset: of ONNX; None for the exporter's own.
    """

    model: nn.Module
    example: Tensor
    dynamic: bool
    about: Mapping[str, Any]
    dense: Callable[[], nn.Module]
    opset: int | None = None

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph that `torch.export` finds; ONNX starts from it, too."""
        return graph_of(self.model, self.example, dynamic=self.dynamic)


class ExportFormat(Protocol):
    """A format. Exceptions of both methods are the exporter's own; the caller says what they mean for the user."""

    #: What runs the file in the check, with its version.
    runtime: str

    def write(self, source: Exportable) -> bytes:
        """Returns the content of the file."""

    def read(self, content: bytes, source: Exportable) -> Forward:
        """Returns the content as its users will run it."""


class WithPreprocessing(nn.Module):
    """A network that takes pixels from 0 to 255 and normalises them itself."""

    mean: Tensor
    scale: Tensor

    def __init__(self, model: nn.Module, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Wraps a network that expects `(pixel / 255 - mean) / std` of each channel."""
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(std).reshape(-1, 1, 1) * 255))

    def forward(self, pixels: Tensor) -> Any:
        """Returns what the network says of (B, C, H, W) float pixels in [0, 255]."""
        return self.model((pixels - self.mean) * self.scale)


def tensors_of(output: Any) -> list[Tensor]:
    """Returns every tensor of a network's output, in the order in which exporters flatten it."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


@contextmanager
def hushed() -> Iterator[None]:
    """Keeps exporters from talking: what matters of it comes back as an exception or fails the comparison."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx", "torch.export", "torch._guards", "torch._dynamo", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # On stderr torch prints the graph as far as it came.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
