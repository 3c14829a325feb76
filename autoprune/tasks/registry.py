"""Tasks by name, and a user's own."""

from __future__ import annotations

from collections.abc import Mapping

from autoprune.config.options import TASKS
from autoprune.errors import ConfigError, PluginError, nearest
from autoprune.plugins import call_factory, is_plugin
from autoprune.tasks.base import Task
from autoprune.tasks.classification import Classification
from autoprune.tasks.detection import Detection
from autoprune.tasks.imitation import Imitation
from autoprune.tasks.outputs import Outputs
from autoprune.tasks.segmentation import Segmentation

CLASSIFICATION, DETECTION, SEGMENTATION = Classification(), Detection(), Segmentation()
IMITATION, OUTPUTS = Imitation(), Outputs()
_SHIPPED: tuple[Task, ...] = (CLASSIFICATION, DETECTION, SEGMENTATION, IMITATION, OUTPUTS)
#: What images are for that carry such targets, unless the network says otherwise.
TASKS_OF: Mapping[str, Task] = {task.targets: task for task in _SHIPPED if task is not OUTPUTS}


def make_task(name: str) -> Task:
    """Returns a task.

    Args:
        name: one of `TASKS`, or `package.module:factory` that returns a `Task`, such as a subclass of one of ours.

    Raises:
        ConfigError: the name is unknown.
        PluginError: the factory is missing, raises, or returns something else.
    """
    shipped = next((task for task in _SHIPPED if task.name == name), None)
    if shipped is not None:
        return shipped
    if not is_plugin(name):
        raise ConfigError(f"Unknown task {name!r}.{nearest(name, TASKS)} Or write package.module:factory.")
    task = call_factory(name)
    lacking = [
        part
        for part in ("reported", "score", "targets", "check_outputs", "loss", "served", "meter", "judge")
        if not hasattr(task, part)
    ]
    if lacking:
        raise PluginError(
            f"{name!r} returned a {type(task).__name__}, which is no task: it lacks `{lacking[0]}`. "
            "Derive it from `Classification`, `Detection` or `Segmentation` of the modules of autoprune.tasks."
        )
    made: Task = task
    return made
