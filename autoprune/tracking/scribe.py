"""What the background thread writes to MLflow: runs, parameters, metrics, tags, files.

Every public method may be run again after it failed half-way.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoprune.core.candidate import Candidate, Evaluation, Failure, Outcome
from autoprune.core.cost import Cost
from autoprune.core.resources import RESOURCES
from autoprune.core.standings import Standings
from autoprune.core.structure import PrunableGroup
from autoprune.tracking import view
from autoprune.tracking.session import Session, legal_key, now_ms
from autoprune.tracking.ui import RunLocation

_CHILD_PAGE = 1000
#: The page paints a run's points and row in the colour of this tag: the front stands out of the rest.
_COLOUR = "mlflow.runColor"
_COLOURS = {True: "#d1500a", False: "#a3adb9"}
#: Metrics that a server takes in one call.
_MOST_METRICS = 1000
#: Seconds between two writings of the search's progress: steps that come faster go in one call.
_PROGRESS_SECONDS = 1.0
_TEST_NAMES = {"accuracy": "test_accuracy", "accuracy_before_finetune": "test_accuracy_before_finetune"}


@dataclass(frozen=True)
class Search:
    """What the thread knows of the search.

    Its `run_uuid` names it for good, `metric` is what people call its accuracy, and `resource` what the front trades
    for it.
    """

    experiment: str
    run_name: str
    run_uuid: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    dense: Cost
    groups: tuple[PrunableGroup, ...]
    metric: str
    resource: str


@dataclass
class Told:
    """An outcome with the time at which it was told, and whether the candidate climbs no further."""

    outcome: Outcome
    finished: bool
    at: int = field(default_factory=now_ms)


@dataclass(frozen=True)
class Ending:
    """What `close` was given."""

    summary: dict[str, Any]
    files: dict[str, Path]
    front_ids: set[int] | None
    interrupted: bool


class Scribe:
    """The thread's side: every method may be run again after it failed half-way."""

    def __init__(self, session: Session, search: Search) -> None:
        self.location: RunLocation | None = None
        self._session = session
        self._search = search
        self._experiment_id = ""
        self._parent = ""
        self._known: set[str] = set()
        self._standings = Standings(search.resource)
        self._rungs: dict[int, list[Evaluation]] = {}
        self._children: dict[int, str] = {}
        # {candidate: the level that its child run shows}: one that is promoted late ends once more, higher up.
        self._ended: dict[int, float] = {}
        self._failures: set[int] = set()
        self._tagged: set[int] = set()
        self._steps: list[Any] = []
        self._progress_at = float("-inf")

    def open(self) -> None:
        """Finds or makes the experiment and the parent run."""
        search = self._search
        self._experiment_id = self._session.experiment(search.experiment)
        self._parent = self._parent or self._find_parent() or self._make_parent()
        # A parameter is written once for good: those of an earlier part of the search stay as they are.
        new = {key: value for key, value in search.params.items() if key not in self._known}
        self._session.write(self._parent, params=new)
        tried = view.is_tried(self._session.mlflow.__version__)
        if tried:
            ratios = [_ratio_key(group) for group in search.groups]
            tag = view.view_tag(
                self._parent,
                name=search.run_name,
                ratios=ratios,
                metric=search.metric,
                cost=RESOURCES[search.resource].retained,
                now=now_ms(),
            )
            tried = tag is not None
            if tag is not None:
                self._session.client.set_experiment_tag(self._experiment_id, *tag)
        location = RunLocation(self._experiment_id, self._parent, view.view_id(self._parent) if tried else None)
        self._session.client.set_experiment_tag(self._experiment_id, "mlflow.note.content", self._note(location))
        self._session.client.set_experiment_tag(
            self._experiment_id, "mlflow.experimentKind", "custom_model_development"
        )
        self.location = location

    def write(self, told: Told) -> None:
        """Writes one outcome."""
        outcome = told.outcome
        number = outcome.candidate.id
        if isinstance(outcome, Evaluation):
            rungs = self._rungs.setdefault(number, [])
            if outcome not in rungs:
                rungs.append(outcome)
            self._standings.tell(outcome)
        level = outcome.candidate.fidelity.level
        if (told.finished or number in self._ended) and level > self._ended.get(number, -1):
            if isinstance(outcome, Failure):
                self._failures.add(number)
            self._write_child(told)
            self._ended[number] = level
        self._steps += self._progress(told.at)
        if time.monotonic() - self._progress_at >= _PROGRESS_SECONDS:
            self._write_progress()
            self._tag_front(self._front())

    def end(self, ending: Ending) -> None:
        """Writes the final figures and files and ends the parent run."""
        front = self._front() if ending.front_ids is None else ending.front_ids
        self._write_progress()
        self._tag_front(front)
        self._session.write(
            self._parent,
            metrics=self._session.metrics(_final_metrics(ending.summary), at=now_ms(), step=len(self._ended)),
        )
        for name, path in ending.files.items():
            if path.is_dir():
                self._session.client.log_artifacts(self._parent, str(path), name)
            elif path.is_file():
                parent = str(Path(name).parent)
                self._session.client.log_artifact(self._parent, str(path), None if parent == "." else parent)
        self._session.client.set_terminated(self._parent, "KILLED" if ending.interrupted else "FINISHED")

    def _find_parent(self) -> str:
        found = self._session.find(self._experiment_id, self._search.run_uuid, role="search")
        if found is None:
            return ""
        parent = str(found.info.run_id)
        self._session.client.update_run(parent, status="RUNNING")
        self._known = set(found.data.params)
        for child in self._children_of(parent):
            self._take_up(child)
        return parent

    def _children_of(self, parent: str) -> Iterator[Any]:
        query = f"tags.`mlflow.parentRunId` = '{parent}' AND tags.`autoprune.role` = 'candidate'"
        token, search_runs = None, self._session.client.search_runs
        while True:
            page = search_runs([self._experiment_id], query, max_results=_CHILD_PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _take_up(self, child: Any) -> None:
        """Takes over a child run of an earlier part of the search, whose outcomes are told again."""
        number = int(child.data.tags["autoprune.candidate"])
        self._children[number] = str(child.info.run_id)
        if child.data.tags.get("front") == "true":
            self._tagged.add(number)
        if child.info.status == "FAILED":
            self._failures.add(number)
            self._ended[number] = math.inf  # it has no level where the lowest rung failed, and is never promoted
        elif child.info.status == "FINISHED":
            self._ended[number] = child.data.metrics.get("level", -1)

    def _make_parent(self) -> str:
        search = self._search
        tags = {**search.tags, "autoprune.run": search.run_uuid}
        return self._session.make(self._experiment_id, search.run_name, role="search", tags=tags)

    def _write_child(self, told: Told) -> None:
        outcome = told.outcome
        candidate = outcome.candidate
        rungs = self._rungs.get(candidate.id, [])
        seconds = sum(one.seconds for one in rungs) + (outcome.seconds if isinstance(outcome, Failure) else 0.0)
        run_id = self._children.get(candidate.id) or self._make_child(told, seconds)
        costs = {**_cost_metrics(candidate.cost, self._search.dense), "seconds": seconds}
        metrics = self._session.metrics(costs, at=told.at, step=candidate.fidelity.level)
        shown = self._ended.get(candidate.id, -1)
        for rung in rungs:
            if rung.candidate.fidelity.level > shown:
                metrics += self._session.metrics(_rung_metrics(rung), at=told.at, step=rung.candidate.fidelity.level)
        tags = {"fidelity": candidate.fidelity.name}
        if isinstance(outcome, Failure):
            tags["autoprune.failure"] = outcome.reason
        self._session.write(run_id, metrics=metrics, params=self._child_params(candidate), tags=tags)
        status = "FAILED" if isinstance(outcome, Failure) else "FINISHED"
        self._session.client.set_terminated(run_id, status, end_time=told.at)

    def _make_child(self, told: Told, seconds: float) -> str:
        candidate = told.outcome.candidate
        tags = {
            "mlflow.parentRunId": self._parent,
            "autoprune.candidate": str(candidate.id),
            "strategy": candidate.proposed_by,
            **_front_tags(on_front=False),
        }
        name, started = f"{candidate.id:03d} {candidate.proposed_by}", told.at - int(1000 * seconds)
        made = self._session.make(self._experiment_id, name, role="candidate", tags=tags, started=started)
        self._children[candidate.id] = made
        return made

    def _child_params(self, candidate: Candidate) -> dict[str, str]:
        pairs = list(zip(self._search.groups, candidate.structure.widths, strict=True))
        ratios = {_ratio_key(group): f"{width / group.width:.4g}" for group, width in pairs}
        return {**ratios, "widths": json.dumps([width for _, width in pairs]), "strategy": candidate.proposed_by}

    def _progress(self, at: int) -> list[Any]:
        """Returns where the search stands after the last outcome, as metrics of the parent run."""
        metrics = {"candidates": float(len(self._ended)), "failures": float(len(self._failures))}
        best, front = self._standings.best, self._standings.front
        if best is not None:
            metrics["incumbent.holdout_accuracy"] = best.accuracy
            metrics["incumbent.score"] = best.score
            metrics["hypervolume"] = front.hypervolume(self._search.dense)
            metrics["front_size"] = float(len(front))
        return self._session.metrics(metrics, at=at, step=len(self._ended))

    def _front(self) -> set[int]:
        return {one.candidate.id for one in self._standings.front}

    def _write_progress(self) -> None:
        """Writes the steps that wait, in as few calls as the store allows."""
        while self._steps:
            self._session.write(self._parent, metrics=self._steps[:_MOST_METRICS])
            del self._steps[:_MOST_METRICS]
        self._progress_at = time.monotonic()

    def _tag_front(self, front: set[int]) -> None:
        """Makes the children's `front` tags and colours say what `front` says, touching only those that change."""
        for number in sorted(self._tagged ^ front):
            if number in self._children:
                self._session.write(self._children[number], tags=_front_tags(on_front=number in front))
                self._tagged ^= {number}

    def _note(self, location: RunLocation) -> str:
        cost = RESOURCES[self._search.resource].share_of
        return (
            f"autoprune searches. Charts of the latest one, **{self._search.run_name}**: "
            f"[hold-out {self._search.metric} against {cost}]({location.view_link('')}). Its "
            f"[parent run]({location.run_link('')}) draws the progress of the search and holds `front.html`, "
            "`front.csv` and the incumbent among its artifacts."
        )


def _front_tags(*, on_front: bool) -> dict[str, str]:
    return {"front": str(on_front).lower(), _COLOUR: _COLOURS[on_front]}


def _rung_metrics(evaluation: Evaluation) -> dict[str, float]:
    level = float(evaluation.candidate.fidelity.level)
    return {**evaluation.metrics, "accuracy": evaluation.accuracy, "score": evaluation.score, "level": level}


def _cost_metrics(cost: Cost, dense: Cost) -> dict[str, float]:
    amounts = {name: float(amount) for name, amount in cost.known.items()}
    return {**amounts, "flops": float(cost.flops), **cost.retained(dense)}


def _final_metrics(summary: Mapping[str, Any]) -> dict[str, float]:
    figures = {name: summary.get(name) for name in ("seconds", "utilisation", "hypervolume")}
    for part in ("dense", "uniform", "incumbent"):
        values = summary.get(part) or {}
        # The page also shows hold-out accuracies: say which is which.
        figures |= {f"{part}.{_TEST_NAMES.get(key, key)}": value for key, value in values.items() if key != "id"}
    numbers = {k: v for k, v in figures.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: float(v) for k, v in numbers.items()}


def _ratio_key(group: PrunableGroup) -> str:
    return legal_key(f"ratio.{group.name}")
