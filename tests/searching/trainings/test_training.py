from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toy_problem import three_channels

from autoprune.cli.edge import run
from autoprune.config.layout import STRUCTURE
from autoprune.data.sources import load_data
from autoprune.errors import BackendError, ConfigError, DataError, DivergenceError, ModelError, RunError, WeightsError
from autoprune.models.storage.saved import load, read_saved
from autoprune.models.zoo.weights import load_weights, read_state, state_fingerprint
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.searching.trainings.finetuning import FinetuneOptions, finetune
from autoprune.searching.trainings.options import PRECISIONS, TrainOptions, options_from
from autoprune.searching.trainings.training import train_network
from autoprune.training.features import FeatureDistillation
from autoprune.training.hooks import Hook
from autoprune.training.measure import measure

SMALL = {"model": "toy_problem:network", "data": "toy_problem:sets", "batch_size": 16, "device": "cpu"}


class Watching(NullObserver):
    """Notes stages and warnings; dies at a step, as by Ctrl-C."""

    def __init__(self, *, die_at: int | None = None) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []
        self.steps: list[int] = []
        self._die_at = die_at

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def progress(self, done: float, total: float) -> None:
        if done == self._die_at:
            raise KeyboardInterrupt
        self.steps.append(int(done))


def options(out="t", **given) -> TrainOptions:
    return TrainOptions(**{**SMALL, "epochs": 3, "out": Path(out), "no_mlflow": True, **given})


def unlike_clocks(report: dict) -> dict:
    """Returns a report without what differs between equal trainings."""
    clean = {name: value for name, value in report.items() if name not in ("uuid", "seconds", "folder", "options")}
    clean["history"] = [{name: row[name] for name in row if name != "seconds"} for row in report["history"]]
    return clean


def test_a_training_learns_reports_every_epoch_and_leaves_weights_that_a_search_reads(folder):
    watching = Watching()
    report = train_network(options(epochs=6, learning_rate=0.05), watching)
    # 120 training images, a tenth of them held out.
    assert report["images"] == {"training": 108, "holdout": 12, "test": 40}
    assert [row["epoch"] for row in report["history"]] == [1, 2, 3, 4, 5, 6]
    assert report["accuracy"] > 0.5
    assert report["history"][-1]["train_loss"] < report["history"][0]["train_loss"]
    assert report["best"]["holdout_accuracy"] == max(row["holdout_accuracy"] for row in report["history"])
    assert report["holdout_accuracy"] == report["history"][-1]["holdout_accuracy"]
    assert sum("hold-out" in stage for stage in watching.stages) == 6
    assert json.loads(Path("t/training.json").read_text()) == report
    assert sorted(path.name for path in Path("t").iterdir()) == ["training.json", "weights.safetensors"]

    from autoprune.models.zoo.catalogue import build_model

    model = build_model("toy_problem:network", weights=Path("t/weights.safetensors"))
    data = load_data("toy_problem:sets")
    assert measure(model, data.test).accuracy == report["accuracy"]
    assert torch.equal(read_state(Path("t/weights.safetensors"))["head.bias"], model.head.bias)


def test_the_test_set_is_read_once_after_the_last_epoch_and_the_holdout_is_never_trained_on(folder, monkeypatch):
    measured, trained = [], []
    real_measure, real_train = measure, None

    def watch(model, images, indices=None, **keywords):
        measured.append((len(images), None if indices is None else set(indices.tolist())))
        return real_measure(model, images, indices, **keywords)

    import autoprune.searching.trainings.journal as journal
    import autoprune.searching.trainings.run as module

    real_train = module.train

    def watch_training(model, images, indices, *arguments, **keywords):
        trained.append(set(indices.tolist()))
        return real_train(model, images, indices, *arguments, **keywords)

    monkeypatch.setattr(module, "measure", watch)
    monkeypatch.setattr(journal, "measure", watch)
    monkeypatch.setattr(module, "train", watch_training)
    train_network(options(epochs=2), Watching())
    assert [count for count, _ in measured] == [120, 120, 40]
    assert measured[0][1] == measured[1][1]
    assert not trained[0] & measured[0][1]
    assert trained[0] | measured[0][1] == set(range(120))


def test_a_training_stopped_in_the_middle_goes_on_to_the_same_result(folder):
    whole = train_network(options("whole"), Watching())
    with pytest.raises(KeyboardInterrupt) as stopped:
        train_network(options("cut"), Watching(die_at=10))  # 6.75 steps an epoch: in the second
    assert "autoprune train --resume cut" in " ".join(stopped.value.__notes__)
    record = RunFolder(Path("cut")).training()
    assert (record["kind"], record["finished"]) == ("train", False)
    watching = Watching()
    resumed = train_network(options_from(TrainOptions, record["options"], out=Path("cut")), watching)
    assert watching.steps[0] == 8
    assert any(stage.startswith("Resuming") for stage in watching.stages)
    assert unlike_clocks(resumed) == unlike_clocks(whole)
    cut, uncut = (read_state(Path(name) / "weights.safetensors") for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], uncut[name]) for name in uncut)
    assert [row["seconds"] for row in resumed["history"]] == sorted(row["seconds"] for row in resumed["history"])


def test_a_finished_training_is_reported_again_and_not_repeated(folder):
    report = train_network(options(epochs=1), Watching())
    watching = Watching()
    assert train_network(options(epochs=1), watching) == report
    assert watching.steps == []


def test_checkpoints_come_as_often_as_asked(folder):
    # Seven steps an epoch, killed in the first.
    with pytest.raises(KeyboardInterrupt):
        train_network(options(checkpoint_steps=2), Watching(die_at=5))
    assert [path.name for path in sorted(Path("t/checkpoints").glob("step-*.pt"))] == [
        "step-00000002.pt",
        "step-00000004.pt",
    ]


def test_the_checkpoints_of_other_options_are_refused(folder):
    with pytest.raises(KeyboardInterrupt):
        train_network(options(), Watching(die_at=10))
    with pytest.raises(RunError, match=r"another training: learning_rate is 0\.1 there and 0\.05 here"):
        train_network(options(learning_rate=0.05), Watching())


def test_a_training_stays_in_32_bits_where_that_is_asked_for(folder):
    asked = {
        precision: train_network(options(precision, precision=precision), NullObserver()) for precision in PRECISIONS
    }
    assert {name: report["recipe"]["mixed_precision"] for name, report in asked.items()} == {
        "auto": True,
        "float32": False,
    }


def test_a_fraction_of_an_epoch_at_the_end_is_reported_too(folder):
    report = train_network(options(epochs=1.5), Watching())
    assert [row["epoch"] for row in report["history"]] == [1, 1.5]


def test_a_diverging_training_names_its_last_good_checkpoint(folder, monkeypatch):
    class Breaking(Hook):
        def begin(self, state):
            self._model = state.model

        def epoch_ended(self, epoch):
            if epoch == 2:
                self._model.head.weight.data[0, 0] = float("inf")

    monkeypatch.setattr("autoprune.methods.regularisers.make_regulariser", lambda *_: Breaking())
    with pytest.raises(DivergenceError, match=r"last good checkpoint is t/checkpoints/step-00000007\.pt: start from"):
        train_network(options(regulariser="ccm"), Watching())
    good = Path("t/checkpoints/step-00000007.pt")
    again = train_network(options("again", weights=good, learning_rate=0.001, epochs=1), Watching())
    assert again["accuracy_before"] is not None


def test_a_training_that_diverges_at_once_says_that_nothing_is_left(folder):
    with pytest.raises(DivergenceError, match="no good epoch"):
        train_network(options(learning_rate=1e12), Watching())


def test_a_regulariser_and_its_strength_take_part(folder):
    losses = {train_network(options("plain", epochs=1), Watching())["history"][0]["train_loss"]}
    for name, strength in (("orthoreg", None), ("orthoreg", 1.0), ("ccm", None)):
        report = train_network(
            options(f"{name}{strength}", epochs=1, regulariser=name, regulariser_strength=strength), Watching()
        )
        losses.add(report["history"][0]["train_loss"])
    assert len(losses) == 4
    with pytest.raises(ConfigError, match="orthoreg"):
        train_network(options("x", regulariser="orthorge"), Watching())


def test_a_teacher_is_a_weights_file_or_the_folder_of_a_saved_network(folder, saved):
    first = train_network(options("first", epochs=2, learning_rate=0.05), Watching())
    for number, teacher in enumerate((Path("first/weights.safetensors"), saved)):
        report = train_network(options(f"taught{number}", epochs=1, teacher=teacher), Watching())
        assert report["recipe"]["distillation"] == 0.9
    assert first["recipe"]["distillation"] == 0


def test_another_network_teaches_in_place_of_the_dense_one(saved, monkeypatch):
    # Its channels are not those.
    monkeypatch.setattr("autoprune.searching.trainings.finetuning.FeatureDistillation", None)
    train_network(options("wide", model="toy_problem:wide", epochs=0.1), Watching())
    Path("dense.safetensors").unlink()
    other = {"teacher": Path("wide/weights.safetensors"), "epochs": 0.2}
    taught = finetune(tuning("taught", teacher_model="toy_problem:wide", **other), Watching())
    assert taught["recipe"]["distillation"] == 0.9
    alone = finetune(tuning("alone", epochs=0.2, no_distillation=True, learning_rate=0.01), Watching())
    assert taught["history"][0]["train_loss"] != alone["history"][0]["train_loss"]
    with pytest.raises(WeightsError, match=r"12x1x3x3, model 8x1x3x3.*Check that the model named"):
        finetune(tuning("x", **other), Watching())
    save_file(three_channels().state_dict(), other["teacher"])
    with pytest.raises(ModelError, match=r"The teacher in 'wide/weights\.safetensors'"):
        finetune(tuning("y", teacher_model="toy_problem:three_channels", **other), Watching())


def test_a_record_that_lacks_an_option_says_so(folder):
    with pytest.raises(RunError, match=r"lacks an option .*model"):
        options_from(TrainOptions, {"epochs": 1}, out=folder)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Returns a run folder whose incumbent was cut from `dense.safetensors` beside it."""
    from autoprune.models.zoo.catalogue import build_model
    from autoprune.searching.delivery.pruning import MethodOptions, prune

    place = tmp_path_factory.mktemp("pruned")
    save_file(build_model("toy_problem:network").state_dict(), place / "dense.safetensors")
    search = SearchOptions(
        model="toy_problem:network",
        data="toy_problem:sets",
        weights=place / "dense.safetensors",
        out=place / "run",
        finetune_epochs=0.0,
        device="cpu",
    )
    prune(search, MethodOptions(method="l1"), NullObserver(), budgeted=True)
    return place / "run"


@pytest.fixture
def saved(pruned, folder):
    """Returns a copy of the cut network in the present folder."""
    shutil.copytree(pruned / "incumbent", "net")
    shutil.copy(pruned.parent / "dense.safetensors", "dense.safetensors")
    return Path("net")


def tuning(out="tuned", **given) -> FinetuneOptions:
    usual = {"source": Path("net"), "epochs": 2, "batch_size": 16, "device": "cpu", "no_mlflow": True}
    return FinetuneOptions(**{**usual, "out": Path(out), **given})


def test_finetuning_keeps_the_structure_and_the_layout(saved):
    report = finetune(tuning(), Watching())
    before, after = read_saved(saved), read_saved(Path("tuned"))
    assert (after.widths, after.kept, after.maps, after.cost) == (before.widths, before.kept, before.maps, before.cost)
    assert after.info["accuracy_before_finetune"] == report["accuracy_before"]
    assert after.info["accuracy"] == report["accuracy"]
    data = load_data("toy_problem:sets")
    assert measure(load(saved), data.test).accuracy == report["accuracy_before"]
    assert measure(load("tuned"), data.test).accuracy == report["accuracy"]
    assert state_fingerprint(load(saved)) != state_fingerprint(load("tuned"))
    assert report["recipe"]["distillation"] == 0.9


def test_a_finetuning_is_taught_by_the_features_of_the_dense_network_unless_by_labels_alone(saved, monkeypatch):
    gaps = []

    class Telling(FeatureDistillation):
        def penalty(self):
            found = super().penalty()
            gaps.append(None if found is None else found.item())
            return found

    monkeypatch.setattr("autoprune.searching.trainings.finetuning.FeatureDistillation", Telling)
    finetune(tuning(epochs=6), Watching())
    fifth = len(gaps) // 5
    assert sum(gaps[-fifth:]) < 0.8 * sum(gaps[:fifth])
    gaps.clear()
    finetune(tuning("alone", epochs=0.1, no_distillation=True), Watching())
    assert gaps == []


def test_a_finetuning_stopped_in_the_middle_goes_on_to_the_same_network(saved, monkeypatch):
    finetune(tuning("whole"), Watching())
    with pytest.raises(KeyboardInterrupt) as stopped:
        finetune(tuning("cut"), Watching(die_at=9))
    assert "autoprune finetune --resume cut" in " ".join(stopped.value.__notes__)
    record = RunFolder(Path("cut")).training()
    assert record["kind"] == "finetune"
    # Even where another version would finetune by other rules.
    monkeypatch.setattr("autoprune.training.recipe._RATED_STEPS", 7.0)
    monkeypatch.setattr("autoprune.training.recipe._SMALLEST_BATCH", 2)
    finetune(options_from(FinetuneOptions, record["options"], out=Path("cut")), Watching())
    assert state_fingerprint(load("cut")) == state_fingerprint(load("whole"))


def test_the_teacher_is_found_by_its_checksum_or_asked_for(saved, monkeypatch):
    Path("weights").mkdir()
    shutil.move("dense.safetensors", "weights/dense.safetensors")
    with pytest.raises(ConfigError, match=r"'dense\.safetensors' that 'net' was cut from are not found.*--weights"):
        finetune(tuning(), Watching())
    # A file of that name, but another one.
    shutil.copy(saved / "model.safetensors", "dense.safetensors")
    with pytest.raises(ConfigError, match="not found"):
        finetune(tuning(), Watching())
    monkeypatch.setenv("AUTOPRUNE_WEIGHTS_ROOT", "weights")
    found = finetune(tuning("found", epochs=0.1), Watching())
    assert found["recipe"]["distillation"] == 0.9
    monkeypatch.delenv("AUTOPRUNE_WEIGHTS_ROOT")
    watching = Watching()
    finetune(tuning("named", epochs=0.1, weights=Path("weights/dense.safetensors")), watching)
    assert watching.warnings == []
    assert finetune(tuning("alone", epochs=0.1, no_distillation=True), Watching())["recipe"]["distillation"] == 0


def test_a_teacher_with_other_weights_is_used_with_a_warning(saved):
    train_network(options("other", epochs=0.1), Watching())
    watching = Watching()
    finetune(tuning(epochs=0.1, weights=Path("other/weights.safetensors")), watching)
    assert ["is not the file that net was cut from" in text for text in watching.warnings] == [True]


def test_what_holds_no_network_or_no_data_says_so(saved):
    with pytest.raises(RunError, match=r"neither structure\.json nor incumbent/structure\.json"):
        finetune(tuning(source=Path()), Watching())
    content = json.loads((saved / STRUCTURE).read_text())
    del content["dense"]["data"]
    (saved / STRUCTURE).write_text(json.dumps(content))
    with pytest.raises(Exception, match="does not say what data it is for"):
        finetune(tuning(), Watching())


def test_weights_made_by_training_fit_strictly(folder):
    train_network(options(epochs=0.1), Watching())
    from autoprune.models.zoo.catalogue import build_model

    load_weights(build_model("toy_problem:network"), Path("t/weights.safetensors"))


def test_a_training_and_its_resumption_are_one_mlflow_run_with_a_curve_a_metric(folder, empty_store):
    from mlflow import MlflowClient

    from autoprune.tracking.uris import default_store

    shutil.copy(empty_store, "mlflow.db")
    with pytest.raises(KeyboardInterrupt):
        train_network(options(no_mlflow=False, epochs=2), Watching(die_at=10))
    client = MlflowClient(default_store(folder))
    experiment = client.get_experiment_by_name("autoprune toy_problem:network")
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["KILLED"]
    watching = Watching()
    report = train_network(options(no_mlflow=False, epochs=2), watching)
    assert watching.warnings == []
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "t")
    assert run.data.params["learning_rate"] == "0.1"
    assert run.data.metrics["test_accuracy"] == report["accuracy"]
    for name in ("train_loss", "holdout_accuracy", "learning_rate"):
        points = {point.step: point.value for point in client.get_metric_history(run.info.run_id, name)}
        assert points == {row["epoch"]: row[name] for row in report["history"]}
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["training.json"]


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_finetune_like_one_with_the_same_batch_and_their_driver_tells_everything(saved):
    watching = Watching()
    one, two = finetune(tuning("one"), Watching()), finetune(tuning("two", workers=2), watching)
    assert two["steps"] == one["steps"]
    assert [row["epoch"] for row in two["history"]] == [row["epoch"] for row in one["history"]]
    # Batch norms see half a batch each, so that it is not the same to the last bit.
    assert abs(two["accuracy"] - one["accuracy"]) <= 0.1
    assert two["history"][-1]["train_loss"] == pytest.approx(one["history"][-1]["train_loss"], rel=0.15)
    first, second = load(Path("one")).state_dict(), load(Path("two")).state_dict()
    for name, value in first.items():
        if value.is_floating_point() and value.ndim > 1:
            assert torch.nn.functional.cosine_similarity(value.flatten(), second[name].flatten(), dim=0) > 0.99
    assert not (Path("two") / "checkpoints").exists()
    assert any("Epoch 2 of 2" in text for text in watching.stages)


def test_a_node_without_the_images_is_one_line_that_names_it_and_the_file(saved, monkeypatch, capsys):
    def one_process(work, *, workers, hear, **_):
        try:
            work(1, workers, hear, gpu=False)
        except DataError as error:
            raise BackendError(f"A training process failed: {error}") from error

    missing = (
        "The image '/data/cat/1.png' is not on the machine node-b. Put the image folder at the same path on every node"
    )
    monkeypatch.setattr("autoprune.backends.ray_tune.team.run_team", one_process)
    monkeypatch.setattr("autoprune.searching.trainings.teamwork.missing_here", lambda _images: missing)
    assert run(["finetune", "net", "--out", "tuned", "--workers", "2", "--epochs", "1", "--no-mlflow"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"autoprune: error: {missing}, or finetune with --workers 1."
