import pytest
import torch
from torch import nn

from autoprune.models.calibration import ROWS
from autoprune.models.tracing import trace
from autoprune.searching.finish import final_rows


@pytest.mark.parametrize(
    ("width", "rows"),
    [(8, 2 * ROWS), (5_000, 512 * 1024**2 // (4 * (5_000 + 2))), (9_000, ROWS)],
    ids=["narrow", "wide", "wider"],
)
def test_the_end_samples_as_many_rows_as_fit_into_memory_and_never_fewer_than_a_candidate(width, rows):
    network = nn.Sequential(nn.Conv2d(1, width, 1), nn.ReLU(), nn.Conv2d(width, 2, 1), nn.Flatten()).eval()
    assert final_rows(trace(network, torch.zeros(1, 1, 1, 1))) == rows
