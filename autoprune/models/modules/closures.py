"""Functions that hold layers, and their copies: `self.block = lambda x: conv(x)` goes with the network that has it.

`copy.deepcopy` takes functions for constants. A copied network would compute with the layers of the one that it is a
copy of: these would be trained with it, and its own would stay as they were.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import CellType, FunctionType, MethodType
from typing import Any


def held(value: object) -> Iterator[object]:
    """Yields what a function, or a container of them, keeps: its closure, defaults, attributes, a partial's arguments.

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
        return [item.func, *item.args, *item.keywords.values(), *vars(item).values()]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if isinstance(item, FunctionType):
        defaults = [*(item.__defaults__ or ()), *(item.__kwdefaults__ or {}).values()]
        return [*defaults, *vars(item).values(), *map(_content, _cells(item))]
    if type(item) in (dict, OrderedDict):
        return [*item.keys(), *item.values()]  # type: ignore[attr-defined]  # one of these
    return list(item) if type(item) in (list, tuple) else []  # type: ignore[call-overload]  # likewise


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


class Rebinder:
    """Gives the functions of one copied network, and containers with functions, the copies of what they hold."""

    def __init__(
        self, values: Iterable[object], copies: Mapping[int, Any], *, other: Callable[[Any], Any] = lambda item: item
    ) -> None:
        """Finds the functions that are copied.

        Args:
            values: all that will be rebound: which functions share a variable can be seen only on all of them.
            copies: {id of what was copied: its copy}.
            other: copies what else lies in a container.
        """
        self._copies = copies
        self._other = other
        # Held on to, for what is known by its id must not make way for something else with the same.
        self._values = list(values)
        self._moved = _moved(self._values, copies)
        self._made: dict[int, Any] = {}
        self._cells: dict[int, CellType] = {}

    def rebound(self, value: Any) -> Any:
        """Returns a value that holds copies; what has no function that must be copied is returned as it is."""
        if not self._moved or not any(id(item) in self._moved for item in held(value)):
            return value
        return self._copy(value, self._other)

    def _copy(self, value: Any, other: Callable[[Any], Any]) -> Any:
        for known in (self._copies, self._made):
            if id(value) in known:
                return known[id(value)]
        if not any(id(item) in self._copies or id(item) in self._moved for item in held(value)):
            return other(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        made: Any
        if isinstance(value, functools.partial):
            positional = (self._copy(item, other) for item in value.args)
            keywords = {name: self._copy(item, other) for name, item in value.keywords.items()}
            made = self._made[id(value)] = functools.partial(self._copy(value.func, other), *positional, **keywords)
            vars(made).update(self._copy(vars(value), _same))
        elif isinstance(value, MethodType):
            made = MethodType(self._copy(value.__func__, other), self._copy(value.__self__, other))
        elif isinstance(value, tuple):
            made = tuple(self._copy(item, other) for item in value)
        else:
            # Known before it is filled: a function that lies in a list may read this list.
            made = self._made[id(value)] = type(value)()
            if isinstance(value, dict):
                made.update((self._copy(name, other), self._copy(item, other)) for name, item in value.items())
            else:
                made.extend(self._copy(item, other) for item in value)
        self._made[id(value)] = made
        return made

    def _function(self, value: FunctionType) -> FunctionType:
        fresh = [cell for cell in _cells(value) if id(cell) not in self._cells]
        self._cells.update((id(cell), CellType()) for cell in fresh)
        cells = tuple(self._cells[id(cell)] for cell in _cells(value))
        made = FunctionType(value.__code__, value.__globals__, value.__name__, None, cells)
        # Before its cells are filled: a local function that calls itself is in its own closure.
        self._made[id(value)] = made
        # Not by `functools.update_wrapper`, which keeps the function that is copied, and with it the dense network.
        for name in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(value, name):
                setattr(made, name, getattr(value, name))
        # What a function holds beside copies it shares with the one that it is a copy of, as functions do.
        vars(made).update(self._copy(vars(value), _same))
        made.__defaults__ = self._copy(value.__defaults__, _same)
        made.__kwdefaults__ = self._copy(value.__kwdefaults__, _same)
        for cell in fresh:
            with suppress(ValueError):  # not filled yet
                self._cells[id(cell)].cell_contents = self._copy(cell.cell_contents, _same)
        return made


def _same(item: Any) -> Any:
    return item


def _moved(values: list[object], copies: Mapping[int, Any]) -> set[int]:
    """Returns the ids of functions that hold what was copied, or share a variable with one that is copied.

    One function writes a variable (`nonlocal`) that another reads: either both have the copy's, or both the network's.
    """
    functions = [item for item in held(values) if isinstance(item, FunctionType | functools.partial)]
    moved: set[int] = set()
    cells: set[int] = set()
    while True:
        more = [
            item
            for item in functions
            if id(item) not in moved
            and (
                any(id(cell) in cells for cell in _cells(item))
                or any(id(part) in copies or id(part) in moved for part in held(item))
            )
        ]
        if not more:
            return moved
        moved.update(map(id, more))
        cells.update(id(cell) for item in more for cell in _cells(item))


def _cells(item: object) -> tuple[CellType, ...]:
    return (item.__closure__ or ()) if isinstance(item, FunctionType) else ()
