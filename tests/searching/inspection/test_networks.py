from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from autoprune.errors import BudgetError, ConfigError, DataError, ModelError, PluginError, RunError, StructureError
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inspection.networks import cost_report, evaluate_saved, search_space_of, trace_report
from autoprune.searching.search import preparation

MODEL, DATA = "toy_problem:network", "toy_problem:sets"


def traced(*, verify=False, **options):
    return trace_report(SearchOptions(**{"model": MODEL, "data": DATA, **options}), verify=verify)


class TestTrace:
    def test_groups_of_both_scopes_are_listed_and_the_coupled_ones_marked(self, folder):
        report = traced()
        assert {group["name"]: group["coupled"] for group in report["groups"]} == {
            "stem": True,
            "block1.conv1": False,
            "block2.conv1": False,
        }
        assert sum(layer["macs"] for layer in report["layers"]) == report["dense"]["macs"]
        assert report["input_shape"] == [1, 8, 8]
        assert report["notes"] == []

    def test_every_heuristic_keeps_within_the_budget(self, folder):
        report = traced(budgets=("40%flops",), scope="coupled")
        assert {"uniform", "pca", "cluster"} <= report["heuristics"].keys() | {"uniform"}
        for widths in report["heuristics"].values():
            Path("widths.json").write_text(json.dumps(widths))
            assert cost_report(MODEL, Path("widths.json"), data=DATA)["retained_flops"] <= 0.4

    def test_the_network_is_traced_once(self, folder, monkeypatch):
        trace, traces = preparation.trace, []
        monkeypatch.setattr(preparation, "trace", lambda *given: traces.append(given) or trace(*given))
        assert traced()["heuristics"]
        assert len(traces) == 1

    def test_the_trace_is_verified_on_request(self, folder):
        verified = traced(verify=True)["verified"]
        assert verified["mask_equivalence"] < 1e-9
        assert verified["cost_equality"] is True

    def test_an_unreachable_budget_is_an_error(self, folder):
        with pytest.raises(BudgetError, match="cannot be reached"):
            traced(budgets=("1%flops",))

    def test_without_data_at_hand_the_network_is_shown_and_the_gap_named(self, folder):
        report = traced(model="cifar/resnet20-b", data=None)
        assert len(report["groups"]) == 12
        assert report["heuristics"] == {}
        assert "cifar10" in report["notes"][0]

    def test_data_that_are_named_must_be_there(self, folder):
        with pytest.raises(DataError, match="cifar10"):
            traced(model="cifar/resnet20-b", data="cifar10")

    def test_limits_of_a_search_space_are_shown(self, folder):
        Path("space.toml").write_text("min_retain = 0.5\n")
        report = traced(search_space="space.toml")
        assert {group["min_width"] for group in report["groups"]} == {4}
        # Nobody asked for the usual budget, which these limits do not reach.
        assert "cannot be reached" in report["notes"][0]

    def test_a_search_space_is_written_for_a_network_of_ones_own(self, folder):
        Path("space.toml").write_text(search_space_of(traced(), multiple_of=2))
        text = Path("space.toml").read_text()
        assert re.search(r"^# +block1\.conv1 +8 +2$", text, flags=re.MULTILINE)
        assert re.search(r"^# +stem +8 +2  block1\.conv2, block2\.conv2 \(coupled\)$", text, flags=re.MULTILINE)
        assert re.search(r"^# +head +network output$", text, flags=re.MULTILINE)
        limited = traced(search_space="space.toml", scope="coupled")
        assert limited["groups"] == traced()["groups"]
        assert all(width % 2 == 0 for widths in limited["heuristics"].values() for width in widths.values())

    def test_a_network_that_nothing_can_be_cut_of_has_no_search_space(self, folder):
        with pytest.raises(StructureError, match="no search space to write"):
            search_space_of({**traced(), "groups": []}, multiple_of=1)

    @pytest.mark.parametrize(
        ("model", "error"), [("toy_problem:broken", PluginError), ("toy_problem:three_channels", ModelError)]
    )
    def test_a_network_that_cannot_be_used_is_an_error(self, folder, model, error):
        with pytest.raises(error):
            traced(model=model)


class TestCost:
    def cost(self, content):
        Path("widths.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return cost_report(MODEL, Path("widths.json"), data=DATA)

    @pytest.mark.parametrize("widths", [[8, 8, 8], {}, [8, 8], {"stem": 8}, {"widths": {"stem": 8}}])
    def test_full_widths_in_any_form_cost_the_dense_network(self, folder, widths):
        report = self.cost(widths)
        assert report["macs"] == report["dense"]["macs"]
        assert report["retained_params"] == 1

    def test_a_list_a_mapping_and_a_structure_say_the_same(self, folder):
        mapping = {"stem": 6, "block1.conv1": 3, "block2.conv1": 5}
        reports = [self.cost([6, 3, 5]), self.cost(mapping), self.cost({"widths": mapping, "input_shape": [1, 8, 8]})]
        assert reports[0] == reports[1] == reports[2]

    def test_conventions_count_the_cut_and_the_dense_network(self, folder):
        Path("widths.json").write_text("[6, 3, 5]")
        report = cost_report(MODEL, Path("widths.json"), data=DATA, convention="all")
        assert report["conventions"]["conv+fc"] == report["macs"]
        assert report["dense_conventions"]["conv+fc"] == report["dense"]["macs"]
        assert report["conventions"]["+4/bn"] > report["conventions"]["+2/bn"] > report["macs"]
        one = cost_report(MODEL, Path("widths.json"), data=DATA, convention="+2/bn")
        assert one["conventions"] == {"+2/bn": report["conventions"]["+2/bn"]}
        with pytest.raises(ConfigError, match="Unknown counting convention 'thop'"):
            cost_report(MODEL, Path("widths.json"), data=DATA, convention="thop")

    def test_a_list_may_name_the_convolutions_alone(self, folder):
        Path("widths.json").write_text(json.dumps([11, 32, 68, 66, 125, 113, 113, 218, 121, 94, 60, 27, 512]))
        report = cost_report("cifar/vgg16-512head", Path("widths.json"), convention="+4/bn")
        assert (report["params"], report["conventions"]["+4/bn"]) == (1_404_457, 49_597_376)

    def test_a_structure_says_for_which_input(self, folder):
        Path("s.json").write_text(json.dumps({"widths": {"stem": 8}, "input_shape": [1, 16, 16]}))
        larger = cost_report(MODEL, Path("s.json"))
        assert larger["macs"] > 3.9 * self.cost({})["macs"]
        assert larger["params"] == self.cost({})["params"]

    @pytest.mark.parametrize(
        ("content", "error", "message"),
        [
            ("{", ConfigError, "Cannot read the widths file 'widths.json'"),
            ("[" * 100_000, ConfigError, "Cannot read the widths file"),
            ("7", ConfigError, "holds a int"),
            ("null", ConfigError, "holds a NoneType"),
            ([8], StructureError, "has 1 entries, the network has 3"),
            ([8, 8, 9], StructureError, "not an integer in"),
            ([8, 8, 2.5], StructureError, "not an integer"),
            ([8, 8, True], StructureError, "not an integer"),
            ([8, 8, "8"], StructureError, "not an integer"),
            ({"stemm": 4}, StructureError, "Did you mean 'stem'"),
            ({"widths": {"stem": 0}}, StructureError, "not an integer in"),
        ],
    )
    def test_widths_that_do_not_fit_are_an_error(self, folder, content, error, message):
        with pytest.raises(error, match=message) as raised:
            self.cost(content)
        assert "\n" not in str(raised.value)


class TestEvaluate:
    @pytest.fixture
    def saved(self, toy):
        return toy(candidates=3).out / "incumbent"

    def evaluate(self, directory, *, data=None, split="test"):
        return evaluate_saved(directory, data=data, data_root=None, split=split)

    def test_every_split_is_measured_and_the_test_accuracy_is_the_summarys(self, saved):
        summary = json.loads(Path("run/summary.json").read_text())
        report = self.evaluate(saved)
        assert report["accuracy"] == summary["incumbent"]["accuracy"]
        assert (report["macs"], report["params"]) == (summary["incumbent"]["macs"], summary["incumbent"]["params"])
        assert self.evaluate(saved, split="train")["images"] == 120
        assert self.evaluate(saved, split="holdout")["images"] == summary["images"]["holdout"]

    def test_the_holdout_needs_the_summary_of_the_search(self, saved):
        Path("run/summary.json").write_text("{}")
        with pytest.raises(DataError, match="Use --split test"):
            self.evaluate(saved, split="holdout")

    def test_data_that_do_not_fit_the_network_are_an_error(self, saved):
        with pytest.raises(ModelError, match="4 outputs, but digits has 10 classes"):
            self.evaluate(saved, data="digits")

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 9}', '{"format": 1}', "\x00"])
    def test_a_corrupt_structure_is_an_error(self, saved, text):
        (saved / "structure.json").write_text(text)
        with pytest.raises(RunError, match=r"structure\.json"):
            self.evaluate(saved)

    @pytest.mark.parametrize("content", [b"", b"\x80\x04hostile pickle.", b"\xff" * 64])
    def test_corrupt_weights_are_an_error(self, saved, content):
        (saved / "model.safetensors").write_bytes(content)
        with pytest.raises(RunError, match="cannot be read"):
            self.evaluate(saved)

    def test_missing_weights_are_an_error(self, saved):
        (saved / "model.safetensors").unlink()
        with pytest.raises(RunError, match="cannot be read"):
            self.evaluate(saved)
