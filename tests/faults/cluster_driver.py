"""One driver of a toy search on a Ray cluster; prints the front, and where workers were, as JSON.

    python cluster_driver.py ADDRESS FOLDER CANDIDATES SECONDS [OPTIONS]

Every candidate climbs every rung, so that no worker's luck decides on who is evaluated where. OPTIONS are those of
`RayBackend` as JSON, and `pretend`, {package: version} that the driver is to believe it has.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

from toy_search import ToyFactory, build_ladder, build_study

from autoprune.backends import RayBackend
from autoprune.backends.ray_tune import nodes
from autoprune.errors import AutopruneError
from autoprune.study import Ledger, replay
from autoprune.study.lock import FolderLock


@dataclass
class Located:
    """An evaluator that says as metrics on which node it is, and which GPU it sees."""

    inner: object

    def evaluate(self, candidate):
        found = self.inner.evaluate(candidate)
        place = {"node": float(int(nodes.here()[:12], 16)), "gpu": float(os.environ.get("CUDA_VISIBLE_DEVICES") or -1)}
        return replace(found, metrics={**found.metrics, **place})


class LocatedFactory(ToyFactory):
    def build(self, arrays, *, worker):
        return Located(super().build(arrays, worker=worker))


def main():
    address, folder = sys.argv[1], Path(sys.argv[2])
    options = json.loads(sys.argv[5]) if len(sys.argv) > 5 else {}
    pretended = {**nodes.versions(), **options.pop("pretend", {})}
    nodes.versions = lambda: pretended
    with FolderLock(folder), Ledger(folder / "ledger.jsonl", run={}) as ledger:
        study = build_study(candidates=int(sys.argv[3]), ladder=build_ladder(2, keep=1.0), trackers=[ledger])
        replay(ledger.events, study)
        backend = RayBackend(None, address=address, **options)
        report = backend.run(study, LocatedFactory({"seconds": float(sys.argv[4])}), should_stop=lambda: False)
        assert study.done
    front = sorted((e.candidate.id, e.candidate.cost.macs, e.score) for e in study.front)
    places = sorted({(e.worker, e.metrics["node"], e.metrics["gpu"]) for e in study.evaluations})
    print(json.dumps({"front": front, "places": places, "workers": report.workers}))


if __name__ == "__main__":
    try:
        main()
    except AutopruneError as error:
        sys.exit(f"error: {error}")
