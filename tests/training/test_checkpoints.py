"""Invariant: a training that is killed at any step and resumed ends with the very weights of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from autoprune.data import ArrayImages, Augmentation, load_data
from autoprune.errors import ConfigError, DivergenceError, RunError
from autoprune.models.zoo.families.cifar_resnet import CifarResNet
from autoprune.models.zoo.weights import load_weights, state_fingerprint
from autoprune.training import Checkpointing, Recipe, train
from autoprune.training.checkpoints import CheckpointFolder, newest_checkpoint, read_checkpoint, remove_checkpoints
from autoprune.training.hooks import Hook

RECIPE = Recipe(epochs=3.5, learning_rate=0.05, batch_size=32, warmup_epochs=0.5, distillation=0.3)
COUNT = 100  # 3.125 steps an epoch: epochs end at the steps 3, 6 and 9 of 11
CUT = Augmentation(1)


class Dropping(nn.Module):
    """A network with batch norm and dropout: buffers and torch's global generator matter."""

    def __init__(self) -> None:
        super().__init__()
        self.body = CifarResNet(blocks=1, option="b", widths=(4, 8, 8), in_channels=1, classes=16)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.body(x)))


class Growing(Hook):
    """Pulls the head to zero, more so with every epoch and step."""

    def __init__(self, model: nn.Module) -> None:
        self._head = model.head.weight
        self._steps, self._epochs, self._sum = 0, 0, torch.zeros(3)

    def penalty(self) -> torch.Tensor:
        self._steps += 1
        self._sum += self._steps
        return (1e-3 * self._steps + 1e-2 * self._epochs + 1e-6 * self._sum.sum()) * self._head.square().sum()

    def epoch_ended(self, epoch: int) -> None:
        self._epochs = epoch

    def state_dict(self) -> dict:
        return {"steps": self._steps, "epochs": self._epochs, "sum": self._sum.clone()}

    def load_state_dict(self, state) -> None:
        self._steps, self._epochs, self._sum = state["steps"], state["epochs"], state["sum"]


@pytest.fixture(scope="module")
def digits() -> ArrayImages:
    images = load_data("digits").train
    assert isinstance(images, ArrayImages)
    return images


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Dropping().eval()


class KilledError(Exception):
    pass


def trained(digits, checkpoint=None, *, die_at=None, initial=0, recipe=RECIPE, seed=4, count=COUNT, hooks=1, **options):
    """Returns the fingerprint of the trained weights, the loss that was reported and the (epoch, loss) pairs told."""
    model, told = network(initial), []

    def on_step(done: int, total: int) -> None:
        if done == die_at:
            raise KilledError

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        report = train(
            model,
            digits,
            range(count),
            recipe,
            seed=seed,
            teacher=network(9),
            augmentation=CUT,
            hooks=[Growing(model) for _ in range(hooks)],
            on_step=on_step,
            on_epoch=lambda *epoch: told.append(epoch),
            checkpoint=checkpoint,
            **options,
        )
    return state_fingerprint(model), report.loss, told


@pytest.fixture(scope="module")
def undisturbed(digits):
    return trained(digits)


@pytest.mark.parametrize("die_at", range(1, 12))
@pytest.mark.parametrize("every_steps", [None, 2])
def test_a_training_killed_at_any_step_ends_bit_for_bit_as_if_it_had_not_been(
    digits, undisturbed, tmp_path, die_at, every_steps
):
    checkpoint = Checkpointing(tmp_path, every_steps=every_steps)
    with pytest.raises(KilledError):
        trained(digits, checkpoint, die_at=die_at)
    # A network that is resumed may come with any weights; one that starts anew may not.
    initial = 0 if newest_checkpoint(tmp_path) is None else 3
    fingerprint, loss, told = trained(digits, checkpoint, initial=initial)
    assert fingerprint == undisturbed[0]
    assert loss == undisturbed[1]
    assert told == undisturbed[2][len(undisturbed[2]) - len(told) :]


def test_checkpoints_change_nothing_and_a_training_killed_twice_loses_nothing(digits, undisturbed, tmp_path):
    assert trained(digits, Checkpointing(tmp_path / "whole")) == undisturbed
    for die_at in (5, 10):
        with pytest.raises(KilledError):
            trained(digits, Checkpointing(tmp_path / "killed"), die_at=die_at)
    assert trained(digits, Checkpointing(tmp_path / "killed"))[:2] == undisturbed[:2]


def test_a_finished_training_is_not_trained_again(digits, undisturbed, tmp_path):
    trained(digits, Checkpointing(tmp_path))
    assert trained(digits, Checkpointing(tmp_path), die_at=1, initial=5) == (undisturbed[0], undisturbed[1], [])


SCRIPT = """
import os, signal, sys
import numpy as np
import torch
from autoprune.data import ArrayImages, Augmentation, Preprocessing
from autoprune.models.zoo.weights import state_fingerprint
from autoprune.models.zoo.catalogue import build_model
from autoprune.training import Checkpointing, Recipe, train


def trained(directory, die_at=None, initial=0):
    chance = np.random.default_rng(0)
    pixels, labels = chance.integers(0, 256, (64, 1, 8, 8), dtype=np.uint8), chance.integers(0, 10, 64)
    told = []

    def on_step(done, total):
        if done == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        told.append(done)

    torch.set_num_threads(1)
    torch.manual_seed(initial)
    model = build_model("digits/resnet")
    train(
        model,
        ArrayImages(pixels, labels, Preprocessing((0.5,), (0.5,))),
        range(64),
        Recipe(epochs=4, learning_rate=0.05, batch_size=32),
        seed=1,
        augmentation=Augmentation(1),
        on_step=on_step,
        checkpoint=None if directory is None else Checkpointing(directory),
    )
    return state_fingerprint(model), told


if __name__ == "__main__":
    trained(sys.argv[1], die_at=5)
"""


def test_kill_9_in_the_third_epoch_of_the_digits_network_costs_that_epoch_alone(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run(command, timeout=120, env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000002.pt", "step-00000004.pt"]
    script: dict = {"__name__": "script"}
    exec(SCRIPT, script)
    resumed, whole = script["trained"](tmp_path, initial=7), script["trained"](None)
    assert resumed[0] == whole[0]
    assert resumed[1] == [5, 6, 7, 8] == whole[1][4:]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 5}, "seed is 4 there and 5 here"),
        ({"count": 99}, "images"),
        ({"recipe": Recipe(epochs=3.5, learning_rate=0.1, batch_size=32)}, "distillation is 0.3 there and 0.0 here"),
        ({"hooks": 2}, "hooks is 'Growing' there and 'Growing, Growing' here"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_by_what_differs(digits, tmp_path, change, named):
    with pytest.raises(KilledError):
        trained(digits, Checkpointing(tmp_path), die_at=4)
    with pytest.raises(RunError, match=f"of another training.*{named}"):
        trained(digits, Checkpointing(tmp_path), **change)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weights = read_checkpoint(path)["model"]["head.weight"]
    content[content.index(weights.numpy().tobytes())] ^= 1
    path.write_bytes(content)


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced(path: Path) -> None:
    torch.save({"model": {"weight": torch.zeros(3)}}, path)


@pytest.mark.parametrize("damage", [flipped, halved, emptied, replaced])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(digits, undisturbed, tmp_path, caplog, damage, tally):
    with pytest.raises(KilledError):
        trained(digits, Checkpointing(tmp_path), die_at=10)
    newest = newest_checkpoint(tmp_path)
    damage(newest)
    assert trained(digits, Checkpointing(tmp_path), initial=3)[:2] == undisturbed[:2]
    assert newest.name in caplog.text
    assert "The one before it is used" in caplog.text
    tally("corrupt checkpoint", "the one before it is used, same weights")


def test_where_every_checkpoint_is_damaged_the_error_names_a_file(digits, tmp_path):
    with pytest.raises(KilledError):
        trained(digits, Checkpointing(tmp_path), die_at=10)
    for path in tmp_path.iterdir():
        halved(path)
    with pytest.raises(RunError, match=r"step-00000006\.pt is damaged"):
        trained(digits, Checkpointing(tmp_path))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"identity": {}, "evil": Evil()}, tmp_path / "step-00000001.pt")
    with pytest.raises(RunError, match="cannot be read"):
        CheckpointFolder(tmp_path, {}).newest()
    assert not (tmp_path / "ran").exists()


def test_two_checkpoints_are_kept_and_a_half_written_one_is_no_checkpoint(tmp_path):
    folder = CheckpointFolder(tmp_path, {"seed": 1})
    for step in (1, 2, 3, 20):
        folder.save({"value": torch.tensor([step])}, step=step)
    (tmp_path / ".step-00000021.pt.abcd1234.tmp").write_bytes(b"half")
    assert newest_checkpoint(tmp_path) == tmp_path / "step-00000020.pt"
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == ["step-00000003.pt", "step-00000020.pt"]
    assert folder.newest()["value"].tolist() == [20]
    folder.save({"value": torch.tensor([21])}, step=21)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020.pt", "step-00000021.pt"]
    (tmp_path / ".step-00000022.pt.abcd1234.tmp").write_bytes(b"half")
    remove_checkpoints(tmp_path)
    assert not tmp_path.exists()


def test_a_disk_that_refuses_costs_the_checkpoint_and_not_the_training(digits, undisturbed, tmp_path, caplog):
    (tmp_path / "file").touch()
    assert trained(digits, Checkpointing(tmp_path / "file" / "below")) == undisturbed
    assert "No checkpoint can be written" in caplog.text


def test_a_diverging_training_leaves_its_last_good_checkpoint(digits, tmp_path):
    class Breaking(Hook):
        def __init__(self, model: nn.Module) -> None:
            self._model, self._epoch = model, 0

        def epoch_ended(self, epoch: int) -> None:
            if epoch == 2:
                self._model.head.weight.data[0, 0] = float("nan")

    model = network()
    with pytest.raises(DivergenceError, match=r"head\.weight"):
        train(
            model,
            digits,
            range(96),
            Recipe(epochs=3, learning_rate=0.01, batch_size=32),
            seed=0,
            hooks=[Breaking(model)],
            checkpoint=Checkpointing(tmp_path),
        )
    good = newest_checkpoint(tmp_path)
    assert good.name == "step-00000003.pt"
    # So that one can go on from its weights at a lower rate.
    load_weights(network(2), good)


def test_a_checkpoint_says_what_it_holds(digits, tmp_path):
    with pytest.raises(KilledError):
        trained(digits, Checkpointing(tmp_path, every_steps=4), die_at=5)
    content = read_checkpoint(tmp_path / "step-00000004.pt")
    assert content["done"] == 4
    assert content["identity"]["learning_rate"] == RECIPE.learning_rate
    assert content["hooks"][0]["steps"] == 4


def test_a_checkpoint_every_zero_steps_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="every 0 steps"):
        Checkpointing(tmp_path, every_steps=0)


@pytest.mark.parametrize(("count", "epochs"), [(45, 7), (100, 4), (7, 3)])
def test_every_whole_epoch_ends_once_and_the_last_with_the_training(digits, count, epochs):
    told: list[int] = []
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    recipe = Recipe(epochs=epochs, learning_rate=0.01, batch_size=10)
    train(flat, digits, range(count), recipe, seed=0, on_epoch=lambda epoch, _: told.append(epoch))
    assert told == list(range(1, epochs + 1))
