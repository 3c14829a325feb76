"""Ray Tune on two levels: light trials over heavy evaluators that Ray restarts.

    trial        a Tune trial, one candidate. Its actor holds nothing, so Tune may start, reuse and drop it at will.
    evaluator    an actor that holds the network and the images. There are as many as workers, they live as long as the
                 search, and Ray Core restarts one that dies and repeats what it was doing.
    board        an actor through which the driver tells a running trial the rung it climbs to.

A trial reports one result a rung. The study decides through Tune's own seams: a `Searcher` asks it for candidates, a
`TrialScheduler` tells it results and stops or continues the trial. Everything the search remembers is in the study; of
what Tune writes, nothing is kept.

Measured with plain reused trial actors instead: a search could silently fall to one worker, and a worker that died
between two trials cost a candidate. The arrays are shared once through the object store as numpy arrays, which workers
map without copying; captured in a closure, they hang Tune.
"""

from __future__ import annotations

from autoprune.backends.ray_tune.backend import RayBackend

__all__ = ["RayBackend"]
