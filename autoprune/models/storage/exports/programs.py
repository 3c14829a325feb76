"""Files that torch itself runs: `torch.export` programs and, for runtimes that know nothing newer, TorchScript."""

from __future__ import annotations

import io
import json

import torch
from torch import Tensor

from autoprune.models.storage.exports.base import Exportable, Forward, tensors_of
from autoprune.models.storage.exports.graphs import packed

#: The name under which both formats carry what is known of the network.
EXTRA_FILE = "autoprune.json"


class TorchExport:
    """`torch.export.save`; read with `torch.export.load(FILE).module()`."""

    runtime = f"torch {torch.__version__}"

    def write(self, source: Exportable) -> bytes:
        """Returns the content of a `.pt2` file."""
        return packed(source.program, extra_files={EXTRA_FILE: json.dumps(dict(source.about))})

    def read(self, content: bytes, source: Exportable) -> Forward:
        """Returns the program as a function."""
        del source
        module = torch.export.load(io.BytesIO(content)).module()
        return lambda images: tensors_of(module(images))


class TorchScript:
    """`torch.jit.trace`; read with `torch.jit.load(FILE)`, also from C++.

    Traced and not scripted: scripting reads the source of every forward and refuses much of what networks hold. Torch
    has deprecated TorchScript (2.9: a warning; it does not support Python 3.14), but older runtimes read nothing else.
    """

    runtime = f"torch {torch.__version__}"

    def write(self, source: Exportable) -> bytes:
        """Returns the content of a TorchScript file."""
        # Outputs in a dictionary are refused unless strictness is waived; the comparison looks at every one of them.
        script = torch.jit.trace(source.model, source.example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
        buffer = io.BytesIO()
        torch.jit.save(script, buffer, _extra_files={EXTRA_FILE: json.dumps(dict(source.about)).encode()})
        return buffer.getvalue()

    def read(self, content: bytes, source: Exportable) -> Forward:
        """Returns the script as a function."""
        del source
        module = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]

        def forward(images: Tensor) -> list[Tensor]:
            return tensors_of(module(images))

        return forward
