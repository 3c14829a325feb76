"""The network and the images of a search: loaded by name, a Python caller's own, or those of a saved network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from autoprune.data.annotations import NOTHING, kind_of
from autoprune.data.bundle import DataBundle, bundle_from, bundle_of
from autoprune.data.preprocessing import Preprocessing
from autoprune.data.sources import load_data
from autoprune.data.unlabelled import Unlabelled, answered, are_bare, bare_images, labelled
from autoprune.devices import lent, usable_device
from autoprune.errors import ConfigError, DataError, ModelError, one_line
from autoprune.evaluation.scoring import logits_of
from autoprune.models.cutting.attention import adapt
from autoprune.models.modules.compiled import uncompiled
from autoprune.models.modules.portable import copied, on_any_device, shared_by
from autoprune.models.storage.saved import SavedModel, load, read_saved
from autoprune.models.zoo.catalogue import ModelInfo, build_model, model_info
from autoprune.plugins import require_foreign
from autoprune.report.observer import Observer
from autoprune.searching.inputs.digests import digest_of
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.run_folder import RunFolder
from autoprune.searching.latency.timing import torch_threads
from autoprune.tasks.detectors import raw_outputs
from autoprune.tasks.registry import IMITATION, OUTPUTS, make_task
from autoprune.training.default import DEFAULT_DATA, DEFAULT_MODEL, embedded_model, is_embedded


@dataclass(frozen=True, eq=False)
class Problem:
    """The network and the images of a search.

    Attributes:
        name: of the network, for reports; the name it can be built by, if it has one.
        spec: the name it can be built by, None for a network object.
        classes: number of outputs it was built with, None for its own.
        model: the dense network, in eval mode, on the CPU.
        data: the images.
        trained_here: whether autoprune trained it itself, on all training images: the embedded default.
        objects: what has no name another process could load it by: `model`, `data`.
        given: a caller's images as they came, before the network named their classes; None for images with a name.
    """

    name: str
    spec: str | None
    classes: int | None
    model: nn.Module
    data: DataBundle
    trained_here: bool = False
    objects: tuple[str, ...] = ()
    given: DataBundle | None = None

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """{part: number and digest} of a caller's images; empty for images with a name."""
        if self.given is None:
            return {}
        parts = {"training": self.given.train, "validation": self.given.validation, "test": self.given.test}
        return {part: digest_of(images) for part, images in parts.items() if images is not None}


def load_problem(options: SearchOptions, observer: Observer) -> Problem:
    """Returns the named network with its weights, and the named images.

    Raises:
        ModelError, WeightsError, DataError, ConfigError, PluginError: something is missing or does not fit.
    """
    spec = options.model or DEFAULT_MODEL
    if options.model is None and options.data not in (None, DEFAULT_DATA):
        raise ConfigError(f"The network that reads {options.data!r} is not named. Name it with --model.")
    info = model_info(spec)
    data_name = options.data or info.default_data or (DEFAULT_DATA if options.model is None else "")
    if not data_name:
        raise ConfigError(f"Nothing is known of the data that {spec!r} is meant for. Name them with --data.")
    observer.stage(f"Loading {data_name}")
    data = _images(data_name, options, info)
    return _named(spec, data, options, observer, usual=data_name == info.default_data)


def problem_from(model: nn.Module | str, data: Any, options: SearchOptions, observer: Observer) -> Problem:
    """Returns the problem of a Python caller: names or objects.

    Raises:
        ModelError, DataError: an object cannot be used.
    """
    if isinstance(model, str):
        options = replace(options, model=model)
        if isinstance(data, str) or data is None:
            return load_problem(replace(options, data=data), observer)
        info, bundle = model_info(model), _images(data, options)
        usual = is_embedded(model) and _alike(bundle, load_data(info.default_data))
        named = _named(model, bundle, options, observer, usual=usual)
        return replace(named, objects=("data",), given=bundle)
    if not isinstance(model, nn.Module):
        raise ModelError(f"The model is a {type(model).__name__}. Give an nn.Module or a name such as 'cifar/vgg16'.")
    bundle = _images(data, options)
    objects = ("model",) if isinstance(data, str) else ("model", "data")
    own = _own_copy(model)
    held = shared_by(model, own)
    if held is not None:
        observer.warning(
            f"{type(model).__name__}.{held} holds layers of the network and cannot be copied: copies of it use yours, "
            "which are neither cut nor left alone. Make it a method."
        )
    own = uncompiled(own)
    name, dense = type(own).__name__, adapt(own)
    known = named_by(dense, bundle, name=name, observer=observer, device=options.device)
    return Problem(name, None, None, dense, known, objects=objects, given=bundle if "data" in objects else None)


def saved_problem(
    folder: Path, *, data: str | None, data_root: Path | None, task: str | None, observer: Observer
) -> tuple[SavedModel, Problem]:
    """Returns the description of a saved network, and the network with its images, labelled or not.

    Args:
        folder: of the saved network.
        data: their name; None for those it was searched on.
        data_root: their folder; None for the one that the search used, if it is still there.
        task: what the network does; None for what it was saved for, or else for what the data are for.
        observer: hears of the stages.

    Raises:
        RunError, DataError: the network or the images cannot be read.
        ModelError: they do not fit.
    """
    saved = read_saved(folder)
    name, purpose = data or saved.dense.get("data"), task or saved.dense.get("task")
    if not isinstance(name, str):
        raise DataError(f"{str(folder)!r} does not say what data it is for. Name them with --data.")
    purpose = purpose if isinstance(purpose, str) else None
    if data is None:
        require_foreign(name, folder)
    if task is None:
        require_foreign(purpose, folder)
    observer.stage(f"Loading {name}")
    preprocessing = None if saved.preprocessing is None else Preprocessing.from_dict(saved.preprocessing)
    root = data_root or RunFolder.around(folder).recorded_path("data_root")
    bundle = load_data(name, root=root, preprocessing=preprocessing, task=purpose)
    observer.stage(f"Loading {folder}")
    model = load(folder)
    bundle = _suited(bundle, model)
    problem = Problem(f"The network in {str(folder)!r}", saved.model, saved.classes, model, bundle)
    require_fit(problem)
    return saved, problem


def _named(spec: str, data: DataBundle, options: SearchOptions, observer: Observer, *, usual: bool) -> Problem:
    """Returns the problem of a named network: as it comes trained, with its weights, or, which is said, with neither.

    Args:
        spec: its name.
        data: with or without labels.
        options: which weights, and where to compute.
        observer: hears of the stages.
        usual: whether the images are those that the network is meant for.
    """
    trained = is_embedded(spec) and options.weights is None and (usual or is_unlabelled(data))
    classes = None if trained else _classes(spec, data)
    if trained:
        observer.stage(f"Loading {spec} (trained on first use, then kept)")
        # One thread: on 8x8 images a second one only waits, on a busy machine for minutes.
        with torch_threads(1):
            model = embedded_model(spec, on_progress=observer.progress)
    else:
        observer.stage(f"Loading {spec}")
        model = build_model(spec, classes=classes, weights=options.weights)
        if options.weights is None:
            observer.warning(f"No weights are given: {spec} keeps the weights it is built with.")
    data = named_by(model, data, name=spec, observer=observer, device=options.device)
    return Problem(spec, spec, classes, model, data, trained_here=trained)


def _images(data: Any, options: SearchOptions, info: ModelInfo | None = None) -> DataBundle:
    """Returns named images, as the network expects them if anything is known of it, or a caller's; for the task asked.

    Raises:
        DataError: they cannot be used, or not for the task.
    """
    if isinstance(data, str):
        return load_data(
            data,
            root=options.data_root,
            preprocessing=None if info is None else info.preprocessing,
            task=options.task,
            size=None if info is None else info.input_size,
        )
    bundle = _bundle(data)
    return bundle if options.task is None else bundle.doing(make_task(options.task))


def _alike(data: DataBundle, usual: DataBundle) -> bool:
    """Returns whether a caller's images, which have no name, look like those that a network was trained on."""
    kinds = ((item.input_shape, len(item.classes), kind_of(item.train)) for item in (data, usual))
    return next(kinds) == next(kinds)


def is_unlabelled(data: DataBundle) -> bool:
    """Returns whether nobody has labelled the images, nor has a network yet."""
    return kind_of(data.train) == NOTHING


def named_by(
    model: nn.Module, data: DataBundle, *, name: str, observer: Observer, device: str | None = None
) -> DataBundle:
    """Returns the data with what a dense network says of them, where nobody has labelled them: classes, or answers.

    Args:
        model: the dense network, in eval mode.
        data: with or without labels.
        name: of the network, for messages.
        observer: hears of the stage.
        device: where to compute; None for the best at hand.

    Raises:
        ModelError: the network puts out nothing that could be compared, or does not take the images.
        ConfigError: the device is not there.
    """
    if not is_unlabelled(data):
        return data
    data = _suited(data, model)
    require_fit(Problem(name, None, None, model, data))
    imitates = data.task.name != OUTPUTS.name
    wanted = "classes of" if imitates else "outputs on"
    observer.stage(f"Asking {name} for the {wanted} {sum(map(len, data.parts)):,} images")
    place = torch.device(usable_device(device))
    with lent(model, place):
        found = [logits_of(model, images, np.arange(len(images)), place, task=data.task).cpu() for images in data.parts]
    train, test, *validation = (
        labelled(cast(Unlabelled, images), said.argmax(1).numpy())
        if imitates
        else answered(cast(Unlabelled, images), said.numpy())
        for images, said in zip(data.parts, found, strict=True)
    )
    classes = tuple(str(label) for label in range(found[0].shape[1])) if imitates else ()
    return replace(data, train=train, test=test, validation=next(iter(validation), None), classes=classes)


def _suited(data: DataBundle, model: nn.Module) -> DataBundle:
    """Returns the data for a task that the network can do: without labels, outputs where it puts out no classes."""
    if data.task is not IMITATION:
        return data
    images = data.train.take(np.arange(min(2, len(data.train))))
    try:
        with torch.no_grad():
            found = raw_outputs(model, images)
    except Exception:  # `require_fit` says it
        return data
    classes = isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) == len(images)
    return data if classes else data.doing(OUTPUTS)


def _classes(spec: str, data: DataBundle) -> int | None:
    """Returns how many classes a named network is built with, None for as many as it usually has."""
    # A factory, and a torchvision network with foreign weights, decide on their classes themselves.
    return None if ":" in spec or is_unlabelled(data) else len(data.classes)


def _own_copy(model: nn.Module) -> nn.Module:
    """Returns a copy in eval mode on the CPU: the caller's network stays where it is, and goes on training."""
    try:
        return on_any_device(copied(model)).cpu().eval()
    except Exception as error:  # a user's own attributes may refuse in any way
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {one_line(error)}. Give a fresh instance with the weights in it."
        ) from error


def _bundle(data: Any) -> DataBundle:
    if isinstance(data, DataBundle):
        return data
    if isinstance(data, tuple | list):
        return bundle_of(data)
    if are_bare(data):
        return bundle_from(*bare_images(data), classes=())
    raise DataError(
        f"The data are a {type(data).__name__}. Give a name, (training, test) or (training, validation, test)."
    )


def require_fit(problem: Problem) -> None:
    """Checks on two images that the dense network takes them and puts out what its task needs, for every class.

    Raises:
        ModelError: it does not.
    """
    data = problem.data
    images = data.train.take(np.arange(min(2, len(data.train))))
    shape = "x".join(map(str, images.shape[1:]))
    try:
        with torch.no_grad():
            outputs = raw_outputs(problem.model, images)
    except Exception as error:  # a user's own forward may raise anything
        raise ModelError(
            f"{problem.name} does not take the {shape} images of {data.name}: {one_line(error)}. "
            f"{_other_precision(problem.model) or 'Choose data that fit the network.'}"
        ) from error
    data.task.check_outputs(outputs, images=images, classes=len(data.classes), model=problem.name, data=data.name)


def _other_precision(model: nn.Module) -> str:
    """Returns what to do about weights that are not float32, empty where all are."""
    others = {item.dtype for item in model.parameters() if item.is_floating_point()} - {torch.float32}
    named = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in others))
    return f"Its weights are {named}, but autoprune works in float32: give it model.float()." if others else ""
