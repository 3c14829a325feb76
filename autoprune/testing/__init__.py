"""For authors of strategies: a synthetic landscape, a simulated search, and a conformance suite."""

from autoprune.testing.conformance import check_strategy
from autoprune.testing.landscape import Landscape, resnet_landscape
from autoprune.testing.simulation import Simulation, simulate

__all__ = ["Landscape", "Simulation", "check_strategy", "resnet_landscape", "simulate"]
