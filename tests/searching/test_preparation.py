from __future__ import annotations

import pytest
import torch
from toy_problem import Network, loaders, network, sets

from autoprune.data.bundle import bundle_from
from autoprune.errors import BudgetError, ConfigError, DataError, ModelError, PluginError, StructureError
from autoprune.report.observer import NullObserver
from autoprune.searching.options import SearchOptions
from autoprune.searching.preparation import Problem, load_problem, prepare, problem_from, require_fit
from autoprune.searching.recorded import recorded_options


def problem(model, data=None):
    return Problem("toy", None, None, model.eval(), data or bundle_from(*sets()))


def prepared(**options):
    return prepare(problem(network()), SearchOptions(**options), NullObserver())


class TestFit:
    def test_a_network_that_fits_its_images_passes(self):
        require_fit(problem(network()))

    def test_more_outputs_than_classes_are_fine(self):
        require_fit(problem(Network(classes=9)))

    @pytest.mark.parametrize(
        ("model", "message"),
        [
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

    @pytest.mark.parametrize(("model", "data"), [(5, None), (None, "digits")])
    def test_a_model_that_is_none_is_refused(self, model, data):
        with pytest.raises(ModelError, match=r"Give an nn\.Module or a name"):
            problem_from(model, data, SearchOptions(), NullObserver())

    def test_data_that_are_none_are_refused(self):
        with pytest.raises(DataError, match="Give a name or a pair"):
            problem_from(network(), 7, SearchOptions(), NullObserver())


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

    def test_a_network_without_prunable_groups_names_the_reason_and_the_other_scope(self):
        from toy_problem import stream_only

        with pytest.raises(StructureError, match=r"no prunable group.*Try --scope coupled"):
            prepare(problem(stream_only()), SearchOptions(), NullObserver())

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
