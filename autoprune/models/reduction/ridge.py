"""Ridge regression towards given weights, in closed form; behind a ReLU, asymmetric.

Notation:
    U   (r, d)      patches
    T   (r, o)      targets
    A   (d + 1, o)  kernel and bias: argmin |[U 1] A - T|^2 / r + damping |A - A0|^2
    A0  (d + 1, o)  what A is damped towards

Where a ReLU reads the result, values at which the dense unit is silent only have to stay below zero (asymmetric
reconstruction, Zhang et al. 2016): T is replaced by min([U 1] A, floor) there, and A solved again, a few times.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Sweeps of the alternating minimisation behind a ReLU.
RECTIFIED_SWEEPS = 2
#: Columns whose products are taken together.
_BLOCK = 192


def ridge_solution(U: Tensor, target: Tensor, sliced: Tensor, *, ridge: float, floor: Tensor | None) -> Tensor:
    """Returns the (d, o) or (d + 1, o) least-squares kernel, damped towards the sliced one.

    Args:
        U: (r, d) patches.
        target: (r, o) T.
        sliced: A0, float64: (d + 1, o) with the bias in the last row, (d, o) where the layer cannot take one.
        ridge: the damping.
        floor: (r, o) where a ReLU follows, the value at or below which its output is 0; None where none follows.
    """
    system = _RidgeSystem(U, sliced, ridge)
    solution = system.solve(target)
    if floor is None:
        return solution
    silent = target <= floor
    for _ in range(RECTIFIED_SWEEPS):
        # Where the dense unit is silent any value below the floor is as good: aim at the one that is easiest to meet.
        eased = torch.where(silent, torch.minimum(system.predicted(solution), floor), target)
        solution = system.solve(eased)
    return solution


class _RidgeSystem:
    """The factorised normal equations of one U and A0, for many T; a column of ones is added to U where A0 has a bias.

    With fewer rows than unknowns (a linear layer behind a flattened map) the dual is solved, which has r unknowns:
    A = A0 + U^T (U U^T / r + damping)^-1 (T - U A0) / r.
    """

    def __init__(self, U: Tensor, sliced: Tensor, ridge: float) -> None:
        self._U, self._sliced = U, sliced
        self._rows, self._shifted = len(U), len(sliced) > U.shape[1]
        self._dual = self._rows < len(sliced)
        gram = self._dual_gram() if self._dual else self._gram()
        gram = gram.double() / self._rows
        self._damping = ridge * float(gram.trace()) / len(sliced)
        gram.diagonal().add_(self._damping)
        self._factor = torch.linalg.cholesky(gram)

    def _dual_gram(self) -> Tensor:
        return _lower_gram(self._U.T) + (1 if self._shifted else 0)

    def _gram(self) -> Tensor:
        """Returns (d + 1, d + 1) the products of the columns, on and below the diagonal."""
        gram = _lower_gram(self._U)
        if not self._shifted:
            return gram
        # Without copying U to append its ones.
        sums = torch.cat([self._U.sum(0), gram.new_full((1,), self._rows)])
        return torch.cat([nn.functional.pad(gram, (0, 1)), sums[None]])

    def predicted(self, solution: Tensor) -> Tensor:
        """Returns (r, o) what U is mapped to."""
        kernel = solution.to(self._U.dtype)
        return torch.addmm(kernel[-1], self._U, kernel[:-1]) if self._shifted else self._U @ kernel

    def _crossed(self, target: Tensor) -> Tensor:
        """Returns (d + 1, o) the products of U's columns with those of (r, o) targets."""
        # Transposed: the long thin product takes half of the time that `U.T @ target` takes.
        cross = (target.T @ self._U).T
        return torch.cat([cross, target.sum(0, keepdim=True)]) if self._shifted else cross

    def solve(self, target: Tensor) -> Tensor:
        """Returns (d + 1, o) the solution for (r, o) targets."""
        if self._dual:
            rest = (target - self.predicted(self._sliced)).double()
            inner = torch.cholesky_solve(rest / self._rows, self._factor)
            return self._sliced + self._crossed(inner.to(self._U.dtype)).double()
        cross = self._crossed(target).double() / self._rows
        return torch.cholesky_solve(cross + self._damping * self._sliced, self._factor)


def _lower_gram(U: Tensor) -> Tensor:
    """Returns (d, d) the products of U's (r, d) columns on and below the diagonal, which is all that Cholesky reads.

    On a CPU products above the blocks of the diagonal are left out and stay 0; a GPU is given one product.
    """
    if U.device.type != "cpu":
        return U.T @ U
    columns = U.shape[1]
    gram = U.new_zeros(columns, columns)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        gram[start:end, :end] = U[:, start:end].T @ U[:, :end]
    return gram
