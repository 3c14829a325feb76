"""The options of `autoprune train` and `autoprune finetune` that no other command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoprune.cli.parameters import NETWORK, RUN, WORKERS, flag

TRAINING = "Training"

Epochs = Annotated[
    float | None,
    typer.Option(metavar="N", rich_help_panel=TRAINING, help="Passes over the training images; fractions count."),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=TRAINING,
        help="At its peak; it falls to zero on a cosine. (default: train 0.1, with --weights 0.01; "
        "finetune 0.02, less below one epoch; --no-distillation 0.01 to 0.05, by the epochs)",
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", rich_help_panel=TRAINING, help="Images per step. (default: 128)")
]
WeightDecay = Annotated[
    float | None,
    typer.Option(
        metavar="X", rich_help_panel=TRAINING, help="On weights of convolutions and linear layers. (default: 0.0005)"
    ),
]
WarmupEpochs = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        rich_help_panel=TRAINING,
        help="Epochs in which the rate rises. (default: a tenth of them, at most 1)",
    ),
]
LabelSmoothing = Annotated[
    float | None,
    typer.Option(metavar="SHARE", rich_help_panel=TRAINING, help="Probability spread over all classes. (default: 0)"),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=TRAINING,
        help="auto (16 bits for convolutions and gradients where the device is faster by it) or float32. "
        "(default: auto)",
    ),
]
Regulariser = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=TRAINING, help="ccm or orthoreg: adds to the loss. (default: none)"),
]
RegulariserStrength = Annotated[
    float | None,
    typer.Option(metavar="X", rich_help_panel=TRAINING, help="Its weight in the loss. (default: the published one)"),
]
Teacher = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        rich_help_panel=TRAINING,
        help="Distil from these weights, or from the saved network in a folder.",
    ),
]
OtherTeacher = Annotated[
    Path | None,
    typer.Option(
        "--teacher",
        metavar="PATH",
        rich_help_panel=TRAINING,
        help="Another teacher than the dense network: a weights file, or the folder of a saved network.",
    ),
]
TeacherModel = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=TRAINING,
        help="Whose weights --teacher names. (default: those of the network that is trained, uncut)",
    ),
]
DenseWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE",
        rich_help_panel=TRAINING,
        help="Weights of the dense network, the teacher. (default: those it was cut from, if they can be found)",
    ),
]
NoDistillation = Annotated[bool, flag("--no-distillation", "Train on the labels alone.", panel=TRAINING)]
StartWeights = Annotated[
    Path | None,
    typer.Option(
        "--weights", metavar="FILE", rich_help_panel=NETWORK, help="Weights to start from. (default: random ones)"
    ),
]
HoldoutImages = Annotated[
    int | None,
    typer.Option(
        "--holdout-images",
        metavar="N",
        rich_help_panel=TRAINING,
        help="Training images held out to follow the training. (default: 4000, at most a tenth)",
    ),
]
CheckpointSteps = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=TRAINING, help="A checkpoint every N steps, too. (default: after each epoch)"
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="DIR",
        rich_help_panel=RUN,
        help="Continue the training in this folder, with its own options, from its newest checkpoint.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=WORKERS, help="Processes that share every batch, on Ray Train. (default: 1)"
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=WORKERS,
        help="Where --workers run: auto or HOST:PORT of a Ray cluster. (default: this machine)",
    ),
]
