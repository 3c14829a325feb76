"""Invariants of every trace, on random networks: costs, equivalence, dense identity."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoprune.core.structure import Structure
from autoprune.models.costing.counting import count
from autoprune.models.cutting.surgery import cut, keep_all, random_kept
from autoprune.models.tracing.tracer import trace
from autoprune.models.verification.equivalence import TOLERANCE, random_structure, verified, verify
from tests.models.random_networks import KINDS, PLANS, SHAPE, Plan, Step, network_of

#: Hundreds of cases in continuous integration, the same in every run; more by the environment.
CASES = int(os.environ.get("AUTOPRUNE_PROPERTY_CASES", "130"))
EVERY_RUN_ALIKE = settings(
    max_examples=CASES,
    derandomize="AUTOPRUNE_PROPERTY_CASES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def traced(model: torch.nn.Module):
    return trace(model, torch.zeros(1, *SHAPE, dtype=torch.float64))


@EVERY_RUN_ALIKE
@given(plan=PLANS, seed=st.integers(0, 3))
def test_what_is_proved_costs_what_is_computed_and_says_what_the_masked_network_says(plan, seed):
    model = network_of(plan)
    network = traced(model)
    assert count(model, (1, *SHAPE), dtype=torch.float64) == network.cost_model.dense
    proved = verified(model, network, seed=seed)
    for other in (seed + 1, seed + 2):
        found = verify(model, proved, seed=other)
        assert found.computed == found.counted
        assert found.deviation <= TOLERANCE
    rng = np.random.default_rng(seed)
    structure = random_structure(proved, rng)
    small = cut(model, proved, random_kept(proved, structure, rng))
    assert count(small, (1, *SHAPE), dtype=torch.float64) == proved.cost_model.cost(structure)
    x = torch.from_numpy(rng.standard_normal((2, *SHAPE)))
    with torch.no_grad():
        assert torch.equal(model(x), cut(model, network, keep_all(network))(x))


#: Steps after which `verified` has nothing left to freeze: the trace alone knows what can be cut.
KNOWN = tuple(kind for kind in KINDS if kind not in ("part",))


@EVERY_RUN_ALIKE
@given(plan=PLANS.filter(lambda plan: all(step.kind in KNOWN for step in plan.steps)))
def test_the_trace_alone_knows_what_can_be_cut(plan):
    model = network_of(plan)
    network = traced(model)
    assert verify(model, network).holds
    ones = Structure((1,) * len(network.groups))
    assert verify(model, network, kept=random_kept(network, ones, np.random.default_rng(0))).holds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", range(4))
def test_every_step_is_traced_alone(kind, choice):
    model = network_of(Plan(stem=6, steps=(Step(kind, 4, choice),), flatten=False, hidden=0))
    assert verify(model, verified(model, traced(model))).holds
