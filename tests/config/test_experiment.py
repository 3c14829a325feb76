from __future__ import annotations

import pytest

from autoprune.config.experiment import experiment_kind, load_comparison, load_experiment, load_published
from autoprune.config.options import check_options
from autoprune.config.resources import resource_names
from autoprune.errors import ConfigError

LOADED = {"comparison": load_comparison, "published": load_published}


def written(tmp_path, text):
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", resource_names("experiments"))
def test_every_shipped_experiment_is_valid(name, tmp_path, monkeypatch):
    kind = experiment_kind(name)
    options = load_experiment(name) if kind == "search" else LOADED[kind](name)[-1]
    if "weights" in options:
        # The weights themselves are not at hand everywhere: what is checked is that the file asks for nothing unknown.
        (tmp_path / options["weights"]).touch()
        monkeypatch.setenv("AUTOPRUNE_WEIGHTS_ROOT", str(tmp_path))
    # Nor are the images.
    monkeypatch.chdir(tmp_path)
    (tmp_path / options.get("data", "").partition(":")[2]).mkdir(exist_ok=True)
    assert check_options({}, strategies=("auto",), from_file=options)["model"] == options["model"]


def test_experiments_ship():
    assert "digits-resnet" in resource_names("experiments")


def test_values_take_the_types_of_the_options(tmp_path):
    path = written(
        tmp_path, 'budget = "50%flops"\ntime_limit = "5m"\nworkers = 2\nno_mlflow = true\nfinetune_epochs = 1\n'
    )
    assert load_experiment(path) == {
        "budgets": ("50%flops",),
        "time_limit": 300.0,
        "workers": 2,
        "no_mlflow": True,
        "finetune_epochs": 1.0,
    }


def test_an_unknown_key_names_the_file_and_the_nearest_key(tmp_path):
    path = written(tmp_path, "candidtes = 5\n")
    with pytest.raises(ConfigError, match=r"experiment\.toml: unknown key 'candidtes'\. Did you mean 'candidates'"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('workers = "two"', "workers is 'two', but must be an integer"),
        ("workers = true", "workers is True, but must be an integer"),
        ("workers = 1.5", r"workers is 1\.5, but must be an integer"),
        ("model = 3", "model is 3, but must be a non-empty string"),
        ("budget = [1]", "budget is 1, but must be"),
        ("budget = {}", "budget is a table, but must be"),
        ("no_mlflow = 1", "no_mlflow is 1, but must be true or false"),
        ('seed = "0"', "seed is '0'"),
        ("finetune_epochs = nan", "finetune_epochs is nan"),
        ("format = 2", "format 2 is not known"),
    ],
)
def test_a_wrong_type_names_the_file_and_the_key(tmp_path, line, message):
    with pytest.raises(ConfigError, match=rf"experiment\.toml: {message}"):
        load_experiment(written(tmp_path, line + "\n"))


def test_corrupt_toml_names_the_line(tmp_path):
    with pytest.raises(ConfigError, match=r"experiment\.toml is not valid TOML: .*line 2"):
        load_experiment(written(tmp_path, "seed = 1\nmodel = = 3\n"))


def test_a_file_that_is_no_text_names_the_line(tmp_path):
    path = tmp_path / "experiment.toml"
    path.write_bytes(b"seed = 1\nmodel = '\xff\xfe'\n")
    with pytest.raises(ConfigError, match="line 2: this is not UTF-8"):
        load_experiment(path)


def test_a_missing_experiment_names_the_nearest_shipped_one():
    with pytest.raises(ConfigError, match="Did you mean 'digits-resnet'"):
        load_experiment("digits-resnett")


def test_files_beside_the_experiment_are_found_from_anywhere(tmp_path):
    (tmp_path / "net.pt").touch()
    (tmp_path / "space.toml").touch()
    path = written(tmp_path, 'weights = "net.pt"\nsearch_space = "space.toml"\nout = "net.pt"\n')
    options = load_experiment(path)
    assert options["weights"] == tmp_path / "net.pt"
    assert options["search_space"] == str(tmp_path / "space.toml")
    assert str(options["out"]) == "net.pt"
