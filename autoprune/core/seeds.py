"""Seeds derived from one search seed and a name, so that the order in which workers finish cannot matter."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *path: str | int) -> int:
    """Returns a seed in [0, 2**31) that depends on `seed` and on every part of `path`, and on nothing else."""
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """Returns a numpy generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *path))
