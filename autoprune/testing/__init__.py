"""For authors of strategies: landscapes synthetic and recorded, a simulated search, and a conformance suite."""

from autoprune.testing.conformance import check_strategy
from autoprune.testing.landscape import Landscape, resnet_landscape
from autoprune.testing.simulation import Crew, Simulation, simulate
from autoprune.testing.table import table_names
from autoprune.testing.tabular import tabular_landscape

__all__ = [
    "Crew",
    "Landscape",
    "Simulation",
    "check_strategy",
    "resnet_landscape",
    "simulate",
    "table_names",
    "tabular_landscape",
]
