"""What a network said of images that nobody has labelled, as numbers that workers can share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.errors import DataError


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to N images.

    Attributes:
        values: (N, K) float32, those numbers that the task `outputs` compares.
    """

    kind: ClassVar[str] = "answers"

    values: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype != np.float32:
            raise DataError(f"Answers must be float32 of shape (N, K), not {self.values.dtype} {self.values.shape}.")

    def __len__(self) -> int:
        """Returns the number of images."""
        return len(self.values)

    @property
    def highest(self) -> int:
        """The largest class; -1, for there are none."""
        return -1

    def select(self, images: npt.ArrayLike) -> Answers:
        """Returns the answers to some images, in their order."""
        return Answers(self.values[np.asarray(images, dtype=np.int64).reshape(-1)])

    def targets(self, images: npt.ArrayLike, device: torch.device) -> Tensor:
        """Returns (n, K) float32."""
        return torch.from_numpy(self.select(images).values).to(device)

    def rarest_classes(self) -> npt.NDArray[np.int64]:
        """Returns (N,) zeros: answers are of no class."""
        return np.zeros(len(self.values), dtype=np.int64)
