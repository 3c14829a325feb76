from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_problem import network, sets

from autoprune import devices
from autoprune.data.bundle import bundle_from
from autoprune.errors import BudgetError, ConfigError, DataError, StructureError
from autoprune.models.reduction.calibration import calibrate
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import Problem
from autoprune.searching.inputs.recorded import recorded_options
from autoprune.searching.search import preparation
from autoprune.searching.search.preparation import prepare


def problem(model, data=None):
    return Problem("toy", None, None, model.eval(), data or bundle_from(*sets()))


def prepared(**options):
    return prepare(problem(network()), SearchOptions(**options), NullObserver())


class TestPrepare:
    def test_the_scope_decides_on_the_residual_stream(self):
        internal = {group.name for group in prepared(scope="internal").space.groups}
        coupled = {group.name for group in prepared(scope="coupled").space.groups}
        assert internal == {"block1.conv1", "block2.conv1"}
        assert coupled == internal | {"stem"}

    def test_holdout_and_training_are_disjoint_and_calibration_is_trained_on(self):
        split = prepared().split
        assert not set(split.holdout) & set(split.training)
        assert set(split.calibration) <= set(split.training)

    def test_an_unreachable_budget_names_the_least_and_what_limits_it(self):
        with pytest.raises(BudgetError, match=r"remain, most of them in .*block"):
            prepared(budgets=("1%flops",))

    def test_a_budget_that_only_the_wider_scope_reaches_says_so(self):
        with pytest.raises(BudgetError, match="widen the scope"):
            prepared(budgets=("10%flops",))
        assert prepared(budgets=("10%flops",), scope="coupled").space.limits

    def test_more_images_than_there_are_is_an_error(self):
        with pytest.raises(DataError, match="120 training images cannot give 500"):
            prepared(holdout_images=500)

    def test_a_device_that_is_not_there_is_an_error(self):
        with pytest.raises(ConfigError, match="The device 'cuda:99' cannot be used"):
            prepared(device="cuda:99")

    @pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("CUDA out of memory")])
    def test_what_does_not_fit_a_gpu_is_computed_on_the_cpu(self, monkeypatch, error):
        whole, calls = prepared(), []

        def calibrate_in_small_memory(model, *args, **kwargs):
            calls.append(model)
            if len(calls) == 1:
                raise error
            return calibrate(model, *args, **kwargs)

        monkeypatch.setattr(preparation, "calibrate", calibrate_in_small_memory)
        monkeypatch.setattr(devices, "release_memory", lambda device: None)
        with pytest.raises(type(error)):
            prepared()
        calls.clear()
        monkeypatch.setattr(devices, "is_gpu", lambda device: True)
        assert prepared().calibration.to_arrays().keys() == whole.calibration.to_arrays().keys()
        assert len(calls) == 2

    def test_a_network_without_prunable_groups_names_the_reason_and_the_other_scope(self, monkeypatch):
        from toy_problem import stream_only

        trace, traces = preparation.trace, []
        monkeypatch.setattr(preparation, "trace", lambda *given: traces.append(given) or trace(*given))
        with pytest.raises(StructureError, match=r"no prunable group.*Try --scope coupled"):
            prepare(problem(stream_only()), SearchOptions(), NullObserver())
        assert len(traces) == 1

    def test_the_other_scope_is_not_named_where_it_has_no_group_either(self):
        from toy_problem import CLASSES

        linear = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)).eval()
        with pytest.raises(StructureError, match="no prunable group") as refusal:
            prepare(problem(linear), SearchOptions(), NullObserver())
        assert "--scope" not in str(refusal.value)

    def test_rules_for_groups_of_the_other_scope_are_no_mistake(self, tmp_path):
        (tmp_path / "space.toml").write_text('frozen = ["stem"]\n[[rule]]\nmatch = "block1.*"\nmin_width = 3\n')
        groups = prepared(search_space=str(tmp_path / "space.toml"), scope="internal").space.groups
        assert {group.name: group.min_width for group in groups} == {"block1.conv1": 3, "block2.conv1": 1}

    def test_the_same_seed_prepares_the_same_search(self):
        first, second = prepared().header(), prepared().header()
        assert first == second
        assert prepared(seed=1).header() != first


def test_channels_are_chosen_as_asked():
    chosen = {way: prepared(channels=way).rankings for way in ("elimination", "norm")}
    assert any(
        ours.order.tolist() != norms.order.tolist()
        for ours, norms in zip(chosen["elimination"], chosen["norm"], strict=True)
    )
    assert [r.order.tolist() for r in prepared().rankings] == [r.order.tolist() for r in chosen["elimination"]]


def test_a_search_from_before_the_choice_goes_on_by_norm(tmp_path):
    before = SearchOptions(model="digits/resnet").to_json()
    assert recorded_options({"options": before}, tmp_path).channels == "elimination"
    del before["channels"]
    assert recorded_options({"options": before}, tmp_path).channels == "norm"


def test_an_older_search_that_had_no_gpus_goes_on_without_and_others_take_what_there_is(tmp_path):
    before = {"model": "toy_problem:network", "data": "toy_problem:sets", "no_mlflow": True}
    assert recorded_options({"options": {**before, "gpus_per_worker": 0.0}}, tmp_path).gpus_per_worker == 0.0
    assert recorded_options({"options": {**before, "gpus_per_worker": None}}, tmp_path).gpus_per_worker is None
