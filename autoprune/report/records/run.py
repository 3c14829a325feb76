"""A run folder as a value: what its files say, whichever command wrote them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from autoprune.core.budget import Budget, front_resource
from autoprune.core.candidate import Candidate, Evaluation, Fidelity, Merge
from autoprune.core.cost import Cost
from autoprune.core.standings import Standings
from autoprune.core.structure import PrunableGroup
from autoprune.errors import BudgetError, ConfigError, RunError
from autoprune.report.records.rows import candidate_rows
from autoprune.study.history import Reading
from autoprune.study.ledger import Event, run_of

#: The kinds of runs; the last two are trainings, which have no budget and no candidates.
SEARCH, PRUNE, TRAIN, FINETUNE = "search", "prune", "train", "finetune"


@dataclass(frozen=True)
class RunRecord:
    """What a run folder holds.

    Attributes:
        folder: its path, for people.
        kind: one of `search`, `prune`, `train`, `finetune`.
        summary: the content of `summary.json`, of a training that of `training.json`.
        structure: the content of the saved network's `structure.json`; empty where there is none.
        events: of the ledger, the header first; empty where there is none.
        layers: `{"name", "dense", "uniform", "pruned"}` MACs of every layer that has any, in forward order.
        latency: as measured; empty where it was not.
        notes: what is missing, and why.
        repeats: the same search with other seeds.
    """

    folder: str
    kind: str
    summary: Mapping[str, Any]
    structure: Mapping[str, Any]
    events: tuple[Event, ...] = ()
    layers: tuple[Mapping[str, Any], ...] = ()
    latency: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    repeats: tuple[RunRecord, ...] = ()

    @property
    def groups(self) -> dict[str, int]:
        """{group: dense width}, in the order of the network; empty where nothing was cut."""
        listed = self.summary.get("groups")
        if listed:
            return {str(group["name"]): int(group["width"]) for group in listed}
        return dict(self.structure.get("dense_widths", {}))

    @property
    def widths(self) -> dict[str, int]:
        """{group: kept width} of the network that the run is about; empty where there is none."""
        incumbent = self.summary.get("incumbent") or {}
        return dict(incumbent.get("widths") or self.structure.get("widths", {}))

    @property
    def dense(self) -> Cost | None:
        """Cost of the dense network."""
        dense = self.summary.get("dense") or {}
        return Cost.recorded(dense) if dense.get("macs") and dense.get("params") else None

    @property
    def front_resource(self) -> str:
        """What the front trades for accuracy, by the budgets where the summary is of a version that does not say."""
        resource = str(self.summary.get("front_resource") or front_resource(limits_of(self)))
        return resource if self.dense is not None and resource in self.dense.known else "macs"


def limits_of(record: RunRecord) -> list[Budget]:
    """Returns the budgets of a run, those of other versions left out that cannot be read."""
    found = []
    for text in record.summary.get("budget", ()):
        with suppress(BudgetError):
            found.append(Budget.parse(str(text)))
    return found


def require_search(record: RunRecord) -> None:
    """Refuses a run that has no candidates to show.

    Raises:
        ConfigError: it is no search.
    """
    if record.kind != SEARCH or record.dense is None:
        raise ConfigError(f"{record.folder!r} holds no search: it has no candidates. Name the run folder of a search.")


def rungs_of(record: RunRecord) -> tuple[Fidelity, ...]:
    """Returns the ladder of a search."""
    if not record.events:
        return ()
    return tuple(
        Fidelity(
            int(rung["level"]),
            str(rung["name"]),
            Merge(rung["merge"]),
            int(rung["calibration_images"]),
            int(rung["holdout_images"]),
            float(rung["epochs"]),
        )
        for rung in run_of(record.events)["ladder"]
    )


def evaluations_of(record: RunRecord) -> list[Evaluation]:
    """Returns the evaluations that the ledger tells of, in its order.

    Raises:
        RunError: the ledger does not fit together.
    """
    if not record.events:
        return []
    dense, limits = record.dense, limits_of(record)
    known = [] if dense is None else [limit.resolve(dense) for limit in limits if limit.resource in dense.known]

    def here(candidate: Candidate) -> Candidate:
        return replace(candidate, legal=all(limit.allows(candidate.cost) for limit in known))

    # What may vanish is not written down.
    groups = [PrunableGroup(name, width, min_width=0, branch=name) for name, width in record.groups.items()]
    try:
        return Reading(rungs_of(record), groups, here).evaluations(record.events)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"The ledger in {record.folder!r} does not fit together ({error!r}). Search anew.") from error


def rows_of(record: RunRecord, evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Returns the candidates as flat rows (see `rows.candidate_rows`), those on the front marked."""
    if record.dense is None or not evaluations:
        return []
    standings = Standings(record.front_resource)
    for item in evaluations:
        standings.tell(item)
    return candidate_rows(
        evaluations,
        groups=[PrunableGroup(name, width) for name, width in record.groups.items()],
        dense=record.dense,
        front_ids={item.candidate.id for item in standings.front},
    )
