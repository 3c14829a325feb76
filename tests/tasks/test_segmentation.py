from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn
from torch.utils.data import DataLoader

import autoprune
from autoprune.data import bundle_from, load_data
from autoprune.data.preprocessing import unit_range
from autoprune.errors import DataError, ModelError
from autoprune.models.storage.saved import load
from autoprune.models.zoo.catalogue import build_model
from autoprune.report.observer import NullObserver
from autoprune.searching.delivery.exporting import export
from autoprune.searching.delivery.picking import Choice, pick
from autoprune.searching.delivery.pruning import MethodOptions, prune
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inspection.networks import evaluate_saved
from autoprune.searching.search.api import run_search
from autoprune.searching.trainings.finetuning import finetune
from autoprune.searching.trainings.options import FinetuneOptions, TrainOptions
from autoprune.searching.trainings.training import train_network
from autoprune.tasks.base import Objective
from autoprune.tasks.registry import SEGMENTATION
from autoprune.tasks.segmentation import IGNORED, Segmentation
from autoprune.training import Recipe, measure, train
from tests import masked_folders, voc_folders
from tests.masked_folders import Network, write_voc_masks

NETWORK, DATA = "tests.masked_folders:Network", "tests.masked_folders:data"
EXACT = torch.autocast("cpu", enabled=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("voc")
    write_voc_masks(path)
    return path


@pytest.fixture(scope="module")
def data():
    return bundle_from(*masked_folders.data())


@pytest.fixture(scope="module")
def trained(data) -> nn.Module:
    torch.manual_seed(0)
    model = Network()
    train(model, data.train, range(12), Recipe(epochs=25, learning_rate=0.05, batch_size=4), seed=0, task=data.task)
    return model


class Fixed(nn.Module):
    """Answers with the maps it was given."""

    def __init__(self, maps: torch.Tensor, aux: torch.Tensor | None = None) -> None:
        super().__init__()
        self.answer = {"out": maps} if aux is None else {"out": maps, "aux": aux}

    def forward(self, x):
        return self.answer


def loss(model: nn.Module, targets: torch.Tensor, *, teacher=None, distillation=0.0) -> torch.Tensor:
    inputs = torch.zeros(len(targets), 3, *targets.shape[1:])
    objective = Objective(distillation=distillation, temperature=2.0)
    return SEGMENTATION.loss(model, inputs, targets, teacher=teacher, objective=objective, precision=EXACT)


def measured(maps: torch.Tensor, targets: torch.Tensor, task: Segmentation = SEGMENTATION) -> dict[str, float]:
    meter = task.meter()
    for part in (slice(0, 1), slice(1, None)):
        meter.add(Fixed(maps[part]), torch.zeros(len(targets[part]), 3, 1, 1), targets[part])
    return meter.result()


def test_the_metric_is_the_mean_jaccard_index_over_all_pixels_that_count() -> None:
    chance = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 5, 6, 7, generator=chance)
    targets = torch.randint(0, 5, (3, 6, 7), generator=chance)
    targets[:, :2] = IGNORED
    found, counts = measured(maps, targets), targets != IGNORED
    wanted, said = targets[counts].numpy(), maps.argmax(1)[counts].numpy()
    assert found["mIoU"] == found["accuracy"] == pytest.approx(jaccard_score(wanted, said, average="macro"))
    assert found["pixel accuracy"] == pytest.approx((wanted == said).mean())
    assert found["loss"] == pytest.approx(float(loss(Fixed(maps), targets)))


def test_classes_that_are_neither_there_nor_found_do_not_count() -> None:
    targets = torch.tensor([[[0, 1], [1, IGNORED]]] * 2)
    maps = nn.functional.one_hot(torch.tensor([[[0, 1], [1, 7]]] * 2), 8).permute(0, 3, 1, 2).float()
    assert measured(maps, targets)["mIoU"] == 1
    # The class 2 is found where 1 is: intersections by unions are 1, 1/2 and 0.
    maps[:, :, 1, 0] = nn.functional.one_hot(torch.tensor(2), 8).float()
    assert measured(maps, targets)["mIoU"] == pytest.approx(0.5)
    nothing = measured(maps, torch.full_like(targets, IGNORED))
    assert (nothing["mIoU"], nothing["loss"]) == (0, 0)


class Dice(Segmentation):
    metric = "missed Dice"
    higher_is_better = False

    def quality(self, confusion):
        return 1 - (2 * confusion.diagonal() / (confusion.sum(0) + confusion.sum(1))).nanmean()


def test_another_metric_of_the_confusion_matrix_is_a_subclass() -> None:
    targets = torch.tensor([[[0, 1], [1, 1]]] * 2)
    maps = nn.functional.one_hot(torch.tensor([[[0, 1], [1, 0]]] * 2), 2).permute(0, 3, 1, 2).float()
    found = measured(maps, targets, Dice())
    assert found["missed Dice"] == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)
    assert found["accuracy"] == found["1 - missed Dice"] == pytest.approx(1 - found["missed Dice"])
    assert list(found)[1] == Dice().reported


def test_the_auxiliary_head_counts_half_and_only_while_training() -> None:
    chance = torch.Generator().manual_seed(0)
    maps, aux = torch.randn(2, 2, 3, 4, 4, generator=chance)
    targets = torch.randint(0, 3, (2, 4, 4), generator=chance)
    main, side = loss(Fixed(maps), targets), loss(Fixed(aux), targets)
    assert loss(Fixed(maps, aux).train(), targets) == pytest.approx(float(main + 0.5 * side))
    assert loss(Fixed(maps, aux).eval(), targets) == main


def test_a_batch_without_a_pixel_that_counts_teaches_nothing() -> None:
    maps = torch.randn(2, 3, 4, 4, requires_grad=True)
    found = loss(Fixed(maps), torch.full((2, 4, 4), IGNORED))
    found.backward()
    assert found.item() == 0
    assert not maps.grad.any()


def test_a_network_lacks_nothing_of_itself(trained: nn.Module) -> None:
    targets = torch.zeros(2, 32, 32, dtype=torch.int64)
    twin = copy.deepcopy(trained).eval()
    assert float(loss(twin, targets, teacher=trained.eval(), distillation=1.0)) == pytest.approx(0, abs=1e-6)
    assert not any(module._forward_hooks for module in [*twin.modules(), *trained.modules()])


def test_outputs_and_features_are_both_distilled(data, trained: nn.Module) -> None:
    images, targets = data.test.take(range(4)), torch.zeros(4, 32, 32, dtype=torch.int64)
    objective = Objective(distillation=1.0, temperature=2.0)
    student = copy.deepcopy(trained).eval()
    # The maps that the head reads grow ninefold in one channel and its answer stays.
    student.second[1].weight.data[0] *= 9
    student.second[1].bias.data[0] *= 9
    student.head.weight.data[:, 0] /= 9
    found = SEGMENTATION.loss(student, images, targets, teacher=trained, objective=objective, precision=EXACT)
    with torch.no_grad():
        assert torch.allclose(student(images)["out"], trained(images)["out"], atol=1e-4)
    assert float(found) > 1e-3


def test_distillation_alone_pulls_a_network_towards_its_teacher(data, trained: nn.Module) -> None:
    torch.manual_seed(1)
    student, images = Network(), data.test.take(range(4))

    def distance() -> float:
        with torch.no_grad():
            return float((student.eval()(images)["out"].softmax(1) - trained(images)["out"].softmax(1)).abs().mean())

    before = distance()
    recipe = Recipe(epochs=12, learning_rate=0.05, batch_size=4, distillation=1.0, temperature=2.0)
    train(student, data.train, range(12), recipe, seed=0, teacher=trained, task=data.task)
    assert distance() < 0.5 * before


def test_a_network_learns_to_segment(data, trained: nn.Module) -> None:
    torch.manual_seed(0)
    before, after = (measure(model, data.test, task=data.task) for model in (Network(), trained))
    assert before.accuracy < 0.4
    assert after.accuracy > 0.8
    assert after.loss < before.loss


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("digits/resnet", "does not take the 3x32x32 images"),
        ("tests.masked_folders:classifier", "puts out no map of classes"),
        ("tests.masked_folders:coarse", "maps of 16x16 for images of 32x32"),
        ("tests.masked_folders:narrow", "maps of 2 classes, but .* has 3"),
    ],
)
def test_a_network_for_something_else_is_one_line(model: str, words: str, tmp_path: Path) -> None:
    options = TrainOptions(model=model, data=DATA, epochs=1, out=tmp_path / "run", no_mlflow=True)
    with pytest.raises(ModelError, match=words) as caught:
        train_network(options, NullObserver())
    assert "\n" not in str(caught.value)


def test_a_network_that_fails_later_is_one_line_too(data) -> None:
    with pytest.raises(ModelError, match="class 2, but the model has maps of 2"):
        measure(masked_folders.narrow(), data.test, task=data.task)
    with pytest.raises(ModelError, match="no map of classes"):
        measure(masked_folders.classifier(), data.test, task=data.task)


def test_a_task_must_go_with_the_images(folder: Path) -> None:
    with pytest.raises(DataError, match="carry a mask an image, but the task 'detection' needs boxes, as voc:DIR has"):
        load_data(f"voc-segmentation:{folder}", task="detection")
    with pytest.raises(DataError, match="needs a mask an image, as voc-segmentation:DIR has"):
        load_data("digits", task="segmentation")
    assert load_data(f"voc-segmentation:{folder}", task="segmentation", preprocessing=unit_range((8, 8))).classes


def test_a_network_is_trained_searched_picked_pruned_finetuned_evaluated_and_exported(
    folder: Path, tmp_path: Path
) -> None:
    quiet = {"no_mlflow": True, "data": f"voc-segmentation:{folder}"}
    report = train_network(
        TrainOptions(model=NETWORK, epochs=2, batch_size=4, out=tmp_path / "dense", **quiet), NullObserver()
    )
    assert (report["metric"], set(report["metrics"])) == ("mIoU", {"mIoU", "pixel accuracy"})
    weights = tmp_path / "dense" / "weights.safetensors"
    common = {"model": NETWORK, "weights": weights, "scope": "internal", "holdout_images": 4, **quiet}
    run_search(
        SearchOptions(
            candidates=2, strategy="random", backend="serial", finetune_epochs=1.0, out=tmp_path / "search", **common
        ),
        observer=NullObserver(),
    )
    summary = json.loads((tmp_path / "search" / "summary.json").read_text())
    assert (summary["task"], summary["metric"], summary["failures"]) == ("segmentation", "mIoU", 0)
    assert summary["incumbent"]["flops"] <= 0.5 * summary["dense"]["flops"]
    assert summary["incumbent"]["accuracy"] == summary["incumbent"]["metrics"]["mIoU"]
    picked = pick(tmp_path / "search", Choice(id=0), observer=NullObserver())
    assert picked["metric"] == "mIoU"
    taylor = MethodOptions(method="taylor", no_training=True)
    pruned = prune(SearchOptions(out=tmp_path / "pruned", **common), taylor, NullObserver())
    assert pruned["metric"] == "mIoU"
    tuned = finetune(
        FinetuneOptions(
            source=tmp_path / "pruned" / "incumbent", weights=weights, epochs=1, out=tmp_path / "tuned", **quiet
        ),
        NullObserver(),
    )
    assert tuned["recipe"]["distillation"] > 0
    again = evaluate_saved(tmp_path / "tuned", data=None, data_root=None, split="test")
    assert again["accuracy"] == pytest.approx(tuned["accuracy"])
    (written,) = export(tmp_path / "tuned", "torch-export", out=tmp_path / "out")
    assert written["check"]["max_deviation"] <= written["check"]["tolerance"]
    small = load(tmp_path / "tuned")
    assert small(torch.rand(2, 3, 32, 32))["out"].shape == (2, 3, 32, 32)


def test_a_network_of_torchvision_with_its_auxiliary_head_is_pruned(tmp_path: Path) -> None:
    options = SearchOptions(
        model="tests.masked_folders:torchvisions",
        data=DATA,
        holdout_images=4,
        finetune_epochs=1.0,
        no_mlflow=True,
        out=tmp_path,
    )
    pruned = prune(options, MethodOptions(method="l1"), NullObserver())
    assert pruned["incumbent"]["flops"] <= 0.5 * pruned["dense"]["flops"]
    assert 0 <= pruned["incumbent"]["metrics"]["mIoU"] <= 1
    small = load(tmp_path / "incumbent")
    assert {name: maps.shape for name, maps in small(torch.rand(2, 3, 64, 64)).items()} == {
        "out": (2, 3, 64, 64),
        "aux": (2, 3, 64, 64),
    }


def test_objects_are_segmented_and_detected_in_from_python(data, trained: nn.Module, tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    options = {"candidates": 2, "backend": "serial", "no_mlflow": True, "calibration_images": 4, "holdout_images": 4}
    parts = tuple(DataLoader(images.dataset, batch_size=4) for images in (data.train, data.test))
    result = autoprune.search(trained, parts, finetune_epochs=1.0, out=tmp_path / "masks", **options)
    assert (result.summary["metric"], result.summary["failures"]) == ("mIoU", 0)
    assert result.incumbent.build()(torch.rand(1, 3, 32, 32))["out"].shape == (1, 3, 32, 32)

    rng = np.random.default_rng(0)
    corners = rng.integers(2, 30, (12, 1, 2))
    boxes = torch.from_numpy(np.concatenate([corners, corners + 25], 2)).float()
    items = [(torch.rand(3, 64, 64), {"boxes": box, "labels": torch.tensor([1 + index % 2])})
             for index, box in enumerate(boxes)]  # fmt: skip
    parts = tuple(
        DataLoader(part, batch_size=4, collate_fn=lambda batch: tuple(zip(*batch, strict=True)))
        for part in (items[:8], items[8:])
    )
    torch.manual_seed(0)
    result = autoprune.search(voc_folders.network(), parts, finetune_epochs=1.0, out=tmp_path / "boxes", **options)
    assert (result.summary["metric"], result.summary["failures"]) == ("mAP@0.5", 0)
    assert set(result.incumbent.build()([torch.rand(3, 64, 64)])[0]) == {"boxes", "scores", "labels"}


def test_the_small_unet_learns_scenes() -> None:
    data = load_data("digits-scenes")
    torch.manual_seed(0)
    model = build_model("digits/unet")
    assert model(data.test.take([0])).shape == (1, 11, 32, 32)
    recipe = Recipe(epochs=2, learning_rate=0.1, batch_size=16, gradient_clip=1.0)
    train(model, data.train, range(160), recipe, seed=0, task=data.task)
    found = measure(model, data.test, range(40), task=data.task)
    # Background for everything is right in 84 % of the pixels that count, with an mIoU of 8 %.
    assert found.metrics["pixel accuracy"] > 0.8
