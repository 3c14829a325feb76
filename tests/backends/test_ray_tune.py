"""The Ray Tune backend. One cluster serves the tests that do not start their own."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from toy_search import (
    Events,
    GenerationStrategy,
    RelapsingFactory,
    SeeingFactory,
    ToyFactory,
    build_ladder,
    build_space,
    build_study,
)

from autoprune.backends import RayBackend, SerialBackend
from autoprune.backends.ray_tune import seams
from autoprune.errors import BackendError
from autoprune.study import Ledger, read_ledger, replay


def never():
    return False


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_an_error_of_one_line_within_seconds():
    started = time.monotonic()
    with pytest.raises(BackendError, match=r"Cannot reach Ray at 127\.0\.0\.1:1: ConnectionRefusedError") as caught:
        RayBackend(1, address="127.0.0.1:1").run(build_study(), ToyFactory(), should_stop=never)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 60
    with pytest.raises(BackendError, match="Write auto or HOST:PORT"):
        RayBackend(1, address="somewhere:x").run(build_study(), ToyFactory(), should_stop=never)


@pytest.mark.ray
@pytest.mark.parametrize(("address", "told"), [(None, False), ("auto", False), ("here:1", False), ("there:1", True)])
def test_a_ray_of_this_process_is_used_and_that_it_is_another_is_said(address, told, monkeypatch, caplog):
    from autoprune.backends.ray_tune.cluster import cluster

    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="here:1"))
    with cluster(address, 1, 0):
        assert [record.getMessage() for record in caplog.records] == told * [
            "Ray runs in this process already, at here:1: it is used, and not there:1. Call ray.shutdown() before, to "
            "be connected there."
        ]


@pytest.mark.ray
def test_a_ray_that_takes_too_long_to_start_is_an_error_of_one_line(monkeypatch):
    def late(**_):
        raise Exception("The current node timed out during startup.\nThis could happen because")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", late)
    with pytest.raises(
        BackendError, match=r"^Cannot reach Ray at this machine: .* timed out .* Try --backend serial\.$"
    ):
        RayBackend(1).run(build_study(), ToyFactory(), should_stop=never)


@pytest.mark.ray
@pytest.mark.parametrize("address", [None, "auto"])
def test_ray_leaves_sigterm_to_who_heard_it_before_and_one_while_it_starts_stops_us(address, monkeypatch):
    from autoprune.backends.ray_tune.cluster import cluster

    def rays(*_):
        sys.exit(signal.SIGTERM)

    def starts(*, comes):
        signal.signal(signal.SIGTERM, rays)
        if comes:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("ray.init", lambda **_: starts(comes=False))
    with cluster(address, 1, 0):
        assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setattr("ray.init", lambda **_: starts(comes=True))
    with pytest.raises(KeyboardInterrupt), cluster(address, 1, 0):
        pass
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.ray
@pytest.mark.parametrize(("gpus", "shown"), [(("5", "7"), {5.0, 7.0}), ((), {-1.0})])
def test_workers_share_the_gpus_that_a_local_ray_is_told_to_have_and_see_no_others(gpus, shown, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    study = build_study(candidates=9, ladder=build_ladder(1))
    backend = RayBackend(3, gpus_per_worker=None, local_gpus=gpus)
    report = backend.run(study, SeeingFactory({"seconds": 0.2}), should_stop=never)
    assert report.workers == 3
    seen = {evaluation.worker: evaluation.metrics["shown"] for evaluation in study.evaluations}
    assert len(seen) == 3
    assert set(seen.values()) == shown
    assert {evaluation.metrics["gpu"] for evaluation in study.evaluations} == {float(bool(gpus))}
    assert {evaluation.metrics["threads"] for evaluation in study.evaluations} == {1.0}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5,7"


@pytest.fixture(scope="module")
def ray_cluster():
    from autoprune.backends.ray_tune.cluster import cluster, settings

    with settings(), cluster(None, 2, 0):
        yield


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
class TestOnOneCluster:
    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray's daemons end with their process group")
    def test_what_is_sent_to_the_whole_process_group_does_not_reach_the_daemons_of_ray(self):
        listing = ["ps", "-ww", "-o", "pgid=,args=", "--ppid", str(os.getpid())]
        started = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.splitlines()
        groups = {int(line.split()[0]) for line in started if "gcs_server" in line or "raylet" in line}
        assert len(groups) >= 2
        assert os.getpgrp() not in groups

    def test_one_worker_writes_the_ledger_that_the_serial_backend_writes(self, tmp_path, capfd):
        def ledger_of(backend, name):
            space = build_space()
            study_options = {"space": space, "strategy": GenerationStrategy(space), "candidates": 15}
            with Ledger(tmp_path / name, run={}) as ledger:
                report = backend.run(
                    build_study(trackers=[ledger], **study_options), ToyFactory({"raises": (5,)}), should_stop=never
                )
            assert not report.interrupted
            return [
                {key: value for key, value in event.items() if key not in ("seconds", "worker")}
                for event in read_ledger(tmp_path / name)
            ]

        capfd.readouterr()
        assert ledger_of(RayBackend(1), "ray") == ledger_of(SerialBackend(), "serial")
        assert capfd.readouterr().out == ""

    def test_a_worker_that_dies_costs_nothing_and_a_candidate_that_kills_workers_fails(self, tmp_path, capfd, tally):
        events = Events()
        study = build_study(candidates=12, trackers=[events])
        options = {"seconds": 0.1, "dies": ((3, 1), (6, 99)), "folder": str(tmp_path)}
        report = RayBackend(2).run(study, ToyFactory(options), should_stop=never)
        assert study.done
        assert not report.interrupted
        assert [failure.candidate.id for failure in study.failures] == [6]
        assert "worker died 4 times" in study.failures[0].reason
        assert len(list(tmp_path.glob("3-*"))) == 1
        assert len(list(tmp_path.glob("6-*"))) == 4
        assert capfd.readouterr().out == ""
        tally("worker killed", "tried again; after 4 deaths one failed candidate", times=5)

    def test_a_worker_that_cannot_be_built_again_at_once_costs_no_candidate(self, tmp_path, monkeypatch):
        monkeypatch.setattr(seams, "_REST", 0.05)
        study = build_study(candidates=8)
        options = {"dies": ((3, 1),), "folder": str(tmp_path)}
        RayBackend(1).run(study, RelapsingFactory(options, relapses=2), should_stop=never)
        assert study.done
        assert study.failures == []
        assert len(list(tmp_path.glob("worker-0-*"))) == 4

    def test_a_worker_that_can_never_be_built_again_leaves_its_candidates_to_the_others(self, tmp_path, monkeypatch):
        monkeypatch.setattr(seams, "_REST", 0.05)
        heard, study = [], build_study(candidates=16)
        options = {"seconds": 0.2, "dies": ((3, 1),), "folder": str(tmp_path)}
        RayBackend(2, warn=heard.append).run(study, RelapsingFactory(options, relapses=99), should_stop=never)
        assert study.done
        assert study.failures == []
        assert len(heard) == 1
        assert "cannot build its evaluator and is left out of the search: RuntimeError: out of memory." in heard[0]

    def test_a_search_none_of_whose_workers_can_be_built_again_ends_with_one_line(self, tmp_path, monkeypatch):
        monkeypatch.setattr(seams, "_REST", 0.05)
        study = build_study(candidates=8)
        options = {"dies": ((3, 1),), "folder": str(tmp_path)}
        with pytest.raises(BackendError, match=r"No worker is left.*RuntimeError: out of memory") as caught:
            RayBackend(1).run(study, RelapsingFactory(options, relapses=99), should_stop=never)
        assert "\n" not in str(caught.value)
        assert study.failures == []
        assert [candidate.id for candidate in study.pending] == [3]

    def test_exceptions_and_endless_evaluations_are_failures(self, tally):
        study = build_study(candidates=10)
        RayBackend(2, evaluation_timeout=3).run(study, ToyFactory({"raises": (2,), "hangs": (4,)}), should_stop=never)
        assert study.done
        assert {evaluation.worker for evaluation in study.evaluations} == {"worker-0", "worker-1"}
        reasons = {failure.candidate.id: failure.reason for failure in study.failures}
        assert reasons == {2: "ArithmeticError: candidate 2 diverged", 4: "timed out after 3 s"}
        tally("worker hangs beyond its time limit", "one failed candidate")

    def test_what_hangs_is_noticed_by_how_long_the_others_took_without_any_time_limit(self, tally, monkeypatch):
        monkeypatch.setattr(seams, "_LOOK", 0.2)
        monkeypatch.setattr("autoprune.backends.patience.LEAST_SECONDS", 2.0)
        # The first of all hangs: what it may take is known only while it does.
        study = build_study(candidates=8)
        RayBackend(2).run(study, ToyFactory({"hangs": (0, 5), "seconds": 0.05}), should_stop=never)
        assert study.done
        reasons = {failure.candidate.id: failure.reason for failure in study.failures}
        assert set(reasons) == {0, 5}
        assert all(reason.startswith("timed out after ") for reason in reasons.values())
        # The other may have been waited for longer, should the first have been given up for nothing.
        assert reasons[0] == "timed out after 2 s"
        assert len(study.evaluations) >= 6
        tally("worker hangs, no time limit given", "one failed candidate")

    def test_an_evaluator_that_cannot_be_built_ends_the_search(self):
        with pytest.raises(BackendError, match="cannot build its evaluator: RuntimeError: no such images") as caught:
            RayBackend(1).run(build_study(), ToyFactory(broken=True), should_stop=never)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_ctrl_c_and_sigterm_keep_what_was_told_and_the_search_resumes(self, tmp_path, number):
        class Interrupter(Events):
            pressed = False

            def told(self, outcome, *, finished):
                super().told(outcome, finished=finished)
                # Not "== 12": the twelfth event may be one of an ask.
                if len(self.events) >= 12 and not self.pressed:
                    self.pressed = True
                    os.kill(os.getpid(), number)

        path = tmp_path / "ledger.jsonl"
        with Ledger(path, run={}) as ledger:
            left = build_study(trackers=[ledger, Interrupter()])
            report = RayBackend(2).run(left, ToyFactory({"hangs": (9,)}), should_stop=never)
        assert report.interrupted
        assert left.evaluations
        study = build_study()
        replay(read_ledger(path), study)
        assert study.evaluations == left.evaluations
        SerialBackend().run(study, ToyFactory(), should_stop=never)
        assert study.done

    def test_an_error_of_the_study_is_raised_and_not_taken_for_a_failed_trial(self):
        class Broken(Events):
            def told(self, outcome, *, finished):
                raise ZeroDivisionError("tracker")

        with pytest.raises(ZeroDivisionError, match="tracker"):
            RayBackend(1).run(build_study(trackers=[Broken()]), ToyFactory(), should_stop=never)

    def test_more_workers_than_the_cluster_has_room_for_are_refused(self):
        with pytest.raises(BackendError, match="3 workers need 3 CPUs, Ray has 2"):
            RayBackend(3).run(build_study(), ToyFactory(), should_stop=never)
