"""The quick version of the fault suite runs always, all of it with `pytest -m faults`."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config, items):
    if "faults" in (config.option.markexpr or ""):
        return
    for item in items:
        if item.get_closest_marker("faults"):
            item.add_marker(pytest.mark.skip(reason="all faults: pytest -m faults"))
