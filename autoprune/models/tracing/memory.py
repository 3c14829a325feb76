"""Peak memory of the activations of one forward pass, as a function of the widths.

The model: eager execution without gradients, image by image. An operation's results are allocated while everything that
the program still holds is alive, the input image included; an operation in place and a view allocate nothing. So the
peak is the largest of finitely many sums of tensor sizes, each linear in the widths. What an operation allocates for
itself (unfolded patches, workspaces) is not counted, nor are the weights: they have a budget of their own.

Where the model errs: a tensor whose channels the trace cannot follow counts as if it were never cut, one of which a
channel occurs more often than another as if all did so, and what a `ChannelMap` allocates on its way is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, UntypedStorage
from torch.multiprocessing.reductions import StorageWeakRef

from autoprune.core.forms import LargestForm
from autoprune.core.structure import PrunableGroup
from autoprune.models.tracing.labels import Atoms, compact


@dataclass(eq=False)
class _Held:
    """One allocation.

    Attributes:
        alive: tells when it is given back; as long as it is kept, no other storage gets the same address.
        size: in bytes.
        labels: (n,) of the tensor that fills it, repeated `size / n` bytes each; None where nothing is known.
    """

    alive: StorageWeakRef
    size: int
    labels: Tensor | None = None

    @classmethod
    def of(cls, storage: UntypedStorage) -> _Held:
        """Returns the allocation of a storage."""
        return cls(StorageWeakRef(storage), storage.nbytes())  # type: ignore[no-untyped-call]  # torch's

    @property
    def given_back(self) -> bool:
        """Whether nothing refers to it any more."""
        return bool(self.alive.expired())  # type: ignore[no-untyped-call]  # torch's


class ActivationLog:
    """Which allocations are alive at each operation of a forward pass."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        self._weights = {tensor.untyped_storage()._cdata for tensor in weights}
        self._held: dict[int, _Held] = {}
        self._living: list[int] = []
        self._moments: list[tuple[int, ...]] = []
        self._all: list[_Held] = []

    def begins(self) -> None:
        """Notes what has been given back before an operation runs."""
        self._living = [index for index in self._living if not self._all[index].given_back]

    def holds(self, tensors: Iterable[Tensor]) -> None:
        """Notes what an operation allocated."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            known = self._held.get(storage._cdata)
            if storage._cdata not in self._weights and (known is None or known.given_back):
                held = _Held.of(storage)
                self._held[storage._cdata] = held
                self._living.append(len(self._all))
                self._all.append(held)
        self._moments.append(tuple(self._living))

    def labelled(self, tensor: Tensor, labels: Tensor) -> None:
        """Notes which channels a tensor carries, if it fills its allocation."""
        held = self._held.get(tensor.untyped_storage()._cdata)
        if held is not None and tensor.numel() * tensor.element_size() == held.size:
            held.labels = compact(labels).reshape(-1)

    def form(self, atoms: Atoms, groups: Sequence[PrunableGroup], place: Mapping[int, tuple[int, int]]) -> LargestForm:
        """Returns the peak in bytes.

        Args:
            atoms: of the finished trace.
            groups: the prunable groups.
            place: {class of atoms: (group, channel)}.
        """
        sizes = np.array([_size(held, atoms, groups, place) for held in self._all]).reshape(len(self._all), -1)
        moments = np.array([sizes[list(living)].sum(axis=0) for living in dict.fromkeys(self._moments)])
        moments = moments.reshape(-1, len(groups) + 1)
        return LargestForm.of(moments[:, :-1], moments[:, -1])


def _size(
    held: _Held, atoms: Atoms, groups: Sequence[PrunableGroup], place: Mapping[int, tuple[int, int]]
) -> list[float]:
    """Returns bytes a channel of each group, and last the bytes that no cut takes away."""
    found = [0.0] * len(groups)
    if held.labels is None or not held.labels.numel():
        return [*found, float(held.size)]
    each = held.size / held.labels.numel()
    counts = Counter(place[root] for root in atoms.roots(held.labels) if root in place)
    for (group, _), count in counts.items():
        found[group] = max(found[group], count * each)
    cut = sum(bytes_each * group.width for bytes_each, group in zip(found, groups, strict=True))
    return [*found, max(0.0, held.size - cut)]
