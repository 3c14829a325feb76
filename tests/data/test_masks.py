from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from autoprune.core.seeds import generator
from autoprune.data import DatasetImages, bundle_from, load_data
from autoprune.data.annotations import from_arrays, to_arrays
from autoprune.data.augment import augment_with_targets
from autoprune.data.masks import IGNORED, Masks, masks_of
from autoprune.data.preprocessing import Augmentation, unit_range
from autoprune.data.scenes import SIDE, compose
from autoprune.errors import DataError
from autoprune.evaluation.subject import image_arrays
from tests.masked_folders import masks, write_masked, write_split, write_voc_masks

CPU = torch.device("cpu")


def load(folder: Path, size: tuple[int, int] = (32, 32)):
    return load_data(f"voc-segmentation:{folder}", preprocessing=unit_range(size))


def test_images_and_masks_are_stretched_to_the_networks_size(tmp_path: Path) -> None:
    mask = np.zeros((20, 40), dtype=np.uint8)
    mask[5:15, 10:30], mask[0] = 2, IGNORED
    write_masked(tmp_path, "wide", mask)
    for split in ("train", "val"):
        write_split(tmp_path, split, ["wide"])
    data = load(tmp_path, (40, 40))
    assert (data.input_shape, data.task.name, data.classes) == ((3, 40, 40), "segmentation", ("0", "1", "2"))
    target = data.train.annotations.targets([0], CPU)[0]
    assert target.dtype == torch.int64
    assert (target[10:30, 10:30] == 2).all()
    assert (target == 2).sum() == 400
    assert (target[:2] == IGNORED).all()
    assert torch.allclose(data.train.take([0])[0, :, 20, 20], torch.tensor([220, 40, 30]) / 255)


def test_masks_may_be_greys_and_names_stand_in_a_list(tmp_path: Path) -> None:
    year = write_voc_masks(tmp_path)
    write_masked(year, "000000", masks(1)[0], palette=False)
    (year / "class_names.txt").write_text("__ignore__\nbackground\nsea\nlava\nnowhere\n")
    data = load(tmp_path)
    assert data.classes == ("background", "sea", "lava", "nowhere")
    assert np.array_equal(data.train.annotations.values[0], masks(1)[0])


def test_masks_of_a_test_split_are_tested_on_where_they_are_there(tmp_path: Path) -> None:
    year = write_voc_masks(tmp_path)
    write_split(year, "test", ["secret"])
    assert (len(load(tmp_path).train), len(load(tmp_path).test)) == (12, 4)
    write_split(year, "test", ["000001", "000002"])
    data = load(tmp_path)
    assert (len(data.train), len(data.test)) == (16, 2)
    assert len(load_data(f"voc-segmentation:{tmp_path.name}", root=tmp_path.parent).train) == 16


def colourful(year: Path) -> None:
    Image.new("RGB", (32, 32)).save(year / "SegmentationClass" / "000002.png")


def small(year: Path) -> None:
    Image.new("L", (16, 32)).save(year / "SegmentationClass" / "000002.png")


def missing(year: Path) -> None:
    (year / "SegmentationClass" / "000002.png").unlink()


def imageless(year: Path) -> None:
    (year / "JPEGImages" / "000002.png").unlink()


def garbled(year: Path) -> None:
    (year / "SegmentationClass" / "000002.png").write_text("no image")


def unnamed_class(year: Path) -> None:
    (year / "class_names.txt").write_text("background\nsea\n")


def new_class_in_val(year: Path) -> None:
    write_masked(year, "000013", np.full((32, 32), 7, dtype=np.uint8))


def listless(year: Path) -> None:
    write_split(year, "val", [])


def escaping(year: Path) -> None:
    write_split(year, "train", ["../../secret"])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (colourful, "000002.png is of the kind RGB. Its pixels must be class indices"),
        (small, "000002.png has 16x32 pixels, but its image has 32x32"),
        (missing, "mask .*000002.png of the split 'train' is missing"),
        (imageless, "image .*000002.jpg of the split 'train' is missing"),
        (garbled, "Cannot read the mask .*000002.png"),
        (unnamed_class, "000001.png has the class 2, but class_names.txt names 2, from 0"),
        (new_class_in_val, "000013.png has the class 7, but the training masks have 3, from 0"),
        (listless, "split 'val' .* has no image"),
        (escaping, "which is a path"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_file(damage, words: str, tmp_path: Path) -> None:
    damage(write_voc_masks(tmp_path))
    with pytest.raises(DataError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_another_layout_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="with JPEGImages, SegmentationClass and ImageSets/Segmentation"):
        load(tmp_path)


def test_masks_stay_on_their_images_through_crops_and_flips() -> None:
    targets = torch.from_numpy(masks(8)).long()
    images = targets[:, None].to(torch.uint8)
    varied, moved = augment_with_targets(images, targets, Augmentation(4, flip=True), torch.Generator().manual_seed(0))
    inside = moved != IGNORED
    assert torch.equal(varied[:, 0][inside].long(), moved[inside])
    assert (moved != targets).any()
    # What a crop brings in from outside has no class.
    assert inside.sum() < (targets != IGNORED).sum()


def test_masks_of_chosen_images_come_in_their_order_and_through_arrays() -> None:
    made = Masks(masks(4))
    chosen = made.select([2, 0])
    again = from_arrays(to_arrays(chosen, "holdout"), "holdout")
    assert isinstance(again, Masks)
    assert np.array_equal(again.values, made.values[[2, 0]])
    assert (made.highest, Masks(np.full((1, 2, 2), IGNORED, dtype=np.uint8)).highest) == (2, -1)
    # The second class is in every other image, and rarer than the first in all.
    assert made.rarest_classes().tolist() == [1, 2, 1, 2]


def test_a_data_set_of_masks_is_segmented() -> None:
    targets = torch.from_numpy(masks(6)).long()
    pairs = TensorDataset(torch.randn(6, 3, 32, 32), targets)
    listed = bundle_from(DataLoader(pairs), DataLoader(pairs))
    loaded = bundle_from([pairs[index] for index in range(6)], pairs)
    for data in (listed, loaded):
        assert (data.task.name, data.classes) == ("segmentation", ("0", "1", "2"))
        assert torch.equal(data.train.annotations.targets([3, 1], CPU), targets[[3, 1]])
    arrays = image_arrays(listed.train, np.array([4, 0]), "holdout")
    assert arrays["holdout/masks/values"].shape == (2, 32, 32)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.full((2, 8, 8), -100), "the values -100 to -100. .* and 255 where a pixel does not count"),
        (torch.full((2, 8, 8), 300), "the values 300 to 300"),
        (torch.zeros(2, 8, 8), "float32"),
        (torch.zeros(2, 4, 4, dtype=torch.int64), "are 8x8 and its masks 4x4"),
    ],
)
def test_masks_that_are_no_classes_of_the_images_pixels_are_refused(values: torch.Tensor, words: str) -> None:
    pairs = TensorDataset(torch.randn(2, 3, 8, 8), values)
    with pytest.raises(DataError, match=words) as caught:
        bundle_from(pairs, pairs)
    assert "\n" not in str(caught.value)


def test_masks_of_several_sizes_are_refused() -> None:
    with pytest.raises(DataError, match="image 1 is 4x5 and that of image 0 4x4"):
        masks_of([torch.zeros(4, 4, dtype=torch.int64), torch.zeros(4, 5, dtype=torch.int64)])


def test_training_and_test_images_must_carry_the_same() -> None:
    masked = TensorDataset(torch.randn(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64))
    with pytest.raises(DataError, match="carry a mask an image and its test images one class an image"):
        bundle_from(masked, TensorDataset(torch.randn(2, 3, 8, 8), torch.tensor([0, 1])))


def test_a_data_set_of_boxes_is_detected_in() -> None:
    def target(count: int) -> dict[str, torch.Tensor]:
        boxes = torch.tensor([[1.0, 1, 5, 6], [2, 2, 7, 7]])[:count]
        return {"boxes": boxes, "labels": torch.tensor([1, 3])[:count]}

    items = [(torch.rand(3, 8, 8), target(count)) for count in (2, 0, 1)]
    zipped = DataLoader(items, batch_size=3, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
    for source in (items, DataLoader(items), zipped):
        data = bundle_from(source, source)
        assert (data.task.name, data.classes) == ("detection", ("0", "1", "2"))
        first, second = data.train.annotations.targets([0, 1], CPU)
        assert first["labels"].tolist() == [1, 3]
        assert first["difficult"].tolist() == [False, False]
        assert second["boxes"].shape == (0, 4)
        assert torch.equal(data.train.take([2, 0]), torch.stack([items[2][0], items[0][0]]))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"boxes": torch.rand(1, 4)}, "no mapping of `boxes` .k, 4. and `labels`"),
        ({"boxes": torch.rand(2, 4), "labels": torch.tensor([1])}, "2 boxes and 1 labels"),
        ({"boxes": torch.tensor([[0.0, 0, 1, 1]]), "labels": torch.tensor([0])}, "label 0. Count classes from 1"),
        ({"boxes": torch.tensor([[3.0, 0, 1, 1]]), "labels": torch.tensor([1])}, "has no area"),
    ],
)
def test_boxes_that_are_none_are_refused(target: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        _ = DatasetImages([(torch.rand(3, 8, 8), target)]).labels
    assert "\n" not in str(caught.value)


def test_scenes_are_made_of_digits_in_their_own_split_with_ink_where_the_mask_says() -> None:
    data = load_data("digits-scenes")
    assert (data.task.name, data.input_shape, len(data.classes)) == ("segmentation", (1, SIDE, SIDE), 11)
    assert (len(data.train), len(data.test)) == (1_500, 400)
    values, pixels = data.test.annotations.values, data.test.pixels[:, 0]
    assert set(np.unique(values)) == {*range(11), IGNORED}
    labelled = (values > 0) & (values != IGNORED)
    assert pixels[labelled].min() > pixels[values == 0].max()


def test_a_scene_without_room_has_fewer_digits() -> None:
    digits = np.full((3, 1, 8, 8), 255, dtype=np.uint8)
    made = compose(digits, np.array([0, 4, 9]), count=30, rng=generator(0, "t"))
    sizes = (made.masks > 0).sum((1, 2))
    assert sizes.min() < sizes.max() <= 5 * 12 * 12
    assert set(np.unique(made.masks)) == {0, 1, 5, 10}
    again = compose(digits, np.array([0, 4, 9]), count=30, rng=generator(0, "t"))
    assert np.array_equal(again.pixels, made.pixels)
