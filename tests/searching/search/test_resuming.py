"""Searches that Python callers go on with: what may have changed since they were begun, and what may not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset
from toy_problem import network, sets

import autoprune
from autoprune.config.options import OPTIONS, RESUMABLE
from autoprune.data.bundle import bundle_from
from autoprune.errors import RunError
from autoprune.report.observer import NullObserver
from autoprune.searching.inputs.digests import digest_of
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.search.resuming import BY_CONTENT, changed_options
from autoprune.study.ledger import encode_line


class Once(NullObserver):
    """Presses Ctrl-C after the second outcome."""

    def __init__(self):
        self.left = 2

    def told(self, outcome, *, finished):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


class Flipping:
    """Images that are flipped at random, by a generator of their own or torch's."""

    def __init__(self, images, labels, generator=None):
        self.images, self.targets, self.generator = images, labels.tolist(), generator

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        flipped = torch.rand(1, generator=self.generator).item() < 0.5
        return (image.flip(-1) if flipped else image), self.targets[index]


@pytest.fixture
def search(folder):
    """Returns a function that searches a toy network object on toy images."""

    def run(data=None, observer=None, **options):
        usual = {"candidates": 5, "finetune_epochs": 0.0, "backend": "serial", "no_mlflow": True, "out": "run"}
        return autoprune.search(network(), data or sets(), observer=observer or NullObserver(), **{**usual, **options})

    return run


@pytest.fixture
def begun(search):
    """Begins a search that is interrupted."""
    with pytest.raises(KeyboardInterrupt):
        search(observer=Once())
    assert Path("run", "ledger.jsonl").is_file()


@pytest.mark.usefixtures("begun")
class TestOptions:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"channels": "norm"}, r"'run' was started with channels='elimination' \(now 'norm'\)\..* another folder"),
        ],
    )
    def test_one_that_scores_depend_on_is_refused_by_name(self, search, changed, message):
        before = Path("run", "ledger.jsonl").read_bytes()
        with pytest.raises(RunError, match=message):
            search(**changed)
        assert Path("run", "ledger.jsonl").read_bytes() == before

    @pytest.mark.parametrize(
        "changed",
        [{"budget": "60%flops"}, {"seed": 1}, {"strategy": "random"}, {"scope": "coupled"}, {"holdout_images": 20}],
    )
    def test_those_that_the_ledger_compares_by_content_are_refused(self, search, changed):
        with pytest.raises(RunError, match="was started with"):
            search(**changed)

    def test_how_latency_is_measured_may_change_where_no_budget_speaks_of_it(self, search):
        assert search(latency_batch=4, latency_threads=2).summary["candidates"] == 5

    def test_who_works_and_for_how_long_may_change(self, search):
        assert search(device="cpu", time_limit=600, finetune_epochs=0.5).summary["candidates"] == 5


def test_every_option_may_change_or_is_compared():
    by_name = set(OPTIONS) - RESUMABLE - BY_CONTENT
    assert by_name == {"channels", "latency_batch", "latency_threads"}
    assert not RESUMABLE & BY_CONTENT


@pytest.mark.parametrize(
    ("budget", "changed", "compared"),
    [
        ("5ms", {"latency_batch": 4}, ["latency_batch"]),
        ("5ms", {"latency_threads": 2}, ["latency_threads"]),
        ("peak 1MB", {"latency_batch": 4, "latency_threads": 2}, ["latency_batch"]),
        ("50%flops", {"latency_batch": 4, "latency_threads": 2}, []),
    ],
)
def test_how_latency_is_measured_is_compared_where_a_budget_reads_it(budget, changed, compared):
    then, now = SearchOptions(budgets=(budget,)), SearchOptions(budgets=(budget,), **changed)
    assert [name for name, *_ in changed_options(then.to_json(), now)] == compared


def test_another_batch_size_is_refused_where_the_peak_of_activations_is_limited(search):
    with pytest.raises(KeyboardInterrupt):
        search(observer=Once(), budget=("50%flops", "peak 1GB"))
    with pytest.raises(RunError, match=r"latency_batch=1 \(now 4\)"):
        search(budget=("50%flops", "peak 1GB"), latency_batch=4)


@pytest.mark.usefixtures("begun")
class TestImages:
    def test_the_same_go_on_and_others_are_refused_by_part(self, search):
        (images, labels), test = sets()[0].tensors, sets()[1]
        other = TensorDataset(images + 0.01, labels)
        with pytest.raises(RunError, match=r"training images='120 \(\w{12}\)' \(now '120 \(\w{12}\)'\)\. Give") as told:
            search((other, test))
        assert "test images" not in str(told.value)
        with pytest.raises(RunError, match=r"validation images=None \(now '40 "):
            search((*sets()[:1], test, test))
        assert search().summary["candidates"] == 5

    def test_other_classes_are_other_images(self, search):
        (images, labels), test = sets()[0].tensors, sets()[1]
        with pytest.raises(RunError, match="training images="):
            search((TensorDataset(images, labels.roll(1)), test))

    def test_a_search_from_before_digests_and_before_channels_were_chosen_goes_on_as_it_was_begun(self, search):
        ledger = Path("run", "ledger.jsonl")
        first, *others = ledger.read_bytes().splitlines(keepends=True)
        header = json.loads(first)
        del header["check"], header["run"]["images"], header["run"]["options"]["channels"]
        ledger.write_bytes(b"".join([encode_line(header), *others]))
        with pytest.raises(RunError, match=r"channels='norm' \(now 'elimination'\)"):
            search()
        assert search(channels="norm").summary["candidates"] == 5


class TestDigests:
    def images(self, generator=None):
        return bundle_from(Flipping(*sets()[0].tensors, generator), sets()[1]).train

    def test_draws_from_the_global_generators_do_not_change_it_nor_it_them(self):
        first = digest_of(self.images())
        for _ in range(3):
            torch.rand(1)
            assert digest_of(self.images()) == first
        images = self.images()
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
        digest_of(images)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
        assert random.getstate() == states[2]

    def test_images_drawn_by_their_own_generator_are_known_by_their_classes(self):
        found = {digest_of(self.images(torch.Generator().manual_seed(seed))) for seed in range(20)}
        assert len(found) == 1
        images, labels = sets()[0].tensors
        other = bundle_from(Flipping(images, labels.roll(1), torch.Generator().manual_seed(0)), sets()[1]).train
        assert digest_of(other) not in found

    def test_fewer_images_than_are_looked_at_are_no_fault(self):
        images, labels = sets()[0].tensors
        assert digest_of(bundle_from((images[:1], labels[:1]), sets()[1]).train).startswith("1 (")
