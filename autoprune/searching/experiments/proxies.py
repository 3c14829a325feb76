"""How far a cheap evaluation can be trusted: its ranking of structures against that of a longer finetune.

Structures on one budget are scored by every proxy and by the finetune that the proxies stand for. The finetune is
judged on images that neither it nor any proxy has read, so that no rank correlation comes from shared noise. Made
again with other seeds and scored on the images that proxies are scored on, it tells what a proxy can be asked for: on
few images even the finetune itself does not rank as it is judged on others.

Notation:
    S   structures
    tau rank correlation with the finetune, see `autoprune.searching.experiments.agreement`
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoprune.core.candidate import Candidate, Evaluation, Failure, Fidelity, Ladder, Merge, Outcome
from autoprune.core.cost import FloatArray
from autoprune.core.files import atomic_write_text, require_format
from autoprune.core.seeds import derive_seed, generator
from autoprune.core.structure import Structure
from autoprune.errors import ConfigError, RunError
from autoprune.evaluation.evaluator import fidelity_for
from autoprune.report import formats
from autoprune.report.observer import Observer
from autoprune.searching.experiments.agreement import agreement, sampling_error
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.search.preparation import FIRST_RUNG, Prepared, prepare
from autoprune.searching.search.results import command_line, package_versions
from autoprune.searching.search.running import placed
from autoprune.searching.search.workers import evaluated
from autoprune.strategies.heuristics import heuristic_structures
from autoprune.study.lock import FolderLock

#: What the check is written to, and its layout.
PROXIES = "proxies.json"
PROXIES_FORMAT = 1
#: A proxy is trusted from this tau on unless another is asked for.
TRUSTED_TAU = 0.8
#: Fewer structures have so few pairs that any tau is noise.
FEWEST_STRUCTURES = 5
#: Every one of them is finetuned: more is a slip of the keyboard.
MOST_STRUCTURES = 10_000
#: Share of the finetune that the training proxy gets.
_SHORT = 0.05
#: Ends the name of the second finetune, and sets its seeds apart from those of the first.
_AS_SCORE = " as a score"
#: Largest relative change of a width for structures near uniform widths, and at a middle distance.
_REACHES = (0.25, 0.7)


@dataclass(frozen=True)
class ProxyOptions:
    """What is compared with what.

    Attributes:
        structures: how many, S.
        epochs: of the finetune that proxies stand for.
        min_tau: from which tau on a proxy is trusted, in [0, 1].
        twice: whether every structure is finetuned with a second seed, too, and scored as proxies are.
    """

    structures: int = 20
    epochs: float = 1.0
    min_tau: float = TRUSTED_TAU
    twice: bool = False

    def __post_init__(self) -> None:
        if self.structures < FEWEST_STRUCTURES:
            raise ConfigError(f"--structures is {self.structures}, but must be at least {FEWEST_STRUCTURES}.")
        if self.structures > MOST_STRUCTURES:
            raise ConfigError(
                f"--structures is {self.structures}, but must be at most {MOST_STRUCTURES}: each is finetuned."
            )
        if not 0 < self.epochs < float("inf"):
            raise ConfigError(f"--epochs is {self.epochs:g}, but must be a finite number above 0.")
        if not 0 <= self.min_tau <= 1:
            raise ConfigError(f"--min-tau is {self.min_tau:g}, but must lie in [0, 1].")


@dataclass(frozen=True, slots=True)
class Compared:
    """What structures are scored by, in the order of the ladder.

    Attributes:
        proxies: the cheap scores.
        finetune: what they stand for.
        as_score: the same finetune with other seeds, scored as proxies are; None where it is made once.
    """

    proxies: tuple[Fidelity, ...]
    finetune: Fidelity
    as_score: Fidelity | None = None

    @property
    def ladder(self) -> Ladder:
        """All of them."""
        return Ladder((*self.proxies, self.finetune, *([] if self.as_score is None else [self.as_score])))

    def seed(self, rung: Fidelity, *, structure: int, search: int) -> int:
        """Returns the seed of a structure's score, by its number and the seed of the search."""
        return derive_seed(search, structure, *([_AS_SCORE] if rung == self.as_score else []))


def check_proxies(options: SearchOptions, asked: ProxyOptions, observer: Observer) -> dict[str, Any]:
    """Returns how well each proxy ranks structures, having written it to `proxies.json` in the run folder.

    What an earlier, interrupted check of the same folder has measured is not measured again; what failed there is.

    Raises:
        AutopruneError: whatever the caller can fix, in one line.
    """
    started = time.perf_counter()
    options = placed(options, f"proxies-{options.model or 'digits'}")
    assert options.out is not None
    with FolderLock(options.out):
        prepared = prepare(load_problem(options, observer), options, observer)
        whole, (prepared, judging) = prepared, divided(prepared)
        compared = fidelities_of(prepared, asked.epochs, twice=asked.twice)
        ladder = compared.ladder
        prepared, judging = replace(prepared, ladder=ladder), replace(judging, ladder=ladder)
        structures = stratified_structures(prepared, asked.structures)
        record = _Record(options.out / PROXIES, _identity(whole, asked, ladder.rungs), structures=len(structures))
        long = f"a finetune of {formats.epochs(asked.epochs)}"
        parts = [
            (compared.proxies, prepared, f"{len(compared.proxies)} proxies"),
            ((compared.finetune,), judging, long),
        ]
        if compared.as_score is not None:
            parts.append(((compared.as_score,), prepared, f"{long} with another seed"))
        for rungs, where, names in parts:
            observer.stage(f"Scoring {len(structures)} structures by {names}")
            pairs = [pair for rung in rungs for pair in _pairs(structures, rung, compared, prepared)]
            _drive(where, PairStudy(pairs, record, observer), observer)
        report = _report(record, prepared, asked, compared, images=len(judging.split.holdout))
        report["seconds"] = time.perf_counter() - started
        record.finish(report)
    return report


def fidelities_of(prepared: Prepared, epochs: float, *, twice: bool = False) -> Compared:
    """Returns the proxies and the finetune that they stand for, as a score, too, if asked.

    Proxies are cuts without training, named `merge calibration/hold-out images`, and a twentieth of the finetune.
    """
    full = (len(prepared.split.calibration), len(prepared.split.holdout))
    few = (min(FIRST_RUNG[0], full[0]), min(FIRST_RUNG[1], full[1]))
    kinds = [(merge, images) for merge in Merge for images in dict.fromkeys((few, full))]
    named = [
        replace(fidelity_for(merge, level=level, calibration=images[0], holdout=images[1]), name=_name(merge, images))
        for level, (merge, images) in enumerate(kinds)
    ]
    short = fidelity_for(
        Merge.SEQUENTIAL, level=len(named), calibration=full[0], holdout=full[1], epochs=_SHORT * epochs
    )
    whole = replace(short, level=len(named) + 1, name=f"finetune-{epochs:g}", epochs=epochs)
    second = replace(whole, level=whole.level + 1, name=whole.name + _AS_SCORE)
    return Compared((*named, short), whole, second if twice else None)


def _name(merge: Merge, images: tuple[int, int]) -> str:
    return f"{merge.value} {images[0]}/{images[1]}"


def stratified_structures(prepared: Prepared, count: int) -> list[Structure]:
    """Returns `count` distinct structures on the budget: heuristics', near uniform, farther away, and anywhere.

    A quarter each. Structures that differ wildly are easy to rank, and those that a search compares at its end are
    alike: a check on either alone would flatter or condemn every proxy.

    Raises:
        ConfigError: the space has fewer structures on this budget.
    """
    space, rng = prepared.space, generator(prepared.options.seed, "proxies")
    uniform = space.uniform()
    strata = [
        [uniform, *heuristic_structures(space, prepared.profile).values()],
        *([*space.exchange(uniform, rng, count=count, reach=reach)] for reach in _REACHES),
        space.sample(4 * count, rng),
    ]
    found: dict[Structure, None] = {}
    for number, stratum in enumerate(strata, start=1):
        for structure in stratum:
            if len(found) < round(count * number / len(strata)):
                found.setdefault(structure)
    for structure in space.sample(8 * count, rng):
        if len(found) < count:
            found.setdefault(structure)
    if len(found) < count:
        raise ConfigError(f"Only {len(found)} distinct structures lie on this budget. Give fewer with --structures.")
    return list(found)


def divided(prepared: Prepared) -> tuple[Prepared, Prepared]:
    """Returns the search whose hold-out scores, and the one whose hold-out judges; neither trains on either's images.

    The judge takes validation images that the search leaves over, or half of them where those are too few; of data
    without a validation set it takes training images away.

    Raises:
        ConfigError: there are too few images.
    """
    split = prepared.split
    if split.apart:
        order = np.concatenate([split.holdout, split.unused])
        count, training = min(len(split.holdout), len(order) // 2), split.training
        scoring, judging = order[:count], order[count : 2 * count]
    else:
        spare = split.training[~np.isin(split.training, split.calibration)]
        count = min(len(split.holdout), len(spare) // 2)
        scoring, judging = split.holdout, spare[:count]
        training = split.training[~np.isin(split.training, judging)]
    if count < 1:
        raise ConfigError("There are too few images to score the finetune apart. Give more images.")
    scores, judges = (
        replace(prepared, split=replace(split, holdout=holdout, training=training)) for holdout in (scoring, judging)
    )
    return scores, judges


def _pairs(structures: Sequence[Structure], rung: Fidelity, compared: Compared, prepared: Prepared) -> list[Candidate]:
    """Returns every structure at a fidelity."""
    return [
        Candidate(
            id=rung.level * len(structures) + number,
            structure=structure,
            cost=prepared.space.cost(structure),
            fidelity=rung,
            seed=compared.seed(rung, structure=number, search=prepared.options.seed),
            proposed_by="check-proxy",
        )
        for number, structure in enumerate(structures)
    ]


class PairStudy:
    """Asks for every structure at every fidelity once, and keeps what comes of it; see `PassiveStudy`."""

    def __init__(self, pairs: Sequence[Candidate], record: _Record, observer: Observer) -> None:
        self._record = record
        self._observer = observer
        self._pairs = len(pairs)
        self._open = [pair for pair in pairs if not record.knows(pair)]
        self._pending = 0

    def ask(self) -> Candidate | None:
        """Returns the next pair, None when all are out."""
        if not self._open:
            return None
        self._pending += 1
        return self._open.pop(0)

    def tell(self, outcome: Outcome) -> None:
        """Keeps an outcome; no candidate climbs."""
        self._pending -= 1
        self._record.add(outcome)
        self._observer.progress(self._pairs - len(self._open) - self._pending, self._pairs)

    @property
    def done(self) -> bool:
        """Whether every pair has been told."""
        return not self._open and not self._pending


def _drive(prepared: Prepared, study: PairStudy, observer: Observer) -> None:
    if not study.done and evaluated(prepared, study, observer, should_stop=lambda: False).interrupted:
        raise KeyboardInterrupt


class _Record:
    """What has been measured so far, on disk after every outcome."""

    def __init__(self, path: Path, identity: Mapping[str, Any], *, structures: int) -> None:
        self.structures = structures
        self._path = path
        self._identity = dict(identity)
        self._seen: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            require_format(content, reads=PROXIES_FORMAT, where=str(self._path), remedy="Name another with --out.")
            measured, identity = dict(content["measured"]), content["identity"]
            fits = all(isinstance(row, dict) for row in measured.values())
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise RunError(f"{self._path} cannot be read ({type(error).__name__}). Name another with --out.") from error
        if identity != json.loads(json.dumps(self._identity)) or not fits:
            raise RunError(f"{self._path} holds the check of another network, budget or seed. Name another with --out.")
        # What failed in another process is tried again: its worker may have died, or memory been short.
        self._seen = {key: row for key, row in measured.items() if "failed" not in row}

    def knows(self, pair: Candidate) -> bool:
        """Returns whether a pair has been measured, or tried by this process."""
        return self._key(pair) in self._seen

    def add(self, outcome: Outcome) -> None:
        """Writes down what came of a structure at a fidelity."""
        row: dict[str, Any] = {"widths": list(outcome.candidate.structure.widths), "seconds": outcome.seconds}
        if isinstance(outcome, Evaluation):
            row.update(score=outcome.score, accuracy=outcome.accuracy)
        elif isinstance(outcome, Failure):
            row["failed"] = outcome.reason
        self._seen[self._key(outcome.candidate)] = row
        self._write({})

    def column(self, rung: Fidelity, key: str) -> FloatArray:
        """Returns (S,) values of one fidelity, NaN where it failed."""
        rows = [self._seen.get(_key(number, rung), {}) for number in range(self.structures)]
        return np.array([row.get(key, np.nan) if "failed" not in row else np.nan for row in rows], dtype=np.float64)

    def failures(self) -> list[str]:
        """Returns what failed and why."""
        return [f"{key}: {row['failed']}" for key, row in self._seen.items() if "failed" in row]

    def finish(self, report: Mapping[str, Any]) -> None:
        """Writes the result beside the measurements."""
        self._write(report)

    def _key(self, pair: Candidate) -> str:
        return _key(pair.id % self.structures, pair.fidelity)

    def _write(self, report: Mapping[str, Any]) -> None:
        content = {"format": PROXIES_FORMAT, "identity": self._identity, **report, "measured": self._seen}
        atomic_write_text(self._path, json.dumps(content, indent=1) + "\n")


def _key(structure: int, rung: Fidelity) -> str:
    return f"{structure} {rung.name}"


def _identity(prepared: Prepared, asked: ProxyOptions, rungs: Sequence[Fidelity]) -> dict[str, Any]:
    header = prepared.header()
    kept = ("model", "weights", "data", "budget", "scope", "seed", "split", "groups")
    return {
        **{key: header[key] for key in kept},
        "channels": prepared.options.channels,
        "structures": asked.structures,
        "fidelities": [rung.name for rung in rungs],
        **({"judges": "validation"} if prepared.split.apart else {}),
    }


def _report(
    record: _Record, prepared: Prepared, asked: ProxyOptions, compared: Compared, *, images: int
) -> dict[str, Any]:
    finetune = compared.finetune
    truth = record.column(finetune, "accuracy")
    if np.isfinite(truth).sum() < FEWEST_STRUCTURES:
        raise RunError(f"Too few finetunes succeeded to compare with. The first that failed: {record.failures()[0]}.")
    whole = float(np.nanmedian(record.column(finetune, "seconds")))
    rng = generator(prepared.options.seed, "bootstrap")

    def agrees(rung: Fidelity) -> dict[str, Any]:
        return agreement(record.column(rung, "score"), truth, rng)

    rows = []
    for rung in compared.proxies:
        times = record.column(rung, "seconds")
        seconds = float(np.nanmedian(times)) if np.isfinite(times).any() else None
        share = None if seconds is None else seconds / whole
        rows.append({"name": rung.name, "seconds": seconds, "share": share, **agrees(rung)})
    return {
        "out": str(prepared.options.out),
        "model": prepared.problem.name,
        "data": prepared.problem.data.name,
        "budget": list(prepared.options.goals),
        "structures": record.structures,
        "finetune": {
            "name": finetune.name,
            "epochs": finetune.epochs,
            "seconds": whole,
            "images": images,
            "lowest": float(np.nanmin(truth)),
            "highest": float(np.nanmax(truth)),
            "sampling_error": sampling_error(truth, images),
            "as_score": None if compared.as_score is None else agrees(compared.as_score),
        },
        "min_tau": asked.min_tau,
        "proxies": rows,
        "recommended": recommended(rows, asked.min_tau),
        "failures": record.failures(),
        "versions": package_versions(),
        "command": command_line(),
    }


def recommended(rows: Sequence[Mapping[str, Any]], min_tau: float) -> str | None:
    """Returns the name of the cheapest proxy with a tau of at least `min_tau`; None where there is none."""
    trusted = [row for row in rows if row["tau"] is not None and row["tau"] >= min_tau]
    return str(min(trusted, key=lambda row: float(row["seconds"]))["name"]) if trusted else None
