"""Training and scoring networks: finetuning with distillation, accuracy, and the default network."""

from autoprune.training.checkpoints import Checkpointing
from autoprune.training.measure import Scores, measure
from autoprune.training.recipe import Recipe, finetune_recipe
from autoprune.training.trainer import TrainingReport, train

__all__ = ["Checkpointing", "Recipe", "Scores", "TrainingReport", "finetune_recipe", "measure", "train"]
