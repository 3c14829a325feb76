"""Mean average precision of detections, by pycocotools: at an IoU of 0.5, as Pascal VOC counts, and COCO's mean.

Everingham et al. 2010, "The Pascal Visual Object Classes (VOC) Challenge": a detection of a difficult box is neither
right nor wrong, and nobody has to find one. COCO averages precision over 101 recalls and, for its own figure, over the
IoUs 0.50, 0.55, ..., 0.95; the hundred best detections of an image count.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from autoprune.errors import ConfigError

_DETECTIONS = 100


def require_pycocotools() -> None:
    """Checks that detections can be measured.

    Raises:
        ConfigError: pycocotools is not installed.
    """
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "Detection is measured with pycocotools, which is not installed: pip install 'autoprune[detection]'."
        ) from error


class AveragePrecision:
    """Collects detections and what should have been found."""

    def __init__(self) -> None:
        """Starts with no image."""
        self._images = 0
        self._found: list[dict[str, Any]] = []
        self._wanted: list[dict[str, Any]] = []

    def add(self, found: Sequence[dict[str, Tensor]], wanted: Sequence[dict[str, Tensor]]) -> None:
        """Adds images: `boxes`, `labels` and `scores` that were found, and the targets."""
        for detections, targets in zip(found, wanted, strict=True):
            self._images += 1
            scores = detections["scores"].tolist()
            for entry, score in zip(self._entries(detections, len(self._found)), scores, strict=True):
                self._found.append({**entry, "score": score})
            difficult = targets["difficult"].tolist()
            for entry, hard in zip(self._entries(targets, len(self._wanted)), difficult, strict=True):
                self._wanted.append({**entry, "difficult": hard})

    def result(self) -> tuple[float, float]:
        """Returns mAP at an IoU of 0.5 and COCO's mAP, in [0, 1]; classes that no image has do not count."""
        if not self._found or not self._wanted:
            return 0.0, 0.0
        classes = sorted({entry["category_id"] for entry in self._wanted})
        evaluation = _evaluation(self._images, classes, self._wanted, self._found)
        # (IoUs, recalls, classes, areas, numbers of detections); -1 where there is nothing to find
        precision = evaluation.eval["precision"][..., 0, 0]
        return _mean(precision[:1]), _mean(precision)

    def _entries(self, boxes: dict[str, Tensor], first: int) -> list[dict[str, Any]]:
        corners = boxes["boxes"].double().cpu().numpy()
        sizes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
        return [
            {
                "id": first + place + 1,
                "image_id": self._images,
                "category_id": label,
                "bbox": size.tolist(),
                "area": float(size[2] * size[3]),
                "iscrowd": 0,
            }
            for place, (label, size) in enumerate(zip(boxes["labels"].tolist(), sizes, strict=True))
        ]


def _evaluation(images: int, classes: Sequence[int], wanted: list[Any], found: list[Any]) -> Any:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    class WithDifficult(COCOeval):  # type: ignore[misc]  # pycocotools has no types
        def _prepare(self) -> None:
            super()._prepare()
            for boxes in self._gts.values():
                for box in boxes:
                    box["ignore"] = int(box["difficult"])

    # Both report their progress on stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        sets = []
        for entries in (wanted, found):
            made = COCO()
            made.dataset = {
                "images": [{"id": number + 1} for number in range(images)],
                "categories": [{"id": label} for label in classes],
                "annotations": [entry for entry in entries if entry["category_id"] in classes],
            }
            made.createIndex()
            sets.append(made)
        evaluation = WithDifficult(*sets, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def _mean(precision: Any) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else 0.0
