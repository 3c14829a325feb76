"""Every reader of a ledger gets what the search had, or one line that says where the ledger is of another search."""

from dataclasses import replace

import pytest
from toy_search import build_study, run_by_hand

from autoprune.core.candidate import Failure
from autoprune.core.structure import Structure
from autoprune.errors import RunError
from autoprune.study import Ledger, read_ledger, replay
from autoprune.study.history import Asked, Reading, Told, Waited


@pytest.fixture
def searched(tmp_path):
    """Returns a study that ended, one of its candidates failed, and the events of its ledger."""
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, run={}) as ledger:
        study = build_study(candidates=6, trackers=[ledger])
        study.tell(Failure(study.ask(), "diverged"))
        ledger.waited()
        run_by_hand(study)
    return study, read_ledger(path)


def reading_of(study, here=lambda candidate: candidate):
    return Reading(study.ladder.rungs, study.space.groups, here)


def test_the_evaluations_are_those_of_the_study(searched):
    study, events = searched
    assert reading_of(study).evaluations(events) == study.evaluations
    told = [step.outcome for step in reading_of(study).steps(events) if isinstance(step, Told)]
    assert told[0] == study.failures[0]


def test_every_event_but_the_header_is_a_step_with_its_line(searched):
    study, events = searched
    kinds = {"asked": Asked, "told": Told, "waited": Waited}
    steps = list(reading_of(study).steps(events))
    assert [(step.line, type(step)) for step in steps] == [
        (line, kinds[event["event"]]) for line, event in enumerate(events[1:], start=2)
    ]


def test_a_reader_says_what_a_candidate_is(searched):
    study, events = searched
    found = reading_of(study, lambda candidate: replace(candidate, legal=False)).evaluations(events)
    assert found
    assert not any(one.candidate.legal for one in found)


FORGED = {
    "widths of too many groups": ("asked", {"widths": [8, 16, 32, 1]}, "do not fit groups of dense widths"),
    "a width wider than dense": ("asked", {"widths": [9, 16, 32]}, "do not fit groups of dense widths"),
    "a width that may not vanish": ("asked", {"widths": [0, 16, 32]}, "do not fit groups of dense widths"),
    "another cost": ("asked", {"macs": 1}, "takes 1 macs there"),
    "another seed": ("asked", {"seed": 1}, "has seed 1 there"),
    "a rung above the ladder": ("asked", {"level": 3}, "is at rung 3 of a ladder of 3"),
    "an outcome above the ladder": ("told", {"level": 3}, "is at rung 3 of a ladder of 3"),
    "an outcome of nobody": ("told", {"id": 70}, "told but never asked"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_no_reader_takes_what_no_search_of_this_network_wrote(searched, forged):
    study, events = searched
    kind, change, message = FORGED[forged]
    line = next(line for line, event in enumerate(events) if event["event"] == kind)
    changed = [*events[:line], {**events[line], **change}, *events[line + 1 :]]

    def here(candidate):
        level, proposed_by = candidate.fidelity.level, candidate.proposed_by
        return study.candidate_from(candidate.id, candidate.structure, level=level, proposed_by=proposed_by)

    match = f"Line {line + 1} of the ledger does not fit this search: .*{message}"
    with pytest.raises(RunError, match=match):
        reading_of(study, here).evaluations(changed)
    with pytest.raises(RunError, match=match):
        replay(changed, build_study(candidates=6))


def test_a_structure_fits_groups_that_may_vanish():
    study = build_study()
    group = study.space.groups[0]
    groups = (replace(group, min_width=0, branch="a"), *study.space.groups[1:])
    event = {"event": "asked", "id": 0, "level": 0, "widths": [0, 16, 32], "proposed_by": "me", "seed": 1}
    [step] = Reading(study.ladder.rungs, groups, lambda candidate: candidate).steps([{**event, "macs": 1, "params": 1}])
    assert step.candidate.structure == Structure((0, 16, 32))


def test_a_line_that_was_removed_is_missed_in_words_wherever_it_was(tmp_path):
    path = tmp_path / "ledger.jsonl"
    with Ledger(path, run={}) as ledger:
        run_by_hand(build_study(candidates=8, trackers=[ledger]))
    events, said = read_ledger(path), []
    for line in range(1, len(events)):
        try:
            replay([*events[:line], *events[line + 1 :]], build_study(candidates=8))
        except RunError as error:
            said.append(str(error))
    # The outcomes that nothing followed from may be missing: their candidates are evaluated again.
    assert len(said) > len(events) // 2
    assert all("Lines before it may be missing: put them back." in message for message in said)
    assert sum("went on to rung 1 there, but climbed no further here." in message for message in said) > 0
