"""How each option is spelled and explained on the command line; those of few commands have modules of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

#: The panels of `--help`.
GOAL, METHOD, NETWORK, SEARCH = "Goal", "Method", "Network and data", "Search"
WORKERS, RUN = "Workers", "Run"


def flag(name: str, explained: str, *, panel: str | None = None, **settings: Any) -> Any:
    """Returns an option that takes no value; left to itself, Typer puts the type `bool` behind its name."""
    return typer.Option(name, metavar="", rich_help_panel=panel, help=explained, **settings)


Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="LIMIT",
        rich_help_panel=GOAL,
        help="What may remain of the dense network: 50%flops, 1.2Gflops, 1.5Mparams, 20MB (weights), "
        "'peak 300MB' (activations), 5ms (latency on this device), or a share of each: 50%ms. "
        "Repeat it for several limits; all must hold. (default: 50%flops)",
    ),
]
Front = Annotated[
    str | None,
    typer.Option(
        metavar="RANGE",
        rich_help_panel=GOAL,
        help="Search a whole range instead, such as 20..80%flops. (default: none)",
    ),
]
FinetuneEpochs = Annotated[
    float | None,
    typer.Option(
        metavar="N",
        rich_help_panel=GOAL,
        help="Epochs of finetuning with distillation at the end; 0 for none. (default: 1 after a search, else 0)",
    ),
]

Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=METHOD,
        help="eprune, ccm, pca, acp, ascp, psap, l1, fpgm, taylor, ... or package.module:Class; --list names all. "
        "(default: reconstruction)",
    ),
]
ListMethods = Annotated[bool, flag("--list", "List the methods and exit.", panel=METHOD)]
AsPublished = Annotated[
    bool,
    flag("--as-published", "The published procedure with its constants; takes no budget.", panel=METHOD),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="KEY=VALUE", rich_help_panel=METHOD, help="A setting of the method, such as beta=0.73."
    ),
]
MergeName = Annotated[
    str | None,
    typer.Option(
        "--merge",
        metavar="NAME",
        rich_help_panel=METHOD,
        help="How consumers take over what is dropped: slice, addition, least-squares, sequential or fresh. "
        "(default: sequential; addition where it is exact; the method's own with --as-published)",
    ),
]
MethodEpochs = Annotated[
    float | None,
    typer.Option("--epochs", metavar="N", rich_help_panel=METHOD, help="Epochs a method that trains may spend."),
]
NoTraining = Annotated[
    bool,
    flag("--no-training", "Refuse whatever would take a gradient step.", panel=METHOD),
]

Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=NETWORK,
        help="cifar/resnet20-b, torchvision/resnet50, package.module:factory, ... "
        "(default: digits/resnet, trained on first use)",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=NETWORK,
        help="State dict of the trained network: .pt, .pth or .safetensors. (default: as the network is built)",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=NETWORK,
        help="digits, digits-scenes, mnist, fashion-mnist, cifar10, cifar100, imagefolder:DIR, voc:DIR, "
        "voc-segmentation:DIR, images:DIR (no labels) or package.module:factory. "
        "(default: the data of the model's family)",
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=NETWORK,
        help="What the network does: classification, detection, segmentation, outputs or package.module:factory. "
        "(default: what DATA is for)",
    ),
]
Convention = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=False,
        help="Count as published tables do, besides: conv+fc, +2/bn, +4/bn, +4/bn+pool, or all side by side.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", rich_help_panel=NETWORK, help="Folder of the data. (default: $AUTOPRUNE_DATA_ROOT)"),
]
Scope = Annotated[
    str | None,
    typer.Option(
        metavar="SCOPE",
        rich_help_panel=NETWORK,
        help="What may be cut: internal (channels inside residual blocks) or coupled (stage outputs, too). "
        "(default: internal)",
    ),
]
Channels = Annotated[
    str | None,
    typer.Option(
        metavar="WAY",
        rich_help_panel=NETWORK,
        help="Which channels stay: by elimination (what their consumers miss least goes) or norm (of the weights that "
        "read them). (default: elimination)",
    ),
]
SearchSpace = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=NETWORK,
        help="Limits per group: a TOML file, a shipped name, or auto: the shipped one for the network. (default: none)",
    ),
]
AllOf = Annotated[
    list[str] | None,
    typer.Option(
        "--all",
        metavar="FAMILY",
        show_default=False,
        help="Instead of a network: check all of torchvision, segmentation, detection or timm; repeatable.",
    ),
]
CoverageFolder = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", show_default=False, help="With --all: write the results and a table there."),
]
WriteSpace = Annotated[
    Path | None,
    typer.Option(metavar="FILE", show_default=False, help="Write a search-space file for the network, to be edited."),
]
MultipleOf = Annotated[
    int | None,
    typer.Option(metavar="N", show_default=False, help="With --write: widths go in steps of N. (default: 1)"),
]
Overwrite = Annotated[bool, flag("--overwrite", "With --write: replace the file if it is there.")]

Strategy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=SEARCH,
        help="Who proposes: auto, uniform, sensitivity, pso, tpe, ..., or package.module:Class. (default: auto)",
    ),
]
Candidates = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=SEARCH, help="How many structures to evaluate. (default: 100)"),
]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", rich_help_panel=SEARCH, help="Stop proposing after 90s, 5m, 1h or 1h30m. (default: none)"
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=SEARCH, help="The same seed gives the same proposals. (default: 0)"),
]
CalibrationImages = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=SEARCH,
        help="Training images that cut networks are reconstructed on. (default: classification 512, detection 64, "
        "segmentation 32)",
    ),
]
HoldoutImages = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=SEARCH,
        help="Images that score candidates: of the validation set, or held out from training; never the test set. "
        "(default: 4000, fewer where there are few)",
    ),
]

Structures = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=SEARCH, help="Structures to compare scores on. (default: 20)"),
]
ProxyEpochs = Annotated[
    float | None,
    typer.Option(metavar="N", rich_help_panel=SEARCH, help="Epochs of the finetune to compare with. (default: 1)"),
]
MinTau = Annotated[
    float | None,
    typer.Option(
        metavar="TAU", rich_help_panel=SEARCH, help="Kendall's tau from which on a score is trusted. (default: 0.8)"
    ),
]
Twice = Annotated[
    bool,
    flag(
        "--twice",
        "Finetune every structure with a second seed, too, and score that as cheap scores are scored: what it reaches "
        "is what they can be asked for.",
        panel=SEARCH,
    ),
]

Backend = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", rich_help_panel=WORKERS, help="ray (Ray Tune workers) or serial (this process). (default: ray)"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", rich_help_panel=WORKERS, help="Candidates evaluated at a time. (default: what fits)"),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        rich_help_panel=WORKERS,
        help="GPUs of each worker, such as 0.25; 0 for CPUs. (default: two workers a GPU where there are any)",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=WORKERS,
        help="A running Ray cluster: auto or HOST:PORT. (default: start one here)",
    ),
]
EvaluationTimeout = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        rich_help_panel=WORKERS,
        help="When an evaluation counts as hung: it fails and its worker is started anew. Not with the serial backend. "
        "(default: 20 times the slowest so far, at least 10m)",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", rich_help_panel=WORKERS, help="cpu, cuda or cuda:N. (default: the best at hand)"),
]

LatencyBatch = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=GOAL,
        help="Images at a time that budgets such as 5ms and 'peak 300MB' speak of. (default: 1)",
    ),
]
LatencyThreads = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=GOAL, help="Threads that 5ms is meant for on a CPU. (default: as torch has)"
    ),
]

Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", rich_help_panel=RUN, help="Folder for the results. (default: runs/TIME-MODEL)"),
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="DIR", rich_help_panel=RUN, help="Continue the search in this folder, with its own options."),
]
Experiment = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=RUN,
        help="Options from a TOML file or a shipped name; options given here win over it.",
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(metavar="URI", rich_help_panel=RUN, help="MLflow store. (default: mlflow.db beside the run folder)"),
]
NoMlflow = Annotated[bool, flag("--no-mlflow", "Do not track the search in MLflow.", panel=RUN)]
Json = Annotated[
    bool,
    flag("--json", "Print the result as JSON on stdout; progress goes to stderr.", panel=RUN),
]
PlainJson = Annotated[bool, flag("--json", "Print the result as JSON.")]

OptionalModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", show_default=False, help="Such as cifar/resnet20-b or package.module:factory."),
]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", show_default=False, help="Such as cifar/resnet20-b or package.module:factory.")
]
