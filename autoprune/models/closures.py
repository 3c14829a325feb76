"""Functions that hold layers, and their copies: `self.block = lambda x: conv(x)` goes with the network that has it.

`copy.deepcopy` takes functions for constants. A copied network would compute with the layers of the one that it is a
copy of: these would be trained with it, and its own would stay as they were.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any


def held(value: object) -> Iterator[object]:
    """Yields what a function, or a container of functions, keeps: in its closure, its defaults, a partial's arguments.

    Functions that are kept are followed.
    """
    seen: set[int] = set()
    pending = [value]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        pending.extend(_parts(item))


def _parts(item: object) -> list[object]:
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, FunctionType):
        defaults = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        return [*defaults, *(_content(cell) for cell in item.__closure__ or ())]
    if type(item) in (dict, OrderedDict):
        return [*item.keys(), *item.values()]  # type: ignore[attr-defined]  # one of these
    return list(item) if type(item) in (list, tuple) else []  # type: ignore[call-overload]  # likewise


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def rebound(value: Any, copies: Mapping[int, Any], *, other: Callable[[Any], Any] = lambda item: item) -> Any:
    """Returns a function, or a container with functions, that holds the copies of what it holds.

    Args:
        value: anything; what has no function that holds what was copied is returned as it is.
        copies: {id of what was copied: its copy}.
        other: copies what else lies in a container.
    """
    rebinder = _Rebinder(copies, other)
    return rebinder.copy(value) if rebinder.reaches(value) else value


class _Rebinder:
    def __init__(self, copies: Mapping[int, Any], other: Callable[[Any], Any]) -> None:
        self._copies = copies
        self._other = other
        self._made: dict[int, Any] = {}

    def reaches(self, value: object) -> bool:
        """Returns whether a function in a value holds what was copied."""
        functions = (item for item in held(value) if isinstance(item, FunctionType | functools.partial))
        return any(id(item) in self._copies for function in functions for item in held(function))

    def copy(self, value: Any) -> Any:
        """Returns a value that holds copies."""
        for known in (self._copies, self._made):
            if id(value) in known:
                return known[id(value)]
        made: Any
        if not any(id(item) in self._copies for item in held(value)):
            return self._other(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, functools.partial):
            keywords = {name: self.copy(item) for name, item in value.keywords.items()}
            made = functools.partial(self.copy(value.func), *map(self.copy, value.args), **keywords)
        elif isinstance(value, MethodType):
            made = MethodType(self.copy(value.__func__), self.copy(value.__self__))
        elif isinstance(value, dict):
            made = type(value)((self.copy(name), self.copy(item)) for name, item in value.items())
        else:
            made = type(value)(map(self.copy, value))
        self._made[id(value)] = made
        return made

    def _function(self, value: FunctionType) -> FunctionType:
        cells = tuple(CellType() for _ in value.__closure__ or ())
        made = FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
        # Before its cells are filled: a local function that calls itself is in its own closure.
        self._made[id(value)] = made
        functools.update_wrapper(made, value)
        # What a function holds beside copies it shares with the one that it is a copy of, as functions do.
        shared = _Rebinder(self._copies, lambda item: item)
        shared._made = self._made
        made.__defaults__ = shared.copy(value.__defaults__)
        made.__kwdefaults__ = shared.copy(value.__kwdefaults__)
        for cell, old in zip(cells, value.__closure__ or (), strict=True):
            try:
                cell.cell_contents = shared.copy(old.cell_contents)
            except ValueError:  # not filled yet
                continue
        return made
