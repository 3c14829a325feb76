"""Every method that does not train, on every kind of layer that is cut."""

import numpy as np
import pytest
import torch

from autoprune.methods.acp import Acp
from autoprune.methods.bee_colony import BeeColony
from autoprune.methods.ccm import ChannelIndependence
from autoprune.methods.criteria import L1, L2, Fpgm, HRank, OrthoFisher, Taylor, Uniform
from autoprune.methods.eprune import EPrune
from autoprune.methods.pca import PrincipalComponents
from autoprune.methods.reconstruction import Heuristic
from autoprune.methods.reduction import Reduction, reduced
from autoprune.models.cutting.surgery import Kept
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import mask, outputs
from tests.methods.small_subject import small_subject
from tests.models.toy_networks import NETWORKS, SLICED, UNPROVED, images, toy

PROVED = sorted({*NETWORKS, *SLICED} - UNPROVED)
#: What a channel that is zero, and that nothing reads, must score least by.
SCORES = (L1(), L2(), HRank(images=8), ChannelIndependence(images=8), Taylor(images=8), OrthoFisher(images=8))
METHODS = (Heuristic(), EPrune(), ChannelIndependence(images=8), PrincipalComponents(), Acp(), Uniform(), Fpgm())
#: These score structures by accuracy.
SEARCHES = (BeeColony(sources=2, cycles=0), Acp(swarm=True, particles=1, cycles=1))
NO_CLASSES, NO_GRADIENT = "several heads", "overwritten input"


def with_dead_channels(name):
    """Returns a network with a channel of each group that is zero and that nothing reads, and these channels."""
    model = toy(name)
    network = trace(model, images(1))
    rng = np.random.default_rng(1)
    dead = [int(rng.integers(group.width)) for group in network.groups]
    left = [np.delete(np.arange(group.width), channel) for group, channel in zip(network.groups, dead, strict=True)]
    mask(model, network, Kept(tuple(left)))
    return model, dead


@pytest.mark.parametrize("name", PROVED)
def test_a_dead_channel_is_worth_least_to_whoever_reads_weights_maps_or_gradients(name):
    model, dead = with_dead_channels(name)
    subject = small_subject(model, budget="90%flops")
    for method in SCORES:
        if isinstance(method, Taylor | OrthoFisher) and name in (NO_CLASSES, NO_GRADIENT):
            continue
        for row, channel in zip(method.scores(subject), dead, strict=True):
            assert row[channel] <= row.min() + 1e-9 * row.max(), type(method).__name__
    for group, channel in zip(subject.profile().groups, dead, strict=True):
        assert group.filter_norms[channel] == group.consumer_norms[channel] == 0.0


@pytest.mark.parametrize("name", PROVED)
def test_methods_that_do_not_train_keep_within_the_budget_and_leave_networks_that_run(name):
    subject = small_subject(name, budget="80%flops")
    for method in (*METHODS, *(SEARCHES if name != NO_CLASSES else ())):
        pruned = method.prune(subject)
        assert subject.space.is_legal(pruned.kept.structure), type(method).__name__
    for reduction in (Reduction.LEAST_SQUARES, Reduction.SEQUENTIAL):
        found = outputs(reduced(subject, pruned, reduction), images(4))
        assert all(bool(torch.isfinite(item).all()) for item in found)
