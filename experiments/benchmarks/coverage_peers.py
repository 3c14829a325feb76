"""What Torch-Pruning and ModelOpt make of the networks that `autoprune trace --all` goes through.

Run from the repository's root, with both tools beside the test requirements:

    pip install torch-pruning==1.6.1 nvidia-modelopt==0.47.0
    python -m experiments.benchmarks.coverage_peers torchvision segmentation detection

The check is the weaker part of ours: built with random weights, cut until at most half of the FLOPs is left, and run.
Nobody compares the result with a masked network, so a wrong cut that runs passes. Each network has a process of its own
and a limit of processor time. Multiply-accumulates are counted by autoprune for all alike.

Torch-Pruning prunes every layer by the same share, in steps of a twentieth until half of the FLOPs is gone, with the
settings of its own script for torchvision's networks: heads of detectors and the last linear layer are left alone, ViT
is told its numbers of heads and its new hidden width. ModelOpt searches with FastNAS under its own limit of 50 % of the
FLOPs, with channels in steps of 1, where its default of 32 leaves less to cut. Random weights have no accuracy, and a
constant score would choose the smallest network. Its score here is the mean share of channels that layers keep, so that
it answers with the largest uniform network within the limit. Where its count of FLOPs, which has operations that ours
has not, lets more than half of ours pass, it is asked again for less.

A run goes on where one of the same commit stopped.
"""

from __future__ import annotations

import copy
import io
import json
import multiprocessing
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from autoprune.models.costing.counting import count_on
from autoprune.models.zoo.catalogue import model_info
from autoprune.report.markdown.coverage import PEERS
from autoprune.searching.coverage.covering import PASSED, models_of, reduce_detector
from autoprune.searching.coverage.files import write_page
from autoprune.searching.experiments.provenance import circumstances

FOLDER = Path(__file__).parents[1] / "coverage"
#: Of the processor, for each network and tool; by the clock a busy machine may take many times as long.
SECONDS, WALL_SECONDS = 600, 7200
STEPS = 19
#: How often ModelOpt may be asked for less, where it counts otherwise than we do.
ASKED = 3
#: Of FastNAS's interval of scores: fine enough for its twenty widths a layer, and each costs it a count of FLOPs.
HALVINGS = 8
#: Parts of detectors that Torch-Pruning's own script leaves alone, by a part of the network's name.
HEADS = {
    "ssd": ("head",),
    "fasterrcnn": ("rpn.head.cls_logits", "rpn.head.bbox_pred", "backbone.fpn", "roi_heads"),
    "fcos": ("head.classification_head.cls_logits", "head.regression_head.bbox_reg",
             "head.regression_head.bbox_ctrness"),
    "keypointrcnn": ("rpn.head.cls_logits", "rpn.head.bbox_pred", "backbone.fpn.layer_blocks", "roi_heads.box_head",
                     "roi_heads.box_predictor", "roi_heads.keypoint_predictor"),
    "maskrcnn": ("rpn.head.cls_logits", "rpn.head.bbox_pred", "roi_heads.box_predictor", "roi_heads.mask_predictor"),
    "retinanet": ("head.classification_head.cls_logits", "head.regression_head.bbox_reg"),
}  # fmt: skip


def torch_pruning(model: nn.Module, images: Tensor) -> nn.Module:
    """Returns the network pruned by Torch-Pruning."""
    import torch_pruning as tp

    name = type(model).__name__
    ignored = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1000]
    ignored += [model.get_submodule(part) for key, parts in HEADS.items() if key in model.spec for part in parts]
    heads = {module: module.num_heads for module in model.modules() if isinstance(module, nn.MultiheadAttention)}
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    detector = isinstance(getattr(model, "transform", None), nn.Module)
    pruner = tp.pruner.MagnitudePruner(
        model,
        example_inputs=[list(images)] if detector else images,
        importance=tp.importance.MagnitudeImportance(p=1),
        pruning_ratio=STEPS / 20,
        iterative_steps=STEPS,
        global_pruning=False,
        ignored_layers=ignored,
        num_heads=heads,
    )
    dense = macs(model, images)
    for step in range(STEPS):
        pruner.step()
        if name == "VisionTransformer":
            model.hidden_dim = model.conv_proj.out_channels
        # A fifth of every layer's channels leaves 64 % of the products, as a rule: no need to count before.
        if step >= STEPS // 5 and macs(model, images) <= dense / 2:
            break
    return model


def modelopt(model: nn.Module, images: Tensor) -> nn.Module:
    """Returns the largest uniform network of ModelOpt's FastNAS search space within the limit."""
    import modelopt.torch.nas as mtn
    from modelopt.torch.opt.utils import named_hparams

    dense, share = macs(model, images), 50.0
    detector = isinstance(getattr(model, "transform", None), nn.Module)

    def kept(subnet: nn.Module) -> float:
        # FastNAS sets one layer apart from the others at a time, and widths are searched by their score.
        shares = [layer.active / layer.max for _, layer in named_hparams(subnet, configurable=True)]
        return sum(shares) / len(shares)

    for _ in range(ASKED):
        pruned, _ = mtn.search(
            _converted(copy.deepcopy(model)),
            constraints={"flops": f"{share:.4f}%"},
            dummy_input=([list(images)],) if detector else images,
            config={"score_func": kept, "num_iters": HALVINGS, "verbose": False},
        )
        left = macs(pruned, images) / dense
        if left <= 0.5:
            break
        share *= 0.499 / left
    found: nn.Module = pruned
    return found


def _converted(model: nn.Module) -> nn.Module:
    """Returns the network as ModelOpt's FastNAS search space, with channels in steps of 1."""
    import modelopt.torch.nas as mtn
    from modelopt.torch.opt.utils import named_hparams
    from modelopt.torch.prune.fastnas import FastNASModeDescriptor

    config = FastNASModeDescriptor().config_class().model_dump()
    for rules in config.values():
        for settings in rules.values():
            settings.update({key: 1 for key in settings if key.endswith("_divisor")})
    depthwise = any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in model.modules())
    converted: nn.Module = mtn.convert(model, mode=[("fastnas", config)])
    for _, layer in named_hparams(converted, configurable=True) if depthwise else ():
        # One channel of a depthwise layer is taken for an ungrouped one (ModelOpt 0.47: IndexError in its slices).
        layer.choices = [choice for choice in layer.choices if choice > 1 or choice == layer.original]
    return converted


TOOLS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {"Torch-Pruning": torch_pruning, "ModelOpt": modelopt}
PACKAGES = {"Torch-Pruning": "torch-pruning", "ModelOpt": "nvidia-modelopt"}


def macs(model: nn.Module, images: Tensor) -> int:
    """Returns the multiply-accumulates of one image."""
    return count_on(model.eval(), images)[0].macs


def built(spec: str) -> nn.Module:
    """Returns a network as torchvision builds it: attention as it is, without autoprune's stand-ins."""
    import torchvision

    name = spec.partition("/")[2]
    detectors = torchvision.models.list_models(module=torchvision.models.detection)
    segmenters = torchvision.models.list_models(module=torchvision.models.segmentation)
    options: dict[str, Any] = {"weights_backbone": None} if name in (*detectors, *segmenters) else {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False}
    model = torchvision.models.get_model(name, weights=None, **options).eval()
    reduce_detector(model)
    model.spec = name
    return model


def attempt(tool: str, spec: str, answers: Any) -> None:
    """Puts into the queue what became of one network."""
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for all of attention, whose products none can count
    known: dict[str, Any] = {"retained": None}
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            model = built(spec)
            free = hasattr(model, "transform") or spec in models_of("segmentation")
            shape = (3, 224, 224) if free else model_info(spec).input_shape
            images = torch.rand(1, *shape)
            dense = macs(model, images)
            pruned = TOOLS[tool](model, images)
            known["retained"] = round(macs(pruned, images) / dense, 4)
            outcome = PASSED if known["retained"] <= 0.5 else "half of the FLOPs is out of reach"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:100]}"
    answers.put({**known, "outcome": outcome})


def one(tool: str, spec: str) -> dict[str, Any]:
    """Returns the row of one network."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    start = time.perf_counter()
    process = context.Process(target=attempt, args=(tool, spec, answers))
    process.start()
    process.join(WALL_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        found = {"retained": None, "outcome": f"not done after {WALL_SECONDS} seconds of the clock"}
    elif process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
        found = {"retained": None, "outcome": f"not done after {SECONDS} seconds of the processor"}
    elif answers.empty():
        found = {"retained": None, "outcome": f"the process died (exit code {process.exitcode})"}
    else:
        found = answers.get()
    return {"model": spec, "tool": tool, **found, "seconds": round(time.perf_counter() - start, 1)}


def earlier(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows that a run of the same commit and versions wrote before it stopped."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    same = all(found.get(key) == content[key] for key in ("commit", "versions"))
    return found["rows"] if same else []


def run(families: list[str], tools: list[str]) -> None:
    """Writes what the tools make of the families, after every network, and the page."""
    from importlib import metadata

    import modelopt.torch.nas  # noqa: F401  imported once, for it takes longer than most networks
    import torch_pruning  # noqa: F401

    for family in families:
        versions = {PACKAGES[tool]: metadata.version(PACKAGES[tool]) for tool in tools}
        found = circumstances()
        content = {
            "kind": PEERS,
            "family": family,
            "command": f"python -m experiments.benchmarks.coverage_peers {family}",
            **found,
            "versions": {**found["versions"], **versions},
            "tools": tools,
            "rows": [],
        }
        path = FOLDER / f"peers-{family}.json"
        known = {(row["model"], row["tool"]): row for row in earlier(path, content)}
        for spec in models_of(family):
            for tool in tools:
                content["rows"].append(known.get((spec, tool)) or one(tool, spec))
                sys.stdout.write(json.dumps(content["rows"][-1]) + "\n")
                sys.stdout.flush()
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_page(FOLDER)


if __name__ == "__main__":
    run([name for name in sys.argv[1:] if name not in TOOLS], [name for name in TOOLS if name in sys.argv] or [*TOOLS])
