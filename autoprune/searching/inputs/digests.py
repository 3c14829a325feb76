"""Digests of images that have no name: enough to notice others in their place, after a look at a few of them."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from autoprune.data.annotations import annotations_of
from autoprune.data.images import Images

#: Images that are looked at, evenly spaced, and how often: random crops and flips of a data set give themselves away.
_IMAGES, _LOOKS = 8, 3


def digest_of(images: Images) -> str:
    """Returns the number of images and a digest of all their classes and of the pixels of a few, such as `120 (3f2a)`.

    Pixels that differ from look to look are left out, and the classes of images that carry more than that: both may be
    drawn by the data set. What it draws from the global generators comes out the same, for these are set meanwhile and
    put back.
    """
    count = len(images)
    content = hashlib.sha256()
    if annotations_of(images) is None:
        content.update(np.ascontiguousarray(images.labels, dtype=np.int64).tobytes())
    looks = {_look(images) for _ in range(_LOOKS)}
    if len(looks) == 1:
        content.update(looks.pop())
    return f"{count} ({content.hexdigest()[:12]})"


def _look(images: Images) -> bytes:
    places = np.unique(np.linspace(0, len(images) - 1, num=_IMAGES).round().astype(np.int64))
    with _same_draws():
        pixels = images.take(places).contiguous()
    return hashlib.sha256(repr(tuple(pixels.shape)).encode() + pixels.numpy().tobytes()).digest()


@contextmanager
def _same_draws() -> Iterator[None]:
    """Sets the generators that data sets draw from to the same state, and puts them back."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002  what transforms use, not what this draws from
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            torch.manual_seed(0)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
