"""Who proposes structures: heuristics, samplers, swarms, Bayesian optimisation, and their combination."""

from autoprune.strategies.heuristics import heuristic_structures
from autoprune.strategies.registry import make_strategy, strategy_names

__all__ = ["heuristic_structures", "make_strategy", "strategy_names"]
