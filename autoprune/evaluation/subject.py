"""The subject of a search: dense network, trace, calibration and images, as a value that travels to workers.

Everything big is a named numpy array, so that a backend can share it once; the rest is small and picklable. The
network itself travels as a skeleton whose tensors take no room.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from autoprune.core.seams import Evaluator
from autoprune.data.annotated_files import AnnotatedFiles
from autoprune.data.annotations import Annotations, annotations_of, from_arrays, to_arrays
from autoprune.data.bundle import missing_here
from autoprune.data.images import ArrayImages, Images
from autoprune.data.preprocessing import Augmentation, Preprocessing
from autoprune.devices import device_of_worker, gpu_module, is_gpu
from autoprune.errors import ConfigError, DataError
from autoprune.models.modules.replicas import replicate
from autoprune.models.network import TracedNetwork
from autoprune.models.reduction.calibration import Calibration, shared_tensor
from autoprune.models.reduction.selection import Ranking
from autoprune.tasks.base import Task
from autoprune.tasks.registry import CLASSIFICATION

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Subject:
    """What an evaluator needs, with its arrays in place.

    Attributes:
        model: the dense network, in eval mode; its tensors may be read-only.
        network: its trace.
        calibration: its statistics on `calibration_images`.
        rankings: per group.
        calibration_images: (B, C, H, W) float32.
        holdout: images that score candidates.
        dense_logits: (n, classes) outputs of the dense network on the hold-out; empty where the task needs none.
        training: images for finetuning, None where no fidelity trains.
        training_indices: which of them to use, None for all.
        augmentation: variation of training images.
        task: what the network does.
    """

    model: nn.Module
    network: TracedNetwork
    calibration: Calibration
    rankings: tuple[Ranking, ...]
    calibration_images: Tensor
    holdout: Images
    dense_logits: Tensor
    training: Images | None
    training_indices: npt.NDArray[np.int64] | None
    augmentation: Augmentation
    task: Task = CLASSIFICATION


@dataclass(frozen=True, eq=False)
class SubjectFactory:
    """Builds evaluators of one subject on workers; see `EvaluatorFactory`.

    Attributes:
        arrays: everything big, by name.
        skeleton: the dense network with tensors that take no room.
        network: its trace.
        rankings: per group.
        preprocessing: of the pixels in `arrays`, as far as they are bytes.
        lazy_training: training images that are no arrays, None if they are or none are needed.
        lazy_indices: which of them to use.
        augmentation: variation of training images.
        score: which number is the score, of those that the task's `judge` returns.
        device: where evaluators compute: `cpu`, `cuda`.
        task: what the network does.
    """

    arrays: Arrays
    skeleton: nn.Module
    network: TracedNetwork
    rankings: tuple[Ranking, ...]
    preprocessing: Preprocessing | None
    lazy_training: Images | None
    lazy_indices: npt.NDArray[np.int64] | None
    augmentation: Augmentation
    score: str
    device: str
    task: Task = CLASSIFICATION

    def for_workers(self, *, gpu: bool) -> SubjectFactory:
        """Returns a copy without arrays, for workers that compute on a GPU or on the CPU."""
        return replace(self, arrays={}, device=device_of_worker(self.device, gpu=gpu))

    def build(self, arrays: Arrays, *, worker: str) -> Evaluator:
        """Returns an evaluator over the arrays.

        Raises:
            DataError: images that are read from the disk are not on this machine.
            ConfigError: the device is not on this machine.
        """
        from autoprune.evaluation.evaluator import CandidateEvaluator

        self._require_here()
        return CandidateEvaluator(self.subject(arrays), score=self.score, device=self.device, worker=worker)

    def subject(self, arrays: Arrays) -> Subject:
        """Returns the subject over the arrays, on the CPU except for what evaluators move."""
        device = torch.device(self.device)
        return Subject(
            model=fleshed_out(self.skeleton, arrays).to(device),
            network=self.network,
            calibration=Calibration.from_arrays(arrays, device),
            rankings=self.rankings,
            calibration_images=shared_tensor(arrays["calibration_images"]).to(device),
            holdout=self._images(arrays, "holdout"),
            dense_logits=shared_tensor(arrays["dense_logits"]).to(device),
            training=self._images(arrays, "training") if "training/labels" in arrays else self.lazy_training,
            training_indices=self.lazy_indices,
            augmentation=self.augmentation,
            task=self.task,
        )

    def _require_here(self) -> None:
        missing = None if self.lazy_training is None else missing_here(self.lazy_training)
        if missing is not None:
            raise DataError(missing)
        if is_gpu(self.device) and not gpu_module(self.device).is_available():
            raise ConfigError(f"torch finds no GPU on the machine {socket.gethostname()}")

    def _images(self, arrays: Arrays, part: str) -> Images:
        pixels, labels = arrays[f"{part}/pixels"], arrays[f"{part}/labels"]
        annotations = from_arrays(arrays, part)
        if self.preprocessing is not None and pixels.dtype == np.uint8:
            return ArrayImages(pixels, labels, self.preprocessing, annotations)
        return FloatImages(pixels, labels, annotations)


@dataclass(frozen=True, eq=False)
class FloatImages:
    """Preprocessed images held in memory.

    Attributes:
        pixels: (N, C, H, W) float32, perhaps read-only.
        labels: (N,) int64.
        annotations: of every image; None where they carry a class each.
    """

    pixels: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    annotations: Annotations | None = None

    def __len__(self) -> int:
        """Returns N."""
        return len(self.pixels)

    def take(self, indices: npt.ArrayLike) -> Tensor:
        """Returns (n, C, H, W) images on the CPU."""
        return torch.from_numpy(self.pixels[np.asarray(indices, dtype=np.int64)])


def image_arrays(images: Images, indices: npt.NDArray[np.int64], part: str) -> dict[str, npt.NDArray[Any]]:
    """Returns the images at `indices` as arrays: bytes where they are held as bytes, else preprocessed floats."""
    taken = images.pixels_at if holds_bytes(images) else images.take
    blocks = [taken(indices[start : start + 256]).numpy() for start in range(0, len(indices), 256)]
    annotations = annotations_of(images)
    return {
        f"{part}/pixels": np.concatenate(blocks),
        f"{part}/labels": np.asarray(images.labels)[indices],
        **to_arrays(None if annotations is None else annotations.select(indices), part),
    }


def holds_bytes(images: Images) -> TypeGuard[ArrayImages | AnnotatedFiles]:
    """Returns whether images can be had as bytes, before preprocessing."""
    return isinstance(images, ArrayImages | AnnotatedFiles)


def weight_arrays(model: nn.Module) -> dict[str, npt.NDArray[Any]]:
    """Returns {`weights/NAME`: array} of every parameter and buffer, tied ones under each name."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {f"weights/{name}": tensor.detach().cpu().numpy() for name, tensor in named}


def skeleton(model: nn.Module) -> nn.Module:
    """Returns a copy of the network whose tensors repeat one zero and so take no room, in memory or pickled."""
    tensors = [*model.parameters(), *model.buffers()]
    empty = {id(item): torch.zeros((), dtype=item.dtype).expand(item.shape) for item in tensors}
    return replicate(model, empty, {})


def fleshed_out(bones: nn.Module, arrays: Arrays) -> nn.Module:
    """Returns the skeleton with its weights from the arrays, which it shares and must not write to."""
    named = [*bones.named_parameters(remove_duplicate=False), *bones.named_buffers(remove_duplicate=False)]
    return replicate(bones, {id(tensor): shared_tensor(arrays[f"weights/{name}"]) for name, tensor in named}, {}).eval()
