"""One driver of a toy search on a Ray cluster; prints the front as JSON.

    python cluster_driver.py ADDRESS FOLDER CANDIDATES SECONDS

Every candidate climbs every rung, so that no worker's luck decides on who is evaluated where.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "study"))

from toy_search import ToyFactory, build_ladder, build_study

from autoprune.backends import RayBackend
from autoprune.study import Ledger, replay
from autoprune.study.lock import FolderLock


def main():
    address, folder = sys.argv[1], Path(sys.argv[2])
    with FolderLock(folder), Ledger(folder / "ledger.jsonl", run={}) as ledger:
        study = build_study(candidates=int(sys.argv[3]), ladder=build_ladder(2, keep=1.0), trackers=[ledger])
        replay(ledger.events, study)
        RayBackend(None, address=address).run(
            study, ToyFactory({"seconds": float(sys.argv[4])}), should_stop=lambda: False
        )
        assert study.done
        print(json.dumps(sorted((e.candidate.id, e.candidate.cost.macs, e.score) for e in study.front)))


if __name__ == "__main__":
    main()
