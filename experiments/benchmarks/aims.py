"""What autoprune aims at, what was measured last, and whether that reaches it: read off the results files.

    python -m experiments.benchmarks.aims

prints the two tables of experiments/README.md: the aims, and the benchmarks with their commands.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from experiments.benchmarks import judging
from experiments.benchmarks.common import RESULTS
from experiments.benchmarks.judging import Content, Standing

EXPERIMENTS = RESULTS.parents[1] / "results"


@dataclass(frozen=True, slots=True)
class Aim:
    """Something to be reached.

    Attributes:
        text: what.
        source: the results file, without its suffix; a folder before it where it is no benchmark's.
        judged: reads the file's content.
        left: what the figures leave open, or why they miss the aim.
    """

    text: str
    source: str
    judged: Callable[[Content], Standing]
    left: str = ""

    @property
    def path(self) -> Path:
        """The results file."""
        folder = EXPERIMENTS if "/" in self.source else RESULTS
        return folder / f"{self.source.rpartition('/')[2]}.json"


LEAST_SQUARES = {"0.75": 84.8, "0.5": 71.4, "0.35": 53.9}

AIMS = (
    Aim(
        "100 candidates are at or above what each peer finds, with its own cut (accuracy on test images, by 90 % "
        "intervals)",
        "peers",
        judging.peers("slice"),
        "Peers got all scorings that they could use: FastNAS 77 to 637, its finest grid; Torch-Pruning every scope and "
        "importance; Optuna and random 100.",
    ),
    Aim(
        "... with our cut and recalibration in all hands",
        "peers",
        judging.peers("cut"),
        "Ties: 359 test images tell no points apart.",
    ),
    Aim(
        "A score at 1 % of a finetune's cost ranks structures like the finetune (tau of 0.8): ResNet-20-B, CIFAR-10",
        "proxy_quality",
        judging.trusted("cifar/resnet20-b"),
        "Fourteen structures; the interval reaches below the aim; finetunes longer than two epochs were not tried.",
    ),
    Aim(
        "... `digits/resnet`",
        "proxy_quality",
        judging.trusted("digits/resnet"),
        "179 images judge structures within 2.2 points: the finetune with another seed reaches 0.19 itself.",
    ),
    Aim(
        "Accuracy without training at 0.75 / 0.5 / 0.35 of ResNet-20-A's inner channels is above plain least squares "
        "(84.8 / 71.4 / 53.9)",
        "zero_training",
        judging.untrained("cifar/resnet20-a", LEAST_SQUARES),
        "The first 1,000 test images, as those were.",
    ),
    Aim(
        "Candidates a second against the same evaluation written plainly",
        "candidate_speed",
        judging.faster("candidates_per_second_ratio"),
        "CPU; several candidates at once on a GPU were never measured, for want of one.",
    ),
    Aim("Finetuned images a second against a plain DataLoader loop", "finetune_speed", judging.faster("ratio"), "CPU."),
    Aim(
        "Cuts faster than Torch-Pruning: its pruning alone, and with the copy that keeps the dense network",
        "cut_speed",
        judging.cut,
        "The graph, which it builds anew for every cut, is left out of both.",
    ),
    Aim("The cost of structures is arithmetic", "cost_speed", judging.counted),
    Aim(
        "A proposal takes less than 50 ms in the mean with 1,000 candidates behind it, at 21 / 51 / 111 groups",
        "proposal_speed",
        judging.proposed(("auto", "sensitivity", "pso", "mopso", "nsga2")),
    ),
    Aim(
        "... Bayesian ones (`gp` with 200 behind it)",
        "proposal_speed",
        judging.proposed(("tpe", "gp")),
        "Optuna's samplers; two proposals are made ahead while workers are busy.",
    ),
    Aim(
        "One to 1,024 workers: time to the same quality, simulated",
        "simulated_scale",
        judging.simulated,
        "One table, of digits.",
    ),
    Aim(
        "With 100 candidates the default strategy misses less of the best structure known than any other",
        "search_quality",
        judging.regretted,
        "Recorded tables, three seeds. On ResNet-20-B's `sensitivity` is level on others (0 to 5: 89.3 to 89.1).",
    ),
    Aim("EPruner takes VGG-16 and ResNet-56 in seconds", "eprune_speed", judging.in_seconds),
    Aim(
        "CCM-LRR's independence is faster than the published loop, and equal",
        "independence_speed",
        judging.independent,
    ),
    Aim(
        "DepGraph's ResNet-56: 93.77 % with 53 % of the FLOPs removed",
        "results/cifar10-resnet56-b-53",
        judging.published("DepGraph"),
        "One seed, 36 epochs, from a better dense network; 150 epochs were not run.",
    ),
    Aim(
        "EPruner's ResNet-56: 93.18 % with 61 % removed",
        "results/cifar10-resnet56-b-61",
        judging.published("EPruner"),
        "As above, 40 epochs.",
    ),
    Aim(
        "CCM-LRR's VGG-16: 93.64 % with 84.2 % removed",
        "results/cifar10-vgg16-84",
        judging.published("CCM-LRR"),
        "One seed, 75 epochs. Its authors' dense network has 94.29 %, ours 92.06; ours is taught by a ResNet-56.",
    ),
    Aim(
        "The search is ahead of every method, finetuned: ResNet-56 at 50 % of the FLOPs",
        "results/cifar10-resnet56-methods",
        judging.first,
        "One seed.",
    ),
    Aim("... at 30 %", "results/cifar10-resnet56-methods-30", judging.first, "One seed."),
    Aim(
        "... VGG-16 at 50 %",
        "results/cifar10-vgg16-methods",
        judging.first,
        "20 candidates; ahead is its own first proposal, `reconstruction`, by less than 10,000 images tell apart.",
    ),
    Aim("... at 30 %", "results/cifar10-vgg16-methods-30", judging.first, "20 candidates, one seed."),
)


def aims_table() -> str:
    """Returns the aims, what was measured, whether that reaches them, and what is left open."""
    lines = ["| aim | measured | reached | what is left open |", "| --- | --- | --- | --- |"]
    for aim in AIMS:
        content = json.loads(aim.path.read_text(encoding="utf-8"))
        standing = aim.judged(content)
        reached = {True: "yes", False: "**no**", None: ""}[standing.reached]
        lines.append(f"| {aim.text} | [{standing.measured}]({_link(aim.path)}) | {reached} | {aim.left} |")
    return "\n".join(lines)


def benchmarks_table() -> str:
    """Returns every benchmark with what it asks, when it was recorded last, and at which commit."""
    lines = ["| `python -m experiments.benchmarks.NAME` | asks | recorded |", "| --- | --- | --- |"]
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        recorded = f"[{content['date'][:10]}, {content['commit'][:7]}]({_link(path)})"
        lines.append(f"| `{path.stem}` | {_question(path.stem)} | {recorded} |")
    return "\n".join(lines)


def _link(path: Path) -> str:
    """Returns a path as experiments/README.md links it."""
    return path.relative_to(EXPERIMENTS.parent).as_posix()


def _question(name: str) -> str:
    """Returns the first line of a benchmark's docstring, without importing what it needs."""
    path = Path(__file__).with_name(f"{name}.py")
    path = path if path.exists() else Path(__file__).parent / name / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text is not None, path
    return text.split("\n\n")[0].replace("\n", " ")


def main() -> None:
    """Prints both tables."""
    sys.stdout.write(f"{aims_table()}\n\n{benchmarks_table()}\n")


if __name__ == "__main__":
    main()
