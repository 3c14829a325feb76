from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from autoprune.cli.app import app
from autoprune.cli.edge import run
from autoprune.config.experiment import load_experiment
from autoprune.config.options import OPTIONS
from autoprune.config.spaces import load_search_space
from autoprune.study.ledger import Ledger

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(<!-- needs a finished search -->\n)?```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    match[1]
    for _, language, text in BLOCKS
    if language == "bash"
    for match in re.finditer(r"(?:^|&& )(autoprune .*)$", text, flags=re.MULTILINE)
]
PYTHON = [(text, not needs) for needs, language, text in BLOCKS if language == "python"]
[OWN_NETWORK] = re.findall(r"## Bring your own network.*?```python\n(.*?)```", README, flags=re.DOTALL)
TOML = [text for _, language, text in BLOCKS if language == "toml"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_accepted_as_written(command, fake_search, tmp_path):
    arguments = shlex.split(command)[1:]
    weights = ("resnet20_b.pt", "resnet56_b.pt", "resnet50.pt", "mine.safetensors", "ssd300.pth")
    for name in (*weights, "widths.json", "mlflow.db"):
        (tmp_path / name).touch()
    for folder in ("data", "images", "photos", "BCCD", "VOC", "runs/cells", "runs/first/incumbent"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "runs/cells/weights.safetensors").touch()
    (tmp_path / "runs/second").mkdir()
    options = {"model": "digits/resnet", "data": "digits", "budget": ["50%flops"], "no_mlflow": True}
    for name in ("first", "second"):
        Ledger(tmp_path / "runs" / name / "ledger.jsonl", run={"options": options}).close()
    (tmp_path / "runs/first/incumbent/structure.json").touch()
    (tmp_path / "mine.toml").write_text("workers = 1\n")
    if arguments[0] == "ui":
        pytest.skip("starts a server: see tests/cli/test_commands.py")
    fake_search.report = {
        "groups": [],
        "dense": {"macs": 1, "params": 1},
        "widths": {},
        "macs": 1,
        "params": 1,
        "accuracy": 0.5,
        "loss": 1.0,
        "images": 3,
    }
    assert run(arguments) == 0


@pytest.mark.parametrize(("text", "runs"), PYTHON)
def test_every_python_block_compiles(text, runs):
    compile(text, "README.md", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for text, runs in PYTHON if runs and text != OWN_NETWORK])
def test_python_blocks_run(text, tmp_path, monkeypatch):
    pytest.importorskip("autoprune.searching.search.api")
    monkeypatch.chdir(tmp_path)
    exec(compile(text, "README.md", "exec"), {})


def test_a_network_of_ones_own_is_pruned_in_less_than_twenty_lines(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    assert len([line for line in OWN_NETWORK.splitlines() if line.strip()]) < 20
    torch.manual_seed(0)
    names = {}
    exec(compile(OWN_NETWORK, "README.md", "exec"), names)
    summary, pruned = names["result"].summary, names["pruned"]
    assert summary["incumbent"]["flops"] <= 0.5 * summary["dense"]["flops"]
    assert summary["incumbent"]["accuracy"] > summary["dense"]["accuracy"] - 0.05 > 0.85
    images = torch.stack([image for image, _ in names["test"].dataset])
    targets = torch.tensor([label for _, label in names["test"].dataset])
    assert (pruned(images).argmax(1) == targets).float().mean().item() == pytest.approx(
        summary["incumbent"]["accuracy"]
    )
    assert pruned[0].out_channels < names["network"][0].out_channels == 16


@pytest.mark.parametrize("text", TOML)
def test_every_toml_block_loads(text, tmp_path):
    path = tmp_path / "block.toml"
    path.write_text(text)
    load = {"# experiment": load_experiment, "# search space": load_search_space}[text.splitlines()[0]]
    assert load(path)


def test_the_table_of_options_is_complete():
    missing = [option.flag for option in OPTIONS.values() if f"| `{option.flag}" not in README]
    assert missing == []


def test_the_table_of_commands_is_complete():
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if f"| `autoprune {name}" not in README] == []
