from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from autoprune.data import ArrayImages, DataBundle, FolderImages, Preprocessing, bundle_from, load_data
from autoprune.data.bundle import missing_here
from autoprune.data.preprocessing import RAW
from autoprune.errors import DataError, PluginError

UNIT = ((0.0,) * 3, (1.0,) * 3)


def tensors(count: int = 6, classes: int = 3) -> TensorDataset:
    return TensorDataset(torch.randn(count, 1, 4, 4), torch.arange(count) % classes)


@pytest.mark.parametrize("moved", [False, True], ids=["from its file", "from scikit-learn"])
def test_digits_are_those_of_scikit_learn(moved, monkeypatch) -> None:
    from sklearn.datasets import load_digits

    if moved:
        monkeypatch.setattr(Path, "is_file", lambda path: False)
    data = load_data("digits", preprocessing=Preprocessing((0.0,), (1.0,)))
    found = [(part.take([index]), int(part.labels[index])) for part in data.parts for index in range(len(part))]
    ours = sorted((*(16 * image.flatten()).round().int().tolist(), label) for image, label in found)
    theirs = sorted(
        (*image.astype(int).tolist(), int(digit)) for image, digit in zip(*load_digits(return_X_y=True), strict=True)
    )
    assert ours == theirs


def test_one_digit_in_five_tests_and_one_validates_stratified() -> None:
    data = load_data("digits")
    assert data.validation is not None
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1079, 359, 359]
    assert data.input_shape == (1, 8, 8)
    assert all(np.bincount(part.labels).min() >= 34 for part in (data.test, data.validation))
    every = np.concatenate([part.take(range(len(part))).flatten(1).numpy() for part in data.parts])
    assert len(np.unique(every, axis=0)) == 1797
    everything = data.train.take(range(len(data.train)))
    assert abs(float(everything.mean())) < 0.01
    assert abs(float(everything.std()) - 1) < 0.01
    assert np.array_equal(load_data("digits").test.labels, data.test.labels)


@pytest.mark.data
def test_cifar10_is_read_from_its_folder_with_the_networks_preprocessing(data_root: Path) -> None:
    data = load_data("cifar10", root=data_root, preprocessing=RAW)
    assert (len(data.train), len(data.test), len(data.classes)) == (50_000, 10_000, 10)
    assert data.preprocessing == RAW
    assert isinstance(data.train, ArrayImages)
    assert torch.allclose(data.train.take([0]), torch.from_numpy(data.train.pixels[:1]).float(), atol=1e-3)


@pytest.mark.parametrize("spec", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_a_missing_folder_says_which_file_was_expected_where(spec: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Give --data-root DIR"):
        load_data(spec)
    with pytest.raises(DataError, match=f"{spec}.*expected the file {tmp_path}/"):
        load_data(spec, root=tmp_path)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(DataError, match="missing or corrupt") as caught:
        load_data("cifar10", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(DataError, match="Did you mean 'cifar10'"):
        load_data("cifar-10")


def test_data_with_other_channels_than_the_network_expects_are_refused() -> None:
    with pytest.raises(DataError, match="1 channels, but the network's preprocessing is for 3"):
        load_data("digits", preprocessing=RAW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 4), ("val", 2)):
        for value, name in enumerate(["ant", "bee"]):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 16), (100 * value,) * 3).save(tmp_path / part / name / f"{number}.png")
    return tmp_path


def test_an_image_folder_is_read_lazily_with_one_class_per_folder(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}", preprocessing=Preprocessing((0.0,) * 3, (1 / 255,) * 3, (8, 8)))
    assert data.classes == ("ant", "bee")
    assert data.input_shape == (3, 8, 8)
    assert isinstance(data.train, FolderImages)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.test.take([0, 3]).mean(dim=(1, 2, 3)).round().tolist() == [0, 100]


def test_val_scores_where_an_image_folder_has_test_too(folder: Path) -> None:
    assert load_data(f"imagefolder:{folder}").validation is None
    for number, name in enumerate(["ant", "bee"]):
        (folder / "test" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (20, 16), (number,) * 3).save(folder / "test" / name / f"{index}.png")
    data = load_data(f"imagefolder:{folder}")
    assert isinstance(data.validation, FolderImages)
    assert [len(images) for images in data.parts] == [8, 6, 4]
    assert {path.parts[-3] for path in data.validation.paths} == {"val"}
    assert data.scoring is data.validation


def test_an_image_that_another_machine_lacks_is_named_with_the_machine(folder: Path) -> None:
    images = load_data(f"imagefolder:{folder}").train
    assert missing_here(images) is None
    lost = folder / "train" / "bee" / "2.png"
    lost.unlink()
    assert missing_here(images) == (
        f"The image {str(lost)!r} is not on the machine {socket.gethostname()}. "
        "Put the image folder at the same path on every node"
    )
    assert missing_here(load_data("digits").train) is None


def test_an_image_folder_without_a_size_is_cropped_to_224(folder: Path) -> None:
    assert load_data(f"imagefolder:{folder}").input_shape == (3, 224, 224)


def test_image_folders_that_are_none_say_what_was_expected(folder: Path, tmp_path_factory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"is not an image folder: expected .*train"):
        load_data(f"imagefolder:{empty}")
    (folder / "val" / "cow").mkdir()
    with pytest.raises(DataError, match="the class 'cow' that the training folder lacks"):
        load_data(f"imagefolder:{folder}")
    for part in ("train", "val"):
        (empty / part).mkdir()
    with pytest.raises(DataError, match="No image lies in"):
        load_data(f"imagefolder:{empty}")


def make_pair() -> tuple[TensorDataset, TensorDataset]:
    return tensors(), tensors(3)


def make_triple() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    return tensors(), tensors(4), tensors(3)


def make_bundle() -> DataBundle:
    return bundle_from(tensors(), tensors(), name="mine", classes=["a", "b", "c"])


def make_number() -> int:
    return 1


def test_a_factory_gives_a_pair_or_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent)
    pair = load_data("test_sources:make_pair")
    assert (len(pair.train), len(pair.test), pair.name) == (6, 3, "test_sources:make_pair")
    triple = load_data("test_sources:make_triple")
    assert [len(images) for images in triple.parts] == [6, 3, 4]
    assert load_data("test_sources:make_bundle").classes == ("a", "b", "c")
    with pytest.raises(PluginError, match="returned a int, not a"):
        load_data("test_sources:make_number")


def test_bundles_are_made_of_data_sets_loaders_pairs_and_images() -> None:
    dataset = tensors()
    sources = [dataset, DataLoader(dataset, batch_size=2, shuffle=True), tuple(dataset.tensors)]
    bundles = [bundle_from(source, source) for source in sources]
    bundles.append(bundle_from(bundles[0].train, bundles[0].test))
    for data in bundles:
        assert data.classes == ("0", "1", "2")
        assert data.input_shape == (1, 4, 4)
        assert data.preprocessing is None
        assert torch.equal(data.train.take([4, 1]), dataset.tensors[0][[4, 1]])
        assert data.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 4, 4), 0


class Boundless(Dataset):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(1, 4, 4), 0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (DataLoader(Endless()), "IterableDataset cannot be indexed"),
        (Endless(), "IterableDataset cannot be indexed"),
        (
            DataLoader(Boundless(), sampler=[0]),
            "Cannot read images from a Boundless. Give a torch Dataset that has a length",
        ),
        (3, "Cannot read images from a int"),
        (TensorDataset(torch.zeros(0, 1, 4, 4), torch.zeros(0)), "is empty"),
        ((torch.zeros(3, 1, 4, 4), torch.zeros(2)), "as many labels as images"),
    ],
)
def test_sources_that_cannot_be_indexed_are_refused(source: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bundle_from(source, source)


def test_images_that_another_network_made_are_taken_without_its_graph() -> None:
    images = torch.rand(6, 1, 4, 4, requires_grad=True)
    taken = bundle_from((images, torch.arange(6) % 3), tensors()).train.take([0, 1])
    assert not taken.requires_grad
    assert torch.equal(taken, images.detach()[:2])


def test_images_of_two_shapes_are_refused() -> None:
    with pytest.raises(DataError, match=r"are 1x4x4 and its test images 1x4x5 \(channels x height x width\)"):
        bundle_from(tensors(), (torch.zeros(3, 1, 4, 5), torch.zeros(3, dtype=torch.int64)))


def test_an_identifier_among_the_labels_is_refused_before_every_class_up_to_it_gets_a_name() -> None:
    part = TensorDataset(torch.randn(3, 1, 4, 4), torch.tensor([0, 1, 1 << 40]))
    with pytest.raises(DataError, match=r"'mine' has the label 1099511627776, which is no class index"):
        bundle_from(part, part, name="mine")


def test_a_label_beyond_the_classes_is_refused() -> None:
    with pytest.raises(DataError, match="label 2 but only 2 classes"):
        bundle_from(tensors(), tensors(), classes=["a", "b"])


class TestImagesWithoutLabels:
    """Folders of them; what a Python caller gives is tested where problems are made."""

    @staticmethod
    def drawn(folder: Path, names: list[str]) -> None:
        for index, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / name)

    def test_one_in_five_of_a_folder_tests_always_the_same_ones(self, tmp_path: Path) -> None:
        self.drawn(tmp_path, [f"{part}/{index}.png" for part in "ab" for index in range(10)])
        found, again = (load_data(f"images:{tmp_path}", size=(8, 8)) for _ in range(2))
        assert (len(found.train), len(found.test), found.input_shape) == (16, 4, (3, 8, 8))
        assert set(found.train.labels) | set(found.test.labels) == {-1}
        assert found.test.paths == again.test.paths
        assert len({*found.train.paths, *found.test.paths}) == 20

    def test_folders_of_training_and_test_images_stay_apart(self, tmp_path: Path) -> None:
        self.drawn(tmp_path, [f"{part}/cat/{index}.png" for part in ("train", "val") for index in range(10)])
        found = load_data(f"images:{tmp_path}", size=(8, 8))
        assert {path.parts[-3] for path in found.train.paths} == {"train"}
        assert {path.parts[-3] for path in found.test.paths} == {"val"}

    def test_val_scores_where_there_is_test_too(self, tmp_path: Path) -> None:
        self.drawn(tmp_path, [f"{part}/{index}.png" for part in ("train", "val", "test") for index in range(10)])
        found = load_data(f"images:{tmp_path}", size=(8, 8))
        assert isinstance(found.validation, FolderImages)
        assert {path.parts[-2] for path in found.validation.paths} == {"val"}
        assert isinstance(found.test, FolderImages)
        assert {path.parts[-2] for path in found.test.paths} == {"test"}

    def test_a_folder_with_too_few_is_refused(self, tmp_path: Path) -> None:
        self.drawn(tmp_path, [f"{index}.png" for index in range(9)])
        with pytest.raises(DataError, match=r"There are 9 images in .*, but 10 are the fewest"):
            load_data(f"images:{tmp_path}")

    def test_another_task_cannot_do_without_labels(self, tmp_path: Path) -> None:
        self.drawn(tmp_path, [f"{index}.png" for index in range(10)])
        with pytest.raises(DataError, match="carry no labels, but the task 'detection' needs boxes"):
            load_data(f"images:{tmp_path}", task="detection")


def test_an_image_of_the_networks_size_is_taken_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = FolderImages((tmp_path / "a.png",), np.zeros(1, dtype=np.int64), Preprocessing(*UNIT, (8, 8)))
    assert torch.equal(images.take([0])[0], torch.from_numpy(pixels).permute(2, 0, 1) / 255)
