from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.data import load_data
from autoprune.data.preprocessing import unit_range
from autoprune.errors import ConfigError, DataError, ModelError, PluginError
from autoprune.evaluation.subject import image_arrays
from autoprune.models.storage.saved import load
from autoprune.models.zoo.catalogue import build_model
from autoprune.report.observer import NullObserver
from autoprune.searching.delivery.pruning import MethodOptions, prune
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inspection.networks import evaluate_saved
from autoprune.searching.search.api import run_search
from autoprune.searching.trainings.finetuning import finetune
from autoprune.searching.trainings.options import FinetuneOptions, TrainOptions
from autoprune.searching.trainings.training import train_network
from autoprune.tasks.average_precision import AveragePrecision
from autoprune.tasks.base import Objective
from autoprune.tasks.classification import Classification
from autoprune.tasks.detectors import heads_of
from autoprune.tasks.distillation import Seen, excludes, gap
from autoprune.tasks.registry import DETECTION, make_task
from autoprune.training import Recipe, measure, train
from tests.tasks import own_metrics
from tests.voc_folders import network, write_voc

pytest.importorskip("pycocotools")
NETWORK = "tests.voc_folders:network"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("voc")
    write_voc(path, train=16, test=6)
    return path


@pytest.fixture(scope="module")
def data(folder: Path):
    return load_data(f"voc:{folder}", preprocessing=unit_range((64, 64)))


@pytest.fixture(scope="module")
def trained(data) -> nn.Module:
    torch.manual_seed(0)
    model = network()
    recipe = Recipe(epochs=16, learning_rate=0.02, batch_size=8, gradient_clip=10.0)
    train(model, data.train, range(16), recipe, seed=0, augmentation=data.augmentation, task=data.task)
    return model


def boxes(*corners, labels=None, scores=None, difficult=None):
    count = len(corners)
    found = {
        "boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels or [1] * count, dtype=torch.int64),
    }
    if scores is not None:
        return {**found, "scores": torch.tensor(scores)}
    return {**found, "difficult": torch.tensor(difficult or [False] * count, dtype=torch.bool)}


A, B, FAR = (0, 0, 10, 10), (20, 20, 40, 40), (60, 60, 64, 64)


def precision(found, wanted):
    meter = AveragePrecision()
    meter.add(found, wanted)
    return meter.result()


def test_average_precision_of_known_detections() -> None:
    assert precision([boxes(A, B, scores=[0.9, 0.8])], [boxes(A, B)]) == pytest.approx((1, 1))
    assert precision([boxes(A, scores=[0.9])], [boxes(A, labels=[2])]) == (0, 0)
    assert precision([boxes(scores=[])], [boxes(A)]) == (0, 0)
    # Best first a wrong one: precision 1/2 up to the only recall.
    assert precision([boxes(FAR, A, scores=[0.9, 0.8])], [boxes(A)])[0] == pytest.approx(0.5)
    # Half of the boxes are found: 51 of COCO's 101 recalls lie at or below 0.5.
    assert precision([boxes(A, scores=[0.9])], [boxes(A, B)])[0] == pytest.approx(51 / 101)
    # An overlap of 0.8 counts at the IoUs 0.5, 0.55, ..., 0.8: seven of ten.
    half, mean = precision([boxes((0, 0, 10, 8), scores=[0.9])], [boxes(A)])
    assert (half, mean) == pytest.approx((1, 0.7))


def test_difficult_boxes_need_not_be_found_and_finding_one_is_no_mistake() -> None:
    wanted = [boxes(A, B, difficult=[False, True])]
    assert precision([boxes(A, scores=[0.9])], wanted)[0] == pytest.approx(1)
    assert precision([boxes(B, A, scores=[0.9, 0.8])], wanted)[0] == pytest.approx(1)
    assert precision([boxes(B, A, scores=[0.9, 0.8])], [boxes(A)])[0] == pytest.approx(0.5)


def test_average_precision_is_that_of_torchmetrics() -> None:
    metrics = pytest.importorskip("torchmetrics.detection", reason="compares with torchmetrics where it is installed")
    rng = np.random.default_rng(0)
    found, wanted = [], []
    for _ in range(6):
        low = rng.uniform(0, 40, (5, 2))
        corners = np.concatenate([low, low + rng.uniform(8, 24, (5, 2))], 1)
        labels = rng.integers(1, 4, 5).tolist()
        wanted.append(boxes(*corners.tolist(), labels=labels))
        moved = (corners + rng.normal(0, 1.5, corners.shape)).tolist()
        found.append(boxes(*moved, labels=labels, scores=rng.uniform(0.1, 1, 5).tolist()))
    theirs = metrics.MeanAveragePrecision(backend="pycocotools")
    theirs.update(found, [{"boxes": item["boxes"], "labels": item["labels"]} for item in wanted])
    known = theirs.compute()
    assert precision(found, wanted) == pytest.approx((float(known["map_50"]), float(known["map"])), abs=1e-6)


def test_training_learns_to_find_rectangles(data, trained: nn.Module) -> None:
    torch.manual_seed(0)
    before = measure(network(), data.test, task=data.task)
    after = measure(trained, data.test, task=data.task)
    assert before.accuracy < 0.2
    assert after.accuracy > 0.6
    assert after.loss < before.loss
    assert after.metrics["mAP"] < after.metrics["mAP@0.5"] == after.accuracy


def test_measuring_leaves_a_detector_as_it_was(data, trained: nn.Module) -> None:
    before = copy.deepcopy(trained.state_dict())
    trained.train()
    measure(trained, data.test, task=data.task)
    assert all(module.training for module in trained.modules())
    trained.eval()
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())


def test_a_gap_is_nothing_for_equal_networks_and_bounded_by_what_both_see(data, trained: nn.Module) -> None:
    images = data.test.take(range(4))
    torch.manual_seed(1)
    other = network()
    with torch.no_grad():
        mine, wanted = Seen(*heads_of(other, images)), Seen(*heads_of(trained, images))
    assert excludes(trained)
    for exclusive in (True, False):
        assert float(gap(wanted, wanted, temperature=4.0, exclusive=exclusive)) == pytest.approx(0, abs=1e-5)
        assert float(gap(mine, wanted, temperature=4.0, exclusive=exclusive)) > 0.1


def test_distillation_alone_pulls_a_detector_towards_its_teacher(data, trained: nn.Module) -> None:
    torch.manual_seed(2)
    student = network()
    images = data.test.take(range(6))

    def distance() -> float:
        with torch.no_grad():
            return float(
                gap(Seen(*heads_of(student, images)), Seen(*heads_of(trained, images)), temperature=1.0, exclusive=True)
            )

    before = distance()
    recipe = Recipe(epochs=8, learning_rate=0.02, batch_size=8, distillation=1.0, temperature=4.0, gradient_clip=10.0)
    train(student, data.train, range(16), recipe, seed=0, teacher=trained, task=data.task)
    assert distance() < 0.7 * before
    assert not student.get_submodule("head")._forward_hooks


def test_the_loss_without_a_teacher_is_the_detectors_own(data, trained: nn.Module) -> None:
    images, targets = data.test.take([0, 1]), data.test.annotations.targets([0, 1], torch.device("cpu"))
    model = copy.deepcopy(trained).train()
    own = sum(copy.deepcopy(model)(list(images), targets).values())
    loss = DETECTION.loss(
        model,
        images,
        targets,
        teacher=None,
        objective=Objective(distillation=0.9),
        precision=torch.autocast("cpu", enabled=False),
    )
    assert loss.item() == pytest.approx(own.item())


def test_images_with_boxes_travel_to_workers_as_bytes(data) -> None:
    arrays = image_arrays(data.train, np.array([3, 1]), "holdout")
    assert arrays["holdout/pixels"].dtype == np.uint8
    assert len(arrays["holdout/boxes/starts"]) == 3


@pytest.mark.parametrize(
    ("model", "words"),
    [("digits/resnet", "is no one-stage detector"), ("tests.voc_folders:narrow", "tells 1 classes")],
)
def test_a_network_for_something_else_is_one_line(model: str, words: str, folder: Path, tmp_path: Path) -> None:
    options = TrainOptions(model=model, data=f"voc:{folder}", epochs=1, out=tmp_path / "run", no_mlflow=True)
    with pytest.raises(ModelError, match=words):
        train_network(options, NullObserver())


def test_a_task_must_go_with_the_images(folder: Path) -> None:
    with pytest.raises(DataError, match="needs one class an image"):
        load_data(f"voc:{folder}", task="classification")
    with pytest.raises(DataError, match="needs boxes, as voc:DIR has"):
        load_data("digits", task="detection")
    with pytest.raises(ConfigError, match="Did you mean 'detection'"):
        make_task("detecton")
    with pytest.raises(PluginError, match="which is no task"):
        make_task("tests.tasks.own_metrics:no_task")


def test_without_pycocotools_one_line_says_which_extra_to_install(data, trained, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(ConfigError, match=r"pip install 'autoprune\[detection\]'"):
        DETECTION.check_outputs({}, images=torch.zeros(1, 3, 8, 8), classes=1, model="m", data="d")


@pytest.mark.parametrize(("name", "reported"), [("TopThree", "top-3 accuracy"), ("TopThreeError", "1 - top-3 error")])
def test_a_users_own_metric_is_measured_searched_by_and_called_what_it_is(
    name: str, reported: str, tmp_path: Path
) -> None:
    spec = f"tests.tasks.own_metrics:{name}"
    data = load_data("digits", task=spec)
    model = own_metrics.network()
    top, plain = (measure(model, data.test, task=task) for task in (data.task, Classification()))
    assert top.accuracy > plain.accuracy
    others = [measure(model, data.test, task=task()) for task in (own_metrics.TopThree, own_metrics.TopThreeError)]
    assert [scores.accuracy for scores in others] == pytest.approx([top.accuracy] * 2)
    options = SearchOptions(
        model="tests.tasks.own_metrics:network",
        data="digits",
        task=spec,
        candidates=2,
        finetune_epochs=0.0,
        backend="serial",
        no_mlflow=True,
        calibration_images=64,
        holdout_images=100,
        out=tmp_path / "run",
    )
    summary = run_search(options, observer=NullObserver()).summary
    assert summary["metric"] == reported
    assert summary["dense"]["accuracy"] == top.accuracy
    assert f'"{reported}"' in (tmp_path / "run" / "front.html").read_text()
    found = evaluate_saved(tmp_path / "run" / "incumbent", data=None, data_root=None, split="test")
    assert (found["metric"], found["accuracy"]) == (reported, summary["incumbent"]["accuracy"])


def test_a_detector_is_trained_searched_pruned_finetuned_and_evaluated(folder: Path, tmp_path: Path) -> None:
    quiet, spec = {"no_mlflow": True, "data": f"voc:{folder}"}, NETWORK
    report = train_network(
        TrainOptions(model=spec, epochs=2, learning_rate=0.02, batch_size=8, out=tmp_path / "dense", **quiet),
        NullObserver(),
    )
    assert report["metric"] == "mAP@0.5"
    assert set(report["metrics"]) == {"mAP@0.5", "mAP"}
    weights = tmp_path / "dense" / "weights.safetensors"
    common = {"model": spec, "weights": weights, "scope": "internal", "holdout_images": 4, **quiet}
    found = run_search(
        SearchOptions(
            candidates=1, strategy="uniform", backend="serial", finetune_epochs=1.0, out=tmp_path / "search", **common
        ),
        observer=NullObserver(),
    )
    summary = json.loads((tmp_path / "search" / "summary.json").read_text())
    assert (summary["task"], summary["metric"]) == ("detection", "mAP@0.5")
    assert summary["incumbent"]["flops"] <= 0.5 * summary["dense"]["flops"]
    assert summary["incumbent"]["accuracy"] == summary["incumbent"]["metrics"]["mAP@0.5"]
    assert summary["failures"] == 0
    assert found.incumbent is not None
    pruned = prune(SearchOptions(out=tmp_path / "pruned", **common), MethodOptions(no_training=True), NullObserver())
    assert pruned["metric"] == "mAP@0.5"
    tuned = finetune(
        FinetuneOptions(
            source=tmp_path / "pruned" / "incumbent", weights=weights, epochs=1, out=tmp_path / "tuned", **quiet
        ),
        NullObserver(),
    )
    assert tuned["recipe"]["distillation"] > 0
    again = evaluate_saved(tmp_path / "tuned", data=None, data_root=None, split="test")
    assert again["accuracy"] == pytest.approx(tuned["accuracy"])
    small = load(tmp_path / "tuned")
    with torch.no_grad():
        detections = small([torch.rand(3, 64, 64)])
    assert set(detections[0]) == {"boxes", "scores", "labels"}


def test_anchors_stay_exact_where_maps_are_in_half_precision():
    """RetinaNet's would be rounded by up to four pixels, and once for all."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("torchvision/retinanet_resnet50_fpn", classes=3)
    made = []
    model.anchor_generator.register_forward_hook(lambda module, arguments, anchors: made.append(anchors))
    batch = torch.rand(1, 3, 64, 64)
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])}]
    for half in (False, True):
        loss = DETECTION.loss(
            model.train(),
            batch,
            targets,
            teacher=None,
            objective=Objective(),
            precision=torch.autocast("cpu", dtype=torch.bfloat16, enabled=half),
        )
        assert torch.isfinite(loss)
    exact, half = (torch.cat(anchors) for anchors in made)
    assert half.dtype is torch.float32
    assert torch.equal(exact, half)
