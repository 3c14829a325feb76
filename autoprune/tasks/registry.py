"""Tasks by name, and a user's own."""

from __future__ import annotations

from autoprune.config.options import TASKS
from autoprune.errors import ConfigError, PluginError, nearest
from autoprune.plugins import call_factory, is_plugin
from autoprune.tasks.base import Task
from autoprune.tasks.classification import Classification
from autoprune.tasks.detection import Detection

CLASSIFICATION, DETECTION = Classification(), Detection()


def make_task(name: str) -> Task:
    """Returns a task.

    Args:
        name: one of `TASKS`, or `package.module:factory` that returns a `Task`, such as a subclass of one of ours.

    Raises:
        ConfigError: the name is unknown.
        PluginError: the factory is missing, raises, or returns something else.
    """
    if name == "classification":
        return CLASSIFICATION
    if name == "detection":
        return DETECTION
    if not is_plugin(name):
        raise ConfigError(f"Unknown task {name!r}.{nearest(name, TASKS)} Or write package.module:factory.")
    task = call_factory(name)
    lacking = [
        part
        for part in ("metric", "higher_is_better", "score", "boxed", "check_outputs", "loss", "meter", "judge")
        if not hasattr(task, part)
    ]
    if lacking:
        raise PluginError(
            f"{name!r} returned a {type(task).__name__}, which is no task: it lacks `{lacking[0]}`. "
            "Derive it from autoprune.tasks.classification.Classification or autoprune.tasks.detection.Detection."
        )
    made: Task = task
    return made
