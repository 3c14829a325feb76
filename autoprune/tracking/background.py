"""A thread that writes what it is handed, in order, and never makes the hander wait or fail."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence

Job = Callable[[], None]

#: Tries again of a job after one that the store refused to the last.
_IMPATIENT = 2


class BackgroundWriter:
    """Runs jobs one after another on a daemon thread; what cannot be written is counted, not raised.

    Jobs must bear being run twice: a job that raises is tried again.
    """

    def __init__(
        self,
        prepare: Job,
        *,
        name: str,
        capacity: int = 2000,
        pauses: Sequence[float] = (0.3, 2.0, 8.0, 20.0, 40.0),
        longest_pause: float = 30.0,
    ) -> None:
        """Starts the thread.

        Args:
            prepare: runs first, and again (ever more rarely) until it succeeds or the writer is finished.
            name: of the thread.
            capacity: submissions that may wait; further ones are dropped.
            pauses: seconds to wait before each further try of a failed job; a store may be away for a minute. Once
                a job has used them up, those after it get two, until one succeeds.
            longest_pause: seconds between tries of `prepare`, at most.
        """
        self._prepare = prepare
        self._pauses = tuple(pauses)
        self._longest_pause = longest_pause
        self._capacity = capacity
        self._waiting: queue.Queue[tuple[Job, ...] | None] = queue.Queue()
        self._current: deque[Job] = deque()
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._dropped = 0
        self._failed = 0
        self._error: str | None = None
        self._gone = False
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether `prepare` has succeeded."""
        return self._ready.is_set()

    @property
    def lost(self) -> int:
        """Jobs that were dropped, failed every try, or were left over at the end."""
        return self._dropped + self._failed

    @property
    def error(self) -> str | None:
        """The latest error, in one line."""
        return self._error

    def wait_ready(self, seconds: float) -> bool:
        """Returns whether `prepare` has succeeded, after waiting for it at most this long."""
        return self._ready.wait(seconds)

    def submit(self, *jobs: Job) -> None:
        """Queues jobs, which take up one place however many; drops them at once if it is full or finished."""
        if self._stopping.is_set() or self._waiting.qsize() >= self._capacity:
            self._dropped += len(jobs)
        else:
            self._waiting.put(jobs)

    def finish(self, *, seconds: float, last: Job | None = None) -> bool:
        """Returns whether everything was written within the time; the thread is given up otherwise.

        Args:
            seconds: how long to wait for the waiting jobs.
            last: a final job, queued whatever the number of waiting ones.
        """
        if last is not None and not self._stopping.is_set():
            self._waiting.put((last,))
        self._stopping.set()
        self._waiting.put(None)
        # A store that has only ever refused is not worth a long wait at the end of a search.
        patience = min(seconds, 5.0) if self._error is not None and not self.ready else seconds
        self._thread.join(patience)
        if self._thread.is_alive():
            self._abandoned.set()
            # The job at hand is lost too, if there is one.
            self._dropped += self._left() + int(self.ready)
        return not self._thread.is_alive() and self.lost == 0

    def _left(self) -> int:
        with self._waiting.mutex:
            return len(self._current) + sum(len(jobs) for jobs in self._waiting.queue if jobs is not None)

    def _run(self) -> None:
        if not self._get_ready():
            self._failed += self._left()
            return
        while not self._abandoned.is_set():
            jobs = self._waiting.get()
            if jobs is None:
                return
            self._current.extend(jobs)
            while self._current and not self._abandoned.is_set():
                self._write(self._current.popleft())

    def _get_ready(self) -> bool:
        pause = 1.0
        while True:
            final = self._stopping.is_set()
            if self._try(self._prepare):
                self._ready.set()
                return True
            if final or self._abandoned.is_set():
                return False
            self._stopping.wait(pause)
            pause = min(2 * pause, self._longest_pause)

    def _write(self, job: Job) -> None:
        pauses = self._pauses[:_IMPATIENT] if self._gone else self._pauses
        for pause in (*pauses, None):
            if self._try(job):
                self._gone = False
                return
            if pause is None or self._abandoned.wait(pause):
                break
        self._gone = True
        self._failed += 1

    def _try(self, job: Job) -> bool:
        try:
            job()
        except Exception as error:  # whatever a store raises must not reach the search
            self._error = " ".join(str(error).split())[:300] or type(error).__name__
            return False
        return True
