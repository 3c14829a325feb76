"""What images carry where a class each is not enough: boxes, or a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy.typing as npt

from autoprune.data.boxes import Boxes
from autoprune.data.masks import Masks

Annotations = Boxes | Masks
LABELS = "labels"
#: What images carry, for people.
SAID = {
    LABELS: "one class an image",
    Boxes.kind: "boxes, as voc:DIR has",
    Masks.kind: "a mask an image, as voc-segmentation:DIR has",
}


def annotations_of(images: object) -> Annotations | None:
    """Returns what images carry besides labels; None where that is nothing."""
    found: Annotations | None = getattr(images, "annotations", None)
    return found


def kind_of(images: object) -> str:
    """Returns what images carry, a key of `SAID`."""
    found = annotations_of(images)
    return LABELS if found is None else found.kind


def to_arrays(annotations: Annotations | None, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Returns named arrays that `from_arrays` reads."""
    if annotations is None:
        return {}
    return {f"{prefix}/{annotations.kind}/{item.name}": getattr(annotations, item.name) for item in fields(annotations)}


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Annotations | None:
    """Returns the annotations under a prefix, None where there are none."""
    for made in (Boxes, Masks):
        names = [f"{prefix}/{made.kind}/{item.name}" for item in fields(made)]
        if names[0] in arrays:
            return made(*(arrays[name] for name in names))
    return None
