"""Invariants: one display, updated and not repeated; no notebook, no figure; no name of the data becomes markup."""

from __future__ import annotations

import base64
import sys
import types
import xml.etree.ElementTree as ElementTree

import pytest

from autoprune.report.observer import NullObserver
from autoprune.report.screens.notebook import NotebookProgress, default_observer
from tests.tracking.tracked_candidates import evaluation, failure


class Handle:
    def __init__(self) -> None:
        self.pages: list[str] = []

    def display(self, shown, *, display_id: bool) -> Handle:
        assert display_id
        assert not self.pages, "one display is enough"
        self.update(shown)
        return self

    def update(self, shown) -> None:
        self.pages.append(shown._repr_html_())


def test_a_figure_grows_in_one_place_and_is_not_drawn_for_every_candidate() -> None:
    handle, now = Handle(), [0.0]
    watching = NotebookProgress(handle.display, clock=lambda: now[0])
    watching.stage("Searching <b>a</b>")
    for number in range(20):
        now[0] += 0.2
        watching.told(evaluation(number, 0.5 + number / 100), finished=True)
    watching.told(failure(20), finished=True)
    watching.warning("the disk is <full>")
    watching.close()
    assert 5 <= len(handle.pages) <= 8
    last = handle.pages[-1]
    assert "<b>" not in last
    assert "&lt;full&gt;" in last
    assert "21 candidates, 1 failed, best 69.00 % (hold-out, candidate 19)" in last
    picture = ElementTree.fromstring(base64.b64decode(last.split("base64,")[1].split('"')[0]))
    assert len([node for node in picture.iter() if node.tag.endswith("circle")]) >= 10


@pytest.mark.parametrize(("shell", "watches"), [("ZMQInteractiveShell", True), ("TerminalInteractiveShell", False)])
def test_only_a_notebook_gets_the_figure(monkeypatch, shell, watches) -> None:
    ipython, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    vars(ipython).update(get_ipython=type(shell, (), {}))
    vars(display).update(display=Handle().display)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    assert isinstance(default_observer(), NotebookProgress if watches else NullObserver)


def test_without_ipython_nobody_watches(monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert isinstance(default_observer(), NullObserver)
