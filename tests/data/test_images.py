from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms

from autoprune.data import ArrayImages, DatasetImages, FolderImages, Preprocessing, bundle_from, preprocess
from autoprune.data.unlabelled import bare_images
from autoprune.errors import DataError

COLOUR = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def pixels(count: int = 5, side: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, side, side), dtype=np.uint8)


def test_taken_images_equal_torchvisions_preprocessing_to_the_last_bit() -> None:
    array = pixels()
    taken = ArrayImages(array, np.arange(5), COLOUR).take([3, 1])
    pipeline = transforms.Compose([transforms.ToTensor(), transforms.Normalize(COLOUR.mean, COLOUR.std)])
    expected = torch.stack([pipeline(Image.fromarray(array[i].transpose(1, 2, 0))) for i in (3, 1)])
    assert taken.dtype == torch.float32
    assert torch.equal(taken, expected)


def test_read_only_arrays_are_served_and_left_alone() -> None:
    array = pixels()
    array.flags.writeable = False
    before = array.copy()
    ArrayImages(array, np.arange(5), COLOUR).take(np.asarray([0])).add_(1)
    assert np.array_equal(array, before)


def test_a_size_covers_and_crops_the_centre() -> None:
    wide = np.zeros((1, 1, 4, 8), dtype=np.uint8)
    wide[..., 2:6] = 255
    plain = Preprocessing((0.0,), (1.0,), (4, 4))
    assert torch.equal(preprocess(torch.from_numpy(wide), plain), torch.ones(1, 1, 4, 4))
    assert preprocess(torch.from_numpy(wide), Preprocessing((0.0,), (1.0,), (16, 12))).shape == (1, 1, 16, 12)


@pytest.mark.parametrize(
    ("array", "labels", "message"),
    [
        (np.zeros((2, 3, 4, 4)), [0, 1], "must be uint8"),
        (np.zeros((2, 3, 4), np.uint8), [0, 1], "must be uint8"),
        (np.zeros((2, 3, 4, 4), np.uint8), [0], "2 images and 1 labels"),
        (np.zeros((0, 3, 4, 4), np.uint8), [], "0 images"),
        (np.zeros((2, 1, 4, 4), np.uint8), [0, 1], "1 channels, but the network's preprocessing is for 3"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray, labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ArrayImages(array, np.asarray(labels), COLOUR)


def test_preprocessing_survives_the_way_through_a_dict() -> None:
    for preprocessing in (COLOUR, Preprocessing((0.1,), (0.2,), (3, 4))):
        assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing


@pytest.mark.parametrize(
    "values", [{}, {"mean": [0], "std": [0]}, {"mean": ["x"], "std": [1]}, {"mean": [0], "std": [1], "size": [3]}]
)
def test_a_broken_preprocessing_dict_is_refused(values: dict) -> None:
    with pytest.raises(DataError, match="reprocessing"):
        Preprocessing.from_dict(values)


class Counting(Dataset):
    """Knows its labels only by loading, and counts the loads."""

    def __init__(self) -> None:
        self.loads = 0

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.loads += 1
        return torch.full((1, 2, 2), float(index)), 2 - index


class Listing(Counting):
    targets = (2, 1, 0)


def test_labels_are_read_once_and_not_at_all_where_they_are_listed() -> None:
    loading, listing = Counting(), Listing()
    images = DatasetImages(loading)
    assert images.labels.tolist() == images.labels.tolist() == [2, 1, 0]
    assert loading.loads == 3
    assert DatasetImages(listing).labels.tolist() == [2, 1, 0]
    assert DatasetImages(Subset(listing, [2, 0])).labels.tolist() == [0, 2]
    assert DatasetImages(ConcatDataset([listing, listing])).labels.tolist() == [2, 1, 0, 2, 1, 0]
    assert listing.loads == 0


def test_a_target_transform_is_not_bypassed() -> None:
    class Transformed(Listing):
        target_transform = staticmethod(lambda label: label + 1)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            image, label = super().__getitem__(index)
            return image, self.target_transform(label)

    assert DatasetImages(Transformed()).labels.tolist() == [3, 2, 1]


def test_a_tensor_data_set_gives_its_images_and_labels() -> None:
    x, y = torch.randn(4, 1, 2, 2), torch.tensor([0, 1, 1, 0])
    images = DatasetImages(TensorDataset(x, y))
    assert torch.equal(images.take([2, 0]), x[[2, 0]])
    assert images.labels.dtype == np.int64
    assert images.labels.tolist() == y.tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 0.5, 1.0]), "are of type float32, such as 0.0"),
        (torch.eye(3, dtype=torch.int64), r"Each label of the data set has 3 values\. .* one-hot labels: argmax\(1\)"),
        (torch.tensor([0, -1, 2]), "has the label -1"),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_labels_that_are_no_class_indices_are_refused(labels: torch.Tensor, message: str, listed: bool) -> None:
    dataset = TensorDataset(torch.zeros(3, 1, 2, 2), labels)
    with pytest.raises(DataError, match=message) as caught:
        _ = DatasetImages(dataset if listed else [dataset[index] for index in range(3)]).labels
    assert "Give class indices 0, 1, ... as integers" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["cat", ["cat", "dog"]])
def test_a_label_that_is_no_number_is_refused(label: object) -> None:
    with pytest.raises(DataError, match=r"label of image 0 is no number: .*Give class indices"):
        _ = DatasetImages([(torch.zeros(1, 2, 2), label)]).labels


def test_labels_in_a_column_and_of_two_classes_as_truth_values_are_fine() -> None:
    images = torch.zeros(3, 1, 2, 2)
    assert DatasetImages(TensorDataset(images, torch.tensor([[2], [0], [1]]))).labels.tolist() == [2, 0, 1]
    assert DatasetImages(TensorDataset(images, torch.tensor([True, False, True]))).labels.tolist() == [1, 0, 1]


def test_a_loaders_collate_function_is_used() -> None:
    loader = DataLoader(
        Counting(), collate_fn=lambda items: (torch.stack([x for x, _ in items]) * 2, [y for _, y in items])
    )
    images = DatasetImages(loader.dataset, loader.collate_fn)
    assert images.take([2]).unique().tolist() == [4]
    assert images.labels.tolist() == [2, 1, 0]


class Broken(Counting):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        raise OSError("disk on fire")


def test_a_data_set_that_fails_names_the_image() -> None:
    with pytest.raises(DataError, match="failed on image 1: OSError: disk on fire"):
        DatasetImages(Broken()).take([1])


def test_images_that_are_no_float_tensors_are_refused() -> None:
    with pytest.raises(DataError, match="add a transform"):
        DatasetImages(TensorDataset(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2))).take([0])


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("-inf"), "an infinite value")])
@pytest.mark.parametrize("part", ["training", "test"])
def test_an_image_with_a_value_that_is_no_number_is_named(value: float, what: str, part: str) -> None:
    train, test = (TensorDataset(torch.rand(30, 1, 4, 4), torch.arange(30)) for _ in range(2))
    (train if part == "training" else test).tensors[0][17, 0, 2, 1] = value
    bundle = bundle_from(train, test)
    images = bundle.train if part == "training" else bundle.test
    assert images.take(range(17)).shape == (17, 1, 4, 4)
    with pytest.raises(DataError, match=f"^Image 17 of the {part} set holds {what}. Repair or remove it.$"):
        images.take([3, 17, 4])


def test_an_image_without_a_label_that_holds_nan_is_named_as_the_caller_counts() -> None:
    pixels = torch.rand(30, 1, 4, 4)
    pixels[17, 0, 0, 0] = torch.nan
    found = []
    for part in bare_images(pixels):
        try:
            part.take(range(len(part)))
        except DataError as error:
            found.append(str(error))
    assert found == ["Image 17 of the data holds NaN. Repair or remove it."]


def test_large_finite_values_are_no_nan() -> None:
    huge = DatasetImages(TensorDataset(torch.full((4, 1, 2, 2), 3e38), torch.arange(4)))
    assert huge.take([0, 1, 2]).isfinite().all()


def test_files_of_any_size_and_mode_become_one_shape(tmp_path: Path) -> None:
    Image.new("L", (31, 57), 128).save(tmp_path / "grey.png")
    Image.new("RGB", (90, 40), (128, 128, 128)).save(tmp_path / "wide.jpg")
    Image.new("RGBA", (5, 4), (128, 128, 128, 255)).save(tmp_path / "small.png")
    paths = tuple(sorted(tmp_path.iterdir()))
    images = FolderImages(paths, np.arange(3), Preprocessing((0.0,) * 3, (1.0,) * 3, (24, 20))).take([0, 1, 2])
    assert images.shape == (3, 3, 24, 20)
    assert torch.allclose(images, torch.tensor(128 / 255), atol=0.02)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    images = FolderImages((path,), np.zeros(1, np.int64), Preprocessing((0.0,), (1.0,), (2, 2)))
    with pytest.raises(DataError, match=r"Cannot read the image .*broken\.png"):
        images.take([0])
