"""Copies of what networks hold beside layers, functions among it: `self.block = lambda x: conv(x)` goes with them.

`copy.deepcopy` takes functions for constants, and refuses a whole value for one part of it that cannot be copied. A
copied network would compute with the layers of the one that it is a copy of: these would be trained with it, and its
own would stay as they were.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

#: Immutable values, shared between copies.
ATOMIC = frozenset(
    {int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, BuiltinFunctionType}
)
#: What is not looked into.
_WHOLE = (nn.Module, Tensor, type, ModuleType)


def held(value: object) -> Iterator[object]:
    """Yields a value and all that it keeps: items, attributes, closures, defaults; of tensors and modules nothing."""
    for item, _ in _holders(value):
        yield item


def _holders(value: object) -> Iterator[tuple[object, Sequence[object]]]:
    """Yields a value and all that it keeps, each once and with what it keeps itself."""
    # With what is held, and not by number alone: a state that was made to be looked at must not make way for another.
    seen: dict[int, object] = {}
    pending = [value]
    while pending:
        item = pending.pop()
        if type(item) not in ATOMIC and id(item) not in seen:
            seen[id(item)] = item
            parts = [part for part in _parts(item) if type(part) not in ATOMIC]
            yield item, parts
            pending.extend(parts)


def _parts(item: Any) -> Iterable[object]:
    if type(item) is tuple:
        return item
    if isinstance(item, FunctionType):
        contents = map(_content, _cells(item))
        return [item.__defaults__, item.__kwdefaults__, vars(item), *contents]
    if isinstance(item, MethodType):
        return [item.__func__, item.__self__]
    if type(item) is weakref.ref:
        return [item()]
    reduced = _reduced(item)
    if reduced is None:
        return [] if isinstance(item, _WHOLE) else [getattr(item, "__dict__", None)]
    _, arguments, state, items, pairs = reduced
    return [arguments, state, *(items or ()), *(part for pair in pairs or () for part in pair)]


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _reduced(item: Any) -> tuple[Any, ...] | None:
    """Returns how pickle would make an object: function, arguments, state, items, pairs; None where it has no say."""
    if isinstance(item, _WHOLE) or hasattr(type(item), "__deepcopy__"):
        return None
    try:
        found = item.__reduce_ex__(4)
    except Exception:  # locks, open files, and whatever else a user's class says
        return None
    return (*found, None, None, None)[:5] if isinstance(found, tuple) else None


class Copier:
    """Copies values as `copy.deepcopy` would, and besides the functions that hold what has been copied.

    Unless it is `strict`, what cannot be copied is shared, and that alone: locks, open files, whatever refuses. It is
    no part of the weights, and a forward that depends on it is caught by the check of the trace.
    """

    def __init__(self, values: Iterable[object], memo: dict[int, Any], *, strict: bool = False) -> None:
        """Finds the functions that must be copied.

        Args:
            values: all that will be copied: which functions share a variable can be seen only on all of them.
            memo: {id of what has been copied: its copy}; it is extended.
            strict: whether what cannot be copied is an error.
        """
        # Held on to, for what is known by its id must not make way for something else with the same.
        self._alive: list[object] = list(values)
        self._memo = memo
        self._strict = strict
        self._moved = _moved(self._alive, memo)
        self._cells: dict[int, CellType] = {}

    def copy(self, value: Any) -> Any:
        """Returns the copy of a value."""
        if type(value) in ATOMIC:
            return value
        if id(value) in self._memo:
            return self._memo[id(value)]
        self._alive.append(value)
        if isinstance(value, FunctionType):
            return self._function(value) if id(value) in self._moved else value
        made = self._made(value)
        self._memo[id(value)] = made
        return made

    def _made(self, value: Any) -> Any:
        if type(value) is tuple:
            return tuple(map(self.copy, value))
        if isinstance(value, MethodType):
            return MethodType(self.copy(value.__func__), self.copy(value.__self__))
        if type(value) is weakref.ref:
            return weakref.ref(self.copy(value())) if value() is not None else value
        if isinstance(value, Tensor) and not value.is_leaf:  # torch copies no others
            return value.detach().clone()
        reduced = _reduced(value)
        try:
            return copy.deepcopy(value, self._memo) if reduced is None else self._object(value, *reduced)
        except Exception:
            if self._strict:
                raise
            return value

    def _object(self, value: Any, make: Any, arguments: Any, state: Any, items: Any, pairs: Any) -> Any:
        made = make(*map(self.copy, arguments))
        # Known before it is filled: a function that lies in a list may read this list.
        self._memo[id(value)] = made
        if state is not None and hasattr(made, "__setstate__"):
            made.__setstate__(self.copy(state))
        elif state is not None:
            attributes, slots = state if isinstance(state, tuple) else (state, None)
            if attributes:
                vars(made).update((name, self.copy(item)) for name, item in attributes.items())
            for name, item in (slots or {}).items():
                setattr(made, name, self.copy(item))
        for item in items or ():
            made.append(self.copy(item))
        for name, item in pairs or ():
            made[self.copy(name)] = self.copy(item)
        return made

    def _function(self, value: FunctionType) -> FunctionType:
        cells = _cells(value)
        fresh = [cell for cell in cells if id(cell) not in self._cells]
        self._cells.update((id(cell), CellType()) for cell in fresh)
        closure = tuple(self._cells[id(cell)] for cell in cells)
        made = FunctionType(value.__code__, value.__globals__, value.__name__, None, closure)
        # Before its cells are filled: a local function that calls itself is in its own closure.
        self._memo[id(value)] = made
        # Not by `functools.update_wrapper`, which keeps the function that is copied, and with it the dense network.
        for name in functools.WRAPPER_ASSIGNMENTS:
            if hasattr(value, name):
                setattr(made, name, getattr(value, name))
        vars(made).update(self.copy(vars(value)))
        made.__defaults__ = self.copy(value.__defaults__)
        made.__kwdefaults__ = self.copy(value.__kwdefaults__)
        for cell in fresh:
            with suppress(ValueError):  # not filled yet
                self._cells[id(cell)].cell_contents = self.copy(cell.cell_contents)
        return made


def _moved(values: list[object], copies: dict[int, Any]) -> set[int]:
    """Returns the ids of functions that hold what was copied, or share a variable with one that is copied.

    One function writes a variable (`nonlocal`) that another reads: either both have the copy's, or both the network's.
    """
    # Backwards, from what was copied to all that holds it: no function is looked through once for every other.
    holders: defaultdict[int, list[object]] = defaultdict(list)
    sharing: defaultdict[int, list[object]] = defaultdict(list)
    everything = list(_holders(values))
    if not any(isinstance(item, FunctionType) for item, _ in everything):
        return set()
    for item, parts in everything:
        for part in parts:
            holders[id(part)].append(item)
        for cell in _cells(item):
            sharing[id(cell)].append(item)
    reached: dict[int, object] = {}
    pending = [holder for number in copies for holder in holders.get(number, ())]
    while pending:
        item = pending.pop()
        if id(item) not in reached:
            reached[id(item)] = item
            pending.extend(holders.get(id(item), ()))
            pending.extend(other for cell in _cells(item) for other in sharing[id(cell)])
    return {number for number, item in reached.items() if isinstance(item, FunctionType)}


def _cells(value: object) -> tuple[CellType, ...]:
    return (value.__closure__ or ()) if isinstance(value, FunctionType) else ()
