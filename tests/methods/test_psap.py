import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from autoprune.errors import ConfigError
from autoprune.methods.closing import choose_closed, protected_channels, sparsity_ratios
from autoprune.methods.psap import Gates, Psap, forget
from autoprune.methods.reduction import Reduction, reduced
from autoprune.methods.softly import group_axes
from autoprune.models.cutting.surgery import Kept, cut, named_tensors
from autoprune.training.recipe import Recipe
from autoprune.training.trainer import train
from tests.methods.differences import largest_difference
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import Chain, images, toy, unit

NETWORKS = ("residual with projections", "concatenation", "flattened", "depthwise", "hidden references")


def gates_of(subject, *, steps=12, edits=4, **options):
    method = Psap(**{"schedule": "linear", "pulse": 2, "protect": "gate", **options})
    return Gates(subject.network, subject.space, group_axes(subject.network), method=method, steps=steps, edits=edits)


def trained(subject, model, hook, *, epochs=2.0, **options):
    recipe = Recipe(epochs, 0.02, batch_size=4)
    return train(model, subject.data.train, subject.training, recipe, seed=0, hooks=[hook], **options)


def kept_of(hook):
    return Kept(tuple(np.flatnonzero(row) for row in hook.open))


@pytest.mark.parametrize("network", NETWORKS)
def test_the_trained_network_with_closed_gates_equals_the_cut_one(network):
    subject = replace(small_subject(network), epochs=2.0)
    pruned = Psap(batch_size=8).prune(subject)
    assert subject.space.is_legal(pruned.kept.structure)
    small = cut(pruned.model, subject.network, pruned.kept).eval()
    difference = largest_difference(pruned.model, small, images(6))
    assert difference < 1e-5
    # Other channels of the same widths are no such thing.
    pairs = list(zip(pruned.kept.indices, subject.network.dense, strict=True))
    others = [
        Kept(tuple(np.arange(len(index)) for index, _ in pairs)),
        Kept(tuple(np.arange(width - len(index), width) for index, width in pairs)),
    ]
    wrong = [cut(pruned.model, subject.network, other).eval() for other in others]
    assert max(largest_difference(pruned.model, item, images(6)) for item in wrong) > 10 * difference + 1e-5


def test_layers_in_torch_script_have_no_gates_and_are_closed_in_the_end():
    torch.manual_seed(0)
    script = torch.jit.script(nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()))
    subject = replace(small_subject(Chain(nn.Sequential(unit(3, 6), script, unit(8, 6)), 6)), epochs=1.0)
    pruned = Psap(batch_size=8).prune(subject)
    assert subject.space.is_legal(pruned.kept.structure)
    small = cut(pruned.model, subject.network, pruned.kept).eval()
    assert largest_difference(pruned.model, small, images(6)) < 1e-5


class SquareTokens(nn.Module):
    """A hidden layer as wide as the sequence is long."""

    def __init__(self):
        super().__init__()
        self.patches, self.up = nn.Conv2d(3, 8, 3, stride=3), nn.Linear(8, 16)
        self.down, self.head = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((tokens + self.down(self.up(tokens).relu())).mean(1))


@pytest.mark.parametrize("network", ["residual with projections", "tokens", SquareTokens])
def test_the_gates_stand_for_the_cut_while_the_training_still_runs(network):
    torch.manual_seed(0)
    subject = small_subject(network if isinstance(network, str) else network(), budget="60%flops")
    model, hook = copy.deepcopy(subject.model), gates_of(subject)
    differences = []

    def look(done, total):
        if done < total and not all(row.all() for row in hook.open):
            mode = model.training
            model.eval()
            with torch.no_grad():
                gated = model(images(4))  # an edit that is due comes first
                small = cut(model, subject.network, kept_of(hook)).eval()
                for module in small.modules():
                    module._forward_pre_hooks.clear()
                differences.append(float((gated - small(images(4))).abs().max()))
            model.train(mode)

    trained(subject, model, hook, on_step=look)
    assert differences
    assert max(differences) < 1e-4


def test_the_budget_is_reached_by_steps_and_the_dense_network_left_alone():
    subject = small_subject()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    model, hook, open_channels = copy.deepcopy(subject.model), gates_of(subject, prune_share=1.0), []
    trained(subject, model, hook, on_step=lambda *_: open_channels.append(sum(int(row.sum()) for row in hook.open)))
    hook.settle(model)
    assert open_channels == sorted(open_channels, reverse=True)
    assert len(set(open_channels)) >= 3
    assert subject.space.is_legal(kept_of(hook).structure)
    for name, value in subject.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_filter_that_opens_again_is_as_it_was_when_it_closed():
    subject = small_subject()
    model, hook = copy.deepcopy(subject.model), gates_of(subject)
    group = group_axes(subject.network)[0]
    tensors = {axis.name: dict(model.state_dict())[axis.name] for axis in group.makers}
    first = {axis.name: axis.rows(tensors[axis.name]).clone() for axis in group.makers}
    closed = np.zeros(group.width, dtype=bool)
    closed[1] = True
    hook.close(model, 0, closed)
    with torch.no_grad():
        for axis in group.makers:
            if tensors[axis.name].is_floating_point():
                tensors[axis.name].mul_(0.5)  # weight decay, and statistics that drift
    hook.close(model, 0, np.zeros(group.width, dtype=bool))
    assert hook.reopened == 1
    for axis in group.makers:
        rows, halved = axis.rows(tensors[axis.name]), 0.5 * first[axis.name]
        back = torch.from_numpy(axis.channels == 1)
        assert torch.equal(rows[back], first[axis.name][back])
        assert torch.equal(rows[~back], halved[~back])


def test_momentum_goes_with_a_filter():
    subject = small_subject()
    model, hook = copy.deepcopy(subject.model), gates_of(subject)
    group = group_axes(subject.network)[0]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(images(4)).sum().backward()
    optimiser.step()
    hook.optimiser = optimiser
    closed = np.zeros(group.width, dtype=bool)
    closed[2] = True
    hook.close(model, 0, closed)
    for name, buffer in group.momenta(named_tensors(model), optimiser).items():
        axis = next(axis for axis in group.makers if axis.name == name)
        rows = axis.rows(buffer)
        assert rows[torch.from_numpy(axis.channels == 2)].abs().max() == 0
        assert rows[torch.from_numpy(axis.channels != 2)].abs().max() > 0


def test_gate_gradients_are_those_of_a_loop_over_gates():
    subject = small_subject("flattened")
    model, hook = copy.deepcopy(subject.model), gates_of(subject, steps=100, edits=1, pulse=100)
    x, labels = images(8), torch.arange(8) % 4
    from autoprune.training.hooks import TrainingState

    optimiser = torch.optim.SGD(model.parameters(), lr=0.0)
    hook.begin(TrainingState(model, optimiser, 1.0, torch.device("cpu")))
    model.eval()
    nn.functional.cross_entropy(model(x), labels).backward()
    hook.gradients_ready()
    step, sums = 1e-3, hook.state_dict()["sums"]
    for index, gate in enumerate(hook.gates):
        for channel in range(min(3, len(gate))):
            losses = []
            for sign in (1, -1):
                with torch.no_grad():
                    gate[channel] += sign * step
                    losses.append(float(nn.functional.cross_entropy(model(x), labels)))
                    gate[channel] -= sign * step
            slope = (losses[0] - losses[1]) / (2 * step)
            assert float(sums[index][channel]) == pytest.approx(slope, abs=2e-3)
    hook.end()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("slope", "opens"), [(-1.0, True), (1.0, False)])  # of the loss, if it were opened
@pytest.mark.parametrize("network", ["plain", "residual with projections", "depthwise"])
def test_a_closed_gate_has_a_gradient_and_a_useful_filter_opens_again(network, slope, opens):
    from autoprune.training.hooks import TrainingState

    subject = small_subject(network)
    model, hook = copy.deepcopy(subject.model), gates_of(subject, steps=100, edits=1, pulse=100)
    first = np.arange(len(hook.open[0])) < 2
    hook.close(model, 0, first)
    hook.begin(TrainingState(model, torch.optim.SGD(model.parameters(), lr=0.0), 1.0, torch.device("cpu")))
    nn.functional.cross_entropy(model(images(8)), torch.arange(8) % 4).backward()
    hook.gradients_ready()
    hook.end()
    state = hook.state_dict()
    assert state["sums"][0][:2].abs().min() > 0
    state["sums"][0][:] = 0.0
    state["sums"][0][0] = slope
    hook.load_state_dict(state)
    for axis in group_axes(subject.network)[0].makers:
        axis.clear(named_tensors(model)[axis.name], first)  # by their norms both would stay closed
    hook.edit(model, 1.0)
    assert hook.open[0][:2].tolist() == [opens, False]


def test_a_zeroed_filter_behind_batch_norm_has_an_inflated_gradient():
    """The trap that gates avoid: 1 / sqrt(eps) against the 1 / sqrt(variance) of a living filter."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 2, 3, bias=False), nn.BatchNorm2d(2)
    with torch.no_grad():
        conv.weight[1] = conv.weight[0]
    target = torch.randn(8, 1, 6, 6)
    x = torch.randn(8, 3, 8, 8)

    def gradient(zeroed):
        conv.zero_grad()
        kept = conv.weight.detach().clone()
        with torch.no_grad():
            conv.weight[1] *= 0.0 if zeroed else 1.0
        (norm(conv(x))[:, 1:] * target).sum().backward()
        norms = float(conv.weight.grad[1].norm())
        with torch.no_grad():
            conv.weight.copy_(kept)
        return norms

    deviation = float(conv(x)[:, 1].detach().std())
    assert gradient(True) / gradient(False) == pytest.approx(316 * deviation, rel=0.25)


def test_sparsity_ratios_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    filters = [rng.normal(size=(4, 6)), 3 * rng.standard_t(2, size=(5, 7))]
    threshold = np.quantile(np.concatenate([abs(f / np.sqrt((f**2).mean())).ravel() for f in filters]), 0.3)
    for ratio, rows in zip(sparsity_ratios(filters, "global"), filters, strict=True):
        rms = np.sqrt((rows**2).mean())
        assert ratio == pytest.approx(np.mean([abs(w) / rms <= threshold for w in rows.ravel()]))
    for ratio, rows in zip(sparsity_ratios(filters, "filter"), filters, strict=True):
        means = [np.mean(np.abs(row)) for row in rows]
        assert ratio == pytest.approx(np.mean([mean < 0.5 * np.mean(means) for mean in means]))


def test_gaussian_layers_of_any_scale_are_equally_sparse_and_peaked_ones_more():
    rng = np.random.default_rng(0)
    plain, scaled, peaked = rng.normal(size=(40, 90)), 9 * rng.normal(size=(40, 90)), rng.laplace(size=(40, 90))
    ratios = sparsity_ratios([plain, scaled, peaked], "global")
    assert ratios[0] == pytest.approx(ratios[1], abs=0.03)
    assert ratios[2] > ratios[0] + 0.05
    absolute = sparsity_ratios([plain, scaled, peaked], "absolute")
    assert absolute[1] < absolute[0]


def test_protected_channels_are_passed_over_and_the_count_is_honoured():
    norms = np.array([0.1, 0.2, 0.3, 0.4])
    everything_open = np.ones(4, dtype=bool)
    safe = np.array([True, False, False, False])
    assert choose_closed(norms, safe, everything_open, count=2).tolist() == [False, True, True, False]
    assert choose_closed(norms, ~safe, everything_open, count=2).tolist() == [True, True, False, False]
    for count in range(5):
        assert choose_closed(norms, safe, everything_open, count=count).sum() == count


def test_at_most_the_best_tenth_of_closed_channels_opens_and_only_if_it_is_of_use():
    alive = np.array([True] * 5 + [False] * 10)
    scores = np.array([1.0, 1.0, 6.0, 1.0, 1.0] + [2.0 * index for index in range(10)])
    assert np.flatnonzero(protected_channels(scores, alive, threshold=5.0)).tolist() == [2, 14]
    assert np.flatnonzero(protected_channels(scores, alive, threshold=50.0)).tolist() == []


@pytest.mark.parametrize("options", [{}, {"protect": "grad_norm"}, {"protect": "none"}, {"sparsity": "filter"}])
def test_a_killed_training_goes_on_as_if_it_had_not_been(tmp_path, options):
    from autoprune.training.checkpoints import Checkpointing

    subject = small_subject()

    class KilledError(Exception):
        pass

    def stop(done, _total):
        if done == 8:
            raise KilledError

    whole, hook = copy.deepcopy(subject.model), gates_of(subject, **options)
    trained(subject, whole, hook)
    model, again = copy.deepcopy(subject.model), gates_of(subject, **options)
    with pytest.raises(KilledError):
        trained(subject, model, gates_of(subject, **options), on_step=stop, checkpoint=Checkpointing(tmp_path))
    trained(subject, model, again, checkpoint=Checkpointing(tmp_path))
    for left, right in zip(hook.open, again.open, strict=True):
        np.testing.assert_array_equal(left, right)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


def test_from_scratch_forgets_the_weights_and_stays_dense_at_first():
    subject = replace(small_subject(), epochs=1.0)
    model = copy.deepcopy(subject.model)
    forget(model, seed=3)
    assert not torch.equal(next(model.parameters()), next(subject.model.parameters()))
    hook = gates_of(subject, from_scratch=True)
    hook.edit(model, 0.04)
    assert all(row.all() for row in hook.open)
    pruned = Psap(from_scratch=True, batch_size=8).prune(subject)
    assert subject.space.is_legal(pruned.kept.structure)
    assert reduced(subject, pruned, Reduction.SLICE) is not None


@pytest.mark.parametrize("name", ["computed weight", "functional weights", "torch's attention", "heads by hand"])
def test_from_scratch_leaves_no_weight_where_it_was(name):
    model = toy(name)
    with torch.no_grad():  # trained: no layer is as its class makes it
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter))
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    forget(model, seed=3)
    for key, value in model.named_parameters():
        assert (value != before[key]).sum() > 0.5 * value.numel(), key
    again = toy(name)
    again.load_state_dict({**model.state_dict(), **before})
    forget(again, seed=3)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"as_published": True}, "the paper's constants could not be had"),
        ({"sparsity": "dense"}, "Unknown sparsity 'dense'"),
        ({"protect": "all"}, "Unknown protect 'all'"),
        ({"prune_share": 0.0}, r"must lie in \(0, 1\]"),
        ({"pulse": 0}, "must be at least 1"),
    ],
)
def test_what_there_is_not_is_one_clear_line(options, message):
    with pytest.raises(ConfigError, match=message):
        Psap(**options)
