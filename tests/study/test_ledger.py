"""The ledger: what is on the disk is what happened, and a search goes on from it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_search import (
    Events,
    GenerationStrategy,
    RandomStrategy,
    build_space,
    build_study,
    run_by_hand,
    score_of,
)

from autoprune.core.candidate import Evaluation, Failure
from autoprune.errors import RunError
from autoprune.study import Ledger, read_header, read_ledger, replay, run_of
from autoprune.study.ledger import Held, read_held

RUN = {"seed": 7, "budget": ["50%flops"], "nested": {"rungs": (1, 2)}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def study_of(kind, **options):
    space = build_space()
    strategy = {"random": RandomStrategy, "generations": GenerationStrategy}[kind](space)
    return build_study(space=space, strategy=strategy, candidates=30, **options)


def two_workers(study, steps):
    """Drives a study as two workers would, for a number of tells; the second of two always finishes first."""
    running = []
    while steps and not study.done:
        while len(running) < 2 and (candidate := study.ask()) is not None:
            running.append(candidate)
        candidate = running.pop()
        score = score_of(candidate, np.asarray([1.0, 2.0, 3.0]))
        outcome = Evaluation(candidate, score, score, {"loss": 1 / 3}, seconds=0.1, worker="w")
        rung = study.tell(Failure(candidate, "diverged") if candidate.id == 4 else outcome)
        if rung is not None:
            running.append(replace(candidate, fidelity=rung))
        steps -= 1


@pytest.mark.parametrize("kind", ["random", "generations"])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 20, 33, 1000])
def test_a_resumed_search_goes_on_as_if_it_had_never_stopped(path, kind, steps):
    with Ledger(path, run=RUN) as ledger:
        left = study_of(kind, trackers=[ledger])
        two_workers(left, steps)
    events = read_ledger(path)
    pair = [study_of(kind), study_of(kind)]
    for study in pair:
        restored = replay(events, study)
        assert restored.diverged_at is None
        assert study.evaluations == left.evaluations
        assert study.pending == left.pending
    # The left study, had it lived, hands out its pending candidates again as well.
    left.reissue_pending()
    with left.heard_by(()):
        assert run_by_hand(left) == run_by_hand(pair[0]) == run_by_hand(pair[1])


def test_pending_candidates_are_handed_out_first(path):
    with Ledger(path, run=RUN) as ledger:
        study = build_study(trackers=[ledger])
        first, second, third = (study.ask() for _ in range(3))
        study.tell(Failure(second, "diverged"))
        rung = study.tell(Evaluation(first, 0.5, 0.5))
    fresh = build_study()
    restored = replay(read_ledger(path), fresh)
    assert (restored.candidates, restored.outcomes, restored.pending) == (3, 2, 2)
    assert [fresh.ask(), fresh.ask()] == [replace(first, fidelity=rung), third]
    assert fresh.ask().id == 3


def test_a_ledger_opened_again_goes_on_without_repeating_anything(path):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 9)
    with Ledger(path, run=RUN) as ledger:
        past = len(ledger.events)
        study = study_of("random", trackers=[ledger])
        replay(ledger.events, study)
        assert len(read_ledger(path)) == past
        run_by_hand(study)
    again = study_of("random")
    replay(read_ledger(path), again)
    assert again.done
    assert again.evaluations == study.evaluations


def test_another_tracker_may_hear_the_past(path):
    heard, told = Events(), Events()
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger, told]), 9)
    replay(read_ledger(path), study_of("random"), heard_by=[heard])
    assert heard.events == told.events


def test_a_strategy_that_answers_otherwise_loses_nothing(path):
    with Ledger(path, run=RUN) as ledger:
        left = study_of("random", trackers=[ledger])
        two_workers(left, 20)
    space = build_space()
    strategy = RandomStrategy(space, seed=99)
    study = build_study(space=space, strategy=strategy, candidates=30)
    restored = replay(read_ledger(path), study)
    assert restored.diverged_at == 1
    assert study.evaluations == left.evaluations
    assert study.failures == left.failures
    run_by_hand(study)
    assert study.done
    assert study.proposed == 30
    # Its first proposal was kept, and came as soon as the search went on.
    kept = strategy.asked[1]
    assert next(e.candidate.id for e in study.evaluations if e.candidate.structure == kept) >= restored.candidates
    assert set(strategy.asked) == {outcome.candidate.id for outcome in strategy.told}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_a_crash_cut_short_is_dropped(path, cut):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 5)
    whole = read_ledger(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert read_ledger(path) == whole[:-1]
    with Ledger(path, run=RUN) as ledger:
        assert ledger.events == whole[:-1]
        ledger.waited()
    assert read_ledger(path) == (*whole[:-1], {"event": "waited"})


def test_what_was_read_of_a_ledger_opens_it_without_reading_it_again(path, monkeypatch):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 5)
    path.write_bytes(path.read_bytes()[:-3])
    held = read_held(path)
    assert held.run["seed"] == 7
    with monkeypatch.context() as patch:
        patch.delattr(Path, "read_bytes")
        with Ledger(path, run=RUN, held=held) as ledger:
            assert ledger.events == held.events
            ledger.waited()
    assert read_ledger(path) == (*held.events, {"event": "waited"})
    assert Held().run == {}


@pytest.mark.parametrize(("left", "said"), [(None, "removed or emptied"), (10, "shortened")])
def test_a_ledger_that_is_lost_after_it_was_read_is_not_filled_with_zeros(path, left, said):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 5)
    held, whole = read_held(path), path.read_bytes()
    path.unlink()
    if left is not None:
        path.write_bytes(whole[:left])
    with pytest.raises(RunError, match=rf"was {said} by somebody else .*{left or 0} bytes are left of") as error:
        Ledger(path, run=RUN, held=held)
    assert "\n" not in str(error.value)
    assert path.exists() == (left is not None)
    assert left is None or path.read_bytes() == whole[:left]


def test_reading_never_changes_the_file(path):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 5)
    path.write_bytes(path.read_bytes()[:-3])
    before = path.read_bytes()
    read_ledger(path)
    assert path.read_bytes() == before


def test_damage_in_the_middle_is_an_error_that_names_the_line(path):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b"0", b"1", 1)
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match="Line 4 of the ledger"):
        read_ledger(path)
    with pytest.raises(RunError, match="Line 4 of the ledger"):
        Ledger(path, run=RUN)


def test_every_line_is_plain_json(path):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 20)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["event"] == "header"
    assert {line["event"] for line in lines[1:]} <= {"asked", "told", "waited"}
    assert all(len(line["check"]) == 8 for line in lines)


def test_resuming_with_other_options_names_them(path):
    Ledger(path, run=RUN).close()
    with pytest.raises(RunError, match=r"started with seed=7 \(now 8\)"):
        Ledger(path, run={**RUN, "seed": 8})
    assert run_of(read_ledger(path))["nested"] == {"rungs": [1, 2]}


def test_a_second_driver_in_the_same_folder_is_refused(path):
    with Ledger(path, run=RUN), pytest.raises(RunError, match="Another process is searching"):
        Ledger(path, run=RUN)
    Ledger(path, run=RUN).close()


def test_a_missing_or_foreign_file_is_an_error_of_one_line(path):
    with pytest.raises(RunError, match=r"Cannot read the ledger .*: No such file"):
        read_ledger(path)
    path.write_text("hello\n")
    with pytest.raises(RunError, match="is empty"):
        read_ledger(path)
    with pytest.raises(RunError, match="Cannot open the ledger"):
        Ledger(path.parent / "missing" / "ledger.jsonl", run=RUN)


def test_a_full_disk_is_an_error_and_what_came_before_is_kept(path, monkeypatch):
    ledger = Ledger(path, run=RUN)
    study = build_study(trackers=[ledger])
    study.ask()
    whole = read_ledger(path)
    write = os.write

    def half(file, data):
        write(file, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(RunError, match=r"No space left on device\. Everything before is kept"):
            study.ask()
    with pytest.raises(RunError, match="closed to writing"):
        study.ask()
    ledger.close()
    assert read_ledger(path) == whole


def test_a_ledger_of_another_search_does_not_replay(path):
    with Ledger(path, run=RUN) as ledger:
        two_workers(study_of("random", trackers=[ledger]), 5)
    with pytest.raises(RunError, match="Line 2 of the ledger does not fit"):
        replay(read_ledger(path), build_study(seed=8))
    study = build_study()
    study.ask()
    with pytest.raises(RunError, match="has not asked anything yet"):
        replay(read_ledger(path), study)


def test_only_who_reads_the_events_tells_of_what_is_dropped(path, caplog):
    Ledger(path, run=RUN).close()
    path.write_bytes(path.read_bytes() + b'{"event": "as')
    assert read_header(path)["seed"] == 7
    assert not caplog.records
    assert len(read_ledger(path)) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_who_reads_the_header_alone_hears_of_damage_all_the_same(path):
    Ledger(path, run=RUN).close()
    path.write_bytes(path.read_bytes() + b"{}\n{}\n")
    with pytest.raises(RunError, match="Line 2 of the ledger"):
        read_header(path)
