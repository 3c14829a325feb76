"""What the driver of a training team does with what the leader of its processes tells."""

from __future__ import annotations

from autoprune.report.observer import NullObserver
from autoprune.searching.trainings.teamwork import Hearing
from autoprune.training.checkpoints import newest_checkpoint


def told(place, steps):
    """Returns a driver that has heard of checkpoints after these steps."""
    hearing = Hearing(NullObserver(), None, place)
    for step in steps:
        hearing(("checkpoint", f"step-{step:08d}.pt", f"state {step}".encode()))
    return hearing


def test_checkpoints_of_a_team_do_not_pile_up(tmp_path):
    place = tmp_path / "checkpoints"
    place.mkdir()
    (place / "notes.txt").touch()
    told(place, range(10, 60, 10))
    assert sorted(path.name for path in place.iterdir()) == ["notes.txt", "step-00000040.pt", "step-00000050.pt"]
    assert newest_checkpoint(place).read_bytes() == b"state 50"


def test_a_disk_that_refuses_costs_the_checkpoint_and_not_what_is_told_after_it(tmp_path, caplog):
    (tmp_path / "checkpoints").touch()
    hearing = told(tmp_path / "checkpoints", [10])
    assert "No checkpoint can be written to" in caplog.text
    hearing(("done", {"steps": 20}, {}))
    assert hearing.result == ({"steps": 20}, {})
