from __future__ import annotations

import torch

from autoprune.models.tracing.labels import FIXED, Atoms, along, compact, spread, varying_dims


def test_tied_atoms_are_one_class_whatever_the_order():
    atoms = Atoms()
    a, b, c = atoms.fresh(3), atoms.fresh(3), atoms.fresh(3)
    atoms.tie(c, b, "")
    atoms.tie(b, a, "")
    assert atoms.roots(c) == atoms.roots(a) == [0, 1, 2]


def test_what_is_tied_to_the_fixed_is_frozen_with_the_first_reason():
    atoms = Atoms()
    a, b = atoms.fresh(2), atoms.fresh(2)
    atoms.tie(a, torch.tensor([FIXED, 3]), "first")
    atoms.freeze(a, "second")
    atoms.tie(a, b, "")
    assert atoms.frozen_reasons() == {0: "first", 1: "second"}
    assert atoms.roots(torch.tensor([FIXED, 3])) == [FIXED, 1]


def test_residual_marks_survive_ties():
    atoms = Atoms()
    a, b = atoms.fresh(2), atoms.fresh(2)
    atoms.couple(b)
    atoms.tie(a, b, "")
    assert atoms.coupled_roots() == {0, 1}


def test_labels_of_a_channel_dimension_take_no_room():
    vector = torch.arange(4)
    labels = spread(vector, (2, 4, 50, 50), 1)
    assert labels.untyped_storage().nbytes() == vector.untyped_storage().nbytes()
    assert compact(labels).shape == (1, 4, 1, 1)
    assert varying_dims(labels) == [1]
    assert torch.equal(along(labels, 1), vector)
    assert along(labels, 2) is None


def test_constant_labels_are_constant_along_every_dimension():
    labels = torch.full((3, 4), 7)
    assert torch.equal(along(labels, 1), torch.full((4,), 7))
    assert varying_dims(labels) == []
