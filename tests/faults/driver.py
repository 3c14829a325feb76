"""Runs searches of the toy problem and does them harm; prints one JSON line for each.

    python driver.py FOLDER COUNT SEED

Every search runs in a process of its own, forked from this one, which has imported everything and prepared the search
once: a fresh interpreter for each would take seconds. The harm is done at a random call of `os.write` (ledger, lock),
`os.fsync` or `os.replace`; each search is then resumed and compared with an undisturbed one.
"""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "searching"))

import torch

from autoprune.errors import AutopruneError
from autoprune.report.observer import NullObserver
from autoprune.searching.delivery import pruning
from autoprune.searching.inputs.options import SearchOptions
from autoprune.searching.inputs.problems import load_problem
from autoprune.searching.search import finish, running
from autoprune.searching.search.api import resume_search, run_search
from autoprune.searching.search.preparation import prepare

CALLS = ("write", "fsync", "replace")
#: kill: before, within or after the call. full: no room from the call on. limit: no file may grow beyond some bytes.
#: ctrl-c: once or twice at the call. clock: from the call on, the clock of the day is a day behind, then one ahead.
HARMS = ("kill before", "kill within", "kill after", "full", "limit", "ctrl-c", "ctrl-c twice", "clock")
UNLIKE = (
    "workers",
    "seconds",
    "search_seconds",
    "utilisation",
    "overhead_seconds",
    "folder",
    "command",
    "check",
    "worker",
)
REFUSED, STOPPED = 3, 130
DAY = 86_400.0


def options(out):
    return SearchOptions(
        model="toy_problem:network",
        data="toy_problem:sets",
        candidates=5,
        finetune_epochs=0.0,
        backend="serial",
        no_mlflow=True,
        out=out,
    )


def harm(kind, number):
    """Lets the `number`-th of the watched calls go wrong; returns a list that grows with every call."""
    made = []
    for name in CALLS:
        setattr(os, name, _watched(getattr(os, name), kind, number, made))
    return made


def _watched(call, kind, number, made):
    clock = time.time

    def watched(*arguments):
        made.append(call.__name__)
        if kind is None or len(made) < number or (kind not in ("full", "clock") and len(made) > number):
            return call(*arguments)
        if kind == "clock":
            time.time = lambda: clock() + (DAY if len(made) % 2 else -DAY)
            return call(*arguments)
        if kind.startswith("ctrl-c"):
            for _ in kind.split():
                os.kill(os.getpid(), signal.SIGINT)
            return call(*arguments)
        if kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if kind == "kill within" and call.__name__ == "write":
            call(arguments[0], arguments[1][: len(arguments[1]) // 2])
        if kind == "kill after":
            call(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    return watched


def in_a_process(work):
    """Returns the exit code of a forked process that does `work`, minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except AutopruneError as error:
            print(f"    {error}", file=sys.stderr)
            code = REFUSED
        except KeyboardInterrupt:
            code = STOPPED
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def ledger(out):
    """Returns what a ledger says, without what differs between equal searches."""
    try:
        lines = (out / "ledger.jsonl").read_bytes().split(b"\n")[1:-1]
    except FileNotFoundError:
        return []
    return [without(json.loads(line)) for line in lines]


def without(values):
    return {key: value for key, value in values.items() if key not in UNLIKE}


def told(events):
    return [(event["id"], event["level"]) for event in events if event["event"] == "told"]


def summary(out):
    return without(json.loads((out / "summary.json").read_text()))


def started_or_resumed(out):
    """Goes on with a search; starts one that was killed before its ledger had a line, as a person would."""
    path = out / "ledger.jsonl"
    if path.is_file() and b"\n" in path.read_bytes():
        resume_search(out, observer=NullObserver())
    else:
        run_search(options(out), observer=NullObserver())


def harmed(out, kind, number, whole):
    def search():
        if kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
        else:
            harm(kind, number)
        started_or_resumed(out)

    code = in_a_process(search)
    before = ledger(out)
    again = in_a_process(lambda: started_or_resumed(out))
    after = ledger(out)
    return {
        "harm": kind,
        "at": number,
        "code": code,
        "resumed": again,
        "told before": len(told(before)),
        "lost": sum(event not in after for event in before),
        "twice": len(told(after)) - len(set(told(after))),
        "same ledger": after == ledger(whole),
        "same summary": again == 0 and summary(out) == summary(whole),
        "left over": sorted(path.name for path in out.rglob("*") if path.name.endswith(".tmp") or path.name == ".lock"),
    }


def main():
    folder, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    for module in (running, pruning, finish):
        if hasattr(module, "usable_cores"):
            module.usable_cores = lambda: 1
    os.chdir(folder)
    whole = Path("whole")
    prepared = prepare(load_problem(options(whole), NullObserver()), options(whole), NullObserver())
    running.prepare = lambda problem, asked, observer, **_: replace(prepared, options=asked)

    # In this process, so that every forked one finds all modules imported and torch warmed up.
    usual = {name: getattr(os, name) for name in CALLS}
    calls = harm(None, 0)
    run_search(options(whole), observer=NullObserver())
    for name, call in usual.items():
        setattr(os, name, call)
    calls, size = len(calls), (whole / "ledger.jsonl").stat().st_size
    draw = random.Random(seed)
    for index in range(count):
        kind = HARMS[index % len(HARMS)]
        number = draw.randint(1, size) if kind == "limit" else draw.randint(1, calls)
        print(json.dumps(harmed(Path(f"run-{index}"), kind, number, whole)), flush=True)


if __name__ == "__main__":
    main()
