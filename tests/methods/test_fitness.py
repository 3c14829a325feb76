from __future__ import annotations

import dataclasses

import numpy as np

from autoprune.methods.fitness import HoldoutFitness, TrainedFitness
from autoprune.models.reduction.merging import cut_least_squares, recalibrate
from autoprune.models.reduction.selection import keep_best
from autoprune.training.measure import measure
from autoprune.training.recipe import Recipe
from tests.methods.small_subject import small_subject


def test_the_fitness_is_the_accuracy_on_the_hold_out_of_the_merged_network():
    subject = small_subject("plain")
    widths = np.array(subject.space.uniform().widths)
    fitness = HoldoutFitness(subject, lambda found: keep_best(subject.rankings, found.tolist()), images=8, total=1)
    kept = keep_best(subject.rankings, widths.tolist())
    small = recalibrate(cut_least_squares(subject.model, subject.network, kept, subject.calibration), subject.images)
    expected = measure(small, subject.data.scoring, subject.holdout).accuracy
    assert fitness(widths) == expected == fitness(widths)
    assert fitness.evaluations == 1


def test_a3_the_last_filter_is_never_drawn():
    subject = small_subject("plain")
    kept = []
    for seed in range(60):
        fitness = TrainedFitness(dataclasses.replace(subject, seed=seed), (0, 1, 2), Recipe(0.0, 0.1), total=1)
        fitness(np.array([5, 5, 7]))
        kept.append(fitness.kept)
    assert {int(one.indices[0].max()) for one in kept} == {4, 5, 6}
    assert {int(one.indices[1].max()) for one in kept} <= set(range(4, 9))
    assert all(len(one.indices[2]) == 7 for one in kept)


def test_the_channels_of_the_best_structure_are_the_ones_that_were_scored():
    subject = small_subject("plain")
    fitness = TrainedFitness(subject, (0, 1, 2), Recipe(0.0, 0.1), total=3)
    scores, kept = [], []
    for widths in ([4, 5, 6], [3, 3, 3], [8, 10, 7]):
        scores.append(fitness(np.array(widths)))
        kept.append(fitness.kept)
    assert fitness.kept is kept[int(np.argmax(scores))]


def test_a_training_that_diverges_scores_nothing():
    subject = small_subject("plain")
    fitness = TrainedFitness(subject, (0, 1, 2), Recipe(1.0, 1e30, batch_size=4), total=1)
    assert fitness(np.array([4, 5, 6])) == 0.0
