"""autoprune searches the per-layer widths of a convolutional network under a compute budget.

import autoprune
result = autoprune.search("digits/resnet", "digits", budget="50%flops")
network = result.incumbent.build()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoprune.core.budget import Budget
    from autoprune.core.structure import PrunableGroup, Structure
    from autoprune.errors import AutopruneError
    from autoprune.models.storage.saved import load
    from autoprune.searching.delivery.exporting import export
    from autoprune.searching.search.api import SearchResult, search

#: Public names and where they live; imported on first use, for torch takes seconds.
_HOME = {
    "AutopruneError": "autoprune.errors",
    "Budget": "autoprune.core.budget",
    "PrunableGroup": "autoprune.core.structure",
    "SearchResult": "autoprune.searching.search.api",
    "Structure": "autoprune.core.structure",
    "export": "autoprune.searching.delivery.exporting",
    "load": "autoprune.models.storage.saved",
    "search": "autoprune.searching.search.api",
}

__all__ = ["AutopruneError", "Budget", "PrunableGroup", "SearchResult", "Structure", "export", "load", "search"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'autoprune' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
