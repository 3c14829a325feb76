"""Puts a picked network into MLflow: a run of its own, the network as a model, and its name in the model registry.

MLflow's PyTorch flavour usually pickles, and whoever loads a pickle runs what is in it. The network is therefore stored
as the graph that `torch.export` traces (MLflow's `pt2`): tensors and JSON, which MLflow can check before
it loads them (`MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false`). It needs torch and MLflow, but neither autoprune nor the
modules that the network was written in.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoprune.errors import BackendError, ConfigError
from autoprune.tracking.session import Session, import_mlflow, now_ms
from autoprune.tracking.uris import mask_secrets, mask_uri, store_file

#: What the version that a name stands for is called in the registry.
ALIAS = "champion"
#: Where `mlflow.pytorch` looks for an exported network, within the model's data.
_PROGRAM = "model.pt2"
#: The first MLflow that loads them.
_READS_EXPORTED = (3, 12)
#: The model's name within its run.
MODEL_NAME = "model"
_NAME = re.compile(r"[\w][\w .-]{0,199}")


@dataclass(frozen=True, eq=False)
class PickedNetwork:
    """What is written into MLflow.

    Attributes:
        program: the network as a file of `torch.export`; nothing here knows more of it.
        torch_version: that exported it.
        images: (B, C, H, W) float32 input example, B of 2 or more: a batch of one would be taken for the only size.
        outputs: (B, *) float32 what the network makes of them.
        run_name: of the run.
        candidate: the candidate's number.
        params: of the run.
        metrics: of the run.
        metadata: stored with the model; JSON values.
        folder: whose files become artifacts of the run.
        requirements: what loading needs, as pip spells it; MLflow adds itself.
    """

    program: bytes
    torch_version: str
    images: NDArray[np.float32]
    outputs: NDArray[np.float32]
    run_name: str
    candidate: int
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    metadata: Mapping[str, Any]
    folder: Path
    requirements: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoggedNetwork:
    """Where a picked network is found in MLflow.

    Attributes:
        uri: of the store, its secrets masked.
        experiment_id: of the experiment.
        run_id: of the run.
        model_uri: to load the model by: `models:/NAME@champion` where it was registered.
        name: in the registry, None where it was not registered.
        version: in the registry, likewise.
    """

    uri: str
    experiment_id: str
    run_id: str
    model_uri: str
    name: str | None = None
    version: str | None = None


def check_model_name(name: str) -> str:
    """Returns a name for the registry.

    Raises:
        ConfigError: MLflow could not look it up.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--register {name!r} is no name for a model. Use letters, digits, `_`, `-` and `.`, such as digits-small."
        )
    return name


def log_network(
    picked: PickedNetwork, *, store: str, experiment: str, search: str, register: str | None = None
) -> LoggedNetwork:
    """Returns where the network is found, having written and, if asked, registered it.

    Args:
        picked: the network and what is known of it.
        store: address of the MLflow store.
        experiment: name of the search's experiment; made if it does not exist.
        search: the search's own id; its parent run, where there is one, gets the run as a child.
        register: name in the registry, whose alias `champion` then stands for this version.

    Raises:
        BackendError: MLflow is missing or too old, or the store does not take it.
    """
    mlflow = import_mlflow()
    try:
        _require_export(mlflow)
        # The registry looks models up by the address of the process, even for a client of another one.
        with _store_of(mlflow, store):
            registrar = _Registrar(Session(mlflow, store))
            return registrar.log(picked, experiment=experiment, search=search, register=register)
    except BackendError:
        raise
    except Exception as error:  # whatever a store or a server raises
        reason = mask_secrets(" ".join(str(error).split())[:300]) or type(error).__name__
        raise BackendError(f"MLflow at {mask_uri(store)} did not take the network: {reason}") from error


def open_existing(store: str) -> None:
    """Opens a SQLite store that is there already, for runs and for models: `log_network` then finds it open.

    A new one is left alone: making its tables must not be broken off.
    """
    file = store_file(store)
    if file is None or not file.is_file():
        return
    mlflow = import_mlflow()
    with _store_of(mlflow, store):
        mlflow.MlflowClient(tracking_uri=store).search_registered_models(max_results=1)


def _require_export(mlflow: ModuleType) -> None:
    # By its version: to import `mlflow.pytorch` is to import torch, 2 s, which nothing here needs.
    if tuple(int(part) for part in re.findall(r"\d+", mlflow.__version__)[:2]) < _READS_EXPORTED:
        raise BackendError(
            f"MLflow {mlflow.__version__} can only read pickled networks. Install one that reads exported ones: "
            "pip install 'mlflow>=3.12'."
        )


class _Registrar:
    """Writes to one store."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._client = session.client

    def log(self, picked: PickedNetwork, *, experiment: str, search: str, register: str | None) -> LoggedNetwork:
        """Returns where the network is found after it was written, and registered if a name is given."""
        session = self._session
        experiment_id = session.experiment(experiment)
        parent = session.find(experiment_id, search, role="search")
        tags = {"autoprune.candidate": str(picked.candidate)}
        if parent is not None:
            tags["mlflow.parentRunId"] = str(parent.info.run_id)
        run_id = session.make(experiment_id, picked.run_name, role="picked", tags=tags)
        status = "FAILED"
        try:
            session.write(run_id, params=picked.params, metrics=session.metrics(picked.metrics, at=now_ms()))
            self._client.log_artifacts(run_id, str(picked.folder), "network")
            model_uri = self._model(picked, run_id)
            version = None if register is None else self._register(register, model_uri, run_id)
            status = "FINISHED"
        finally:
            self._client.set_terminated(run_id, status)
        return LoggedNetwork(
            uri=mask_uri(session.uri),
            experiment_id=experiment_id,
            run_id=run_id,
            model_uri=model_uri if register is None else f"models:/{register}@{ALIAS}",
            name=register,
            version=version,
        )

    def _model(self, picked: PickedNetwork, run_id: str) -> str:
        """Returns the address of the network as a model of the run."""
        mlflow = self._session.mlflow
        with (
            mlflow.start_run(run_id=run_id, nested=True),
            tempfile.TemporaryDirectory(prefix="autoprune-") as folder,
            _pins_unchecked(),
        ):
            data = Path(folder) / "exported"
            data.mkdir()
            (data / _PROGRAM).write_bytes(picked.program)
            logged = mlflow.models.Model.log(
                artifact_path=None,
                name=MODEL_NAME,
                flavor=_Exported(mlflow, data, picked.torch_version),
                metadata=dict(picked.metadata),
                signature=mlflow.models.infer_signature(picked.images, picked.outputs),
                input_example=picked.images,
                # Named here, for MLflow would find them out by loading the model in another process: 9 s.
                pip_requirements=list(picked.requirements),
                # MLflow would load the network again and serve the example, and only log what came of it: 5 s.
                validate_serving_input=False,
            )
        return str(logged.model_uri)

    def _register(self, name: str, model_uri: str, run_id: str) -> str:
        """Returns the new version of a name, which its alias stands for from now on."""
        known = self._client.search_registered_models(f"name = '{name}'", max_results=1)
        if not known:
            self._client.create_registered_model(name)
        model_id = model_uri.removeprefix("models:/")
        made = self._client.create_model_version(name, source=model_uri, run_id=run_id, model_id=model_id)
        self._client.set_registered_model_alias(name, ALIAS, made.version)
        return str(made.version)


class _Exported:
    """A model flavour for MLflow: like its own for PyTorch, but of a network that was exported before.

    `mlflow.pytorch` loads what it writes. It would export the network itself, and import torch for that.
    """

    __name__ = "mlflow.pytorch"

    def __init__(self, mlflow: ModuleType, data: Path, torch_version: str) -> None:
        self._mlflow, self._data, self._torch_version = mlflow, data, torch_version

    def save_model(
        self,
        path: str,
        mlflow_model: Any,
        *,
        signature: Any,
        input_example: Any,
        pip_requirements: list[str],
        validate_serving_input: bool,
    ) -> None:
        """Writes the model's folder; called by MLflow."""
        del validate_serving_input  # said to MLflow
        mlflow_model.add_flavor(
            "pytorch", model_data=f"data/{self._data.name}", pytorch_version=self._torch_version, code=None
        )
        self._mlflow.pyfunc.save_model(
            path,
            mlflow_model=mlflow_model,
            loader_module="mlflow.pytorch",
            data_path=str(self._data),
            signature=signature,
            input_example=input_example,
            pip_requirements=pip_requirements,
            model_config={"device": None},
        )


@contextmanager
def _pins_unchecked() -> Iterator[None]:
    """Spares MLflow the search for packages that differ from the pins: they are those of this process.

    It reads the file lists of all installed packages for that, 0.8 s of processor time.
    """
    environment: Any = sys.modules.get("mlflow.utils.environment")
    check = getattr(environment, "warn_dependency_requirement_mismatches", None)
    if check is None:
        yield
        return
    environment.warn_dependency_requirement_mismatches = lambda _requirements: None
    try:
        yield
    finally:
        environment.warn_dependency_requirement_mismatches = check


@contextmanager
def _store_of(mlflow: ModuleType, uri: str) -> Iterator[None]:
    """Points the functions of MLflow that know no client at a store, for as long as the block lasts."""
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
