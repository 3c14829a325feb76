"""Whoever watches a forward leaves torch as it was."""

from __future__ import annotations

from threading import Event, Thread

import pytest
import torch

from autoprune.models.watching.dispatch import Interpreter


class Watcher(Interpreter):
    """Sees every operation and changes none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.fixture(params=[True, False])
def fast_path(request):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(request.param)
    yield request.param
    torch.backends.mha.set_fastpath_enabled(before)


def test_attention_is_seen_as_layers_by_all_threads_that_watch_and_as_before_once_none_does(fast_path):
    first_watches, second_watches, first_is_done = Event(), Event(), Event()
    seen = []

    def first() -> None:
        with Watcher():
            first_watches.set()
            second_watches.wait(10)

    def second() -> None:
        first_watches.wait(10)
        with Watcher():
            second_watches.set()
            first_is_done.wait(10)
            seen.append(torch.backends.mha.get_fastpath_enabled())

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    threads[0].join()
    first_is_done.set()
    threads[1].join()
    assert seen == [False]
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


def test_a_watcher_within_a_watcher_or_a_failing_forward_leaves_the_fast_path_as_it_was(fast_path):
    watcher = Watcher()
    with pytest.raises(RuntimeError, match="shape"), watcher, watcher:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert torch.backends.mha.get_fastpath_enabled() == fast_path
