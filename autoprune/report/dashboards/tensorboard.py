"""A search as files that TensorBoard reads: its progress as scalars, its candidates as sets of hyperparameters.

They are written by tensorboardX, which comes with Ray Tune; TensorBoard itself is needed only to look at them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoprune.core.resources import RESOURCES
from autoprune.errors import BackendError, ConfigError, RunError
from autoprune.report.records.run import RunRecord, require_search

#: {tag of a scalar: key of a step of `records.progress.progress_of`}.
_PROGRESS = {
    "search/incumbent accuracy": "accuracy",
    "search/incumbent score": "score",
    "search/hypervolume": "hypervolume",
    "search/front size": "front",
}
_METRICS = {
    "candidate/hold-out accuracy": "accuracy",
    "candidate/share of the FLOPs": "retained_flops",
    "candidate/share of the parameters": "retained_params",
}


def write_events(
    folder: Path, record: RunRecord, rows: Sequence[Mapping[str, Any]], steps: Sequence[Mapping[str, Any]]
) -> Path:
    """Returns the folder of a search among TensorBoard's logs, having written it.

    Only candidates of the last rung are sets of hyperparameters: accuracies of different rungs do not compare.

    Args:
        folder: of the logs.
        record: the search.
        rows: of its candidates, `records.run.rows_of`.
        steps: of `records.progress.progress_of`.

    Raises:
        ConfigError: the run is no search, or is there already.
        BackendError: tensorboardX is not installed.
        RunError: the folder cannot be written.
    """
    require_search(record)
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise BackendError(
            f"tensorboardX cannot be imported ({error}). Install it: pip install tensorboardX."
        ) from error
    place = folder / Path(record.folder).resolve().name
    if place.exists():
        raise ConfigError(f"{place} is there already. Name another folder, or remove it.")
    cost = RESOURCES[record.front_resource]
    traded = {f"candidate/share of the {cost.share_of}": cost.retained}
    top = max((row["level"] for row in rows), default=0)
    try:
        with SummaryWriter(str(place)) as writer:
            # Scores of different rungs do not compare: the curve begins where the last one is reached.
            for step in (step for step in steps if step["level"] == top):
                for tag, key in _PROGRESS.items():
                    writer.add_scalar(tag, step[key], step["candidates"])
            for row in (row for row in rows if row["level"] == top):
                widths = {f"width/{name}": width for name, width in row["widths"].items()}
                settings = {"proposed by": str(row["proposed_by"]), "on the front": bool(row["front"]), **widths}
                metrics = {tag: row[key] for tag, key in (_METRICS | traded).items()}
                writer.add_hparams(settings, metrics, name=f"candidate-{row['id']:03d}")
    except OSError as error:
        shutil.rmtree(place, ignore_errors=True)  # half a search would bar its place to the next attempt
        raise RunError(f"Cannot write {place}: {error.strerror or error}. Name another with --tensorboard.") from error
    return place
