"""Memory that runs out: half the batch is tried once, and what still does not fit costs one candidate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoprune.devices import in_smaller_batches, is_out_of_memory

#: Run in a process of its own: the limit cannot be raised again. The network asks for 4 MiB of addresses an image.
PROGRAM = """
import json, resource, sys
import torch
from autoprune.core.candidate import Failure, Merge
from autoprune.backends.evaluating import evaluate
from autoprune.core.seams import frozen_arrays
from autoprune.evaluation.evaluator import CandidateEvaluator, fidelity_for
from tests.evaluation.subjects import candidate, factory

class Hungry(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        torch.empty(len(x), 1 << 20)
        batches.append(len(x))
        return self.model(x)

batches = []
_, made = factory()
evaluator = made.build(frozen_arrays(made.arrays), worker="main")
built = CandidateEvaluator.build
CandidateEvaluator.build = lambda *args, **named: (Hungry(built(*args, **named)[0]), None)
asked = candidate(made, 0.5, fidelity_for(Merge.SLICE, level=0, calibration=16, holdout=48))
whole = evaluate(evaluator, asked, worker="main").outcome
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (int(sys.argv[1]) << 20),) * 2)
batches.clear()
found = evaluate(evaluator, asked, worker="main").outcome
failed = isinstance(found, Failure)
print(json.dumps({"batches": batches, "failed": found.reason if failed else None,
                  "same": not failed and abs(found.score - whole.score) < 1e-6}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and /proc are those of Linux")
@pytest.mark.parametrize(("mebibytes", "batches"), [(150, [24, 24]), (60, [])], ids=["half fits", "nothing fits"])
def test_an_evaluation_that_runs_out_of_memory_is_tried_again_at_half_the_batch(mebibytes, batches, tally):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    command = [sys.executable, "-c", PROGRAM, str(mebibytes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["batches"] == batches
    assert found["same"] == bool(batches)
    if not batches:
        assert "memory" in found["failed"]
    tally("out of memory (RLIMIT_AS)", "same score at half the batch" if batches else "one failed candidate")


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, so):
    assert is_out_of_memory(error) == so


@pytest.mark.parametrize(("enough", "asked"), [(1, [1]), (2, [1, 2])])
def test_batches_are_halved_where_the_memory_does_not_suffice(enough, asked):
    seen = []

    def work(parts):
        seen.append(parts)
        if parts < enough:
            raise MemoryError
        return parts

    assert in_smaller_batches("cpu", work) == enough
    assert seen == asked


@pytest.mark.parametrize(("error", "times"), [(MemoryError(), 2), (ValueError("odd"), 1)])
def test_what_halves_do_not_help_is_raised(error, times):
    seen = []

    def work(parts):
        seen.append(parts)
        raise error

    with pytest.raises(type(error)):
        in_smaller_batches("cpu", work)
    assert len(seen) == times
