"""A tabular benchmark: structures of one real network with what its evaluations said, in one small file.

Recorded by `python -m experiments.benchmarks.record_table`; the files that ship lie in the folder `tables`. A file is a
compressed npz without pickled objects: arrays, and one JSON text for everything else.

Notation:
    n   recorded structures
    G   groups
    R   rungs of the ladder
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.candidate import Fidelity, Ladder, Merge
from autoprune.core.cost import AxisWidth, CostModel, FloatArray, IntArray, LayerTerm
from autoprune.core.files import require_format, write_whole
from autoprune.core.profile import GroupProfile, ModelProfile
from autoprune.core.structure import PrunableGroup
from autoprune.errors import ConfigError, nearest

FORMAT = 1
SHIPPED = Path(__file__).parent / "tables"
#: Single precision: heuristics read the statistics, nothing is solved with them.
_STORED = np.float32
_REMEDY = "Record it again: python -m experiments.benchmarks.record_table."


@dataclass(frozen=True, eq=False)
class Table:
    """Recorded evaluations of one network.

    Attributes:
        groups: the prunable groups.
        cost_model: exact costs over them.
        profile: what heuristics read.
        ladder: the rungs that were recorded, every structure at all of them.
        widths: (n, G) the structures.
        scores: (n, R) in [0, 1]; NaN where the evaluation failed.
        accuracies: (n, R) in [0, 1]; NaN likewise.
        seconds: (n, R) processor time of each evaluation.
        phases: (n,) why each structure was recorded: `spread`, `searched`, `closing 1`, ...
        failures: the reason of each evaluation that failed, by (row, rung).
        provenance: command, commit, date, hardware, versions, seeds and what was evaluated.
    """

    groups: tuple[PrunableGroup, ...]
    cost_model: CostModel
    profile: ModelProfile
    ladder: Ladder
    widths: IntArray
    scores: FloatArray
    accuracies: FloatArray
    seconds: FloatArray
    phases: tuple[str, ...]
    failures: Mapping[tuple[int, int], str]
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        """Returns n."""
        return len(self.widths)

    def save(self, path: Path) -> None:
        """Writes the table, as a whole or not at all."""
        meta = {
            "format": FORMAT,
            "groups": [asdict(group) for group in self.groups],
            "terms": [asdict(term) for term in self.cost_model.terms],
            "ladder": {"rungs": [asdict(rung) for rung in self.ladder.rungs], "keep": self.ladder.keep},
            "phases": list(self.phases),
            "failures": [[row, rung, reason] for (row, rung), reason in self.failures.items()],
            "provenance": dict(self.provenance),
        }
        arrays: dict[str, npt.NDArray[Any]] = {
            "meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
            "widths": self.widths.astype(np.uint16),
            "scores": self.scores.astype(_STORED),
            "accuracies": self.accuracies.astype(_STORED),
            "seconds": self.seconds.astype(_STORED),
        }
        for index, group in enumerate(self.profile.groups):
            for name in _STATISTICS:
                arrays[f"profile/{index}/{name}"] = np.asarray(getattr(group, name), dtype=_STORED)

        def write(place: Path) -> None:
            with place.open("wb") as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # its stubs know no names

        write_whole(path, write)

    @classmethod
    def load(cls, name: str | Path) -> Table:
        """Returns the table of a file, or of a name that ships.

        Raises:
            ConfigError: there is no such file or name, or it is no table.
            RunError: it has another format.
        """
        path = Path(name)
        if not path.is_file():
            path = SHIPPED / f"{name}.npz"
        if not path.is_file():
            raise ConfigError(f"There is no recorded table {str(name)!r}.{nearest(str(name), table_names())}")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: np.asarray(file[key]) for key in file.files}
            meta = json.loads(arrays["meta"].tobytes())
            require_format(meta, reads=FORMAT, where=str(path), remedy=_REMEDY)
            return cls._read(meta, arrays)
        except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path} is no recorded table: {error}. {_REMEDY}") from error

    @classmethod
    def _read(cls, meta: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Table:
        groups = tuple(PrunableGroup(**group) for group in meta["groups"])
        rungs = tuple(Fidelity(**{**rung, "merge": Merge(rung["merge"])}) for rung in meta["ladder"]["rungs"])
        terms = tuple(
            LayerTerm(**{**term, "out": _axis(term["out"]), "inner": _axis(term["inner"])}) for term in meta["terms"]
        )
        return cls(
            groups=groups,
            cost_model=CostModel(tuple(group.width for group in groups), terms),
            profile=ModelProfile(tuple(_statistics(arrays, index, group) for index, group in enumerate(groups))),
            ladder=Ladder(rungs, keep=meta["ladder"]["keep"]),
            widths=arrays["widths"].astype(np.int64),
            scores=arrays["scores"].astype(np.float64),
            accuracies=arrays["accuracies"].astype(np.float64),
            seconds=arrays["seconds"].astype(np.float64),
            phases=tuple(meta["phases"]),
            failures={(row, rung): reason for row, rung, reason in meta["failures"]},
            provenance=meta["provenance"],
        )


def table_names() -> tuple[str, ...]:
    """Returns the names of the tables that ship, in alphabetical order."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.npz")))


#: Fields of a profile that are arrays, and the share that is not but is stored like them.
_STATISTICS = tuple(field.name for field in fields(GroupProfile) if field.name != "name")


def _axis(entry: Mapping[str, Any]) -> AxisWidth:
    return AxisWidth(entry["constant"], tuple((index, times) for index, times in entry["groups"]))


def _statistics(arrays: Mapping[str, npt.NDArray[Any]], index: int, group: PrunableGroup) -> GroupProfile:
    found: dict[str, Any] = {name: arrays[f"profile/{index}/{name}"].astype(np.float64) for name in _STATISTICS}
    return GroupProfile(**{**found, "name": group.name, "dead_share": float(found["dead_share"])})
