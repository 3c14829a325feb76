"""What each command does: check, import what is heavy, call, show."""

from __future__ import annotations

import errno
import platform
import shlex
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoprune.cli.serving import serve
from autoprune.cli.work import driven, shown
from autoprune.config.layout import saved_folder
from autoprune.core.versions import version_of
from autoprune.errors import AutopruneError, ConfigError, RunError, nearest

if TYPE_CHECKING:
    from autoprune.report.observer import Observer
    from autoprune.searching.inputs.options import SearchOptions
    from autoprune.searching.search.api import SearchResult

SPLITS = ("test", "holdout", "train")
#: Verified cuts may differ from masks by this much: float32 sums in another order.
MASK_TOLERANCE = 1e-3

_STACK = ("torch", "torchvision", "numpy", "ray", "optuna", "pymoo", "mlflow", "scikit-learn")


def search(given: Mapping[str, Any], *, experiment: str | None, as_json: bool) -> int:
    """Searches, shows the result and returns the exit code."""
    from autoprune.config.experiment import load_experiment
    from autoprune.config.options import default_run_folder
    from autoprune.searching.inputs.options import SearchOptions

    settings = _checked(given, from_file=load_experiment(experiment) if experiment is not None else None)
    settings.setdefault("out", default_run_folder(settings.get("model")))
    return _run(SearchOptions(**settings), out=settings["out"], as_json=as_json)


def resume(out: Path, *, given: Mapping[str, Any], experiment: str | None, as_json: bool) -> int:
    """Continues the search in a run folder, shows the result and returns the exit code."""
    from autoprune.config.options import OPTIONS, RESUMABLE
    from autoprune.searching.inputs.recorded import resumed_options

    extra = [OPTIONS[name].flag for name in given if name not in RESUMABLE]
    extra += ["--experiment"] if experiment is not None else []
    if extra:
        raise ConfigError(f"--resume takes its options from the folder. Leave out {', '.join(extra)}.")
    changes = {name: value for name, value in _checked(given).items() if name in given}
    return _run(resumed_options(out, changes), out=out, as_json=as_json)


@dataclass(frozen=True, slots=True)
class SpaceTarget:
    """Where `trace` writes a search-space file, and how.

    Attributes:
        file: None writes none.
        multiple_of: step of the widths; None for 1.
        overwrite: whether a file that is there is replaced.
    """

    file: Path | None
    multiple_of: int | None = None
    overwrite: bool = False

    def check(self, given: Mapping[str, Any]) -> None:
        """Raises ConfigError where the file cannot be written or the other options do not go with it."""
        if self.file is None:
            if self.multiple_of is not None or self.overwrite:
                raise ConfigError(
                    "--multiple-of and --overwrite are about the file of --write. Name one, or leave them."
                )
            return
        if self.multiple_of is not None and self.multiple_of < 1:
            raise ConfigError(f"--multiple-of is {self.multiple_of}, but must be at least 1.")
        if "search_space" in given:
            raise ConfigError("--write starts a search space of its own. Leave --search-space out.")
        if self.file.is_dir() or not self.file.parent.is_dir():
            raise ConfigError(f"Cannot write the search space to {str(self.file)!r}: it is a folder, or in none.")
        if self.file.exists() and not self.overwrite:
            raise ConfigError(
                f"{str(self.file)!r} is there already. Name another file, or replace it with --overwrite."
            )


def trace(given: Mapping[str, Any], *, verify: bool, target: SpaceTarget, as_json: bool) -> int:
    """Shows what can be cut; returns 1 where `verify` finds the tracing wrong."""
    if "model" not in given:
        raise ConfigError("Which network? Name one, such as cifar/resnet20-b, or a whole family with --all.")
    target.check(given)
    settings = _checked(given)
    from autoprune.cli.render import show_trace
    from autoprune.searching.inputs.options import SearchOptions
    from autoprune.searching.inspection.networks import search_space_of, trace_report

    report = trace_report(SearchOptions(**settings), verify=verify)
    if target.file is not None:
        from autoprune.core.files import atomic_write_text

        atomic_write_text(target.file, search_space_of(report, multiple_of=target.multiple_of or 1))
        report = {**report, "written": str(target.file)}
    shown(report, show_trace, as_json=as_json)
    verified = report.get("verified") or {}
    deviation, equal = verified.get("mask_equivalence"), verified.get("cost_equality")
    wrong = equal is False or (deviation is not None and not deviation <= MASK_TOLERANCE)
    return 1 if wrong else 0


def cost(given: Mapping[str, Any], widths: Path, *, convention: str | None, as_json: bool) -> int:
    """Shows what a network with other widths costs."""
    settings = _checked(given)
    if not widths.is_file():
        what = "is not a file" if widths.exists() else "does not exist"
        raise ConfigError(f"The widths file {str(widths)!r} {what}. Name a JSON file with --widths.")
    from autoprune.cli.render import show_cost
    from autoprune.searching.inspection.networks import cost_report

    where = {"data": settings.get("data"), "data_root": settings.get("data_root")}
    report = cost_report(settings["model"], widths, **where, convention=convention)
    return shown(report, show_cost, as_json=as_json)


def evaluate(directory: Path, *, given: Mapping[str, Any], split: str, as_json: bool) -> int:
    """Measures a saved network and shows the scores."""
    if split not in SPLITS:
        raise ConfigError(f"Unknown split {split!r}.{nearest(split, SPLITS)}")
    saved = saved_folder(directory)
    settings = _checked(given)
    from autoprune.cli.render import show_evaluation
    from autoprune.searching.inspection.networks import evaluate_saved

    named = {name: settings.get(name) for name in ("data", "data_root", "task", "device")}
    report = evaluate_saved(saved, **named, split=split)
    return shown({"split": split, **report}, show_evaluation, as_json=as_json)


def ui(run: Path, *, port: int, tracking_uri: str | None) -> int:
    """Serves MLflow's web page on 127.0.0.1 until Ctrl-C; a server that fails is a `RunError`, hence exit code 2."""
    from autoprune.tracking.ui import ui_command, ui_environment
    from autoprune.tracking.uris import is_server, mask_uri

    store = tracking_uri or _recorded_store(run) or _default_store(run)
    if is_server(store):
        print(f"The searches are on a server: {mask_uri(store)}")
        return 0
    command = ui_command(store, host="127.0.0.1", port=port)
    _require_free(port)
    print(f"MLflow: {_page(run, f'http://127.0.0.1:{port}')} (in a few seconds; Ctrl-C stops it)", flush=True)
    serve(command, ui_environment(store))
    return 0


def print_version(*, as_json: bool) -> int:
    """Prints the version; as JSON with the versions of what autoprune stands on."""
    versions = {"python": platform.python_version(), **{name: version_of(name) for name in ("autoprune", *_STACK)}}
    return shown(versions, _show_version, as_json=as_json)


def _show_version(versions: Mapping[str, str | None]) -> None:
    print(f"autoprune {versions['autoprune'] or 'unknown'} (Python {versions['python']})")


def _checked(given: Mapping[str, Any], *, from_file: Mapping[str, Any] | None = None) -> dict[str, Any]:
    from autoprune.config.options import check_options
    from autoprune.strategies import strategy_names

    return check_options(given, strategies=strategy_names(), from_file=from_file)


def _run(options: SearchOptions, *, out: Path, as_json: bool) -> int:
    """Runs a search to its end or interruption, and shows what it found or how to go on."""
    from autoprune.cli.quiet import DEBUG_VARIABLE, debugging
    from autoprune.searching.inputs.run_folder import RunFolder

    def start(observer: Observer) -> SearchResult:
        from autoprune.searching.search.api import run_search

        return run_search(options, observer=observer)

    try:
        result = driven(start, candidates=options.candidates, time_limit=options.time_limit)
    except (KeyboardInterrupt, Exception) as error:
        # Whatever was evaluated is in the ledger, also after a bug. A `RunError` says itself what is wrong with it,
        # unless it only tells of a full disk.
        about_ledger = isinstance(error, RunError) and not _is_full(error)
        if RunFolder(out).has_outcomes() and not about_ledger and "--resume" not in str(error):
            error.add_note(_how_to_resume(out))
        raise
    from autoprune.cli.render import show_summary

    shown(result.summary, show_summary, as_json=as_json)
    if result.summary.get("interrupted"):
        print(f"autoprune: stopped. {_how_to_resume(result.out)}", file=sys.stderr)
        return 130
    try:
        result.require_found()
    except RunError as error:
        if not debugging():
            error.add_note(f"{DEBUG_VARIABLE}=1 with --backend serial shows where candidates failed.")
        raise
    return 0


def _is_full(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _how_to_resume(out: Path) -> str:
    return f"What was evaluated is kept; continue with: autoprune search --resume {shlex.quote(str(out))}"


def _tracking(run: Path) -> Mapping[str, Any]:
    from autoprune.searching.inputs.run_folder import RunFolder

    try:
        tracking = RunFolder(run).summary().get("tracking")
    except RunError:
        return {}
    return tracking if isinstance(tracking, dict) else {}


def _recorded_store(run: Path) -> str | None:
    """Returns the store that a summary names; a file only if it exists, for a summary is no reason to make one."""
    from autoprune.tracking.uris import MASK, is_server, place_on_disk

    uri = _tracking(run).get("uri")
    if not isinstance(uri, str) or not uri.isprintable():
        return None
    if MASK in uri and not is_server(uri):
        raise ConfigError("The password of the MLflow store is not written down. Name the store with --tracking-uri.")
    place = place_on_disk(uri)
    return uri if place is None or place.exists() else None


def _default_store(run: Path) -> str:
    from autoprune.tracking.uris import default_store, store_file

    for folder in (run, run.resolve().parent):
        store = default_store(folder)
        file = store_file(store)
        if file is not None and file.is_file():
            return store
    raise ConfigError(
        f"There is no MLflow store in or beside {str(run)!r}. Search first, or name the store with --tracking-uri."
    )


def _page(run: Path, base: str) -> str:
    """Returns the address of the search's charts, or of the whole store where the run does not say where it is."""
    from autoprune.tracking.ui import RunLocation

    recorded = _tracking(run)
    if "experiment_id" not in recorded or "run_id" not in recorded:
        return base
    location = RunLocation(str(recorded["experiment_id"]), str(recorded["run_id"]), recorded.get("view_id"))
    return location.view_link(base)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise AutopruneError(f"Port {port} on 127.0.0.1 is taken. Give another one with --port.") from error
