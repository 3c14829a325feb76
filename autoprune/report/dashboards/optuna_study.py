"""A search as an Optuna study in a journal file, for optuna-dashboard and for Optuna's own plots.

A candidate is the trial of its number. One that reached the last rung is complete, with accuracy and kept cost as the
two objectives; one that was stopped on a lower rung is pruned, as Optuna calls it, for its accuracy does not compare;
one that failed has failed. A journal has a line a trial; in SQLite Optuna looks up every parameter, which took
more than a minute of processor time for 1,000 candidates.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoprune.core.files import require_file, write_whole
from autoprune.core.resources import RESOURCES
from autoprune.errors import ConfigError, RunError
from autoprune.report.records.run import RunRecord, require_search

_ATTRIBUTES = ("accuracy", "score", "fidelity", "proposed_by", "front", "macs", "params", "seconds")


def write_study(path: Path, record: RunRecord, rows: Sequence[Mapping[str, Any]]) -> str:
    """Adds a search to a file of studies, made if it is missing, and returns the name of the study.

    Args:
        path: of the journal.
        record: the search.
        rows: of its candidates, `records.run.rows_of`.

    Raises:
        ConfigError: the run is no search, the file holds the study already, or is no such file.
        RunError: the file cannot be written.
    """
    require_search(record)
    name = Path(record.folder).resolve().name
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # As a whole, or not at all: a study that was half written would look like a search of fewer candidates.
        write_whole(path, lambda place: _write(place, path, name, objectives_of(record), _trials(record, rows)))
    return name


def require_place(path: Path) -> None:
    """Checks, before there is anything to write, that studies can be kept there.

    Raises:
        RunError: it is a device or a pipe.
    """
    with _writing(path):
        require_file(path)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}. Name another file with --optuna.") from error


def objectives_of(record: RunRecord) -> list[str]:
    """Returns the objectives as the dashboard names them; the first is maximised, the second minimised."""
    metric = record.summary.get("metric") or "accuracy"
    return [f"hold-out {metric}", f"share of the {RESOURCES[record.front_resource].share_of}"]


def _write(place: Path, path: Path, name: str, objectives: list[str], trials: Sequence[Mapping[str, Any]]) -> None:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if path.exists():
        shutil.copyfile(path, place)
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(place)))
            study = optuna.create_study(study_name=name, storage=storage, directions=["maximize", "minimize"])
            study.set_metric_names(objectives)
            study.add_trials([optuna.trial.create_trial(**trial) for trial in trials])
    except optuna.exceptions.DuplicatedStudyError as error:
        raise ConfigError(f"{path} holds a study {name!r} already. Name another file, or remove this one.") from error
    except OSError:
        raise
    except Exception as error:  # whatever Optuna says of a file that is something else
        raise ConfigError(f"{path} is no journal of Optuna studies ({type(error).__name__}). Name another.") from error
    finally:
        optuna.logging.set_verbosity(verbosity)


def _trials(record: RunRecord, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns the arguments of `optuna.trial.create_trial`, a trial a candidate, by number."""
    from optuna.distributions import IntDistribution
    from optuna.trial import TrialState

    top = max((row["level"] for row in rows), default=0)
    cost = RESOURCES[record.front_resource].retained
    scored = {row["id"]: row for row in rows}
    failed = {event["id"]: str(event["failed"]) for event in record.events if event.get("failed") is not None}
    distributions = {group: IntDistribution(0, width) for group, width in record.groups.items()}
    trials: list[dict[str, Any]] = []
    for event in record.events:
        if event["event"] != "asked" or event["id"] != len(trials):
            continue  # asked once more, at the next rung
        row = scored.get(event["id"])
        finished = row is not None and row["level"] == top
        trial: dict[str, Any] = {
            "params": dict(zip(record.groups, event["widths"], strict=True)),
            "distributions": distributions,
            "user_attrs": {"proposed_by": str(event["proposed_by"])},
        }
        if row is not None:
            trial["user_attrs"] = {key: row[key] for key in _ATTRIBUTES}
        if event["id"] in failed:
            trial["user_attrs"]["failed"] = failed[event["id"]]
        if finished:
            assert row is not None
            trial |= {"state": TrialState.COMPLETE, "values": [row["accuracy"], row[cost]]}
        else:
            lost = row is None or event["id"] in failed
            trial["state"] = TrialState.FAIL if lost else TrialState.PRUNED
        trials.append(trial)
    return trials
