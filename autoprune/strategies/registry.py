"""Strategies by name. Each module is imported when its strategy is asked for: pymoo and Optuna take seconds."""

from __future__ import annotations

from importlib import import_module
from typing import Any, cast

from autoprune.core.candidate import Outcome
from autoprune.core.profile import ModelProfile
from autoprune.core.seams import Strategy
from autoprune.core.space import SearchSpace
from autoprune.core.structure import Structure
from autoprune.errors import AutopruneError, ConfigError, PluginError, nearest, one_line
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
        PluginError: `package.module:Class` cannot be imported or called, or gives no strategy.
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


class PluginStrategy:
    """A strategy of somebody else, whose mistakes are errors of one line.

    Attributes:
        name: its own, or the spec where it has none.
    """

    def __init__(self, strategy: Any, spec: str) -> None:
        named = getattr(strategy, "name", None)
        self.name = named if isinstance(named, str) and named else spec
        self._strategy, self._spec = strategy, spec

    def ask(self, candidate_id: int) -> Structure | None:
        """Returns the next proposal, or None when there is none before the next tell.

        Raises:
            PluginError: the strategy raises, or returns something else.
        """
        found = self._call("ask", candidate_id)
        if found is None or isinstance(found, Structure):
            return found
        raise PluginError(
            f"`ask` of the strategy {self._spec!r} returned a {type(found).__name__}. Let it return None or one "
            "Structure, of those that `space.sample`, `space.decode` and `space.project` give."
        )

    def tell(self, outcome: Outcome) -> None:
        """Takes the last word on a candidate.

        Raises:
            PluginError: the strategy raises.
        """
        self._call("tell", outcome)

    def _call(self, method: str, argument: object) -> Any:
        try:
            return getattr(self._strategy, method)(argument)
        except AutopruneError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(f"`{method}` of the strategy {self._spec!r} failed: {one_line(error)}") from error


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
    except AutopruneError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(f"The strategy {spec!r} cannot be built: {one_line(error)}") from error
    if not callable(getattr(strategy, "ask", None)) or not callable(getattr(strategy, "tell", None)):
        raise PluginError(f"The strategy {spec!r} gives a {type(strategy).__name__} without `ask` and `tell`.")
    return PluginStrategy(strategy, spec)
