"""Hands a picked network over: a request to try it with, and the network as a model in MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoprune.core.candidate import Candidate
from autoprune.errors import AutopruneError, BackendError, ConfigError
from autoprune.report.files import atomic_write_text
from autoprune.report.observer import Observer
from autoprune.searching.delivery.second_process import Aside, exported, logged
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.search.finish import Finished
from autoprune.searching.search.preparation import Prepared
from autoprune.searching.search.running import experiment_name, store_of

#: A request that a served model answers, beside the network.
REQUEST = "request.json"
#: Images of the input example: with one alone the batch would be taken for fixed.
_EXAMPLES = 2
#: Figures of the entry in `summary.json` that the run in MLflow is to show.
_FIGURES = ("accuracy", "accuracy_before_finetune", "holdout_accuracy", "macs", "flops", "params")


@dataclass(frozen=True, slots=True)
class Registration:
    """Where a picked network is written down.

    Attributes:
        tracking_uri: MLflow store; that of the search if None.
        no_mlflow: whether to write nothing there.
        register: its name in the model registry, None for no name.
    """

    tracking_uri: str | None = None
    no_mlflow: bool = False
    register: str | None = None

    def __post_init__(self) -> None:
        if self.no_mlflow and (self.register is not None or self.tracking_uri is not None):
            raise ConfigError("--no-mlflow writes nothing to MLflow: leave --register and --tracking-uri out.")
        if self.register is not None:
            from autoprune.tracking.registry import check_model_name

            check_model_name(self.register)

    @property
    def changes(self) -> dict[str, Any]:
        """Options of the search that are to differ."""
        if self.no_mlflow:
            return {"no_mlflow": True}
        return {} if self.tracking_uri is None else {"tracking_uri": self.tracking_uri, "no_mlflow": False}

    def wanted(self, options: SearchOptions) -> bool:
        """Returns whether anything is to be written to MLflow.

        Raises:
            ConfigError: a name is to be registered, but the search was not tracked and no store is named.
        """
        if options.no_mlflow and self.register is not None:
            raise ConfigError(
                "The search was not tracked in MLflow, so that there is no registry. Name a store with "
                "--tracking-uri, for example sqlite:///mlflow.db."
            )
        return not options.no_mlflow


def write_request(directory: Path, prepared: Prepared) -> Path:
    """Returns the file with one held-out image as MLflow's servers take it, already preprocessed."""
    image = _images(prepared, 1)
    path = directory / REQUEST
    atomic_write_text(path, json.dumps({"inputs": np.round(image.astype(np.float64), 5).tolist()}) + "\n")
    return path


def log_finished(
    finished: Finished,
    prepared: Prepared,
    entry: Mapping[str, Any],
    *,
    directory: Path,
    run_uuid: str,
    register: str | None,
    observer: Observer,
    aside: Aside | None = None,
) -> dict[str, Any] | None:
    """Returns where the network is found in MLflow; None, after a warning, where MLflow did not take it.

    Args:
        finished: the network.
        prepared: the search.
        entry: what `summary.json` would say of it.
        directory: where it is saved.
        run_uuid: of the search.
        register: name in the model registry, None for no name.
        observer: hears of the stages.
        aside: the processes that export and write; this one if None.

    Raises:
        BackendError: MLflow did not take it, and it was to be registered.
    """
    from autoprune.tracking.registry import PickedNetwork

    observer.stage("Writing the network to MLflow" if register is None else f"Registering {register} in MLflow")
    images = _images(prepared, _EXAMPLES)
    served = prepared.problem.data.task.served(finished.model)
    candidate: Candidate = finished.evaluation.candidate
    dense = prepared.network.cost_model.dense
    figures = {name: entry[name] for name in _FIGURES if entry.get(name) is not None}
    try:
        with torch.no_grad():
            outputs = served(torch.from_numpy(images)).numpy()
        export, log = (exported, logged) if aside is None else (aside.exported, aside.logged)
        entered = log(
            PickedNetwork(
                program=export(served, images),
                torch_version=str(torch.__version__),
                images=images,
                outputs=outputs,
                run_name=directory.name,
                candidate=candidate.id,
                params={
                    "candidate": candidate.id,
                    "strategy": candidate.proposed_by,
                    "finetune_epochs": entry["finetune_epochs"],
                    "budget": " ".join(prepared.options.goals),
                    "data": prepared.problem.data.name,
                },
                metrics={
                    **{("test_" + name if name.startswith("accuracy") else name): figures[name] for name in figures},
                    "retained_flops": candidate.cost.macs / dense.macs,
                    "retained_params": candidate.cost.params / dense.params,
                },
                metadata=_metadata(prepared, entry),
                folder=directory,
                requirements=(f"torch=={torch.__version__.partition('+')[0]}", f"numpy=={np.__version__}"),
            ),
            {
                "store": store_of(prepared.options),
                "experiment": experiment_name(prepared.problem),
                "search": run_uuid,
                "register": register,
            },
        )
    except AutopruneError as error:
        if register is not None:
            raise BackendError(f"{error} The network itself is saved in {str(directory)!r}.") from error
        observer.warning(str(error))
        return None
    return asdict(entered)


def _images(prepared: Prepared, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Returns (count, C, H, W) held-out images as the network takes them."""
    held_out = prepared.split.holdout
    # A hold-out of a single image is repeated: only the shape matters.
    indices = [held_out[index % len(held_out)] for index in range(count)]
    return np.ascontiguousarray(prepared.problem.data.scoring.take(indices).numpy(), dtype=np.float32)


def _metadata(prepared: Prepared, entry: Mapping[str, Any]) -> dict[str, Any]:
    data = prepared.problem.data
    return {
        "network": prepared.problem.name,
        "data": data.name,
        "class_names": list(data.classes),
        "task": data.task.name,
        "input": "float32 images (N, C, H, W), preprocessed as said here",
        "output": data.task.answers,
        "preprocessing": None if data.preprocessing is None else data.preprocessing.to_dict(),
        "widths": dict(entry["widths"]),
        "metric": data.task.reported,
        "accuracy": entry["accuracy"],
    }
