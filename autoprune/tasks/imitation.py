"""Imitation: what a classifier is for where nobody has labelled the images. The dense network's classes are the labels.

Its metric is the share of images whose class the dense network would have named, too: 100 % for the dense network
itself, right or wrong. It says nothing of how often that is right.
"""

from __future__ import annotations

from typing import ClassVar

from autoprune.tasks.classification import Classification


class Imitation(Classification):
    """One class an image, the one that the dense network names."""

    name: ClassVar[str] = "imitation"
    metric: ClassVar[str] = "agreement"
    targets: ClassVar[str] = "nothing"
