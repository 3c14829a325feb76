"""Which channel does each element of an activation belong to? Labels that data movement carries along.

Every channel that a layer produces is an *atom*, an integer. An activation carries a label tensor of its own shape:
the atom each element belongs to, or `FIXED` where it can never be cut. Moving data (view, permute, cat, slice, pad)
moves labels the same way; computing (add, batch norm) ties atoms that must be cut together in a union-find. So
channel coupling is read off the computation itself rather than off a list of known blocks.

Label tensors are stored expanded: dimensions along which labels do not vary have stride 0 and cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

#: Label of an element that is never cut.
FIXED = -1


class Atoms:
    """A growing union-find over atoms, with the reasons why some are frozen."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self._coupled: set[int] = set()

    def fresh(self, count: int) -> Tensor:
        """Returns (count,) new atoms."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def __len__(self) -> int:
        return len(self._parent)

    def copy(self) -> Atoms:
        """Returns the same atoms, ties and reasons, to be added to."""
        other = Atoms()
        other._parent, other._reasons, other._coupled = list(self._parent), dict(self._reasons), set(self._coupled)
        return other

    def forgiven(self, before: Atoms) -> Atoms:
        """Returns the same atoms and ties; those that were there before are as frozen as they were."""
        other = self.copy()
        kept = {atom: reason for atom, reason in self._reasons.items() if atom >= len(before)}
        other._reasons = {**before._reasons, **kept}
        return other

    def freeze_since(self, first: int, reason: str) -> None:
        """Marks atoms from `first` on as never to be cut unless they are tied to an earlier one."""
        self.freeze((atom for atom in range(first, len(self)) if self.root(atom) >= first), reason)

    def root(self, atom: int) -> int:
        """Returns the representative of the atom's class."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def tie(self, left: Tensor, right: Tensor, reason: str) -> None:
        """Makes equally placed atoms of two label tensors one class; one tied to `FIXED` is frozen."""
        left, right = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]  # torch's
        differ = left != right
        # One integer a pair: sorting these is a hundred times faster than `unique` over rows.
        codes = torch.unique((left[differ] + 1) * (len(self._parent) + 1) + right[differ] + 1)
        for code in codes.tolist():
            a, b = (part - 1 for part in divmod(code, len(self._parent) + 1))
            if a == FIXED or b == FIXED:
                self.freeze([max(a, b)], reason)
            else:
                self._parent[max(self.root(a), self.root(b))] = min(self.root(a), self.root(b))

    def freeze(self, labels: Tensor | Iterable[int], reason: str) -> None:
        """Marks atoms as never to be cut; the first reason given stays."""
        for atom in distinct(labels).tolist() if isinstance(labels, Tensor) else labels:
            if atom != FIXED:
                self._reasons.setdefault(atom, reason)

    def couple(self, labels: Tensor) -> None:
        """Marks atoms as part of a residual stream."""
        self._coupled.update(atom for atom in distinct(labels).tolist() if atom != FIXED)

    def roots(self, labels: Tensor) -> list[int]:
        """Returns the representative of each entry of an (n,) label vector; `FIXED` stays."""
        return [FIXED if atom == FIXED else self.root(atom) for atom in labels.tolist()]

    def frozen_reasons(self) -> dict[int, str]:
        """Returns {representative: reason} of every frozen class."""
        reasons: dict[int, str] = {}
        for atom, reason in sorted(self._reasons.items()):
            reasons.setdefault(self.root(atom), reason)
        return reasons

    def coupled_roots(self) -> set[int]:
        """Returns the representatives of every class that passes through an addition of two streams."""
        return {self.root(atom) for atom in self._coupled}


def distinct(labels: Tensor) -> Tensor:
    """Returns the ascending labels that occur; unlike `torch.unique` without sorting millions of them."""
    flat = compact(labels).reshape(-1) - FIXED
    seen = torch.zeros(int(flat.max()) + 1 if len(flat) else 0, dtype=torch.bool)
    return seen.index_fill_(0, flat, value=True).nonzero().reshape(-1) + FIXED


def compact(labels: Tensor) -> Tensor:
    """Returns the labels with every dimension of constant labels reduced to size 1."""
    if labels.numel() == 0:
        # No box was found, say: an expanded tensor of no rows still knows its channels.
        repeated = [size == stride == 0 for size, stride in zip(labels.shape, labels.stride(), strict=True)]
        shape = [1 if again else size for again, size in zip(repeated, labels.shape, strict=True)]
        labels = labels.as_strided(shape, labels.stride())
    for dim in range(labels.dim()):
        if labels.size(dim) > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or bool((labels == first).all()):
                labels = first
    return labels


def varying_dims(labels: Tensor) -> list[int]:
    """Returns the dimensions along which the labels change."""
    return [dim for dim, size in enumerate(compact(labels).shape) if size > 1]


def along(labels: Tensor, dim: int) -> Tensor | None:
    """Returns the (n,) labels along `dim` if they are constant along every other dimension, else None."""
    small = compact(labels)
    if small.numel() == 0 or any(size > 1 for other, size in enumerate(small.shape) if other != dim % labels.dim()):
        return None
    return small.reshape(-1).expand(labels.size(dim)) if small.numel() == 1 else small.reshape(-1)


def spread(vector: Tensor, shape: Sequence[int], dim: int) -> Tensor:
    """Returns labels of `shape` that follow an (n,) vector along `dim` and are constant elsewhere."""
    view = [1] * len(shape)
    view[dim] = vector.numel()
    return vector.reshape(view).expand(tuple(shape))
