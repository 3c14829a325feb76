"""Strategies by name. Each module is imported when its strategy is asked for: pymoo and Optuna take seconds."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from autoprune.core.profile import ModelProfile
from autoprune.core.seams import Strategy
from autoprune.core.space import SearchSpace
from autoprune.errors import ConfigError, PluginError, nearest
from autoprune.strategies.base import ListStrategy, RandomStrategy
from autoprune.strategies.heuristics import HEURISTICS, heuristic_structure

#: name -> (module, class) of those that learn from outcomes.
_LEARNING = {
    "auto": ("autoprune.strategies.auto", "AutoStrategy"),
    "sensitivity": ("autoprune.strategies.sensitivity", "SensitivityStrategy"),
    "pso": ("autoprune.strategies.swarm", "SwarmStrategy"),
    "mopso": ("autoprune.strategies.swarm", "SwarmStrategy"),
    "nsga2": ("autoprune.strategies.swarm", "SwarmStrategy"),
    "tpe": ("autoprune.strategies.bayesian", "OptunaStrategy"),
    "gp": ("autoprune.strategies.bayesian", "OptunaStrategy"),
}


def strategy_names() -> tuple[str, ...]:
    """Returns the names that `make_strategy` knows, the default first."""
    return (*_LEARNING, "random", "uniform", *HEURISTICS)


def make_strategy(
    name: str, *, space: SearchSpace, profile: ModelProfile | None, seed: int, candidates: int
) -> Strategy:
    """Returns a strategy.

    Args:
        name: one of `strategy_names()`, or `package.module:Class`, called with the other arguments by keyword.
        space: what is searched.
        profile: what heuristics read; None where there is none: optimisers then start from uniform and random
            structures, heuristics raise.
        seed: of everything random in it.
        candidates: how many proposals it may make.

    Raises:
        ConfigError: the name is unknown, or a heuristic lacks its profile.
        PluginError: `package.module:Class` cannot be imported or called.
    """
    if ":" in name:
        return _plugin(name, space=space, profile=profile, seed=seed, candidates=candidates)
    if name in _LEARNING:
        module, attribute = _LEARNING[name]
        factory: Any = getattr(import_module(module), attribute)
        return cast(Strategy, factory(space, name=name, seed=seed, candidates=candidates, profile=profile))
    if name == "random":
        return RandomStrategy(space, name=name, seed=seed, candidates=candidates)
    if name == "uniform":
        structures = [space.uniform()]
    elif name in HEURISTICS:
        structures = [heuristic_structure(name, space, profile)]
    else:
        raise ConfigError(f"Unknown strategy {name!r}.{nearest(name, strategy_names())}")
    return ListStrategy(space, name=name, seed=seed, candidates=candidates, structures=structures)


def _plugin(spec: str, **arguments: Any) -> Strategy:
    from autoprune.plugins import resolve_attribute

    factory = resolve_attribute(spec)
    if not callable(factory):
        raise PluginError(f"The strategy {spec!r} is not callable. Name a class or a function that returns a strategy.")
    try:
        strategy = factory(**arguments)
    except TypeError as error:
        raise PluginError(
            f"The strategy {spec!r} cannot be built: {error}. It is called with space=, profile=, seed=, candidates=."
        ) from error
    if not callable(getattr(strategy, "ask", None)) or not callable(getattr(strategy, "tell", None)):
        raise PluginError(f"The strategy {spec!r} gives a {type(strategy).__name__} without `ask` and `tell`.")
    return cast(Strategy, strategy)
