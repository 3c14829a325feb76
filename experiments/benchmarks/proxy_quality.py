"""How well cheap scores rank structures, against finetunes that are judged on images which no score has read.

`autoprune check-proxy` on networks of this repository, from the repository's root, with AUTOPRUNE_DATA_ROOT and
AUTOPRUNE_WEIGHTS_ROOT set for those of CIFAR-10:

    python -m experiments.benchmarks.proxy_quality [NETWORK ...]

Structures keep half of the FLOPs; a quarter each are heuristics', near uniform widths, farther away, and anywhere.
Seconds are those of one evaluation on a worker with one thread, wall time. A run that failed or was interrupted leaves
its folder in runs/, and the next one of the same commit goes on there; where that has been changed, or is unknown, it
measures anew.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoprune.config.options import check_options
from autoprune.report.screens.live import LiveProgress
from autoprune.searching.experiments.proxies import ProxyOptions, check_proxies
from autoprune.searching.inputs.options import SearchOptions
from experiments.benchmarks.cifar import WEIGHTS
from experiments.benchmarks.common import circumstances, write

#: {network: (data, what is asked)}; an epoch of CIFAR-10 takes a minute of a core.
CHECKED = {
    "digits/resnet": ("digits", ProxyOptions(structures=30, epochs=10.0, twice=True)),
    "cifar/resnet20-b": ("cifar10", ProxyOptions(structures=14, epochs=2.0)),
}


#: Where checks are made; what is finished is removed, for a benchmark measures anew.
FOLDER = Path("runs") / "proxy_quality"


def one(spec: str) -> dict[str, Any]:
    """Returns what `check-proxy` says of a network's proxies."""
    data, asked = CHECKED[spec]
    weights = {"weights": WEIGHTS[spec]} if spec in WEIGHTS else {}
    version = circumstances(())["commit"] or "+"
    out = FOLDER / f"{spec.replace('/', '-')}-{version}"
    if version.endswith("+"):
        # Of two changed checkouts none can say whether they are the same, and their timings must not be mixed.
        shutil.rmtree(out, ignore_errors=True)
    given = {"model": spec, "data": data, "budgets": ["50%flops"], "out": str(out), **weights}
    with LiveProgress(candidates=0) as observer:
        report = check_proxies(SearchOptions(**check_options(given, strategies=["auto"])), asked, observer)
    shutil.rmtree(out)
    return {key: report[key] for key in ("budget", "structures", "finetune", "proxies", "recommended", "failures")}


def main(specs: Sequence[str]) -> None:
    """Measures and writes, after every network what there is by then."""
    found = {}
    for spec in specs:
        found[spec] = one(spec)
        write("proxy_quality", found, packages=("torch", "torchvision", "numpy", "ray"))


if __name__ == "__main__":
    main(sys.argv[1:] or list(CHECKED))
