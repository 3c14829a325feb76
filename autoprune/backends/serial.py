"""One evaluator in this process: for debugging, for tests, and where Ray is not wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from autoprune.backends.evaluating import Span, Timed, evaluate, report_of
from autoprune.backends.interrupts import Interrupts
from autoprune.core.candidate import Candidate
from autoprune.core.seams import BackendReport, Evaluator, EvaluatorFactory, PassiveStudy, frozen_arrays

_WORKER = "main"


class SerialBackend:
    """Evaluates one candidate after another, each up its ladder before the next is asked."""

    def run(self, study: PassiveStudy, factory: EvaluatorFactory, *, should_stop: Callable[[], bool]) -> BackendReport:
        """Drives the study until it is done, `should_stop()` or Ctrl-C.

        An evaluation that Ctrl-C cuts short is not told; its candidate stays pending.
        """
        spans: list[Span] = []
        with Interrupts() as interrupts:
            try:
                with interrupts.at_once():
                    evaluator = factory.build(frozen_arrays(factory.arrays), worker=_WORKER)
                candidate: Candidate | None = None
                while not (should_stop() or interrupts.requested):
                    candidate = candidate or study.ask()
                    if candidate is None:
                        break
                    timed = _evaluate(evaluator, candidate, interrupts)
                    spans.append(Span(_WORKER, timed.started, timed.ended))
                    rung = study.tell(timed.outcome)
                    candidate = None if rung is None else replace(candidate, fidelity=rung)
            except KeyboardInterrupt:
                # The first Ctrl-C lands between two tells; a second one may not, and the ledger survives that as well.
                if not interrupts.requested:
                    raise
        return report_of(spans, workers=1, interrupted=not study.done)


def _evaluate(evaluator: Evaluator, candidate: Candidate, interrupts: Interrupts) -> Timed:
    with interrupts.at_once():
        return evaluate(evaluator, candidate, worker=_WORKER)
