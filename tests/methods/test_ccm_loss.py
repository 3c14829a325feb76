from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from autoprune.data.bundle import as_images
from autoprune.errors import ConfigError, ModelError
from autoprune.methods.ccm_loss import CcmLoss, mean_correlation
from autoprune.methods.regularisers import REGULARISERS, make_regulariser
from autoprune.models.zoo.catalogue import build_model
from autoprune.training import Recipe, train
from autoprune.training.hooks import TrainingState
from tests.models.toy_networks import Chain, Dense, images, toy


def naive(maps: Tensor) -> float:
    """The published formula, pair by pair."""
    rows = maps.double().mean(0).flatten(1)
    rows = [row - row.mean() for row in rows]
    total = 0.0
    for a in rows:
        for b in rows:
            total += abs(float(a @ b / (a.norm() * b.norm())))
    return total / len(rows) ** 2


def attached(model: nn.Module, strength: float = 0.01) -> CcmLoss:
    hook = CcmLoss(strength)
    hook.begin(TrainingState(model.train(), torch.optim.SGD(model.parameters(), lr=0.1), 1.0, torch.device("cpu")))
    return hook


def outputs_of(modules: list[nn.Module]) -> list[Tensor]:
    found: list[Tensor] = []
    for module in modules:
        module.register_forward_hook(lambda _, args, out: found.append(out.detach().clone()))
    return found


def test_the_term_is_the_published_formula():
    maps = torch.randn(5, 6, 4, 3, generator=torch.Generator().manual_seed(0)).relu()
    assert float(mean_correlation(maps)) == pytest.approx(naive(maps), abs=1e-6)


def test_copies_correlate_fully_also_with_their_negative():
    row = torch.randn(2, 1, 4, 4)
    assert float(mean_correlation(torch.cat([row, 3 * row + 1, -row], 1))) == pytest.approx(1, abs=1e-5)


def test_constant_channels_count_as_uncorrelated_instead_of_making_the_loss_nan():
    maps = torch.randn(4, 3, 5, 5)
    constant = torch.cat([maps, torch.zeros(4, 1, 5, 5), torch.full((4, 1, 5, 5), 0.1)], 1).requires_grad_()
    term = mean_correlation(constant)
    assert float(term.detach()) == pytest.approx(naive(maps) * 9 / 25, abs=1e-6)
    (gradient,) = torch.autograd.grad(term, constant)
    assert bool(gradient.isfinite().all())
    assert not gradient[:, 3:].any()
    assert float(mean_correlation(torch.zeros(2, 3, 4, 4))) == 0


def test_the_gradient_is_that_of_finite_differences():
    maps = torch.randn(2, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mean_correlation, (maps,))


@pytest.mark.parametrize(
    ("spec", "maps"), [("cifar/vgg16-512head", 12), ("cifar/resnet20-a", 19), ("cifar/resnet20-b", 19)]
)
def test_the_published_maps_are_taken(spec, maps):
    model = build_model(spec)
    rectifiers = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    found = outputs_of(rectifiers)
    hook = attached(model, strength=0.5)
    model(torch.randn(4, 3, 32, 32))
    penalty = hook.penalty()
    hook.end()
    # VGG-16: not the 13th, nor the one of the hidden linear layer.
    expected = -0.5 * sum(float(mean_correlation(out)) for out in found[:maps])
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)


def test_rectifiers_called_as_functions_are_seen_where_a_convolution_reads_them_once():
    model = toy("residual with channel maps")
    hook = attached(model)
    seen: list[Tensor] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    model(images(4))
    terms = len(hook._means)
    penalty = hook.penalty()
    # The stem's module and, as functions, relu1 and relu2 of three blocks but the last, which feeds the pooling.
    assert terms == 6
    expected = -0.01 * sum(float(mean_correlation(x)) for x in seen[1:])
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    hook.end()


def test_in_place_rectifiers_and_concatenations_do_not_break_the_backward_pass():
    for model in (toy("plain"), Dense()):
        hook = attached(model)
        loss = model(images(4)).square().mean() + hook.penalty()
        torch.autograd.backward(loss)
        assert all(bool(weight.grad.isfinite().all()) for weight in model.parameters())
        hook.end()


def test_there_is_no_penalty_without_a_forward_in_training_mode():
    model = toy("plain")
    hook = attached(model)
    assert hook.penalty() is None
    with torch.no_grad():
        model(images(2))
    assert hook.penalty() is None
    model.eval()
    model(images(2))
    assert hook.penalty() is None
    hook.end()
    model.train()
    model(images(2))
    assert hook.penalty() is None


class Checkpointed(Chain):
    """Runs its last layers a second time in the backward pass instead of keeping what they compute."""

    def body(self, x):
        return checkpoint(self.layers[2:], self.layers[:2](x), use_reentrant=False)


def test_layers_that_run_again_in_the_backward_pass_count_once():
    found = []
    for kind in (Chain, Checkpointed):
        model = toy("plain")
        model.__class__ = kind
        hook, penalties = attached(model), []
        for _ in range(2):
            loss = model(images(4)).square().mean()
            penalties.append(hook.penalty())
            (loss + penalties[-1]).backward()
        found.append([float(item.detach()) for item in penalties])
        hook.end()
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["fused heads", "tokens", "functional weights"])
def test_a_network_without_maps_is_refused_in_the_first_step(name):
    images_, labels = images(8), torch.arange(8) % 4
    with pytest.raises(ModelError, match="The regulariser ccm has nothing to do"):
        train(
            toy(name),
            as_images((images_, labels)),
            range(8),
            Recipe(epochs=1, learning_rate=0.01),
            seed=0,
            hooks=[CcmLoss()],
        )


def test_training_with_it_raises_the_correlation_above_that_of_training_without():
    pictures, labels = images(48), torch.arange(48) % 5
    recipe = Recipe(epochs=4, learning_rate=0.02, batch_size=16)
    found = []
    for hooks in ([], [CcmLoss(1.0)]):
        model = toy("plain")
        train(model, as_images((pictures, labels)), range(48), recipe, seed=0, hooks=hooks)
        model.train()
        outputs = outputs_of([model.layers[0], model.layers[2]])
        with torch.no_grad():
            model(pictures)
        found.append(sum(float(mean_correlation(out)) for out in outputs))
    assert found[1] > found[0] + 0.05


def test_regularisers_are_made_by_name():
    assert tuple(REGULARISERS) == ("ccm", "orthoreg")
    made = make_regulariser("ccm")
    assert isinstance(made, CcmLoss)
    assert made.strength == 0.01
    assert make_regulariser("ccm", 0.004).strength == 0.004
    assert make_regulariser("orthoreg", 0.5).strength == 0.5
    with pytest.raises(ConfigError, match=r"Unknown regulariser 'cm'\. Did you mean 'ccm'\?"):
        make_regulariser("cm")
    with pytest.raises(ConfigError, match=r"strength of the regulariser ccm is -1\."):
        CcmLoss(-1)
