"""Invariants: a team takes the steps of one process on whole batches, and every process ends with the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import multiprocessing, nn

from autoprune.data.images import ArrayImages
from autoprune.data.preprocessing import Preprocessing
from autoprune.training.checkpoints import Checkpointing
from autoprune.training.hooks import Hook
from autoprune.training.recipe import Recipe
from autoprune.training.team import Team
from autoprune.training.trainer import train

COUNT, SIZE = 48, 2
#: In float32, where sums in another order are the same but for rounding.
RECIPE = Recipe(epochs=2, batch_size=12, learning_rate=0.05, warmup_epochs=0.5, mixed_precision=False)
#: (C, H, W) of images that are trained on as they lie, and of such as are laid out with their channels last.
SHAPES = {"usual": (1, 8, 8), "channels last": (3, 32, 32)}


def images(shape):
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 4
    pixels = rng.integers(0, 90, (COUNT, *shape)) + 40 * labels[:, None, None, None]
    normalised = Preprocessing((0.5,) * shape[0], (0.25,) * shape[0])
    return ArrayImages(pixels.astype(np.uint8), labels.astype(np.int64), normalised)


def network(shape, seed=0):
    """Returns a network without batch norm, whose statistics would be those of a share."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(shape[0], 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)),
    )


def member(rank, folder, shape):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    model = network(shape, seed=rank)  # only the leader's weights count
    told, layouts = [], set()

    def look(layer, _, out):
        if layer.training:  # replicas that layouts are tried on are not
            layouts.add(out.is_contiguous(memory_format=torch.channels_last))

    model[0].register_forward_hook(look)
    team = Team(rank, SIZE)
    train(model, images(shape), range(COUNT), RECIPE, seed=3, team=team, on_step=lambda *step: told.append(step))
    torch.save((model.state_dict(), len(told), sorted(layouts)), f"{folder}/{rank}.pt")
    torch.distributed.barrier()  # nobody leaves while another still listens
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("layout", SHAPES)
def test_two_processes_end_where_one_does_and_the_leader_alone_tells(tmp_path, layout):
    shape = SHAPES[layout]
    # Spawned: a fork of a process in which autograd has started its threads cannot train.
    multiprocessing.start_processes(member, args=(str(tmp_path), shape), nprocs=SIZE, start_method="spawn")
    one = network(shape)
    train(one, images(shape), range(COUNT), RECIPE, seed=3)
    (first, steps, layouts), (second, silent, _) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(SIZE)
    )
    assert (steps, silent) == (8, 0)
    assert layouts == [layout == "channels last"]
    for name, value in one.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6)


class Watched(nn.Module):
    """A classifier with another head in training."""

    def __init__(self, seed):
        super().__init__()
        self.main = network(SHAPES["usual"], seed)
        self.aux = nn.Linear(64, 4)

    def forward(self, x):
        return (self.main(x), self.aux(x.flatten(1))) if self.training else self.main(x)


#: The other head's answer does not count: the teacher's alone does.
DISTILLED = Recipe(
    epochs=1, batch_size=12, learning_rate=0.05, warmup_epochs=0.0, mixed_precision=False, distillation=1.0
)


def distilled(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=SIZE)
    model, shape = Watched(rank), SHAPES["usual"]
    train(model, images(shape), range(COUNT), DISTILLED, seed=3, team=Team(rank, SIZE), teacher=network(shape, 9))
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.barrier()  # nobody leaves while another still listens
    torch.distributed.destroy_process_group()


def test_a_team_trains_a_network_with_a_head_whose_answer_does_not_count(tmp_path):
    multiprocessing.start_processes(distilled, args=(str(tmp_path),), nprocs=SIZE, start_method="spawn")
    one, shape = Watched(0), SHAPES["usual"]
    train(one, images(shape), range(COUNT), DISTILLED, seed=3, teacher=network(shape, 9))
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(SIZE)]
    for name, value in one.state_dict().items():
        assert torch.equal(states[0][name], states[1][name])
        torch.testing.assert_close(states[0][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 12])
def test_shares_are_all_of_a_batch_and_nothing_twice(count):
    shares = [Team(rank, 2).share(np.arange(count)) for rank in range(2)]
    assert sorted(np.concatenate(shares)) == list(range(count))


class Alone:
    """A member without the others: what it is to go on from is given, what it found is kept."""

    def __init__(self, rank, state=None):
        self.rank, self.leads, self.state = rank, rank == 0, state

    def share(self, positions):
        return Team(self.rank, SIZE).share(positions)

    def of_the_leader(self, found):
        self.state = found if self.leads else self.state
        return self.state

    def joined(self, model, device, *, idle):
        assert not idle
        return model


class Drawn(Hook):
    """Remembers what dropout would draw next when the training begins."""

    def begin(self, state):
        self.next = torch.get_rng_state()


def test_every_process_of_a_resumed_team_draws_its_own(tmp_path):
    def stopped(step, total):
        if step > total // 2:  # when the first epoch has been written
            raise KeyboardInterrupt

    def resumed(rank, state=None):
        team, drawn = Alone(rank, state), Drawn()
        train(
            network(SHAPES["usual"]),
            images(SHAPES["usual"]),
            range(COUNT),
            RECIPE,
            seed=3,
            hooks=[drawn],
            checkpoint=Checkpointing(tmp_path),
            team=team,
            on_step=on_step,
        )
        return team.state, drawn.next

    with torch.random.fork_rng(devices=[]):
        on_step = stopped
        with pytest.raises(KeyboardInterrupt):
            resumed(0)
        on_step = None
        state, leaders = resumed(0)
        assert state is not None
        draws = [leaders, *(resumed(rank, state)[1] for rank in (1, 1, 3))]
    assert torch.equal(draws[0], state["torch"])
    assert torch.equal(draws[1], draws[2])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[3])


def test_nobody_is_left_without_an_image():
    assert all(len(Team(rank, 4).share(np.arange(2))) for rank in range(4))
