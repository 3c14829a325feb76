from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import autoprune
from autoprune.core.resources import RESOURCES
from autoprune.errors import ConfigError, RunError
from autoprune.report.observer import NullObserver
from autoprune.searching.inspection.reporting import write_report
from autoprune.searching.search.api import resume_search
from autoprune.training.checkpoints import CheckpointFolder, read_checkpoint

#: What `summary.json` must hold at least.
KEYS = (
    *("dense", "uniform", "incumbent", "budget", "candidates", "failures", "seconds", "utilisation", "hypervolume"),
    *("reference_point", "seed", "versions", "format", "model", "data", "scope", "strategy", "groups", "frozen"),
    *("workers", "finetune_epochs", "images", "command", "notes", "interrupted"),
)


class Interrupting(NullObserver):
    """Presses Ctrl-C after a number of outcomes, or when a stage begins."""

    def __init__(self, *, after=None, stage=None):
        self.left, self.wanted = after, stage

    def told(self, outcome, *, finished):
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGINT)

    def stage(self, text):
        if self.wanted is not None and text.startswith(self.wanted):
            raise KeyboardInterrupt


def summary_of(out):
    return json.loads((Path(out) / "summary.json").read_text())


def without_times(summary):
    unlike = ("seconds", "search_seconds", "utilisation", "overhead_seconds", "folder", "command", "workers")
    return {key: value for key, value in summary.items() if key not in unlike}


def test_a_search_leaves_all_its_files_and_figures(toy):
    result = toy(finetune_epochs=0.5)
    names = {path.name for path in result.out.iterdir()}
    assert names == {"ledger.jsonl", "summary.json", "front.csv", "front.html", "incumbent"}
    summary = summary_of("run")
    assert [key for key in KEYS if key not in summary] == []
    assert summary == json.loads(json.dumps(result.summary))
    for name in ("dense", "uniform", "incumbent"):
        assert 0 <= summary[name]["accuracy"] <= 1
        assert summary[name]["flops"] == 2 * summary[name]["macs"]
    assert summary["incumbent"]["macs"] <= 0.5 * summary["dense"]["macs"]
    assert summary["incumbent"]["widths"].keys() == {group["name"] for group in summary["groups"]}
    assert summary["incumbent"]["accuracy_before_finetune"] is not None
    assert summary["candidates"] == 6
    assert not summary["interrupted"]
    with (result.out / "front.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["id"]) for row in rows] == [evaluation.candidate.id for evaluation in result.front]


def test_the_saved_incumbent_is_the_built_one_and_costs_what_the_summary_says(toy):
    import torch

    result = toy()
    loaded, built = autoprune.load("run/incumbent"), result.incumbent.build()
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(loaded(images), built(images))
    assert sum(item.numel() for item in built.parameters()) == result.summary["incumbent"]["params"]


def test_the_same_seed_gives_the_same_search(toy, events):
    first, second = toy("a"), toy("b")
    assert events("a") == events("b")
    assert without_times(first.summary) == without_times(second.summary)


def test_another_seed_gives_another_search(toy, events):
    toy("a")
    toy("b", seed=1)
    assert events("a") != events("b")


@pytest.mark.parametrize("after", [1, 4, 7])
def test_a_search_stopped_by_ctrl_c_and_resumed_equals_an_undisturbed_one(toy, events, after):
    whole = toy("whole")
    stopped = toy("stopped", observer=Interrupting(after=after))
    assert stopped.summary["interrupted"]
    assert stopped.summary["incumbent"]["accuracy"] is None
    with pytest.raises(RunError, match="Resume it first"):
        stopped.incumbent.build()
    resumed = resume_search(Path("stopped"), observer=NullObserver())
    assert events("whole") == events("stopped")
    assert without_times(resumed.summary) == without_times(whole.summary)


def test_mlflow_is_told_the_past_in_one_piece(toy, folder, monkeypatch):
    from autoprune.tracking.background import BackgroundWriter

    toy("stopped", observer=Interrupting(after=4), no_mlflow=False, tracking_uri=f"sqlite:///{folder}/m.db")
    pieces, submit = [], BackgroundWriter.submit

    def counted(self, *jobs):
        pieces.append(len(jobs))
        submit(self, *jobs)

    monkeypatch.setattr(BackgroundWriter, "submit", counted)
    resume_search(Path("stopped"), observer=NullObserver())
    assert pieces[0] == 4
    assert set(pieces[1:]) == {1}


def test_ctrl_c_while_the_best_are_finished_keeps_what_was_found(toy):
    stopped = toy(observer=Interrupting(stage="Reconstructing the incumbent"))
    assert stopped.summary["interrupted"]
    assert summary_of("run")["uniform"]["accuracy"] is None
    assert (stopped.out / "front.csv").stat().st_size > 0
    assert not (stopped.out / "incumbent").exists()
    resumed = resume_search(Path("run"), observer=NullObserver())
    assert resumed.summary["incumbent"]["accuracy"] is not None


class Stepping(NullObserver):
    """Notes the steps of finetunes; interrupts that of the incumbent in its third epoch of four if told to."""

    def __init__(self, *, stops=False):
        self.stops, self.which, self.steps = stops, "", {}

    def stage(self, text):
        self.which = text if text.startswith("Finetuning") else ""

    def progress(self, done, total):
        self.steps.setdefault(self.which, []).append(done)
        if self.stops and "incumbent" in self.which and done == int(0.6 * total):
            raise KeyboardInterrupt


def test_finetunes_at_the_end_that_were_stopped_go_on_where_they_were(toy):
    """At most an epoch is lost, and the networks are those of a search that was never stopped."""

    whole = toy("whole", finetune_epochs=4, observer=Stepping())
    assert not Path("whole", "checkpoints").exists()
    stopping = Stepping(stops=True)
    stopped = toy("stopped", finetune_epochs=4, observer=stopping)
    assert stopped.summary["interrupted"]
    assert Path("stopped", "checkpoints").exists()
    again = Stepping()
    resumed = resume_search(Path("stopped"), observer=again)
    # Uniform widths had been finetuned to their end.
    [(which, steps)] = again.steps.items()
    assert "incumbent" in which
    assert 1 < steps[0] <= stopping.steps[which][-1] + 1
    for name in ("uniform", "incumbent"):
        assert resumed.summary[name] == whole.summary[name]
    same = [load_file(Path(run, "incumbent", "model.safetensors")) for run in ("whole", "stopped")]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])
    assert not Path("stopped", "checkpoints").exists()


@pytest.mark.parametrize("damage", ["cut off", "foreign"])
def test_a_checkpoint_of_no_use_does_not_bar_the_end_of_a_search(toy, damage, caplog):
    whole = toy("whole", finetune_epochs=4)
    stopped = toy("stopped", finetune_epochs=4, observer=Stepping(stops=True))
    assert stopped.summary["interrupted"]
    paths = sorted(Path("stopped", "checkpoints").glob("*/step-*.pt"))
    assert paths
    for path in paths:
        if damage == "cut off":
            path.write_bytes(path.read_bytes()[:100])
        else:
            state = read_checkpoint(path)
            other = {**state.pop("identity"), "learning_rate": 7.0}
            CheckpointFolder(path.parent, other).save(state, step=state["done"])
    resumed = resume_search(Path("stopped"), observer=NullObserver())
    assert resumed.summary["incumbent"] == whole.summary["incumbent"]
    assert resumed.summary["uniform"] == whole.summary["uniform"]
    assert "begins anew" in caplog.text


def test_checkpoints_are_not_written_where_a_link_points(toy, folder):
    stopped = toy("stopped", finetune_epochs=4, observer=Stepping(stops=True))
    assert stopped.summary["interrupted"]
    (folder / "precious").mkdir()
    [place] = Path("stopped", "checkpoints").iterdir()
    shutil.rmtree(place)
    place.symlink_to(folder / "precious")
    with pytest.raises(RunError, match="is a link to a place outside"):
        resume_search(Path("stopped"), observer=NullObserver())
    assert not list((folder / "precious").iterdir())


def test_a_finished_search_can_be_resumed_without_evaluating_anything(toy, events):
    first = toy()
    before = events("run")
    again = resume_search(Path("run"), observer=NullObserver())
    assert events("run") == before
    assert again.summary["incumbent"] == first.summary["incumbent"]


def test_a_search_resumes_from_another_working_directory(toy, folder, monkeypatch):
    toy(observer=Interrupting(after=2))
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    assert not resume_search(Path("../run"), observer=NullObserver()).summary["interrupted"]


def test_a_time_limit_ends_the_proposals_and_finishes_the_best(toy):
    class Slow(NullObserver):
        def told(self, outcome, *, finished):
            import time

            time.sleep(0.3)

    result = toy(time_limit=0.5, candidates=500, observer=Slow())
    assert result.summary["candidates"] < 500
    assert not result.summary["interrupted"]
    assert result.summary["incumbent"]["accuracy"] is not None


def test_a_time_limit_leaves_time_for_one_candidate(toy):
    result = toy(time_limit=0.001, candidates=500)
    assert result.summary["candidates"] < 5
    assert result.summary["incumbent"]["accuracy"] is not None


def test_a_candidate_that_fails_costs_one_candidate_and_is_named(toy, monkeypatch):
    from autoprune.evaluation.evaluator import CandidateEvaluator

    build = CandidateEvaluator.build

    def fail_once(self, structure, fidelity, *, seed, **others):
        if structure.widths == failing.widths:
            raise RuntimeError("bad luck")
        return build(self, structure, fidelity, seed=seed, **others)

    failing = toy("first").front.evaluations[0].candidate.structure
    monkeypatch.setattr(CandidateEvaluator, "build", fail_once)
    result = toy("second")
    assert result.summary["failures"] == 1
    assert result.incumbent.evaluation.candidate.structure != failing
    assert any("bad luck" in note for note in result.summary["notes"])


def test_a_full_disk_is_an_error_that_says_how_to_go_on_and_loses_nothing(toy, events, monkeypatch):
    toy("whole")
    write, written = os.write, []

    def full(descriptor, data):
        written.append(data)
        if len(written) > 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    with monkeypatch.context() as patched:
        patched.setattr("autoprune.study.ledger.os.write", full)
        with pytest.raises(RunError, match=r"No space left on device.*--resume run"):
            toy("run")
    resume_search(Path("run"), observer=NullObserver())
    assert events("run") == events("whole")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(toy, folder):
    (folder / "file").touch()
    with pytest.raises(RunError, match="cannot be written"):
        toy("file/run", model="toy_problem:broken")


def test_a_ledger_of_another_search_is_refused_with_what_differs(toy):
    toy(observer=Interrupting(after=2))
    with pytest.raises(RunError, match=r"seed=0 \(now 1\)"):
        toy(seed=1)
    with pytest.raises(RunError, match=r"budget=\['50%flops'\] \(now \['40%flops'\]\)"):
        toy(budgets=("40%flops",))


def test_a_damaged_ledger_is_refused_and_left_as_it_is(toy):
    toy()
    ledger = Path("run/ledger.jsonl")
    lines = ledger.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"asked", b"asxed").replace(b"told", b"tald")
    ledger.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match=r"Line 4 of the ledger .* is damaged"):
        resume_search(Path("run"), observer=NullObserver())
    assert ledger.read_bytes() == b"".join(lines)


def test_a_search_in_which_nothing_works_ends_with_the_reason(toy, monkeypatch):
    from autoprune.evaluation.evaluator import CandidateEvaluator

    def fail(self, *args, **kwargs):
        raise RuntimeError("out of everything")

    monkeypatch.setattr(CandidateEvaluator, "build", fail)
    result = toy()
    assert result.incumbent is None
    assert result.summary["incumbent"] is None
    assert result.summary["failures"] == 6
    assert any("out of everything" in note for note in result.summary["notes"])
    assert not any("fidelity" in note for note in result.summary["notes"])


def test_a_search_that_cannot_begin_is_not_in_mlflow_and_bars_no_folder(toy, folder):
    with pytest.raises(ConfigError, match="unifrom"):
        toy(strategy="unifrom", no_mlflow=False, tracking_uri=f"sqlite:///{folder}/m.db")
    assert not (folder / "m.db").exists()
    assert not (folder / "run" / "ledger.jsonl").exists()


def test_a_python_caller_hears_that_nothing_works(folder, monkeypatch):
    from autoprune.evaluation.evaluator import CandidateEvaluator

    def fail(self, *args, **kwargs):
        raise RuntimeError("out of everything")

    monkeypatch.setattr(CandidateEvaluator, "build", fail)
    with pytest.raises(RunError, match=r"^No candidate could be evaluated\. .*out of everything"):
        autoprune.search("toy_problem:network", "toy_problem:sets", backend="serial", no_mlflow=True, out="run")
    assert summary_of("run")["incumbent"] is None


@pytest.mark.parametrize(("unit", "resource"), [("%flops", "macs"), ("%params", "params"), ("%MB", "weights")])
def test_a_range_of_budgets_searches_the_front(toy, unit, resource):
    result = toy(front=f"40..80{unit}", budgets=(), candidates=8)
    dense, key = result.summary["dense"], RESOURCES[resource].retained
    shares = [evaluation.candidate.cost.of(resource) / dense[resource] for evaluation in result.front]
    assert shares == sorted(shares)
    assert all(0.35 < share <= 0.8 for share in shares)
    scores = [evaluation.score for evaluation in result.front]
    assert scores == sorted(scores)
    assert (result.summary["front_resource"], result.front.resource) == (resource, resource)
    # The table, the report and the front itself are one front, in one order.
    with (result.out / "front.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    numbers = write_report(result.out, NullObserver())
    assert [int(row["id"]) for row in rows] == [one.candidate.id for one in result.front]
    assert [float(row[key]) for row in rows] == pytest.approx(shares, rel=1e-3)
    assert sorted(numbers["front"]) == sorted(one.candidate.id for one in result.front)
    assert numbers["progress"][-1]["hypervolume"] == pytest.approx(result.summary["hypervolume"])


class Refusing(NullObserver):
    """Lets a search fail when its ledger has been opened, as a cluster does that cannot be reached."""

    def begins(self, *, metric, resource):
        raise ConfigError("no cluster")


def test_only_a_ledger_that_a_failed_call_began_itself_is_taken_away(toy):
    with pytest.raises(ConfigError, match="no cluster"):
        toy("new", observer=Refusing())
    assert not Path("new/ledger.jsonl").exists()
    toy("old", observer=Interrupting(after=1))
    before = Path("old/ledger.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="no cluster"):
        toy("old", observer=Refusing())
    assert Path("old/ledger.jsonl").read_bytes() == before


def test_a_search_that_goes_on_reads_its_ledger_once(toy, monkeypatch):
    toy(observer=Interrupting(after=2))
    read, times = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: times.append(path.name) or read(path))
    toy()
    assert times.count("ledger.jsonl") == 1


def test_a_range_that_starts_where_no_structure_lies_is_searched_from_what_can_be_reached(toy, events):
    class Warned(Interrupting):
        warnings: tuple[str, ...] = ()

        def warning(self, text):
            self.warnings += (text,) if "range" in text else ()

    first, second = Warned(after=3), Warned()
    asked = {"front": "1..80%flops", "budgets": (), "candidates": 8}
    toy(observer=first, **asked)
    result = toy(observer=second, **asked)
    [said] = first.warnings
    assert said.startswith("The range '1..80%flops' starts below what can be reached")
    assert (second.warnings, said in result.summary["notes"]) == ((), True)
    assert result.summary["budget"] == ["1..80%flops"]
    assert result.summary["limits"][0]["least"] > 0.01 * result.summary["dense"]["macs"]
    assert without_times(toy("other", **asked).summary) == without_times(result.summary)
    assert events("run") == events("other")


def test_all_budgets_hold(toy):
    result = toy(budgets=("60%flops", "55%params"))
    dense = result.summary["dense"]
    for evaluation in result.front:
        assert evaluation.candidate.cost.macs <= 0.6 * dense["macs"]
        assert evaluation.candidate.cost.params <= 0.55 * dense["params"]


@pytest.mark.parametrize("strategy", ["uniform", "global-l2", "sensitivity", "random", "pso", "nsga2", "tpe", "pca"])
def test_every_kind_of_strategy_searches(toy, strategy):
    result = toy(strategy=strategy, scope="coupled", candidates=5)
    assert result.incumbent is not None
    assert result.summary["failures"] == 0


def test_an_unknown_strategy_is_an_error_even_here(toy):
    with pytest.raises(ConfigError, match="Did you mean 'uniform'"):
        toy(strategy="unifrom")


@pytest.mark.parametrize("name", ["summary.json", "training.json"])
def test_a_folder_that_holds_a_pruning_or_a_training_is_left_as_it_is(toy, folder, name):
    (folder / "run").mkdir()
    (folder / "run" / name).write_text("{}")
    with pytest.raises(ConfigError, match=r"'.*run' already holds a run\. Name another folder with --out\."):
        toy()
    assert [path.name for path in (folder / "run").iterdir()] == [name]
