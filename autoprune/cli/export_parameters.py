"""The options of `autoprune export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.parameters import flag

Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="NAME",
        show_default=False,
        help="onnx, torch-export, torchscript or safetensors; repeat it, or separate them by commas.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE/DIR",
        show_default=False,
        help="The file, or the folder of several. (default: DIR/export)",
    ),
]
Batch = Annotated[str, typer.Option("--batch", metavar="N", help="Images per forward: a number, or dynamic for any.")]
Opset = Annotated[
    int | None,
    typer.Option(metavar="N", show_default=False, help="ONNX operator set, 18 or newer. (default: torch's choice)"),
]
WithPreprocessing = Annotated[
    bool,
    flag("--with-preprocessing", "Take pixels from 0 to 255: the normalisation goes into the file."),
]
