from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from pathlib import Path

import pytest

from autoprune.config.options import OPTIONS, check_options, default_run_folder, parse_duration
from autoprune.errors import AutopruneError, BudgetError, ConfigError

STRATEGIES = ("auto", "uniform", "random")


@pytest.fixture(autouse=True)
def _no_roots(monkeypatch):
    monkeypatch.delenv("AUTOPRUNE_DATA_ROOT", raising=False)
    monkeypatch.delenv("AUTOPRUNE_WEIGHTS_ROOT", raising=False)


def check(from_file=None, **given):
    return check_options(given, strategies=STRATEGIES, from_file=from_file)


def test_nothing_given_leaves_every_default_to_the_search():
    assert check() == {}


def test_every_option_is_a_field_of_the_search_options():
    options = pytest.importorskip("autoprune.searching.inputs.options")
    assert set(OPTIONS) == {field.name for field in fields(options.SearchOptions)}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("0.5h", 1800), (7, 7)]
)
def test_a_duration_is_read_in_seconds(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 days", "0", "0s", "nan", "inf", "5m3", True])
def test_a_wrong_duration_is_an_error(text):
    with pytest.raises(ConfigError, match="time limit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "--workers is 0, but must be at least 1"),
        ({"workers": True}, "--workers is True, but must be an integer"),
        ({"candidates": -3}, "--candidates is -3"),
        ({"seed": -1}, "--seed is -1"),
        ({"finetune_epochs": -1.0}, "--finetune-epochs is -1"),
        ({"finetune_epochs": float("nan")}, "--finetune-epochs is nan"),
        ({"gpus_per_worker": float("inf")}, "--gpus-per-worker is inf"),
        ({"time_limit": "later"}, "--time-limit is 'later'"),
        ({"backend": "rai"}, "--backend: unknown name 'rai'. Did you mean 'ray'"),
        ({"scope": "couple"}, "Did you mean 'coupled'"),
        ({"strategy": "unifrom"}, "Unknown strategy 'unifrom'. Did you mean 'uniform'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"ray_address": "somewhere"}, "cannot read the address 'somewhere'"),
        ({"model": "resnet"}, "Cannot read the model 'resnet'"),
        ({"weights": "nowhere.pt", "model": "cifar/resnet20-b"}, "weights file 'nowhere.pt' does not exist"),
        ({"weights": "nowhere.pt"}, "need a network"),
        ({"data_root": "nowhere"}, "data folder 'nowhere' does not exist"),
        *(
            ({"data": f"{kind}:"}, f"'{kind}:' name no folder. Write {kind}:DIR")
            for kind in ("images", "imagefolder", "voc", "voc-segmentation")
        ),
        ({"data": "imagefolder:nowhere"}, "image folder 'nowhere' does not exist"),
        ({"data": "voc:nowhere"}, "image folder 'nowhere' does not exist. It must hold VOCdevkit/VOC2007"),
        ({"data": "voc-segmentation:nowhere"}, "image folder 'nowhere' does not exist. It must hold VOCdevkit/VOC2012"),
        (
            {"search_space": "cifar-resnett"},
            "'cifar-resnett'. Did you mean 'cifar-resnet'? Known: cifar-densenet40, ",
        ),
        ({"backend": "serial", "workers": 2}, "runs one worker, not 2"),
        ({"backend": "serial", "ray_address": "auto"}, "leave --ray-address out"),
        (
            {"backend": "serial", "evaluation_timeout": "5m"},
            "in its own process: leave --evaluation-timeout out",
        ),
        ({"evaluation_timeout": "0"}, "--evaluation-timeout is '0', but must be above 0"),
        ({"front": "50%flops"}, "is not a range"),
        ({"budgets": ["20..80%flops"]}, "Ask for it with --front"),
        ({"model": " "}, "must be a non-empty string"),
    ],
)
def test_a_wrong_option_names_itself_its_value_and_a_way_out(given, message):
    with pytest.raises(ConfigError) as caught:
        check(**given)
    assert message in str(caught.value)


@pytest.mark.parametrize("budgets", [["50%"], ["120%flops"], ["0%flops"], ["50%flops", "20Mmacs"], ["50%flop"]])
def test_a_wrong_budget_is_an_error_before_anything_is_loaded(budgets):
    with pytest.raises(BudgetError):
        check(budgets=budgets)


def test_several_budgets_are_kept_in_order():
    assert check(budgets=["50%flops", "1Mparams"])["budgets"] == ("50%flops", "1Mparams")


def test_a_front_brings_no_default_budget_along():
    assert check(front="20..80%flops") == {"front": "20..80%flops", "budgets": ()}


def test_a_front_may_be_bounded_in_another_resource():
    assert check(front="20..80%flops", budgets=["40%params"])["budgets"] == ("40%params",)
    with pytest.raises(BudgetError, match="same resource"):
        check(front="20..80%flops", budgets=["50%flops"])
    with pytest.raises(ConfigError, match=r"'30\.\.60%params' is a range"):
        check(front="20..80%flops", budgets=["30..60%params"])


def test_the_command_line_wins_over_the_file():
    options = check(from_file={"seed": 1, "candidates": 5}, seed=2)
    assert options == {"seed": 2, "candidates": 5}


@pytest.mark.parametrize(
    ("in_file", "given"),
    [({"front": "20..80%flops"}, {"budgets": ["50%flops"]}), ({"budgets": ("50%flops",)}, {"front": "20..80%flops"})],
)
def test_a_goal_on_the_command_line_replaces_the_goal_of_the_file(in_file, given):
    options = check(from_file=in_file, **given)
    assert options.get("front") == given.get("front")
    assert options["budgets"] == tuple(given.get("budgets", ()))


def test_a_search_space_sets_the_scope_unless_one_is_given(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('scope = "internal"\n')
    assert check(search_space=str(file))["scope"] == "internal"
    assert check(search_space=str(file), scope="coupled")["scope"] == "coupled"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("cifar/resnet20-b", "cifar-resnet"),
        ("torchvision/alexnet", "default"),
        ("mine:make", "default"),
        (None, "default"),
    ],
)
def test_an_automatic_search_space_is_the_shipped_one_for_the_network(model, name):
    given = {} if model is None else {"model": model}
    assert Path(check(search_space="auto", **given)["search_space"]).stem == name


def test_weights_are_also_looked_up_under_the_weights_root(tmp_path, monkeypatch):
    (tmp_path / "net.pt").touch()
    monkeypatch.setenv("AUTOPRUNE_WEIGHTS_ROOT", str(tmp_path))
    assert check(model="cifar/resnet20-b", weights="net.pt")["weights"] == tmp_path / "net.pt"


def test_the_data_root_defaults_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOPRUNE_DATA_ROOT", str(tmp_path))
    assert check()["data_root"] == tmp_path


def test_a_folder_that_holds_a_search_is_not_written_over(tmp_path):
    (tmp_path / "ledger.jsonl").write_text('{"event":"header"}\n')
    with pytest.raises(ConfigError, match="--resume"):
        check(out=tmp_path)


@pytest.mark.parametrize("text", ["", '{"event":"hea'])
def test_a_folder_whose_search_was_killed_before_it_wrote_a_line_can_be_used(tmp_path, text):
    (tmp_path / "ledger.jsonl").write_text(text)
    assert check(out=tmp_path)["out"] == tmp_path


def test_an_output_folder_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file"):
        check(out=tmp_path / "file")


def test_a_plugin_strategy_is_left_to_its_import():
    assert check(strategy="mine:Strategy") == {"strategy": "mine:Strategy"}


def test_the_run_folder_is_a_safe_name():
    now = datetime(2026, 1, 2, 3, 4, 5)
    assert default_run_folder("my.module:../make net", now) == Path("runs/20260102-030405-my.module-..-make-net")
    assert default_run_folder(None, now) == Path("runs/20260102-030405-digits-resnet")


def test_two_runs_that_start_within_one_second_lie_in_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 1, 2, 3, 4, 5)
    for end in ("", "-2", "-3"):
        folder = default_run_folder("net", now)
        assert folder == Path(f"runs/20260102-030405-net{end}")
        folder.mkdir(parents=True)


def test_every_error_is_of_the_one_tree():
    with pytest.raises(AutopruneError):
        check(workers=0)
