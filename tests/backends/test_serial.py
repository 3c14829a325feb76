"""The serial backend, and what every backend does around one evaluation."""

import os
import signal

import pytest
from toy_search import Events, ToyFactory, build_study, run_by_hand

from autoprune.backends import RayBackend, SerialBackend
from autoprune.backends.evaluating import Span, evaluate, report_of
from autoprune.core.candidate import Evaluation, Failure
from autoprune.errors import BackendError, one_line
from autoprune.study import Ledger, read_ledger, replay


def never():
    return False


class Interrupter(Events):
    """Presses Ctrl-C at a tell."""

    def __init__(self, at, number=signal.SIGINT):
        super().__init__()
        self.at, self.number = at, number

    def told(self, outcome, *, finished):
        super().told(outcome, finished=finished)
        if sum(kind == "told" for kind, *_ in self.events) == self.at:
            os.kill(os.getpid(), self.number)


def test_it_drives_a_study_to_its_end():
    study = build_study()
    report = SerialBackend().run(study, ToyFactory(), should_stop=never)
    assert study.done
    assert not report.interrupted
    assert report.workers == 1
    assert 0 <= report.busy_seconds <= report.seconds + 1e-6


def test_it_asks_and_tells_as_a_loop_by_hand_does():
    by_backend, by_hand = Events(), Events()
    SerialBackend().run(build_study(trackers=[by_backend]), ToyFactory(), should_stop=never)
    run_by_hand(build_study(trackers=[by_hand]))

    def scores(events):
        return [(event[1], event[2][0] if event[0] == "told" else None) for event in events]

    assert scores(by_backend.events) == scores(by_hand.events)


def test_an_exception_costs_one_candidate():
    study = build_study()
    SerialBackend().run(study, ToyFactory({"raises": (3,)}), should_stop=never)
    assert study.done
    assert [failure.reason for failure in study.failures] == ["ArithmeticError: candidate 3 diverged"]


def test_it_stops_between_evaluations_when_told_to():
    study = build_study()
    report = SerialBackend().run(study, ToyFactory(), should_stop=lambda: len(study.evaluations) >= 4)
    assert report.interrupted
    assert len(study.evaluations) == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_keep_what_was_told_and_the_search_resumes(tmp_path, number):
    path = tmp_path / "ledger.jsonl"
    whole = Events()
    # A background job starts with Ctrl-C ignored: what counts is that it is as it was.
    before = signal.getsignal(number)
    SerialBackend().run(build_study(trackers=[whole]), ToyFactory(), should_stop=never)
    with Ledger(path, run={}) as ledger:
        report = SerialBackend().run(
            build_study(trackers=[ledger, Interrupter(7, number)]), ToyFactory(), should_stop=never
        )
    assert report.interrupted
    assert signal.getsignal(number) is before
    rest = Events()
    study = build_study(trackers=[rest])
    with_past = Events()
    assert replay(read_ledger(path), study, heard_by=[with_past]).outcomes == 7
    SerialBackend().run(study, ToyFactory(), should_stop=never)
    assert with_past.events + rest.events == whole.events


def test_ctrl_c_cuts_an_evaluation_short():
    class Pressing:
        def __init__(self):
            self.arrays = {}

        def build(self, arrays, *, worker):
            return self

        def evaluate(self, candidate):
            os.kill(os.getpid(), signal.SIGINT)
            return Evaluation(candidate, 0.5, 0.5)

    study = build_study()
    report = SerialBackend().run(study, Pressing(), should_stop=never)
    assert report.interrupted
    assert (study.evaluations, len(study.pending)) == ([], 1)


@pytest.mark.parametrize("answer", [None, 0.5])
def test_an_answer_that_is_no_outcome_is_a_failure(answer):
    class Wrong:
        def evaluate(self, candidate):
            return answer

    timed = evaluate(Wrong(), build_study().ask(), worker="w")
    assert isinstance(timed.outcome, Failure)
    assert f"returned {answer!r}" in timed.outcome.reason


def test_an_answer_for_another_candidate_is_a_failure():
    study = build_study()
    first, second = study.ask(), study.ask()

    class Wrong:
        def evaluate(self, candidate):
            return Evaluation(second, 0.5, 0.5)

    outcome = evaluate(Wrong(), first, worker="w").outcome
    assert isinstance(outcome, Failure)
    assert outcome.candidate == first


def test_an_exception_is_told_in_one_line():
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert one_line(KeyError()) == "KeyError"


def test_impossible_workers_are_refused():
    with pytest.raises(BackendError, match=r"^0 workers with 0 GPUs each cannot work"):
        RayBackend(0)
    with pytest.raises(BackendError, match=r"^Any number of workers with -1 GPUs each cannot work"):
        RayBackend(None, gpus_per_worker=-1.0)


def test_a_worker_counts_from_its_first_evaluation_and_one_that_had_none_all_the_time():
    first = [Span("worker-0", float(at), at + 1.0) for at in range(10)]
    late = [Span("worker-1", float(at), at + 1.0) for at in range(5, 10)]
    alone = report_of(first, workers=1, interrupted=False)
    both = report_of(first + late, workers=2, interrupted=False)
    idle = report_of(first, workers=2, interrupted=False)
    assert [report.utilisation for report in (alone, both, idle)] == [1.0, 1.0, 0.5]
    assert [report.overhead for report in (alone, both, idle)] == [0.0, 0.0, 1.0]
