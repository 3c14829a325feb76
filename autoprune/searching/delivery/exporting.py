"""Exports a saved network: written, read back, compared with the eager network, and only then put in its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.config.exporting import ExportOptions
from autoprune.config.layout import saved_folder
from autoprune.core.files import WRITER, Writer, cannot_write, this_version, write_together
from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import AutopruneError, ConfigError, ModelError, one_line
from autoprune.models.modules.portable import copied, initialised
from autoprune.models.storage.exports.base import (
    Exportable,
    ExportFormat,
    Forward,
    WithPreprocessing,
    hushed,
    tensors_of,
)
from autoprune.models.storage.saved import SavedModel, load, read_saved
from autoprune.models.zoo.catalogue import build_model
from autoprune.report.observer import NullObserver, Observer

FORMAT = 1
#: The largest deviation that counts as agreement, as a share of the largest output: float32 sums in another order.
TOLERANCE = 1e-4
#: Batches that a file with a free batch is compared at; it is made with the first of them, for tracers take a batch
#: of 1 for a constant.
_BATCHES = (2, 1, 7)


def export(
    directory: str | Path,
    formats: str | Sequence[str],
    *,
    model: nn.Module | None = None,
    out: str | Path | None = None,
    batch: int | None = None,
    opset: int | None = None,
    with_preprocessing: bool = False,
) -> list[dict[str, Any]]:
    """Returns what each written file holds and how far it deviates from the eager network; the same lies beside it.

    Args:
        directory: a saved network, or the run folder of a search.
        formats: `onnx`, `torch-export`, `torchscript`, `safetensors`; one or several.
        model: the dense network, needed where a network object was searched.
        out: a folder, or the file where there is one format; None for `export/` in the directory.
        batch: images of every forward; None where that stays free.
        opset: of ONNX; None for torch's choice.
        with_preprocessing: whether the file takes pixels from 0 to 255 and normalises them itself.

    Raises:
        ConfigError: an argument is wrong, a package is missing, or preprocessing was asked for that nobody recorded.
        RunError: the network cannot be read, or a file cannot be written.
        ModelError: the network cannot be exported to a format, or the file does not agree with it.
    """
    names = (formats,) if isinstance(formats, str) else tuple(formats)
    place = None if out is None else Path(out)
    options = ExportOptions(names, place, batch, opset, with_preprocessing)
    return export_saved(Path(directory), options, NullObserver(), model=model)


def export_saved(
    directory: Path, options: ExportOptions, observer: Observer, *, model: nn.Module | None = None
) -> list[dict[str, Any]]:
    """Does what `export` does, with checked options and somebody who hears of the stages."""
    formats = {name: _format(name) for name in options.formats}
    folder = saved_folder(directory)
    saved = read_saved(folder)
    observer.stage(f"Loading {folder}")
    if model is not None:
        model = initialised(model, saved.input_shape)
    eager = load(folder, model=None if model is None else copied(model))
    entries = []
    for name, made in formats.items():
        observer.stage(f"Exporting to {name}")
        source = _exportable(saved, eager, options, name, model)
        entries.append(_export(source, name, made, options.file(name, directory)))
    return entries


def _format(name: str) -> ExportFormat:
    """Returns a format; only the one that is asked for is imported, for ONNX is an extra."""
    if name == "onnx":
        from autoprune.models.storage.exports.onnx_file import Onnx

        return Onnx()
    from autoprune.models.storage.exports.programs import TorchExport, TorchScript
    from autoprune.models.storage.exports.tensors import Safetensors

    known: dict[str, type[ExportFormat]] = {
        "torch-export": TorchExport,
        "torchscript": TorchScript,
        "safetensors": Safetensors,
    }
    return known[name]()


def _exportable(
    saved: SavedModel, eager: nn.Module, options: ExportOptions, name: str, model: nn.Module | None
) -> Exportable:
    preprocessing = None if saved.preprocessing is None else Preprocessing.from_dict(saved.preprocessing)
    if options.with_preprocessing:
        if preprocessing is None or preprocessing.channels != saved.input_shape[0]:
            raise ConfigError("The saved network does not say how its images are normalised: no --with-preprocessing.")
        eager = WithPreprocessing(eager, mean=preprocessing.mean, std=preprocessing.std).eval()

    def dense() -> nn.Module:
        if model is not None:
            return copied(model)
        assert saved.model is not None
        return build_model(saved.model, classes=saved.classes, weights=None)

    batch = options.batch or _BATCHES[0]
    return Exportable(
        model=eager,
        example=_images(batch, saved.input_shape, pixels=options.with_preprocessing),
        dynamic=options.batch is None,
        about=_about(saved, preprocessing, options, name),
        dense=dense,
        opset=options.opset,
    )


def _about(saved: SavedModel, preprocessing: Preprocessing | None, options: ExportOptions, name: str) -> dict[str, Any]:
    """Returns what the file says of itself."""
    if options.with_preprocessing:
        values = "pixels from 0 to 255; the file itself normalises them with mean and std"
    elif preprocessing is not None:
        values = "(pixel / 255 - mean) / std, by channel; pixels from 0 to 255"
    else:
        values = "as the network was trained on; not recorded"
    batch: int | str = "batch" if options.batch is None else options.batch
    described = {} if preprocessing is None else preprocessing.to_dict()
    return {
        "format": FORMAT,
        WRITER: this_version() or "unknown",
        "kind": name,
        "model": saved.model or "a network object",
        "input": {"shape": [batch, *saved.input_shape], "dtype": "float32", "values": values},
        # Resized and cropped before everything else; null: images come in the shape of the input.
        "preprocessing": {**described, "in_file": options.with_preprocessing},
        "class_names": list(saved.class_names),
        "widths": dict(saved.widths),
        "dense_widths": dict(saved.dense_widths),
        "cost": dict(saved.cost),
        "torch": torch.__version__,
    }


def _export(source: Exportable, name: str, made: ExportFormat, file: Path) -> dict[str, Any]:
    """Writes one file and what lies beside it; nothing is on the disk before it has been compared."""
    free = " Give --batch N if its forward needs a fixed batch." if source.dynamic else ""
    try:
        with hushed(), torch.no_grad():
            content = made.write(source)
            forward = made.read(content, source)
    except AutopruneError:
        raise
    except Exception as error:  # exporters raise whatever they like, and the forward may be the user's code
        raise ModelError(f"The network cannot be exported to {name}: {_said(error)}.{free}") from error
    check = compare(source, forward, name)
    entry = {
        **source.about,
        "file": file.name,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "check": {**check, "with": made.runtime},
    }
    beside: dict[str, Any] = {}
    files: dict[Path, Writer] = {file: lambda place: place.write_bytes(content)}
    if name == "safetensors":
        from autoprune.models.storage.exports.tensors import loader_source, modules_of

        beside = {"modules": modules_of(source.model)}
        script = file.with_name(f"{file.name}.py")
        files[script] = lambda place: place.write_text(loader_source(), encoding="utf-8")
    text = json.dumps({**entry, **beside}, indent=1)
    files[file.with_name(f"{file.name}.json")] = lambda place: place.write_text(text, encoding="utf-8")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_together(files)
    except OSError as error:
        raise cannot_write(file, error) from error
    return {**entry, "path": str(file)}


def compare(source: Exportable, forward: Forward, name: str) -> dict[str, Any]:
    """Returns the batches at which a file was run and its largest deviation from the eager network.

    Raises:
        ModelError: it fails, or gives other shapes or values.
    """
    shape = tuple(source.example.shape)
    batches = _BATCHES if source.dynamic else shape[:1]
    advice = " Nothing was written." + (" Try a fixed batch: --batch N." if source.dynamic else "")
    largest, allowed = 0.0, 0.0
    for batch in batches:
        images = _images(batch, shape[1:], pixels=isinstance(source.model, WithPreprocessing), seed=batch)
        with torch.no_grad():
            wanted = tensors_of(source.model(images))
            try:
                found = forward(images)
            except Exception as error:  # a runtime's own
                raise ModelError(f"The {name} file fails on {batch} images: {_said(error)}.{advice}") from error
        shapes = [[tuple(item.shape) for item in side] for side in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise ModelError(f"The {name} file gives {shapes[0]} for {batch} images, not {shapes[1]}.{advice}")
        for mine, eager in zip(found, wanted, strict=True):
            deviation, scale = float((mine - eager).abs().max()), float(eager.abs().max())
            # Written so that NaN fails, too.
            if not deviation <= TOLERANCE * scale + 1e-6:
                raise ModelError(
                    f"The {name} file deviates from the network by {deviation:.2g} on {batch} images "
                    f"(largest output {scale:.2g}).{advice}"
                )
            largest, allowed = max(largest, deviation), max(allowed, TOLERANCE * scale + 1e-6)
    return {"batches": sorted(batches), "max_deviation": largest, "tolerance": allowed}


def _images(batch: int, shape: tuple[int, ...], *, pixels: bool, seed: int = 0) -> Tensor:
    """Returns (batch, C, H, W) random images: normal ones, or pixels from 0 to 255."""
    generator = torch.Generator().manual_seed(seed)
    if pixels:
        return torch.randint(0, 256, (batch, *shape), generator=generator).float()
    return torch.randn(batch, *shape, generator=generator)


def _said(error: BaseException) -> str:
    """Returns the first line of an exporter's message, cut to what fits a terminal."""
    text = one_line(error).rstrip(".:")
    return text if len(text) <= 200 else text[:200] + "..."
