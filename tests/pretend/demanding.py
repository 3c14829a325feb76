"""The toy network, which refuses to compute on the CPU in a worker that was given a GPU.

Ray imports this module in every worker before it builds an evaluator. Torch does not know the pretended GPU there yet,
so that importing the module plugs it in.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from toy_problem import Network

from tests.pretend import gpu

#: Whether this is a process of Ray that is shown a GPU.
GIVEN = Path(sys.argv[0]).name == "default_worker.py" and bool(os.environ.get("CUDA_VISIBLE_DEVICES"))

if GIVEN:
    _plugged_in = gpu.pretended_gpu()
    _plugged_in.__enter__()


class Demanding(Network):
    def forward(self, x):
        if GIVEN and x.device.type != gpu.NAME:
            raise RuntimeError(f"This worker was given a GPU, but computes on {x.device}.")
        return super().forward(x)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Demanding().eval()
