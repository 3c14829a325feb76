"""What a search is asked to do. Light: importing it imports nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SearchOptions:
    """Options of a search; `autoprune.config.options` checks what users write.

    Attributes:
        model: name of the dense network; None for the embedded default.
        weights: file with its weights.
        data: name of the data; None for the data that the model is meant for.
        data_root: folder of the data.
        task: what the network does; None for what the data are for.
        budgets: what may remain; all must hold.
        front: a range of costs to search instead, such as `20..80%flops`.
        strategy: who proposes.
        candidates: how many structures are evaluated.
        time_limit: seconds the search may take, None for no limit.
        evaluation_timeout: seconds after which one rung of one candidate counts as failed and its worker is started
            anew; None for a generous multiple of the slowest so far. The serial backend cannot end an evaluation.
        finetune_epochs: of uniform and incumbent at the end; 0 for none, None for the default.
        backend: `ray` or `serial`.
        workers: evaluators at a time; None for two a GPU, or one a core where there is none.
        gpus_per_worker: of each worker, a share of a GPU or a whole number; 0 for workers on the CPU. None for a share
            that suits their number where there are GPUs, unless the device is the CPU.
        ray_address: of a running cluster.
        seed: of everything random.
        out: the run folder.
        scope: `internal` (channels inside blocks) or `coupled` (residual streams, too).
        channels: which of a structure's channels stay: `elimination` (what their consumers, solved anew, miss
            most) or `norm` (what the largest weights read).
        calibration_images: that reconstructions are fitted on; None for the default.
        holdout_images: that score candidates; None for the default.
        device: where candidates are evaluated; None for a GPU if there is one.
        latency_batch: images at a time that budgets on latency and on the peak of the activations speak of.
        latency_threads: that latency on a CPU is measured with; None for as many as torch has.
        search_space: file or name of a search space.
        tracking_uri: of the MLflow store; None for SQLite beside the run folder.
        no_mlflow: whether to do without MLflow.
    """

    model: str | None = None
    weights: Path | None = None
    data: str | None = None
    data_root: Path | None = None
    task: str | None = None
    budgets: tuple[str, ...] = ("50%flops",)
    front: str | None = None
    strategy: str = "auto"
    candidates: int = 100
    time_limit: float | None = None
    evaluation_timeout: float | None = None
    finetune_epochs: float | None = None
    backend: str = "ray"
    workers: int | None = None
    gpus_per_worker: float | None = None
    ray_address: str | None = None
    seed: int = 0
    out: Path | None = None
    scope: str = "internal"
    channels: str = "elimination"
    calibration_images: int | None = None
    holdout_images: int | None = None
    device: str | None = None
    latency_batch: int = 1
    latency_threads: int | None = None
    search_space: str | None = None
    tracking_uri: str | None = None
    no_mlflow: bool = False

    @property
    def goals(self) -> tuple[str, ...]:
        """Every budget and the range, as written."""
        return (*((self.front,) if self.front else ()), *self.budgets)

    def to_json(self) -> dict[str, Any]:
        """Returns the options as JSON values; paths are absolute, for a search may be resumed from another folder."""
        return {
            name: str(value.absolute())
            if isinstance(value, Path)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in asdict(self).items()
        }
