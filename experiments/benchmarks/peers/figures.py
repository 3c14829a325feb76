"""Records as figures: means over seeds, differences from autoprune, intervals and verdicts.

Notation:
    S   seeds that both sides have been run with
    n   test images, the same for everybody
    D   (S, n) what one network gets right and the other does not, in {-1, 0, 1}

Intervals hold 95 % of 2,000 bootstrap samples of the mean of D: seeds are drawn with replacement, and images, the same
for all seeds, too. With one seed they speak of the images alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autoprune.core.front import hypervolume
from experiments.benchmarks.peers.contestants import CONTESTANTS, OURS
from experiments.benchmarks.peers.plan import Network
from experiments.benchmarks.peers.records import Record, unpacked

FloatArray = npt.NDArray[np.float64]

_SAMPLES = 2_000
#: The band of FLOPs whose area under accuracy is taken, and how many budgets it needs.
_BAND, _FEWEST_BUDGETS = (0.2, 0.8), 3
#: {comparison: (part of a peer's record, which of its networks)}; autoprune's is always its own cut.
VIEWS = {
    "slice": ("slice", "hits"),
    "slice, finetuned": ("slice", "tuned"),
    "cut": ("cut", "hits"),
    "cut, finetuned": ("cut", "tuned"),
}


def figures_of(networks: Sequence[Network], records: Iterable[Record]) -> list[dict[str, Any]]:
    """Returns the figures of every network that has records, in the order of the plan."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(record["network"], []).append(record)
    return [_network(network, found[network.name]) for network in networks if network.name in found]


def _network(network: Network, records: Sequence[Record]) -> dict[str, Any]:
    tested = [record for record in records if "failed" not in record]
    budgets = [budget for budget in network.budgets if any(record["budget"] == budget for record in records)]
    return {
        "name": network.name,
        "model": network.model,
        "data": network.data,
        "images": {
            "calibration": network.calibration,
            "holdout": network.holdout,
            "test": tested[0]["images"] if tested else 0,
        },
        "finetune_epochs": network.finetune_epochs,
        "dense": _mean(_hits(tested[:1], None)) if tested else None,
        "budgets": {
            budget: {
                name: _method(name, [record for record in records if record["budget"] == budget])
                for name in CONTESTANTS
                if any(record["method"] == name and record["budget"] == budget for record in records)
            }
            for budget in budgets
        },
        "hypervolume": _hypervolumes(tested, budgets),
    }


def _method(name: str, records: Sequence[Record]) -> dict[str, Any]:
    """Returns the figures of a method within a budget; `records` are those of all methods there."""
    mine = _by_seed(records, name)
    failed = [record["failed"] for record in records if record["method"] == name and "failed" in record]
    if not mine:
        return {"seeds": [], "failed": failed[0]}
    rows = list(mine.values())
    found: dict[str, Any] = {
        "seeds": sorted(mine),
        "scorings": float(np.mean([row["scorings"] for row in rows])),
        "seconds": float(np.mean([row["seconds"] for row in rows])),
        "curve": mean_curve([row["curve"] for row in rows]),
        **({"failed": failed[0]} if failed else {}),
    }
    ours = _by_seed(records, OURS)
    for view, (part, which) in VIEWS.items():
        own = {seed: row for seed, row in mine.items() if part in row}
        if not own:
            continue
        hits = _hits(own.values(), (part, which))
        found[view] = {"accuracy": _mean(hits), "interval": interval(hits), "kept": _kept(own.values(), part)}
        shared = sorted(set(own) & {seed for seed, row in ours.items() if "cut" in row})
        compares = part == "cut" or not CONTESTANTS[name].cuts_our_way
        if name != OURS and shared and compares:
            difference = _hits([ours[seed] for seed in shared], ("cut", which)) - _hits(
                [own[seed] for seed in shared], (part, which)
            )
            low, high = interval(difference)
            verdict = "win" if low > 0 else "loss" if high < 0 else "tie"
            found[view]["lead"] = {"points": _mean(difference), "interval": (low, high), "verdict": verdict}
    return found


def _by_seed(records: Iterable[Record], name: str) -> dict[int, Record]:
    return {record["seed"]: record for record in records if record["method"] == name and "failed" not in record}


def _hits(records: Iterable[Record], place: tuple[str, str] | None) -> FloatArray:
    """Returns (S, n) what networks get right; those of the dense network without a place."""
    rows = [
        unpacked(record["dense"] if place is None else record[place[0]][place[1]], record["images"])
        for record in records
    ]
    return np.asarray(rows, dtype=np.float64)


def _kept(records: Iterable[Record], part: str) -> float:
    return float(np.mean([record[part]["kept"] for record in records]))


def _mean(values: FloatArray) -> float:
    return float(values.mean())


def interval(values: FloatArray) -> tuple[float, float]:
    """Returns the bootstrap interval of the mean of (S, n) values."""
    low, high = np.quantile(_resampled(values).mean(axis=0), [0.025, 0.975])
    return float(low), float(high)


def _resampled(values: FloatArray) -> FloatArray:
    """Returns (S, R) means over drawn images, of the seeds drawn for each of R samples."""
    rng = np.random.default_rng(0)
    seeds, images = values.shape
    weights = rng.multinomial(images, np.full(images, 1 / images), size=_SAMPLES) / images
    means = values @ weights.T
    drawn = rng.integers(seeds, size=(seeds, _SAMPLES))
    return np.asarray(np.take_along_axis(means, drawn, axis=0))


def mean_curve(curves: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """Returns [scorings, seconds, accuracy] steps: means of staircases from where all of them have begun."""
    curves = [curve for curve in curves if curve]
    if not curves:
        return []
    places = sorted({step[0] for curve in curves for step in curve})
    start = max(curve[0][0] for curve in curves)
    found = []
    for place in [place for place in places if place >= start]:
        last = [[step for step in curve if step[0] <= place][-1] for curve in curves]
        found.append([place, float(np.mean([step[1] for step in last])), float(np.mean([step[2] for step in last]))])
    return found


def _hypervolumes(records: Sequence[Record], budgets: Sequence[str]) -> dict[str, Any]:
    """Returns, for each method that ran within several budgets, its mean accuracy over the band of FLOPs.

    The area under the best accuracy at most at a cost, over the band, divided by the band's width.
    """
    found: dict[str, Any] = {}
    for name in CONTESTANTS:
        for view in ("slice", "cut"):
            rows = [record for record in records if record["method"] == name and view in record]
            seeds = sorted({row["seed"] for row in rows})
            whole = [
                [row for row in rows if row["seed"] == seed]
                for seed in seeds
                if len({row["budget"] for row in rows if row["seed"] == seed}) == len(budgets)
            ]
            if len(budgets) >= _FEWEST_BUDGETS and whole:
                volumes = [_volume(points, view) for points in whole]
                found.setdefault(name, {})[view] = {"mean": float(np.mean(volumes)), "seeds": len(volumes)}
    return found


def _volume(records: Sequence[Record], view: str) -> float:
    low, high = _BAND
    points = [(_mean(_hits([row], (view, "hits"))), max(low, row[view]["kept"])) for row in records]
    return hypervolume(points, (0.0, high)) / (high - low)


def standings(networks: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Returns {view: {verdict: how often}} over all networks, budgets and peers."""
    counts = {view: {"win": 0, "tie": 0, "loss": 0} for view in VIEWS}
    for network in networks:
        for methods in network["budgets"].values():
            for row in methods.values():
                for view in VIEWS:
                    lead = row.get(view, {}).get("lead")
                    if lead:
                        counts[view][lead["verdict"]] += 1
    return counts
