"""Image files with boxes or masks: stretched to the network's size when first taken, kept as bytes where they fit."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from autoprune.data.annotations import Annotations
from autoprune.data.images import DECODERS, IntArray, PixelArray, opened, preprocess
from autoprune.data.preprocessing import Preprocessing
from autoprune.errors import DataError

#: Of the machine's memory, what the images of one set may take.
_MEMORY_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class AnnotatedFiles:
    """Files, decoded when they are needed and, if all of them fit into memory, only once.

    Attributes:
        paths: the files.
        sizes: (width, height) of each, as it was annotated.
        annotations: of each, in pixels of the network's input.
        preprocessing: with the size of the network's input, to which images are stretched, as SSD does.
    """

    paths: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    annotations: Annotations
    preprocessing: Preprocessing
    _kept: dict[int, PixelArray] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Returns N."""
        return len(self.paths)

    @property
    def labels(self) -> IntArray:
        """(N,) the rarest class in each image, so that splits hold every class in its proportion."""
        return self.annotations.rarest_classes()

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) preprocessed float32 images on the CPU.

        Raises:
            DataError: a file is unreadable, or has another size than it was annotated in; it is named.
        """
        return preprocess(self.pixels_at(indices), self.preprocessing)

    def pixels_at(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) uint8; raises as `take` does."""
        positions = [int(position) for position in np.asarray(indices, dtype=np.int64).reshape(-1)]
        missing = [position for position in dict.fromkeys(positions) if position not in self._kept]
        # Decoding releases the interpreter lock, so threads suffice.
        with ThreadPoolExecutor(DECODERS) as pool:
            decoded = dict(zip(missing, pool.map(self._decode, missing), strict=True))
        if decoded and self._fits(next(iter(decoded.values()))):
            self._kept.update(decoded)
        known = {**self._kept, **decoded}
        return torch.from_numpy(np.stack([known[place] for place in positions]))

    def _decode(self, position: int) -> PixelArray:
        from PIL import Image

        assert self.preprocessing.size is not None
        height, width = self.preprocessing.size
        path = self.paths[position]
        image = opened(path, channels=self.preprocessing.channels)
        if image.size != self.sizes[position]:
            found, said = ("x".join(map(str, size)) for size in (image.size, self.sizes[position]))
            raise DataError(f"The image {path} has {found} pixels, but its annotation says {said}. Repair one of them.")
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)
        return np.ascontiguousarray(pixels.reshape(height, width, -1).transpose(2, 0, 1))

    def _fits(self, image: PixelArray) -> bool:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 33
        return image.nbytes * len(self) <= _MEMORY_SHARE * memory
