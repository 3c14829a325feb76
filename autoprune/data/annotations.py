"""What images carry where a class each is not enough: boxes, a mask, or a network's answers; or nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy.typing as npt

from autoprune.data.answers import Answers
from autoprune.data.boxes import Boxes
from autoprune.data.masks import Masks

Annotations = Boxes | Masks | Answers
LABELS, NOTHING = "labels", "nothing"
#: Label of an image that nobody has labelled.
UNKNOWN = -1
#: What images carry, for people.
SAID = {
    LABELS: "one class an image",
    NOTHING: "no labels, as images:DIR has",
    Boxes.kind: "boxes, as voc:DIR has",
    Masks.kind: "a mask an image, as voc-segmentation:DIR has",
    Answers.kind: "what a network said of them",
}


def annotations_of(images: object) -> Annotations | None:
    """Returns what images carry besides labels; None where that is nothing."""
    found: Annotations | None = getattr(images, "annotations", None)
    return found


def kind_of(images: Any) -> str:
    """Returns what images carry, a key of `SAID`."""
    found = annotations_of(images)
    if found is not None:
        return found.kind
    return NOTHING if len(images) and (images.labels == UNKNOWN).all() else LABELS


def to_arrays(annotations: Annotations | None, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Returns named arrays that `from_arrays` reads."""
    if annotations is None:
        return {}
    return {f"{prefix}/{annotations.kind}/{item.name}": getattr(annotations, item.name) for item in fields(annotations)}


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Annotations | None:
    """Returns the annotations under a prefix, None where there are none."""
    for made in (Boxes, Masks, Answers):
        names = [f"{prefix}/{made.kind}/{item.name}" for item in fields(made)]
        if names[0] in arrays:
            return made(*(arrays[name] for name in names))
    return None
