from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from toy_problem import Network, loaders, network, sets

import autoprune
from autoprune.cli.edge import run as command_line
from autoprune.data.bundle import bundle_from
from autoprune.data.sources import load_data
from autoprune.errors import ConfigError, DataError, ModelError, PluginError
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import Problem, load_problem, problem_from, require_fit


class Heard(NullObserver):
    """Remembers warnings."""

    def __init__(self):
        self.warnings = []

    def warning(self, text):
        self.warnings.append(text)


def problem(model, data=None):
    return Problem("toy", None, None, model.eval(), data or bundle_from(*sets()))


class Holding(Network):
    """A network with a function in it that uses its layers."""

    def __init__(self):
        super().__init__()
        self.first = lambda x: torch.relu(self.stem(x))

    def forward(self, x):
        return self.head(self.block2(self.block1(self.first(x))).mean((2, 3)))


class Hiding(Holding):
    """One that hides it in an object."""

    def __init__(self, tools=SimpleNamespace):
        super().__init__()
        self.tools = tools(first=self.first)

    def forward(self, x):
        return self.head(self.block2(self.block1(self.tools.first(x))).mean((2, 3)))


class Single(SimpleNamespace):
    """Its own copy."""

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("make", [Holding, Hiding])
def test_a_network_that_a_function_in_it_holds_is_copied_with_it(make):
    heard, model = Heard(), make()
    found = problem_from(model, sets(), SearchOptions(), heard).model
    assert heard.warnings == []
    with torch.no_grad():
        found.stem.weight.fill_(float("nan"))
    assert bool(found(sets()[1].tensors[0][:2]).isnan().all())
    assert not bool(model.eval()(sets()[1].tensors[0][:2]).isnan().any())


def test_a_network_with_an_object_that_holds_layers_and_is_no_copy_is_warned_of():
    heard = Heard()
    problem_from(Hiding(Single), sets(), SearchOptions(), heard)
    (warning,) = heard.warnings
    assert warning.startswith("Hiding.tools holds layers of the network and cannot be copied")


class TestFit:
    def test_a_network_that_fits_its_images_passes(self):
        require_fit(problem(network()))

    def test_more_outputs_than_classes_are_fine(self):
        require_fit(problem(Network(classes=9)))

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (Network().double(), r"Its weights are float64, but autoprune works in float32: give it model.float\(\)"),
            (Network().half(), r"Its weights are float16, but autoprune works in float32"),
            (Network(channels=3), "toy does not take the 1x8x8 images of custom: RuntimeError"),
            (Network(classes=2), "toy has 2 outputs, but custom has 4 classes"),
            (torch.nn.Identity(), r"not \(images, classes\)"),
        ],
    )
    def test_a_network_that_does_not_is_refused_with_the_reason(self, model, message):
        with pytest.raises(ModelError, match=message):
            require_fit(problem(model))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_weights_that_are_not_finite_are_refused(self, value):
        model = network()
        model.head.bias.data[0] = value
        with pytest.raises(ModelError, match="not finite"):
            require_fit(problem(model))


class TestProblem:
    def test_names_of_plugins_are_loaded(self, folder):
        options = SearchOptions(model="toy_problem:network", data="toy_problem:sets")
        found = load_problem(options, NullObserver())
        assert (found.name, found.data.name, found.objects) == ("toy_problem:network", "toy_problem:sets", ())

    @pytest.mark.parametrize(
        ("model", "data", "error", "message"),
        [
            ("toy_problem:broken", "toy_problem:sets", PluginError, "ValueError: the factory broke$"),
            ("toy_problem:not_a_network", "toy_problem:sets", PluginError, "returned a int"),
            ("toy_problem:netwrk", "toy_problem:sets", PluginError, "Did you mean 'network'"),
            ("toy_problem:network", "toy_problem:broken_data", PluginError, "the disk is on fire"),
            ("toy_problem:network", None, ConfigError, "Name them with --data"),
            ("cifar/resnet21-b", "digits", ModelError, "Did you mean"),
            ("cifar/resnet20-b", "digits", DataError, "channels"),
            ("digits/resnet", "digts", DataError, "Did you mean 'digits'"),
            (None, "mnist", ConfigError, "Name it with --model"),
        ],
    )
    def test_names_that_lead_nowhere_are_one_clear_error(self, folder, model, data, error, message):
        with pytest.raises(error, match=message) as raised:
            load_problem(SearchOptions(model=model, data=data), NullObserver())
        assert "\n" not in str(raised.value)

    def test_objects_are_taken_as_they_are(self):
        found = problem_from(network(), loaders(), SearchOptions(), NullObserver())
        assert (found.name, found.spec, found.objects) == ("Network", None, ("model", "data"))
        assert len(found.data.train) == 120

    @pytest.mark.parametrize("given", ["its name", "a bundle", "a pair"])
    def test_a_network_that_comes_trained_does_so_however_its_images_are_given(self, given):
        digits, heard = load_data("digits"), Heard()
        pair = tuple(
            (part.take(range(len(part))), torch.as_tensor(part.labels)) for part in (digits.train, digits.test)
        )
        data = {"its name": "digits", "a bundle": digits, "a pair": pair}[given]
        found = problem_from("digits/resnet", data, SearchOptions(), heard)
        assert (found.trained_here, found.classes, heard.warnings) == (True, None, [])
        assert found.objects == (() if given == "its name" else ("data",))
        test = found.data.test
        with torch.no_grad():
            named = found.model(test.take(range(100))).argmax(1).numpy()
        assert (named == test.labels[:100]).mean() > 0.95

    @pytest.mark.parametrize("model", ["digits/resnet", "toy_problem:network"])
    def test_a_network_that_nobody_has_trained_for_its_images_is_said_to_be_none(self, folder, model):
        for data in ("toy_problem:sets", sets(), loaders()):  # of four classes
            heard = Heard()
            assert not problem_from(model, data, SearchOptions(), heard).trained_here
            assert heard.warnings == [f"No weights are given: {model} keeps the weights it is built with."]

    @pytest.mark.parametrize("data", ["toy_problem:sets", sets()], ids=["named images", "images"])
    def test_weights_that_are_given_are_loaded(self, folder, data):
        other, heard = network(), Heard()
        other.head.bias.data += 1
        torch.save(other.state_dict(), "mine.pt")
        found = problem_from("toy_problem:network", data, SearchOptions(weights=Path("mine.pt")), heard)
        assert torch.equal(found.model.head.bias, other.head.bias)
        assert heard.warnings == []

    @pytest.mark.parametrize("model", ["toy_problem:network", network()], ids=["named network", "network"])
    @pytest.mark.parametrize("data", ["toy_problem:sets", sets()], ids=["named images", "images"])
    def test_the_task_is_the_one_asked_for_however_both_are_given(self, folder, model, data):
        found = problem_from(model, data, SearchOptions(task="tests.tasks.own_metrics:TopThree"), NullObserver())
        assert found.data.task.metric == "top-3 accuracy"
        with pytest.raises(ConfigError, match="Unknown task 'no_such_task'"):
            problem_from(model, data, SearchOptions(task="no_such_task"), NullObserver())
        with pytest.raises(DataError, match="but the task 'detection' needs"):
            problem_from(model, data, SearchOptions(task="detection"), NullObserver())

    @pytest.mark.parametrize(("model", "data"), [(5, None), (None, "digits")])
    def test_a_model_that_is_none_is_refused(self, model, data):
        with pytest.raises(ModelError, match=r"Give an nn\.Module or a name"):
            problem_from(model, data, SearchOptions(), NullObserver())

    def test_data_that_are_none_are_refused(self):
        with pytest.raises(DataError, match=r"Give a name, \(training, test\) or"):
            problem_from(network(), 7, SearchOptions(), NullObserver())


class Bare(torch.utils.data.Dataset):
    """A data set of images alone."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


class Wordy(torch.nn.Module):
    def forward(self, x):
        return "a cat"


class Pair(torch.nn.Module):
    """Maps and, in a dictionary, logits; in training mode the maps alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        # Photographs come as large as ImageNet's.
        x = torch.relu(self.inner.stem(x if x.shape[-1] == 8 else functional.avg_pool2d(x, 28)))
        maps = self.inner.block2(self.inner.block1(x))
        logits = self.inner.head(maps.mean((2, 3)))
        return maps[:, :4] if self.training else (maps[:, :4], {"class": logits})


def pair():
    torch.manual_seed(0)
    return Pair(Network(channels=3)).eval()


class TestImagesWithoutLabels:
    def test_the_dense_network_names_their_classes(self):
        images, model = torch.randn(40, 1, 8, 8), network()
        data = problem_from(model, images, SearchOptions(), NullObserver()).data
        assert (len(data.train), len(data.test), data.classes) == (32, 8, ("0", "1", "2", "3"))
        assert (data.task.name, data.task.reported) == ("imitation", "agreement")
        for part in (data.train, data.test):
            named = model(part.take(range(len(part)))).argmax(1)
            assert part.labels.tolist() == named.tolist()

    @pytest.mark.parametrize("wrapped", [Bare, lambda images: DataLoader(Bare(images), batch_size=3)])
    def test_data_sets_and_loaders_of_them_are_taken(self, wrapped):
        images = torch.randn(20, 1, 8, 8)
        found = problem_from(network(), wrapped(images), SearchOptions(), NullObserver()).data
        alone = problem_from(network(), images, SearchOptions(), NullObserver()).data
        assert torch.equal(found.test.take([0, 1, 2, 3]), alone.test.take([0, 1, 2, 3]))

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (TensorDataset(torch.randn(20, 1, 8, 8), torch.zeros(20, dtype=torch.int64)), "give a pair"),
            (torch.randn(9, 1, 8, 8), "There are 9 images in the data, but 10 are the fewest"),
            (torch.zeros(20, 1, 8, 8, dtype=torch.uint8), "torch.uint8 .* not a float tensor"),
        ],
    )
    def test_what_is_none_is_refused(self, data, message):
        with pytest.raises(DataError, match=message):
            problem_from(network(), data, SearchOptions(), NullObserver())

    def test_of_a_network_without_classes_the_answers_are_kept(self):
        images, model = torch.randn(40, 1, 8, 8), torch.nn.Conv2d(1, 4, 3)
        data = problem_from(model, images, SearchOptions(), NullObserver()).data
        assert (data.task.name, data.task.reported, data.classes) == ("outputs", "fidelity", ())
        for part in (data.train, data.test):
            said = model(part.take(range(len(part)))).flatten(1)
            assert torch.equal(part.annotations.targets(range(len(part)), torch.device("cpu")), said)

    def test_outputs_are_compared_of_a_classifier_too_where_that_is_asked_for(self):
        data = problem_from(network(), torch.randn(40, 1, 8, 8), SearchOptions(task="outputs"), NullObserver()).data
        assert (data.task.name, data.train.annotations.values.shape) == ("outputs", (32, 4))

    def test_a_network_that_puts_out_no_numbers_is_refused(self):
        with pytest.raises(ModelError, match="no floating-point tensor with a row for each image"):
            problem_from(Wordy(), torch.randn(20, 1, 8, 8), SearchOptions(), NullObserver())

    def test_a_search_of_a_network_without_classes_needs_no_label_either(self, tmp_path):
        images, model = torch.randn(60, 1, 8, 8), Pair(network())
        options = {"candidates": 4, "backend": "serial", "no_mlflow": True, "finetune_epochs": 0.5}
        found = autoprune.search(model, images, out=tmp_path / "out", **options)
        summary = found.summary
        assert (summary["task"], summary["metric"], summary["dense"]["accuracy"]) == ("outputs", "fidelity", 1.0)
        assert 0.5 < summary["incumbent"]["accuracy"] < 1
        maps, said = found.incumbent.build()(images[:2])
        assert (maps.shape, said["class"].shape) == ((2, 4, 8, 8), (2, 4))

    def test_a_search_needs_no_label(self, tmp_path):
        images = torch.randn(60, 1, 8, 8)
        options = {"candidates": 3, "backend": "serial", "no_mlflow": True, "finetune_epochs": 0.1}
        found = autoprune.search(network(), images, out=tmp_path / "out", **options)
        assert found.summary["metric"] == "agreement"
        assert found.summary["dense"]["accuracy"] == 1.0
        assert found.incumbent.build()(images[:1]).shape == (1, 4)


@pytest.fixture
def photographs(tmp_path):
    """A folder of 40 images of 8x8 grey pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    (tmp_path / "images" / "camera").mkdir(parents=True)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / "camera" / f"{index:02d}.png")
    return tmp_path / "images"


class TestAFolderOfImages:
    def test_is_pruned_judged_and_finetuned_without_labels(self, photographs, tmp_path, capsys):
        out, data = tmp_path / "out", f"images:{photographs}"
        arguments = ["--model", "digits/resnet", "--data", data, "--budget", "60%flops", "--out", str(out)]
        assert command_line(["prune", "--no-training", "--json", *arguments]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["task"], summary["metric"], summary["dense"]["accuracy"]) == ("imitation", "agreement", 1.0)
        for split, images in (("test", 8), ("train", 32), ("holdout", summary["images"]["holdout"])):
            assert command_line(["evaluate", str(out / "incumbent"), "--split", split, "--json"]) == 0
            again = json.loads(capsys.readouterr().out)
            assert (again["metric"], again["images"]) == ("agreement", images)
            assert split != "test" or again["accuracy"] == summary["incumbent"]["accuracy"]
        tuned = ["finetune", str(out), "--epochs", "0.5", "--no-mlflow", "--out", str(tmp_path / "tuned")]
        assert command_line([*tuned, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["metric"] == "agreement"

    def test_a_network_without_classes_goes_the_same_way(self, photographs, tmp_path, capsys):
        out, model = tmp_path / "out", "tests.searching.inputs.test_problems:pair"
        arguments = [
            "--model",
            model,
            "--data",
            f"images:{photographs}",
            "--budget",
            "60%flops",
            "--no-mlflow",
            "--out",
            str(out),
        ]
        assert command_line(["search", *arguments, "--candidates", "3", "--workers", "2", "--json"]) == 0
        summary = json.loads(capsys.readouterr().out)
        assert (summary["task"], summary["metric"], summary["failures"]) == ("outputs", "fidelity", 0)
        for split in ("test", "train", "holdout"):
            assert command_line(["evaluate", str(out / "incumbent"), "--split", split, "--json"]) == 0
            again = json.loads(capsys.readouterr().out)
            assert again["metric"] == "fidelity"
            assert split != "test" or again["accuracy"] == pytest.approx(summary["incumbent"]["accuracy"], abs=1e-6)
        for distils in ([], ["--no-distillation"]):
            tuned = ["finetune", str(out), "--epochs", "2", "--no-mlflow", "--out", str(tmp_path / f"t{len(distils)}")]
            assert command_line([*tuned, *distils, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["metric"] == "fidelity"
        assert command_line(["report", str(out)]) == 0
        assert command_line(["export", str(out), "--format", "torch-export"]) == 0

    def test_named_from_here_is_found_by_a_team_too(self, photographs, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = "tests.searching.inputs.test_problems:pair"
        arguments = ["--model", model, "--data", f"images:{photographs.name}", "--budget", "60%flops", "--out", "out"]
        assert command_line(["prune", "--method", "uniform", *arguments]) == 0
        tuned = ["finetune", "out", "--epochs", "1", "--no-mlflow", "--workers", "2", "--out", "tuned"]
        assert command_line(tuned) == 0
        assert "fidelity" in capsys.readouterr().out

    def test_is_nothing_to_train_on(self, photographs, tmp_path, capsys):
        arguments = ["--model", "digits/resnet", "--data", f"images:{photographs}", "--epochs", "1"]
        assert command_line(["train", *arguments, "--no-mlflow", "--out", str(tmp_path / "out")]) == 2
        assert "has no labels to train on" in capsys.readouterr().err

    def test_cannot_be_judged_where_the_dense_network_is_missing(self, photographs, tmp_path, capsys):
        out = tmp_path / "out"
        arguments = ["--model", "digits/resnet", "--data", f"images:{photographs}", "--out", str(out)]
        assert command_line(["prune", *arguments]) == 0
        path = out / "incumbent" / "structure.json"
        saved = json.loads(path.read_text())
        saved["dense"]["fingerprint"] = "another"
        path.write_text(json.dumps(saved))
        assert command_line(["evaluate", str(out / "incumbent")]) == 2
        assert "only the dense network can tell what is right" in capsys.readouterr().err
