from __future__ import annotations

import pytest
import torch

from autoprune.data import Augmentation, augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_gives_the_very_same_images() -> None:
    images = torch.randn(3, 2, 4, 4)
    assert augment(images, Augmentation(), generator()) is images


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("augmentation", [Augmentation(2), Augmentation(flip=True), Augmentation(1, flip=True)])
def test_every_result_is_a_crop_of_the_padded_image_perhaps_mirrored(
    dtype: torch.dtype, augmentation: Augmentation
) -> None:
    images = (torch.rand(40, 2, 5, 4, generator=generator()) * 255).to(dtype)
    varied = augment(images, augmentation, generator(1))
    assert (varied.shape, varied.dtype) == (images.shape, dtype)
    padding = augmentation.crop_padding
    padded = torch.nn.functional.pad(images, [padding] * 4)
    seen = set()
    for before, after in zip(padded, varied, strict=True):
        crops = {
            (top, left, mirrored): crop.flip(-1) if mirrored else crop
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for crop in [before[:, top : top + 5, left : left + 4]]
            for mirrored in ({False, augmentation.flip})
        }
        matching = [key for key, crop in crops.items() if torch.equal(crop, after)]
        assert matching
        seen.update(matching)
    assert len(seen) > 1


def test_a_seed_gives_the_same_batch_and_another_seed_another() -> None:
    images = torch.randn(8, 1, 6, 6)
    first, again, other = (augment(images, Augmentation(2, flip=True), generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
