"""Networks as the graphs that `torch.export` finds, for any number of images, and the bytes of their files."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from autoprune.errors import ModelError
from autoprune.models.modules.portable import with_one_argument


def graph_of(model: nn.Module, example: Tensor, *, dynamic: bool, any_range: bool = False) -> ExportedProgram:
    """Returns the graph of a network's forward.

    Running the forward makes a number of `len(images)`, and of every `int()` of a size: the graph would take that many
    images alone. Reading its code, which takes seconds and refuses more, keeps it free.

    Args:
        model: in eval mode.
        example: (B, C, H, W) images, B of 2 or more where that is to stay free.
        dynamic: whether other batches than B must work.
        any_range: whether some other batches will do.

    Raises:
        ModelError: the forward makes a constant of B.
        Exception: whatever the tracer and the network's own code raise.
    """
    model = with_one_argument(model)
    if not dynamic:
        return torch.export.export(model, (example,))
    shapes = ({0: Dim.AUTO if any_range else Dim("batch")},)
    refused: Exception | None = None
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
        if program.range_constraints:  # of the number of images, which is free then
            return program
    except Exception as error:  # said below, if reading the code fails as well
        refused = error
    try:
        program = torch.export.export(model, (example,), dynamic_shapes=shapes, strict=True)
        if program.range_constraints:
            return program
    except Exception as error:
        if refused is not None and "constant" not in str(refused):
            raise refused from error
        refused = error
    raise ModelError(
        "The network's forward makes a constant of the number of images, so that no file would take any number. "
        "Write one for N images with `autoprune export --batch N`."
    ) from refused


def packed(program: ExportedProgram, *, extra_files: Mapping[str, str] | None = None) -> bytes:
    """Returns the content of a `.pt2` file."""
    for tensor in program.state_dict.values():
        if tensor.numel() == 0:
            # torch takes empty tensors that were read from a file for parts of one that reaches into the void.
            tensor.data = torch.empty_like(tensor)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(extra_files or {}))
    return buffer.getvalue()
